/*
 * Commit: memory for ranges of pages, in libuv's thread pool where that takes longer than a hop there and back.
 *
 * Called by serve/. Data: none shared. The caller has taken the pages, so nobody else gets them meanwhile.
 *
 *   1. COMMIT_RELEASING   the releases are punched first, so that the job itself does not pass the memory limit
 *   2. COMMIT_COMMITTING  the ranges get memory, piece by piece
 *   3. COMMIT_UNDOING     only if the system has no memory: what was committed is punched again
 *   4. COMMIT_DONE
 *
 * fallocate costs about 0.6 us for 4 KiB and holds a lock of the file that every other fallocate waits for, and that a
 * client can hold, too. So the loop never calls it. heapfile calls it for 2 MiB at a time, and a job goes back to the
 * end of the pool's queue after 8 MiB. Pieces of 8 MiB end at multiples of 2 MiB, so that each whole block can get a
 * huge page. What the loop does at once, by MADV_POPULATE_WRITE without that lock, is at most 64 KiB: they take as long
 * as two context switches.
 *
 * What has been committed is handed out at once, and zeroed afterwards (zeroing.c), in the thread pool as well, as long
 * as nothing else is to be committed: nobody waits for that.
 */
#include "daemon/memory/commit.h"

#include <errno.h>

#define NOW_PAGES    (64 * KIB / PAGE_BYTES)
#define PUNCH_PAGES  (2 * MIB / PAGE_BYTES)
#define SLICE_PAGES  (8 * MIB / PAGE_BYTES)
#define ZERO_NS      UINT64_C(1000000)

void commit_add(commit_job *job, page_no first, uint64_t npages)
{
    page_range *last = job->nranges > 0 ? &job->ranges[job->nranges - 1] : NULL;

    if (last != NULL && last->first.n + last->npages == first.n)
        last->npages += npages;
    else
        job->ranges[job->nranges++] = (page_range){ .first = first, .npages = npages };
}

static void next_phase(commit_job *job, enum commit_phase phase)
{
    job->phase = phase;
    job->at = 0;
    job->at_page = 0;
}

/* Punch one release. Returns its pages. */
static uint64_t release_one(commit_job *job)
{
    if (job->at == job->nreleases ||
        heapfile_punch(job->file, job->releases[job->at].first, job->releases[job->at].npages) < 0) {
        next_phase(job, COMMIT_COMMITTING);
        return 0;
    }
    job->npunched = job->at + 1;
    return job->releases[job->at++].npages;
}

/* Commit one piece, or undo one. Returns its pages. */
static uint64_t work_one(commit_job *job)
{
    bool undoing = job->phase == COMMIT_UNDOING;
    const page_range *range = &job->ranges[job->at];
    page_no first;
    uint64_t npages;
    int r;

    if (job->at == job->nranges) {
        job->undone = undoing;
        next_phase(job, COMMIT_DONE);
        return 0;
    }
    first = page_at(range->first.n + job->at_page);
    npages = undoing ? PUNCH_PAGES : SLICE_PAGES - first.n % HUGE_PAGES;
    if (npages > range->npages - job->at_page)
        npages = range->npages - job->at_page;
    r = undoing ? heapfile_punch(job->file, first, npages) : heapfile_commit(job->file, first, npages);
    if (r == 0 && !undoing && job->described)
        heapfile_commit_metadata(job->file, first, npages);
    if (r == 0 && !undoing)
        zeroing_add(job->file->zeroing, (page_range){ first, npages });
    if (r < 0 && undoing) {
        next_phase(job, COMMIT_DONE);
    } else if (r < 0) {
        job->result = r;
        next_phase(job, COMMIT_UNDOING);
    } else if ((job->at_page += npages) == range->npages) {
        job->at++;
        job->at_page = 0;
    }
    return npages;
}

static void commit_work(uv_work_t *work)
{
    commit_job *job = work->data;
    uint64_t npages = 0;

    while (job->phase != COMMIT_DONE && npages < SLICE_PAGES)
        npages += job->phase == COMMIT_RELEASING ? release_one(job) : work_one(job);
}

/* --- zeroing --- */

/* Zero for a millisecond, or until something is to be committed: it waits for the same lock of the file. */
static void zero_work(uv_work_t *work)
{
    const commit_pool *pool = work->data;
    uint64_t start = uv_hrtime();

    while (zeroing_slice(pool->file->zeroing, pool->file->fds[HEAPFILE_ARENA]) > 0 &&
           u32_load_relaxed(&pool->nrunning) == 0 && uv_hrtime() - start < ZERO_NS)
        ;
}

static void zero_after(uv_work_t *work, int status);

static void zero_start(commit_pool *pool)
{
    if (pool->zeroing || pool->stopping || u32_load_relaxed(&pool->nrunning) > 0 ||
        !zeroing_is_due(pool->file->zeroing))
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

/* --- jobs --- */

static uint64_t job_npages(const commit_job *job)
{
    uint64_t npages = 0;

    for (size_t i = 0; i < job->nranges; i++)
        npages += job->ranges[i].npages;
    return npages;
}

static void note_running(commit_pool *pool, const commit_job *job, bool more)
{
    uint32_t n = u32_load_relaxed(&pool->nrunning);

    u32_store_relaxed(&pool->nrunning, more ? n + 1 : n - 1);
    pool->npages = more ? pool->npages + job_npages(job) : pool->npages - job_npages(job);
}

static void commit_after(uv_work_t *work, int status)
{
    commit_job *job = work->data;
    commit_pool *pool = job->pool;

    if (status >= 0 && job->phase != COMMIT_DONE && !pool->stopping &&
        uv_queue_work(pool->loop, &job->work, commit_work, commit_after) == 0)
        return;
    if (job->phase != COMMIT_DONE && job->result == 0)
        job->result = -ECANCELED;
    note_running(pool, job, false);
    job->done(job, job->result);
    zero_start(pool);
}

/* Commit little at once, in the loop. False: the thread pool has to do it, or to find out why not. */
static bool commit_now(commit_job *job)
{
    if (job_npages(job) > NOW_PAGES || job->nreleases > 0)
        return false;
    for (size_t i = 0; i < job->nranges; i++) {
        if (heapfile_commit_now(job->file, job->ranges[i].first, job->ranges[i].npages) < 0)
            return false;
    }
    next_phase(job, COMMIT_DONE);
    return true;
}

bool commit_start(commit_job *job, commit_pool *pool)
{
    job->work.data = job;
    job->pool = pool;
    job->npunched = 0;
    job->result = 0;
    job->undone = false;
    next_phase(job, COMMIT_RELEASING);
    if (commit_now(job))
        return true;
    if (uv_queue_work(pool->loop, &job->work, commit_work, commit_after) != 0) {
        job->result = -ENOMEM; /* part of it may have memory */
        return true;
    }
    note_running(pool, job, true);
    return false;
}
