/*
 * Requests: from a message of goallocd.proto to its handler; and the handlers for sessions, objects and roots.
 *
 * Called by peer for every frame, in order for each client, and by rounds.c when a list of sessions has been counted.
 * Calls request_lease.c and request_heap.c for the other messages, deaths (who watches the process of a session),
 * session, adopt, roots. All heap state is this thread's; no handler blocks.
 *
 * Everything in a request comes from a client: each number is bounded before it is used. What can't be served is
 * answered with an errno and a sentence. What no honest client sends (a span that it doesn't lease, a request without
 * an id) costs it the connection.
 */
#include "daemon/serve/requests.h"

#include <errno.h>
#include <unistd.h>

#include "daemon/log.h"
#include "daemon/serve/deaths.h"
#include "daemon/serve/reply.h"
#include "daemon/serve/request_heap.h"
#include "daemon/serve/request_lease.h"
#include "shm/crash.h"

#define LIST_SESSIONS_MAX 128u
#define LIST_ROOTS_MAX    128u

/* --- sessions --- */

/* What both kinds of Attach are answered. The session is the client's from now on. */
static Goallocd__AttachReply attached(client *c, const session *s)
{
    const shm_header *header = client_service(c)->heap->map->header;
    Goallocd__AttachReply body = GOALLOCD__ATTACH_REPLY__INIT;

    c->session = s->lessee.no;
    c->epoch = s->lessee.epoch;
    body.protocol = GOALLOC_PROTOCOL;
    body.abi_hash = header->abi_hash;
    body.generation = header->generation;
    body.session = s->lessee.no.n;
    body.epoch = s->lessee.epoch;
    body.daemon_version = (char *)(uintptr_t)GOALLOC_VERSION;
    return body;
}

/*
 * A process comes back to its session with its token. The token alone says that it may: a process that has attached as
 * root and become another user since has it, and nobody else does.
 */
static void reattach(client *c, const Goallocd__Request *request)
{
    const Goallocd__Attach *ask = request->attach;
    service *srv = client_service(c);
    Goallocd__AttachReply body;
    session *s = ask->session < SHM_SESSIONS_MAX
                     ? session_find(&srv->sessions, (session_no){ (uint16_t)ask->session }, ask->epoch)
                     : NULL;

    if (ask->generation != srv->heap->map->header->generation) {
        reply_error(&c->peer, request->id, ESTALE, "the heap of that session is gone: this is another one");
        return;
    }
    if (s == NULL || s->state == SHM_SESSION_ENDING) {
        reply_error(&c->peer, request->id, ESTALE, "that session has ended");
        return;
    }
    if (!session_has_token(&srv->sessions, s, ask->token.data, ask->token.len)) {
        reply_error(&c->peer, request->id, EACCES, "wrong token for that session");
        return;
    }
    /* Its old connection may be at its end and not have said so yet. */
    service_drop_client(srv, s);
    if (s->lessee.nops > 0) {
        /* Memory is being committed for a request of it: what that leases is settled first. */
        (void)operation_begin(&c->op, &c->peer, request, OPERATION_DEFERRED);
        return;
    }
    session_set_state(&srv->sessions, s, SHM_SESSION_OPEN);
    body = attached(c, s);
    (void)deaths_watch(srv->deaths, c, s);
    log_debug("session %u: pid %u has come back", s->lessee.no.n, s->pid);
    CRASH_POINT(reattach_before_reply);
    reply_body(&c->peer, request->id, GOALLOCD__REPLY__RESULT_ATTACH, &body);
}

/* No descriptor is left for a session: the peer is told, and gives back its own. */
static void refuse_late(client *c, uint64_t id)
{
    reply_error(&c->peer, id, EUSERS, "the daemon has no descriptors left for another session");
    peer_close(&c->peer);
}

/* Descriptors of a new session, in the order of the reply. False: there are none. */
static bool attach_fds(const heapfile *file, const session *s, int ret[ATTACH_NFDS])
{
    bool readonly = s->flags & SESSION_READONLY;

    ret[ATTACH_FD_ARENA] = readonly ? file->arena_ro_fd : file->fds[HEAPFILE_ARENA];
    ret[ATTACH_FD_SPANS] = heapfile_spans_fd(file);
    ret[ATTACH_FD_BITMAP] = readonly ? file->bitmap_ro_fd : file->fds[HEAPFILE_BITMAP];
    ret[ATTACH_FD_LIFE] = heapfile_life_fd(file, s->lessee.no);
    return ret[ATTACH_FD_SPANS] >= 0 && ret[ATTACH_FD_LIFE] >= 0;
}

/* Those that were made for the reply; the others are the heapfile's. */
static void close_attach_fds(const int fds[ATTACH_NFDS])
{
    for (int i = 1; i < ATTACH_NFDS; i += 2) {
        if (fds[i] >= 0)
            (void)close(fds[i]);
    }
}

/* Answer an Attach that has opened s; or, without descriptors, undo that and refuse. */
static void attach_reply(client *c, uint64_t id, session *s)
{
    service *srv = client_service(c);
    heapfile *file = srv->heap->file;
    const shm_header *header = srv->heap->map->header;
    Goallocd__Reply reply = reply_init(id);
    Goallocd__AttachReply body;
    int fds[ATTACH_NFDS];

    if (!attach_fds(file, s, fds) || !deaths_watch(srv->deaths, c, s)) {
        close_attach_fds(fds);
        session_cancel(&srv->sessions, s);
        refuse_late(c, id);
        return;
    }
    log_debug("session %u: pid %u, uid %u, '%s'", s->lessee.no.n, s->pid, s->uid, s->label);
    body = attached(c, s);
    body.token = (ProtobufCBinaryData){ .len = SESSION_TOKEN_BYTES, .data = file->private->tokens[s->lessee.no.n] };
    body.arena_base = header->base;
    body.arena_bytes = header->arena_bytes;
    body.spans_bytes = header->spans_bytes;
    body.bitmap_bytes = header->bitmap_bytes;
    reply.result_case = GOALLOCD__REPLY__RESULT_ATTACH;
    reply.attach = &body;
    peer_reply_with_fds(&c->peer, &reply, fds, ATTACH_NFDS);
    close_attach_fds(fds);
}

/* Returns why the client can't attach: an errno, and *ret_why. 0: it can. */
static int attach_refusal(const client *c, const Goallocd__Attach *ask, const char **ret_why)
{
    if (ask->protocol != GOALLOC_PROTOCOL) {
        *ret_why = "this daemon speaks another version of the protocol";
        return EPROTONOSUPPORT;
    }
    if (ask->abi_hash != client_service(c)->heap->map->header->abi_hash) {
        *ret_why = "this daemon's shared-memory layout is another: rebuild the client or restart the daemon";
        return ENOEXEC;
    }
    if (ask->flags & ~(SESSION_RECLAIM | SESSION_READONLY)) {
        *ret_why = "unknown flags";
        return EINVAL;
    }
    if (c->session.n != 0) {
        *ret_why = "this connection is attached already";
        return EALREADY;
    }
    return 0;
}

static void handle_attach(client *c, const Goallocd__Request *request)
{
    static const struct {
        int error;
        const char *message;
    } open_errors[] = {
        [SESSION_E_NO_ENTRY] = { EUSERS, "there are as many sessions as there can be" },
        [SESSION_E_NO_MEMORY] = { ENOMEM, "the daemon has no memory for another session" },
        [SESSION_E_NO_RANDOM] = { EIO, "the system gives the daemon no random numbers" },
    };
    const Goallocd__Attach *ask = request->attach;
    session_request wanted = { ask->flags, c->peer.pid, c->peer.uid, ask->limit_bytes, ask->label };
    const char *why = NULL;
    session *s;
    int e = attach_refusal(c, ask, &why);

    if (e != 0) {
        reply_error(&c->peer, request->id, e, why);
    } else if (c->peer.late) {
        refuse_late(c, request->id);
    } else if (ask->token.len != 0) {
        reattach(c, request);
    } else {
        e = session_open(&client_service(c)->sessions, &wanted, &s);
        if (e != 0)
            reply_error(&c->peer, request->id, open_errors[e].error, open_errors[e].message);
        else
            attach_reply(c, request->id, s);
    }
}

static void handle_detach(client *c, const Goallocd__Request *request)
{
    session *s = client_session(c);

    if (s == NULL) {
        reply_error(&c->peer, request->id, ENOTCONN, "not attached");
        return;
    }
    s->detached = true;
    session_set_state(&client_service(c)->sessions, s, SHM_SESSION_ENDING);
    (void)operation_begin(&c->op, &c->peer, request, OPERATION_ENDING);
    service_wake(client_service(c));
}

/* Numbers above those of the table are sessions that have ended, the last one first. NULL: nobody has that number. */
static const session *session_listed(const session_table *table, uint32_t no)
{
    uint32_t back = no - SHM_SESSIONS_MAX;

    if (no < SHM_SESSIONS_MAX)
        return session_at(table, no);
    return back < table->nended ? &table->ended[(table->nended - 1 - back) % SESSIONS_ENDED_MAX] : NULL;
}

static void fill_session(const session *s, live_sum left, bool ended, Goallocd__SessionInfo *ret)
{
    goallocd__session_info__init(ret);
    ret->session = s->lessee.no.n;
    ret->epoch = s->lessee.epoch;
    ret->pid = s->pid;
    ret->uid = s->uid;
    ret->flags = s->flags;
    ret->state = (uint32_t)(!ended ? s->state : s->detached ? SHM_SESSION_DETACHED : SHM_SESSION_DIED);
    ret->label = (char *)(uintptr_t)s->label;
    ret->held_bytes = s->lessee.nheld_pages * PAGE_BYTES;
    ret->leased_spans = s->lessee.leased.count;
    ret->limit_bytes = s->lessee.limit_pages * PAGE_BYTES;
    ret->rpcs = s->nrpcs;
    ret->left_objects = left.objects;
    ret->left_bytes = left.bytes;
}

static void handle_session_list(client *c, const Goallocd__Request *request)
{
    if (operation_begin(&c->op, &c->peer, request, OPERATION_WAITING))
        c->op.start = request->session_list->start;
    service_wake(client_service(c));
}

void session_list_counted(client *c)
{
    const session_table *table = &client_service(c)->sessions;
    Goallocd__SessionListReply body = GOALLOCD__SESSION_LIST_REPLY__INIT;
    Goallocd__SessionInfo infos[LIST_SESSIONS_MAX];
    Goallocd__SessionInfo *pointers[LIST_SESSIONS_MAX];
    uint32_t end = SHM_SESSIONS_MAX + SESSIONS_ENDED_MAX;
    uint32_t no = c->op.start;

    for (; no < end && body.n_sessions < LIST_SESSIONS_MAX; no++) {
        const session *s = session_listed(table, no);

        if (s == NULL)
            continue;
        fill_session(s, left_of(table->leases.heap->left, s->lessee.left), no >= SHM_SESSIONS_MAX,
                     &infos[body.n_sessions]);
        pointers[body.n_sessions] = &infos[body.n_sessions];
        body.n_sessions++;
    }
    body.sessions = pointers;
    body.next = no < end ? no : 0;
    reply_body(&c->peer, c->op.id, GOALLOCD__REPLY__RESULT_SESSION_LIST, &body);
    operation_finish(&c->op);
}

/* --- ownership --- */

/* The live object at offset. False: answered. */
static bool find_object(client *c, uint64_t id, uint64_t offset, object_ref *ret)
{
    const shm_map *map = client_service(c)->heap->map;
    enum object_verdict verdict =
        offset >= map->arena_bytes ? OBJECT_FOREIGN : object_find(map, map->base + offset, ret);

    if (verdict == OBJECT_LIVE)
        return true;
    if (verdict == OBJECT_FREE)
        reply_error(&c->peer, id, EALREADY, "the object is free");
    else
        reply_error(&c->peer, id, EINVAL, "not the address of an object");
    return false;
}

/* An object becomes the heap's: not in the adoption table, and with its kept bit set if its span has an owner. */
static void object_publish(mheap *heap, const object_ref *object)
{
    if (u32_load_relaxed(&shm_span_at(heap->map, object->first)->owner) != 0) {
        adopt_ensure_kept(heap->map, object->first);
        metabook_note_kept(&heap->book, object->first);
        (void)u64_fetch_or_acq_rel(&shm_kept_bits(heap->map, object->first)[object->word], object->bit);
    }
    adopt_clear(heap->adopted, object->offset);
}

/* An object is no longer adopted, and has no kept bit. */
static void object_unkeep(mheap *heap, const object_ref *object)
{
    if (span_has_kept(shm_span_at(heap->map, object->first)))
        (void)u64_fetch_and_acq_rel(&shm_kept_bits(heap->map, object->first)[object->word], ~object->bit);
    adopt_clear(heap->adopted, object->offset);
}

static void handle_adopt(client *c, session *s, const Goallocd__Request *request)
{
    mheap *heap = client_service(c)->heap;
    object_ref object;

    if (!find_object(c, request->id, request->adopt->offset, &object))
        return;
    if (!(s->flags & SESSION_RECLAIM)) {
        object_publish(heap, &object);
    } else if (u32_load_relaxed(&shm_span_at(heap->map, object.first)->owner) == s->lessee.no.n) {
        object_unkeep(heap, &object);
    } else if (adopt_set(heap->adopted, &object, s->lessee.no, s->lessee.epoch) != 0) {
        reply_error(&c->peer, request->id, ENOSPC, "the session has adopted too many objects");
        return;
    } else if (!object_is_live(heap->map, &object)) {
        /* It has been freed meanwhile, perhaps by someone who could not see yet that its kept bit has to go too. */
        object_unkeep(heap, &object);
        reply_error(&c->peer, request->id, EALREADY, "the object is free");
        return;
    }
    metabook_note_kept(&heap->book, object.first);
    reply_ok(&c->peer, request->id);
}

/*
 * While the owner's session ends, an object is either still as it was, and its kept bit makes the end leave it there;
 * or it has been freed, and find_object() says so. Both happen in this thread, a span at a time.
 */
static void handle_publish(client *c, session *s, const Goallocd__Request *request)
{
    object_ref object;

    (void)s;
    if (!find_object(c, request->id, request->publish->offset, &object))
        return;
    object_publish(client_service(c)->heap, &object);
    reply_ok(&c->peer, request->id);
}

/* --- roots --- */

static void reply_root_error(client *c, uint64_t id, int e)
{
    static const struct {
        int error;
        const char *message;
    } errors[] = {
        [ROOTS_E_EMPTY] = { EINVAL, "the root's name is empty" },
        [ROOTS_E_TOO_LONG] = { ENAMETOOLONG, "the root's name is longer than " SHM_TEXT(SHM_ROOT_NAME_MAX) " bytes" },
        [ROOTS_E_NOT_UTF8] = { EILSEQ, "the root's name is not UTF-8" },
        [ROOTS_E_NO_SUCH] = { ENOENT, "no root of that name" },
        [ROOTS_E_FULL] = { ENOSPC, "there are " SHM_TEXT(SHM_ROOTS_MAX) " roots already" },
        [ROOTS_E_NOT_LIVE] = { EINVAL, "a root must point into a live object" },
    };

    reply_error(&c->peer, id, errors[e].error, errors[e].message);
}

static void handle_root_set(client *c, session *s, const Goallocd__Request *request)
{
    const Goallocd__RootSet *ask = request->root_set;
    service *srv = client_service(c);
    int e = ROOTS_E_NOT_LIVE;

    (void)s;
    if (ask->offset < srv->heap->map->arena_bytes)
        e = roots_set(srv->roots, ask->name.data, ask->name.len, ask->offset);
    if (e != 0)
        reply_root_error(c, request->id, e);
    else
        reply_ok(&c->peer, request->id);
}

static void handle_root_get(client *c, const Goallocd__Request *request)
{
    const Goallocd__RootGet *ask = request->root_get;
    Goallocd__RootGetReply body = GOALLOCD__ROOT_GET_REPLY__INIT;
    int e = roots_get(client_service(c)->roots, ask->name.data, ask->name.len, &body.offset);

    if (e != 0) {
        reply_root_error(c, request->id, e);
        return;
    }
    reply_body(&c->peer, request->id, GOALLOCD__REPLY__RESULT_ROOT_GET, &body);
}

static void handle_root_list(client *c, const Goallocd__Request *request)
{
    const roots *names = client_service(c)->roots;
    shm_root *table = client_service(c)->heap->map->roots;
    Goallocd__RootListReply body = GOALLOCD__ROOT_LIST_REPLY__INIT;
    Goallocd__Root entries[LIST_ROOTS_MAX];
    Goallocd__Root *pointers[LIST_ROOTS_MAX];
    uint32_t at = roots_next(names, request->root_list->start);

    for (; at < SHM_ROOTS_MAX && body.n_roots < LIST_ROOTS_MAX; at = roots_next(names, at + 1)) {
        Goallocd__Root *entry = &entries[body.n_roots];

        goallocd__root__init(entry);
        entry->name.data = (uint8_t *)table[at].name;
        entry->name.len = u64_load_relaxed(&table[at].name_bytes);
        entry->offset = u64_load_relaxed(&table[at].offset);
        pointers[body.n_roots++] = entry;
    }
    body.roots = pointers;
    body.next = at < SHM_ROOTS_MAX ? at : 0;
    reply_body(&c->peer, request->id, GOALLOCD__REPLY__RESULT_ROOT_LIST, &body);
}

/* --- from message to handler --- */

/* A request that changes the heap has a handler that is given the client's session: open, and not read-only. */
static const struct {
    void (*handle)(client *c, const Goallocd__Request *request);
    void (*change)(client *c, session *s, const Goallocd__Request *request);
    bool needs_no_id;
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
    [GOALLOCD__REQUEST__OP_ROOT_SET] = { .change = handle_root_set },
    [GOALLOCD__REQUEST__OP_ROOT_GET] = { .handle = handle_root_get },
    [GOALLOCD__REQUEST__OP_ROOT_LIST] = { .handle = handle_root_list },
    [GOALLOCD__REQUEST__OP_STATS] = { .handle = handle_stats },
    [GOALLOCD__REQUEST__OP_SESSION_LIST] = { .handle = handle_session_list },
    [GOALLOCD__REQUEST__OP_TRIM] = { .handle = handle_trim },
    [GOALLOCD__REQUEST__OP_SCAVENGE] = { .handle = handle_trim },
    [GOALLOCD__REQUEST__OP_HEAP_MAP] = { .handle = handle_heap_map },
    [GOALLOCD__REQUEST__OP_CHECK] = { .handle = handle_check },
    [GOALLOCD__REQUEST__OP_PING] = { .handle = handle_ping },
};

static void dispatch(client *c, session *s, const Goallocd__Request *request)
{
    unsigned kind = (unsigned)request->op_case < sizeof(handlers) / sizeof(handlers[0]) ? request->op_case : 0;

    if (request->id == 0 && !handlers[kind].needs_no_id)
        peer_violation(&c->peer, "a request without an id");
    else if (handlers[kind].handle != NULL)
        handlers[kind].handle(c, request);
    else if (handlers[kind].change == NULL)
        reply_error(&c->peer, request->id, ENOSYS, "this daemon does not know that request");
    else if (s == NULL)
        reply_error(&c->peer, request->id, ENOTCONN, "not attached");
    else if (s->flags & SESSION_READONLY)
        reply_error(&c->peer, request->id, EROFS, "the session is read-only");
    else
        handlers[kind].change(c, s, request);
}

bool requests_handle(peer *p, const Goallocd__Request *request)
{
    client *c = client_of(p);
    session *s = client_session(c);

    c->notified = false;
    dispatch(c, s, request);
    if (c->op.state == OPERATION_DEFERRED)
        return false;
    c->op.ndefers = 0;
    client_service(c)->nrpcs++;
    if (s != NULL)
        s->nrpcs++;
    return true;
}
