/*
 * Release: free pages of a heap without a daemon lose their memory at once.
 */
#ifndef GOALLOC_TESTS_SUPPORT_RELEASE_H
#define GOALLOC_TESTS_SUPPORT_RELEASE_H

#include "daemon/heap/mheap.h"

/* Release up to npages free pages, highest first. */
static inline void heap_release(mheap *heap, uint64_t npages)
{
    holes files = heapfile_holes(heap->file);

    mheap_flush_cache(heap);
    while (npages > 0) {
        page_range run = mheap_take_aside(heap, ASIDE_RELEASE_DENSE, (page_range){ .npages = npages }, NULL);

        if (run.npages == 0 || holes_punch(&files, HOLES_PAGES, run) < 0)
            return;
        mheap_put_back(heap, ASIDE_RELEASE_DENSE, run, true);
        npages -= run.npages < npages ? run.npages : npages; /* more, not to split a huge page */
    }
}

#endif
