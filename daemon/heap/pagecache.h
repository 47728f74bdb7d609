/*
 * Pagecache: up to 64 pages of one aligned window, from which short ranges are taken without searching. Go's pageCache
 * (runtime/mpagecache.go).
 */
#ifndef GOALLOC_DAEMON_HEAP_PAGECACHE_H
#define GOALLOC_DAEMON_HEAP_PAGECACHE_H

#include "daemon/heap/pagealloc.h"

#define PAGECACHE_PAGES 64u

/* Fewer pages than this come out of the cache: a quarter of it. */
#define PAGECACHE_NPAGES_BELOW (PAGECACHE_PAGES / 4)

typedef struct pagecache {
    page_no first;      /* of the window, a multiple of 64 */
    uint64_t free;      /* bit i: page first + i is in the cache; taken in the page allocator */
    uint64_t scavenged; /* those of them that have no memory behind them */
} pagecache;

/*
 * Take the lowest range of npages out of the cache; outputs as pagealloc_alloc(). False: it has no such range.
 * 0 < npages < PAGECACHE_NPAGES_BELOW.
 */
bool pagecache_alloc(pagecache *cache, uint64_t npages, page_no *ret_first, uint64_t *ret_nscavenged)
    __attribute__((warn_unused_result));

/* Fill an empty cache from the lowest window with a free page. False: no page is free. */
bool pagecache_fill(pagecache *cache, pagealloc *pages) __attribute__((warn_unused_result));

/* Give all pages of the cache back to the page allocator. */
void pagecache_flush(pagecache *cache, pagealloc *pages);

/* How many pages the cache has, and how many of these have no memory behind them. */
uint64_t pagecache_npages(const pagecache *cache);
uint64_t pagecache_nscavenged(const pagecache *cache);

#endif
