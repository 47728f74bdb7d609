/*
 * Largecache: large spans that this process leases and that hold no object, for its next large objects. It offers
 * them to the daemon, which may take them.
 */
#ifndef GOALLOC_LIB_LARGECACHE_H
#define GOALLOC_LIB_LARGECACHE_H

#include <pthread.h>
#include <stdbool.h>

#include "shm/limits.h"

#define LARGECACHE_NODES     512u
#define LARGECACHE_GHOSTS    64u
#define LARGECACHE_BINS      256u
#define LARGECACHE_MIN_PAGES (UINT64_C(4) * SHM_RUN_PAGES_MAX) /* the budget at the beginning: some short ones */
#define LARGECACHE_MAX_PAGES (128 * MIB / PAGE_BYTES) /* and at most */
#define LARGECACHE_RETAIN_PAGES (MIB / PAGE_BYTES) /* the newest span is not offered if it is no longer than that */

/* A span that is cached, or lent to an object that is much shorter. Links are node numbers. */
typedef struct largecache_node {
    uint64_t nleases;   /* of the lease for which the cached span is offered; 0: it is not */
    page_no first;
    uint32_t npages;
    uint32_t slack;     /* pages that the object does not need; 0: the span is cached */
    uint16_t next_same; /* with the same hash */
    uint16_t next;      /* in its bin; or of the unused nodes */
    uint16_t prev;
    uint16_t older;     /* of all that are cached */
    uint16_t newer;
    bool noscan;
} largecache_node;

/* All zero, with the lock made: empty. Node 0 is no node. */
typedef struct largecache {
    pthread_mutex_t lock; /* guards the rest; under it at most the marks are locked */
    uint64_t ncached_pages;
    uint64_t nslack_pages;
    uint64_t budget; /* pages: both together */
    uint64_t nonempty[2][LARGECACHE_BINS / 64];
    uint32_t nused; /* nodes that were ever used */
    uint32_t nlent;
    uint32_t nghosts; /* written so far */
    uint16_t unused;
    uint16_t oldest;
    uint16_t newest;
    uint16_t bins[2][LARGECACHE_BINS];
    uint16_t by_page[LARGECACHE_NODES];
    uint32_t ghosts[LARGECACHE_GHOSTS]; /* lengths of spans that have gone back */
    largecache_node nodes[LARGECACHE_NODES];
} largecache;

/* Spans that have left the cache and have to go back to the daemon. What is in it before a call is lost. */
typedef struct largecache_out {
    uint32_t n;
    uint32_t spans[LARGECACHE_NODES];
} largecache_out;

extern largecache large_cache; /* the process's */

/*
 * Take out a span of at least npages whose first page, counted from base_page, is a multiple of align_pages. Page 0:
 * there is none. Cost: constant, but for the alignment.
 */
page_no largecache_take(largecache *lc, uint64_t npages, uint64_t base_page, uint64_t align_pages, bool noscan);

/* A span has lost its object. It is cached, and what is too much by that, or it itself, goes to *out. */
void largecache_put(largecache *lc, page_no first, uint64_t npages, bool noscan, largecache_out *out);

/*
 * Take out the span that begins at page. *ret_npages: its length, 0 if it is not cached. Page 0: not that either, or
 * the daemon has taken it.
 */
page_no largecache_take_at(largecache *lc, page_no page, uint64_t *ret_npages);

/*
 * No span of npages could be taken: the budget follows. What is too much now goes to *out. is_gone says whether a lent
 * span of that length is this process's no longer.
 */
void largecache_note_miss(largecache *lc, uint64_t npages, bool (*is_gone)(page_no first, uint64_t npages),
                          largecache_out *out);

/* The span's length is another now, or it is not this process's any more: it is not lent. */
void largecache_forget(largecache *lc, page_no first);

/*
 * True if the process knows what to do with a span that the daemon says it leases, whatever it is. With the turn of the
 * connection, so that no lease begins meanwhile.
 */
bool largecache_knows(largecache *lc, page_no first);

/*
 * Pages that are cached, or were until the daemon took them; and so many of them, the oldest first, go to *out, and the
 * budget sinks by them.
 */
uint64_t largecache_npages(largecache *lc);
void largecache_shrink(largecache *lc, uint64_t npages, largecache_out *out);

/* Everything that is cached goes to *out, and the budget is what it was at the beginning. */
void largecache_empty(largecache *lc, largecache_out *out);

/* Forget everything: the leases are gone. And: in the child of a fork, the lock too, whoever holds it. */
void largecache_clear(largecache *lc);
void largecache_reset(largecache *lc);

/* Recount. False: something is wrong. */
bool largecache_validate(const largecache *lc);

#endif
