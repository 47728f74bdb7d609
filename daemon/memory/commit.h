/*
 * Commit: puts memory behind pages before a client gets them, so that it never meets SIGBUS or the OOM killer at first
 * touch.
 */
#ifndef GOALLOC_DAEMON_MEMORY_COMMIT_H
#define GOALLOC_DAEMON_MEMORY_COMMIT_H

#include <uv.h>

#include "daemon/memory/helper.h"

/* Threads of libuv's pool, unless $UV_THREADPOOL_SIZE says otherwise: see commit.c. */
#define COMMIT_THREADS 16u

typedef struct commit_job commit_job;
typedef void (*commit_done_fn)(commit_job *job, int result);

/*
 * What jobs of one origin have got: pages, counted from where the others of the same whole were. Zeroed first. A
 * session is a part of its user; users, and the stock, are wholes.
 */
typedef struct commit_share {
    uint64_t npages;
    struct commit_share *whole; /* NULL: it is one. It outlives its parts' jobs */
    uint64_t part;              /* of a whole: the share of the part whose job has last been given a thread */
} commit_share;

/* The jobs of one loop. */
typedef struct commit_pool {
    uv_loop_t *loop;
    heapfile *file;
    commit_job *waiting; /* for a thread, in the order of their coming */
    commit_job *running;
    unsigned nrunning;
    unsigned nslow;   /* of these, so many have been at one slice for long */
    uint64_t share;   /* of the whole whose job has last been given a thread */
    shm_u32 njobs;    /* not ended; the loop's thread writes it, who zeroes reads it */
    uint64_t npages;  /* that they are to commit */
    bool stopping;    /* jobs end early, with -ECANCELED */
    bool zeroing;     /* zero_work is under way */
    uv_work_t zero_work;
    uv_timer_t timer; /* looks for slow ones, while others wait */
} commit_pool;

/* Pages that are to get memory. The caller owns the job and does not move it before done has been called. */
struct commit_job {
    uv_work_t work;
    commit_job *prev;
    commit_job *next;
    heapfile *file;
    page_range *ranges; /* the caller's array; not empty */
    size_t nranges;
    bool described;      /* they will be short spans: their bits and descriptions get memory too */
    commit_share *share; /* whose turn it is goes by this */
    int result;          /* 0, -errno: some of the pages may have memory */
    commit_done_fn done;
    void *data;

    /* How far it is. */
    commit_pool *pool;
    size_t at;            /* index of a range */
    uint64_t at_page;     /* within the range */
    uint64_t slice_pages; /* of the slice under way: at most, */
    uint64_t ndone;       /* and so far */
    uint64_t since_ns;    /* when it began */
    bool is_slow;
};

/* pool is zeroed. Ends when its loop's handles are closed, and all jobs have ended. */
void commit_pool_start(commit_pool *pool, uv_loop_t *loop, heapfile *file);

/* Add a range to the job, joined with the last one if it follows it. The array has room for one more. */
void commit_add(commit_job *job, page_no first, uint64_t npages);

/* Start the job. The loop calls done when it has ended, in a later turn. */
void commit_start(commit_job *job, commit_pool *pool);

#endif
