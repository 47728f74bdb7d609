/*
 * Commit: fallocate of leased ranges, in libuv's thread pool when it takes longer than a hop there and back.
 *
 * Called by request. Data: none shared; the pages are leased already, or taken for being released, so nobody else gets
 * them meanwhile: the session that a job is for does not end before the job (session.c). Releases come first, so that
 * the job itself does not pass the memory limit.
 *
 * fallocate costs about 0.9 us for 4 KiB, so 64 KiB take as long as two context switches: that is where the thread pool
 * begins. It holds a lock of the file as long as it runs, for which every other fallocate waits: so it is called for
 * 2 MiB at a time, a job goes back to the end of the pool's queue after 8 MiB, and nothing is done in the loop itself
 * while a job is under way. Pieces of 8 MiB end at multiples of 2 MiB, so that what can be in huge pages is.
 *
 * If memory can't be had, what was committed is punched again, in the same manner.
 */
#include "daemon/memory/commit.h"

#include <errno.h>

#define INLINE_PAGES (64 * KIB / PAGE_BYTES)
#define PUNCH_PAGES  (2 * MIB / PAGE_BYTES)
#define SLICE_PAGES  (8 * MIB / PAGE_BYTES)

void commit_add(commit_job *job, page_no first, uint64_t npages)
{
    page_run *last = job->nruns > 0 ? &job->runs[job->nruns - 1] : NULL;

    if (last != NULL && last->first.n + last->npages == first.n)
        last->npages += npages;
    else
        job->runs[job->nruns++] = (page_run){ .first = first, .npages = npages };
}

static void next_phase(commit_job *job, enum commit_phase phase)
{
    job->phase = phase;
    job->at = 0;
    job->at_page = 0;
}

/* Release one run. Returns its pages. */
static uint64_t release_one(commit_job *job)
{
    page_run run;

    if (job->at == job->nreleases) {
        next_phase(job, COMMIT_COMMITTING);
        return 0;
    }
    run = job->releases[job->at];
    if (heapfile_punch(job->file, run.first, run.npages) < 0) {
        next_phase(job, COMMIT_COMMITTING);
        return 0;
    }
    job->npunched = ++job->at;
    return run.npages;
}

/* Commit, or punch again, one piece. Returns its pages. */
static uint64_t work_one(commit_job *job)
{
    bool undoing = job->phase == COMMIT_UNDOING;
    const page_run *run = &job->runs[job->at];
    page_no first;
    uint64_t npages;
    int r;

    if (job->at == job->nruns) {
        job->undone = undoing;
        next_phase(job, COMMIT_DONE);
        return 0;
    }
    first = page_at(run->first.n + job->at_page);
    npages = undoing ? PUNCH_PAGES : SLICE_PAGES - first.n % HUGE_PAGES;
    if (npages > run->npages - job->at_page)
        npages = run->npages - job->at_page;
    r = undoing ? heapfile_punch(job->file, first, npages) : heapfile_commit(job->file, first, npages);
    if (r == 0 && !undoing && job->described)
        heapfile_commit_metadata(job->file, first, npages);
    if (r < 0 && undoing) {
        next_phase(job, COMMIT_DONE);
    } else if (r < 0) {
        job->result = r;
        next_phase(job, COMMIT_UNDOING);
    } else {
        job->at_page += npages;
        if (job->at_page == run->npages) {
            job->at++;
            job->at_page = 0;
        }
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

static void commit_after(uv_work_t *work, int status)
{
    commit_job *job = work->data;

    if (status >= 0 && job->phase != COMMIT_DONE && !job->pool->stopping &&
        uv_queue_work(job->pool->loop, &job->work, commit_work, commit_after) == 0)
        return;
    if (job->phase != COMMIT_DONE && job->result == 0)
        job->result = -ECANCELED;
    job->pool->nrunning--;
    job->done(job, job->result);
}

bool commit_start(commit_job *job, commit_pool *pool)
{
    uint64_t npages = 0;

    for (size_t i = 0; i < job->nruns; i++)
        npages += job->runs[i].npages;
    for (size_t i = 0; i < job->nreleases; i++)
        npages += job->releases[i].npages;
    job->work.data = job;
    job->pool = pool;
    job->npunched = 0;
    job->result = 0;
    job->undone = false;
    next_phase(job, COMMIT_RELEASING);
    if ((npages > INLINE_PAGES || pool->nrunning > 0) &&
        uv_queue_work(pool->loop, &job->work, commit_work, commit_after) == 0) {
        pool->nrunning++;
        return false;
    }
    while (job->phase != COMMIT_DONE)
        commit_work(&job->work);
    return true;
}
