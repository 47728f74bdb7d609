/*
 * mheap: spans out of pages. Go's runtime/mheap.go.
 */
#ifndef GOALLOC_DAEMON_HEAP_MHEAP_H
#define GOALLOC_DAEMON_HEAP_MHEAP_H

#include <stdio.h>

#include "daemon/heap/adopt.h"
#include "daemon/memory/heapfile.h"
#include "daemon/heap/estate.h"
#include "daemon/heap/group.h"
#include "daemon/heap/left.h"
#include "daemon/heap/metabook.h"
#include "daemon/heap/pagealloc.h"
#include "daemon/heap/pagecache.h"
#include "daemon/heap/pagebits.h"
#include "daemon/heap/roots.h"
#include "daemon/heap/spanlist.h"
#include "shm/sizeclass.h"

/* What a caller handles itself: no range of free pages that long in the arena. */
enum { MHEAP_E_EXHAUSTED = 1 };

/* Pages aside: taken, in no span, while something happens to the memory behind them (mheap_take_aside()). */
enum mheap_aside {
    ASIDE_RELEASE,
    ASIDE_RELEASE_DENSE,
    ASIDE_AHEAD,
    ASIDE_GROWTH,
    ASIDE_UNUSED,
    ASIDE_FENCED, /* and by mheap_put_fence() */
    ASIDE_EXCESS,
    ASIDE_MAPPING,  /* a long span, whose page map is being written (mheap_begin_span()) */
    ASIDE_CLEARING, /* what was one */
    ASIDE_KINDS
};

/* Pages that nobody gets, those included that the heap has not grown to yet. npages 0: no fence. */
typedef struct mheap_fence {
    page_range range;
    enum mheap_aside kind; /* ASIDE_FENCED: they may have memory; ASIDE_EXCESS: by the books they have none */
} mheap_fence;

/* One for each helper of a daemon that is gone, by its place; and the last, for excess.c. */
#define MHEAP_FENCES       (HELPERS_MAX + 1)
#define MHEAP_FENCE_EXCESS HELPERS_MAX

/* Of a check that is under way (validate.c): where it is, and what it has counted. */
typedef struct mheap_checked {
    unsigned stage;
    pagealloc_check pages;
    uint32_t group;   /* the next one of which the lists are looked at; 0: the heap's own */
    page_no span;     /* the last one; its pages up to the one that links[0] names have been looked at */
    uint64_t nspans;
    uint64_t npages;
} mheap_checked;

/* Entries of the page map that are written at once: more are written in slices. */
#if defined(GOALLOC_CRASH_POINTS) /* so that megabytes come to their points, too */
#define MHEAP_MAP_PAGES 128u
#else
#define MHEAP_MAP_PAGES 65536u
#endif

/* Page map entries that are being written, or cleared. */
typedef struct mheap_mapping {
    struct mheap_mapping *prev;
    struct mheap_mapping *next;
    page_range range;
    uint64_t left; /* entries; writing goes upwards, clearing downwards */
    bool clears;
    bool punched;              /* clears: the pages have no memory */
    void (*done)(void *data);  /* of a span that has been begun */
    void *data;
} mheap_mapping;

typedef struct mheap {
    heapfile *file;
    shm_map *map; /* of file */
    pagealloc *pages;
    pagecache cache;
    span_link *links; /* one a page, used at a span's first page; sparse */
    mcentral central[MCENTRALS]; /* of spans that have no owner; a group's spans are in its own */
    uint32_t sweep_gen;   /* its lowest bit says which of each mcentral's sets are swept */
    adopt_table *adopted; /* adoptions end with their span at the latest */
    group_table *groups;  /* who owns spans that no session leases */
    estate_table *estates; /* and whose account the pages are on that nobody leases */
    left_table *left;     /* so do claims on what sessions have left */
    roots *roots;         /* looked at before pages are used for other objects; NULL: there are none */
    uint64_t limit_bytes; /* soft limit of arena and metadata, 0: none */
    uint64_t max_bytes;   /* hard limit of the same; the caller sets it before the first span is made */
    uint64_t metadata_bytes; /* as last asked of the kernel: for people to look at */
    metabook book;           /* what of it counts towards the limit */
    uint64_t ninuse_pages;
    uint64_t ninuse_spans;
    uint64_t npeak_pages;  /* most pages in use since the scavenger's generation began */
    uint64_t ntakes;       /* times that pages were put into use, ever */
    uint64_t naside_pages[ASIDE_KINDS];
    mheap_fence fences[MHEAP_FENCES];
    mheap_mapping *mappings;       /* under way, whose turn it is first */
    void (*on_mapping)(void *data); /* there is one: mheap_map_some() is to be called. NULL: all is cleared at once */
    void *on_mapping_data;
    uint64_t ndoubted_pages; /* of the committed ones another daemon has left free: they may have no memory */
    bool distrust_backed; /* free pages that count as having memory may have none: all that is leased is committed */
    mheap_checked checked;
} mheap;

/* Set up over an empty heap. limit_bytes 0: none. 0, -ENOMEM. The caller ends it with mheap_end(); file is borrowed. */
int mheap_init(mheap *heap, heapfile *file, uint64_t limit_bytes) __attribute__((warn_unused_result));

/*
 * The same over a heap that another daemon has left (recover.c): what its spans region says is checked and followed.
 * CENTRAL spans are in the unswept sets, leased ones in no list: lease_table_recover() gives them to their lessees.
 * Free pages count as having memory if any of their chunk was ever used. 0, -ENOMEM, -EUCLEAN with *ret_why: the spans
 * region is damaged, and the heap is as it was. Linear in the pages, some nanoseconds each, and the spans.
 */
int mheap_recover(mheap *heap, heapfile *file, uint64_t limit_bytes, const char **ret_why)
    __attribute__((warn_unused_result));

/* What both begin with: private memory, and no pages yet. 0, -ENOMEM. */
int mheap_init_private(mheap *heap, heapfile *file, uint64_t limit_bytes) __attribute__((warn_unused_result));
/* And what they do at their end: origins of spans (shm/origin.h) mean something from now on. */
void mheap_keep_origins(mheap *heap);
void mheap_end(mheap *heap);

/*
 * Take npages pages, the first a multiple of align_pages (a power of two), and make a span of class spc of them: its
 * description and page map are written and its bits are zero; its lease word still says FREE, and it is in no list.
 * *ret_nscavenged: how many of its pages have no memory behind them, for the caller to commit. 0, MHEAP_E_EXHAUSTED.
 * Cost: logarithmic, plus npages words of the page map. The memory limit is the caller's business.
 */
int mheap_alloc_span(mheap *heap, uint64_t npages, uint64_t align_pages, span_class spc, page_no *ret_span,
                     uint64_t *ret_nscavenged) __attribute__((warn_unused_result));

/*
 * The same for a span of more than MHEAP_MAP_PAGES, in slices: done is called by mheap_map_some() when the span is
 * whole. Until then its pages are aside, and the caller keeps m.
 */
int mheap_begin_span(mheap *heap, uint64_t npages, uint64_t align_pages, span_class spc, page_no *ret_span,
                     uint64_t *ret_nscavenged, mheap_mapping *m) __attribute__((warn_unused_result));

/* Write or clear a slice of the page map. *ret_freed: all pages of one have come free. False: nothing is left to do. */
bool mheap_map_some(mheap *heap, bool *ret_freed);

/* Give the span's pages back. It is in no list. punched: there is no memory behind them any more. */
void mheap_free_span(mheap *heap, page_no span, bool punched);

/* A large span gets the npages pages right behind it, which are aside as ASIDE_GROWTH. */
void mheap_extend_span(mheap *heap, page_no span, uint64_t npages);

/* A large span gives up all but its first npages pages, at least one. */
void mheap_shrink_span(mheap *heap, page_no span, uint64_t npages);

/*
 * Take pages aside and return them; npages 0: they can't be had. What the caller does with them, and which are taken:
 *   ASIDE_RELEASE  punches them: the highest range of free pages that have memory, within a chunk; range.npages or
 *                  fewer, or more if it would split a huge page. ASIDE_RELEASE_DENSE: out of dense chunks too
 *   ASIDE_AHEAD    commits them ahead of their use: range, within one heap arena, if all of it is free without memory
 *   ASIDE_GROWTH   commits them and adds them to the large span before them: range, if all of it is free
 *   ASIDE_FENCED   punches them, whether they have memory or not: range, if all of it is free
 *   ASIDE_EXCESS   the same; by the books they have none
 *   ASIDE_UNUSED   punches what describes them: the chunk that range.first lies in, if all of it is free without memory
 * The heap grows for ASIDE_AHEAD and ASIDE_GROWTH. ASIDE_UNUSED and ASIDE_EXCESS pages count as released, all others as
 * committed. *ret_nscavenged (NULL: not asked for): how many of those of ASIDE_GROWTH have no memory.
 */
page_range mheap_take_aside(mheap *heap, enum mheap_aside kind, page_range range, uint64_t *ret_nscavenged);

/* They are free again. punched: there is no memory behind them; ASIDE_UNUSED: behind what describes them. */
void mheap_put_back(mheap *heap, enum mheap_aside kind, page_range range, bool punched);

/*
 * Fence a range off: those of its pages that the heap has are aside, and so are others as soon as it grows to them.
 * False, and nothing has changed: some of them are taken. The fence at that place is none yet.
 */
bool mheap_put_fence(mheap *heap, unsigned place, enum mheap_aside kind, page_range range)
    __attribute__((warn_unused_result));

/* Its pages are free again, and count as before. */
void mheap_remove_fence(mheap *heap, unsigned place);

/* Give the cached pages back to the page allocator, so that the scavenger sees them. */
void mheap_flush_cache(mheap *heap);

/* The soft limit, or the hard one if that is lower. 0: there is none. */
uint64_t mheap_limit_bytes(const mheap *heap);

/*
 * Bytes by which the arena's committed pages, npages more, and the metadata are above percent % of that limit.
 * 0: they are not, or there is none.
 */
uint64_t mheap_over_limit(const mheap *heap, unsigned percent, uint64_t npages);

/* Pages that can come into use before the memory limit is reached, if all that is free is released for them. */
uint64_t mheap_room_pages(const mheap *heap);

/*
 * The hard limit, which counts as a soft one, too: true if npages more may come into use, with what describes them at
 * worst, and keep_bytes are left. By how many bytes what is committed exceeds it.
 */
bool mheap_max_allows(const mheap *heap, uint64_t npages, uint64_t keep_bytes);
uint64_t mheap_over_max(const mheap *heap);

/* Pages of the arena that are in no span and not aside. */
uint64_t mheap_free_pages(const mheap *heap);

/* Ask the kernel what the metadata occupies, and count the tables anew. Two system calls. */
void mheap_refresh_metadata(mheap *heap);

/*
 * Walk the spans in address order: the first span at or above *pos whose lease word is not FREE; *pos moves behind it.
 * Page 0: there is none any more.
 */
page_no mheap_next_span(const mheap *heap, page_no *pos);

/*
 * Of [first, first + npages), of which ntaken are taken by pagealloc_count(), add those in spans to ret, by size class.
 * Returns the steps that it took: a span or a page in none each, so at most ntaken.
 */
uint64_t mheap_count_classes(const mheap *heap, page_no first, uint64_t npages, uint64_t ntaken,
                             uint32_t ret[SIZE_CLASS_COUNT + 1]);

/*
 * Pages of the heap are in use (ninuse_pages), free with memory, or free without ("released"; page 0 is one of
 * these): together all pagealloc_npages_added(). Committed are those with memory; aside those of any kind.
 */
uint64_t mheap_committed_pages(const mheap *heap);
uint64_t mheap_released_pages(const mheap *heap);
uint64_t mheap_aside_pages(const mheap *heap);

/* The most that were committed since the heap was made, without those of which that is not certain (ndoubted_pages). */
uint64_t mheap_peak_pages(const mheap *heap);

/* Of the committed ones: free now; free or aside, but not for growth; being released. */
uint64_t mheap_free_backed_pages(const mheap *heap);
uint64_t mheap_idle_pages(const mheap *heap);
uint64_t mheap_releasing_pages(const mheap *heap);

/*
 * Check page allocator, adoptions, left, metabook, descriptions, lease words, page map, lists and counters against each
 * other (validate.c), in slices of budget spans, or as much work as these are (checking.h): 0, VALIDATE_E_MORE,
 * -EUCLEAN after printing what differs. Linear in the heap. mheap_validate() does it at once; there is one place up to
 * which a heap is checked, so a check in slices that is under way is at its end then, too.
 */
void mheap_validate_begin(mheap *heap);
int mheap_validate_step(mheap *heap, unsigned budget, FILE *err) __attribute__((warn_unused_result));
int mheap_validate(mheap *heap, FILE *err) __attribute__((warn_unused_result));

#endif
