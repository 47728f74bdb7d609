/*
 * Request: one handler for each message of goallocd.proto.
 *
 * Called by server for every frame, in order for each client. Calls session (leases), mcentral, mheap, roots, adopt,
 * commit. All heap state is this thread's; nothing here blocks. Everything in a request comes from a client: each
 * number is bounded before it is used. What can't be served is answered with an errno and a sentence; what no honest
 * client sends (a span that it doesn't lease, an offset for an object that is none) costs it the connection.
 *
 * A refill, numbered:
 *   1. how many: what is asked for, at most 1024 spans and 8 MiB, as far as the session's limit allows.
 *   2. spans with free objects from the mcentral of the class (a RECLAIM session's spans hold only its own objects,
 *      so it gets fresh ones).
 *   3. if these give less than half of what was asked for: fresh spans from mheap.
 *   4. each is leased at once. Pages without memory behind them are committed, in the thread pool if they are many.
 *   5. the reply names the spans. If memory could not be had, the fresh spans' leases are revoked, and their pages
 *      punched.
 * Dies the client between 4 and 5, its session ends as any other.
 */
#include "daemon/request.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/log.h"

#define REFILL_PAGES_MAX   (8 * MIB / PAGE_BYTES)
#define ALIGN_PAGES_MAX    (64 * MIB / PAGE_BYTES)
#define LIST_SESSIONS_MAX  128u
#define LIST_ROOTS_MAX     128u

static Goallocd__Reply reply_init(uint64_t id)
{
    Goallocd__Reply reply = GOALLOCD__REPLY__INIT;

    reply.id = id;
    return reply;
}

static void reply_ok(peer *p, uint64_t id)
{
    Goallocd__Reply reply = reply_init(id);

    if (id != 0)
        peer_reply(p, &reply);
}

static void reply_error(peer *p, uint64_t id, int error, const char *message)
{
    Goallocd__Reply reply = reply_init(id);

    reply.error = error;
    reply.message = (char *)(uintptr_t)message;
    log_debug("client pid %u: %s", p->pid, message);
    if (id != 0)
        peer_reply(p, &reply);
}

/* The session of a request that changes the heap. NULL: the error has been answered. */
static session *writing_session(peer *p, uint64_t id)
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

static void handle_attach(peer *p, uint64_t id, const Goallocd__Attach *ask)
{
    server *srv = p->server;
    const shm_header *header = srv->heap->map->header;
    Goallocd__Reply reply = reply_init(id);
    Goallocd__AttachReply body = GOALLOCD__ATTACH_REPLY__INIT;
    session_request request = { ask->flags, p->pid, p->uid, ask->limit_bytes, ask->label };
    session *s;

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
    if (session_open(&srv->sessions, &request, &s) != 0) {
        reply_error(p, id, EUSERS, "no room for another session");
        return;
    }
    p->session = s->no;
    p->epoch = s->epoch;
    server_watch(srv, p, s);
    log_debug("session %u: pid %u, uid %u, '%s'", s->no.n, s->pid, s->uid, s->label);

    body.protocol = GOALLOC_PROTOCOL;
    body.abi_hash = header->abi_hash;
    body.generation = header->generation;
    body.session = s->no.n;
    body.epoch = s->epoch;
    body.token = (ProtobufCBinaryData){ .len = sizeof(s->token), .data = s->token };
    body.arena_base = header->base;
    body.arena_bytes = header->arena_bytes;
    body.spans_bytes = header->spans_bytes;
    body.bitmap_bytes = header->bitmap_bytes;
    body.daemon_version = (char *)(uintptr_t)GOALLOC_VERSION;
    reply.result_case = GOALLOCD__REPLY__RESULT_ATTACH;
    reply.attach = &body;

    const heapfile *file = srv->file;
    bool readonly = s->flags & SESSION_READONLY;
    int fds[3] = { readonly ? file->arena_ro_fd : file->arena_fd, file->spans_ro_fd,
                   readonly ? file->bitmap_ro_fd : file->bitmap_fd };

    peer_reply_with_fds(p, &reply, fds);
}

static void handle_detach(peer *p, uint64_t id)
{
    session *s = peer_session(p);

    if (s == NULL) {
        reply_error(p, id, ENOTCONN, "not attached");
        return;
    }
    session_set_state(&p->server->sessions, s, SHM_SESSION_ENDING);
    p->op_id = id;
    p->op_detach = true;
    p->busy = true;
    server_wake_idle(p->server);
}

void request_detach_done(peer *p)
{
    p->op_detach = false;
    p->session = (session_no){ 0 };
    reply_ok(p, p->op_id);
    peer_resume(p);
}

static void handle_session_list(peer *p, uint64_t id, uint32_t start)
{
    const session_table *table = &p->server->sessions;
    Goallocd__Reply reply = reply_init(id);
    Goallocd__SessionListReply body = GOALLOCD__SESSION_LIST_REPLY__INIT;
    Goallocd__SessionInfo infos[LIST_SESSIONS_MAX];
    Goallocd__SessionInfo *pointers[LIST_SESSIONS_MAX];
    uint32_t no = start;

    for (; no < SHM_SESSIONS_MAX && body.n_sessions < LIST_SESSIONS_MAX; no++) {
        session *s = table->slots[no];

        if (s == NULL)
            continue;
        Goallocd__SessionInfo *info = &infos[body.n_sessions];

        goallocd__session_info__init(info);
        info->session = no;
        info->epoch = s->epoch;
        info->pid = s->pid;
        info->uid = s->uid;
        info->flags = s->flags;
        info->state = (uint32_t)s->state;
        info->label = s->label;
        info->held_bytes = s->nheld_pages * PAGE_BYTES;
        info->leased_spans = s->leased.count;
        info->limit_bytes = s->limit_pages * PAGE_BYTES;
        info->rpcs = s->nrpcs;
        pointers[body.n_sessions++] = info;
    }
    body.sessions = pointers;
    body.next = no < SHM_SESSIONS_MAX ? no : 0;
    reply.result_case = GOALLOCD__REPLY__RESULT_SESSION_LIST;
    reply.session_list = &body;
    peer_reply(p, &reply);
}

/* --- leases --- */

/*
 * The heap is exhausted: sweep what is freed and not yet noticed, ask everybody for idle spans. At most a tenth of
 * the time.
 */
static void rescue(server *s)
{
    uint64_t start = uv_hrtime() / 1000000;

    if (s->last_rescue_ms != 0 && start - s->last_rescue_ms < 10 * s->rescue_cost_ms)
        return;
    (void)sweep_all(&s->sessions);
    server_ask_trim(s);
    s->last_rescue_ms = uv_hrtime() / 1000000;
    s->rescue_cost_ms = s->last_rescue_ms - start;
}

static int heap_alloc_span(server *s, uint64_t npages, uint64_t align_pages, span_class spc, page_no *ret,
                           uint64_t *ret_nscavenged)
{
    int e = mheap_alloc_span(s->heap, npages, align_pages, spc, ret, ret_nscavenged);

    if (e == MHEAP_E_EXHAUSTED) {
        rescue(s);
        e = mheap_alloc_span(s->heap, npages, align_pages, spc, ret, ret_nscavenged);
    }
    return e;
}

static void op_end(peer *p)
{
    free(p->op_spans);
    free(p->commit.runs);
    p->op_spans = NULL;
    p->commit.runs = NULL;
    p->op_nspans = p->op_nfresh = 0;
}

/* Name the spans that were leased, or say that there are none. */
static void op_reply(peer *p, bool large)
{
    Goallocd__Reply reply = reply_init(p->op_id);
    Goallocd__RefillReply refill = GOALLOCD__REFILL_REPLY__INIT;
    Goallocd__AllocLargeReply run = GOALLOCD__ALLOC_LARGE_REPLY__INIT;

    if (p->op_nspans == 0) {
        reply_error(p, p->op_id, ENOMEM, "the system has no memory for the heap");
        return;
    }
    if (large) {
        run.span = p->op_spans[0];
        reply.result_case = GOALLOCD__REPLY__RESULT_ALLOC_LARGE;
        reply.alloc_large = &run;
    } else {
        refill.n_spans = p->op_nspans;
        refill.spans = p->op_spans;
        reply.result_case = GOALLOCD__REPLY__RESULT_REFILL;
        reply.refill = &refill;
    }
    peer_reply(p, &reply);
}

/* The fresh spans got no memory: end their leases. The session may have ended meanwhile, and its leases with it. */
static void op_revoke_fresh(peer *p)
{
    server *srv = p->server;
    session *s = session_find(&srv->sessions, p->session, p->epoch);

    for (; p->op_nfresh > 0; p->op_nfresh--) {
        uint32_t name = p->op_spans[--p->op_nspans];
        page_no first;

        if (s == NULL || lease_check(&srv->sessions, s, name, &first) != 0)
            continue;
        if (heapfile_punch(srv->file, first, shm_span_at(srv->heap->map, first)->npages) < 0)
            continue; /* it stays leased: pages that may have memory do not count as having none */
        lease_revoke_punched(&srv->sessions, s, first);
    }
}

static void op_finish(peer *p, int result)
{
    bool large = p->op_nspans > 0 &&
                 span_class_size(shm_span_at(p->server->heap->map, page_at(p->op_spans[0]))->spc).n == 0;

    if (result < 0) {
        log_warn("no memory for pid %u: %s", p->pid, strerror(-result));
        op_revoke_fresh(p);
    }
    if (!p->closing)
        op_reply(p, large);
    op_end(p);
}

static void op_on_committed(commit_job *job, int result)
{
    peer *p = job->data;

    op_finish(p, result);
    peer_resume(p);
}

/* Room for n spans in the peer's request under way. False: no memory, answered. */
static bool op_begin(peer *p, uint64_t id, uint32_t n)
{
    p->op_id = id;
    p->op_spans = malloc(n * sizeof(*p->op_spans));
    p->commit.runs = malloc(n * sizeof(*p->commit.runs));
    p->commit.nruns = 0;
    p->commit.file = p->server->file;
    p->commit.done = op_on_committed;
    p->commit.data = p;
    if (p->op_spans == NULL || p->commit.runs == NULL) {
        op_end(p);
        reply_error(p, id, ENOMEM, "the daemon is out of memory");
        return false;
    }
    return true;
}

static void op_add_fresh(peer *p, page_no first, uint64_t nscavenged)
{
    p->op_spans[p->op_nspans++] = first.n;
    p->op_nfresh++;
    if (nscavenged > 0 && p->server->eager_commit)
        commit_add(&p->commit, first, shm_span_at(p->server->heap->map, first)->npages);
}

static void op_commit_and_reply(peer *p)
{
    if (p->commit.nruns == 0)
        op_finish(p, 0);
    else if (commit_start(&p->commit, &p->server->loop))
        op_finish(p, p->commit.result);
    else
        p->busy = true;
}

static void handle_refill(peer *p, uint64_t id, const Goallocd__Refill *ask)
{
    server *srv = p->server;
    session *s = writing_session(p, id);
    span_class spc = { (uint8_t)ask->span_class };
    uint64_t want = ask->nspans;
    uint64_t nfree = 0;
    uint64_t room;
    unsigned budget = MCENTRAL_BUDGET;

    if (s == NULL)
        return;
    if (ask->span_class < 2 || ask->span_class >= SPAN_CLASS_COUNT || want == 0) {
        reply_error(p, id, EINVAL, "no such span class, or no spans asked for");
        return;
    }
    s->nrpcs++;

    uint8_t class = span_class_size(spc).n;
    uint64_t npages = size_class_npages[class];

    if (want > PROTO_SPANS_MAX)
        want = PROTO_SPANS_MAX;
    if (want > REFILL_PAGES_MAX / npages)
        want = REFILL_PAGES_MAX / npages;
    room = session_room_pages(s) / npages;
    if (room == 0) {
        reply_error(p, id, ENOMEM, "the session's limit is reached");
        return;
    }
    if (want > room)
        want = room;
    if (!op_begin(p, id, (uint32_t)want))
        return;

    uint64_t want_free = (want * size_class_nelems[class] + 1) / 2;

    while (p->op_nspans < want && !(s->flags & SESSION_RECLAIM)) {
        uint32_t n;
        page_no first = mcentral_take(srv->heap, spc, &budget, &n);

        if (first.n == 0)
            break;
        lease_give(&srv->sessions, s, first);
        p->op_spans[p->op_nspans++] = first.n;
        nfree += n;
    }
    while (p->op_nspans < want && nfree < want_free) {
        page_no first;
        uint64_t nscavenged;

        if (p->op_nspans == 0 ? heap_alloc_span(srv, npages, 1, spc, &first, &nscavenged) != 0
                              : mheap_alloc_span(srv->heap, npages, 1, spc, &first, &nscavenged) != 0)
            break;
        lease_give(&srv->sessions, s, first);
        op_add_fresh(p, first, nscavenged);
    }
    if (p->op_nspans == 0) {
        op_end(p);
        reply_error(p, id, ENOMEM, "the heap is exhausted, or its memory limit reached");
        return;
    }
    op_commit_and_reply(p);
}

static void handle_alloc_large(peer *p, uint64_t id, const Goallocd__AllocLarge *ask)
{
    server *srv = p->server;
    session *s = writing_session(p, id);
    uint64_t align = ask->align_pages == 0 ? 1 : ask->align_pages;
    page_no first;
    uint64_t nscavenged;

    if (s == NULL)
        return;
    s->nrpcs++;
    if (ask->npages == 0 || (align & (align - 1)) != 0 || align > ALIGN_PAGES_MAX) {
        reply_error(p, id, EINVAL, "no pages asked for, or an alignment that is no power of two up to 64 MiB");
        return;
    }
    if (ask->npages >= srv->heap->map->npages || ask->npages > session_room_pages(s)) {
        reply_error(p, id, ENOMEM, "more than the arena, or than the session's limit");
        return;
    }
    if (!op_begin(p, id, 1))
        return;
    if (heap_alloc_span(srv, ask->npages, align, span_class_of((size_class){ 0 }, ask->noscan), &first, &nscavenged) !=
        0) {
        op_end(p);
        reply_error(p, id, ENOMEM, "the heap is exhausted, or its memory limit reached");
        return;
    }
    lease_give(&srv->sessions, s, first);
    op_add_fresh(p, first, nscavenged);
    op_commit_and_reply(p);
}

static void handle_return(peer *p, uint64_t id, const Goallocd__ReturnSpans *ask)
{
    server *srv = p->server;
    session *s = writing_session(p, id);

    if (s == NULL)
        return;
    s->nrpcs++;
    for (size_t i = 0; i < ask->n_spans; i++) {
        page_no first;

        if (lease_check(&srv->sessions, s, ask->spans[i], &first) != 0) {
            peer_violation(p, "it returns span %u, which it does not lease", ask->spans[i]);
            return;
        }
        if (lease_return(&srv->sessions, s, first) != 0) {
            peer_violation(p, "it returns span %u with objects that it owns", ask->spans[i]);
            return;
        }
    }
    reply_ok(p, id);
}

static void handle_free_large(peer *p, uint64_t id, const Goallocd__FreeLarge *ask)
{
    server *srv = p->server;
    session *s = writing_session(p, id);

    if (s == NULL)
        return;
    s->nrpcs++;
    if (ask->span == 0 || ask->span >= srv->heap->map->npages) {
        peer_violation(p, "it frees span %u, which is not in the arena", ask->span);
        return;
    }
    /*
     * The bits decide. The sweep may have been here before, and the run may be another's by now: then nothing
     * happens.
     */
    if (u32_load_relaxed(&srv->heap->map->page_map[ask->span]) == ask->span)
        (void)lease_sweep(&srv->sessions, page_at(ask->span));
    reply_ok(p, id);
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

    if (u32_load_relaxed(&span->owner) != 0)
        (void)u64_fetch_or_acq_rel(&shm_kept_bits(s->heap->map, object->first)[object->word], object->bit);
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
    } else if (u32_load_relaxed(&span->owner) == s->no.n) {
        (void)u64_fetch_and_acq_rel(&shm_kept_bits(srv->heap->map, object.first)[object.word], ~object.bit);
        adopt_clear(srv->heap->adopted, object.offset);
    } else if (adopt_set(srv->heap->adopted, &object, s->no) != 0) {
        reply_error(p, id, ENOSPC, "the session has adopted too many objects");
        return;
    }
    reply_ok(p, id);
}

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
        [ROOTS_E_TOO_LONG] = { ENAMETOOLONG, "the root's name is longer than 255 bytes" },
        [ROOTS_E_NOT_UTF8] = { EILSEQ, "the root's name is not UTF-8" },
        [ROOTS_E_NO_SUCH] = { ENOENT, "no root of that name" },
        [ROOTS_E_FULL] = { ENOSPC, "there are 4096 roots already" },
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

/* --- the whole heap --- */

static void handle_stats(peer *p, uint64_t id)
{
    session *s = peer_session(p);

    if (s != NULL)
        s->nrpcs++;
    p->op_id = id;
    p->census = (census){ .pos = { 0 } };
    p->op_census = true;
    p->busy = true;
    server_wake_idle(p->server);
}

void request_census_done(peer *p)
{
    server *srv = p->server;
    const session *s = peer_session(p);
    Goallocd__Reply reply = reply_init(p->op_id);
    Goallocd__StatsReply body = GOALLOCD__STATS_REPLY__INIT;

    body.live_objects = p->census.live_objects;
    body.live_bytes = p->census.live_bytes;
    body.committed_bytes = mheap_committed_pages(srv->heap) * PAGE_BYTES;
    body.released_bytes = mheap_released_pages(srv->heap) * PAGE_BYTES;
    body.metadata_bytes = heapfile_metadata_bytes(srv->file);
    body.sessions = srv->sessions.nopen;
    body.leased_spans = srv->sessions.nleased;
    body.roots = roots_count(srv->roots);
    body.session_held_bytes = s == NULL ? 0 : s->nheld_pages * PAGE_BYTES;
    body.reserved_bytes = srv->heap->map->arena_bytes;
    body.limit_bytes = srv->heap->limit_pages * PAGE_BYTES;
    body.inuse_spans = srv->heap->ninuse_spans;
    body.inuse_bytes = srv->heap->ninuse_pages * PAGE_BYTES;
    body.rpcs = srv->nrpcs;
    body.uptime_ms = uv_hrtime() / 1000000 - srv->started_ms;
    body.version = (char *)(uintptr_t)GOALLOC_VERSION;
    reply.result_case = GOALLOCD__REPLY__RESULT_STATS;
    reply.stats = &body;
    p->op_census = false;
    peer_reply(p, &reply);
    peer_resume(p);
}

static void handle_trim(peer *p, uint64_t id)
{
    (void)sweep_all(&p->server->sessions);
    server_ask_trim(p->server);
    reply_ok(p, id);
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
