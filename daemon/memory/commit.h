/*
 * Commit: memory behind pages before they are leased, so that a client never meets SIGBUS or the OOM killer at first
 * touch; and the release of other pages before that, when the memory limit asks for it.
 */
#ifndef GOALLOC_DAEMON_MEMORY_COMMIT_H
#define GOALLOC_DAEMON_MEMORY_COMMIT_H

#include <uv.h>

#include "daemon/memory/heapfile.h"

/* Runs that one job releases at most: what is above has to wait for the background scavenger. */
#define COMMIT_RELEASES_MAX 256u

typedef struct commit_job commit_job;
typedef void (*commit_done_fn)(commit_job *job, int result);

enum commit_phase { COMMIT_RELEASING = 0, COMMIT_COMMITTING, COMMIT_UNDOING, COMMIT_DONE };

/* Where the jobs of one loop run. Zeroed at the start. */
typedef struct commit_pool {
    uv_loop_t *loop;
    unsigned nrunning;
    bool stopping; /* jobs under way end early, with -ECANCELED */
} commit_pool;

/* Runs of pages that are to get memory. The caller owns it and keeps it where it is until done is called. */
struct commit_job {
    uv_work_t work;
    heapfile *file;
    page_run *runs; /* the caller's array */
    size_t nruns;
    page_run *releases; /* the caller's array of COMMIT_RELEASES_MAX, or NULL; punched first */
    size_t nreleases;
    size_t npunched; /* of these, punched: the first ones */
    bool described;  /* they will be short spans: what describes them gets memory too */
    int result;      /* of committing */
    bool undone;     /* after a failure: none of the runs has memory */
    commit_done_fn done;
    void *data;

    /* How far it is. */
    commit_pool *pool;
    enum commit_phase phase;
    size_t at;        /* run or release */
    uint64_t at_page; /* within the run */
};

/* Add a run to the job, joined with the last one when it follows it. There is room for one more. */
void commit_add(commit_job *job, page_no first, uint64_t npages);

/*
 * Do it. Little is done at once, if nothing else is under way (returns true, job->result and undone say how it went,
 * done is not called); more goes to the thread pool (returns false, done is called by the loop when it is through).
 */
bool commit_start(commit_job *job, commit_pool *pool) __attribute__((warn_unused_result));

#endif
