/*
 * Commit: puts memory behind pages before a client gets them, so that it never meets SIGBUS or the OOM killer at first
 * touch; and releases other pages before that, where the memory limit asks for it.
 */
#ifndef GOALLOC_DAEMON_MEMORY_COMMIT_H
#define GOALLOC_DAEMON_MEMORY_COMMIT_H

#include <uv.h>

#include "daemon/memory/heapfile.h"

/* Ranges that one job releases at most: the background scavenger has to release the rest. */
#define COMMIT_RELEASES_MAX 256u

typedef struct commit_job commit_job;
typedef void (*commit_done_fn)(commit_job *job, int result);

enum commit_phase { COMMIT_RELEASING = 0, COMMIT_COMMITTING, COMMIT_UNDOING, COMMIT_DONE };

/* The jobs of one loop. Zeroed at the start, but for loop and file. */
typedef struct commit_pool {
    uv_loop_t *loop;
    heapfile *file;
    shm_u32 nrunning; /* jobs under way; the loop's thread writes it, who zeroes reads it */
    uint64_t npages;  /* that the jobs under way are to commit */
    bool stopping;    /* jobs under way end early, with -ECANCELED */
    bool zeroing;     /* zero_work is under way */
    uv_work_t zero_work;
} commit_pool;

/* Pages that are to get memory. The caller owns the job and does not move it before done has been called. */
struct commit_job {
    uv_work_t work;
    heapfile *file;
    page_range *ranges; /* ranges to commit: the caller's array */
    size_t nranges;
    page_range *releases; /* ranges to punch first: the caller's array of COMMIT_RELEASES_MAX, or NULL */
    size_t nreleases;
    size_t npunched; /* so many of the releases, from the first on, have been punched */
    bool described;  /* they will be short spans: their bits and descriptions get memory too */
    int result;      /* of committing: 0, -errno */
    bool undone;     /* after a failure: none of the ranges has memory */
    commit_done_fn done;
    void *data;

    /* How far it is. */
    commit_pool *pool;
    enum commit_phase phase;
    size_t at;        /* index of a range or release */
    uint64_t at_page; /* within the range */
};

/* Add a range to the job, joined with the last one if it follows it. The array has room for one more. */
void commit_add(commit_job *job, page_no first, uint64_t npages);

/*
 * Start the job. Returns true if it was small, or the thread pool can't be had: then it is finished, job->result and
 * undone say how it went, and done is not called. Returns false if it went to the thread pool: the loop calls done when
 * it has ended.
 */
bool commit_start(commit_job *job, commit_pool *pool) __attribute__((warn_unused_result));

#endif
