/*
 * Commit: fallocate of leased ranges, in libuv's thread pool when it takes longer than a hop there and back.
 *
 * Called by request. Data: none shared; the pages are leased already, or taken for being released, so nobody else gets
 * them meanwhile. Releases come first, so that the arena does not pass the memory limit even for a moment. fallocate
 * costs about 0.9 us for 4 KiB, so 64 KiB take as long as two context switches: that is where the thread pool begins.
 *
 * Dies the client meanwhile, its leases end and the pages may be leased again, and committed again, which does no harm.
 */
#include "daemon/commit.h"

#define INLINE_PAGES (64 * KIB / PAGE_BYTES)

void commit_add(commit_job *job, page_no first, uint64_t npages)
{
    page_run *last = job->nruns > 0 ? &job->runs[job->nruns - 1] : NULL;

    if (last != NULL && last->first.n + last->npages == first.n)
        last->npages += npages;
    else
        job->runs[job->nruns++] = (page_run){ .first = first, .npages = npages };
}

static void commit_work(uv_work_t *work)
{
    commit_job *job = work->data;

    job->result = 0;
    job->npunched = 0;
    while (job->npunched < job->nreleases &&
           heapfile_punch(job->file, job->releases[job->npunched].first, job->releases[job->npunched].npages) == 0)
        job->npunched++;
    for (size_t i = 0; i < job->nruns && job->result == 0; i++)
        job->result = heapfile_commit(job->file, job->runs[i].first, job->runs[i].npages);
}

static void commit_after(uv_work_t *work, int status)
{
    commit_job *job = work->data;

    job->done(job, status < 0 ? status : job->result);
}

bool commit_start(commit_job *job, uv_loop_t *loop)
{
    uint64_t npages = 0;

    for (size_t i = 0; i < job->nruns; i++)
        npages += job->runs[i].npages;
    for (size_t i = 0; i < job->nreleases; i++)
        npages += job->releases[i].npages;
    job->work.data = job;
    if (npages > INLINE_PAGES && uv_queue_work(loop, &job->work, commit_work, commit_after) == 0)
        return false;
    commit_work(&job->work);
    return true;
}
