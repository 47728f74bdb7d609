/*
 * mheap: makes spans out of runs of pages, and pages out of spans.
 *
 * Called by mcentral (grow, free), lease and request (large objects); calls pagealloc for page numbers and heapfile
 * to release memory. Data: the span's description, the page map and zeroed_base of its heap arena, all in spans,
 * written by this thread alone; the span's bits in bitmap, cleared here while nobody can know the span; links and
 * page allocator in private memory.
 *
 * The path of a span:
 *   1. Up to 15 pages come out of the page cache, longer runs from pagealloc. If there is none, the heap grows by
 *      multiples of 4 MiB, up to the arena's end; the heap arenas' npages follow. Before memory counts as exhausted
 *      the page cache is given back.
 *   2. needzero: pages below zeroed_base were handed out before, so they are dirty, unless all of them were
 *      scavenged since (a punched page reads as zero). zeroed_base rises; first fit by address keeps it a good bound.
 *   3. Bits are cleared, the description is written, then the page map. The lease word stays FREE: lease.c changes
 *      it, last.
 *   4. mheap_free_span: lease word to FREE, then page map to 0, then the run goes back to pagealloc.
 *
 * A large span may change its length while it is leased. Growing: page map of the new pages, then npages, then
 * elem_bytes. Shrinking: elem_bytes, npages, then the page map. What counts is npages; a page map entry that names a
 * span which does not reach so far means nothing.
 *
 * The memory limit is soft, as Go's: it makes requests release free pages first (request.c) and keeps the background
 * scavenger at 95% of it (scavenge.c), but an allocation that does not fit is made. It covers the metadata too, as far
 * as the daemon has caused it (metabook.c). Of the arena it counts pages that this file has handed out or keeps: what a
 * client makes the kernel add there by itself counts for nobody.
 *
 * Dies the daemon before the lease word is set, the pages count as free; the page map entries of a span whose lease
 * word says FREE mean nothing. Dies it between the stores of 4, the same holds.
 *
 * Invariants (mheap_validate, linear): every taken page above 0 belongs to the span that its page map entry names, or
 * is in the page cache or in limbo; no free page has a description that is not FREE; a CENTRAL span is in the mcentral
 * of its class.
 */
#include "daemon/heap/mheap.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "shm/crash.h"

#define GROW_PAGES 512u /* 4 MiB: a chunk of the page allocator */

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

/* All but the pages. */
static int mheap_setup(mheap *heap, heapfile *file, uint64_t limit_bytes)
{
    int r;

    *heap = (mheap){ .file = file, .map = &file->map, .limit_bytes = limit_bytes };
    r = pagealloc_new(&heap->pages, heap->map->npages);
    if (r < 0)
        return r;
    heap->links = mmap(NULL, links_bytes(heap), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (heap->links == MAP_FAILED) {
        heap->pages = pagealloc_free(heap->pages);
        return -ENOMEM;
    }
    if (metabook_init(&heap->book, heap->map) < 0) {
        mheap_end(heap);
        return -ENOMEM;
    }
    heap->adopted = adopt_new(file);
    heap->left = left_new(heap->map, heap->links);
    if (heap->adopted == NULL || heap->left == NULL) {
        mheap_end(heap);
        return -ENOMEM;
    }
    return 0;
}

int mheap_init(mheap *heap, heapfile *file, uint64_t limit_bytes)
{
    int r = mheap_setup(heap, file, limit_bytes);

    if (r < 0)
        return r;
    /* Page 0 is nobody's, so that offset 0 can mean NULL and page 0 "none". */
    note_added(heap, 0, GROW_PAGES);
    pagealloc_grow(heap->pages, page_at(0), GROW_PAGES);
    (void)pagealloc_alloc_at(heap->pages, page_at(0), 1);
    mheap_refresh_metadata(heap);
    return 0;
}

void mheap_end(mheap *heap)
{
    (void)munmap(heap->links, links_bytes(heap));
    heap->pages = pagealloc_free(heap->pages);
    heap->adopted = adopt_free(heap->adopted);
    heap->left = left_free(heap->left);
    metabook_end(&heap->book);
}

uint64_t mheap_charged_bytes(const mheap *heap)
{
    return metabook_bytes(&heap->book);
}

void mheap_note_kept(mheap *heap, page_no span)
{
    metabook_note_kept(&heap->book, span);
}

uint64_t mheap_added_pages(const mheap *heap)
{
    return pagealloc_npages_added(heap->pages);
}

uint64_t mheap_released_pages(const mheap *heap)
{
    /* Page 0 is taken and never committed. */
    return pagealloc_npages_scavenged(heap->pages) + pagecache_nscavenged(&heap->cache) + heap->nempty_pages + 1;
}

uint64_t mheap_committed_pages(const mheap *heap)
{
    return mheap_added_pages(heap) - mheap_released_pages(heap);
}

void mheap_refresh_metadata(mheap *heap)
{
    heap->metadata_bytes = heapfile_metadata_bytes(heap->file);
    metabook_refresh(&heap->book, pagealloc_end(heap->pages).n);
}

uint64_t mheap_room_pages(const mheap *heap)
{
    uint64_t used = (heap->ninuse_pages + heap->ngrowth_pages) * PAGE_BYTES + mheap_charged_bytes(heap);

    if (heap->limit_bytes == 0)
        return UINT64_MAX;
    return used >= heap->limit_bytes ? 0 : (heap->limit_bytes - used) / PAGE_BYTES;
}

uint64_t mheap_free_backed_pages(const mheap *heap)
{
    return mheap_committed_pages(heap) - heap->ninuse_pages - heap->ngrowth_pages - heap->nreleasing_pages -
           heap->nahead_pages;
}

uint64_t mheap_over_limit_with(const mheap *heap, unsigned percent, uint64_t npages)
{
    uint64_t have =
        (mheap_committed_pages(heap) + npages - heap->nreleasing_pages) * PAGE_BYTES + mheap_charged_bytes(heap);
    uint64_t most = heap->limit_bytes / 100 * percent;

    return heap->limit_bytes == 0 || have <= most ? 0 : have - most;
}

uint64_t mheap_over_limit(const mheap *heap, unsigned percent)
{
    return mheap_over_limit_with(heap, percent, 0);
}

/* --- pages --- */

static bool mheap_grow(mheap *heap, uint64_t npages)
{
    uint64_t end = pagealloc_end(heap->pages).n;
    uint64_t room = heap->map->npages - end;
    uint64_t ask = (npages + GROW_PAGES - 1) / GROW_PAGES * GROW_PAGES;

    if (ask > room)
        ask = room;
    if (ask == 0)
        return false;
    note_added(heap, end, end + ask);
    CRASH_POINT(arena_after_npages);
    pagealloc_grow(heap->pages, page_at(end), ask);
    mheap_refresh_metadata(heap);
    return true;
}

void mheap_flush_cache(mheap *heap)
{
    pagecache_flush(&heap->cache, heap->pages);
}

/* A short run, out of the cache if it has one. */
static bool take_cached(mheap *heap, uint64_t npages, page_no *ret, uint64_t *ret_nscavenged)
{
    if (heap->cache.free == 0 && !pagecache_fill(&heap->cache, heap->pages))
        return false;
    return pagecache_alloc(&heap->cache, npages, ret, ret_nscavenged);
}

static bool take_once(mheap *heap, uint64_t npages, uint64_t align_pages, page_no *ret, uint64_t *ret_nscavenged)
{
    if (align_pages > 1)
        return pagealloc_alloc_aligned(heap->pages, npages, align_pages, ret, ret_nscavenged);
    if (npages < PAGECACHE_NPAGES_BELOW && take_cached(heap, npages, ret, ret_nscavenged))
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

page_run mheap_begin_release(mheap *heap, uint64_t npages, bool force)
{
    page_run run = pagealloc_take_unscavenged(heap->pages, npages, force);

    heap->nreleasing_pages += run.npages;
    return run;
}

void mheap_end_release(mheap *heap, page_run run, bool punched)
{
    heap->nreleasing_pages -= run.npages;
    pagealloc_put_back(heap->pages, run, punched);
}

uint64_t mheap_release(mheap *heap, uint64_t npages)
{
    uint64_t released = 0;

    mheap_flush_cache(heap);
    while (released < npages) {
        page_run run = mheap_begin_release(heap, npages - released, true);
        int r;

        if (run.npages == 0)
            break;
        r = heapfile_punch(heap->file, run.first, run.npages);
        mheap_end_release(heap, run, r == 0);
        if (r < 0)
            break;
        released += run.npages;
    }
    return released;
}

bool mheap_begin_ahead(mheap *heap, page_no first, uint64_t npages)
{
    uint64_t end = pagealloc_end(heap->pages).n;
    uint64_t to = first.n + npages;
    uint64_t ntaken;
    uint64_t nbacked;
    shm_heap_arena *arena;

    if (to > end && (first.n > end || !mheap_grow(heap, to - end)))
        return false;
    pagealloc_count(heap->pages, first, npages, &ntaken, &nbacked);
    if (ntaken + nbacked > 0 || !pagealloc_is_free(heap->pages, first, npages))
        return false;
    arena = &heap->map->heap_arenas[first.n / SHM_HEAP_ARENA_PAGES];
    to = first.n % SHM_HEAP_ARENA_PAGES + npages;
    assert(to <= SHM_HEAP_ARENA_PAGES);
    if (to > u32_load_relaxed(&arena->backed_base))
        u32_store_release(&arena->backed_base, (uint32_t)to);
    CRASH_POINT(backed_base_after);
    (void)pagealloc_alloc_at(heap->pages, first, npages);
    heap->nahead_pages += npages;
    return true;
}

void mheap_end_ahead(mheap *heap, page_run run, bool backed, bool described)
{
    if (described)
        metabook_note_prepared(&heap->book, run.first, run.npages);
    heap->nahead_pages -= run.npages;
    pagealloc_free_run(heap->pages, run.first, run.npages, !backed);
}

bool mheap_begin_unused_chunk(mheap *heap, page_no page, page_no *ret_first)
{
    if (!pagealloc_take_unused_chunk(heap->pages, page, ret_first))
        return false;
    heap->nempty_pages += CHUNK_PAGES;
    return true;
}

void mheap_end_unused_chunk(mheap *heap, page_no first, bool released)
{
    if (released) {
        /* The links of the chunk too; what they share a page with stays. */
        uintptr_t from = ((uintptr_t)&heap->links[first.n] + 4095) & ~(uintptr_t)4095;
        uintptr_t to = (uintptr_t)&heap->links[first.n + CHUNK_PAGES] & ~(uintptr_t)4095;

        (void)madvise((void *)from, to - from, MADV_DONTNEED);
        metabook_note_punched(&heap->book, first);
    }
    heap->nempty_pages -= CHUNK_PAGES;
    pagealloc_free_unused_chunk(heap->pages, first, released);
}

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
        if (from < zeroed_base)
            used = true;
        if (to > zeroed_base)
            u32_store_release(&arena->zeroed_base, (uint32_t)to);
        CRASH_POINT(zeroed_base_after);
        page += to - from;
    }
    return used;
}

static void note_inuse(mheap *heap, uint64_t npages)
{
    heap->ntakes++;
    heap->ninuse_pages += npages;
    if (heap->ninuse_pages > heap->npeak_pages)
        heap->npeak_pages = heap->ninuse_pages;
}

int mheap_alloc_span(mheap *heap, uint64_t npages, uint64_t align_pages, span_class spc, page_no *ret_span,
                     uint64_t *ret_nscavenged)
{
    uint8_t class = span_class_size(spc).n;
    page_no first;
    uint64_t nscavenged;

    if (!mheap_take_pages(heap, npages, align_pages, &first, &nscavenged))
        return MHEAP_E_EXHAUSTED;

    shm_span *span = shm_span_at(heap->map, first);
    bool used = mheap_was_used(heap, first, npages);

    span->elem_bytes = class == 0 ? npages * PAGE_BYTES : size_class_bytes[class];
    span->npages = (uint32_t)npages;
    span->nelems = class == 0 ? 1 : size_class_nelems[class];
    span->magic = size_class_magic[class];
    span->spc = spc;
    span->needzero = used && nscavenged < npages;
    span->lessee_folds = 0;
    u32_store_relaxed(&span->owner, 0);
    u32_store_relaxed(&span->nadopted, 0);
    u32_store_relaxed(&span->has_kept, 0);
    CRASH_POINT(span_after_description);
    for (uint32_t w = 0; w < bits_nwords(span->nelems); w++) {
        u64_store_relaxed(&shm_alloc_bits(heap->map, first)[w], 0);
        u64_store_relaxed(&shm_remote_bits(heap->map, first)[w], 0);
    }
    CRASH_POINT(span_after_bits);
    for (uint64_t i = 0; i < npages; i++)
        u32_store_release(&heap->map->page_map[first.n + i], first.n);
    CRASH_POINT(span_after_map);
    metabook_note_span(&heap->book, first, npages);

    note_inuse(heap, npages);
    heap->ninuse_spans++;
    *ret_span = first;
    *ret_nscavenged = nscavenged;
    return 0;
}

void mheap_free_span(mheap *heap, page_no first, bool punched)
{
    shm_span *span = shm_span_at(heap->map, first);
    uint64_t npages = span->npages;

    assert(heap->links[first.n].place == PLACE_NONE);
    if (u32_load_relaxed(&span->nadopted) != 0)
        adopt_forget_span(heap->adopted, first);
    left_forget_span(heap->left, first);
    /* The state first: from here on the page map entries mean nothing. */
    u64_store_release(&span->lease, lease_pack((lease_word){ .state = SPAN_FREE }));
    CRASH_POINT(free_span_after_word);
    for (uint64_t i = 0; i < npages; i++)
        u32_store_release(&heap->map->page_map[first.n + i], 0);
    CRASH_POINT(free_span_after_map);
    heap->ninuse_pages -= npages;
    heap->ninuse_spans--;
    pagealloc_free_run(heap->pages, first, npages, punched);
}

/* --- after another daemon --- */

/* The pages that had been added: heap arenas in a row, all full but the last. False: that can't be. */
static bool recover_end(const mheap *heap, uint64_t *ret_end)
{
    uint64_t narenas = heap->map->npages / SHM_HEAP_ARENA_PAGES;
    uint64_t end = 0;

    for (uint64_t i = 0; i < narenas; i++) {
        uint64_t npages = u64_load_relaxed(&heap->map->heap_arenas[i].npages);

        if (npages > SHM_HEAP_ARENA_PAGES || npages % CHUNK_PAGES != 0 ||
            u32_load_relaxed(&heap->map->heap_arenas[i].zeroed_base) > SHM_HEAP_ARENA_PAGES ||
            u32_load_relaxed(&heap->map->heap_arenas[i].backed_base) > SHM_HEAP_ARENA_PAGES)
            return false;
        end += npages;
        if (npages < SHM_HEAP_ARENA_PAGES)
            break;
    }
    *ret_end = end;
    return end > 0;
}

/* Is what stands at first a whole span that lies below end? NULL: yes; else what is wrong. */
static const char *recover_check_span(const mheap *heap, page_no first, uint64_t end)
{
    const shm_span *span = shm_span_at(heap->map, first);
    uint8_t class = span_class_size(span->spc).n;
    lease_word lease = lease_unpack(u64_load_relaxed(&span->lease));

    if (class > SIZE_CLASS_TINY || span->npages == 0 || span->npages > end - first.n ||
        (class != 0 && (span->npages != size_class_npages[class] || span->nelems != size_class_nelems[class] ||
                        span->elem_bytes != size_class_bytes[class] || span->magic != size_class_magic[class])) ||
        (class == 0 && (span->nelems != 1 || span->magic != 0)))
        return "a span's description is damaged";
    if ((lease.state != SPAN_LEASED && lease.state != SPAN_CENTRAL) || lease.session.n >= SHM_SESSIONS_MAX ||
        u32_load_relaxed(&span->owner) >= SHM_SESSIONS_MAX)
        return "a lease word is damaged";
    for (uint64_t i = 0; i < span->npages; i++) {
        if (u32_load_relaxed(&heap->map->page_map[first.n + i]) != first.n)
            return "the page map is damaged";
    }
    return NULL;
}

/* A span that is there: its pages are taken, and it goes where its lease word says. */
static void recover_span(mheap *heap, page_no first)
{
    shm_span *span = shm_span_at(heap->map, first);

    if (span_class_size(span->spc).n == 0)
        span->elem_bytes = span->npages * PAGE_BYTES; /* the daemon may have died between the two */
    (void)pagealloc_alloc_at(heap->pages, first, span->npages);
    metabook_note_span(&heap->book, first, span->npages);
    heap->ninuse_pages += span->npages;
    heap->ninuse_spans++;
    if (lease_unpack(u64_load_relaxed(&span->lease)).state == SPAN_CENTRAL) {
        mcentral *central = &heap->central[span->spc.n];
        bool large = span_class_size(span->spc).n == 0;

        /* Unswept: who takes it folds and counts first. */
        spanlist_push_back(large ? &central->full[1] : &central->partial[1], heap->links, first,
                           large ? PLACE_FULL_1 : PLACE_PARTIAL_1);
    }
}

/* Go through the page map. What names no whole span is what a daemon left half-done: it is cleared. */
static const char *recover_spans(mheap *heap, uint64_t end)
{
    for (uint64_t page = 1; page < end;) {
        uint32_t first = u32_load_relaxed(&heap->map->page_map[page]);
        const shm_span *span = shm_span_at(heap->map, page_at(first));
        const char *why;

        if (first == 0) {
            page++;
            continue;
        }
        if (first > page)
            return "the page map is damaged";
        if (first < page || lease_unpack(u64_load_relaxed(&span->lease)).state == SPAN_FREE) {
            /* Behind the end of its span, or of a span that is free. */
            u32_store_release(&heap->map->page_map[page], 0);
            page++;
            continue;
        }
        why = recover_check_span(heap, page_at(first), end);
        if (why != NULL)
            return why;
        recover_span(heap, page_at(first));
        CRASH_POINT(recover_half_spans);
        page += span->npages;
    }
    return NULL;
}

/* Has any page of the chunk ever been handed out, or prepared for that? Only then it may have memory. */
static bool had_memory(const mheap *heap, uint64_t chunk)
{
    const shm_heap_arena *arena = &heap->map->heap_arenas[chunk / SHM_HEAP_ARENA_PAGES];

    return chunk % SHM_HEAP_ARENA_PAGES < u32_load_relaxed(&arena->zeroed_base) ||
           chunk % SHM_HEAP_ARENA_PAGES < u32_load_relaxed(&arena->backed_base);
}

/*
 * Free runs count as scavenged up to here. Take and give back as having memory what may have some. (The kernel can't be
 * asked: for SEEK_DATA, pages that are committed and not written are holes.) What is wrongly counted goes to the
 * scavenger soon, which is quick where there is nothing.
 */
static void recover_backed(mheap *heap, uint64_t end)
{
    for (uint64_t chunk = 0; chunk < end; chunk += CHUNK_PAGES) {
        uint64_t ntaken;
        uint64_t nbacked;

        pagealloc_count(heap->pages, page_at(chunk), CHUNK_PAGES, &ntaken, &nbacked);
        if (had_memory(heap, chunk))
            metabook_recover_chunk(&heap->book, page_at(chunk));
        if (ntaken == CHUNK_PAGES || !had_memory(heap, chunk))
            continue;
        for (uint64_t page = chunk; page < chunk + CHUNK_PAGES;) {
            uint64_t to = page;

            while (to < chunk + CHUNK_PAGES && !pagealloc_is_taken(heap->pages, page_at(to)))
                to++;
            if (to > page) {
                (void)pagealloc_alloc_at(heap->pages, page_at(page), to - page);
                pagealloc_free_run(heap->pages, page_at(page), to - page, false);
            }
            page = to + 1;
        }
    }
}

int mheap_recover(mheap *heap, heapfile *file, uint64_t limit_bytes, const char **ret_why)
{
    uint64_t end;
    int r = mheap_setup(heap, file, limit_bytes);

    if (r < 0)
        return r;
    if (!recover_end(heap, &end)) {
        *ret_why = "the heap-arena table is damaged";
        mheap_end(heap);
        return -EUCLEAN;
    }
    pagealloc_grow(heap->pages, page_at(0), end);
    (void)pagealloc_alloc_at(heap->pages, page_at(0), 1);
    *ret_why = recover_spans(heap, end);
    if (*ret_why != NULL) {
        mheap_end(heap);
        return -EUCLEAN;
    }
    recover_backed(heap, end);
    heap->distrust_backed = true;
    heap->npeak_pages = heap->ninuse_pages;
    mheap_refresh_metadata(heap);
    return 0;
}

/* --- large spans that change their length --- */

bool mheap_take_growth(mheap *heap, page_no first, uint64_t npages, uint64_t *ret_nscavenged)
{
    uint64_t behind = first.n + (uint64_t)shm_span_at(heap->map, first)->npages;
    uint64_t end = pagealloc_end(heap->pages).n;

    if (npages > heap->map->npages - behind)
        return false;
    mheap_flush_cache(heap);
    if (!pagealloc_is_free(heap->pages, page_at(behind), (behind + npages < end ? behind + npages : end) - behind) ||
        (behind + npages > end && !mheap_grow(heap, behind + npages - end)))
        return false;
    *ret_nscavenged = pagealloc_alloc_at(heap->pages, page_at(behind), npages);
    heap->ngrowth_pages += npages;
    return true;
}

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
    span->elem_bytes = span->npages * PAGE_BYTES;
    metabook_note_span(&heap->book, first, span->npages);
    heap->ngrowth_pages -= npages;
    note_inuse(heap, npages);
}

void mheap_cancel_growth(mheap *heap, page_no first, uint64_t npages, bool punched)
{
    heap->ngrowth_pages -= npages;
    pagealloc_free_run(heap->pages, first, npages, punched);
}

void mheap_shrink_span(mheap *heap, page_no first, uint64_t npages)
{
    shm_span *span = shm_span_at(heap->map, first);
    uint64_t gone = span->npages - npages;

    assert(npages > 0 && npages < span->npages);
    span->elem_bytes = npages * PAGE_BYTES;
    span->npages = (uint32_t)npages;
    CRASH_POINT(shrink_after_npages);
    for (uint64_t i = 0; i < gone; i++)
        u32_store_release(&heap->map->page_map[first.n + npages + i], 0);
    CRASH_POINT(shrink_after_map);
    heap->ninuse_pages -= gone;
    pagealloc_free_run(heap->pages, page_at(first.n + npages), gone, false);
}

/* --- looking --- */

page_no mheap_next_span(const mheap *heap, page_no *pos)
{
    uint64_t end = pagealloc_end(heap->pages).n;

    while (pos->n < end) {
        page_no page = pagealloc_next_taken(heap->pages, *pos);
        uint32_t first;

        if (page.n >= end)
            break;
        first = u32_load_relaxed(&heap->map->page_map[page.n]);
        if (first == 0) {
            *pos = page_at(page.n + UINT64_C(1)); /* page 0, in the cache or in limbo */
            continue;
        }
        *pos = page_at((uint64_t)first + shm_span_at(heap->map, page_at(first))->npages);
        if (lease_unpack(u64_load_relaxed(&shm_span_at(heap->map, page_at(first))->lease)).state != SPAN_FREE)
            return page_at(first);
    }
    *pos = page_at(end);
    return page_at(0);
}

static int validate_span(const mheap *heap, page_no first, FILE *err)
{
    const shm_span *span = shm_span_at(heap->map, first);
    lease_word lease = lease_unpack(u64_load_relaxed(&span->lease));
    uint8_t class = span_class_size(span->spc).n;
    enum span_place place = heap->links[first.n].place;
    bool in_central = place != PLACE_NONE && place != PLACE_LEASED;

    for (uint64_t i = 0; i < span->npages; i++) {
        page_no page = page_at(first.n + i);

        if (u32_load_relaxed(&heap->map->page_map[page.n]) != first.n || !pagealloc_is_taken(heap->pages, page)) {
            (void)fprintf(err, "mheap: page %u is not taken for span %u\n", page.n, first.n);
            return -EUCLEAN;
        }
    }
    if (class > SIZE_CLASS_TINY || (class != 0 && span->npages != size_class_npages[class]) ||
        (class == 0 && span->elem_bytes != span->npages * PAGE_BYTES) ||
        (lease.state == SPAN_LEASED) != (place == PLACE_LEASED) || (lease.state == SPAN_CENTRAL) != in_central) {
        (void)fprintf(err, "mheap: span %u: class %u, %u pages, state %d, place %d\n", first.n, class, span->npages,
                      (int)lease.state, (int)place);
        return -EUCLEAN;
    }
    return 0;
}

int mheap_validate(const mheap *heap, FILE *err)
{
    page_no pos = { 0 };
    uint64_t npages = 0;
    uint64_t nspans = 0;
    uint64_t nlisted = 0;
    uint64_t ncentral = 0;
    int r = pagealloc_validate(heap->pages, err);

    if (r == 0)
        r = left_validate(heap->left, err);
    if (r == 0)
        r = metabook_validate(&heap->book, pagealloc_end(heap->pages).n, err);
    if (r < 0)
        return r;
    for (page_no first = mheap_next_span(heap, &pos); first.n != 0; first = mheap_next_span(heap, &pos)) {
        r = validate_span(heap, first, err);
        if (r < 0)
            return r;
        nspans++;
        npages += shm_span_at(heap->map, first)->npages;
        ncentral += heap->links[first.n].place >= PLACE_PARTIAL;
    }
    for (int c = 0; c < SPAN_CLASS_COUNT; c++) {
        for (int i = 0; i < 2; i++)
            nlisted += heap->central[c].partial[i].count + heap->central[c].full[i].count;
    }

    uint64_t ntaken = mheap_added_pages(heap) - pagealloc_npages_free(heap->pages) - 1 - heap->nreleasing_pages -
                      heap->nahead_pages - heap->ngrowth_pages - heap->nempty_pages - pagecache_npages(&heap->cache);

    if (npages != heap->ninuse_pages || nspans != heap->ninuse_spans || npages != ntaken || nlisted != ncentral) {
        (void)fprintf(err,
                      "mheap: %llu pages in %llu spans counted; noted %llu in %llu; taken %llu; %llu of %llu listed\n",
                      (unsigned long long)npages, (unsigned long long)nspans, (unsigned long long)heap->ninuse_pages,
                      (unsigned long long)heap->ninuse_spans, (unsigned long long)ntaken, (unsigned long long)nlisted,
                      (unsigned long long)ncentral);
        return -EUCLEAN;
    }
    return 0;
}
