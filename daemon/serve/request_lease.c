/*
 * Request, leases: refill, return, large objects.
 *
 * Called by request.c. Calls session (leases), mcentral, mheap, commit.
 *
 * A refill, numbered:
 *   1. how many: what is asked for, at most PROTO_SPANS_MAX spans and SHM_REFILL_PAGES_MAX pages, as far as the session's limit allows.
 *   2. spans with free objects from the mcentral of the class (a RECLAIM session's spans hold only its own objects,
 *      so it gets fresh ones).
 *   3. if these give less than half of what was asked for: fresh spans from mheap. If pages in use would pass the
 *      memory limit, the client is told to give back what it holds idle and to insist; who insists gets little, but
 *      gets it.
 *   4. each is leased at once. If memory for them would pass the limit, free pages are released first. Pages without
 *      memory behind them are committed. Both in the thread pool if it is much.
 *   5. the reply names the spans. If memory could not be had, the fresh spans' leases are revoked, and their pages
 *      punched.
 * Dies the client between 4 and 5, its session ends as any other.
 *
 * A large object that grows: the pages behind it are taken, committed as above, and only then added to its span, if
 * the session still leases it; else they are free again.
 */
#include "daemon/serve/request_internal.h"

#include <errno.h>
#include <string.h>

#include "daemon/log.h"
#include "shm/crash.h"

#define RELEASE_PERCENT    99u /* of the memory limit: what describes new spans takes some memory later */
#define INSIST_PAGES       16u /* a refill above the memory limit */
#define LEASE_LIST_MAX     8192u /* spans named in one reply */
#define LIMIT_WARNING_MS   10000u
#define RESCUE_SPANS       512u
#define RESCUE_NS          UINT64_C(20000000)

/*
 * The heap is exhausted: sweep what is freed and not yet noticed, ask everybody for idle spans. A tenth of the time at
 * most, and some milliseconds at once: a large heap is gone through in several goes.
 */
static void rescue(server *s)
{
    uint64_t start = uv_hrtime();
    uint64_t nfreed = 0;

    if (s->last_rescue_ns != 0 && start - s->last_rescue_ns < 10 * s->rescue_cost_ns)
        return;
    while (!sweep_some(&s->sessions.leases, &s->rescue_pos, RESCUE_SPANS, &nfreed) && uv_hrtime() - start < RESCUE_NS)
        ;
    server_ask_trim(s);
    s->last_rescue_ns = uv_hrtime();
    s->rescue_cost_ns = s->last_rescue_ns - start;
}

/* Has the system memory for npages more, beyond what free pages have? It is not asked with lazy commit. */
static bool system_allows(server *s, uint64_t npages)
{
    uint64_t backed = mheap_free_backed_pages(s->heap);

    if (!s->options.eager_commit || npages <= backed)
        return true;
    return sysmem_has(&s->mem, (npages - backed) * PAGE_BYTES, uv_hrtime() / 1000000);
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

/*
 * May npages more come into use? False: they would pass the memory limit even if all that is free were released; the
 * client is to give back what it holds idle first, or insists.
 */
static bool limit_allows(server *s, uint64_t npages)
{
    uint64_t now_ms;

    if (npages <= mheap_room_pages(s->heap))
        return true;
    rescue(s);
    if (npages <= mheap_room_pages(s->heap))
        return true;
    now_ms = uv_hrtime() / 1000000;
    if (s->last_limit_warning_ms == 0 || now_ms - s->last_limit_warning_ms > LIMIT_WARNING_MS) {
        log_warn("the memory limit of %llu MiB is below what is in use: %llu MiB in spans and %llu MiB of metadata; "
                 "all that is free is being given back to the system",
                 (unsigned long long)(s->heap->limit_bytes / MIB),
                 (unsigned long long)(s->heap->ninuse_pages * PAGE_BYTES / MIB),
                 (unsigned long long)(metabook_bytes(&s->heap->book) / MIB));
        s->last_limit_warning_ms = now_ms;
    }
    return false;
}

/* What has been taken for a request may pass the limit: take free pages to be released before it is committed. */
static void op_add_releases(peer *p)
{
    mheap *heap = p->server->heap;
    uint64_t over = (mheap_over_limit(heap, RELEASE_PERCENT, 0) + PAGE_BYTES - 1) / PAGE_BYTES;
    page_run run;

    if (over == 0)
        return;
    mheap_flush_cache(heap);
    p->commit.releases = p->op->releases;
    while (over > 0 && p->commit.nreleases < COMMIT_RELEASES_MAX) {
        run = mheap_take_aside(heap, ASIDE_RELEASE_DENSE, (page_run){ .npages = over }, NULL);
        if (run.npages == 0)
            return;
        p->commit.releases[p->commit.nreleases++] = run;
        over -= run.npages < over ? run.npages : over;
    }
}

static void op_end_releases(peer *p)
{
    for (size_t i = 0; i < p->commit.nreleases; i++) {
        mheap_put_back(p->server->heap, ASIDE_RELEASE_DENSE, p->commit.releases[i], i < p->commit.npunched);
        if (i < p->commit.npunched)
            scavenge_note_eager(&p->server->scav, p->commit.releases[i]);
    }
    if (p->commit.nreleases > 0)
        server_on_released(p->server);
    p->commit.releases = NULL;
    p->commit.nreleases = p->commit.npunched = 0;
}

static void op_end(peer *p)
{
    oppool_give(&p->server->ops, p->op);
    p->op = NULL;
    p->op_spans = NULL;
    p->commit.runs = NULL;
    p->op_nspans = p->op_nfresh = 0;
    p->op_grow = 0;
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
    if (p->op_grow != 0) {
        reply_ok(p, p->op_id);
        return;
    }
    if (large) {
        run.span = p->op_spans[0];
        reply.result_case = GOALLOCD__REPLY__RESULT_ALLOC_LARGE;
        reply.alloc_large = &run;
    } else {
        CRASH_POINT(refill_before_reply);
        refill.n_spans = p->op_nspans;
        refill.spans = p->op_spans;
        reply.result_case = GOALLOCD__REPLY__RESULT_REFILL;
        reply.refill = &refill;
    }
    peer_reply(p, &reply);
}

/* The fresh spans got no memory: end their leases. */
static void op_revoke_fresh(peer *p)
{
    server *srv = p->server;
    session *s = session_find(&srv->sessions, p->session, p->epoch);

    for (; p->op_nfresh > 0; p->op_nfresh--) {
        uint32_t name = p->op_spans[--p->op_nspans];
        page_no first;

        if (s != NULL && lease_check(&s->lessee, name, &first) == 0)
            lease_revoke(&s->lessee, first, p->commit.undone);
    }
}

/* The pages behind a large object are ready, or not: add them, if the session still leases it. */
static void op_end_growth(peer *p, int result)
{
    server *srv = p->server;
    session *s = session_find(&srv->sessions, p->session, p->epoch);
    page_no first = page_at(p->op_spans[0]);
    page_no behind = page_at(p->op_spans[1]);

    if (result == 0 && s != NULL && lease_check(&s->lessee, first.n, &first) == 0 &&
        first.n + shm_span_at(srv->heap->map, first)->npages == behind.n) {
        lease_extend(&s->lessee, first, p->op_grow);
        return;
    }
    mheap_put_back(srv->heap, ASIDE_GROWTH, (page_run){ behind, p->op_grow }, result < 0 && p->commit.undone);
    p->op_nspans = 0;
}

static void op_finish(peer *p, int result)
{
    const shm_span *span = shm_span_at(p->server->heap->map, page_at(p->op_nspans > 0 ? p->op_spans[0] : 0));
    bool large = span_class_size(span->spc).n == 0 && !span->lessee_folds;

    if (result < 0) {
        log_warn("no memory for pid %u: %s", p->pid, strerror(-result));
        op_revoke_fresh(p);
    }
    op_end_releases(p);
    if (p->op_grow != 0)
        op_end_growth(p, result);
    if (!p->closing)
        op_reply(p, large);
    op_end(p);
}

static void op_on_committed(commit_job *job, int result)
{
    peer *p = job->data;
    session *s = session_find(&p->server->sessions, p->session, p->epoch);

    if (s != NULL)
        s->lessee.nops--;
    op_finish(p, result);
    server_wake_idle(p->server); /* the session may have waited for this to end, */
    server_on_released(p->server); /* or its process, to come back to it */
    peer_resume(p);
}

/* The peer's request is under way: room for PROTO_SPANS_MAX spans. False: too many are, it is to be tried again. */
static bool op_begin(peer *p, uint64_t id)
{
    p->op = oppool_take(&p->server->ops);
    if (p->op == NULL) {
        peer_wait_for_ops(p);
        return false;
    }
    p->op_id = id;
    p->op_spans = p->op->spans;
    p->commit.runs = p->op->runs;
    p->commit.nruns = p->commit.nreleases = p->commit.npunched = 0;
    p->commit.releases = NULL;
    p->commit.result = 0;
    p->commit.file = p->server->file;
    p->commit.done = op_on_committed;
    p->commit.data = p;
    return true;
}

static void op_add_fresh(peer *p, page_no first, uint64_t nscavenged)
{
    p->op_spans[p->op_nspans++] = first.n;
    p->op_nfresh++;
    if ((nscavenged > 0 || p->server->heap->distrust_backed) && p->server->options.eager_commit)
        commit_add(&p->commit, first, shm_span_at(p->server->heap->map, first)->npages);
    sysmem_spend(&p->server->mem, nscavenged * PAGE_BYTES);
    ahead_note_fresh(&p->server->ahead, first, shm_span_at(p->server->heap->map, first)->npages, nscavenged);
}

/*
 * Nothing has been taken for the request yet, and the pages that it wants are being prepared: it is handled again when
 * they are. Only once, so it waits no longer than for the piece that is under way.
 */
static bool op_defer_for_ahead(peer *p, uint64_t npages)
{
    if (p->ndefers > 0 || !ahead_is_worth_waiting(&p->server->ahead, npages))
        return false;
    p->ndefers++;
    peer_wait_for_ops(p);
    return true;
}

static void op_commit_and_reply(peer *p)
{
    op_add_releases(p);
    if (p->commit.nruns == 0 && p->commit.nreleases == 0)
        op_finish(p, 0);
    else if (commit_start(&p->commit, &p->server->commits))
        op_finish(p, p->commit.result);
    else {
        session *s = session_find(&p->server->sessions, p->session, p->epoch);

        s->lessee.nops++;
        p->busy = true; /* also if it is closing: the commit comes back to it */
    }
    ahead_prepare(&p->server->ahead);
}

static const char limit_text[] = "the memory limit is reached: give back what is idle, and insist";

void handle_refill(peer *p, uint64_t id, const Goallocd__Refill *ask)
{
    server *srv = p->server;
    session *s = writing_session(p, id);
    span_class spc = { (uint8_t)ask->span_class };
    uint64_t want = ask->nspans;
    uint64_t nfree = 0;
    uint64_t room;
    unsigned budget = MCENTRAL_BUDGET;
    bool pressed = false;
    bool allowed = true;

    if (s == NULL)
        return;
    if (ask->span_class >= SPAN_CLASS_COUNT || ask->span_class == SPAN_CLASS_TINY - 1 || want == 0) {
        reply_error(p, id, EINVAL, "no such span class, or no spans asked for");
        return;
    }
    if (ask->span_class < 2 && (ask->npages < SHM_RUN_PAGES_MIN || ask->npages > SHM_RUN_PAGES_MAX)) {
        reply_error(p, id, EINVAL, "runs have " SHM_TEXT(SHM_RUN_PAGES_MIN) " to " SHM_TEXT(SHM_RUN_PAGES_MAX) " pages");
        return;
    }
    if (ask->span_class == SPAN_CLASS_TINY && (s->flags & SESSION_RECLAIM)) {
        reply_error(p, id, EINVAL,
                    "a session that reclaims has no tiny blocks: objects in one may have several owners");
        return;
    }
    s->nrpcs++;

    uint8_t class = span_class_size(spc).n;
    uint64_t npages = class == 0 ? ask->npages : size_class_npages[class];
    uint32_t nelems = class == 0 ? 1 : size_class_nelems[class];

    if (want > PROTO_SPANS_MAX)
        want = PROTO_SPANS_MAX;
    if (want > SHM_REFILL_PAGES_MAX / npages)
        want = SHM_REFILL_PAGES_MAX / npages;
    room = lease_room_pages(&s->lessee) / npages;
    if (room == 0) {
        reply_error(p, id, ENOMEM, "the session's limit is reached");
        return;
    }
    if (want > room)
        want = room;
    if (!op_begin(p, id))
        return;

    uint64_t want_free = (want * nelems + 1) / 2;

    while (class != 0 && p->op_nspans < want && !(s->flags & SESSION_RECLAIM)) {
        uint32_t n;
        page_no first = mcentral_take(srv->heap, spc, &budget, &n);

        if (first.n == 0)
            break;
        lease_give(&s->lessee, first);
        p->op_spans[p->op_nspans++] = first.n;
        nfree += n;
    }
    if (p->op_nspans == 0 && op_defer_for_ahead(p, want * npages)) {
        op_end(p);
        s->nrpcs--;
        return;
    }
    while (p->op_nspans < want && nfree < want_free) {
        page_no first;
        uint64_t nscavenged;

        if (npages > mheap_room_pages(srv->heap) && !limit_allows(srv, npages) &&
            (!ask->insist || p->op_nspans * npages >= INSIST_PAGES)) {
            pressed = true;
            break;
        }
        if (p->op_nspans > want / 4 && p->commit.nruns == 0 && ahead_is_worth_waiting(&srv->ahead, npages))
            break; /* rather less, and at once: when the client comes back there is more */
        allowed = system_allows(srv, npages);
        if (!allowed)
            break;
        if (p->op_nspans == 0 ? heap_alloc_span(srv, npages, 1, spc, &first, &nscavenged) != 0
                              : mheap_alloc_span(srv->heap, npages, 1, spc, &first, &nscavenged) != 0)
            break;
        shm_span_at(srv->heap->map, first)->lessee_folds = class == 0;
        lease_give(&s->lessee, first);
        op_add_fresh(p, first, nscavenged);
    }
    if (p->op_nspans == 0) {
        op_end(p);
        if (pressed)
            reply_error(p, id, EAGAIN, limit_text);
        else if (!allowed)
            reply_error(p, id, ENOMEM, "the system has no memory for the heap");
        else if (!peer_defer(p))
            reply_error(p, id, ENOMEM, "the heap is exhausted");
        return;
    }
    op_commit_and_reply(p);
}

void handle_alloc_large(peer *p, uint64_t id, const Goallocd__AllocLarge *ask)
{
    server *srv = p->server;
    session *s = writing_session(p, id);
    uint64_t align = ask->align_pages == 0 ? 1 : ask->align_pages;
    page_no first;
    uint64_t nscavenged;

    if (s == NULL)
        return;
    s->nrpcs++;
    if (ask->npages == 0 || (align & (align - 1)) != 0 || align > SHM_ALIGN_PAGES_MAX) {
        reply_error(p, id, EINVAL,
                    "no pages asked for, or no power of two up to " SHM_TEXT(SHM_ALIGN_MIB_MAX) " MiB to align to");
        return;
    }
    if (ask->npages >= srv->heap->map->npages || ask->npages > lease_room_pages(&s->lessee)) {
        reply_error(p, id, ENOMEM, "more than the arena, or than the session's limit");
        return;
    }
    if (!ask->insist && !limit_allows(srv, ask->npages)) {
        reply_error(p, id, EAGAIN, limit_text);
        return;
    }
    if (!system_allows(srv, ask->npages)) {
        reply_error(p, id, ENOMEM, "the system has no memory for the heap");
        return;
    }
    if (!op_begin(p, id))
        return;
    if (heap_alloc_span(srv, ask->npages, align, span_class_of((size_class){ 0 }, ask->noscan), &first, &nscavenged) !=
        0) {
        op_end(p);
        if (!peer_defer(p))
            reply_error(p, id, ENOMEM, "the heap is exhausted");
        return;
    }
    lease_give(&s->lessee, first);
    op_add_fresh(p, first, nscavenged);
    op_commit_and_reply(p);
}

/* The large object that a session wants to resize: leased to it, or leased to nobody, and then to it. */
static bool resize_target(peer *p, uint64_t id, session *s, uint32_t name, page_no *ret, bool *ret_central)
{
    server *srv = p->server;
    shm_map *map = srv->heap->map;
    page_no first = page_at(name < map->npages ? name : 0);
    const shm_span *span = shm_span_at(map, first);
    lease_word lease = lease_unpack(u64_load_relaxed(&span->lease));
    object_ref object;

    if (first.n == 0 || u32_load_relaxed(&map->page_map[first.n]) != first.n || span_class_size(span->spc).n != 0 ||
        object_find(map, map->base + page_offset(first), &object) != OBJECT_LIVE) {
        reply_error(p, id, EINVAL, "not a live large object");
        return false;
    }
    if (lease.state == SPAN_CENTRAL && !(s->flags & SESSION_RECLAIM)) {
        if (span->npages > lease_room_pages(&s->lessee)) {
            reply_error(p, id, EDQUOT, "the session's limit is in the way");
            return false;
        }
        *ret_central = true;
    } else if (span->lessee_folds || lease_check(&s->lessee, first.n, &first) != 0) {
        reply_error(p, id, EPERM, "another session leases the object, or it came by a refill");
        return false;
    }
    *ret = first;
    return true;
}

void handle_resize_large(peer *p, uint64_t id, const Goallocd__ResizeLarge *ask)
{
    server *srv = p->server;
    session *s = writing_session(p, id);
    bool central = false;
    page_no first;
    uint64_t nscavenged;

    if (s == NULL)
        return;
    s->nrpcs++;
    if (ask->npages == 0 || ask->npages >= srv->heap->map->npages) {
        reply_error(p, id, EINVAL, "no pages, or more than the arena has");
        return;
    }
    if (!resize_target(p, id, s, ask->span, &first, &central))
        return;

    uint64_t npages = shm_span_at(srv->heap->map, first)->npages;
    uint64_t more = ask->npages > npages ? ask->npages - npages : 0;

    if (more > 0 &&
        (more + (central ? npages : 0) > lease_room_pages(&s->lessee) || more > mheap_room_pages(srv->heap))) {
        reply_error(p, id, EDQUOT, "a limit is in the way");
        return;
    }
    if (central) {
        mcentral_remove(srv->heap, first);
        shm_span_at(srv->heap->map, first)->lessee_folds = 0;
        lease_give(&s->lessee, first);
    }

    if (ask->npages <= npages) {
        if (ask->npages < npages)
            lease_shrink(&s->lessee, first, ask->npages);
        reply_ok(p, id);
        return;
    }

    uint64_t grow = ask->npages - npages;

    if (!system_allows(srv, grow)) {
        reply_error(p, id, ENOMEM, "the system has no memory for the heap");
        return;
    }
    if (!op_begin(p, id))
        return;
    if (mheap_take_aside(srv->heap, ASIDE_GROWTH, (page_run){ page_at(first.n + npages), grow }, &nscavenged).npages ==
        0) {
        op_end(p);
        reply_error(p, id, EBUSY, "what lies behind the object is in use");
        return;
    }
    p->op_spans[p->op_nspans++] = first.n;
    p->op_spans[p->op_nspans++] = first.n + (uint32_t)npages;
    p->op_grow = grow;
    if ((nscavenged > 0 || srv->heap->distrust_backed) && srv->options.eager_commit)
        commit_add(&p->commit, page_at(first.n + npages), grow);
    sysmem_spend(&srv->mem, nscavenged * PAGE_BYTES);
    op_commit_and_reply(p);
}

/*
 * Large runs whose object another process may have freed: the sweep may have ended the lease since the client looked,
 * and the pages may be anybody's by now. False: a violation, the client is disconnected.
 */
static bool return_runs(peer *p, session *s, const uint32_t *runs, size_t nruns)
{
    server *srv = p->server;

    for (size_t i = 0; i < nruns; i++) {
        page_no first;

        if (runs[i] == 0 || runs[i] >= srv->heap->map->npages) {
            peer_violation(p, "it returns run %u, which is not in the arena", runs[i]);
            return false;
        }
        if (lease_check(&s->lessee, runs[i], &first) != 0)
            continue;
        if (lease_return_large(&s->lessee, first) == LEASE_E_NOT_LARGE) {
            peer_violation(p, "it returns span %u as a large run, which it is not", runs[i]);
            return false;
        }
        /* LEASE_E_NOT_EMPTY: the object lives and is the session's, so it stays leased. */
    }
    return true;
}

void handle_return(peer *p, uint64_t id, const Goallocd__ReturnSpans *ask)
{
    session *s = writing_session(p, id);

    if (s == NULL)
        return;
    s->nrpcs++;
    for (size_t i = 0; i < ask->n_spans; i++) {
        page_no first;

        if (lease_check(&s->lessee, ask->spans[i], &first) != 0) {
            peer_violation(p, "it returns span %u, which it does not lease", ask->spans[i]);
            return;
        }
        if (lease_return(&s->lessee, first) != 0) {
            peer_violation(p, "it returns span %u with objects that it owns", ask->spans[i]);
            return;
        }
    }
    if (return_runs(p, s, ask->large, ask->n_large))
        reply_ok(p, id);
}

void handle_free_large(peer *p, uint64_t id, const Goallocd__FreeLarge *ask)
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
        (void)lease_sweep(&srv->sessions.leases, page_at(ask->span), true);
    reply_ok(p, id);
}

void handle_lease_list(peer *p, uint64_t id, const Goallocd__LeaseList *ask)
{
    static uint32_t names[LEASE_LIST_MAX];
    server *srv = p->server;
    session *s = writing_session(p, id);
    Goallocd__Reply reply = reply_init(id);
    Goallocd__LeaseListReply body = GOALLOCD__LEASE_LIST_REPLY__INIT;
    page_no at;

    if (s == NULL)
        return;
    s->nrpcs++;
    at = s->lessee.leased.head;
    if (ask->after != 0) {
        if (lease_check(&s->lessee, ask->after, &at) != 0) {
            reply_error(p, id, EINVAL, "the session does not lease that span");
            return;
        }
        at = srv->heap->links[at.n].next;
    }
    for (; at.n != 0 && body.n_spans < LEASE_LIST_MAX; at = srv->heap->links[at.n].next)
        names[body.n_spans++] = at.n;
    body.spans = names;
    body.more = at.n != 0;
    reply.result_case = GOALLOCD__REPLY__RESULT_LEASE_LIST;
    reply.lease_list = &body;
    peer_reply(p, &reply);
}
