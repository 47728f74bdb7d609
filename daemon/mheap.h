/*
 * mheap: spans out of pages. Go's runtime/mheap.go.
 */
#ifndef GOALLOC_DAEMON_MHEAP_H
#define GOALLOC_DAEMON_MHEAP_H

#include <stdio.h>

#include "daemon/adopt.h"
#include "daemon/heapfile.h"
#include "daemon/pagealloc.h"
#include "daemon/spanlist.h"

/* What a caller handles itself (positive, never forwarded). */
enum {
    MHEAP_E_EXHAUSTED = 1, /* no run of free pages that long in the arena, or over the memory limit */
};

typedef struct mcentral {
    spanlist partial; /* at least one free object when last looked at */
    spanlist full;    /* none */
} mcentral;

typedef struct mheap {
    heapfile *file;
    shm_map *map; /* of file */
    pagealloc *pages;
    span_link *links; /* one a page, used at a span's first page; sparse */
    mcentral central[SPAN_CLASS_COUNT];
    adopt_table *adopted; /* adoptions end with their span at the latest */
    uint64_t limit_pages; /* soft limit of committed pages, 0: none */
    uint64_t ninuse_pages;
    uint64_t ninuse_spans;
} mheap;

/* Set up over an empty heap. limit_bytes 0: none. 0, -ENOMEM. The caller ends it with mheap_end(); file is borrowed. */
int mheap_init(mheap *heap, heapfile *file, uint64_t limit_bytes) __attribute__((warn_unused_result));
void mheap_end(mheap *heap);

/*
 * Take npages pages, the first a multiple of align_pages (a power of two), and make a span of class spc of them: its
 * description and page map are written and its bits are zero; its lease word still says FREE, and it is in no list.
 * *ret_nscavenged: how many of its pages have no memory behind them, for the caller to commit. 0, MHEAP_E_EXHAUSTED.
 * Cost: logarithmic, plus npages words of the page map; above the memory limit also the release of free pages.
 */
int mheap_alloc_span(mheap *heap, uint64_t npages, uint64_t align_pages, span_class spc, page_no *ret_span,
                     uint64_t *ret_nscavenged) __attribute__((warn_unused_result));

/* Give the span's pages back. It is in no list. punched: there is no memory behind them any more. */
void mheap_free_span(mheap *heap, page_no span, bool punched);

/* Release up to npages free pages to the OS, highest first. Returns how many. */
uint64_t mheap_release(mheap *heap, uint64_t npages);

/*
 * Walk the spans in address order: the first span at or above *pos whose lease word is not FREE; *pos moves behind it.
 * Page 0: there is none any more.
 */
page_no mheap_next_span(const mheap *heap, page_no *pos);

/* Pages with memory behind them (in use or kept free), and pages of the heap without. */
uint64_t mheap_committed_pages(const mheap *heap);
uint64_t mheap_released_pages(const mheap *heap);

/*
 * Check page allocator, descriptions, page map, lists and counters against each other. 0, -EUCLEAN after printing
 * what differs. Linear in the heap.
 */
int mheap_validate(const mheap *heap, FILE *err) __attribute__((warn_unused_result));

#endif
