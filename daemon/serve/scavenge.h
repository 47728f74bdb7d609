/*
 * Scavenge: gives free pages back to the OS, in the background and on request. Go's scavenger
 * (runtime/mgcscavenge.go).
 */
#ifndef GOALLOC_DAEMON_SERVE_SCAVENGE_H
#define GOALLOC_DAEMON_SERVE_SCAVENGE_H

#include <uv.h>

#include "daemon/heap/mheap.h"
#include "daemon/memory/helper.h"
#include "daemon/memory/scavpace.h"

#define SCAVENGE_RUNS_MAX 256u

/* Free pages that stay committed, above what was in use at the peak of the last second. */
#define SCAVENGE_RETAIN_PERCENT 10u
/* Of a memory limit: where the background scavenger begins, so that forced releases are rare. */
#define SCAVENGE_LIMIT_PERCENT 95u

typedef struct scavenger {
    mheap *heap;
    uv_timer_t timer;
    bool trace;
    bool keeps_stock; /* the goal is not below what is in use and SHM_STOCK_PAGES */

    /* The job that the helper has. */
    helper *helper;
    bool busy;
    helper_punch punch;
    helper_hole holes[2 * SCAVENGE_RUNS_MAX]; /* pages, then chunks whose metadata goes */
    size_t nholes;
    bool is_forced;
    uint64_t work_ns;
    void (*on_job_end)(void *data, uint64_t npages); /* its pages are free again, so many of them released */
    void *on_job_end_data;

    /* Chunks (a page of each) that may be empty by now. */
    page_no emptied[SCAVENGE_RUNS_MAX];
    size_t nemptied;
    page_no look_at; /* where an idle heap is looked through for more of them */
    uint64_t warned_ns;

    /* Pace and goal. */
    scavpace pace;
    uint64_t worked_at_ns;   /* when the last work ended */
    uint64_t not_before_ns;  /* the end of the sleep */
    uint64_t gen_end_ns;
    uint64_t recorded_pages; /* peak of the pages in use in the last generation */
    uint64_t past_pages;     /* the same of the one before */
    uint64_t ntakes_seen;
    unsigned nquiet;         /* generations in a row in which no pages were put into use */
    bool exhausted;          /* there was nothing to release, in this generation */

    /* A release of everything, which somebody waits for. */
    bool forced;
    uint64_t forced_pages;
    uint64_t forced_left; /* of what was free when it was asked for */
    void (*on_forced)(void *data, uint64_t npages);
    void *on_forced_data;

    /* Pages released so far; and when a trace line was last written. */
    uint64_t nbackground;
    uint64_t neager;
    uint64_t traced_background;
    uint64_t traced_eager;
} scavenger;

/*
 * Start on loop, until its timer is closed; a job that is under way then still ends. trace: a line on stderr for every
 * second in which something was released. keeps_stock: ahead.c prepares one.
 */
void scavenge_start(scavenger *s, uv_loop_t *loop, mheap *heap, helper *punches, bool trace, bool keeps_stock,
                    void (*on_job_end)(void *data, uint64_t npages), void *data);

/*
 * Release all pages that are free now. on_forced is called with the number of pages released when that is done. If such
 * a release is under way already, it goes on with these pages too, and one call of on_forced is for all who asked.
 */
void scavenge_force(scavenger *s, void (*on_forced)(void *data, uint64_t npages), void *data);

/* A limit has changed: look now whether there is something to release, and not at the next time. */
void scavenge_look(scavenger *s);

/* A lease has released a range of pages because of the memory limit, and put it back. */
void scavenge_note_eager(scavenger *s, page_range range);

/* Free pages with memory that the background scavenger would release by now. */
uint64_t scavenge_surplus_pages(const scavenger *s);

#endif
