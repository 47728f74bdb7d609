/*
 * Commit: memory for ranges of pages, in libuv's thread pool, by turns.
 *
 * Called by serve/. Calls backing (the memory), zeroing. Data: none shared. The caller has taken the pages, so nobody
 * else gets them meanwhile.
 *
 *   1. A job waits until it is its turn, gets a thread for a slice of 8 MiB, or of 2 MiB if others wait, and waits
 *      again, until it is through. Pieces end at multiples of 2 MiB, so that each whole block can get a huge page.
 *   2. Whose turn: the job of the user whose share is the least; of its jobs that of the session whose share is the
 *      least; and of these the one that came first. A share is what has been committed so far; one that has asked for
 *      nothing for a while begins where the others are (start-time fair queueing: Goyal, Vin, Cheng, 1996; by two
 *      levels: Bennett, Zhang, 1997). So a small refill waits for two slices that are under way, whatever others have
 *      asked for: other users in however many sessions, and other sessions of its own user.
 *   3. Two slices are under way at once: more would only wait for the same lock of the file. A client that punches the
 *      very pages that it is being given makes a slice wait as long as the kernel needs to free what is there. One that
 *      has taken more than 10 ms does not count, as long as there are threads: the pool has COMMIT_THREADS for that.
 *   4. If the system has no memory the job ends there; which of its pages have some nobody knows.
 *
 * Nothing is committed in the loop itself, however little: it would wait for the same punch.
 *
 * What has been committed by the helper is handed out at once, and zeroed afterwards (zeroing.c), in the thread pool as
 * well, as long as nothing else is to be committed: nobody waits for that.
 */
#include "daemon/memory/commit.h"

#include <errno.h>

#include <utlist.h>

#include "daemon/memory/backing.h"

#define SLICE_PAGES   (8 * MIB / PAGE_BYTES)
#define RUNNING_MAX   2u
#define SLOW_MS       10u
#define SPARE_THREADS 4u /* for who zeroes, and what else of the daemon uses the pool */
#define ZERO_NS       UINT64_C(1000000)

void commit_add(commit_job *job, page_no first, uint64_t npages)
{
    page_range *last = job->nranges > 0 ? &job->ranges[job->nranges - 1] : NULL;

    if (last != NULL && last->first.n + last->npages == first.n)
        last->npages += npages;
    else
        job->ranges[job->nranges++] = (page_range){ .first = first, .npages = npages };
}

/* --- a slice, in the thread pool --- */

/* Commit one piece. */
static void commit_piece(commit_job *job)
{
    const page_range *range = &job->ranges[job->at];
    page_no first = page_at(range->first.n + job->at_page);
    uint64_t npages = job->slice_pages - first.n % HUGE_PAGES;
    bool zeroed;

    if (npages > range->npages - job->at_page)
        npages = range->npages - job->at_page;
    job->result = backing_commit(job->file, first, npages, &zeroed);
    if (job->result < 0)
        return;
    if (job->described)
        backing_commit_metadata(job->file, first, npages);
    if (!zeroed)
        zeroing_add(job->file->zeroing, (page_range){ first, npages });
    job->ndone += npages;
    if ((job->at_page += npages) == range->npages) {
        job->at++;
        job->at_page = 0;
    }
}

static bool is_over(const commit_job *job)
{
    return job->at == job->nranges || job->result < 0;
}

static void slice_work(uv_work_t *work)
{
    commit_job *job = work->data;

    while (!is_over(job) && job->ndone < job->slice_pages)
        commit_piece(job);
}

/* --- zeroing --- */

static bool zero_begin(void *data)
{
    return helper_fill_begin(data);
}

static void zero_send(void *data, page_range range)
{
    helper_fill_send(data, range);
}

static void zero_end(void *data)
{
    (void)helper_fill_end(data);
}

/* Zero for a millisecond, or until something is to be committed: it waits for the same lock of the file. */
static void zero_work(uv_work_t *work)
{
    const commit_pool *pool = work->data;
    zeroing_way way = { .begin = zero_begin, .send = zero_send, .end = zero_end, .data = pool->file->helper };
    uint64_t start = uv_hrtime();

    while (zeroing_slice(pool->file->zeroing, &way) > 0 && u32_load_relaxed(&pool->njobs) == 0 &&
           uv_hrtime() - start < ZERO_NS)
        ;
}

static void zero_after(uv_work_t *work, int status);

static void zero_start(commit_pool *pool)
{
    if (pool->zeroing || pool->stopping || u32_load_relaxed(&pool->njobs) > 0 ||
        !zeroing_is_due(pool->file->zeroing) || !helper_fills(pool->file->helper))
        return;
    pool->zero_work.data = pool;
    pool->zeroing = uv_queue_work(pool->loop, &pool->zero_work, zero_work, zero_after) == 0;
}

static void zero_after(uv_work_t *work, int status)
{
    commit_pool *pool = work->data;

    (void)status;
    pool->zeroing = false;
    zero_start(pool);
}

/* --- turns --- */

static uint64_t job_npages(const commit_job *job)
{
    uint64_t npages = 0;

    for (size_t i = 0; i < job->nranges; i++)
        npages += job->ranges[i].npages;
    return npages;
}

static void pump(commit_pool *pool);

static void on_timer(uv_timer_t *timer)
{
    commit_pool *pool = timer->data;
    uint64_t now = uv_hrtime();

    for (commit_job *job = pool->running; job != NULL; job = job->next) {
        if (!job->is_slow && now - job->since_ns > SLOW_MS * UINT64_C(1000000)) {
            job->is_slow = true;
            pool->nslow++;
        }
    }
    pump(pool);
}

static void end_job(commit_pool *pool, commit_job *job)
{
    u32_store_relaxed(&pool->njobs, u32_load_relaxed(&pool->njobs) - 1);
    pool->npages -= job_npages(job);
    job->done(job, job->result);
}

static void slice_after(uv_work_t *work, int status)
{
    commit_job *job = work->data;
    commit_pool *pool = job->pool;

    DL_DELETE(pool->running, job);
    pool->nrunning--;
    pool->nslow -= job->is_slow;
    job->share->npages += job->ndone;
    if (job->share->whole != NULL)
        job->share->whole->npages += job->ndone;
    if (!is_over(job) && (status < 0 || pool->stopping))
        job->result = -ECANCELED;
    if (is_over(job))
        end_job(pool, job);
    else
        DL_APPEND(pool->waiting, job);
    pump(pool);
    zero_start(pool);
}

static commit_share *whole_of(commit_share *share)
{
    return share->whole != NULL ? share->whole : share;
}

/* True if a job of share a is to come before one of share b that came earlier. */
static bool comes_before(commit_share *a, commit_share *b)
{
    if (whole_of(a) == whole_of(b))
        return a->npages < b->npages;
    return whole_of(a)->npages < whole_of(b)->npages;
}

/* The job whose turn it is. */
static commit_job *next_job(const commit_pool *pool)
{
    commit_job *first = pool->waiting;

    for (commit_job *job = pool->waiting; job != NULL; job = job->next) {
        if (comes_before(job->share, first->share))
            first = job;
    }
    return first;
}

/* One that has asked for nothing for a while begins where the others are. */
static void catch_up(const commit_pool *pool, commit_share *share)
{
    commit_share *whole = whole_of(share);

    if (whole->npages < pool->share)
        whole->npages = pool->share;
    if (share != whole && share->npages < whole->part)
        share->npages = whole->part;
}

static void start_slice(commit_pool *pool, commit_job *job)
{
    DL_DELETE(pool->waiting, job);
    DL_APPEND(pool->running, job);
    pool->nrunning++;
    pool->share = whole_of(job->share)->npages;
    whole_of(job->share)->part = job->share->npages;
    job->slice_pages = pool->waiting != NULL || !helper_fills(job->file->helper) ? HUGE_PAGES : SLICE_PAGES;
    job->ndone = 0;
    job->since_ns = uv_hrtime();
    job->is_slow = false;
    job->work.data = job;
    (void)uv_queue_work(pool->loop, &job->work, slice_work, slice_after); /* it fails only without a function */
}

/* Give threads to those whose turn it is. */
static void pump(commit_pool *pool)
{
    while (pool->waiting != NULL && pool->nrunning - pool->nslow < RUNNING_MAX &&
           pool->nrunning < COMMIT_THREADS - SPARE_THREADS)
        start_slice(pool, next_job(pool));
    if (pool->waiting != NULL && !pool->stopping)
        (void)uv_timer_start(&pool->timer, on_timer, SLOW_MS, 0);
    else if (uv_is_active((uv_handle_t *)&pool->timer))
        (void)uv_timer_stop(&pool->timer);
}

void commit_pool_start(commit_pool *pool, uv_loop_t *loop, heapfile *file)
{
    *pool = (commit_pool){ .loop = loop, .file = file };
    (void)uv_timer_init(loop, &pool->timer);
    pool->timer.data = pool;
}

void commit_start(commit_job *job, commit_pool *pool)
{
    job->pool = pool;
    job->result = 0;
    job->at = 0;
    job->at_page = 0;
    catch_up(pool, job->share);
    u32_store_relaxed(&pool->njobs, u32_load_relaxed(&pool->njobs) + 1);
    pool->npages += job_npages(job);
    DL_APPEND(pool->waiting, job);
    pump(pool);
}
