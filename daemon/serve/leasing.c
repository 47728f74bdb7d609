/*
 * Leasing: an operation that leases spans to its session, from the first span to the reply; and what holds it up when
 * memory is short.
 *
 * Called by request_lease.c. Calls operation, session (leases), mheap, commit, ahead, sweep. Spans are leased as they
 * are gathered, before they have memory, so nobody else gets them; the client learns of them by the reply alone.
 *
 *   1. leasing_begin: the operation is LEASING and has memory for 1024 spans.
 *   2. leasing_add*: spans are leased; those that need memory are noted in the commit job.
 *   3. leasing_commit: if what was taken passes the memory limit, free pages are taken too, to be released first.
 *      Little is committed at once; more in the thread pool: the operation is COMMITTING, and counts in the nops of its
 *      session, which does not end meanwhile.
 *   4. The reply names the spans. If memory could not be had, the fresh spans' leases are revoked and their pages
 *      free; pages behind a large object are added to it if its session still leases it, else they are free again.
 *
 * If the client dies between 3 and 4, its session ends as any other, after 4.
 *
 * When memory is short: who finds the heap exhausted, or the memory limit in the way, sweeps what is freed and not yet
 * noticed, takes what is offered, and asks everybody for idle spans (a rescue). A rescue takes some milliseconds at
 * once and a tenth of the time at most: a large heap is gone through in several goes.
 */
#include "daemon/serve/leasing.h"

#include <errno.h>
#include <string.h>

#include "daemon/log.h"
#include "daemon/serve/sweep.h"
#include "shm/crash.h"

#define VAIN_MAX         16u /* times that a request finds enough free pages, but not in one piece */
#define RELEASE_PERCENT  99u /* of the memory limit: what describes new spans takes some memory later */
#define LIMIT_WARNING_MS 10000u
#define RESCUE_SPANS     512u
#define RESCUE_NS        UINT64_C(20000000)

const answer leasing_no_memory = { ENOMEM, "the system has no memory for the heap" };

/* --- memory is short --- */

static void rescue(service *srv)
{
    uint64_t start = uv_hrtime();
    uint64_t now;

    if (start < srv->next_rescue_ns)
        return;
    do
        (void)sweep_some(&srv->sessions.leases, &srv->rescue_pos, RESCUE_SPANS, true, OFFERS_TAKE);
    while (srv->rescue_pos.n != 0 && uv_hrtime() - start < RESCUE_NS);
    service_ask_trim(srv);
    now = uv_hrtime();
    srv->next_rescue_ns = now + 10 * (now - start);
}

bool leasing_system_allows(service *srv, uint64_t npages)
{
    uint64_t backed = mheap_free_backed_pages(srv->heap);

    if (!srv->eager_commit || npages <= backed)
        return true;
    if (sysmem_has(&srv->mem, (npages - backed) * PAGE_BYTES, srv->commits.npages * PAGE_BYTES, uv_hrtime() / 1000000))
        return true;
    events_memory_short(&srv->events);
    return false;
}

int leasing_alloc_span(service *srv, uint64_t npages, uint64_t align_pages, span_class spc, page_no *ret,
                       uint64_t *ret_nscavenged)
{
    int e = mheap_alloc_span(srv->heap, npages, align_pages, spc, ret, ret_nscavenged);

    if (e == MHEAP_E_EXHAUSTED) {
        rescue(srv);
        e = mheap_alloc_span(srv->heap, npages, align_pages, spc, ret, ret_nscavenged);
        if (e == MHEAP_E_EXHAUSTED)
            events_memory_short(&srv->events);
    }
    return e;
}

bool leasing_limit_allows(service *srv, uint64_t npages)
{
    uint64_t now_ms;

    if (npages <= mheap_room_pages(srv->heap))
        return true;
    rescue(srv);
    if (npages <= mheap_room_pages(srv->heap))
        return true;
    events_memory_short(&srv->events);
    now_ms = uv_hrtime() / 1000000;
    if (now_ms > srv->next_limit_warning_ms) {
        log_warn("the memory limit of %llu MiB is below what is in use: %llu MiB in spans and %llu MiB of metadata; "
                 "all that is free is being given back to the system",
                 (unsigned long long)(srv->heap->limit_bytes / MIB),
                 (unsigned long long)(srv->heap->ninuse_pages * PAGE_BYTES / MIB),
                 (unsigned long long)(metabook_bytes(&srv->heap->book) / MIB));
        srv->next_limit_warning_ms = now_ms + LIMIT_WARNING_MS;
    }
    return false;
}

bool leasing_must_leave_pages(const client *c)
{
    return queue_has_pages_wanted(&client_service(c)->queue, &c->op.waiter);
}

answer leasing_give_up(client *c, answer why, uint64_t npages)
{
    bool behind = leasing_must_leave_pages(c);

    if (npages > 0 && (behind || (c->op.nvain++ < VAIN_MAX && service_facts(client_service(c)).pages_come))) {
        operation_defer(&c->op, WAIT_PAGES, npages, !behind);
        return ANSWER_GIVEN;
    }
    operation_end(&c->op);
    return why;
}

/* What has been taken may pass the limit: take free pages to be released before it is committed. */
static void add_releases(client *c)
{
    mheap *heap = client_service(c)->heap;
    commit_job *job = &c->op.commit;
    uint64_t over = (mheap_over_limit(heap, RELEASE_PERCENT, 0) + PAGE_BYTES - 1) / PAGE_BYTES;
    page_range range;

    if (over == 0)
        return;
    mheap_flush_cache(heap);
    job->releases = c->op.memory->releases;
    while (over > 0 && job->nreleases < COMMIT_RELEASES_MAX) {
        range = mheap_take_aside(heap, ASIDE_RELEASE_DENSE, (page_range){ .npages = over }, NULL);
        if (range.npages == 0)
            return;
        job->releases[job->nreleases++] = range;
        over -= range.npages < over ? range.npages : over;
    }
}

static void end_releases(client *c)
{
    service *srv = client_service(c);
    const commit_job *job = &c->op.commit;

    for (size_t i = 0; i < job->nreleases; i++) {
        mheap_put_back(srv->heap, ASIDE_RELEASE_DENSE, job->releases[i], i < job->npunched);
        if (i < job->npunched)
            scavenge_note_eager(&srv->scav, job->releases[i]);
    }
    if (job->nreleases > 0)
        queue_note(&srv->queue, WAIT_PAGES);
}

/* --- the end --- */

/* Name the spans that were leased, or say that there are none. */
static void reply_spans(client *c)
{
    const operation *op = &c->op;
    Goallocd__RefillReply refill = GOALLOCD__REFILL_REPLY__INIT;
    Goallocd__AllocLargeReply large = GOALLOCD__ALLOC_LARGE_REPLY__INIT;

    if (op->nspans == 0) {
        events_memory_short(&client_service(c)->events);
        reply_answer(&c->peer, op->id, leasing_no_memory);
    } else if (op->kind == GOALLOCD__REQUEST__OP_REFILL) {
        CRASH_POINT(refill_before_reply);
        refill.n_spans = op->nspans;
        refill.spans = op->memory->spans;
        (void)reply_body(&c->peer, op->id, GOALLOCD__REPLY__RESULT_REFILL, &refill);
    } else if (op->kind == GOALLOCD__REQUEST__OP_ALLOC_LARGE) {
        large.span = op->memory->spans[0];
        (void)reply_body(&c->peer, op->id, GOALLOCD__REPLY__RESULT_ALLOC_LARGE, &large);
    } else {
        reply_answer(&c->peer, op->id, ANSWER_DONE);
    }
}

/* The fresh spans got no memory: end their leases. */
static void revoke_fresh(client *c)
{
    session *s = client_any_session(c);
    operation *op = &c->op;

    for (; op->nfresh > 0; op->nfresh--) {
        uint32_t name = op->memory->spans[--op->nspans];
        page_no first;

        if (s != NULL && lease_check(&s->lessee, name, &first) == 0)
            lease_revoke(&s->lessee, first, op->commit.undone);
    }
}

/* The pages behind a large object are ready, or not: add them, if the session still leases it. */
static void end_growth(client *c, int result)
{
    service *srv = client_service(c);
    session *s = client_any_session(c);
    operation *op = &c->op;
    page_no first = page_at(op->memory->spans[0]);
    page_no behind = page_at(op->memory->spans[1]);

    if (result == 0 && s != NULL && lease_check(&s->lessee, first.n, &first) == 0 &&
        first.n + shm_span_at(srv->heap->map, first)->npages == behind.n) {
        lease_extend(&s->lessee, first, op->grow_pages);
        return;
    }
    mheap_put_back(srv->heap, ASIDE_GROWTH, (page_range){ behind, op->grow_pages }, result < 0 && op->commit.undone);
    op->nspans = 0;
}

static void end(client *c, int result)
{
    service *srv = client_service(c);

    if (result < 0) {
        log_warn("no memory for pid %u: %s", c->peer.pid, strerror(-result));
        revoke_fresh(c);
        queue_note(&srv->queue, WAIT_PAGES);
    }
    end_releases(c);
    if (c->op.grow_pages != 0)
        end_growth(c, result);
    reply_spans(c);
    if (c->op.state == OPERATION_COMMITTING && --client_any_session(c)->lessee.nops == 0) {
        queue_note_session(&srv->queue, c->session.n); /* its process may wait, to come back to it, */
        service_wake(srv);                             /* or it to end */
    }
    operation_end(&c->op);
}

static void on_committed(commit_job *job, int result)
{
    client *c = job->data;

    end(c, result);
    peer_resume(&c->peer);
}

/* --- the way there --- */

void leasing_begin(client *c, const Goallocd__Request *request)
{
    service *srv = client_service(c);
    commit_job *job = &c->op.commit;

    srv->sessions.leases.nyoung = u64_load_relaxed(&srv->heap->map->header->nleases) + 1;
    operation_begin_leasing(&c->op, &c->peer, request, &srv->operations, &srv->queue);
    job->file = srv->heap->file;
    job->ranges = c->op.memory->ranges;
    job->nranges = job->nreleases = job->npunched = 0;
    job->done = on_committed;
    job->data = c;
}

void leasing_add(client *c, session *s, page_no first)
{
    if (c->op.kind == GOALLOCD__REQUEST__OP_ALLOC_LARGE)
        lease_give_large(&s->lessee, first);
    else
        lease_give(&s->lessee, first);
    c->op.memory->spans[c->op.nspans++] = first.n;
}

/* npages pages are the session's, of which nscavenged have no memory. */
static void note_taken(client *c, page_no first, uint64_t npages, uint64_t nscavenged)
{
    service *srv = client_service(c);

    if ((nscavenged > 0 || srv->heap->distrust_backed) && srv->eager_commit)
        commit_add(&c->op.commit, first, npages);
    sysmem_spend(&srv->mem, nscavenged * PAGE_BYTES);
}

void leasing_add_fresh(client *c, session *s, page_no first, uint64_t nscavenged)
{
    service *srv = client_service(c);
    uint64_t npages = shm_span_at(srv->heap->map, first)->npages;

    leasing_add(c, s, first);
    c->op.nfresh++;
    note_taken(c, first, npages, nscavenged);
    ahead_note_fresh(&srv->ahead, first, npages, nscavenged);
}

void leasing_add_growth(client *c, page_no first, page_no behind, uint64_t npages, uint64_t nscavenged)
{
    c->op.memory->spans[c->op.nspans++] = first.n;
    c->op.memory->spans[c->op.nspans++] = behind.n;
    c->op.grow_pages = npages;
    note_taken(c, behind, npages, nscavenged);
}

answer leasing_commit(client *c)
{
    service *srv = client_service(c);
    commit_job *job = &c->op.commit;

    add_releases(c);
    if (job->nranges == 0 && job->nreleases == 0) {
        end(c, 0);
    } else if (commit_start(job, &srv->commits)) {
        end(c, job->result);
    } else {
        operation_set_state(&c->op, OPERATION_COMMITTING);
        client_any_session(c)->lessee.nops++;
    }
    ahead_prepare(&srv->ahead);
    return ANSWER_GIVEN;
}
