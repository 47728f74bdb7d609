/*
 * Validate: checks an mheap against itself, in slices between which it goes on changing (checking.h).
 *
 * Called by goallocctl check (serve/check.c) and tests. Reads spans, lists and counters, and writes only what it has
 * counted. What clients can write (the bits) is not looked at: no client can make a heap look broken.
 *
 *   1. What has a table of its own is checked by that: pages, adoptions, left, groups, metadata.
 *   2. The lists' counts of checked spans begin at 0: those of the heap, then those of each group.
 *   3. The spans are walked by address, and the pages of long ones too. What two words say of a span is compared, and
 *      the span is counted, in its list as well. links[0] has the page that the walk has come to: who takes, frees or
 *      moves a span below it changes the same counts (mheap.c, spanlist.h).
 *   4. When the walk is at the end, all of the heap lies below it, so the counts are right at every moment from then
 *      on, and are compared with those that are noted, list by list.
 */
#include "daemon/heap/mheap.h"

#include <errno.h>
#include <limits.h>

#define PAGES_A_SPAN  64u /* pages or adoptions that are as much work as a span */
#define SPANS_A_GROUP 16u /* that are as much work as the lists of a group */

enum { STAGE_PAGES, STAGE_ADOPTED, STAGE_LEFT, STAGE_TABLES, STAGE_LISTS, STAGE_SPANS, STAGE_COUNTS, STAGE_DONE };

/* The set of an mcentral that the span is in, by what is said of it: its owner, its class, its mark, its place. */
static spanlist *set_of(mheap *heap, page_no first)
{
    const shm_span *span = shm_span_at(heap->map, first);
    group *g = group_at(heap->groups, u32_load_relaxed(&span->owner));
    mcentral *central = g != NULL ? g->central : heap->central;

    return &central[mcentral_index(span->spc, span->marked)].sets[heap->links[first.n].place - PLACE_PARTIAL];
}

static int damaged_span(const mheap *heap, page_no first, FILE *err)
{
    const shm_span *span = shm_span_at(heap->map, first);

    (void)fprintf(err, "mheap: span %u: class %u, %u pages, owner %u, state %d, place %d\n", first.n,
                  span_class_size(span->spc).n, span->npages, u32_load_relaxed(&span->owner),
                  (int)lease_unpack(u64_load_relaxed(&span->lease)).state, (int)heap->links[first.n].place);
    return -EUCLEAN;
}

/* The span's description, its lease word, its place and its list. *ret_work: adopted objects in it. */
static int validate_span(mheap *heap, page_no first, uint32_t *ret_work, FILE *err)
{
    const shm_span *span = shm_span_at(heap->map, first);
    lease_word lease = lease_unpack(u64_load_relaxed(&span->lease));
    uint8_t class = span_class_size(span->spc).n;
    enum span_place place = heap->links[first.n].place;
    bool in_central = place >= PLACE_PARTIAL && place <= PLACE_FULL_1;
    uint32_t noted = u32_load_relaxed(&span->nadopted);
    uint32_t counted = adopt_count_span(heap->adopted, first);

    if (class > SIZE_CLASS_TINY || (class != 0 && size_class_span_nelems(class, span->npages) == 0) ||
        (class == 0 && span->elem_bytes != span->npages * PAGE_BYTES) || place > PLACE_FULL_1 || span->marked > 1 ||
        (lease.state == SPAN_LEASED) != (place == PLACE_LEASED) || (lease.state == SPAN_CENTRAL) != in_central)
        return damaged_span(heap, first, err);
    if (in_central && !spanlist_has(set_of(heap, first), heap->links, first)) {
        (void)fprintf(err, "mheap: span %u is not in the set that it should be in\n", first.n);
        return damaged_span(heap, first, err);
    }
    if (noted != counted || (noted != 0 && !span_has_kept(span))) {
        (void)fprintf(err, "mheap: span %u: %u adopted objects, %u noted; has_kept %u\n", first.n, counted, noted,
                      u32_load_relaxed(&span->has_kept));
        return -EUCLEAN;
    }
    if (in_central)
        set_of(heap, first)->checked++;
    heap->checked.nspans++;
    heap->checked.npages += span->npages;
    *ret_work = counted;
    return 0;
}

/* The pages of the span that the walk is in, up to npages more. *ret_more: there are others. */
static int validate_pages(mheap *heap, uint64_t npages, bool *ret_more, FILE *err)
{
    page_no first = heap->checked.span;
    page_no *to = spans_checked_to(heap->links);
    const shm_span *span = shm_span_at(heap->map, first);
    uint64_t end = first.n + (uint64_t)span->npages;

    *ret_more = false;
    if (first.n == 0 || lease_unpack(u64_load_relaxed(&span->lease)).state == SPAN_FREE)
        return 0; /* it was freed meanwhile */
    for (; to->n < end && npages > 0; npages--, to->n++) {
        if (u32_load_relaxed(&heap->map->page_map[to->n]) != first.n || !pagealloc_is_taken(heap->pages, *to)) {
            (void)fprintf(err, "mheap: page %u is not taken for span %u\n", to->n, first.n);
            return -EUCLEAN;
        }
    }
    *ret_more = to->n < end;
    return 0;
}

static int validate_spans(mheap *heap, unsigned budget, FILE *err)
{
    page_no *to = spans_checked_to(heap->links);

    for (uint64_t left = (uint64_t)budget * PAGES_A_SPAN, work; left > 0; left -= work < left ? work : left) {
        page_no pos = *to;
        uint32_t nadopted = 0;
        page_no first;
        bool more;

        work = PAGES_A_SPAN;
        if (validate_pages(heap, PAGES_A_SPAN, &more, err) < 0)
            return -EUCLEAN;
        if (more)
            continue;
        pos = *to;
        first = mheap_next_span(heap, &pos);
        heap->checked.span = first;
        if (first.n == 0) {
            *to = page_at(UINT32_MAX);
            return 0;
        }
        if (first.n < to->n) { /* a span that was made meanwhile, and has been counted */
            *to = pos;
            heap->checked.span = page_at(0);
            continue;
        }
        if (u32_load_relaxed(&heap->map->page_map[first.n]) != first.n)
            return damaged_span(heap, first, err);
        if (validate_span(heap, first, &nadopted, err) < 0)
            return -EUCLEAN;
        *to = page_at(first.n + UINT64_C(1));
        work += nadopted;
    }
    return VALIDATE_E_MORE;
}

/* The sets of the heap (0) or of a group's entry. NULL: there is no such group. */
static mcentral *central_at(mheap *heap, uint32_t i)
{
    group *g = i == 0 ? NULL : heap->groups->groups[i - 1];

    return i == 0 ? heap->central : g != NULL ? g->central : NULL;
}

static int validate_sets(const mcentral *central, uint32_t i, FILE *err)
{
    for (unsigned c = 0; c < MCENTRALS * 4; c++) {
        const spanlist *set = &central[c / 4].sets[c % 4];

        if (set->count != set->checked || (set->head.n == 0) != (set->count == 0)) {
            (void)fprintf(err, "mheap: a set of class %u, of group entry %d, has %llu spans, %llu noted\n", c / 4,
                          (int)i - 1, (unsigned long long)set->checked, (unsigned long long)set->count);
            return -EUCLEAN;
        }
    }
    return 0;
}

/* Go over all sets: begin to count, or (compare) compare. */
static int go_over_lists(mheap *heap, bool compare, unsigned budget, FILE *err)
{
    for (; heap->checked.group <= SHM_GROUPS_MAX; heap->checked.group++) {
        mcentral *central = central_at(heap, heap->checked.group);

        if (central == NULL)
            continue;
        if (budget == 0)
            return VALIDATE_E_MORE;
        budget -= budget < SPANS_A_GROUP ? budget : SPANS_A_GROUP;
        if (compare && validate_sets(central, heap->checked.group, err) < 0)
            return -EUCLEAN;
        for (unsigned c = 0; c < MCENTRALS * 4 && !compare; c++)
            central[c / 4].sets[c % 4].checked = 0;
    }
    heap->checked.group = 0;
    return 0;
}

static int validate_counters(const mheap *heap, FILE *err)
{
    uint64_t ntaken = pagealloc_npages_added(heap->pages) - pagealloc_npages_free(heap->pages) - 1 -
                      mheap_aside_pages(heap) - pagecache_npages(&heap->cache);

    if (heap->checked.npages == heap->ninuse_pages && heap->checked.nspans == heap->ninuse_spans &&
        heap->ninuse_pages == ntaken)
        return 0;
    (void)fprintf(err, "mheap: %llu pages in %llu spans counted; noted %llu in %llu; taken %llu\n",
                  (unsigned long long)heap->checked.npages, (unsigned long long)heap->checked.nspans,
                  (unsigned long long)heap->ninuse_pages, (unsigned long long)heap->ninuse_spans,
                  (unsigned long long)ntaken);
    return -EUCLEAN;
}

static int validate_tables(const mheap *heap, FILE *err)
{
    int r = group_table_validate(heap->groups, err);

    return r < 0 ? r : metabook_validate(&heap->book, pagealloc_end(heap->pages).n, err);
}

static int validate_stage(mheap *heap, unsigned budget, FILE *err)
{
    int r;

    switch (heap->checked.stage) {
    case STAGE_PAGES:
        return pagealloc_validate_step(heap->pages, &heap->checked.pages, budget, err);
    case STAGE_ADOPTED:
        return adopt_validate_step(heap->adopted, budget, err);
    case STAGE_LEFT:
        return left_validate_step(heap->left, budget, err);
    case STAGE_TABLES:
        return validate_tables(heap, err);
    case STAGE_LISTS:
        return go_over_lists(heap, false, budget, err);
    case STAGE_SPANS:
        return validate_spans(heap, budget, err);
    default:
        r = validate_counters(heap, err);
        return r < 0 ? r : go_over_lists(heap, true, budget, err);
    }
}

void mheap_validate_begin(mheap *heap)
{
    heap->checked = (mheap_checked){ .stage = STAGE_PAGES };
    *spans_checked_to(heap->links) = page_at(0);
    adopt_validate_begin(heap->adopted);
    left_validate_begin(heap->left);
}

int mheap_validate_step(mheap *heap, unsigned budget, FILE *err)
{
    int r = heap->checked.stage == STAGE_DONE ? 0 : validate_stage(heap, budget, err);

    if (r != 0 || heap->checked.stage == STAGE_DONE)
        return r;
    heap->checked.stage++;
    return heap->checked.stage == STAGE_DONE ? 0 : VALIDATE_E_MORE;
}

int mheap_validate(mheap *heap, FILE *err)
{
    int r;

    mheap_validate_begin(heap);
    do
        r = mheap_validate_step(heap, UINT_MAX, err);
    while (r == VALIDATE_E_MORE);
    return r;
}
