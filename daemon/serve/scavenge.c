/*
 * Scavenge: gives free pages back to the OS, highest addresses first, by PUNCH_HOLE in libuv's thread pool.
 *
 * Called by server.c (start), request_heap.c (goallocctl scavenge) and leasing.c (releases that a lease has
 * forced). Calls mheap for the pages. Data: private; the pages of a job are aside, so nobody else gets them while they
 * are punched.
 *
 * The background scavenger:
 *   1. A generation lasts a second. At its end the peak of the pages in use is recorded, and dense chunks are looked at
 *      anew (scavindex.c).
 *   2. The goal is the recorded peak and 10% more. The 10% are for a heap that moves: they halve with each generation
 *      in which no pages were put into use; but not below the stock that ahead.c prepares on top of what is in use (8
 *      MiB): else pages went and came in a circle. With a memory limit, the goal is also 95% of it, stock or not.
 *   3. While more is committed than the goal, about a millisecond's work is released, then it sleeps (scavpace.c), so
 *      that it takes 1% of one CPU: some 50 MiB a second.
 *
 * A chunk that is wholly free and released needs no bits and descriptions either: these go back too, after its last
 * page, so that what the heap's metadata occupies shrinks with the heap.
 *
 * If the daemon dies during a job, the pages are free, punched or not: recover.c says how the next daemon counts them.
 */
#include "daemon/serve/scavenge.h"

#include <string.h>
#include <time.h>

#include "daemon/log.h"

#define GEN_NS             UINT64_C(1000000000)
#define FORCED_PAGES       2048u /* a job of a forced release */
#define QUIET_MAX          16u
#define MS_NS              UINT64_C(1000000)
#define WARNING_NS         UINT64_C(10000000000)
#define LOOK_CHUNKS        4096u

static void scavenge_tick(uv_timer_t *timer);
static void look_for_emptied(scavenger *s);

static uint64_t thread_cpu_ns(void)
{
    struct timespec ts = { 0, 0 };

    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* --- goal --- */

uint64_t scavenge_surplus_pages(const scavenger *s)
{
    const mheap *heap = s->heap;
    uint64_t committed = mheap_committed_pages(heap);
    uint64_t free = mheap_free_backed_pages(heap);
    uint64_t goal = s->recorded_pages > heap->npeak_pages ? s->recorded_pages : heap->npeak_pages;
    uint64_t over_limit = (mheap_over_limit(heap, SCAVENGE_LIMIT_PERCENT, 0) + PAGE_BYTES - 1) / PAGE_BYTES;
    uint64_t retain = goal * SCAVENGE_RETAIN_PERCENT / 100 >> s->nquiet;
    uint64_t surplus;

    if (s->keeps_stock && retain < SHM_STOCK_PAGES)
        retain = SHM_STOCK_PAGES;
    goal += retain;
    surplus = committed > goal ? committed - goal : 0;
    if (surplus < over_limit)
        surplus = over_limit;
    return surplus < free ? surplus : free;
}

static void trace_line(scavenger *s, bool forced)
{
    uint64_t committed = mheap_committed_pages(s->heap);
    uint64_t background = s->nbackground - s->traced_background;
    uint64_t eager = s->neager - s->traced_eager;

    if (s->trace && (forced || background != 0 || eager != 0))
        log_info("scav %llu KiB work (bg), %llu KiB work (eager), %llu KiB total, %llu%% util%s",
                 (unsigned long long)(background * PAGE_BYTES / KIB), (unsigned long long)(eager * PAGE_BYTES / KIB),
                 (unsigned long long)(mheap_released_pages(s->heap) * PAGE_BYTES / KIB),
                 (unsigned long long)(committed == 0 ? 100 : s->heap->ninuse_pages * 100 / committed),
                 forced ? " (forced)" : "");
    s->traced_background = s->nbackground;
    s->traced_eager = s->neager;
}

static void next_generation(scavenger *s, uint64_t now)
{
    mheap *heap = s->heap;

    if (heap->ntakes != s->ntakes_seen)
        s->nquiet = 0;
    else if (s->nquiet < QUIET_MAX)
        s->nquiet++;
    if (s->nquiet > 0) {
        mheap_flush_cache(heap);
        look_for_emptied(s);
    }
    s->ntakes_seen = heap->ntakes;
    s->past_pages = s->recorded_pages;
    s->recorded_pages = heap->npeak_pages;
    heap->npeak_pages = heap->ninuse_pages;
    s->gen_end_ns = now + GEN_NS;
    s->exhausted = false;
    pagealloc_next_gen(heap->pages);
    mheap_refresh_metadata(heap);
    trace_line(s, false);
}

/* --- jobs --- */

static void job_work(uv_work_t *work)
{
    scavenger *s = work->data;
    uint64_t start = thread_cpu_ns();

    while (s->npunched < s->nranges &&
           heapfile_punch(s->heap->file, s->ranges[s->npunched].first, s->ranges[s->npunched].npages) == 0)
        s->npunched++;
    while (s->nchunks_released < s->nchunks &&
           heapfile_punch_metadata(s->heap->file, s->chunks[s->nchunks_released], CHUNK_PAGES) == 0)
        s->nchunks_released++;
    s->work_ns += thread_cpu_ns() - start;
}

/* A page has been released: what describes its chunk's pages may go next. */
static void note_emptied(scavenger *s, page_no page)
{
    page = page_at(page.n - page.n % CHUNK_PAGES);
    for (size_t i = 0; i < s->nemptied; i++) {
        if (s->emptied[i].n == page.n)
            return;
    }
    if (s->nemptied < SCAVENGE_RUNS_MAX)
        s->emptied[s->nemptied++] = page;
}

/* Put the job's pages back. Returns how many were released. */
static uint64_t job_end(scavenger *s)
{
    uint64_t npages = 0;

    for (size_t i = 0; i < s->nranges; i++) {
        mheap_put_back(s->heap, s->is_forced ? ASIDE_RELEASE_DENSE : ASIDE_RELEASE, s->ranges[i], i < s->npunched);
        npages += i < s->npunched ? s->ranges[i].npages : 0;
        if (i < s->npunched)
            note_emptied(s, s->ranges[i].first);
    }
    for (size_t i = 0; i < s->nchunks; i++)
        mheap_put_back(s->heap, ASIDE_UNUSED, (page_range){ s->chunks[i], CHUNK_PAGES }, i < s->nchunks_released);
    if ((s->npunched < s->nranges || s->nchunks_released < s->nchunks) && uv_hrtime() - s->warned_ns > WARNING_NS) {
        log_warn("the system does not take free pages back");
        s->warned_ns = uv_hrtime();
    }
    s->busy = false;
    return npages;
}

static void job_after(uv_work_t *work, int status)
{
    scavenger *s = work->data;
    uint64_t start = uv_hrtime();
    uint64_t npages;
    uint64_t now;

    (void)status;
    npages = job_end(s);
    now = uv_hrtime();
    s->work_ns += now - start;
    if (s->is_forced) {
        s->neager += npages;
        s->forced_pages += npages;
        s->forced_left -= npages < s->forced_left ? npages : s->forced_left;
        if (npages == 0)
            s->forced_left = 0;
    } else {
        s->nbackground += npages;
        s->not_before_ns = now + scavpace_worked(&s->pace, npages, s->work_ns, start - s->worked_at_ns);
        s->worked_at_ns = now;
    }
    s->on_job_end(s->on_job_end_data); /* others work then, which is not on this account */
    if (!uv_is_closing((uv_handle_t *)&s->timer))
        scavenge_tick(&s->timer);
}

/* Take up to npages aside, and the empty chunks, and have them punched. False: there are none. */
static bool job_start(scavenger *s, uint64_t npages, bool force)
{
    uint64_t start = uv_hrtime();
    uint64_t taken = 0;

    s->nranges = s->npunched = s->nchunks = s->nchunks_released = 0;
    s->is_forced = force;
    while (taken < npages && s->nranges < SCAVENGE_RUNS_MAX) {
        page_range range = mheap_take_aside(s->heap, force ? ASIDE_RELEASE_DENSE : ASIDE_RELEASE,
                                        (page_range){ .npages = npages - taken }, NULL);

        if (range.npages == 0)
            break;
        s->ranges[s->nranges++] = range;
        taken += range.npages;
    }
    for (size_t i = 0; i < s->nemptied; i++) {
        page_range chunk = mheap_take_aside(s->heap, ASIDE_UNUSED, (page_range){ .first = s->emptied[i] }, NULL);

        if (chunk.npages > 0)
            s->chunks[s->nchunks++] = chunk.first;
    }
    s->nemptied = 0;
    if (s->nranges == 0 && s->nchunks == 0)
        return false;
    s->work.data = s;
    s->busy = true;
    s->work_ns = uv_hrtime() - start;
    if (uv_queue_work(s->timer.loop, &s->work, job_work, job_after) == 0)
        return true;
    (void)job_end(s);
    s->on_job_end(s->on_job_end_data);
    return false;
}

/* One step of a forced release. False: it is done, and on_forced has been called. */
static bool forced_step(scavenger *s)
{
    uint64_t npages = s->forced_left < FORCED_PAGES ? s->forced_left : FORCED_PAGES;

    if ((s->forced_left > 0 || s->nemptied > 0) && job_start(s, npages, true))
        return true;
    s->forced = false;
    trace_line(s, true);
    mheap_refresh_metadata(s->heap);
    s->on_forced(s->on_forced_data, s->forced_pages);
    return false;
}

/* Look for chunks that became empty unnoticed: at some chunks each second, while the heap is idle. */
static void look_for_emptied(scavenger *s)
{
    uint64_t end = pagealloc_end(s->heap->pages).n;
    uint64_t page = s->look_at.n;

    for (unsigned i = 0; i < LOOK_CHUNKS && page < end && s->nemptied < SCAVENGE_RUNS_MAX; i++, page += CHUNK_PAGES) {
        if (pagealloc_is_unused_chunk(s->heap->pages, page_at(page)))
            note_emptied(s, page_at(page));
    }
    s->look_at = page_at(page < end ? page : 0);
}

/* Start a job if there is work. Returns when to look again at the latest. */
static uint64_t background_step(scavenger *s, uint64_t now)
{
    uint64_t surplus = s->exhausted ? 0 : scavenge_surplus_pages(s);

    if (surplus > 0 || s->nemptied > 0) {
        if (now < s->not_before_ns)
            return s->not_before_ns < s->gen_end_ns ? s->not_before_ns : s->gen_end_ns;
        s->exhausted = !job_start(s, surplus == 0 ? 0 : scavpace_npages(&s->pace, surplus), false);
    }
    return s->gen_end_ns;
}

static void scavenge_tick(uv_timer_t *timer)
{
    scavenger *s = timer->data;
    uint64_t now = uv_hrtime();
    bool waits = s->forced && s->heap->naside_pages[ASIDE_AHEAD] > 0; /* which are to be released too */
    uint64_t wake_ns;

    if (now >= s->gen_end_ns)
        next_generation(s, now);
    while (s->forced && !waits && !s->busy && !forced_step(s))
        ; /* on_forced may have asked for another one */
    wake_ns = s->busy ? s->gen_end_ns : background_step(s, now);
    if (waits)
        wake_ns = now;
    (void)uv_timer_start(timer, scavenge_tick, wake_ns > now ? (wake_ns - now) / MS_NS + 1 : 1, 0);
}

/* --- life --- */

void scavenge_start(scavenger *s, uv_loop_t *loop, mheap *heap, bool trace, bool keeps_stock,
                    void (*on_job_end)(void *), void *data)
{
    uint64_t now = uv_hrtime();

    *s = (scavenger){ .heap = heap,
                      .trace = trace,
                      .keeps_stock = keeps_stock,
                      .on_job_end = on_job_end,
                      .on_job_end_data = data,
                      .gen_end_ns = now + GEN_NS,
                      .worked_at_ns = now };
    (void)uv_timer_init(loop, &s->timer);
    s->timer.data = s;
    (void)uv_timer_start(&s->timer, scavenge_tick, GEN_NS / MS_NS, 0);
}

void scavenge_force(scavenger *s, void (*on_forced)(void *data, uint64_t npages), void *data)
{
    s->on_forced = on_forced;
    s->on_forced_data = data;
    mheap_flush_cache(s->heap);
    s->forced_left = mheap_idle_pages(s->heap);
    if (!s->forced) {
        s->forced = true;
        s->forced_pages = 0;
        /* Not within this call: the caller is not ready for the answer yet. */
        (void)uv_timer_start(&s->timer, scavenge_tick, 0, 0);
    }
}

void scavenge_note_eager(scavenger *s, page_range range)
{
    s->neager += range.npages;
    note_emptied(s, range.first);
}
