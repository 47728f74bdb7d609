/*
 * pagealloc: which pages of the arena are free. Go's page allocator (runtime/mpagealloc.go).
 *
 * Bookkeeping over page numbers alone: no memory of the arena is touched, the caller commits and releases it. One
 * thread. "With memory" is a free page that may have memory behind it; "scavenged" is one that has none.
 */
#ifndef GOALLOC_DAEMON_HEAP_PAGEALLOC_H
#define GOALLOC_DAEMON_HEAP_PAGEALLOC_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "daemon/heap/checking.h"
#include "shm/units.h"

typedef struct pagealloc pagealloc;

/*
 * Create an allocator for pages [0, max_pages), none of which has been added yet (see pagealloc_grow). Address space is
 * reserved in proportion to max_pages; memory is touched only where pages have been added. 0, -ENOMEM, -EINVAL
 * (max_pages is 0 or above 2^32; pages from 2^32 - 512 on can't be added, since a page_no could not name their end).
 * The caller owns *ret.
 */
int pagealloc_new(pagealloc **ret, uint64_t max_pages) __attribute__((warn_unused_result));

/* Free a (NULL: nothing) and return NULL. */
pagealloc *pagealloc_free(pagealloc *a);

/*
 * Add pages [first, first + npages) as free and scavenged (no memory behind them, contents zero). Both are multiples of
 * 512, and first is not below the end of what was added before. Asserted. Pages in a gap are neither free nor taken.
 */
void pagealloc_grow(pagealloc *a, page_no first, uint64_t npages);

/*
 * Take the lowest range of npages free pages (address-ordered first fit). True on success: *ret_first is its first page
 * and *ret_nscavenged says how many of its pages had no memory behind them; their scavenged bits are cleared. False:
 * there is no such range; outputs untouched. npages > 0. Cost: logarithmic in the heap's size; one chunk if the chunk
 * of the search address has such a range.
 */
bool pagealloc_alloc(pagealloc *a, uint64_t npages, page_no *ret_first, uint64_t *ret_nscavenged)
    __attribute__((warn_unused_result));

/*
 * As pagealloc_alloc(), with a first page that is a multiple of align_pages, a power of two. It finds the lowest free
 * range of npages + align_pages - 1 pages and takes only the aligned npages of it.
 */
bool pagealloc_alloc_aligned(pagealloc *a, uint64_t npages, uint64_t align_pages, page_no *ret_first,
                             uint64_t *ret_nscavenged) __attribute__((warn_unused_result));

/* Take exactly [first, first + npages), which must all be free (asserted); returns how many of them were scavenged. */
uint64_t pagealloc_alloc_at(pagealloc *a, page_no first, uint64_t npages);

/*
 * Take all free pages of the lowest window of 64 pages, aligned to 64, that has any. True: *ret_first is the window's
 * first page, bit i of *ret_free says that page i of it has been taken now, bit i of *ret_scavenged (a subset) that
 * there is no memory behind it. False: no page is free.
 */
bool pagealloc_take_window(pagealloc *a, page_no *ret_first, uint64_t *ret_free, uint64_t *ret_scavenged)
    __attribute__((warn_unused_result));

/* Give back the pages of a window that are in `free`, all taken (asserted); those in `scavenged` too have no memory. */
void pagealloc_free_window(pagealloc *a, page_no first, uint64_t free, uint64_t scavenged);

/* Give back [first, first + npages), all taken (asserted). scavenged: there is no memory behind them any more. */
void pagealloc_free_range(pagealloc *a, page_no first, uint64_t npages, bool scavenged);

/*
 * Find the highest range of free pages that have memory behind them, within one 512-page chunk, take it, and return it.
 * npages 0: there is none. If it is longer than max_pages, its upper end of max_pages is taken, or more: if that begins
 * within a 2 MiB block all of which is free with memory, it is taken from the block's first page on. Chunks that are
 * dense now, or were when the last generation ended, are skipped, unless force. The caller punches the range and gives
 * it back with pagealloc_put_back(); until then nobody gets it, but it doesn't count as in use (see scavindex.h).
 */
page_range pagealloc_take_unscavenged(pagealloc *a, uint64_t max_pages, bool force);

/* Give back a range of pagealloc_take_unscavenged(). scavenged: there is no memory behind it any more. */
void pagealloc_put_back(pagealloc *a, page_range range, bool scavenged);

/* The next generation of the density rule begins (see scavindex.h). */
void pagealloc_next_gen(pagealloc *a);

/*
 * True if the chunk that page lies in is unused: all of it is free and scavenged, and pages of it have been taken since
 * what describes them was last released.
 */
bool pagealloc_is_unused_chunk(const pagealloc *a, page_no page);

/* If the chunk is unused, take all of it, so that what describes its pages can be released: true, *ret_first. */
bool pagealloc_take_unused_chunk(pagealloc *a, page_no page, page_no *ret_first) __attribute__((warn_unused_result));

/* Give the chunk back. released: what describes its pages is gone, so it is unused again only after it was used. */
void pagealloc_free_unused_chunk(pagealloc *a, page_no first, bool released);

/* True if page has been added and is taken. */
bool pagealloc_is_taken(const pagealloc *a, page_no page);

/* True if all of [first, first + npages) has been added and is free. */
bool pagealloc_is_free(const pagealloc *a, page_no first, uint64_t npages);

/* The first taken page at or above from; the end of what was added if there is none. For walking the heap. */
page_no pagealloc_next_taken(const pagealloc *a, page_no from);

/* Count the pages of [first, first + npages), added or not, that are taken, and those that are free with memory. */
void pagealloc_count(const pagealloc *a, page_no first, uint64_t npages, uint64_t *ret_ntaken, uint64_t *ret_nbacked);

uint64_t pagealloc_npages_added(const pagealloc *a);      /* pages added so far */
uint64_t pagealloc_npages_free(const pagealloc *a);       /* of these, free, scavenged or not */
uint64_t pagealloc_npages_scavenged(const pagealloc *a);  /* of the free ones, without memory behind them */
page_no pagealloc_end(const pagealloc *a);                /* one above the highest page added */

/*
 * Recount everything from the chunk bitmaps and compare with all summary levels, searchAddr and counters. 0, or
 * -EUCLEAN after printing what differs to err (NULL: print nothing). Cost: linear in the pages added; for tests and
 * goallocctl check.
 */
int pagealloc_validate(const pagealloc *a, FILE *err) __attribute__((warn_unused_result));

/* The same in slices of budget chunks or summaries (checking.h), from a zeroed *check on: also VALIDATE_E_MORE. */
typedef struct pagealloc_check {
    unsigned nlevels; /* that have been looked at, the lowest first */
    uint64_t at;      /* the next entry of the level */
} pagealloc_check;

int pagealloc_validate_step(const pagealloc *a, pagealloc_check *check, unsigned budget, FILE *err)
    __attribute__((warn_unused_result));

/* Print a picture of the taken, free and scavenged ranges. */
void pagealloc_dump(const pagealloc *a, FILE *out);

#endif
