/*
 * Runcache: runs of pages that this process leases and that hold no object, for its next large objects.
 */
#ifndef GOALLOC_LIB_RUNCACHE_H
#define GOALLOC_LIB_RUNCACHE_H

#include <stdbool.h>

#include "shm/limits.h"

#define RUNCACHE_NODES     512u
#define RUNCACHE_GHOSTS    64u
#define RUNCACHE_BINS      256u
#define RUNCACHE_MIN_PAGES (4u * SHM_RUN_PAGES_MAX)  /* the budget at the beginning: some short large objects */
#define RUNCACHE_MAX_PAGES (128 * MIB / PAGE_BYTES) /* and at most */

/* A run of which something is known: it is kept, or lent to an object that is much shorter. Links are node numbers. */
typedef struct runcache_node {
    page_no run;
    uint32_t npages;
    uint32_t slack; /* pages that the object does not need; 0: the run is kept */
    uint16_t next_same; /* with the same hash */
    uint16_t next; /* in its bin; or of the unused nodes */
    uint16_t prev;
    uint16_t older; /* of all that are kept */
    uint16_t newer;
    bool noscan;
} runcache_node;

/* All zero: empty. Node 0 is no node. */
typedef struct runcache {
    uint64_t nkept_pages;
    uint64_t nslack_pages;
    uint64_t budget; /* pages: both together */
    uint64_t nonempty[2][RUNCACHE_BINS / 64];
    uint32_t nused; /* nodes that were ever used */
    uint32_t nlent;
    uint32_t nghosts; /* written so far */
    uint16_t unused;
    uint16_t oldest;
    uint16_t newest;
    uint16_t bins[2][RUNCACHE_BINS];
    uint16_t by_page[RUNCACHE_NODES];
    uint32_t ghosts[RUNCACHE_GHOSTS]; /* lengths of runs that have gone back */
    runcache_node nodes[RUNCACHE_NODES];
} runcache;

/* Runs that have left the cache and have to go back to the daemon. */
typedef struct runcache_out {
    uint32_t n;
    uint32_t runs[RUNCACHE_NODES];
} runcache_out;

/*
 * Take out a run of at least npages whose first page, counted from base_page, is a multiple of align_pages. Page 0:
 * there is none. Cost: constant, but for the alignment.
 */
page_no runcache_take(runcache *rc, uint64_t npages, uint64_t base_page, uint64_t align_pages, bool noscan);

/* A run has lost its object. It is kept, and what is too much by that, or it itself, goes to *out. */
void runcache_put(runcache *rc, page_no run, uint64_t npages, bool noscan, runcache_out *out);

/* Take out the run that begins at page. Page 0: it is not kept. *ret_npages: its length. */
page_no runcache_take_at(runcache *rc, page_no page, uint64_t *ret_npages);

/* A run of npages could not be taken: the budget follows. What is too much now goes to *out. */
void runcache_note_miss(runcache *rc, uint64_t npages, runcache_out *out);

/* The run's length is another now, or it is not this process's any more: it is not lent. */
void runcache_forget(runcache *rc, page_no run);

/* Walk the runs that are lent: *pos is 0 at first. Page 0: that was all. */
page_no runcache_next_lent(const runcache *rc, uint32_t *pos, uint64_t *ret_npages);

/* So many pages of what is kept, the oldest first, go to *out, and the budget sinks by them. */
void runcache_shrink(runcache *rc, uint64_t npages, runcache_out *out);

/* Everything that is kept goes to *out, and the budget is what it was at the beginning. */
void runcache_empty(runcache *rc, runcache_out *out);

/* Recount. False: something is wrong. */
bool runcache_validate(const runcache *rc);

#endif
