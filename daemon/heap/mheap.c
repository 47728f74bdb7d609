/*
 * mheap: makes spans out of ranges of pages, and pages out of spans.
 *
 * Called by mcentral (free), lease (free, resize), the refill handlers (alloc) and whatever commits and releases
 * memory (pages aside). Calls pagealloc for page numbers. Data: the spans' descriptions, the page map and the
 * heap-arena table, all in spans, written by this thread alone; a span's bits in bitmap, cleared here while nobody can
 * know the span; links and page allocator in private memory. recover.c and validate.c go over the same.
 *
 * The README of this directory has the path of a span, and what holds if the daemon dies between two stores. Here:
 *   1. If there are no free pages, the heap grows by multiples of 4 MiB, up to the arena's end; the heap arenas' npages
 *      are written first. Before memory counts as exhausted the page cache is given back.
 *   2. needzero: pages below zeroed_base were handed out before, so they are dirty, unless all of them were
 *      scavenged since (a punched page reads as zero). zeroed_base rises; first fit by address keeps it a good bound.
 *   3. The description is written, bits are cleared, then the page map follows. The lease word stays FREE: lease.c
 *      changes it, last. A client that looks at a span whose lease may end meanwhile reads the lease word before and
 *      after: a fence keeps the description behind the lease word of the span that was here before.
 *   4. mheap_free_span: lease word to FREE, then page map to 0, then the pages go back to pagealloc.
 *   5. The page map of more than 512 MiB is written, or cleared, in slices; meanwhile the pages are aside. Its first
 *      entry is the first one written and the last one cleared: who walks the heap is led past the rest by it. Clearing
 *      goes down from the end, and what is cleared is free at once: its entries to 0, then npages of the description,
 *      then pagealloc.
 *
 * A large span may change its length while it is leased. Growing: page map of the new pages, then npages, then
 * elem_bytes. Shrinking: elem_bytes, npages, then the page map.
 *
 * Pages aside are taken and in no span, while a thread of the pool commits or punches them, so that nobody else gets
 * them: free -> mheap_take_aside -> mheap_put_back -> free; those for growth go to their span instead.
 *
 * The memory limit is soft, as Go's: an allocation releases free pages first, the background scavenger holds 95% of
 * it, but one that does not fit is made all the same. max_bytes is hard: who makes spans asks mheap_max_allows()
 * before. The README says what both count.
 *
 * Invariants (mheap_validate, linear): every taken page above 0 belongs to the span that its page map entry names, or
 * is in the page cache or aside; no free page has a description that is not FREE; a CENTRAL span is in the mcentral
 * of its class.
 */
#include "daemon/heap/mheap.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <utlist.h>

#include "shm/crash.h"

#define GROW_PAGES 512u /* 4 MiB: a chunk of the page allocator */

/* What describes a page at most: bits, kept bits, description, page map; and what of a unit nobody else uses. */
#define DESCRIBED_BYTES_A_PAGE (256u + 128u + sizeof(shm_span) + sizeof(shm_u32))
#define DESCRIBED_BYTES        (4 * SYSTEM_PAGE_BYTES)

/* Pages [first, end) are now the page heap's: say so in their heap arenas. */
static void note_added(mheap *heap, uint64_t first, uint64_t end)
{
    for (uint64_t page = first; page < end; page = (page / SHM_HEAP_ARENA_PAGES + 1) * SHM_HEAP_ARENA_PAGES) {
        uint64_t arena = page / SHM_HEAP_ARENA_PAGES;
        uint64_t npages = end - arena * SHM_HEAP_ARENA_PAGES;

        u64_store_release(&heap->map->heap_arenas[arena].npages,
                          npages < SHM_HEAP_ARENA_PAGES ? npages : SHM_HEAP_ARENA_PAGES);
    }
}

static uint64_t links_bytes(const mheap *heap)
{
    return heap->map->npages * sizeof(span_link);
}

int mheap_init_private(mheap *heap, heapfile *file, uint64_t limit_bytes)
{
    *heap = (mheap){ .file = file, .map = &file->map, .limit_bytes = limit_bytes };
    heap->links = mmap(NULL, links_bytes(heap), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (heap->links == MAP_FAILED)
        return -ENOMEM;
    heap->adopted = adopt_new(file);
    heap->left = left_new(heap->map, heap->links);
    heap->estates = estate_table_new(heap->links);
    heap->groups = group_table_new(file);
    if (heap->adopted != NULL && heap->left != NULL && heap->estates != NULL && heap->groups != NULL &&
        metabook_init(&heap->book, heap->map) == 0 && pagealloc_new(&heap->pages, heap->map->npages) == 0)
        return 0;
    mheap_end(heap);
    return -ENOMEM;
}

int mheap_init(mheap *heap, heapfile *file, uint64_t limit_bytes)
{
    int r = mheap_init_private(heap, file, limit_bytes);

    if (r < 0)
        return r;
    /* Page 0 is nobody's, so that offset 0 can mean NULL and page 0 "none". */
    note_added(heap, 0, GROW_PAGES);
    pagealloc_grow(heap->pages, page_at(0), GROW_PAGES);
    (void)pagealloc_alloc_at(heap->pages, page_at(0), 1);
    mheap_keep_origins(heap);
    mheap_refresh_metadata(heap);
    return 0;
}

void mheap_keep_origins(mheap *heap)
{
    shm_u32 *optional = &heap->map->header->optional;

    u32_store_release(optional, u32_load_relaxed(optional) | SHM_OPTIONAL_ORIGIN);
}

void mheap_end(mheap *heap)
{
    for (mheap_mapping *m = heap->mappings, *next; m != NULL; m = next) {
        next = m->next;
        if (m->clears) /* the next daemon clears what is left */
            free(m);
    }
    (void)munmap(heap->links, links_bytes(heap));
    heap->pages = pagealloc_free(heap->pages);
    heap->adopted = adopt_free(heap->adopted);
    heap->left = left_free(heap->left);
    heap->estates = estate_table_free(heap->estates);
    heap->groups = group_table_free(heap->groups);
    metabook_end(&heap->book);
}

uint64_t mheap_released_pages(const mheap *heap)
{
    /* Page 0 is taken and never committed. */
    return pagealloc_npages_scavenged(heap->pages) + pagecache_nscavenged(&heap->cache) +
           heap->naside_pages[ASIDE_UNUSED] + heap->naside_pages[ASIDE_EXCESS] + 1;
}

uint64_t mheap_committed_pages(const mheap *heap)
{
    return pagealloc_npages_added(heap->pages) - mheap_released_pages(heap);
}

uint64_t mheap_peak_pages(const mheap *heap)
{
    uint64_t npages = u64_load_relaxed(&heap->map->header->npeak_pages);

    return npages > heap->map->npages ? heap->map->npages : npages;
}

/*
 * Pages have been taken that may have had no memory: maybe there were never more with memory than now. Doubted pages
 * count when they are in use, since they get memory then; that they are not free any more is not noted one by one.
 */
static void note_committed(mheap *heap)
{
    uint64_t committed = mheap_committed_pages(heap);
    uint64_t certain = committed > heap->ndoubted_pages ? committed - heap->ndoubted_pages : 0;
    uint64_t npages = certain > heap->ninuse_pages ? certain : heap->ninuse_pages;

    if (npages > u64_load_relaxed(&heap->map->header->npeak_pages))
        u64_store_relaxed(&heap->map->header->npeak_pages, npages);
}

void mheap_refresh_metadata(mheap *heap)
{
    heap->metadata_bytes = heapfile_metadata_bytes(heap->file);
    metabook_refresh(&heap->book, pagealloc_end(heap->pages).n);
}

uint64_t mheap_aside_pages(const mheap *heap)
{
    uint64_t n = 0;

    for (int kind = 0; kind < ASIDE_KINDS; kind++)
        n += heap->naside_pages[kind];
    return n;
}

uint64_t mheap_releasing_pages(const mheap *heap)
{
    return heap->naside_pages[ASIDE_RELEASE] + heap->naside_pages[ASIDE_RELEASE_DENSE];
}

uint64_t mheap_limit_bytes(const mheap *heap)
{
    return heap->limit_bytes == 0 || (heap->max_bytes != 0 && heap->max_bytes < heap->limit_bytes) ? heap->max_bytes
                                                                                                  : heap->limit_bytes;
}

/* What can't be released: pages in use, and what describes pages. */
static uint64_t used_bytes(const mheap *heap)
{
    return (heap->ninuse_pages + heap->naside_pages[ASIDE_GROWTH] + heap->naside_pages[ASIDE_MAPPING]) * PAGE_BYTES +
           metabook_bytes(&heap->book);
}

uint64_t mheap_room_pages(const mheap *heap)
{
    uint64_t limit = mheap_limit_bytes(heap);
    uint64_t used = used_bytes(heap);

    if (limit == 0)
        return UINT64_MAX;
    return used >= limit ? 0 : (limit - used) / PAGE_BYTES;
}

bool mheap_max_allows(const mheap *heap, uint64_t npages, uint64_t keep_bytes)
{
    uint64_t left = heap->max_bytes - used_bytes(heap);

    if (heap->max_bytes == 0)
        return true;
    return used_bytes(heap) <= heap->max_bytes && left > keep_bytes + DESCRIBED_BYTES &&
           (left - keep_bytes - DESCRIBED_BYTES) / (PAGE_BYTES + DESCRIBED_BYTES_A_PAGE) >= npages;
}

uint64_t mheap_over_max(const mheap *heap)
{
    uint64_t have = mheap_committed_pages(heap) * PAGE_BYTES + metabook_bytes(&heap->book);

    return heap->max_bytes == 0 || have <= heap->max_bytes ? 0 : have - heap->max_bytes;
}

uint64_t mheap_free_pages(const mheap *heap)
{
    return heap->map->npages - 1 - heap->ninuse_pages - mheap_aside_pages(heap);
}

uint64_t mheap_free_backed_pages(const mheap *heap)
{
    return mheap_committed_pages(heap) - heap->ninuse_pages + heap->naside_pages[ASIDE_UNUSED] +
           heap->naside_pages[ASIDE_EXCESS] - mheap_aside_pages(heap);
}

uint64_t mheap_idle_pages(const mheap *heap)
{
    return mheap_committed_pages(heap) - heap->ninuse_pages - heap->naside_pages[ASIDE_GROWTH] -
           heap->naside_pages[ASIDE_MAPPING];
}

uint64_t mheap_over_limit(const mheap *heap, unsigned percent, uint64_t npages)
{
    uint64_t have = (mheap_committed_pages(heap) + npages - mheap_releasing_pages(heap)) * PAGE_BYTES +
                    metabook_bytes(&heap->book);
    uint64_t most = mheap_limit_bytes(heap) / 100 * percent;

    return most == 0 || have <= most ? 0 : have - most;
}

/* --- pages --- */

/* Those of the fence's pages that lie in [from, to) are taken, or free again. */
static void fence_pages(mheap *heap, const mheap_fence *fence, uint64_t from, uint64_t to, bool take)
{
    uint64_t first = fence->range.first.n > from ? fence->range.first.n : from;
    uint64_t end = fence->range.first.n + fence->range.npages < to ? fence->range.first.n + fence->range.npages : to;

    if (first >= end)
        return;
    if (take) {
        (void)pagealloc_alloc_at(heap->pages, page_at(first), end - first);
        heap->naside_pages[fence->kind] += end - first;
    } else {
        pagealloc_free_range(heap->pages, page_at(first), end - first, fence->kind == ASIDE_EXCESS);
        heap->naside_pages[fence->kind] -= end - first;
    }
}

static bool mheap_grow(mheap *heap, uint64_t npages)
{
    uint64_t end = pagealloc_end(heap->pages).n;
    uint64_t ask = (npages + GROW_PAGES - 1) / GROW_PAGES * GROW_PAGES;

    if (ask > heap->map->npages - end)
        ask = heap->map->npages - end;
    if (ask == 0)
        return false;
    note_added(heap, end, end + ask);
    CRASH_POINT(arena_after_npages);
    pagealloc_grow(heap->pages, page_at(end), ask);
    for (unsigned i = 0; i < MHEAP_FENCES; i++)
        fence_pages(heap, &heap->fences[i], end, end + ask, true);
    mheap_refresh_metadata(heap);
    return true;
}

void mheap_flush_cache(mheap *heap)
{
    pagecache_flush(&heap->cache, heap->pages);
}

static bool take_once(mheap *heap, uint64_t npages, uint64_t align_pages, page_no *ret, uint64_t *ret_nscavenged)
{
    if (align_pages > 1)
        return pagealloc_alloc_aligned(heap->pages, npages, align_pages, ret, ret_nscavenged);
    if (npages < PAGECACHE_NPAGES_BELOW &&
        (heap->cache.free != 0 || pagecache_fill(&heap->cache, heap->pages)) &&
        pagecache_alloc(&heap->cache, npages, ret, ret_nscavenged))
        return true;
    return pagealloc_alloc(heap->pages, npages, ret, ret_nscavenged);
}

static bool mheap_take_pages(mheap *heap, uint64_t npages, uint64_t align_pages, page_no *ret, uint64_t *ret_nscavenged)
{
    uint64_t with_slack = npages + align_pages - 1;

    if (with_slack < npages || with_slack >= heap->map->npages)
        return false;
    do {
        if (take_once(heap, npages, align_pages, ret, ret_nscavenged))
            return true;
    } while (mheap_grow(heap, with_slack));
    if (heap->cache.free == 0)
        return false;
    mheap_flush_cache(heap);
    return take_once(heap, npages, align_pages, ret, ret_nscavenged);
}

/* --- pages aside --- */

/* True if these pages are free. The heap grows for those that follow its end. */
static bool is_free_or_new(mheap *heap, page_range range)
{
    uint64_t to = range.first.n + range.npages;
    uint64_t end = pagealloc_end(heap->pages).n;

    if (range.first.n > end || to > heap->map->npages ||
        (range.first.n < end && !pagealloc_is_free(heap->pages, range.first, (to < end ? to : end) - range.first.n)))
        return false;
    return to <= end ||
           (mheap_grow(heap, to - end) && pagealloc_is_free(heap->pages, range.first, range.npages)); /* no fence */
}

/* True if these pages, which are free, have no memory. They get some soon, and backed_base says so. */
static bool back_unbacked(mheap *heap, page_range range)
{
    shm_heap_arena *arena = &heap->map->heap_arenas[range.first.n / SHM_HEAP_ARENA_PAGES];
    uint64_t to = range.first.n % SHM_HEAP_ARENA_PAGES + range.npages;
    uint64_t ntaken;
    uint64_t nbacked;

    pagealloc_count(heap->pages, range.first, range.npages, &ntaken, &nbacked);
    if (nbacked > 0)
        return false;
    assert(to <= SHM_HEAP_ARENA_PAGES);
    if (to > u32_load_relaxed(&arena->backed_base))
        u32_store_release(&arena->backed_base, (uint32_t)to);
    CRASH_POINT(backed_base_after);
    return true;
}

page_range mheap_take_aside(mheap *heap, enum mheap_aside kind, page_range range, uint64_t *ret_nscavenged)
{
    uint64_t nscavenged = 0;

    if (kind == ASIDE_RELEASE || kind == ASIDE_RELEASE_DENSE) {
        range = pagealloc_take_unscavenged(heap->pages, range.npages, kind == ASIDE_RELEASE_DENSE);
    } else if (kind == ASIDE_UNUSED) {
        range.npages = pagealloc_take_unused_chunk(heap->pages, range.first, &range.first) ? CHUNK_PAGES : 0;
    } else {
        if (kind == ASIDE_GROWTH)
            mheap_flush_cache(heap);
        if (is_free_or_new(heap, range) && (kind != ASIDE_AHEAD || back_unbacked(heap, range)))
            nscavenged = pagealloc_alloc_at(heap->pages, range.first, range.npages);
        else
            range.npages = 0;
    }
    heap->naside_pages[kind] += range.npages;
    note_committed(heap);
    if (ret_nscavenged != NULL)
        *ret_nscavenged = nscavenged;
    return range;
}

bool mheap_put_fence(mheap *heap, unsigned place, enum mheap_aside kind, page_range range)
{
    uint64_t to = range.first.n + range.npages;
    uint64_t end = pagealloc_end(heap->pages).n;

    assert(heap->fences[place].range.npages == 0);
    if (range.npages == 0 || to > heap->map->npages)
        return false;
    mheap_flush_cache(heap);
    if (range.first.n < end && !pagealloc_is_free(heap->pages, range.first, (to < end ? to : end) - range.first.n))
        return false;
    heap->fences[place] = (mheap_fence){ .range = range, .kind = kind };
    fence_pages(heap, &heap->fences[place], 0, end, true);
    return true;
}

void mheap_remove_fence(mheap *heap, unsigned place)
{
    fence_pages(heap, &heap->fences[place], 0, pagealloc_end(heap->pages).n, false);
    heap->fences[place] = (mheap_fence){ .range = { .npages = 0 } };
}

/* What describes the chunk's pages has gone. Its links go too, but for those that share a page with others. */
static void forget_chunk(mheap *heap, page_no first)
{
    uintptr_t mask = ~(uintptr_t)(SYSTEM_PAGE_BYTES - 1);
    uintptr_t from = ((uintptr_t)&heap->links[first.n] + ~mask) & mask;
    uintptr_t to = (uintptr_t)&heap->links[first.n + CHUNK_PAGES] & mask;

    (void)madvise((void *)from, to - from, MADV_DONTNEED);
    metabook_note_punched(&heap->book, first);
}

void mheap_put_back(mheap *heap, enum mheap_aside kind, page_range range, bool punched)
{
    heap->naside_pages[kind] -= range.npages;
    if (punched && kind != ASIDE_EXCESS) /* doubted ones first: after a takeover they are most of what is free */
        heap->ndoubted_pages -= range.npages < heap->ndoubted_pages ? range.npages : heap->ndoubted_pages;
    if (kind == ASIDE_RELEASE || kind == ASIDE_RELEASE_DENSE) {
        pagealloc_put_back(heap->pages, range, punched);
    } else if (kind == ASIDE_UNUSED) {
        if (punched)
            forget_chunk(heap, range.first);
        pagealloc_free_unused_chunk(heap->pages, range.first, punched);
    } else {
        pagealloc_free_range(heap->pages, range.first, range.npages, punched);
    }
}

/* --- spans --- */

/* Raise zeroed_base over [first, first + npages). True if some of these pages may have been written before. */
static bool mheap_was_used(mheap *heap, page_no first, uint64_t npages)
{
    bool used = false;
    uint64_t page = first.n;

    for (uint64_t end = page + npages; page < end;) {
        shm_heap_arena *arena = &heap->map->heap_arenas[page / SHM_HEAP_ARENA_PAGES];
        uint64_t from = page % SHM_HEAP_ARENA_PAGES;
        uint64_t to = from + (end - page);
        uint64_t zeroed_base = u32_load_relaxed(&arena->zeroed_base);

        if (to > SHM_HEAP_ARENA_PAGES)
            to = SHM_HEAP_ARENA_PAGES;
        used |= from < zeroed_base;
        if (to > zeroed_base)
            u32_store_release(&arena->zeroed_base, (uint32_t)to);
        CRASH_POINT(zeroed_base_after);
        page += to - from;
    }
    return used;
}

/* For a check that has come beyond the span: spans and pages more, or less (checking.h). */
static void note_checked(mheap *heap, page_no first, int64_t nspans, int64_t npages)
{
    if (span_is_checked(heap->links, first)) {
        heap->checked.nspans += (uint64_t)nspans;
        heap->checked.npages += (uint64_t)npages;
    }
}

static void note_inuse(mheap *heap, uint64_t npages)
{
    heap->ntakes++;
    heap->ninuse_pages += npages;
    note_committed(heap);
    if (heap->ninuse_pages > heap->npeak_pages)
        heap->npeak_pages = heap->ninuse_pages;
}

/* Take pages for a span and describe it, all but the page map. */
static int describe_span(mheap *heap, uint64_t npages, uint64_t align_pages, span_class spc, page_no *ret_span,
                         uint64_t *ret_nscavenged)
{
    uint8_t class = span_class_size(spc).n;
    page_no first;
    uint64_t nscavenged;

    if (!mheap_take_pages(heap, npages, align_pages, &first, &nscavenged))
        return MHEAP_E_EXHAUSTED;

    shm_span *span = shm_span_at(heap->map, first);
    bool used = mheap_was_used(heap, first, npages);

    /* Behind the lease word of the span that was here, for who looks at that, at the description, and at it again. */
    fence_release();
    span->elem_bytes = class == 0 ? npages * PAGE_BYTES : size_class_bytes[class];
    span->npages = (uint32_t)npages;
    span->nelems = class == 0 ? 1 : size_class_span_nelems(class, npages);
    span->magic = size_class_magic[class];
    span->spc = spc;
    span->needzero = used && nscavenged < npages;
    span->lessee_folds = 0;
    span->marked = 0;
    span->reserved32 = 0;
    u64_store_relaxed(&span->origin, 0);
    u32_store_relaxed(&span->owner, 0);
    u32_store_relaxed(&span->nadopted, 0);
    u32_store_relaxed(&span->has_kept, 0);
    CRASH_POINT(span_after_description);
    for (uint32_t w = 0; w < bits_nwords(span->nelems); w++) {
        u64_store_relaxed(shm_alloc_word(heap->map, first, w), 0);
        u64_store_relaxed(shm_remote_word(heap->map, first, w), 0);
    }
    CRASH_POINT(span_after_bits);
    *ret_span = first;
    *ret_nscavenged = nscavenged;
    return 0;
}

/* Its page map is written. */
static void span_is_whole(mheap *heap, page_no first, uint64_t npages)
{
    CRASH_POINT(span_after_map);
    metabook_note_span(&heap->book, first, npages);
    note_inuse(heap, npages);
    heap->ninuse_spans++;
    note_checked(heap, first, 1, (int64_t)npages);
}

int mheap_alloc_span(mheap *heap, uint64_t npages, uint64_t align_pages, span_class spc, page_no *ret_span,
                     uint64_t *ret_nscavenged)
{
    page_no first;
    int e = describe_span(heap, npages, align_pages, spc, &first, ret_nscavenged);

    if (e != 0)
        return e;
    for (uint64_t i = 0; i < npages; i++)
        u32_store_release(&heap->map->page_map[first.n + i], first.n);
    span_is_whole(heap, first, npages);
    *ret_span = first;
    return 0;
}

/* --- long spans: page map in slices --- */

static void add_mapping(mheap *heap, mheap_mapping *m)
{
    heap->naside_pages[m->clears ? ASIDE_CLEARING : ASIDE_MAPPING] += m->range.npages;
    DL_APPEND(heap->mappings, m);
    heap->on_mapping(heap->on_mapping_data);
}

int mheap_begin_span(mheap *heap, uint64_t npages, uint64_t align_pages, span_class spc, page_no *ret_span,
                     uint64_t *ret_nscavenged, mheap_mapping *m)
{
    int e = describe_span(heap, npages, align_pages, spc, ret_span, ret_nscavenged);

    if (e != 0)
        return e;
    m->range = (page_range){ *ret_span, npages };
    m->left = npages;
    m->clears = false;
    u32_store_release(&heap->map->page_map[ret_span->n], ret_span->n); /* who walks the heap passes over it */
    add_mapping(heap, m);
    return 0;
}

/*
 * The page map entries of these pages, which are in no span any more, mean nothing: clear them, then the pages are
 * free. Entries of many pages are cleared from the last one down, so that who walks the heap meets the first one, which
 * leads past all that are left; what stands there says FREE.
 */
static void clear_map(mheap *heap, page_no first, uint64_t npages, bool punched)
{
    mheap_mapping *m = npages > MHEAP_MAP_PAGES && heap->on_mapping != NULL ? calloc(1, sizeof(*m)) : NULL;

    if (m != NULL) {
        shm_span_at(heap->map, first)->npages = (uint32_t)npages;
        u32_store_release(&heap->map->page_map[first.n], first.n);
        *m = (mheap_mapping){ .range = { first, npages }, .left = npages, .clears = true, .punched = punched };
        add_mapping(heap, m);
        return;
    }
    for (uint64_t i = 0; i < npages; i++)
        u32_store_release(&heap->map->page_map[first.n + i], 0);
    pagealloc_free_range(heap->pages, first, npages, punched);
}

/* Write the next n entries. */
static void map_slice(mheap *heap, mheap_mapping *m, uint64_t n)
{
    uint64_t from = m->range.first.n + m->range.npages - m->left;

    for (uint64_t i = 0; i < n; i++)
        u32_store_release(&heap->map->page_map[from + i], m->range.first.n);
    m->left -= n;
    if (m->left == 0) {
        heap->naside_pages[ASIDE_MAPPING] -= m->range.npages;
        span_is_whole(heap, m->range.first, m->range.npages);
    }
}

/* Clear the last n entries that are left, and free their pages. */
static void unmap_slice(mheap *heap, mheap_mapping *m, uint64_t n)
{
    page_no from = page_at(m->range.first.n + m->left - n);

    for (uint64_t i = n; i-- > 0;)
        u32_store_release(&heap->map->page_map[from.n + i], 0);
    CRASH_POINT(unmap_after_entries);
    m->left -= n;
    if (m->left > 0)
        shm_span_at(heap->map, m->range.first)->npages = (uint32_t)m->left;
    CRASH_POINT(unmap_after_npages);
    heap->naside_pages[ASIDE_CLEARING] -= n;
    pagealloc_free_range(heap->pages, from, n, m->punched);
}

bool mheap_map_some(mheap *heap, bool *ret_freed)
{
    mheap_mapping *m = heap->mappings;
    uint64_t n;

    *ret_freed = false;
    if (m == NULL)
        return false;
    n = m->left < MHEAP_MAP_PAGES / 2 ? m->left : MHEAP_MAP_PAGES / 2;
    if (m->clears)
        unmap_slice(heap, m, n);
    else
        map_slice(heap, m, n);
    DL_DELETE(heap->mappings, m);
    if (m->left > 0) {
        DL_APPEND(heap->mappings, m);
    } else if (m->clears) {
        *ret_freed = true;
        free(m);
    } else {
        m->done(m->data); /* which may end m */
    }
    return heap->mappings != NULL;
}

void mheap_free_span(mheap *heap, page_no first, bool punched)
{
    shm_span *span = shm_span_at(heap->map, first);
    uint64_t npages = span->npages;

    assert(heap->links[first.n].place == PLACE_NONE);
    if (u32_load_relaxed(&span->nadopted) != 0)
        adopt_forget_span(heap->adopted, first);
    left_forget_span(heap->left, first);
    estate_drop(heap->estates, first, (uint32_t)npages);
    /* The state first: from here on the page map entries mean nothing. */
    u64_store_release(&span->lease, lease_pack((lease_word){ .state = SPAN_FREE }));
    CRASH_POINT(free_span_after_word);
    heap->ninuse_pages -= npages;
    heap->ninuse_spans--;
    note_checked(heap, first, -1, -(int64_t)npages);
    clear_map(heap, first, npages, punched);
    CRASH_POINT(free_span_after_map);
}

/* --- large spans that change their length --- */

void mheap_extend_span(mheap *heap, page_no first, uint64_t npages)
{
    shm_span *span = shm_span_at(heap->map, first);
    page_no behind = page_at(first.n + span->npages);

    (void)mheap_was_used(heap, behind, npages);
    for (uint64_t i = 0; i < npages; i++)
        u32_store_release(&heap->map->page_map[behind.n + i], first.n);
    CRASH_POINT(extend_after_map);
    span->npages += (uint32_t)npages;
    CRASH_POINT(extend_after_npages);
    fence_release(); /* here and below: who looks meanwhile never finds an object that is longer than its pages */
    span->elem_bytes = span->npages * PAGE_BYTES;
    metabook_note_span(&heap->book, first, span->npages);
    heap->naside_pages[ASIDE_GROWTH] -= npages;
    note_inuse(heap, npages);
    note_checked(heap, first, 0, (int64_t)npages);
}

void mheap_shrink_span(mheap *heap, page_no first, uint64_t npages)
{
    shm_span *span = shm_span_at(heap->map, first);
    uint64_t gone = span->npages - npages;

    assert(npages > 0 && npages < span->npages);
    span->elem_bytes = npages * PAGE_BYTES;
    fence_release();
    span->npages = (uint32_t)npages;
    CRASH_POINT(shrink_after_npages);
    heap->ninuse_pages -= gone;
    note_checked(heap, first, 0, -(int64_t)gone);
    clear_map(heap, page_at(first.n + npages), gone, false);
    CRASH_POINT(shrink_after_map);
}

/* --- looking --- */

page_no mheap_next_span(const mheap *heap, page_no *pos)
{
    uint64_t end = pagealloc_end(heap->pages).n;

    for (;;) {
        page_no page = pagealloc_next_taken(heap->pages, *pos);
        page_no first;
        const shm_span *span;

        *pos = page;
        if (page.n >= end)
            return page_at(0);
        first = page_at(u32_load_relaxed(&heap->map->page_map[page.n]));
        span = shm_span_at(heap->map, first);
        /* Of no span are page 0, what is in the cache, and what is aside. */
        *pos = page_at(first.n == 0 ? page.n + UINT64_C(1) : first.n + (uint64_t)span->npages);
        if (first.n != 0 && lease_unpack(u64_load_relaxed(&span->lease)).state != SPAN_FREE)
            return first;
    }
}

/* Ends with the last page that is taken: what follows may be terabytes that are free. */
uint64_t mheap_count_classes(const mheap *heap, page_no first, uint64_t npages, uint64_t ntaken,
                             uint32_t ret[SIZE_CLASS_COUNT + 1])
{
    const shm_map *map = heap->map;
    uint64_t end = first.n + npages;
    uint64_t nsteps = 0;

    for (uint64_t at = first.n, n; ntaken > 0; at += n, ntaken -= n, nsteps++) {
        page_no span_at;
        const shm_span *span;

        at = pagealloc_next_taken(heap->pages, page_at(at)).n;
        span_at = page_at(u32_load_relaxed(&map->page_map[at]));
        span = shm_span_at(map, span_at);
        n = 1; /* in no span, as the page map or the lease word says */
        if (span_at.n == 0 || at >= span_at.n + (uint64_t)span->npages ||
            lease_unpack(u64_load_relaxed(&span->lease)).state == SPAN_FREE)
            continue;
        n = span_at.n + span->npages - at;
        n = n < end - at ? n : end - at;
        n = n < ntaken ? n : ntaken;
        ret[span_class_size(span->spc).n] += (uint32_t)n;
    }
    return nsteps;
}
