/*
 * Requests for roots: set, compare and set, look up, list; and the right to make one.
 *
 * Called by requests.c. Calls roots (the table), making (who makes what) and session (whose a root is). To look roots
 * up needs no session; to change them needs one that may write.
 *
 * One makes a root, the others wait. A session asks by RootReserve; the answer says that the root is there, or is being
 * made, or is the session's to make. It then allocates the object, names it (root_announce), initialises it, and makes
 * it the root (root_finish), all in its own time: the daemon waits for nobody, and holds nobody's request. The right to
 * finish is looked at when it is used: it has gone if somebody has set the root meanwhile, or if making.c has no valid
 * reservation. A reservation whose session is lost, ending or gone ends when somebody else asks for the name.
 *
 * A client may lie about names, sizes and objects: what it says is its own root's size and tag, an object of its own is
 * freed when it ends, and what it never finishes counts towards the limits of making.c.
 */
#include "daemon/serve/request_root.h"

#include <errno.h>
#include <string.h>

#include "daemon/serve/holdings.h"

#define LIST_ROOTS_MAX 128u

static const answer root_answers[] = {
    [0] = { 0, NULL },
    [ROOTS_E_EMPTY] = { EINVAL, "the root's name is empty" },
    [ROOTS_E_TOO_LONG] = { ENAMETOOLONG, "the root's name is longer than " SHM_TEXT(SHM_ROOT_NAME_MAX) " bytes" },
    [ROOTS_E_NOT_UTF8] = { EILSEQ, "the root's name is not UTF-8" },
    [ROOTS_E_NO_SUCH] = { ENOENT, "no root of that name" },
    [ROOTS_E_FULL] = { ENOSPC, "there are " SHM_TEXT(SHM_ROOTS_MAX) " roots already" },
    [ROOTS_E_NOT_LIVE] = { EINVAL, "a root must point into a live object" },
    [ROOTS_E_ANOTHER] = { EEXIST, "the root is not what was expected" },
};

static const answer making_answers[] = {
    [0] = { 0, NULL },
    [MAKING_E_SESSION_FULL] = { EDQUOT, "the session makes " SHM_TEXT(SHM_MAKING_MAX) " roots already" },
    [MAKING_E_UID_FULL] = { EDQUOT, "that user's sessions make too many roots at the same time" },
    [MAKING_E_FULL] = { ENOSPC, "too many roots are being made" },
};

static const answer answer_void = { ECANCELED, "the right to make that root has ended" };

static const answer answer_not_owner = { EPERM, "the root is another user's, who alone may change it (goallocd "
                                                "--root-owner)" };

static root_name name_of(ProtobufCBinaryData data)
{
    return (root_name){ data.data, data.len };
}

/* What a session sets a root to. */
static root_value value_of(const session *s, uint64_t offset, uint32_t ticket)
{
    return (root_value){ .offset = offset,
                         .session = s->lessee.no,
                         .epoch = s->lessee.epoch,
                         .ticket = ticket,
                         .owner = root_owner(s->uid) };
}

/* --- roots --- */

/* True if a request with that ticket was carried out and has come again: its reply was lost. */
static bool has_been_done(const client *c, const session *s, uint32_t ticket)
{
    return roots_has_done(client_service(c)->roots, s->lessee.no, s->lessee.epoch, ticket);
}

/*
 * True if the session may set, remove or initialise again what that name stands for: with --root-owner, its own user's
 * roots, those that nobody has made, and those whose object is gone. Who may control may do it to all.
 */
static bool may_change(client *c, const session *s, root_name name)
{
    root_value value;

    if (!client_service(c)->access->root_owner || roots_get(client_service(c)->roots, name, &value) != 0)
        return true;
    return value.owner == 0 || value.owner == root_owner(s->uid) || service_may_control(&c->peer);
}

/* ANSWER_DONE if a root of that name is there, or the user may have one more. */
static answer may_add(client *c, const session *s, root_name name)
{
    service *srv = client_service(c);
    root_value there;

    if (s->user->privileged || roots_get(srv->roots, name, &there) != ROOTS_E_NO_SUCH ||
        holdings_allow(srv, s->user, LIMIT_UID_ROOTS))
        return ANSWER_DONE;
    return service_refuse(c, LIMIT_UID_ROOTS, s->user->bound[LIMIT_UID_ROOTS],
                          srv->users.limits->max[LIMIT_UID_ROOTS]);
}

answer handle_root_set(client *c, session *s, const Goallocd__Request *request)
{
    const Goallocd__RootSet *ask = request->root_set;
    root_value value = value_of(s, ask->offset, ask->ticket);
    answer a;

    if (has_been_done(c, s, ask->ticket))
        return ANSWER_DONE;
    if (!may_change(c, s, name_of(ask->name)))
        return answer_not_owner;
    a = ask->offset == 0 ? ANSWER_DONE : may_add(c, s, name_of(ask->name));
    if (a.error != 0)
        return a;
    return root_answers[roots_set(client_service(c)->roots, name_of(ask->name), &value)];
}

answer handle_root_compare_and_set(client *c, session *s, const Goallocd__Request *request)
{
    const Goallocd__RootCompareAndSet *ask = request->root_compare_and_set;
    root_value value = value_of(s, ask->offset, ask->ticket);
    answer a;

    if (has_been_done(c, s, ask->ticket))
        return ANSWER_DONE;
    if (!may_change(c, s, name_of(ask->name)))
        return answer_not_owner;
    a = ask->offset == 0 ? ANSWER_DONE : may_add(c, s, name_of(ask->name));
    if (a.error != 0)
        return a;
    return root_answers[roots_compare_and_set(client_service(c)->roots, name_of(ask->name), ask->expected, &value)];
}

answer handle_root_get(client *c, const Goallocd__Request *request)
{
    Goallocd__RootGetReply body = GOALLOCD__ROOT_GET_REPLY__INIT;
    root_value value;
    int e = roots_get(client_service(c)->roots, name_of(request->root_get->name), &value);

    if (e != 0)
        return root_answers[e];
    body.offset = value.offset;
    return reply_body(&c->peer, request->id, GOALLOCD__REPLY__RESULT_ROOT_GET, &body);
}

/* --- the list --- */

/* Who has set the root: an open session, or one of the last that have ended. NULL: nobody knows any more. */
static const session *setter_of(const session_table *table, const root_value *value)
{
    const session *s = session_find(table, value->session, value->epoch);
    uint64_t nended = table->nended < SESSIONS_ENDED_MAX ? table->nended : SESSIONS_ENDED_MAX;

    for (uint64_t i = 0; s == NULL && value->session.n != 0 && i < nended; i++) {
        if (table->ended[i].lessee.no.n == value->session.n && table->ended[i].lessee.epoch == value->epoch)
            s = &table->ended[i];
    }
    return s;
}

/* The label of another user's session is told to who may control alone. */
static void fill_root(const client *c, bool controls, uint32_t at, Goallocd__Root *ret)
{
    const service *srv = client_service(c);
    root_name name = roots_name_at(srv->roots, at);
    root_value value = roots_value_at(srv->roots, at);
    const session *s = setter_of(&srv->sessions, &value);
    uint64_t room = roots_room(srv->roots, value.offset);

    goallocd__root__init(ret);
    ret->name = (ProtobufCBinaryData){ .len = name.nbytes, .data = (uint8_t *)(uintptr_t)name.bytes };
    ret->offset = value.offset;
    ret->size = value.size != 0 ? value.size : room;
    ret->type_tag = value.type_tag;
    ret->lives = room != 0;
    ret->session = value.session.n;
    ret->epoch = value.epoch;
    ret->open = session_find(&srv->sessions, value.session, value.epoch) != NULL;
    if (s != NULL && (controls || s->uid == c->peer.uid))
        ret->label = (char *)(uintptr_t)s->label;
}

static bool begins_with(root_name name, ProtobufCBinaryData prefix)
{
    return prefix.len <= name.nbytes && (prefix.len == 0 || memcmp(name.bytes, prefix.data, prefix.len) == 0);
}

answer handle_root_list(client *c, const Goallocd__Request *request)
{
    const Goallocd__RootList *ask = request->root_list;
    const service *srv = client_service(c);
    Goallocd__RootListReply body = GOALLOCD__ROOT_LIST_REPLY__INIT;
    Goallocd__Root entries[LIST_ROOTS_MAX];
    Goallocd__Root *pointers[LIST_ROOTS_MAX];
    uint32_t most = ask->most == 0 || ask->most > LIST_ROOTS_MAX ? LIST_ROOTS_MAX : ask->most;
    uint32_t at = roots_next(srv->roots, ask->start);
    uint32_t nremoved = 0;
    bool controls = service_may_control(&c->peer);

    for (; at < SHM_ROOTS_MAX && body.n_roots + nremoved < most; at = roots_next(srv->roots, at + 1)) {
        Goallocd__Root *entry = &entries[body.n_roots];

        if (!begins_with(roots_name_at(srv->roots, at), ask->prefix))
            continue;
        fill_root(c, controls, at, entry);
        if (ask->drop_dead && !entry->lives) {
            roots_remove_at(srv->roots, at);
            nremoved++;
        } else {
            pointers[body.n_roots++] = entry;
        }
    }
    body.roots = pointers;
    body.next = at < SHM_ROOTS_MAX ? at : 0;
    return reply_body(&c->peer, request->id, GOALLOCD__REPLY__RESULT_ROOT_LIST, &body);
}

/* --- making one --- */

/* True if the root is one of that size and type. Of one that was set, not made, the size is what its object has. */
static bool is_as_asked(const roots *r, const root_value *value, const making_request *ask)
{
    if (value->type_tag != (ask->type_tag & ~ROOT_REINIT))
        return false;
    return value->size != 0 ? value->size == ask->size : ask->size <= roots_room(r, value->offset);
}

/* Who makes the root and may finish it. NULL: nobody; what stood in the way is void. */
static making *who_makes(service *srv, root_name name)
{
    making *m = making_find(&srv->making, name);
    const session *s = m == NULL ? NULL : session_find(&srv->sessions, making_session(m), making_epoch(m));

    if (s != NULL && s->state == SHM_SESSION_OPEN)
        return m;
    if (m != NULL)
        making_void(&srv->making, m);
    return NULL;
}

static answer reply_reserve(client *c, uint64_t id, Goallocd__RootState state, uint64_t offset, session_no maker)
{
    Goallocd__RootReserveReply body = GOALLOCD__ROOT_RESERVE_REPLY__INIT;

    body.state = state;
    body.offset = offset;
    body.session = maker.n;
    return reply_body(&c->peer, id, GOALLOCD__REPLY__RESULT_ROOT_RESERVE, &body);
}

/* The root is not there, or (what->there) is to be initialised again: whoever makes it already, or this session. */
static answer reserve(client *c, const session *s, uint64_t id, const making_request *what)
{
    service *srv = client_service(c);
    making *m = who_makes(srv, what->name);
    answer a;
    int e;

    if (s->flags & SESSION_READONLY)
        return (answer){ EROFS, "the session is read-only, and can't make the root" };
    a = may_add(c, s, what->name); /* before it is made: what it takes to make it would be in vain */
    if (a.error != 0)
        return a;
    if (m != NULL && m != making_of(&srv->making, s, what->name, what->ticket))
        return reply_reserve(c, id, GOALLOCD__ROOT_STATE__ROOT_MAKING, 0, making_session(m));
    if (m == NULL) { /* with this ticket it may have begun on a connection that was lost, in vain */
        (void)making_drop(&srv->making, s, what->name, what->ticket);
        e = making_begin(&srv->making, s, what, &m);
        if (e != 0)
            return making_answers[e];
    }
    return reply_reserve(c, id, GOALLOCD__ROOT_STATE__ROOT_YOURS, making_what(m)->there, s->lessee.no);
}

answer handle_root_reserve(client *c, const Goallocd__Request *request)
{
    const Goallocd__RootReserve *ask = request->root_reserve;
    const service *srv = client_service(c);
    const session *s = client_session(c);
    making_request what = { name_of(ask->name), ask->ticket, ask->size, ask->type_tag & ~ROOT_REINIT, 0 };
    root_value value;
    int e;

    if (s == NULL)
        return (answer){ ENOTCONN, "not attached" };
    if (ask->ticket == 0 || ask->size == 0)
        return (answer){ EINVAL, "no ticket, or no size" };
    e = roots_get(srv->roots, what.name, &value);
    if (e != 0 && e != ROOTS_E_NO_SUCH)
        return root_answers[e];
    if (e == 0 && !is_as_asked(srv->roots, &value, &what))
        return (answer){ EMEDIUMTYPE, "the root has another size or type tag" };
    if (e == 0 && ((ask->type_tag & ROOT_REINIT) == 0 || value.generation == srv->heap->map->header->generation))
        return reply_reserve(c, request->id, GOALLOCD__ROOT_STATE__ROOT_THERE, value.offset, (session_no){ 0 });
    if (e == 0 && !may_change(c, s, what.name))
        return answer_not_owner;
    if (e == 0)
        what.there = value.offset;
    return reserve(c, s, request->id, &what);
}

answer handle_root_announce(client *c, session *s, const Goallocd__Request *request)
{
    const Goallocd__RootObject *ask = request->root_announce;
    service *srv = client_service(c);
    making *m = making_of(&srv->making, s, name_of(ask->name), ask->ticket);
    object_ref object;

    if (m == NULL)
        return answer_void;
    if (ask->offset >= srv->heap->map->arena_bytes ||
        object_find(srv->heap->map, srv->heap->map->base + ask->offset, &object) != OBJECT_LIVE)
        return root_answers[ROOTS_E_NOT_LIVE];
    making_set_object(m, ask->offset);
    return ANSWER_DONE;
}

answer handle_root_finish(client *c, session *s, const Goallocd__Request *request)
{
    const Goallocd__RootObject *ask = request->root_finish;
    service *srv = client_service(c);
    making *m = making_of(&srv->making, s, name_of(ask->name), ask->ticket);
    root_value value = value_of(s, ask->offset, ask->ticket);
    root_value there = { .offset = 0 };
    answer a;
    int e;

    if (has_been_done(c, s, ask->ticket))
        return ANSWER_DONE;
    if (m == NULL)
        return answer_void;
    e = roots_get(srv->roots, name_of(ask->name), &there);
    if ((e != 0 && e != ROOTS_E_NO_SUCH) || there.offset != making_what(m)->there) {
        making_void(&srv->making, m);
        return answer_void;
    }
    if (!may_change(c, s, name_of(ask->name)))
        return answer_not_owner;
    if (ask->offset == 0)
        return root_answers[ROOTS_E_NOT_LIVE];
    a = may_add(c, s, name_of(ask->name)); /* many are made at the same time */
    if (a.error != 0)
        return a;
    value.size = making_what(m)->size;
    value.type_tag = making_what(m)->type_tag;
    e = roots_set(srv->roots, name_of(ask->name), &value);
    if (e == 0)
        (void)making_drop(&srv->making, s, name_of(ask->name), ask->ticket);
    return root_answers[e];
}

answer handle_root_give_back(client *c, session *s, const Goallocd__Request *request)
{
    const Goallocd__RootGiveBack *ask = request->root_give_back;
    service *srv = client_service(c);

    if (making_drop(&srv->making, s, name_of(ask->name), ask->ticket))
        roots_wake(srv->roots);
    return ANSWER_DONE;
}
