/*
 * Pagecache: two words that stand for 64 pages.
 *
 * Called by mheap for requests below 16 pages, which are nearly all. Calls pagealloc and pagebits. Data: private to the
 * daemon. The cache's pages are taken in the page allocator, so nobody else gets them and the scavenger does not see
 * them. Therefore the cache is flushed before memory counts as exhausted, before free pages have to be released, and
 * when the heap is idle.
 *
 * As in Go, freed pages go to the page allocator, never back into the cache. Invariant: scavenged is a subset of free.
 */
#include "daemon/heap/pagecache.h"

#include <assert.h>

#include "daemon/heap/pagebits.h"

bool pagecache_alloc(pagecache *cache, uint64_t npages, page_no *ret_first, uint64_t *ret_nscavenged)
{
    unsigned at;
    uint64_t mask;

    assert(npages > 0 && npages < PAGECACHE_NPAGES_BELOW);
    at = pagebits_find_in_word(cache->free, (unsigned)npages);
    if (at == PAGECACHE_PAGES)
        return false;
    mask = ((UINT64_C(1) << npages) - 1) << at;
    *ret_first = page_at(cache->first.n + at);
    *ret_nscavenged = cache->scavenged == 0 ? 0 : (uint64_t)__builtin_popcountll(cache->scavenged & mask);
    cache->free &= ~mask;
    cache->scavenged &= ~mask;
    return true;
}

bool pagecache_fill(pagecache *cache, pagealloc *pages)
{
    assert(cache->free == 0);
    return pagealloc_take_window(pages, &cache->first, &cache->free, &cache->scavenged);
}

void pagecache_flush(pagecache *cache, pagealloc *pages)
{
    pagealloc_free_window(pages, cache->first, cache->free, cache->scavenged);
    *cache = (pagecache){ .free = 0 };
}

uint64_t pagecache_npages(const pagecache *cache)
{
    return (uint64_t)__builtin_popcountll(cache->free);
}

uint64_t pagecache_nscavenged(const pagecache *cache)
{
    return (uint64_t)__builtin_popcountll(cache->scavenged);
}
