/*
 * Leasing: an operation that leases spans to its session, from the first span to the reply; and what holds it up when
 * memory is short.
 *
 * Called by request_lease.c. Calls operation, session (leases), mheap, releases, commit, ahead, sweep. Spans are leased
 * as they are gathered, before they have memory, so nobody else gets them; the client learns of them by the reply
 * alone.
 *
 *   1. leasing_begin: the operation is LEASING and has memory for 1024 spans.
 *   2. leasing_add*: spans are leased; those that need memory are noted in the commit job.
 *   3. leasing_commit: if what was taken passes a memory limit, free pages are released first (releases.c). Then what
 *      has no memory gets some in the thread pool. The operation is COMMITTING, and counts in the nops of its session,
 *      which does not end meanwhile.
 *   4. The reply names the spans. If memory could not be had, the fresh spans' leases are revoked and their pages
 *      free; pages behind a large object are added to it if its session still leases it, else they are free again.
 *
 * If the client dies between 3 and 4, its session ends as any other, after 4.
 *
 * When memory is short: who finds the heap exhausted, or a memory limit in the way, sweeps what is freed and not yet
 * noticed, takes what is offered, and asks everybody for idle spans (a rescue). A rescue takes some milliseconds at
 * once and a tenth of the time at most: a large heap is gone through in several goes.
 *
 * Long spans, of more than 512 MiB: to take their pages is one piece of work, 10 us a GiB, which others wait for. If
 * that took long, the loop rests from such work for 300 times as long, a second at most, and who asks for the next one
 * waits. So whoever asks for hundreds of GiB again and again takes little of the loop's time. Their page map is
 * written for half a millisecond, and then not for one (server.c).
 *
 * The last 64th of the arena, and of the hard limit (64 MiB at most), is for sessions that hold little: up to an eighth
 * of it each. Half of it is for those alone of which the user, too, holds little, in all its sessions together. So when
 * one session has filled the heap, others still attach, work, and free what they find; and when one user has, in
 * however many sessions, other users do. Of less than 1 GiB nothing is kept while there is one session alone.
 */
#include "daemon/serve/leasing.h"

#include <errno.h>
#include <string.h>

#include "daemon/log.h"
#include "daemon/serve/releases.h"
#include "daemon/serve/sweep.h"
#include "shm/crash.h"
#include "shm/probe.h"

#define VAIN_MAX         16u /* times that a request finds enough free pages, but not in one piece */
#define RELEASE_PERCENT  99u /* of the memory limit: what describes new spans takes some memory later */
#define LIMIT_WARNING_MS 10000u
#define RESERVE_PART     64u /* of the arena, and of the hard limit: that is kept for those who hold little, */
#define RESERVE_MAX      (64 * MIB)
#define RESERVE_ALWAYS   GIB /* a smaller whole has a reserve only if there are several sessions */
#define RESERVE_SHARES   8u  /* up to this part of it each */
#define LONG_NS          UINT64_C(100000) /* what takes less needs no rest */
#define LONG_REST        300u
#define LONG_REST_MS_MAX 1000u
#define RESCUE_SPANS     512u
#define RESCUE_NS        UINT64_C(20000000)

const answer leasing_no_memory = { ENOMEM, "the system has no memory for the heap" };
const answer leasing_exhausted = { ENOSPC, "the arena (--reserve) has no free pages in a row that are enough" };
const answer leasing_max_reached = { ENOMEM, "the heap has all the memory that --max-memory allows it" };
const answer leasing_limit_reached = { EAGAIN, "the memory limit is reached: give back what is idle, and insist" };

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
    service_ask_trim(srv, false);
    now = uv_hrtime();
    srv->next_rescue_ns = now + 10 * (now - start);
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

static bool system_allows(service *srv, uint64_t npages)
{
    uint64_t backed = mheap_free_backed_pages(srv->heap);

    return !srv->eager_commit || npages <= backed ||
           sysmem_has(&srv->mem, (npages - backed) * PAGE_BYTES, srv->commits.npages * PAGE_BYTES,
                      uv_hrtime() / 1000000);
}

/* True if npages more stay below the soft limit. What can't be released while the helper is stuck counts as in use. */
static bool limit_allows(const service *srv, uint64_t npages)
{
    return npages <= mheap_room_pages(srv->heap) &&
           (!helper_is_stuck(&srv->helper) || mheap_over_limit(srv->heap, 100, 0) == 0);
}

/* What is kept of a whole. Who is alone with a small heap may have all of it. */
static uint64_t reserve_of(const service *srv, uint64_t bytes)
{
    if (bytes < RESERVE_ALWAYS && srv->sessions.nopen <= 1)
        return 0;
    return bytes / RESERVE_PART < RESERVE_MAX ? bytes / RESERVE_PART : RESERVE_MAX;
}

/* True if who holds nheld pages, and npages more, holds little. */
static bool is_little(uint64_t nheld, uint64_t npages, uint64_t reserve_bytes)
{
    return (nheld + npages) * PAGE_BYTES <= reserve_bytes / RESERVE_SHARES;
}

/* Of a whole of which that reserve is kept: what the session, if it takes npages, has to leave for others. */
static uint64_t kept_from(const session *s, uint64_t npages, uint64_t reserve_bytes)
{
    if (!is_little(s->lessee.nheld_pages, npages, reserve_bytes))
        return reserve_bytes;
    if (s->user == NULL || is_little(s->user->quota.nheld_pages + s->user->left.nheld_pages, npages, reserve_bytes))
        return 0;
    return reserve_bytes / 2;
}

static bool arena_allows(const service *srv, const session *s, uint64_t npages)
{
    uint64_t kept = kept_from(s, npages, reserve_of(srv, srv->heap->map->arena_bytes));
    uint64_t free_pages = mheap_free_pages(srv->heap);

    return npages <= free_pages && (free_pages - npages) * PAGE_BYTES >= kept;
}

static bool max_allows(const service *srv, const session *s, uint64_t npages)
{
    return mheap_max_allows(srv->heap, npages, kept_from(s, npages, reserve_of(srv, srv->heap->max_bytes)));
}

static answer look(service *srv, const session *s, uint64_t npages, bool insist)
{
    if (!arena_allows(srv, s, npages))
        return leasing_exhausted;
    if (!max_allows(srv, s, npages))
        return insist ? leasing_max_reached : leasing_limit_reached;
    if (!insist && !limit_allows(srv, npages))
        return leasing_limit_reached;
    return ANSWER_DONE;
}

/* --- in the log --- */

static uint64_t asked_pages(const Goallocd__Request *request)
{
    const Goallocd__Refill *refill = request->refill;

    switch (request->op_case) {
    case GOALLOCD__REQUEST__OP_REFILL:
        if (refill->npages != 0 || refill->span_class >= SPAN_CLASS_COUNT)
            return refill->nspans * (uint64_t)refill->npages;
        return refill->nspans *
               (uint64_t)size_class_npages[span_class_size((span_class){ (uint8_t)refill->span_class }).n];
    case GOALLOCD__REQUEST__OP_ALLOC_LARGE:
        return request->alloc_large->npages;
    case GOALLOCD__REQUEST__OP_RESIZE_LARGE:
        return request->resize_large->npages;
    default:
        return 0;
    }
}

/* What the answer says that there is too little of; REFUSALS: it is no such answer. */
static enum refusal refusal_of(answer why)
{
    const struct {
        const char *message;
        enum refusal what;
    } table[] = {
        { leasing_exhausted.message, REFUSAL_ARENA },
        { leasing_max_reached.message, REFUSAL_MAX_MEMORY },
        { leasing_limit_reached.message, REFUSAL_MEMORY_LIMIT },
        { leasing_no_memory.message, REFUSAL_SYSTEM },
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        if (why.message == table[i].message)
            return table[i].what;
    }
    return REFUSALS;
}

/* Once in a while: this is about the heap, whoever asks. */
static void tell_over_limit(service *srv)
{
    uint64_t now_ms = uv_now(&srv->loop);

    if (now_ms < srv->next_over_limit_ms)
        return;
    srv->next_over_limit_ms = now_ms + LIMIT_WARNING_MS;
    log_event(LOG_EVENT_MEMORY_OVER_LIMIT, NULL,
              "the memory limit of %llu MiB is below what is in use: %llu MiB in spans and %llu MiB of metadata; "
              "all that is free is being given back to the system",
              (unsigned long long)(mheap_limit_bytes(srv->heap) / MIB),
              (unsigned long long)(srv->heap->ninuse_pages * PAGE_BYTES / MIB),
              (unsigned long long)(metabook_bytes(&srv->heap->book) / MIB));
}

/* Each answer once, and where it is sent: the user's episode counts them. */
static void note_refused(client *c, uint64_t npages, answer why)
{
    service *srv = client_service(c);
    const session *s = client_any_session(c);
    enum refusal what = refusal_of(why);
    log_subject subject;

    if (s == NULL || what == REFUSALS)
        return;
    subject = session_subject(s);
    users_refused_by(&srv->users, c->peer.user, what, &subject, uv_now(&srv->loop),
                     "asks for %llu KiB more and holds %llu KiB: %s", (unsigned long long)(npages * PAGE_BYTES / KIB),
                     (unsigned long long)(s->lessee.nheld_pages * PAGE_BYTES / KIB),
                     what == REFUSAL_MEMORY_LIMIT ? "the memory limit is reached, and it is asked for what is idle"
                                                  : why.message);
    if (what == REFUSAL_MEMORY_LIMIT)
        tell_over_limit(srv);
}

void leasing_note_refused(client *c, const Goallocd__Request *request, answer why)
{
    note_refused(c, asked_pages(request), why);
}

answer leasing_allows_more(service *srv, const session *s, uint64_t npages, bool insist)
{
    answer a = look(srv, s, npages, insist);

    return a.error == 0 && !system_allows(srv, npages) ? leasing_no_memory : a;
}

answer leasing_allows(service *srv, const session *s, uint64_t npages, bool insist)
{
    answer a = leasing_allows_more(srv, s, npages, insist);

    if (a.error == 0)
        return a;
    if (a.error != leasing_no_memory.error || a.message == leasing_max_reached.message) {
        rescue(srv);
        a = leasing_allows_more(srv, s, npages, insist);
    }
    if (a.error != 0)
        events_memory_short(&srv->events);
    return a;
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

/* --- the end --- */

/* Name the spans that were leased, or say why there are none. */
static void reply_spans(client *c, answer why)
{
    const operation *op = &c->op;
    Goallocd__RefillReply refill = GOALLOCD__REFILL_REPLY__INIT;
    Goallocd__AllocLargeReply large = GOALLOCD__ALLOC_LARGE_REPLY__INIT;

    if (op->nspans == 0) {
        events_memory_short(&client_service(c)->events);
        note_refused(c, op->asked_pages, why);
        service_count_refusal(client_service(c), why.error);
        reply_answer(&c->peer, op->id, why);
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

/* For who watches. The reply is on its way; c is what it was, though it may be closing. */
static void probe_end(const client *c, int error)
{
    const operation *op = &c->op;

    if (op->kind == GOALLOCD__REQUEST__OP_REFILL)
        PROBE(goallocd, refill_end, c->session.n, op->id, op->nspans, op->nfresh, error);
    else if (op->kind == GOALLOCD__REQUEST__OP_ALLOC_LARGE)
        PROBE(goallocd, large_end, c->session.n, op->id, op->nspans == 0 ? 0 : op->memory->spans[0], error);
}

/* The fresh spans got no memory: end their leases. Of some pages nobody knows whether they have any. */
static void revoke_fresh(client *c)
{
    session *s = client_any_session(c);
    operation *op = &c->op;
    commit_job undo = { .ranges = op->memory->ranges };

    for (; op->nfresh > 0; op->nfresh--) {
        uint32_t name = op->memory->spans[--op->nspans];
        bool punched = op->memory->unbacked[op->nspans] && !op->committing;
        page_no first;

        if (s == NULL || lease_check(&s->lessee, name, &first) != 0)
            continue;
        if (!punched)
            commit_add(&undo, first, shm_span_at(client_service(c)->heap->map, first)->npages);
        lease_revoke(&s->lessee, first, punched);
    }
    if (undo.nranges > 0)
        releases_undo(client_service(c), undo.ranges, undo.nranges);
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
    mheap_put_back(srv->heap, ASIDE_GROWTH, (page_range){ behind, op->grow_pages }, false);
    if (result < 0)
        releases_undo(srv, &(page_range){ behind, op->grow_pages }, 1);
    op->nspans = 0;
}

/* why: what a client is told that gets nothing. */
static void end(client *c, int result, answer why)
{
    service *srv = client_service(c);

    if (result < 0) {
        const log_subject subject = client_subject(c);

        log_client_debug(&subject, "its spans get no memory: %s", strerror(-result));
        revoke_fresh(c);
        queue_note(&srv->queue, WAIT_PAGES);
    }
    if (c->op.grow_pages != 0)
        end_growth(c, result);
    reply_spans(c, why);
    probe_end(c, c->op.nspans == 0 ? why.error : 0);
    if (c->op.state == OPERATION_COMMITTING && --client_any_session(c)->lessee.nops == 0) {
        queue_note_session(&srv->queue, c->session.n); /* its process may wait, to come back to it, */
        service_wake(srv);                             /* or it to end */
    }
    operation_end(&c->op);
}

static void on_committed(commit_job *job, int result)
{
    client *c = job->data;

    end(c, result, leasing_no_memory);
    peer_resume(&c->peer);
}

/* The operation goes on in another turn of the loop, and its session does not end before it. */
static void begin_committing(client *c)
{
    operation_set_state(&c->op, OPERATION_COMMITTING);
    client_any_session(c)->lessee.nops++;
}

static void commit(client *c)
{
    c->op.committing = true;
    commit_start(&c->op.commit, &client_service(c)->commits);
}

/* Free pages were released before the commit, or can't be now. */
static void on_released(void *data, bool released)
{
    client *c = data;
    bool over_max = mheap_over_max(client_service(c)->heap) > 0;

    if (released && !over_max && c->op.commit.nranges > 0) {
        commit(c);
        return;
    }
    if (c->op.commit.nranges == 0)
        end(c, 0, ANSWER_DONE);
    else
        end(c, -EAGAIN, over_max ? leasing_max_reached : leasing_limit_reached);
    peer_resume(&c->peer);
}

/* --- the way there --- */

/* Who does not sample gets other spans: it looks at the marks. */
static bool asks_marked(const Goallocd__Request *request)
{
    return request->op_case == GOALLOCD__REQUEST__OP_REFILL        ? request->refill->marked
           : request->op_case == GOALLOCD__REQUEST__OP_ALLOC_LARGE ? request->alloc_large->marked
                                                                   : false;
}

void leasing_begin(client *c, const Goallocd__Request *request)
{
    service *srv = client_service(c);
    commit_job *job = &c->op.commit;

    srv->sessions.leases.nyoung = u64_load_relaxed(&srv->heap->map->header->nleases) + 1;
    operation_begin_leasing(&c->op, &c->peer, request, &srv->operations, &srv->queue);
    job->file = srv->heap->file;
    job->ranges = c->op.memory->ranges;
    job->nranges = 0;
    job->share = &client_any_session(c)->commits;
    job->done = on_committed;
    job->data = c;
    c->op.committing = false;
    c->op.asked_pages = asked_pages(request);
    c->op.marked = asks_marked(request) && profiling_marks(&srv->profiling, client_any_session(c));
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

    shm_span_at(srv->heap->map, first)->marked = c->op.marked;
    CRASH_POINT(lease_after_mark);
    leasing_add(c, s, first);
    c->op.memory->unbacked[c->op.nspans - 1] = nscavenged == npages;
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

/* The spans are leased. later: the operation has been COMMITTING for some time. */
static void commit_leased(client *c, bool later)
{
    service *srv = client_service(c);
    uint64_t over = (mheap_over_limit(srv->heap, RELEASE_PERCENT, 0) + PAGE_BYTES - 1) / PAGE_BYTES;
    bool releasing = over > 0 && releases_begin(srv, over, on_released, c);
    bool refused = !releasing && c->op.commit.nranges > 0 && mheap_over_max(srv->heap) > 0;

    if (refused || (!releasing && c->op.commit.nranges == 0)) {
        if (refused) /* what is free can't be released now */
            end(c, -EAGAIN, leasing_max_reached);
        else
            end(c, 0, ANSWER_DONE);
        if (later)
            peer_resume(&c->peer);
        return;
    }
    if (!later)
        begin_committing(c);
    if (!releasing)
        commit(c);
}

answer leasing_commit(client *c)
{
    commit_leased(c, false);
    ahead_prepare(&client_service(c)->ahead);
    return ANSWER_GIVEN;
}

/* --- long spans --- */

/* Its page map is written: lease it. */
static void on_mapped(void *data)
{
    client *c = data;
    service *srv = client_service(c); /* c may be gone below */

    leasing_add_fresh(c, client_any_session(c), c->op.mapping.range.first, c->op.nscavenged);
    commit_leased(c, true);
    ahead_prepare(&srv->ahead);
}

static void on_rested(uv_timer_t *timer)
{
    queue_wake(&((service *)timer->data)->queue);
}

static void rest_after(service *srv, uint64_t start_ns)
{
    uint64_t took_ns = uv_hrtime() - start_ns;
    uint64_t rest_ms = took_ns < LONG_NS ? 0 : LONG_REST * took_ns / 1000000;

    if (rest_ms > 0)
        (void)uv_timer_start(&srv->rest, on_rested, rest_ms < LONG_REST_MS_MAX ? rest_ms : LONG_REST_MS_MAX, 0);
}

int leasing_alloc_long(client *c, uint64_t npages, uint64_t align_pages, span_class spc)
{
    service *srv = client_service(c);
    mheap_mapping *m = &c->op.mapping;
    uint64_t start_ns = uv_hrtime();
    page_no first;
    int e;

    if (service_facts(srv).rests) {
        operation_defer(&c->op, WAIT_LONG, 0, true);
        return 0;
    }
    *m = (mheap_mapping){ .done = on_mapped, .data = c };
    e = mheap_begin_span(srv->heap, npages, align_pages, spc, &first, &c->op.nscavenged, m);
    if (e == MHEAP_E_EXHAUSTED) {
        rescue(srv);
        e = mheap_begin_span(srv->heap, npages, align_pages, spc, &first, &c->op.nscavenged, m);
        if (e == MHEAP_E_EXHAUSTED)
            events_memory_short(&srv->events);
    }
    if (e == 0)
        begin_committing(c);
    rest_after(srv, start_ns);
    return e;
}
