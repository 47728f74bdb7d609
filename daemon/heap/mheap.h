/*
 * mheap: spans out of pages. Go's runtime/mheap.go.
 */
#ifndef GOALLOC_DAEMON_HEAP_MHEAP_H
#define GOALLOC_DAEMON_HEAP_MHEAP_H

#include <stdio.h>

#include "daemon/heap/adopt.h"
#include "daemon/memory/heapfile.h"
#include "daemon/heap/left.h"
#include "daemon/heap/metabook.h"
#include "daemon/heap/pagecache.h"
#include "daemon/heap/pagebits.h"
#include "daemon/heap/spanlist.h"

/* What a caller handles itself (positive, never forwarded). */
enum {
    MHEAP_E_EXHAUSTED = 1, /* no run of free pages that long in the arena */
};

/* One set of each pair is swept, the other is not; they change roles when a sweep begins (see mcentral.c). */
typedef struct mcentral {
    spanlist partial[2]; /* at least one free object when last looked at */
    spanlist full[2];    /* none; large objects */
} mcentral;

typedef struct mheap {
    heapfile *file;
    shm_map *map; /* of file */
    pagealloc *pages;
    pagecache cache;
    span_link *links; /* one a page, used at a span's first page; sparse */
    mcentral central[SPAN_CLASS_COUNT];
    uint32_t sweep_gen;   /* its lowest bit says which of each mcentral's sets are swept */
    adopt_table *adopted; /* adoptions end with their span at the latest */
    left_table *left;     /* so do claims on what sessions have left */
    uint64_t limit_bytes; /* soft limit of arena and metadata, 0: none */
    uint64_t metadata_bytes; /* as last asked of the kernel: for people to look at */
    metabook book;           /* what of it counts towards the limit */
    uint64_t ninuse_pages;
    uint64_t ninuse_spans;
    uint64_t npeak_pages;  /* most pages in use since the scavenger's generation began */
    uint64_t ntakes;       /* times that pages were put into use, ever */
    uint64_t nreleasing_pages; /* taken, in no span: being released */
    uint64_t ngrowth_pages;    /* taken, to be added to a large object when they have memory */
    uint64_t nahead_pages;     /* taken, in no span: being prepared, see ahead.c */
    uint64_t nempty_pages;     /* taken, without memory: what describes them is being released */
    bool distrust_backed; /* free pages that count as having memory may have none: all that is leased is committed */
} mheap;

/*
 * Set up over an empty heap. limit_bytes 0: none. 0, -ENOMEM. The caller ends it with mheap_end(); file is borrowed.
 */
int mheap_init(mheap *heap, heapfile *file, uint64_t limit_bytes) __attribute__((warn_unused_result));

/*
 * The same over a heap that a daemon before has left: what its spans region says is checked and followed. CENTRAL spans
 * are in the unswept sets, leased ones in no list (recover.c gives them to their sessions). What is free counts as
 * having memory if its chunk was ever used. 0, -ENOMEM, -EUCLEAN with *ret_why (not to be
 * believed: the heap is as it was). Linear in the pages, some nanoseconds each, and the spans.
 */
int mheap_recover(mheap *heap, heapfile *file, uint64_t limit_bytes, const char **ret_why)
    __attribute__((warn_unused_result));
void mheap_end(mheap *heap);

/*
 * Take npages pages, the first a multiple of align_pages (a power of two), and make a span of class spc of them: its
 * description and page map are written and its bits are zero; its lease word still says FREE, and it is in no list.
 * *ret_nscavenged: how many of its pages have no memory behind them, for the caller to commit. 0, MHEAP_E_EXHAUSTED.
 * Cost: logarithmic, plus npages words of the page map. The memory limit is the caller's business.
 */
int mheap_alloc_span(mheap *heap, uint64_t npages, uint64_t align_pages, span_class spc, page_no *ret_span,
                     uint64_t *ret_nscavenged) __attribute__((warn_unused_result));

/* Give the span's pages back. It is in no list. punched: there is no memory behind them any more. */
void mheap_free_span(mheap *heap, page_no span, bool punched);

/*
 * A large span is to grow by npages pages right behind it. Taken if they are free and the arena reaches so far: true,
 * *ret_nscavenged as above. The pages belong to no span until mheap_extend_span() adds them, or mheap_cancel_growth()
 * gives them back.
 */
bool mheap_take_growth(mheap *heap, page_no span, uint64_t npages, uint64_t *ret_nscavenged)
    __attribute__((warn_unused_result));
void mheap_extend_span(mheap *heap, page_no span, uint64_t npages);
void mheap_cancel_growth(mheap *heap, page_no first, uint64_t npages, bool punched);

/* A large span gives up all but its first npages pages, at least one. */
void mheap_shrink_span(mheap *heap, page_no span, uint64_t npages);

/*
 * Take the highest run of up to npages free pages that have memory, to release it: longer where it would split a huge
 * page (see pagealloc.h); npages 0: there is none. Not out of dense chunks, unless force. The caller punches it and
 * says so with mheap_end_release(); until then the pages are nobody's and count as committed.
 */
page_run mheap_begin_release(mheap *heap, uint64_t npages, bool force);
void mheap_end_release(mheap *heap, page_run run, bool punched);

/* Release npages free pages at once, highest first, in such runs. Returns how many. Slow: for tests and tools. */
uint64_t mheap_release(mheap *heap, uint64_t npages);

/*
 * Take [first, first + npages), within one heap arena, to put memory behind them ahead of their use: if all of them are
 * free and have none. The heap grows for it if they follow its end. True: the caller commits them and says so with
 * mheap_end_ahead(); until then they are nobody's and count as committed. described: so has what describes them.
 */
bool mheap_begin_ahead(mheap *heap, page_no first, uint64_t npages) __attribute__((warn_unused_result));
void mheap_end_ahead(mheap *heap, page_run run, bool backed, bool described);

/*
 * If the chunk that page lies in has nothing in it and no memory: take it, to release what describes its pages (their
 * bits and descriptions); true, *ret_first. The caller calls heapfile_punch_metadata() and says so.
 */
bool mheap_begin_unused_chunk(mheap *heap, page_no page, page_no *ret_first) __attribute__((warn_unused_result));
void mheap_end_unused_chunk(mheap *heap, page_no first, bool released);

/* Give the cached pages back to the page allocator, so that the scavenger sees them. */
void mheap_flush_cache(mheap *heap);

/*
 * Bytes by which the arena's committed pages and the metadata are above percent % of the memory limit; 0: below, or
 * there is none. The same with npages more committed.
 */
uint64_t mheap_over_limit(const mheap *heap, unsigned percent);
uint64_t mheap_over_limit_with(const mheap *heap, unsigned percent, uint64_t npages);

/* Pages that can come into use before the memory limit is reached, if all that is free is released for them. */
uint64_t mheap_room_pages(const mheap *heap);

/* The metadata that counts towards the memory limit: that which the daemon has given memory. */
uint64_t mheap_charged_bytes(const mheap *heap);

/* The span's kept bits may be in use from now on. */
void mheap_note_kept(mheap *heap, page_no span);

/* Ask the kernel what the metadata occupies, and count the tables anew. Two system calls. */
void mheap_refresh_metadata(mheap *heap);

/*
 * Walk the spans in address order: the first span at or above *pos whose lease word is not FREE; *pos moves behind it.
 * Page 0: there is none any more.
 */
page_no mheap_next_span(const mheap *heap, page_no *pos);

/*
 * Pages of the heap are in use (ninuse_pages), free with memory, or free without ("released"; page 0 is one of
 * these): together all that have been added. Committed are those with memory.
 */
uint64_t mheap_added_pages(const mheap *heap);
uint64_t mheap_committed_pages(const mheap *heap);
uint64_t mheap_released_pages(const mheap *heap);
/* Of the committed ones those that are free now, not in use and not taken for anything. */
uint64_t mheap_free_backed_pages(const mheap *heap);

/*
 * Check page allocator, descriptions, page map, lists and counters against each other. 0, -EUCLEAN after printing
 * what differs. Linear in the heap.
 */
int mheap_validate(const mheap *heap, FILE *err) __attribute__((warn_unused_result));

#endif
