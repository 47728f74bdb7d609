/*
 * Helper: a process of the daemon's own that calls fallocate on the heap's files, since a client can make that wait.
 */
#ifndef GOALLOC_DAEMON_MEMORY_HELPER_H
#define GOALLOC_DAEMON_MEMORY_HELPER_H

#include <pthread.h>
#include <uv.h>

#include "daemon/memory/heapfile.h"
#include "daemon/memory/zeroing.h"

/* Holes that one request may name. */
#define HELPER_HOLES_MAX 512u

typedef struct helper_hole {
    enum holes_kind kind;
    page_range range;
} helper_hole;

/*
 * A request for holes. The caller owns it, and the pages, and changes neither before done has been called: however late
 * that is, the pages may lose their memory at any moment until then.
 */
typedef struct helper_punch {
    struct helper_punch *prev;
    struct helper_punch *next;
    const helper_hole *holes;
    size_t nholes;
    void (*done)(struct helper_punch *p);
    void (*late)(struct helper_punch *p); /* called once if it takes 2 s; or NULL */
    void *data;
    size_t ndone;    /* in done: so many of the holes, from the first on, are there */
    uint64_t cpu_ns; /* in done: what that took */
    uint64_t id;
    uint64_t sent_ns; /* when it was first sent */
    bool sent;        /* to the helper that there is */
    bool is_late;
} helper_punch;

/* What a helper tells who has it. */
typedef struct helper_watch {
    void (*on_stuck)(void *data, bool stuck); /* the first request is late; none is any more */
    void (*on_old_gone)(void *data, unsigned place); /* of helper_old_hole() */
    void *data;
} helper_watch;

/* All but the calls' part is the loop's thread's. */
typedef struct helper {
    heapfile *file;
    uv_loop_t *loop;
    helper_watch watch;
    pid_t pid; /* 0: there is none */
    bool stopping;
    uint64_t epoch;

    /* Holes. */
    int punch_fd;
    uv_poll_t poll;
    uv_timer_t timer;
    helper_punch *punches; /* not answered, in the order of their sending; after a helper's death some are unsent */
    size_t npunches;
    uint64_t last_id;
    uint64_t restart_ns;
    bool stuck;         /* the first request is late, and the log says so */
    uint64_t stuck_ns;  /* when that one was sent */

    /* Helpers of daemons before this one that are still there, by their places. */
    helper_hole old[HELPERS_MAX];
    bool has_old[HELPERS_MAX];

    /* Memory: any thread of the pool. */
    pthread_mutex_t call_lock;
    int call_fd;
    uint64_t call_id;
    uint64_t call_ns;      /* when the one under way was begun */
    shm_u64 not_before_ns; /* no calls before that time */
    shm_u64 pause_ns;
} helper;

/*
 * Start one for the file, whose map is set up, and have file->helper point to it. If no process can be had, that is
 * tried again each second. h is zeroed. The caller ends it with helper_stop() in the loop, and helper_end() after it.
 */
void helper_start(helper *h, uv_loop_t *loop, heapfile *file, const helper_watch *watch);

/* Nobody is waited for: done is called for what is under way, with ndone 0. */
void helper_stop(helper *h);
void helper_end(helper *h);

/* What the helper of a dead daemon that has that place may still be punching; NULL: nothing. */
const helper_hole *helper_old_hole(const helper *h, unsigned place);

/* Ask for holes. False: it can't be asked now, and nothing happens. Otherwise done is called, in a later turn. */
bool helper_punch_start(helper *h, helper_punch *p) __attribute__((warn_unused_result));

/* True while the first request is late: some client holds a lock of the files. */
bool helper_is_stuck(const helper *h);

#define HELPER_E_BUSY 1

/*
 * Put memory behind the pages by fallocate. 0, -errno, HELPER_E_BUSY: it did not begin in time, was given up half-way,
 * or such calls are not made at present: the caller has to do it otherwise. It waits 20 ms at most, and for a call of
 * another thread as long again. From any thread of the pool.
 */
int helper_fill(helper *h, page_range range) __attribute__((warn_unused_result));

/* The same in parts: begin waits for another thread's, and if true, end must follow, with at most one send between. */
bool helper_fill_begin(helper *h) __attribute__((warn_unused_result));
void helper_fill_send(helper *h, page_range range);
int helper_fill_end(helper *h);

/* True if fills are made at present. From any thread. */
bool helper_fills(const helper *h);

#endif
