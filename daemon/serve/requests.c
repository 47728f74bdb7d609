/*
 * Requests: from a message of goallocd.proto to its handler; and the handlers for sessions and objects.
 *
 * Called by peer for every frame, in order for each client. Calls request_lease.c, request_root.c, request_heap.c,
 * request_group.c, request_life.c, request_profile.c, request_collect.c and request_save.c for the other messages,
 * deaths (who watches the process of a session), session, adopt, making, profiling. All heap state is this thread's; no
 * handler blocks.
 *
 * Everything in a request comes from a client: each number is bounded before it is used. What can't be served is
 * answered with an errno and a sentence, which handlers return. What no honest client sends (a span that it doesn't
 * lease, a request without an id) costs it the connection.
 */
#include "daemon/serve/requests.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "daemon/heap/intents.h"
#include "daemon/serve/deaths.h"
#include "daemon/serve/holdings.h"
#include "daemon/serve/leasing.h"
#include "daemon/serve/reload.h"
#include "daemon/serve/request_collect.h"
#include "daemon/serve/request_group.h"
#include "daemon/serve/request_heap.h"
#include "daemon/serve/request_lease.h"
#include "daemon/serve/request_life.h"
#include "daemon/serve/request_limits.h"
#include "daemon/serve/request_profile.h"
#include "daemon/serve/request_root.h"
#include "daemon/serve/request_save.h"
#include "proto/layout.h"
#include "shm/crash.h"
#include "shm/probe.h"

#define LIST_SESSIONS_MAX 128u
#define STOPPING          "this goallocd is stopping: it saves the heap when nobody can write it any more"
#define NO_DESCRIPTORS    "the daemon has no descriptors left for another session"

/* --- sessions --- */

static void say_of_session(enum log_event kind, const session *s, const char *what)
{
    const log_subject subject = session_subject(s);

    log_client_event(kind, &subject, "%s", what);
}

/* What no limit has refused, and not for want of memory: for the log. */
static void note_refused_by(client *c, enum refusal what, const char *why)
{
    const log_subject subject = client_subject(c);

    users_refused_by(&client_service(c)->users, c->peer.user, what, &subject, uv_now(c->peer.host->loop),
                     "refused: %s", why);
}

/* What both kinds of Attach are answered. The session is the client's from now on. */
static Goallocd__AttachReply attached(client *c, const session *s)
{
    const shm_header *header = client_service(c)->heap->map->header;
    Goallocd__AttachReply body = GOALLOCD__ATTACH_REPLY__INIT;
    static Goallocd__Layout layout; /* until the reply is packed */
    shm_version version = heapfile_version(client_service(c)->heap->file);

    service_note_session(c, s);
    body.protocol = GOALLOC_PROTOCOL;
    body.layout = layout_tell(&layout, &version);
    body.generation = header->generation;
    body.session = s->lessee.no.n;
    body.epoch = s->lessee.epoch;
    body.committed = client_service(c)->eager_commit;
    body.daemon_version = (char *)(uintptr_t)GOALLOC_VERSION;
    return body;
}

/*
 * A session that has come back gets a new memfd for its offers, if it has not the one that the daemon has made: another
 * daemon had it, or the reply that brought it was lost. If there is none to be had it goes on without.
 */
static answer reattach_reply(client *c, const Goallocd__Request *request, session *s)
{
    Goallocd__AttachReply body = attached(c, s);
    Goallocd__Reply reply = reply_init(request->id);
    const offers *o = &s->lessee.offers;
    answer sent;
    int fd = -1;

    reply.result_case = GOALLOCD__REPLY__RESULT_ATTACH;
    reply.attach = &body;
    if (!(s->flags & SESSION_READONLY) && (o->shared == NULL || o->id != request->attach->own)) {
        fd = offers_renew(&s->lessee.offers, client_service(c)->heap->map->npages);
        if (fd < 0) {
            const log_subject subject = session_subject(s);

            log_client_warn(&subject, "there is no memfd for its offers: %s", strerror(-fd));
        }
    }
    if (fd >= 0) {
        CRASH_POINT(reattach_after_own);
        sent = service_reply_with_fds(c, &reply, &fd, 1);
        (void)close(fd);
        if (sent.error <= 0)
            return sent;
        offers_end(&s->lessee.offers);
    }
    peer_reply(&c->peer, &reply);
    return ANSWER_GIVEN;
}

static answer refuse_late(client *c, uint64_t id, const char *why);

/* A process comes back to its session with its token. */
static answer reattach(client *c, const Goallocd__Request *request)
{
    const Goallocd__Attach *ask = request->attach;
    service *srv = client_service(c);
    session *s;
    answer a = service_find_session(srv, &(session_claim){ ask->session, ask->epoch, ask->generation, ask->token }, &s);

    if (a.error != 0)
        return a;
    /* Its old connection may be at its end and not have said so yet. */
    service_drop_client(srv, s);
    if (s->lessee.nops > 0) {
        /* Memory is being committed for a request of it: what that leases is settled first. */
        operation_begin_deferred(&c->op, &c->peer, request, &srv->queue, WAIT_SESSION, s->lessee.no.n);
        return ANSWER_GIVEN;
    }
    if (!deaths_watch(srv->deaths, c, s))
        return refuse_late(c, request->id, NO_DESCRIPTORS);
    if (making_void_session(&srv->making, s)) /* what it has begun was void while it was lost */
        roots_wake(srv->roots);
    session_set_state(&srv->sessions, s, SHM_SESSION_OPEN);
    say_of_session(LOG_EVENT_SESSION_BACK, s, "has come back");
    CRASH_POINT(reattach_before_reply);
    return reattach_reply(c, request, s);
}

/* No descriptor, or no room, is left for a session: the peer is told, and gives back its own descriptor. */
static answer refuse_late(client *c, uint64_t id, const char *why)
{
    note_refused_by(c, REFUSAL_TABLE, why);
    reply_answer(&c->peer, id, (answer){ EUSERS, why });
    peer_close(&c->peer);
    return ANSWER_GIVEN;
}

/* True if what the daemon retains for the session is not of the last descriptors. */
static bool has_descriptors(const client *c, const session *s)
{
    int late_fd = c->peer.host->late_fd;

    return s->sign.fd < late_fd && (s->group == NULL || (s->group->sign.fd < late_fd && s->group->door_fd < late_fd));
}

/* What is the session's alone, of the descriptors of an AttachReply; -1: it has none. The others stay the daemon's. */
typedef struct own_fds {
    int sign;
    int offers;
} own_fds;

static void close_own(const own_fds *own)
{
    if (own->sign >= 0)
        (void)close(own->sign);
    if (own->offers >= 0)
        (void)close(own->offers);
}

/* The descriptors for the process that has opened s: ATTACH_FD_*. Returns how many; -errno: the session has none. */
static int attach_fds(client *c, session *s, int fds[ATTACH_NFDS_MAX], own_fds *ret_own)
{
    const heapfile *file = client_service(c)->heap->file;
    bool readonly = s->flags & SESSION_READONLY;
    own_fds own = { .sign = lifesign_fd(&s->sign), .offers = -1 };
    int n = ATTACH_FD_OWN;
    int r = own.sign;

    fds[ATTACH_FD_ARENA] = readonly ? file->arena_ro_fd : file->fds[HEAPFILE_ARENA];
    fds[ATTACH_FD_SPANS] = file->spans_ro_fd;
    fds[ATTACH_FD_BITMAP] = readonly ? file->bitmap_ro_fd : file->fds[HEAPFILE_BITMAP];
    fds[ATTACH_FD_SIGN] = own.sign;
    if (r >= 0 && !readonly)
        r = fds[n++] = own.offers = offers_renew(&s->lessee.offers, client_service(c)->heap->map->npages);
    if (r >= 0 && s->group != NULL)
        r = fds[n++] = group_life_fd(s->group);
    if (r < 0) {
        close_own(&own);
        return r;
    }
    *ret_own = own;
    return n;
}

/* Nobody goes on with the session. */
static void end_detached(client *c, session *s)
{
    s->detached = true;
    session_set_state(&client_service(c)->sessions, s, SHM_SESSION_ENDING);
    service_wake(client_service(c));
}

/* Answer an Attach that has opened s; or, without descriptors, undo that and refuse. */
static answer attach_reply(client *c, uint64_t id, session *s)
{
    service *srv = client_service(c);
    const shm_header *header = srv->heap->map->header;
    Goallocd__Reply reply = reply_init(id);
    Goallocd__AttachReply body;
    int fds[ATTACH_NFDS_MAX];
    const char *why = NO_DESCRIPTORS;
    own_fds own = { -1, -1 };
    int nfds = attach_fds(c, s, fds, &own);
    answer sent;

    if (nfds == -EUSERS)
        why = "processes that have left this group still hold too many of its signs of life, or locks on one";
    if (nfds < 0 || !has_descriptors(c, s) || !deaths_watch(srv->deaths, c, s)) {
        close_own(&own);
        session_forget(&srv->sessions, s);
        service_wake(srv); /* its group may have been founded for it */
        return refuse_late(c, id, why);
    }
    say_of_session(LOG_EVENT_SESSION_OPENED, s, "has attached");
    body = attached(c, s);
    body.token = (ProtobufCBinaryData){ .len = SESSION_TOKEN_BYTES,
                                        .data = srv->heap->file->private->tokens[s->lessee.no.n] };
    body.arena_base = header->base;
    body.arena_bytes = header->arena_bytes;
    body.spans_bytes = header->spans_bytes;
    body.bitmap_bytes = header->bitmap_bytes;
    if (s->group != NULL) {
        body.group = s->group->no.n;
        body.group_token =
            (ProtobufCBinaryData){ .len = SESSION_TOKEN_BYTES,
                                   .data = (uint8_t *)(uintptr_t)group_token(srv->heap->groups, s->group) };
    }
    reply.result_case = GOALLOCD__REPLY__RESULT_ATTACH;
    reply.attach = &body;
    sent = service_reply_with_fds(c, &reply, fds, nfds);
    close_own(&own);
    if (sent.error > 0) { /* its process knows nothing of the session */
        service_forget_client(c);
        c->session = (session_no){ 0 };
        end_detached(c, s);
    }
    return sent;
}

/* The group that the Attach names; NULL: it names none. */
static answer find_group(client *c, const Goallocd__Attach *ask, group **ret)
{
    static const answer errors[] = {
        [0] = { 0, NULL },
        [GROUP_E_TOO_LONG] = { ENAMETOOLONG, "a group's name has at most " SHM_TEXT(SHM_GROUP_NAME_MAX) " bytes" },
        [GROUP_E_NOT_UTF8] = { EILSEQ, "the group's name is not UTF-8" },
        [GROUP_E_MODE] = { EINVAL, "the sessions of that group have another mode: they reclaim, or they don't" },
        [GROUP_E_FULL] = { EUSERS, "there are as many groups as there can be" },
        [GROUP_E_UID_FULL] = { EDQUOT, "this user has founded as many groups as it may" },
        [GROUP_E_NO_MEMORY] = { ENOMEM, "the daemon has no memory for another group" },
        [GROUP_E_NO_RANDOM] = { EIO, "the system gives the daemon no random numbers" },
        [GROUP_E_NO_SIGN] = { EUSERS, "the daemon has no descriptors left for another group, or can't keep them" },
    };
    const group_request wanted = { .name = ask->group.data,
                                   .name_bytes = ask->group.len,
                                   .uid = c->peer.uid,
                                   .flags = ask->flags,
                                   .number = ask->parent_group,
                                   .token = ask->group_token.data,
                                   .token_bytes = ask->group_token.len };

    return errors[group_find_or_found(client_service(c)->heap->groups, &wanted, ret)];
}

/* The user is looked at when a session is opened; who comes back to one shows its token. */
static answer may_attach(const client *c, const Goallocd__Attach *ask)
{
    unsigned rights = access_of(client_service(c)->access, peer_fd(&c->peer));

    if (rights & (ask->flags & SESSION_READONLY ? ACCESS_READ : ACCESS_WRITE))
        return ANSWER_DONE;
    if (rights & ACCESS_READ)
        return (answer){ EACCES, "this user may attach read-only alone (goallocd --allow-uid, --allow-gid)" };
    return (answer){ EACCES, "this user may not attach to the heap (goallocd --allow-uid, --allow-gid)" };
}

/* Whether the heap's layout is one that the client's library knows. */
static answer check_layout(const service *srv, const Goallocd__Attach *ask)
{
    static char why[VERSION_TEXT_BYTES]; /* until the answer is packed */
    enum version_use use = ask->flags & SESSION_READONLY ? VERSION_READS : VERSION_WRITES;
    shm_version heap = heapfile_version(srv->heap->file);
    shm_version knows = layout_heard(ask->layout);

    if (version_check(&heap, &knows, use) == 0)
        return ANSWER_DONE;
    return (answer){ ENOEXEC, version_explain(why, sizeof(why), &heap, &knows, use, "this libgoalloc") };
}

/* A session that samples asks for the region soon: it may be there by then. If there can't be one, it is told then. */
static void begin_profile(service *srv, const session *s)
{
    if (profile_word_unpack(s->profile).rate != 0)
        (void)(profiling_need(&srv->profiling) < 0);
}

static answer handle_attach(client *c, const Goallocd__Request *request)
{
    static const answer open_errors[] = {
        [SESSION_E_NO_ENTRY] = { EUSERS, "there are as many sessions as there can be" },
        [SESSION_E_NO_MEMORY] = { ENOMEM, "the daemon has no memory for another session" },
        [SESSION_E_NO_RANDOM] = { EIO, "the system gives the daemon no random numbers" },
        [SESSION_E_NO_SIGN] = { EUSERS, NO_DESCRIPTORS },
        [SESSION_E_NO_SHELF] = { EUSERS, "the daemon can't keep another session's sign of life for the next daemon: "
                                         "its user has too many descriptors on their way in sockets" },
    };
    const Goallocd__Attach *ask = request->attach;
    service *srv = client_service(c);
    session_request wanted = { .flags = ask->flags, .pid = c->peer.pid, .uid = c->peer.uid,
                               .asked_bytes = ask->limit_bytes, .label = ask->label,
                               .knows = layout_heard(ask->layout) };
    session *s;
    enum limit why;
    answer a;
    int e;

    if (ask->protocol != GOALLOC_PROTOCOL)
        return (answer){ EPROTONOSUPPORT, "this daemon speaks another version of the protocol" };
    a = check_layout(srv, ask);
    if (a.error != 0)
        return a;
    if (ask->flags & ~(SESSION_RECLAIM | SESSION_READONLY))
        return (answer){ EINVAL, "unknown flags" };
    if (c->session.n != 0 || c->subscriber.peer != NULL)
        return (answer){ EALREADY, "this connection is attached already" };
    if (c->peer.late)
        return refuse_late(c, request->id, NO_DESCRIPTORS);
    if (ask->token.len != 0)
        return reattach(c, request);
    a = may_attach(c, ask);
    if (a.error != 0)
        return a;
    if (srv->ending && !(ask->flags & SESSION_READONLY))
        return (answer){ ESHUTDOWN, STOPPING };
    why = session_forbidden_by(&srv->sessions, c->peer.user);
    if (why != LIMITS)
        return service_refuse(c, why, 0, 0);
    a = find_group(c, ask, &wanted.group);
    if (a.error != 0)
        return a;
    if (srv->ending && wanted.group != NULL && wanted.group->writes) /* it would keep that from ending */
        return (answer){ ESHUTDOWN, STOPPING };
    if (!(ask->flags & SESSION_READONLY))
        wanted.profile = profiling_word(&srv->profiling, ask->profile_bytes, wanted.group);
    e = session_open(&srv->sessions, &wanted, &s);
    if (e == 0) {
        begin_profile(srv, s);
        return attach_reply(c, request->id, s);
    }
    service_wake(srv); /* a group that was founded for it ends */
    return open_errors[e];
}

static answer handle_detach(client *c, const Goallocd__Request *request)
{
    session *s = client_session(c);

    if (s == NULL)
        return (answer){ ENOTCONN, "not attached" };
    operation_begin(&c->op, &c->peer, request, OPERATION_ENDING);
    end_detached(c, s);
    return ANSWER_GIVEN;
}

static answer handle_set_label(client *c, const Goallocd__Request *request)
{
    session *s = client_session(c);

    if (s == NULL)
        return (answer){ ENOTCONN, "not attached" };
    session_set_label(&client_service(c)->sessions, s, request->set_label->label);
    return ANSWER_DONE;
}

/* Numbers above those of the table are sessions that have ended, the last one first. NULL: nobody has that number. */
static const session *session_listed(const session_table *table, uint32_t no)
{
    uint32_t back = no - SHM_SESSIONS_MAX;

    if (no < SHM_SESSIONS_MAX)
        return session_at(table, no);
    return back < table->nended ? &table->ended[(table->nended - 1 - back) % SESSIONS_ENDED_MAX] : NULL;
}

static void fill_session(const session *s, live_sum left, Goallocd__SessionInfo *ret)
{
    goallocd__session_info__init(ret);
    ret->session = s->lessee.no.n;
    ret->epoch = s->lessee.epoch;
    ret->pid = s->pid;
    ret->uid = s->uid;
    ret->flags = s->flags;
    ret->state = (uint32_t)s->state;
    ret->label = (char *)(uintptr_t)s->label;
    ret->held_bytes = s->lessee.nheld_pages * PAGE_BYTES;
    ret->leased_spans = s->lessee.leased.count;
    ret->limit_bytes = s->lessee.limit_pages * PAGE_BYTES;
    ret->rpcs = s->nrpcs;
    ret->left_objects = left.objects;
    ret->left_bytes = left.bytes;
    ret->group = (char *)(uintptr_t)s->group_name;
    ret->group_uid = s->group_uid;
    ret->live_objects = s->counted.live.objects;
    ret->live_bytes = s->counted.live.bytes;
    ret->idle_bytes = s->counted.nidle_pages * PAGE_BYTES;
    ret->refills = s->nrefills;
    ret->age_ms = session_age_ms(s);
    ret->profile_bytes = profile_word_unpack(s->profile).rate;
}

/* What is not for others to know. */
static void hide_session(Goallocd__SessionInfo *info)
{
    info->pid = 0;
    info->label = (char *)(uintptr_t)"";
}

/* Answer with the sessions from number `no` on, up to `end`. */
static answer list_sessions(peer *p, uint64_t id, uint32_t no, uint32_t end)
{
    const session_table *table = &client_service(client_of(p))->sessions;
    bool controls = service_may_control(p);
    Goallocd__SessionListReply body = GOALLOCD__SESSION_LIST_REPLY__INIT;
    Goallocd__SessionInfo infos[LIST_SESSIONS_MAX];
    Goallocd__SessionInfo *pointers[LIST_SESSIONS_MAX];

    for (; no < end && body.n_sessions < LIST_SESSIONS_MAX; no++) {
        const session *s = session_listed(table, no);

        if (s == NULL)
            continue;
        fill_session(s, left_of(table->leases.heap->left, s->lessee.left), &infos[body.n_sessions]);
        if (!controls && s->uid != p->uid)
            hide_session(&infos[body.n_sessions]);
        pointers[body.n_sessions] = &infos[body.n_sessions];
        body.n_sessions++;
    }
    body.sessions = pointers;
    body.next = no < end ? no : 0;
    return reply_body(p, id, GOALLOCD__REPLY__RESULT_SESSION_LIST, &body);
}

static void session_list_counted(operation *op)
{
    (void)list_sessions(op->peer, op->id, op->start, SHM_SESSIONS_MAX + SESSIONS_ENDED_MAX);
}

static answer handle_session_list(client *c, const Goallocd__Request *request)
{
    if (request->session_list->live)
        return list_sessions(&c->peer, request->id, request->session_list->start, SHM_SESSIONS_MAX);
    c->op.start = request->session_list->start;
    return service_wait(c, request, ROUND_SESSIONS, session_list_counted);
}

/* --- ownership --- */

/* The live object at offset. */
static answer find_object(const client *c, uint64_t offset, object_ref *ret)
{
    const shm_map *map = client_service(c)->heap->map;
    enum object_verdict verdict =
        offset >= map->arena_bytes ? OBJECT_FOREIGN : object_find(map, map->base + offset, ret);

    if (verdict == OBJECT_LIVE)
        return ANSWER_DONE;
    return verdict == OBJECT_FREE ? (answer){ EALREADY, "the object is free" }
                                  : (answer){ EINVAL, "not the address of an object" };
}

/* An object becomes the heap's: not in the adoption table, and with its kept bit set if its span has an owner. */
static void object_publish(mheap *heap, const object_ref *object)
{
    if (u32_load_relaxed(&shm_span_at(heap->map, object->first)->owner) != 0) {
        adopt_ensure_kept(heap->map, object->first);
        metabook_note_kept(&heap->book, object->first);
        (void)u64_fetch_or_acq_rel(shm_kept_word(heap->map, object->first, object->word), object->bit);
    }
    adopt_clear(heap->adopted, object->offset);
}

/* An object is no longer adopted, and has no kept bit. */
static void object_unkeep(mheap *heap, const object_ref *object)
{
    if (span_has_kept(shm_span_at(heap->map, object->first)))
        (void)u64_fetch_and_acq_rel(shm_kept_word(heap->map, object->first, object->word), ~object->bit);
    adopt_clear(heap->adopted, object->offset);
}

static answer handle_adopt(client *c, session *s, const Goallocd__Request *request)
{
    service *srv = client_service(c);
    mheap *heap = srv->heap;
    user *who = holdings_adopter(srv, s);
    object_ref object;
    answer a = find_object(c, request->adopt->offset, &object);

    if (a.error != 0)
        return a;
    if (!(s->flags & SESSION_RECLAIM)) {
        object_publish(heap, &object);
    } else if (u32_load_relaxed(&shm_span_at(heap->map, object.first)->owner) == s->lessee.owner.n) {
        object_unkeep(heap, &object);
    } else if (who == NULL || !holdings_allow(srv, who, LIMIT_UID_ADOPTIONS)) {
        return who == NULL ? (answer){ ENOMEM, "the daemon has no memory for an account" }
                           : service_refuse(c, LIMIT_UID_ADOPTIONS, who->bound[LIMIT_UID_ADOPTIONS],
                                            srv->users.limits->max[LIMIT_UID_ADOPTIONS]);
    } else if (adopt_set(heap->adopted, &object, s->lessee.owner,
                         s->group != NULL ? s->group->epoch : s->lessee.epoch) != 0) {
        return (answer){ EDQUOT, "the session, or its group, has adopted too many objects" };
    } else if (!object_is_live(heap->map, &object)) {
        /* It has been freed meanwhile, perhaps by someone who could not see yet that its kept bit has to go too. */
        object_unkeep(heap, &object);
        return (answer){ EALREADY, "the object is free" };
    }
    metabook_note_kept(&heap->book, object.first);
    return ANSWER_DONE;
}

/*
 * While the owner's session ends, an object is either still as it was, and its kept bit makes the end leave it there;
 * or it has been freed, and find_object() says so. Both happen in this thread, a span at a time.
 */
static answer handle_publish(client *c, session *s, const Goallocd__Request *request)
{
    object_ref object;
    answer a = find_object(c, request->publish->offset, &object);

    (void)s;
    if (a.error == 0)
        object_publish(client_service(c)->heap, &object);
    return a;
}

/*
 * Somebody waits for what threads of a session were at. Its sign of life tells at once that its process is dead, before
 * its socket or its pidfd do; if it lives, the client comes again. A number that no session has is one of a forged
 * hold.
 */
static answer handle_settle(client *c, session *s, const Goallocd__Request *request)
{
    service *srv = client_service(c);
    uint32_t no = request->settle->session;
    const session *other = no < SHM_SESSIONS_MAX ? session_at(&srv->sessions, no) : NULL;

    (void)s;
    if (no == 0 || no >= SHM_SESSIONS_MAX)
        return (answer){ EINVAL, "no session has that number" };
    if (other == NULL || !deaths_process_lives(srv->deaths, other))
        intents_settle(&srv->sessions.leases, (session_no){ (uint16_t)no });
    return ANSWER_DONE;
}

/* --- from message to handler --- */

/* What others than root, the daemon's user and the control group are answered. */
#define CONTROL(what) "only root, the daemon's user and the control group may " what

/* A request that changes the heap has a handler that is given the client's session: open, and not read-only. */
static const struct {
    answer (*handle)(client *c, const Goallocd__Request *request);
    answer (*change)(client *c, session *s, const Goallocd__Request *request);
    bool needs_no_id;
    const char *control; /* for who may control alone: what others are answered. NULL: it is cheap, and for all */
} handlers[] = {
    [GOALLOCD__REQUEST__OP_ATTACH] = { .handle = handle_attach },
    [GOALLOCD__REQUEST__OP_DETACH] = { .handle = handle_detach },
    [GOALLOCD__REQUEST__OP_REFILL] = { .change = handle_refill },
    [GOALLOCD__REQUEST__OP_RETURN_SPANS] = { .change = handle_return, .needs_no_id = true },
    [GOALLOCD__REQUEST__OP_ALLOC_LARGE] = { .change = handle_alloc_large },
    [GOALLOCD__REQUEST__OP_FREE_LARGE] = { .change = handle_free_large, .needs_no_id = true },
    [GOALLOCD__REQUEST__OP_RESIZE_LARGE] = { .change = handle_resize_large },
    [GOALLOCD__REQUEST__OP_LEASE_LIST] = { .change = handle_lease_list },
    [GOALLOCD__REQUEST__OP_ADOPT] = { .change = handle_adopt },
    [GOALLOCD__REQUEST__OP_PUBLISH] = { .change = handle_publish },
    [GOALLOCD__REQUEST__OP_SETTLE] = { .change = handle_settle },
    [GOALLOCD__REQUEST__OP_ROOT_SET] = { .change = handle_root_set },
    [GOALLOCD__REQUEST__OP_ROOT_GET] = { .handle = handle_root_get },
    [GOALLOCD__REQUEST__OP_ROOT_LIST] = { .handle = handle_root_list },
    [GOALLOCD__REQUEST__OP_ROOT_RESERVE] = { .handle = handle_root_reserve },
    [GOALLOCD__REQUEST__OP_ROOT_ANNOUNCE] = { .change = handle_root_announce },
    [GOALLOCD__REQUEST__OP_ROOT_FINISH] = { .change = handle_root_finish },
    [GOALLOCD__REQUEST__OP_ROOT_GIVE_BACK] = { .change = handle_root_give_back },
    [GOALLOCD__REQUEST__OP_ROOT_COMPARE_AND_SET] = { .change = handle_root_compare_and_set },
    [GOALLOCD__REQUEST__OP_STATS] = { .handle = handle_stats },
    [GOALLOCD__REQUEST__OP_SESSION_LIST] = { .handle = handle_session_list },
    [GOALLOCD__REQUEST__OP_TRIM] = { .handle = handle_trim, .control = CONTROL("have sessions of others trimmed") },
    [GOALLOCD__REQUEST__OP_SCAVENGE] = { .handle = handle_trim, .control = CONTROL("have free memory released") },
    [GOALLOCD__REQUEST__OP_HEAP_MAP] = { .handle = handle_heap_map },
    [GOALLOCD__REQUEST__OP_CHECK] = { .handle = handle_check, .control = CONTROL("have the heap checked") },
    [GOALLOCD__REQUEST__OP_PING] = { .handle = handle_ping },
    [GOALLOCD__REQUEST__OP_RECLAIM] = { .handle = handle_reclaim, .control = CONTROL("free what others have left") },
    [GOALLOCD__REQUEST__OP_DROP] = { .handle = handle_drop, .control = CONTROL("drop the heap") },
    [GOALLOCD__REQUEST__OP_DISCONNECT] = { .handle = handle_disconnect,
                                           .control = CONTROL("disconnect sessions of others") },
    [GOALLOCD__REQUEST__OP_SUBSCRIBE] = { .handle = handle_subscribe },
    [GOALLOCD__REQUEST__OP_SET_LABEL] = { .handle = handle_set_label },
    [GOALLOCD__REQUEST__OP_LIMITS] = { .handle = handle_limits },
    [GOALLOCD__REQUEST__OP_RELOAD] = { .handle = handle_reload },
    [GOALLOCD__REQUEST__OP_LEASES] = { .handle = handle_leases },
    [GOALLOCD__REQUEST__OP_PROFILE_OPEN] = { .change = handle_profile_open },
    [GOALLOCD__REQUEST__OP_PROFILE_SET] = { .handle = handle_profile_set,
                                            .control = CONTROL("have sessions of others sampled") },
    [GOALLOCD__REQUEST__OP_PROFILE_READ] = { .handle = handle_profile_read,
                                             .control = CONTROL("read what was sampled") },
    [GOALLOCD__REQUEST__OP_COLLECT] = { .change = handle_collect },
    [GOALLOCD__REQUEST__OP_SAVE] = { .handle = handle_save },
};

/* True if all that the request touches is a session of the client's own user: then it needs no control. */
static bool is_about_own(const client *c, const Goallocd__Request *request)
{
    uint32_t no = request->op_case == GOALLOCD__REQUEST__OP_TRIM         ? request->trim->session
                  : request->op_case == GOALLOCD__REQUEST__OP_DISCONNECT ? request->disconnect->session
                  : request->op_case == GOALLOCD__REQUEST__OP_PROFILE_SET
                      ? request_profile_session(request->profile_set)
                      : 0;
    const session *s = no < SHM_SESSIONS_MAX ? session_at(&client_service(c)->sessions, no) : NULL;

    return s != NULL && s->uid == c->peer.uid;
}

_Static_assert(sizeof(handlers) / sizeof(handlers[0]) <= SERVICE_OPS_MAX, "each kind is counted");

/* Where it stands in the table; 0: nowhere. */
static unsigned kind_of(const Goallocd__Request *request)
{
    return (unsigned)request->op_case < sizeof(handlers) / sizeof(handlers[0]) ? request->op_case : 0;
}

static bool asks_for_memory(const Goallocd__Request *request)
{
    return request->op_case == GOALLOCD__REQUEST__OP_REFILL || request->op_case == GOALLOCD__REQUEST__OP_ALLOC_LARGE ||
           request->op_case == GOALLOCD__REQUEST__OP_RESIZE_LARGE;
}

static answer dispatch(client *c, session *s, const Goallocd__Request *request)
{
    unsigned kind = kind_of(request);

    if (request->id == 0 && !handlers[kind].needs_no_id) {
        peer_violation(&c->peer, "a request without an id");
        return ANSWER_GIVEN;
    }
    if (handlers[kind].control != NULL && !service_may_control(&c->peer) && !is_about_own(c, request))
        return (answer){ EPERM, handlers[kind].control };
    if (handlers[kind].handle != NULL)
        return handlers[kind].handle(c, request);
    if (handlers[kind].change == NULL)
        return (answer){ ENOSYS, "this daemon does not know that request" };
    if (s == NULL)
        return (answer){ ENOTCONN, "not attached" };
    if (s->flags & SESSION_READONLY)
        return (answer){ EROFS, "the session is read-only" };
    return handlers[kind].change(c, s, request);
}

/*
 * What a request that would lease has to wait for before it is handled: others of its user, an operation's memory, or
 * those who came first and could go on. WAITS: nothing. So what is leased is leased in the order in which it was asked
 * for, and a handler that leases finds memory.
 */
static enum wait has_to_wait(const client *c, const Goallocd__Request *request)
{
    const service *srv = client_service(c);
    queue_facts facts;

    if (c->op.has_turn || !asks_for_memory(request))
        return WAITS;
    if (!queue_admits(&c->peer.user->queue))
        return WAIT_USER;
    if (srv->queue.nwaiting == 0)
        return operation_pool_has(&srv->operations) ? WAITS : WAIT_MEMORY;
    facts = service_facts(srv);
    return !facts.memory || queue_next(&srv->queue, &facts) != NULL ? WAIT_MEMORY : WAITS;
}

/* True if a limit has refused: service_refuse() has counted that. */
static bool is_of_limit(answer a)
{
    for (int which = 0; which < LIMITS; which++) {
        if (a.message == limit_row_of((enum limit)which)->message)
            return true;
    }
    return false;
}

/* What the answer says that stands in the way; REFUSALS: neither rights, nor versions, nor a table that is full. */
static enum refusal refusal_of(const Goallocd__Request *request, answer a)
{
    bool attaches = request->op_case == GOALLOCD__REQUEST__OP_ATTACH;
    bool controls = request->op_case == GOALLOCD__REQUEST__OP_RELOAD || handlers[kind_of(request)].control != NULL;

    if ((attaches && a.error == EACCES) || (controls && a.error == EPERM))
        return REFUSAL_ACCESS;
    if (attaches && (a.error == ENOEXEC || a.error == EPROTONOSUPPORT))
        return REFUSAL_VERSION;
    return (a.error == EUSERS || a.error == EDQUOT) && !is_of_limit(a) ? REFUSAL_TABLE : REFUSALS;
}

/* A request is refused something: who and why is for the log, unless it is the request that is wrong. */
static void note_refused(client *c, const Goallocd__Request *request, answer a)
{
    enum refusal what = refusal_of(request, a);

    leasing_note_refused(c, request, a);
    if (what != REFUSALS)
        note_refused_by(c, what, a.message);
}

/* For who watches: a request for spans has come. It may wait before it is handled, and is handled again then. */
static void probe_begin(const client *c, const Goallocd__Request *request)
{
    if (request->op_case == GOALLOCD__REQUEST__OP_REFILL)
        PROBE(goallocd, refill_begin, c->session.n, request->id, request->refill->span_class,
              request->refill->nspans);
    else if (request->op_case == GOALLOCD__REQUEST__OP_ALLOC_LARGE)
        PROBE(goallocd, large_begin, c->session.n, request->id, request->alloc_large->npages);
}

/* It has ended without spans. One that ends with spans, or later, ends in leasing.c. */
static void probe_refused(const client *c, const Goallocd__Request *request, answer a)
{
    if (request->op_case == GOALLOCD__REQUEST__OP_REFILL)
        PROBE(goallocd, refill_end, c->session.n, request->id, UINT32_C(0), UINT32_C(0), a.error);
    else if (request->op_case == GOALLOCD__REQUEST__OP_ALLOC_LARGE)
        PROBE(goallocd, large_end, c->session.n, request->id, UINT32_C(0), a.error);
}

bool requests_handle(peer *p, const Goallocd__Request *request)
{
    client *c = client_of(p);
    session *s = client_session(c);
    enum wait wait;
    answer a;

    c->notified = false;
    if (c->op.waiter.arrived == 0) { /* else it has waited, and is no new one */
        probe_begin(c, request);
        loopcpu_note_request(&client_service(c)->loopcpu, c, request);
    }
    wait = request_save_defers(c, request) ? WAIT_SESSION : s == NULL ? WAITS : has_to_wait(c, request);
    if (wait != WAITS) {
        operation_begin_deferred(&c->op, p, request, &client_service(c)->queue, wait, 0);
        return false;
    }
    client_service(c)->ntries++;
    a = dispatch(c, s, request);
    client_service(c)->sessions.leases.nyoung = 0;
    if (a.error == EDQUOT && a.message == NULL)
        a = limits_refuse_memory(c, s);
    if (a.error > 0) {
        note_refused(c, request, a);
        probe_refused(c, request, a);
        if (asks_for_memory(request))
            service_count_refusal(client_service(c), a.error);
    }
    if (a.error >= 0)
        reply_answer(p, request->id, a);
    if (c->op.state == OPERATION_DEFERRED || c->op.state == OPERATION_AWAITING || c->op.state == OPERATION_PAUSED)
        return false;
    operation_answered(&c->op);
    client_service(c)->nrpcs++;
    client_service(c)->nrequests[kind_of(request)]++;
    if (s != NULL) {
        s->nrpcs++;
        s->nrefills += request->op_case == GOALLOCD__REQUEST__OP_REFILL ||
                       request->op_case == GOALLOCD__REQUEST__OP_ALLOC_LARGE;
    }
    return true;
}
