/*
 * Recover: an mheap over what another daemon has left.
 *
 * Called by main. Calls pagealloc, metabook and mcentral. Reads the heap-arena table, the page map and the spans'
 * descriptions; of these it writes only page map entries and marks that mean nothing, and elem_bytes of large spans.
 *
 *   1. The heap-arena table says how far the heap had grown.
 *   2. The page map and the descriptions say which pages are taken. A page map entry whose span does not reach so far,
 *      or whose lease word says FREE, was left half-done (mheap.c gives the orders) and is cleared. Everything else
 *      has to be whole, or the heap is refused.
 *   3. CENTRAL spans without an owner go into the unswept sets; their bits are not read. Those of groups and leased
 *      spans are in no list until lease_table_recover() gives them to their groups and lessees.
 *   4. Free pages count as having memory where they may have some (recover_backed). The peak of pages with memory is
 *      the header's word, which the daemons before have kept, and does not rise by that (ndoubted_pages).
 *
 * If this daemon dies as well, the next one finds the same: each store here is one that it may repeat.
 */
#include "daemon/heap/mcentral.h"

#include <errno.h>

#include "shm/crash.h"

/* The end of the pages that were added: heap arenas in a row, all full but the last. False: the table is damaged. */
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

/*
 * Whether marks mean anything: else a daemon that does not know them was in between, and has leased marked spans to
 * anybody. They go then, before any lease: when the bit is set again, those of new spans alone are there.
 */
static bool has_marks(const mheap *heap)
{
    return (u32_load_relaxed(&heap->map->header->optional) & SHM_OPTIONAL_PROFILE) != 0;
}

/* The same of origins (shm/origin.h). */
static bool has_origins(const mheap *heap)
{
    return (u32_load_relaxed(&heap->map->header->optional) & SHM_OPTIONAL_ORIGIN) != 0;
}

/* NULL if what stands at first is a whole span that lies below end; else what is wrong. */
static const char *recover_check_span(const mheap *heap, page_no first, uint64_t end)
{
    const shm_span *span = shm_span_at(heap->map, first);
    uint8_t class = span_class_size(span->spc).n;
    lease_word lease = lease_unpack(u64_load_relaxed(&span->lease));

    if (class > SIZE_CLASS_TINY || span->npages == 0 || span->npages > end - first.n ||
        (class != 0 && (span->nelems == 0 || span->nelems != size_class_span_nelems(class, span->npages) ||
                        span->elem_bytes != size_class_bytes[class] || span->magic != size_class_magic[class])) ||
        (class == 0 && (span->nelems != 1 || span->magic != 0)))
        return "a span's description is damaged";
    if (span->marked > 1 && has_marks(heap))
        return "a span's mark is damaged";
    if ((lease.state != SPAN_LEASED && lease.state != SPAN_CENTRAL) || lease.session.n >= SHM_SESSIONS_MAX ||
        u32_load_relaxed(&span->owner) >= SHM_OWNERS_MAX)
        return "a lease word is damaged";
    for (uint64_t i = 0; i < span->npages; i++) {
        if (u32_load_relaxed(&heap->map->page_map[first.n + i]) != first.n)
            return "the page map is damaged";
    }
    return NULL;
}

/* A whole span: its pages are taken, and it goes where its lease word says. */
static void recover_span(mheap *heap, page_no first)
{
    shm_span *span = shm_span_at(heap->map, first);

    if (span_class_size(span->spc).n == 0)
        span->elem_bytes = span->npages * PAGE_BYTES; /* the daemon may have died between the two */
    if (!has_marks(heap))
        span->marked = 0;
    if (!has_origins(heap))
        u64_store_relaxed(&span->origin, 0);
    (void)pagealloc_alloc_at(heap->pages, first, span->npages);
    metabook_note_span(&heap->book, first, span->npages);
    heap->ninuse_pages += span->npages;
    heap->ninuse_spans++;
    /* Unswept: mcentral folds and counts before it hands the span out. */
    if (lease_unpack(u64_load_relaxed(&span->lease)).state == SPAN_CENTRAL && u32_load_relaxed(&span->owner) == 0)
        mcentral_put_recovered(heap, first);
}

/* Go through the page map. An entry that names no whole span is half-done: it is cleared. NULL, or what is wrong. */
static const char *recover_spans(mheap *heap, uint64_t end)
{
    if (u32_load_relaxed(&heap->map->page_map[0]) != 0)
        return "the page map is damaged"; /* page 0 is of no span */
    for (uint64_t page = 1; page < end;) {
        uint32_t first = u32_load_relaxed(&heap->map->page_map[page]);
        const shm_span *span = shm_span_at(heap->map, page_at(first));
        const char *why;

        if (first > page)
            return "the page map is damaged";
        if (first < page || lease_unpack(u64_load_relaxed(&span->lease)).state == SPAN_FREE) {
            /* Of no span; or behind the end of its span, or of a span that is free. */
            if (first != 0)
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

/* True if a page of the chunk was ever handed out, or prepared for that: only then the chunk may have memory. */
static bool had_memory(const mheap *heap, uint64_t chunk)
{
    const shm_heap_arena *arena = &heap->map->heap_arenas[chunk / SHM_HEAP_ARENA_PAGES];

    return chunk % SHM_HEAP_ARENA_PAGES < u32_load_relaxed(&arena->zeroed_base) ||
           chunk % SHM_HEAP_ARENA_PAGES < u32_load_relaxed(&arena->backed_base);
}

/*
 * Free pages count as scavenged up to here. Those that may have memory are taken, and given back as having some. (The
 * kernel can't be asked: for SEEK_DATA, pages that are committed and not written are holes.) Pages that have none in
 * fact go to the scavenger soon, which is quick where there is nothing.
 */
static void recover_backed(mheap *heap, uint64_t end)
{
    for (uint64_t chunk = 0; chunk < end; chunk += CHUNK_PAGES) {
        if (!had_memory(heap, chunk))
            continue;
        metabook_recover_chunk(&heap->book, page_at(chunk));
        for (uint64_t page = chunk, to; page < chunk + CHUNK_PAGES; page = to + 1) {
            to = page;
            while (to < chunk + CHUNK_PAGES && !pagealloc_is_taken(heap->pages, page_at(to)))
                to++;
            if (to > page) {
                (void)pagealloc_alloc_at(heap->pages, page_at(page), to - page);
                pagealloc_free_range(heap->pages, page_at(page), to - page, false);
            }
        }
    }
}

int mheap_recover(mheap *heap, heapfile *file, uint64_t limit_bytes, const char **ret_why)
{
    uint64_t end;
    int r = mheap_init_private(heap, file, limit_bytes);

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
    mheap_keep_origins(heap);
    recover_backed(heap, end);
    heap->distrust_backed = true;
    heap->ndoubted_pages = mheap_free_backed_pages(heap);
    heap->npeak_pages = heap->ninuse_pages;
    mheap_refresh_metadata(heap);
    return 0;
}
