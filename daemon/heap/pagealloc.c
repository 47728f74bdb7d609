/*
 * pagealloc: address-ordered first fit over page bitmaps with a radix tree of summaries above them
 * (runtime/mpagealloc.go).
 *
 * Called by mheap and pagecache. Calls pagebits and scavindex. All data is private to the daemon. A chunk is 512 pages
 * (4 MiB) with 512 alloc bits (1: taken) and 512 scavenged bits (1: free, and no memory behind it). A chunk that is
 * taken, freed or added as a whole is plain: its counters say what its bits would, and the bits are written when a part
 * of it changes. So 400 GiB cost 100,000 counters, not 100,000 times 128 bytes. Above the chunks lie five levels of
 * summaries. An entry is one 64-bit word:
 *
 *        start (21 bits) | max (21) | end (21)        how many of its pages are free at the beginning, in the longest
 *                                                     range, at the end
 *        bit 63 alone                                 all of its 2^21 pages are free, which 21 bits can't say
 *
 *        level      0         1         2         3        4
 *        pages    2^21      2^18      2^15      2^12      2^9        each entry is the merger of 8 below it
 *
 * Go's root has 2^14 entries for 48 bits of addresses. Here pages are counted from the arena's base, so the root is as
 * long as the arena needs: 4 entries for 64 GiB. Address space is reserved for max_pages; memory is touched only where
 * pages have been added. An untouched summary reads as 0, "nothing free", so nothing is found where nothing was added.
 * Therefore `search` may point into a gap, and Go's list of mapped ranges (findMappedAddr) is not needed.
 *
 * Allocating n pages:
 *   1. All pages below `search` are taken. If its chunk has a range of n, the first fit is there.
 *   2. Otherwise the tree is searched: from the root entry of `search` on, free pages are added up over the borders of
 *      neighbours (end, whole, start). If they reach n, that is the first fit. If an entry's max reaches n, the search
 *      goes down into that entry and adds up anew. On each level the first entry with a free page is a lower bound of
 *      the lowest free page.
 *   3. Bits are set; scavenged bits, if the chunk has any by its counters, are counted and cleared. The summaries of
 *      the touched chunks are recomputed from their words (0 if all pages are taken), then level by level those above
 *      them, until a level stays the same (update).
 *   4. `search` rises: behind the range if it begins at `search` or is a single page; otherwise to the bound of step 2;
 *      to the end if no page is free. A free below it lowers it.
 *
 * Scavenging takes the highest range of free pages with memory out of the highest chunk that scavindex names. If that
 * begins within a 2 MiB block all of which is free with memory, it takes the block from its beginning: to split a huge
 * page takes longer than to release it (measured 28 us for the first 64 KiB, 20 us for all 2 MiB).
 *
 * Invariants (pagealloc_validate, linear): summaries are what the bits say; no free page below search; counters of
 * chunks and of the whole add up; scavenged bits only on free pages.
 *
 * Nothing here survives the daemon; a restart rebuilds it from the spans region.
 */
#include "daemon/heap/pagealloc.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "daemon/heap/pagebits.h"
#include "daemon/heap/scavindex.h"
#include "daemon/memory/hugepages.h"

#define LEVELS        5
#define LEAF          (LEVELS - 1)
#define FANOUT        8u
#define MAX_PAGES     (UINT64_C(1) << 32)
#define END_MAX       (MAX_PAGES - CHUNK_PAGES)
#define WINDOW_PAGES  64u

_Static_assert(CHUNK_PAGES % HUGE_PAGES == 0, "a huge page lies in one chunk");

static const unsigned level_shift[LEVELS] = { 21, 18, 15, 12, 9 }; /* pages an entry covers, as a power of two */

typedef struct chunk {
    uint64_t alloc[CHUNK_WORDS];
    uint64_t scavenged[CHUNK_WORDS];
} chunk;

struct pagealloc {
    uint64_t max_pages;
    uint64_t end; /* one above the highest page added */
    uint64_t nadded;
    uint64_t nfree;
    uint64_t nscavenged;
    uint64_t search;
    chunk *chunks;
    scavindex scav;
    uint64_t *summaries[LEVELS];
};

/* --- life --- */

static uint64_t level_entries(const pagealloc *a, int level)
{
    /* Whole groups of 8 on each level below the root, so that a merger never reads past the end. */
    uint64_t roots = ((a->max_pages - 1) >> level_shift[0]) + 1;

    return roots << (level_shift[0] - level_shift[level]);
}

static uint64_t nchunks(const pagealloc *a)
{
    return level_entries(a, LEAF);
}

/* Of all arrays, which lie one behind the other. */
static uint64_t reserved_bytes(const pagealloc *a)
{
    uint64_t bytes = nchunks(a) * (sizeof(*a->chunks) + sizeof(*a->scav.chunks));

    for (int l = 0; l < LEVELS; l++)
        bytes += level_entries(a, l) * sizeof(*a->summaries[l]);
    return bytes;
}

int pagealloc_new(pagealloc **ret, uint64_t max_pages)
{
    pagealloc *a;
    uint64_t *at;

    if (max_pages == 0 || max_pages > MAX_PAGES)
        return -EINVAL;
    a = calloc(1, sizeof(*a));
    if (a == NULL)
        return -ENOMEM;
    a->max_pages = max_pages;
    a->chunks = mmap(NULL, reserved_bytes(a), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (a->chunks == MAP_FAILED) {
        free(a);
        return -ENOMEM;
    }
    a->scav.chunks = (chunk_use *)(a->chunks + nchunks(a));
    at = (uint64_t *)(a->scav.chunks + nchunks(a));
    for (int l = 0; l < LEVELS; l++) {
        a->summaries[l] = at;
        at += level_entries(a, l);
    }
    *ret = a;
    return 0;
}

pagealloc *pagealloc_free(pagealloc *a)
{
    if (a == NULL)
        return NULL;
    (void)munmap(a->chunks, reserved_bytes(a));
    free(a);
    return NULL;
}

/* --- bits --- */

/*
 * The bits of a chunk, to be read. Those of a plain one, all of whose pages are alike, are what its counters say: 512
 * taken; or none taken, and 512 or none of them with memory.
 */
static const chunk *bits_of(const pagealloc *a, uint64_t c)
{
#define EACH_WORD(bits) { bits, bits, bits, bits, bits, bits, bits, bits }
    static const chunk taken = { .alloc = EACH_WORD(UINT64_MAX) };
    static const chunk scavenged = { .scavenged = EACH_WORD(UINT64_MAX) };
    static const chunk backed;
    const chunk_use *use = &a->scav.chunks[c];

    if (!use->plain)
        return &a->chunks[c];
    return use->ntaken == CHUNK_PAGES ? &taken : use->nbacked == 0 ? &scavenged : &backed;
}

/* The same, to be changed in part. */
static chunk *bits_to_change(pagealloc *a, uint64_t c)
{
    if (a->scav.chunks[c].plain) {
        a->chunks[c] = *bits_of(a, c);
        a->scav.chunks[c].plain = false;
    }
    return &a->chunks[c];
}

/* --- changing ranges --- */

/* The merger of what lies below entry i of level l, which is above the leaves. */
static uint64_t merged(const pagealloc *a, int l, uint64_t i)
{
    return summary_pack(summary_merge(&a->summaries[l + 1][i * FANOUT], FANOUT, UINT64_C(1) << level_shift[l + 1]));
}

/* Chunks [lo, hi] may have changed: recompute their summaries, and what is above them until nothing changes. */
static void update(pagealloc *a, uint64_t lo, uint64_t hi)
{
    bool changed = false;

    for (uint64_t c = lo; c <= hi; c++) {
        unsigned ntaken = a->scav.chunks[c].ntaken;
        uint64_t packed = ntaken == CHUNK_PAGES ? 0
                          : ntaken == 0         ? summary_pack((summary){ CHUNK_PAGES, CHUNK_PAGES, CHUNK_PAGES })
                                                : summary_pack(pagebits_summarize(a->chunks[c].alloc));

        changed |= packed != a->summaries[LEAF][c];
        a->summaries[LEAF][c] = packed;
    }
    for (int l = LEAF - 1; l >= 0 && changed; l--) {
        changed = false;
        lo /= FANOUT;
        hi /= FANOUT;
        for (uint64_t i = lo; i <= hi; i++) {
            uint64_t packed = merged(a, l, i);

            changed |= packed != a->summaries[l][i];
            a->summaries[l][i] = packed;
        }
    }
}

/* The part of [*page, end) in one chunk; *page moves behind it. */
typedef struct piece {
    uint64_t chunk;
    unsigned from;
    unsigned to;
} piece;

static piece next_piece(uint64_t *page, uint64_t end)
{
    piece p = { *page / CHUNK_PAGES, (unsigned)(*page % CHUNK_PAGES), CHUNK_PAGES };

    if (end - *page < CHUNK_PAGES - p.from)
        p.to = p.from + (unsigned)(end - *page);
    *page += p.to - p.from;
    return p;
}

void pagealloc_grow(pagealloc *a, page_no first, uint64_t npages)
{
    uint64_t end = first.n + npages;

    assert(first.n % CHUNK_PAGES == 0 && npages % CHUNK_PAGES == 0 && npages > 0);
    assert(first.n >= a->end && end <= a->max_pages && end <= END_MAX);
    for (uint64_t c = first.n / CHUNK_PAGES; c < end / CHUNK_PAGES; c++) {
        a->scav.chunks[c].added = a->scav.chunks[c].plain = true;
    }
    a->end = end;
    a->nadded += npages;
    a->nfree += npages;
    a->nscavenged += npages;
    if (first.n < a->search)
        a->search = first.n;
    update(a, first.n / CHUNK_PAGES, end / CHUNK_PAGES - 1);
}

static bool is_whole(piece p)
{
    return p.to - p.from == CHUNK_PAGES;
}

/* How many of the pages are scavenged, all of which are free: by the chunk's counters, where they say it. */
static unsigned count_scavenged(const pagealloc *a, piece p)
{
    const chunk_use *use = &a->scav.chunks[p.chunk];

    if (use->ntaken + use->nbacked == CHUNK_PAGES)
        return 0;
    return is_whole(p) ? CHUNK_PAGES - use->nbacked : pagebits_count(bits_of(a, p.chunk)->scavenged, p.from, p.to);
}

/* The pages, which are free, are taken: their bits, unless it is all of the chunk. */
static void set_taken(pagealloc *a, piece p, unsigned nscavenged)
{
    chunk *c;

    assert(a->scav.chunks[p.chunk].added);
    if (is_whole(p)) {
        assert(a->scav.chunks[p.chunk].ntaken == 0);
        a->scav.chunks[p.chunk].plain = true;
        return;
    }
    c = bits_to_change(a, p.chunk);
    assert(pagebits_all(c->alloc, p.from, p.to, false));
    pagebits_fill(c->alloc, p.from, p.to, true);
    if (nscavenged > 0)
        pagebits_fill(c->scavenged, p.from, p.to, false);
}

/* The pages, which are taken, are free. */
static void set_free(pagealloc *a, piece p, bool scavenged)
{
    chunk *c;

    if (is_whole(p)) {
        assert(a->scav.chunks[p.chunk].ntaken == CHUNK_PAGES);
        a->scav.chunks[p.chunk].plain = true;
        return;
    }
    c = bits_to_change(a, p.chunk);
    assert(pagebits_all(c->alloc, p.from, p.to, true));
    pagebits_fill(c->alloc, p.from, p.to, false);
    if (scavenged)
        pagebits_fill(c->scavenged, p.from, p.to, true);
}

uint64_t pagealloc_alloc_at(pagealloc *a, page_no first, uint64_t npages)
{
    uint64_t end = first.n + npages;
    uint64_t nscavenged = 0;

    assert(npages > 0 && end <= a->end);
    for (uint64_t page = first.n; page < end;) {
        piece p = next_piece(&page, end);
        unsigned n = count_scavenged(a, p);

        set_taken(a, p, n);
        scavindex_alloc(&a->scav, p.chunk, p.to - p.from, p.to - p.from - n);
        nscavenged += n;
    }
    a->nfree -= npages;
    a->nscavenged -= nscavenged;
    update(a, first.n / CHUNK_PAGES, (end - 1) / CHUNK_PAGES);
    return nscavenged;
}

void pagealloc_free_range(pagealloc *a, page_no first, uint64_t npages, bool scavenged)
{
    uint64_t end = first.n + npages;

    assert(npages > 0 && end <= a->end);
    for (uint64_t page = first.n; page < end;) {
        piece p = next_piece(&page, end);

        set_free(a, p, scavenged);
        scavindex_free(&a->scav, p.chunk, p.to - p.from, scavenged ? 0 : p.to - p.from);
    }
    a->nfree += npages;
    if (scavenged)
        a->nscavenged += npages;
    if (first.n < a->search)
        a->search = first.n;
    update(a, first.n / CHUNK_PAGES, (end - 1) / CHUNK_PAGES);
}

/* --- searching --- */

/*
 * Step 2 of the essay. True: *ret is the first page of the lowest range of npages. *ret_bound: no page below it is free
 * (it may be search itself).
 */
static bool find(const pagealloc *a, uint64_t npages, uint64_t *ret, uint64_t *ret_bound)
{
    uint64_t i = a->search >> level_shift[0];
    uint64_t stop = (a->end + (UINT64_C(1) << level_shift[0]) - 1) >> level_shift[0];
    bool bounding = true; /* all pages below entry i of this level are taken */

    *ret_bound = a->search;
    for (int l = 0; l < LEVELS; l++) {
        uint64_t pages_each = UINT64_C(1) << level_shift[l];
        uint64_t tail = 0; /* free pages right before entry i */
        uint64_t down = stop;

        for (; i < stop; i++) {
            uint64_t packed = a->summaries[l][i];

            if (packed == 0) {
                tail = 0;
                continue;
            }

            summary s = summary_unpack(packed);

            if (bounding && i * pages_each > *ret_bound)
                *ret_bound = i * pages_each;
            if (tail + s.start >= npages) {
                *ret = i * pages_each - tail;
                return true;
            }
            if (s.max >= npages) {
                down = i;
                break;
            }
            bounding = false;
            tail = s.end == pages_each ? tail + pages_each : s.end;
        }
        if (down == stop)
            return false;
        if (l == LEAF) {
            *ret = down * CHUNK_PAGES + pagebits_find(bits_of(a, down)->alloc, 0, (unsigned)npages);
            return true;
        }
        i = down * FANOUT;
        stop = i + FANOUT;
    }
    return false;
}

/* Steps 1 and 2, and of step 4 what holds before the pages are taken. */
static bool find_from_search(pagealloc *a, uint64_t npages, uint64_t *ret)
{
    uint64_t c = a->search / CHUNK_PAGES;
    uint64_t bound;
    bool found;

    if (a->nfree == 0)
        a->search = a->end;
    if (npages > a->nfree)
        return false;
    if (npages <= CHUNK_PAGES && summary_max(a->summaries[LEAF][c]) >= npages) {
        *ret = c * CHUNK_PAGES +
               pagebits_find(bits_of(a, c)->alloc, (unsigned)(a->search % CHUNK_PAGES), (unsigned)npages);
        return true;
    }
    found = find(a, npages, ret, &bound);
    a->search = bound;
    return found;
}

bool pagealloc_alloc(pagealloc *a, uint64_t npages, page_no *ret_first, uint64_t *ret_nscavenged)
{
    return pagealloc_alloc_aligned(a, npages, 1, ret_first, ret_nscavenged);
}

bool pagealloc_alloc_aligned(pagealloc *a, uint64_t npages, uint64_t align_pages, page_no *ret_first,
                             uint64_t *ret_nscavenged)
{
    uint64_t page;

    assert(npages > 0 && align_pages > 0 && (align_pages & (align_pages - 1)) == 0);
    if (!find_from_search(a, npages + align_pages - 1, &page))
        return false;
    page = (page + align_pages - 1) & ~(align_pages - 1);
    *ret_nscavenged = pagealloc_alloc_at(a, page_at(page), npages);
    *ret_first = page_at(page);
    if (page == a->search || (npages == 1 && align_pages == 1))
        a->search = page + npages;
    return true;
}

/* --- windows of 64 pages, for the page cache --- */

bool pagealloc_take_window(pagealloc *a, page_no *ret_first, uint64_t *ret_free, uint64_t *ret_scavenged)
{
    uint64_t page;

    if (!find_from_search(a, 1, &page))
        return false;

    uint64_t n = page / CHUNK_PAGES;
    unsigned w = (unsigned)(page % CHUNK_PAGES / WINDOW_PAGES);
    chunk *c = bits_to_change(a, n);
    uint64_t free = ~c->alloc[w];
    uint64_t scavenged = c->scavenged[w];
    unsigned nfree = (unsigned)__builtin_popcountll(free);
    unsigned nscavenged = scavenged == 0 ? 0 : (unsigned)__builtin_popcountll(scavenged);

    *ret_first = page_at(page & ~(uint64_t)(WINDOW_PAGES - 1));
    *ret_free = free;
    *ret_scavenged = scavenged;
    c->alloc[w] = UINT64_MAX;
    c->scavenged[w] = 0;
    scavindex_alloc(&a->scav, n, nfree, nfree - nscavenged);
    a->nfree -= nfree;
    a->nscavenged -= nscavenged;
    update(a, n, n);
    a->search = ret_first->n + (uint64_t)WINDOW_PAGES; /* the page was the lowest free one, and its window is taken */
    return true;
}

void pagealloc_free_window(pagealloc *a, page_no first, uint64_t free, uint64_t scavenged)
{
    uint64_t n = first.n / CHUNK_PAGES;
    unsigned w = (unsigned)(first.n % CHUNK_PAGES / WINDOW_PAGES);
    chunk *c = bits_to_change(a, n);
    unsigned nfree = (unsigned)__builtin_popcountll(free);
    unsigned nscavenged = (unsigned)__builtin_popcountll(scavenged);

    assert(first.n % WINDOW_PAGES == 0 && (c->alloc[w] & free) == free && (scavenged & ~free) == 0);
    if (free == 0)
        return;
    c->alloc[w] &= ~free;
    c->scavenged[w] |= scavenged;
    scavindex_free(&a->scav, n, nfree, nfree - nscavenged);
    a->nfree += nfree;
    a->nscavenged += nscavenged;
    if (first.n < a->search)
        a->search = first.n;
    update(a, n, n);
}

/* --- scavenging --- */

/* Take pages of one chunk that are free and stay so: nobody gets them meanwhile, but they don't count as in use. */
static page_range take_to_release(pagealloc *a, page_no first, unsigned npages)
{
    chunk_use *use = &a->scav.chunks[first.n / CHUNK_PAGES];

    (void)pagealloc_alloc_at(a, first, npages);
    use->nreleasing = (uint16_t)(use->nreleasing + npages);
    return (page_range){ first, npages };
}

page_range pagealloc_take_unscavenged(pagealloc *a, uint64_t max_pages, bool force)
{
    uint64_t backed[CHUNK_WORDS];
    uint64_t c;
    unsigned from;
    unsigned n;

    if (max_pages == 0 || !scavindex_find(&a->scav, force, &c))
        return (page_range){ .npages = 0 };
    for (unsigned w = 0; w < CHUNK_WORDS; w++)
        backed[w] = ~(bits_of(a, c)->alloc[w] | bits_of(a, c)->scavenged[w]);
    n = pagebits_find_last(backed, max_pages < CHUNK_PAGES ? (unsigned)max_pages : CHUNK_PAGES, HUGE_PAGES, &from);
    assert(n > 0);

    return take_to_release(a, page_at(c * CHUNK_PAGES + from), n);
}

void pagealloc_put_back(pagealloc *a, page_range range, bool scavenged)
{
    chunk_use *use = &a->scav.chunks[range.first.n / CHUNK_PAGES];

    assert(range.npages <= use->nreleasing);
    pagealloc_free_range(a, range.first, range.npages, scavenged);
    use->nreleasing = (uint16_t)(use->nreleasing - range.npages);
}

void pagealloc_next_gen(pagealloc *a)
{
    scavindex_next_gen(&a->scav);
}

bool pagealloc_is_unused_chunk(const pagealloc *a, page_no page)
{
    const chunk_use *use = &a->scav.chunks[page.n / CHUNK_PAGES];

    return page.n < a->end && use->added && use->has_metadata && use->ntaken == 0 && use->nbacked == 0;
}

bool pagealloc_take_unused_chunk(pagealloc *a, page_no page, page_no *ret_first)
{
    uint64_t c = page.n / CHUNK_PAGES;

    if (!pagealloc_is_unused_chunk(a, page))
        return false;
    *ret_first = page_at(c * CHUNK_PAGES);
    (void)take_to_release(a, *ret_first, CHUNK_PAGES);
    return true;
}

void pagealloc_free_unused_chunk(pagealloc *a, page_no first, bool released)
{
    pagealloc_put_back(a, (page_range){ first, CHUNK_PAGES }, true);
    a->scav.chunks[first.n / CHUNK_PAGES].has_metadata = !released;
}

/* --- looking --- */

bool pagealloc_is_taken(const pagealloc *a, page_no page)
{
    return page.n < a->end &&
           (bits_of(a, page.n / CHUNK_PAGES)->alloc[page.n % CHUNK_PAGES / 64] >> (page.n % 64) & 1) != 0;
}

bool pagealloc_is_free(const pagealloc *a, page_no first, uint64_t npages)
{
    uint64_t end = first.n + npages;

    if (end > a->end || end < npages)
        return false;
    for (uint64_t page = first.n; page < end;) {
        piece p = next_piece(&page, end);

        if (!a->scav.chunks[p.chunk].added || pagebits_count(bits_of(a, p.chunk)->alloc, p.from, p.to) != 0)
            return false;
    }
    return true;
}

page_no pagealloc_next_taken(const pagealloc *a, page_no from)
{
    uint64_t page = from.n;

    while (page < a->end) {
        uint64_t skip = 0;

        for (int l = 0; l < LEVELS && skip == 0; l++) {
            uint64_t pages_each = UINT64_C(1) << level_shift[l];

            if (page % pages_each == 0 && summary_max(a->summaries[l][page / pages_each]) == pages_each)
                skip = pages_each;
        }
        if (skip == 0) {
            unsigned at = pagebits_next(bits_of(a, page / CHUNK_PAGES)->alloc, (unsigned)(page % CHUNK_PAGES), true);

            if (at < CHUNK_PAGES)
                return page_at(page / CHUNK_PAGES * CHUNK_PAGES + at);
            skip = CHUNK_PAGES - page % CHUNK_PAGES;
        }
        page += skip;
    }
    return page_at(a->end);
}

void pagealloc_count(const pagealloc *a, page_no first, uint64_t npages, uint64_t *ret_ntaken, uint64_t *ret_nbacked)
{
    uint64_t end = first.n + npages < a->end ? first.n + npages : a->end;

    *ret_ntaken = *ret_nbacked = 0;
    for (uint64_t page = first.n; page < end;) {
        piece p = next_piece(&page, end);
        const chunk *c = bits_of(a, p.chunk);
        unsigned ntaken = pagebits_count(c->alloc, p.from, p.to);

        if (!a->scav.chunks[p.chunk].added)
            continue;
        *ret_ntaken += ntaken;
        *ret_nbacked += p.to - p.from - ntaken - pagebits_count(c->scavenged, p.from, p.to);
    }
}

uint64_t pagealloc_npages_added(const pagealloc *a)
{
    return a->nadded;
}

uint64_t pagealloc_npages_free(const pagealloc *a)
{
    return a->nfree;
}

uint64_t pagealloc_npages_scavenged(const pagealloc *a)
{
    return a->nscavenged;
}

page_no pagealloc_end(const pagealloc *a)
{
    return page_at(a->end);
}

static int differs(FILE *err, const char *what, uint64_t where, uint64_t have, uint64_t want)
{
    if (err != NULL)
        (void)fprintf(err, "pagealloc: %s at %llu: %llx, should be %llx\n", what, (unsigned long long)where,
                      (unsigned long long)have, (unsigned long long)want);
    return -EUCLEAN;
}

static int validate_chunk(const pagealloc *a, uint64_t c, FILE *err)
{
    const chunk *at = bits_of(a, c);
    const chunk_use *use = &a->scav.chunks[c];
    unsigned ntaken = pagebits_count(at->alloc, 0, CHUNK_PAGES);
    unsigned nscavenged = pagebits_count(at->scavenged, 0, CHUNK_PAGES);
    unsigned nfree = use->added ? CHUNK_PAGES - ntaken : 0;
    uint64_t packed = use->added ? summary_pack(pagebits_summarize(at->alloc)) : 0;

    if (a->summaries[LEAF][c] != packed)
        return differs(err, "leaf summary", c, a->summaries[LEAF][c], packed);
    for (unsigned w = 0; w < CHUNK_WORDS; w++) {
        if ((at->alloc[w] & at->scavenged[w]) != 0)
            return differs(err, "scavenged bits of taken pages", c, at->alloc[w] & at->scavenged[w], 0);
    }
    if (use->plain && ((use->ntaken != 0 && ntaken != CHUNK_PAGES) || use->nbacked % CHUNK_PAGES != 0))
        return differs(err, "a plain chunk's pages", c, use->ntaken, ntaken);
    if (use->ntaken != ntaken)
        return differs(err, "taken pages", c, use->ntaken, ntaken);
    if (use->nreleasing > ntaken)
        return differs(err, "pages to be released", c, use->nreleasing, ntaken);
    if (use->nbacked != nfree - nscavenged)
        return differs(err, "free pages with memory", c, use->nbacked, nfree - nscavenged);
    if (use->nbacked != 0 && c >= a->scav.from)
        return differs(err, "the scavenger's search address", c, a->scav.from, c + 1);
    if (nfree != 0) {
        uint64_t lowest = c * CHUNK_PAGES + pagebits_next(at->alloc, 0, false);

        if (lowest < a->search)
            return differs(err, "search", lowest, a->search, lowest);
    }
    return 0;
}

/* The counters of the whole, against those of the chunks. */
static int validate_sums(const pagealloc *a, FILE *err)
{
    uint64_t nfree = 0;
    uint64_t nbacked = 0;

    for (uint64_t c = 0; c < a->end / CHUNK_PAGES; c++) {
        const chunk_use *use = &a->scav.chunks[c];

        nfree += use->added ? CHUNK_PAGES - use->ntaken : 0;
        nbacked += use->nbacked;
    }
    if (nfree != a->nfree)
        return differs(err, "free pages", 0, a->nfree, nfree);
    if (nfree - nbacked != a->nscavenged)
        return differs(err, "scavenged pages", 0, a->nscavenged, nfree - nbacked);
    return 0;
}

int pagealloc_validate_step(const pagealloc *a, pagealloc_check *check, unsigned budget, FILE *err)
{
    for (; check->nlevels < LEVELS; check->at = 0, check->nlevels++) {
        int l = LEAF - (int)check->nlevels;

        for (; check->at << level_shift[l] < a->end; check->at++) {
            if (budget-- == 0)
                return VALIDATE_E_MORE;
            if (l == LEAF && validate_chunk(a, check->at, err) < 0)
                return -EUCLEAN;
            if (l < LEAF && a->summaries[l][check->at] != merged(a, l, check->at))
                return differs(err, "summary", (uint64_t)l << 32 | check->at, a->summaries[l][check->at],
                               merged(a, l, check->at));
        }
    }
    return validate_sums(a, err);
}

int pagealloc_validate(const pagealloc *a, FILE *err)
{
    pagealloc_check check = { .at = 0 };

    return pagealloc_validate_step(a, &check, UINT_MAX, err);
}

/* What page is, in a word for the dump. */
static const char *page_kind(const pagealloc *a, uint64_t page)
{
    uint64_t c = page / CHUNK_PAGES;

    if (!a->scav.chunks[c].added)
        return "not there";
    if (pagealloc_is_taken(a, page_at(page)))
        return "taken";
    return (bits_of(a, c)->scavenged[page % CHUNK_PAGES / 64] >> (page % 64) & 1) != 0 ? "free, scavenged" : "free";
}

void pagealloc_dump(const pagealloc *a, FILE *out)
{
    (void)fprintf(out, "pages added %llu, free %llu, scavenged %llu, end %llu, search %llu\n",
                  (unsigned long long)a->nadded, (unsigned long long)a->nfree, (unsigned long long)a->nscavenged,
                  (unsigned long long)a->end, (unsigned long long)a->search);
    for (uint64_t page = 0; page < a->end;) {
        uint64_t from = page;
        const char *kind = page_kind(a, page);

        while (page < a->end && page_kind(a, page) == kind)
            page++;
        (void)fprintf(out, "%10llu +%-10llu %s\n", (unsigned long long)from, (unsigned long long)(page - from), kind);
    }
}
