/*
 * Validate: checks an mheap against itself.
 *
 * Called by goallocctl check and tests. Reads spans, lists and counters, and writes nothing. What clients can write
 * (the bits) is not looked at: no client can make a heap look broken.
 */
#include "daemon/heap/mheap.h"

#include <errno.h>

/* Counts the adopted objects of the span into *nadopted. */
static int validate_span(const mheap *heap, page_no first, uint64_t *nadopted, FILE *err)
{
    const shm_span *span = shm_span_at(heap->map, first);
    lease_word lease = lease_unpack(u64_load_relaxed(&span->lease));
    uint8_t class = span_class_size(span->spc).n;
    enum span_place place = heap->links[first.n].place;
    bool in_central = place != PLACE_NONE && place != PLACE_LEASED;
    uint32_t noted = u32_load_relaxed(&span->nadopted);
    uint32_t counted = noted == 0 ? 0 : adopt_count_span(heap->adopted, first);

    for (uint64_t i = 0; i < span->npages; i++) {
        page_no page = page_at(first.n + i);

        if (u32_load_relaxed(&heap->map->page_map[page.n]) != first.n || !pagealloc_is_taken(heap->pages, page)) {
            (void)fprintf(err, "mheap: page %u is not taken for span %u\n", page.n, first.n);
            return -EUCLEAN;
        }
    }
    if (class > SIZE_CLASS_TINY || (class != 0 && size_class_span_nelems(class, span->npages) == 0) ||
        (class == 0 && span->elem_bytes != span->npages * PAGE_BYTES) ||
        (lease.state == SPAN_LEASED) != (place == PLACE_LEASED) || (lease.state == SPAN_CENTRAL) != in_central) {
        (void)fprintf(err, "mheap: span %u: class %u, %u pages, state %d, place %d\n", first.n, class, span->npages,
                      (int)lease.state, (int)place);
        return -EUCLEAN;
    }
    if (noted != counted || (noted != 0 && !span_has_kept(span))) {
        (void)fprintf(err, "mheap: span %u: %u adopted objects, %u noted; has_kept %u\n", first.n, counted, noted,
                      u32_load_relaxed(&span->has_kept));
        return -EUCLEAN;
    }
    *nadopted += counted;
    return 0;
}

static uint64_t count_listed(const mcentral central[SPAN_CLASS_COUNT])
{
    uint64_t n = 0;

    for (int c = 0; c < SPAN_CLASS_COUNT; c++) {
        for (int i = 0; i < 4; i++)
            n += central[c].sets[i].count;
    }
    return n;
}

/* The spans in a group's mcentrals are the group's. */
static int validate_group(const mheap *heap, const group *g, FILE *err)
{
    for (int i = 0; i < SPAN_CLASS_COUNT * 4; i++) {
        const spanlist *set = &g->central[i / 4].sets[i % 4];
        uint64_t n = 0;

        for (page_no first = set->head; first.n != 0 && n < set->count; first = heap->links[first.n].next, n++) {
            const shm_span *span = shm_span_at(heap->map, first);

            if (u32_load_relaxed(&span->owner) != g->no.n || span->spc.n != i / 4) {
                (void)fprintf(err, "group: span %u of owner %u, class %u is in the sets of group %u, class %d\n",
                              first.n, u32_load_relaxed(&span->owner), span->spc.n, g->no.n, i / 4);
                return -EUCLEAN;
            }
        }
        if (n != set->count) {
            (void)fprintf(err, "group: a set of group %u has %llu spans, %llu noted\n", g->no.n, (unsigned long long)n,
                          (unsigned long long)set->count);
            return -EUCLEAN;
        }
    }
    return 0;
}

int mheap_validate(const mheap *heap, FILE *err)
{
    uint64_t npages = 0;
    uint64_t nspans = 0;
    uint64_t nlisted;
    uint64_t ncentral = 0;
    uint64_t nadopted = 0;

    if (pagealloc_validate(heap->pages, err) < 0 || adopt_validate(heap->adopted, err) < 0 ||
        left_validate(heap->left, err) < 0 || group_table_validate(heap->groups, err) < 0 ||
        metabook_validate(&heap->book, pagealloc_end(heap->pages).n, err) < 0)
        return -EUCLEAN;
    for (page_no pos = { 0 }, first; (first = mheap_next_span(heap, &pos)).n != 0;) {
        if (validate_span(heap, first, &nadopted, err) < 0)
            return -EUCLEAN;
        nspans++;
        npages += shm_span_at(heap->map, first)->npages;
        ncentral += heap->links[first.n].place >= PLACE_PARTIAL;
    }
    nlisted = count_listed(heap->central);
    for (uint32_t i = 0; i < SHM_GROUPS_MAX; i++) {
        if (heap->groups->groups[i] == NULL)
            continue;
        if (validate_group(heap, heap->groups->groups[i], err) < 0)
            return -EUCLEAN;
        nlisted += count_listed(heap->groups->groups[i]->central);
    }

    uint64_t ntaken = pagealloc_npages_added(heap->pages) - pagealloc_npages_free(heap->pages) - 1 -
                      mheap_aside_pages(heap) - pagecache_npages(&heap->cache);

    if (nadopted != adopt_count(heap->adopted)) {
        (void)fprintf(err, "mheap: %llu adopted objects in spans, %u in the table\n", (unsigned long long)nadopted,
                      adopt_count(heap->adopted));
        return -EUCLEAN;
    }
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
