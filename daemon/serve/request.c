/*
 * Request: one handler for each message of goallocd.proto.
 *
 * Called by server for every frame, in order for each client. Calls session (leases), mcentral, mheap, roots, adopt,
 * commit. All heap state is this thread's; nothing here blocks. Everything in a request comes from a client: each
 * number is bounded before it is used. What can't be served is answered with an errno and a sentence; what no honest
 * client sends (a span that it doesn't lease, an offset for an object that is none) costs it the connection.
 *
 * Leases and large objects are in request_lease.c, what concerns the heap as a whole in request_heap.c.
 */
#include "daemon/serve/request_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/log.h"
#include "shm/crash.h"

#define LIST_SESSIONS_MAX  128u
#define LIST_ROOTS_MAX     128u

Goallocd__Reply reply_init(uint64_t id)
{
    Goallocd__Reply reply = GOALLOCD__REPLY__INIT;

    reply.id = id;
    return reply;
}

void reply_ok(peer *p, uint64_t id)
{
    Goallocd__Reply reply = reply_init(id);

    if (id != 0)
        peer_reply(p, &reply);
}

void reply_error(peer *p, uint64_t id, int error, const char *message)
{
    Goallocd__Reply reply = reply_init(id);

    reply.error = error;
    reply.message = (char *)(uintptr_t)message;
    log_debug("client pid %u: %s", p->pid, message);
    if (id != 0)
        peer_reply(p, &reply);
}

session *writing_session(peer *p, uint64_t id)
{
    session *s = peer_session(p);

    if (s == NULL)
        reply_error(p, id, ENOTCONN, "not attached");
    else if (s->flags & SESSION_READONLY)
        reply_error(p, id, EROFS, "the session is read-only");
    else
        return s;
    return NULL;
}

/* --- sessions --- */

/*
 * A process comes back to its session with its token. The token alone says that it may: a process that has attached as
 * root and become another user since has it, and nobody else does.
 */
static void reattach(peer *p, uint64_t id, const Goallocd__Attach *ask)
{
    server *srv = p->server;
    Goallocd__Reply reply = reply_init(id);
    Goallocd__AttachReply body = GOALLOCD__ATTACH_REPLY__INIT;
    session *s = ask->session < SHM_SESSIONS_MAX
                     ? session_find(&srv->sessions, (session_no){ (uint16_t)ask->session }, ask->epoch)
                     : NULL;

    if (ask->generation != srv->heap->map->header->generation) {
        reply_error(p, id, ESTALE, "the heap of that session is gone: this is another one");
        return;
    }
    if (s == NULL || s->state == SHM_SESSION_ENDING) {
        reply_error(p, id, ESTALE, "that session has ended");
        return;
    }
    if (!session_has_token(&srv->sessions, s, ask->token.data, ask->token.len)) {
        reply_error(p, id, EACCES, "wrong token for that session");
        return;
    }
    /* Its old connection may be at its end and not have said so yet. */
    server_drop_peer_of(srv, s);
    if (s->lessee.nops > 0) {
        /* Memory is being committed for a request of it: what that leases is settled first. */
        peer_wait_for_ops(p);
        return;
    }
    session_set_state(&srv->sessions, s, SHM_SESSION_OPEN);
    p->session = s->lessee.no;
    p->epoch = s->lessee.epoch;
    (void)server_watch(srv, p, s);
    log_debug("session %u: pid %u has come back", s->lessee.no.n, s->pid);

    body.protocol = GOALLOC_PROTOCOL;
    body.abi_hash = srv->heap->map->header->abi_hash;
    body.generation = srv->heap->map->header->generation;
    body.session = s->lessee.no.n;
    body.epoch = s->lessee.epoch;
    body.daemon_version = (char *)(uintptr_t)GOALLOC_VERSION;
    reply.result_case = GOALLOCD__REPLY__RESULT_ATTACH;
    reply.attach = &body;
    CRASH_POINT(reattach_before_reply);
    peer_reply(p, &reply);
}

static const struct {
    int error;
    const char *message;
} open_errors[] = {
    [SESSION_E_NO_ENTRY] = { EUSERS, "there are as many sessions as there can be" },
    [SESSION_E_NO_MEMORY] = { ENOMEM, "the daemon has no memory for another session" },
    [SESSION_E_NO_RANDOM] = { EIO, "the system gives the daemon no random numbers" },
};

/* No descriptor is left for a session: the peer is told, and gives back its own. */
static void refuse_late(peer *p, uint64_t id)
{
    reply_error(p, id, EUSERS, "the daemon has no descriptors left for another session");
    peer_close(p);
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
static void attach_reply(peer *p, uint64_t id, session *s)
{
    server *srv = p->server;
    const shm_header *header = srv->heap->map->header;
    Goallocd__Reply reply = reply_init(id);
    Goallocd__AttachReply body = GOALLOCD__ATTACH_REPLY__INIT;
    int fds[ATTACH_NFDS];

    if (!attach_fds(srv->file, s, fds) || !server_watch(srv, p, s)) {
        close_attach_fds(fds);
        session_cancel(&srv->sessions, s);
        refuse_late(p, id);
        return;
    }
    p->session = s->lessee.no;
    p->epoch = s->lessee.epoch;
    log_debug("session %u: pid %u, uid %u, '%s'", s->lessee.no.n, s->pid, s->uid, s->label);

    body.protocol = GOALLOC_PROTOCOL;
    body.abi_hash = header->abi_hash;
    body.generation = header->generation;
    body.session = s->lessee.no.n;
    body.epoch = s->lessee.epoch;
    body.token.len = SESSION_TOKEN_BYTES;
    body.token.data = srv->file->private->tokens[s->lessee.no.n];
    body.arena_base = header->base;
    body.arena_bytes = header->arena_bytes;
    body.spans_bytes = header->spans_bytes;
    body.bitmap_bytes = header->bitmap_bytes;
    body.daemon_version = (char *)(uintptr_t)GOALLOC_VERSION;
    reply.result_case = GOALLOCD__REPLY__RESULT_ATTACH;
    reply.attach = &body;
    peer_reply_with_fds(p, &reply, fds, ATTACH_NFDS);
    close_attach_fds(fds);
}

static void handle_attach(peer *p, uint64_t id, const Goallocd__Attach *ask)
{
    server *srv = p->server;
    const shm_header *header = srv->heap->map->header;
    session_request request = { ask->flags, p->pid, p->uid, ask->limit_bytes, ask->label };
    session *s;
    int e;

    if (ask->protocol != GOALLOC_PROTOCOL) {
        reply_error(p, id, EPROTONOSUPPORT, "this daemon speaks another version of the protocol");
        return;
    }
    if (ask->abi_hash != header->abi_hash) {
        reply_error(p, id, ENOEXEC,
                    "this daemon's shared-memory layout is another: rebuild the client or restart the daemon");
        return;
    }
    if (ask->flags & ~(SESSION_RECLAIM | SESSION_READONLY)) {
        reply_error(p, id, EINVAL, "unknown flags");
        return;
    }
    if (p->session.n != 0) {
        reply_error(p, id, EALREADY, "this connection is attached already");
        return;
    }
    if (p->late) {
        refuse_late(p, id);
        return;
    }
    if (ask->token.len != 0) {
        reattach(p, id, ask);
        return;
    }
    e = session_open(&srv->sessions, &request, &s);
    if (e != 0) {
        reply_error(p, id, open_errors[e].error, open_errors[e].message);
        return;
    }
    attach_reply(p, id, s);
}

static void handle_detach(peer *p, uint64_t id)
{
    session *s = peer_session(p);

    if (s == NULL) {
        reply_error(p, id, ENOTCONN, "not attached");
        return;
    }
    s->detached = true;
    session_set_state(&p->server->sessions, s, SHM_SESSION_ENDING);
    p->op_id = id;
    p->op_detach = peer_hold(p);
    server_wake_idle(p->server);
}

void request_detach_done(peer *p)
{
    p->op_detach = false;
    p->session = (session_no){ 0 };
    reply_ok(p, p->op_id);
    peer_resume(p);
}

/* Numbers above those of the slots are sessions that have ended, the last one first. NULL: nobody has that number. */
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

static void handle_session_list(peer *p, uint64_t id, uint32_t start)
{
    p->op_start = start;
    request_wait_for(p, id, WAIT_SESSIONS);
}

void request_session_list_done(peer *p)
{
    const session_table *table = &p->server->sessions;
    Goallocd__Reply reply = reply_init(p->op_id);
    Goallocd__SessionListReply body = GOALLOCD__SESSION_LIST_REPLY__INIT;
    Goallocd__SessionInfo infos[LIST_SESSIONS_MAX];
    Goallocd__SessionInfo *pointers[LIST_SESSIONS_MAX];
    uint32_t end = SHM_SESSIONS_MAX + SESSIONS_ENDED_MAX;
    uint32_t no = p->op_start;

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
    reply.result_case = GOALLOCD__REPLY__RESULT_SESSION_LIST;
    reply.session_list = &body;
    peer_reply(p, &reply);
    peer_resume(p);
}

/* --- ownership --- */

/* The live object at offset. False: answered. */
static bool find_object(peer *p, uint64_t id, uint64_t offset, object_ref *ret)
{
    const shm_map *map = p->server->heap->map;
    enum object_verdict verdict =
        offset >= map->arena_bytes ? OBJECT_FOREIGN : object_find(map, map->base + offset, ret);

    if (verdict == OBJECT_LIVE)
        return true;
    if (verdict == OBJECT_FREE)
        reply_error(p, id, EALREADY, "the object is free");
    else
        reply_error(p, id, EINVAL, "not the address of an object");
    return false;
}

/* An object becomes the heap's: not in the adoption table, and kept if its span has an owner. */
static void object_publish(server *s, const object_ref *object)
{
    const shm_span *span = shm_span_at(s->heap->map, object->first);

    if (u32_load_relaxed(&span->owner) != 0) {
        adopt_ensure_kept(s->heap->map, object->first);
        metabook_note_kept(&s->heap->book, object->first);
        (void)u64_fetch_or_acq_rel(&shm_kept_bits(s->heap->map, object->first)[object->word], object->bit);
    }
    adopt_clear(s->heap->adopted, object->offset);
}

static void handle_adopt(peer *p, uint64_t id, uint64_t offset)
{
    server *srv = p->server;
    session *s = writing_session(p, id);
    object_ref object;

    if (s == NULL)
        return;
    s->nrpcs++;
    if (!find_object(p, id, offset, &object))
        return;

    const shm_span *span = shm_span_at(srv->heap->map, object.first);

    if (!(s->flags & SESSION_RECLAIM)) {
        object_publish(srv, &object);
    } else if (u32_load_relaxed(&span->owner) == s->lessee.no.n) {
        if (span_has_kept(span))
            (void)u64_fetch_and_acq_rel(&shm_kept_bits(srv->heap->map, object.first)[object.word], ~object.bit);
        adopt_clear(srv->heap->adopted, object.offset);
    } else if (adopt_set(srv->heap->adopted, &object, s->lessee.no, s->lessee.epoch) != 0) {
        reply_error(p, id, ENOSPC, "the session has adopted too many objects");
        return;
    } else if (!object_is_live(srv->heap->map, &object)) {
        /* Somebody has freed it meanwhile, perhaps before he could see that its kept bit has to be cleared too. */
        (void)u64_fetch_and_acq_rel(&shm_kept_bits(srv->heap->map, object.first)[object.word], ~object.bit);
        adopt_clear(srv->heap->adopted, object.offset);
        reply_error(p, id, EALREADY, "the object is free");
        return;
    }
    metabook_note_kept(&srv->heap->book, object.first);
    reply_ok(p, id);
}

/*
 * While the owner's session ends, an object is either still as it was, and its kept bit makes the end leave it there;
 * or it has been freed, and find_object() says so. Both happen in this thread, a span at a time.
 */
static void handle_publish(peer *p, uint64_t id, uint64_t offset)
{
    session *s = writing_session(p, id);
    object_ref object;

    if (s == NULL)
        return;
    s->nrpcs++;
    if (!find_object(p, id, offset, &object))
        return;
    object_publish(p->server, &object);
    reply_ok(p, id);
}

/* --- roots --- */

static void reply_root_error(peer *p, uint64_t id, int e)
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

    reply_error(p, id, errors[e].error, errors[e].message);
}

static void handle_root_set(peer *p, uint64_t id, const Goallocd__RootSet *ask)
{
    session *s = writing_session(p, id);
    int e;

    if (s == NULL)
        return;
    s->nrpcs++;
    if (ask->offset >= p->server->heap->map->arena_bytes)
        e = ROOTS_E_NOT_LIVE;
    else
        e = roots_set(p->server->roots, ask->name.data, ask->name.len, ask->offset);
    if (e != 0)
        reply_root_error(p, id, e);
    else
        reply_ok(p, id);
}

static void handle_root_get(peer *p, uint64_t id, const Goallocd__RootGet *ask)
{
    Goallocd__Reply reply = reply_init(id);
    Goallocd__RootGetReply body = GOALLOCD__ROOT_GET_REPLY__INIT;
    int e = roots_get(p->server->roots, ask->name.data, ask->name.len, &body.offset);

    if (e != 0) {
        reply_root_error(p, id, e);
        return;
    }
    reply.result_case = GOALLOCD__REPLY__RESULT_ROOT_GET;
    reply.root_get = &body;
    peer_reply(p, &reply);
}

static void handle_root_list(peer *p, uint64_t id, uint32_t start)
{
    shm_root *table = p->server->heap->map->roots;
    Goallocd__Reply reply = reply_init(id);
    Goallocd__RootListReply body = GOALLOCD__ROOT_LIST_REPLY__INIT;
    Goallocd__Root entries[LIST_ROOTS_MAX];
    Goallocd__Root *pointers[LIST_ROOTS_MAX];
    uint32_t slot = roots_next(p->server->roots, start);

    for (; slot < SHM_ROOTS_MAX && body.n_roots < LIST_ROOTS_MAX; slot = roots_next(p->server->roots, slot + 1)) {
        Goallocd__Root *entry = &entries[body.n_roots];

        goallocd__root__init(entry);
        entry->name.data = (uint8_t *)table[slot].name;
        entry->name.len = u64_load_relaxed(&table[slot].name_bytes);
        entry->offset = u64_load_relaxed(&table[slot].offset);
        pointers[body.n_roots++] = entry;
    }
    body.roots = pointers;
    body.next = slot < SHM_ROOTS_MAX ? slot : 0;
    reply.result_case = GOALLOCD__REPLY__RESULT_ROOT_LIST;
    reply.root_list = &body;
    peer_reply(p, &reply);
}

static void handle_ping(peer *p, uint64_t id)
{
    Goallocd__Reply reply = reply_init(id);
    Goallocd__PingReply body = GOALLOCD__PING_REPLY__INIT;

    body.protocol = GOALLOC_PROTOCOL;
    body.version = (char *)(uintptr_t)GOALLOC_VERSION;
    body.pid = (uint32_t)getpid();
    reply.result_case = GOALLOCD__REPLY__RESULT_PING;
    reply.ping = &body;
    peer_reply(p, &reply);
}

void request_handle(peer *p, const Goallocd__Request *request)
{
    uint64_t id = request->id;
    bool needs_no_reply = request->op_case == GOALLOCD__REQUEST__OP_RETURN_SPANS ||
                          request->op_case == GOALLOCD__REQUEST__OP_FREE_LARGE;

    if (id == 0 && !needs_no_reply) {
        peer_violation(p, "a request without an id");
        return;
    }
    switch (request->op_case) {
    case GOALLOCD__REQUEST__OP_ATTACH:
        handle_attach(p, id, request->attach);
        return;
    case GOALLOCD__REQUEST__OP_DETACH:
        handle_detach(p, id);
        return;
    case GOALLOCD__REQUEST__OP_REFILL:
        handle_refill(p, id, request->refill);
        return;
    case GOALLOCD__REQUEST__OP_RETURN_SPANS:
        handle_return(p, id, request->return_spans);
        return;
    case GOALLOCD__REQUEST__OP_ALLOC_LARGE:
        handle_alloc_large(p, id, request->alloc_large);
        return;
    case GOALLOCD__REQUEST__OP_FREE_LARGE:
        handle_free_large(p, id, request->free_large);
        return;
    case GOALLOCD__REQUEST__OP_ROOT_SET:
        handle_root_set(p, id, request->root_set);
        return;
    case GOALLOCD__REQUEST__OP_ROOT_GET:
        handle_root_get(p, id, request->root_get);
        return;
    case GOALLOCD__REQUEST__OP_ROOT_LIST:
        handle_root_list(p, id, request->root_list->start);
        return;
    case GOALLOCD__REQUEST__OP_STATS:
        handle_stats(p, id);
        return;
    case GOALLOCD__REQUEST__OP_SESSION_LIST:
        handle_session_list(p, id, request->session_list->start);
        return;
    case GOALLOCD__REQUEST__OP_TRIM:
        handle_trim(p, id);
        return;
    case GOALLOCD__REQUEST__OP_PING:
        handle_ping(p, id);
        return;
    case GOALLOCD__REQUEST__OP_RESIZE_LARGE:
        handle_resize_large(p, id, request->resize_large);
        return;
    case GOALLOCD__REQUEST__OP_LEASE_LIST:
        handle_lease_list(p, id, request->lease_list);
        return;
    case GOALLOCD__REQUEST__OP_CHECK:
        handle_check(p, id);
        return;
    case GOALLOCD__REQUEST__OP_SCAVENGE:
        handle_scavenge(p, id);
        return;
    case GOALLOCD__REQUEST__OP_HEAP_MAP:
        handle_heap_map(p, id, request->heap_map);
        return;
    case GOALLOCD__REQUEST__OP_ADOPT:
        handle_adopt(p, id, request->adopt->offset);
        return;
    case GOALLOCD__REQUEST__OP_PUBLISH:
        handle_publish(p, id, request->publish->offset);
        return;
    default:
        reply_error(p, id, ENOSYS, "this daemon does not know that request");
    }
}
