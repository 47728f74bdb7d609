/*
 * Scavenge: gives free pages back to the OS, highest addresses first, by holes that the helper punches.
 *
 * Called by server.c (start), request_heap.c (goallocctl scavenge) and leasing.c (releases that a lease has
 * forced). Calls mheap for the pages and the helper to punch them. Data: private; the pages of a job are aside, so
 * nobody else gets them before the helper has answered, however late that is (helper.c).
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

#include "daemon/log.h"
#include "shm/probe.h"

#define GEN_NS             UINT64_C(1000000000)
#define FORCED_PAGES       2048u /* a job of a forced release */
#define QUIET_MAX          16u
#define MS_NS              UINT64_C(1000000)
#define WARNING_NS         UINT64_C(10000000000)
#define LOOK_CHUNKS        4096u

static void scavenge_tick(uv_timer_t *timer);
static void look_for_emptied(scavenger *s);

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

/* Put the job's pages back, the first npunched of its holes without memory. Returns how many were released. */
static uint64_t job_end(scavenger *s, size_t npunched)
{
    uint64_t npages = 0;

    for (size_t i = 0; i < s->nholes; i++) {
        page_range range = s->holes[i].range;
        bool punched = i < npunched;

        if (s->holes[i].kind == HOLES_METADATA) {
            mheap_put_back(s->heap, ASIDE_UNUSED, range, punched);
            continue;
        }
        mheap_put_back(s->heap, s->is_forced ? ASIDE_RELEASE_DENSE : ASIDE_RELEASE, range, punched);
        npages += punched ? range.npages : 0;
        if (punched)
            note_emptied(s, range.first);
    }
    if (npunched < s->nholes && uv_hrtime() - s->warned_ns > WARNING_NS) {
        log_warn("the system does not take free pages back");
        s->warned_ns = uv_hrtime();
    }
    s->busy = false;
    return npages;
}

/* A forced release ends, and who waits for it is told how far it came. */
static void forced_end(scavenger *s)
{
    s->forced = false;
    trace_line(s, true);
    mheap_refresh_metadata(s->heap);
    s->on_forced(s->on_forced_data, s->forced_pages);
}

static void job_done(helper_punch *punch)
{
    scavenger *s = punch->data;
    uint64_t start = uv_hrtime();
    uint64_t npages;
    uint64_t now;

    npages = job_end(s, punch->ndone);
    now = uv_hrtime();
    s->work_ns += punch->cpu_ns + now - start;
    PROBE(goallocd, scavenge, npages * PAGE_BYTES, s->work_ns / 1000, s->is_forced);
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
    s->on_job_end(s->on_job_end_data, npages); /* others work then, which is not on this account */
    if (!uv_is_closing((uv_handle_t *)&s->timer))
        scavenge_tick(&s->timer);
}

/* The helper is stuck. The job goes on some time; who waits for a forced release does not. */
static void job_late(helper_punch *punch)
{
    scavenger *s = punch->data;

    if (s->forced)
        forced_end(s);
}

static void add_hole(scavenger *s, enum holes_kind kind, page_range range)
{
    s->holes[s->nholes++] = (helper_hole){ kind, range };
}

/* Take up to npages aside, and the empty chunks, and have them punched. False: there are none, or nobody can. */
static bool job_start(scavenger *s, uint64_t npages, bool force)
{
    uint64_t start = uv_hrtime();
    uint64_t taken = 0;

    s->nholes = 0;
    s->is_forced = force;
    while (taken < npages && s->nholes < SCAVENGE_RUNS_MAX) {
        page_range range = mheap_take_aside(s->heap, force ? ASIDE_RELEASE_DENSE : ASIDE_RELEASE,
                                            (page_range){ .npages = npages - taken }, NULL);

        if (range.npages == 0)
            break;
        add_hole(s, HOLES_PAGES, range);
        taken += range.npages;
    }
    for (size_t i = 0; i < s->nemptied; i++) {
        page_range chunk = mheap_take_aside(s->heap, ASIDE_UNUSED, (page_range){ .first = s->emptied[i] }, NULL);

        if (chunk.npages > 0)
            add_hole(s, HOLES_METADATA, chunk);
    }
    s->nemptied = 0;
    if (s->nholes == 0)
        return false;
    s->busy = true;
    s->work_ns = uv_hrtime() - start;
    s->punch = (helper_punch){ .holes = s->holes, .nholes = s->nholes, .done = job_done, .late = job_late, .data = s };
    if (helper_punch_start(s->helper, &s->punch))
        return true;
    (void)job_end(s, 0);
    s->on_job_end(s->on_job_end_data, 0);
    return false;
}

/* One step of a forced release. False: it is done, and on_forced has been called. */
static bool forced_step(scavenger *s)
{
    uint64_t npages = s->forced_left < FORCED_PAGES ? s->forced_left : FORCED_PAGES;

    if ((s->forced_left > 0 || s->nemptied > 0) && job_start(s, npages, true))
        return true;
    forced_end(s);
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
    if (s->forced && s->busy && helper_is_stuck(s->helper))
        forced_end(s);
    while (s->forced && !waits && !s->busy && !forced_step(s))
        ; /* on_forced may have asked for another one */
    wake_ns = s->busy ? s->gen_end_ns : background_step(s, now);
    if (waits)
        wake_ns = now;
    (void)uv_timer_start(timer, scavenge_tick, wake_ns > now ? (wake_ns - now) / MS_NS + 1 : 1, 0);
}

/* --- life --- */

void scavenge_start(scavenger *s, uv_loop_t *loop, mheap *heap, helper *punches, bool trace, bool keeps_stock,
                    void (*on_job_end)(void *, uint64_t), void *data)
{
    uint64_t now = uv_hrtime();

    *s = (scavenger){ .heap = heap,
                      .helper = punches,
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

void scavenge_look(scavenger *s)
{
    s->exhausted = false;
    (void)uv_timer_start(&s->timer, scavenge_tick, 0, 0);
}

void scavenge_note_eager(scavenger *s, page_range range)
{
    PROBE(goallocd, release, range.npages * PAGE_BYTES);
    s->neager += range.npages;
    note_emptied(s, range.first);
}
