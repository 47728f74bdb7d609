/*
 * pagealloc: address-ordered first fit over page bitmaps with a radix tree of summaries above them
 * (runtime/mpagealloc.go).
 *
 * Called by mheap alone. Data: all private to the daemon. A chunk is 512 pages (4 MiB): 512 alloc bits (1: taken) and
 * 512 scavenged bits (1: free, and no memory behind it). Above the chunks five levels of summaries, each entry one
 * 64-bit word
 *
 *        start (21 bits) | max (21) | end (21)        free pages at the beginning, in the longest run, at the end of
 *        what it covers
 *        bit 63 alone                                 all of its 2^21 pages are free, which 21 bits can't say
 *
 *        level      0         1         2         3        4
 *        pages    2^21      2^18      2^15      2^12      2^9        each entry is the merger of 8 below it
 *
 * Go's root has 2^14 entries for 48 bits of addresses. Here numbers are relative to the arena, so the root is as long
 * as the arena needs: 4 entries for 64 GiB. Everything is reserved for max_pages and touched where pages have been
 * added; an untouched summary is 0, "nothing free", so nothing is ever found where nothing was added, and a search
 * address needs no list of mapped ranges.
 *
 * Allocating n pages:
 *   1. All pages below `search` are taken. If its chunk has a run of n, the first fit is there.
 *   2. Else the tree: from the root entry of `search`, add up free pages over the borders of neighbours (end, whole,
 *      start). As soon as they make n, that is the place. Else where max >= n, go down into that entry and start
 *      adding anew.
 *   3. Bits are set, scavenged bits counted and cleared, summaries above the touched chunks recomputed until they
 *      stay the same.
 *   4. n = 1 moves `search` behind the page, since it was the lowest free one; a search in vain for 1 moves it to
 *      the end; freeing below moves it down.
 *
 * Scavenging looks at the chunk counters of free pages with memory from the top; `scavenge_from` is the highest chunk
 * that may have some: it rises when such pages are freed, and falls as chunks are found empty.
 *
 * Invariants (pagealloc_validate, linear): summaries are what the bits say; no free page below search; no chunk above
 * scavenge_from has free pages with memory; scavenged bits only on free pages; counters add up.
 *
 * Nothing here survives the daemon; a restart rebuilds it from the spans region.
 */
#include "daemon/pagealloc.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define CHUNK_PAGES   512u
#define CHUNK_WORDS   (CHUNK_PAGES / 64)
#define LEVELS        5
#define LEAF          (LEVELS - 1)
#define FIELD_BITS    21u
#define FIELD_MAX     (UINT64_C(1) << FIELD_BITS)
#define SUMMARY_WHOLE (UINT64_C(1) << 63)
#define FANOUT        8u
#define MAX_PAGES     (UINT64_C(1) << 32)

static const unsigned level_shift[LEVELS] = { 21, 18, 15, 12, 9 }; /* pages an entry covers, as a power of two */

typedef struct chunk {
    uint64_t alloc[CHUNK_WORDS];
    uint64_t scavenged[CHUNK_WORDS];
} chunk;

typedef struct summary {
    uint64_t start;
    uint64_t max;
    uint64_t end;
} summary;

struct pagealloc {
    uint64_t max_pages;
    uint64_t end; /* one above the highest page added */
    uint64_t nadded;
    uint64_t nfree;
    uint64_t nscavenged;
    uint64_t search;
    uint64_t scavenge_from; /* chunk number + 1; 0: none */
    chunk *chunks;
    uint16_t *nbacked; /* free pages with memory, a chunk */
    uint64_t *summaries[LEVELS];
};

/* --- summaries --- */

static uint64_t summary_pack(summary s)
{
    if (s.max == FIELD_MAX)
        return SUMMARY_WHOLE;
    return s.start | s.max << FIELD_BITS | s.end << (2 * FIELD_BITS);
}

static summary summary_unpack(uint64_t packed)
{
    if (packed & SUMMARY_WHOLE)
        return (summary){ FIELD_MAX, FIELD_MAX, FIELD_MAX };
    return (summary){ packed & (FIELD_MAX - 1), packed >> FIELD_BITS & (FIELD_MAX - 1),
                      packed >> (2 * FIELD_BITS) & (FIELD_MAX - 1) };
}

static summary summary_merge(const uint64_t *below, uint64_t pages_each)
{
    summary all = summary_unpack(below[0]);
    uint64_t pages = pages_each;

    for (unsigned i = 1; i < FANOUT; i++) {
        summary s = summary_unpack(below[i]);

        if (all.start == pages)
            all.start += s.start;
        if (all.end + s.start > all.max)
            all.max = all.end + s.start;
        if (s.max > all.max)
            all.max = s.max;
        all.end = s.end == pages_each ? all.end + pages_each : s.end;
        pages += pages_each;
    }
    return all;
}

/* --- 512 bits --- */

/* The first bit of that value at or above from; 512 if there is none. */
static unsigned bits_next(const uint64_t *words, unsigned from, bool value)
{
    while (from < CHUNK_PAGES) {
        uint64_t word = value ? words[from / 64] : ~words[from / 64];

        word >>= from % 64;
        if (word != 0)
            return from + (unsigned)__builtin_ctzll(word);
        from = (from / 64 + 1) * 64;
    }
    return CHUNK_PAGES;
}

static uint64_t word_mask(unsigned word, unsigned from, unsigned to)
{
    unsigned low = from > word * 64 ? from - word * 64 : 0;
    unsigned high = to < (word + 1) * 64 ? to - word * 64 : 64;

    return (high == 64 ? UINT64_MAX : (UINT64_C(1) << high) - 1) & ~((UINT64_C(1) << low) - 1);
}

static void bits_fill(uint64_t *words, unsigned from, unsigned to, bool value)
{
    for (unsigned w = from / 64; w * 64 < to; w++) {
        if (value)
            words[w] |= word_mask(w, from, to);
        else
            words[w] &= ~word_mask(w, from, to);
    }
}

static unsigned bits_count(const uint64_t *words, unsigned from, unsigned to)
{
    unsigned n = 0;

    for (unsigned w = from / 64; w * 64 < to; w++)
        n += (unsigned)__builtin_popcountll(words[w] & word_mask(w, from, to));
    return n;
}

static summary bits_summarize(const uint64_t *words)
{
    summary s = { bits_next(words, 0, true), 0, 0 };

    s.max = s.start;
    for (unsigned at = (unsigned)s.start; at < CHUNK_PAGES;) {
        unsigned from = bits_next(words, at, false);
        unsigned to = bits_next(words, from, true);

        if (to - from > s.max)
            s.max = to - from;
        if (to == CHUNK_PAGES)
            s.end = to - from;
        at = to;
    }
    if (s.start == CHUNK_PAGES)
        s.end = CHUNK_PAGES;
    return s;
}

/* The first n zero bits in a row at or above from; 512 if there are none. */
static unsigned bits_find(const uint64_t *words, unsigned from, unsigned n)
{
    while (from < CHUNK_PAGES) {
        unsigned at = bits_next(words, from, false);
        unsigned to = bits_next(words, at, true);

        if (to - at >= n && at < CHUNK_PAGES)
            return at;
        from = to;
    }
    return CHUNK_PAGES;
}

/* --- life --- */

static void *reserve(uint64_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return p == MAP_FAILED ? NULL : p;
}

static uint64_t level_entries(const pagealloc *a, int level)
{
    /* Whole groups of 8 up to the root, so that a merger never reads past the end. */
    uint64_t roots = ((a->max_pages - 1) >> level_shift[0]) + 1;

    return roots << (level_shift[0] - level_shift[level]);
}

static uint64_t nchunks(const pagealloc *a)
{
    return level_entries(a, LEAF);
}

int pagealloc_new(pagealloc **ret, uint64_t max_pages)
{
    pagealloc *a;
    bool whole = true;

    if (max_pages == 0 || max_pages > MAX_PAGES)
        return -EINVAL;
    a = calloc(1, sizeof(*a));
    if (a == NULL)
        return -ENOMEM;
    a->max_pages = max_pages;
    a->chunks = reserve(nchunks(a) * sizeof(*a->chunks));
    a->nbacked = reserve(nchunks(a) * sizeof(*a->nbacked));
    for (int l = 0; l < LEVELS; l++) {
        a->summaries[l] = reserve(level_entries(a, l) * sizeof(uint64_t));
        whole = whole && a->summaries[l] != NULL;
    }
    if (!whole || a->chunks == NULL || a->nbacked == NULL) {
        (void)pagealloc_free(a);
        return -ENOMEM;
    }
    *ret = a;
    return 0;
}

pagealloc *pagealloc_free(pagealloc *a)
{
    if (a == NULL)
        return NULL;
    if (a->chunks != NULL)
        (void)munmap(a->chunks, nchunks(a) * sizeof(*a->chunks));
    if (a->nbacked != NULL)
        (void)munmap(a->nbacked, nchunks(a) * sizeof(*a->nbacked));
    for (int l = 0; l < LEVELS; l++) {
        if (a->summaries[l] != NULL)
            (void)munmap(a->summaries[l], level_entries(a, l) * sizeof(uint64_t));
    }
    free(a);
    return NULL;
}

/* --- changing ranges --- */

/* Recompute the summaries above the chunks that [first, first + npages) lies in. */
static void update(pagealloc *a, uint64_t first, uint64_t npages)
{
    uint64_t lo = first >> level_shift[LEAF];
    uint64_t hi = (first + npages - 1) >> level_shift[LEAF];
    bool changed = false;

    for (uint64_t c = lo; c <= hi; c++) {
        uint64_t packed = summary_pack(bits_summarize(a->chunks[c].alloc));

        changed |= packed != a->summaries[LEAF][c];
        a->summaries[LEAF][c] = packed;
    }
    for (int l = LEAF - 1; l >= 0 && changed; l--) {
        changed = false;
        lo /= FANOUT;
        hi /= FANOUT;
        for (uint64_t i = lo; i <= hi; i++) {
            uint64_t packed =
                summary_pack(summary_merge(&a->summaries[l + 1][i * FANOUT], UINT64_C(1) << level_shift[l + 1]));

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
    assert(first.n >= a->end && end <= a->max_pages);
    for (uint64_t page = a->end; page < first.n;) { /* what is skipped counts as taken for good */
        piece p = next_piece(&page, first.n);

        bits_fill(a->chunks[p.chunk].alloc, p.from, p.to, true);
    }
    for (uint64_t page = first.n; page < end;) {
        piece p = next_piece(&page, end);

        bits_fill(a->chunks[p.chunk].scavenged, p.from, p.to, true);
    }
    a->end = end;
    a->nadded += npages;
    a->nfree += npages;
    a->nscavenged += npages;
    if (first.n < a->search)
        a->search = first.n;
    update(a, first.n, npages);
}

uint64_t pagealloc_alloc_at(pagealloc *a, page_no first, uint64_t npages)
{
    uint64_t end = first.n + npages;
    uint64_t nscavenged = 0;

    assert(npages > 0 && end <= a->end);
    for (uint64_t page = first.n; page < end;) {
        piece p = next_piece(&page, end);
        chunk *c = &a->chunks[p.chunk];
        unsigned n = bits_count(c->scavenged, p.from, p.to);

        assert(bits_count(c->alloc, p.from, p.to) == 0);
        bits_fill(c->alloc, p.from, p.to, true);
        bits_fill(c->scavenged, p.from, p.to, false);
        a->nbacked[p.chunk] = (uint16_t)(a->nbacked[p.chunk] - (p.to - p.from - n));
        nscavenged += n;
    }
    a->nfree -= npages;
    a->nscavenged -= nscavenged;
    update(a, first.n, npages);
    return nscavenged;
}

void pagealloc_free_run(pagealloc *a, page_no first, uint64_t npages, bool scavenged)
{
    uint64_t end = first.n + npages;

    assert(npages > 0 && end <= a->end);
    for (uint64_t page = first.n; page < end;) {
        piece p = next_piece(&page, end);
        chunk *c = &a->chunks[p.chunk];

        assert(bits_count(c->alloc, p.from, p.to) == p.to - p.from);
        bits_fill(c->alloc, p.from, p.to, false);
        if (scavenged) {
            bits_fill(c->scavenged, p.from, p.to, true);
        } else {
            a->nbacked[p.chunk] = (uint16_t)(a->nbacked[p.chunk] + (p.to - p.from));
            if (p.chunk + 1 > a->scavenge_from)
                a->scavenge_from = p.chunk + 1;
        }
    }
    a->nfree += npages;
    if (scavenged)
        a->nscavenged += npages;
    if (first.n < a->search)
        a->search = first.n;
    update(a, first.n, npages);
}

/* --- searching --- */

/* Step 2 of the essay. True: *ret is the first page of the lowest run of npages. */
static bool find(const pagealloc *a, uint64_t npages, uint64_t *ret)
{
    uint64_t i = a->search >> level_shift[0];
    uint64_t stop = (a->end + (UINT64_C(1) << level_shift[0]) - 1) >> level_shift[0];

    for (int l = 0; l < LEVELS; l++) {
        uint64_t pages_each = UINT64_C(1) << level_shift[l];
        uint64_t run = 0; /* free pages right before entry i */
        uint64_t down = stop;

        for (; i < stop; i++) {
            summary s = summary_unpack(a->summaries[l][i]);

            if (run + s.start >= npages) {
                *ret = i * pages_each - run;
                return true;
            }
            if (s.max >= npages) {
                down = i;
                break;
            }
            run = s.end == pages_each ? run + pages_each : s.end;
        }
        if (down == stop)
            return false;
        if (l == LEAF) {
            *ret = down * CHUNK_PAGES + bits_find(a->chunks[down].alloc, 0, (unsigned)npages);
            return true;
        }
        i = down * FANOUT;
        stop = i + FANOUT;
    }
    return false;
}

static bool find_from_search(const pagealloc *a, uint64_t npages, uint64_t *ret)
{
    uint64_t c = a->search / CHUNK_PAGES;

    if (a->search >= a->end || npages > a->nfree)
        return false;
    if (npages <= CHUNK_PAGES && summary_unpack(a->summaries[LEAF][c]).max >= npages) {
        *ret = c * CHUNK_PAGES + bits_find(a->chunks[c].alloc, (unsigned)(a->search % CHUNK_PAGES), (unsigned)npages);
        return true;
    }
    return find(a, npages, ret);
}

bool pagealloc_alloc(pagealloc *a, uint64_t npages, page_no *ret_first, uint64_t *ret_nscavenged)
{
    uint64_t page;

    assert(npages > 0);
    if (!find_from_search(a, npages, &page)) {
        if (npages == 1)
            a->search = a->end;
        return false;
    }
    *ret_nscavenged = pagealloc_alloc_at(a, page_at(page), npages);
    *ret_first = page_at(page);
    if (npages == 1 || page == a->search)
        a->search = page + npages;
    return true;
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
    return true;
}

page_run pagealloc_take_unscavenged(pagealloc *a, uint64_t max_pages)
{
    while (a->scavenge_from > 0 && a->nbacked[a->scavenge_from - 1] == 0)
        a->scavenge_from--;
    if (a->scavenge_from == 0 || max_pages == 0)
        return (page_run){ .npages = 0 };

    uint64_t c = a->scavenge_from - 1;
    uint64_t busy[CHUNK_WORDS]; /* taken, or without memory */
    unsigned to = CHUNK_PAGES;
    unsigned from;

    for (unsigned w = 0; w < CHUNK_WORDS; w++)
        busy[w] = a->chunks[c].alloc[w] | a->chunks[c].scavenged[w];
    while ((busy[(to - 1) / 64] >> ((to - 1) % 64) & 1) != 0)
        to--;
    for (from = to - 1; from > 0 && to - from < max_pages; from--) {
        if ((busy[(from - 1) / 64] >> ((from - 1) % 64) & 1) != 0)
            break;
    }

    page_run run = { page_at(c * CHUNK_PAGES + from), to - from };

    (void)pagealloc_alloc_at(a, run.first, run.npages);
    return run;
}

/* --- looking --- */

bool pagealloc_is_taken(const pagealloc *a, page_no page)
{
    return page.n < a->end &&
           (a->chunks[page.n / CHUNK_PAGES].alloc[page.n % CHUNK_PAGES / 64] >> (page.n % 64) & 1) != 0;
}

page_no pagealloc_next_taken(const pagealloc *a, page_no from)
{
    uint64_t page = from.n;

    while (page < a->end) {
        uint64_t skip = 0;

        for (int l = 0; l < LEVELS && skip == 0; l++) {
            uint64_t pages_each = UINT64_C(1) << level_shift[l];

            if (page % pages_each == 0 && summary_unpack(a->summaries[l][page / pages_each]).max == pages_each)
                skip = pages_each;
        }
        if (skip == 0) {
            unsigned at = bits_next(a->chunks[page / CHUNK_PAGES].alloc, (unsigned)(page % CHUNK_PAGES), true);

            if (at < CHUNK_PAGES)
                return page_at(page / CHUNK_PAGES * CHUNK_PAGES + at);
            skip = CHUNK_PAGES - page % CHUNK_PAGES;
        }
        page += skip;
    }
    return page_at(a->end);
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

int pagealloc_validate(const pagealloc *a, FILE *err)
{
    uint64_t nfree = 0;
    uint64_t nscavenged = 0;

    for (uint64_t c = 0; c < a->end / CHUNK_PAGES; c++) {
        const chunk *at = &a->chunks[c];
        unsigned chunk_free = CHUNK_PAGES - bits_count(at->alloc, 0, CHUNK_PAGES);
        unsigned chunk_scavenged = bits_count(at->scavenged, 0, CHUNK_PAGES);
        uint64_t packed = summary_pack(bits_summarize(at->alloc));

        for (unsigned w = 0; w < CHUNK_WORDS; w++) {
            if ((at->alloc[w] & at->scavenged[w]) != 0)
                return differs(err, "scavenged bits of taken pages", c, at->alloc[w] & at->scavenged[w], 0);
        }
        if (a->nbacked[c] != chunk_free - chunk_scavenged)
            return differs(err, "free pages with memory", c, a->nbacked[c], chunk_free - chunk_scavenged);
        if (a->nbacked[c] != 0 && c >= a->scavenge_from)
            return differs(err, "scavenge_from", c, a->scavenge_from, c + 1);
        if (a->summaries[LEAF][c] != packed)
            return differs(err, "leaf summary", c, a->summaries[LEAF][c], packed);
        if (chunk_free != 0) {
            uint64_t lowest = c * CHUNK_PAGES + bits_next(at->alloc, 0, false);

            if (lowest < a->search)
                return differs(err, "search", lowest, a->search, lowest);
        }
        nfree += chunk_free;
        nscavenged += chunk_scavenged;
    }
    for (int l = LEAF - 1; l >= 0; l--) {
        for (uint64_t i = 0; i << level_shift[l] < a->end; i++) {
            uint64_t want =
                summary_pack(summary_merge(&a->summaries[l + 1][i * FANOUT], UINT64_C(1) << level_shift[l + 1]));

            if (a->summaries[l][i] != want)
                return differs(err, "summary", (uint64_t)l << 32 | i, a->summaries[l][i], want);
        }
    }
    if (nfree != a->nfree)
        return differs(err, "free pages", 0, a->nfree, nfree);
    if (nscavenged != a->nscavenged)
        return differs(err, "scavenged pages", 0, a->nscavenged, nscavenged);
    return 0;
}

void pagealloc_dump(const pagealloc *a, FILE *out)
{
    (void)fprintf(out, "pages added %llu, free %llu, scavenged %llu, end %llu, search %llu\n",
                  (unsigned long long)a->nadded, (unsigned long long)a->nfree, (unsigned long long)a->nscavenged,
                  (unsigned long long)a->end, (unsigned long long)a->search);
    for (uint64_t page = 0; page < a->end;) {
        uint64_t from = page;
        const chunk *c = &a->chunks[page / CHUNK_PAGES];
        bool taken = pagealloc_is_taken(a, page_at(page));
        bool scavenged = (c->scavenged[page % CHUNK_PAGES / 64] >> (page % 64) & 1) != 0;

        for (; page < a->end; page++) {
            c = &a->chunks[page / CHUNK_PAGES];
            if (pagealloc_is_taken(a, page_at(page)) != taken ||
                ((c->scavenged[page % CHUNK_PAGES / 64] >> (page % 64) & 1) != 0) != scavenged)
                break;
        }
        (void)fprintf(out, "%10llu +%-10llu %s\n", (unsigned long long)from, (unsigned long long)(page - from),
                      taken ? "taken" : scavenged ? "free, scavenged" : "free");
    }
}
