/*
 * mcentral: for each span class two pairs of sets, partial and full, of spans in state CENTRAL (runtime/mcentral.go).
 * Spans that nobody owns are in the heap's mcentrals, those of a group in the group's (group.h), from which its members
 * alone lease. A span's owner says which, so it does not change while the span is in a set. Nor does its mark: marked
 * spans (shm/profile.h) have sets of their own, from which those alone lease who sample.
 *
 * Called by the refill handler, lease (a lease ends) and sweep (background). Data: links in private memory; the
 * spans' alloc, remote and kept bits, which the daemon may write while nobody leases the span; of tiny spans also the
 * blocks' words.
 *
 * To sweep a span is to fold what others have freed in it. When a sweep begins, sweep_gen goes up by one: the sets that
 * were swept are the unswept ones from then on, at no cost, and everything that is put into a set goes into a swept
 * one. A refill looks in Go's order: 1. partial and swept, 2. partial and unswept, which it sweeps, 3. full and
 * unswept: swept, and taken if something came free; 4. mheap. It looks at 100 spans at most. The background sweep
 * (sweep.c) does the rest of the unswept, so that memory freed remotely comes back without anybody asking.
 *
 * A span that becomes empty goes back to mheap at once: hysteresis is the client's (README.md of this directory).
 *
 * A client can scribble over the bits. All that happens is that objects count as free or live which are not: the
 * masks keep every index within the span, and no list depends on them.
 */
#include "daemon/heap/mcentral.h"

#include "shm/tiny.h"
#include "shm/crash.h"

uint32_t span_fold(mheap *heap, page_no first)
{
    const shm_span *span = shm_span_at(heap->map, first);
    uint32_t nlive = 0;

    for (uint32_t w = 0; w < bits_nwords(span->nelems); w++) {
        uint64_t alloc = span_is_tiny(span) ? tiny_settle_word(heap->map, first, span, w)
                                            : object_fold_word(heap->map, first, span, w);

        nlive += bits_count(alloc & bits_mask(span->nelems, w));
    }
    return nlive;
}

/* The mcentrals of an owner: a group has its own. The span of a session without a group is never in any. */
static mcentral *mcentrals_of(mheap *heap, uint32_t owner)
{
    group *g = group_at(heap->groups, owner);

    return g != NULL ? g->central : heap->central;
}

/* The set that a place stands for. */
static spanlist *set_of(mheap *heap, page_no first, enum span_place place)
{
    const shm_span *span = shm_span_at(heap->map, first);

    mcentral *all = mcentrals_of(heap, u32_load_relaxed(&span->owner));

    return &all[mcentral_index(span->spc, span->marked)].sets[place - PLACE_PARTIAL];
}

void mcentral_put_recovered(mheap *heap, page_no first)
{
    bool is_large = span_class_size(shm_span_at(heap->map, first)->spc).n == 0;
    enum span_place place = is_large ? PLACE_FULL_1 : PLACE_PARTIAL_1;

    spanlist_push_back(set_of(heap, first, place), heap->links, first, place);
}

void mcentral_remove(mheap *heap, page_no first)
{
    spanlist_remove(set_of(heap, first, heap->links[first.n].place), heap->links, first);
}

/* Into the swept set that it belongs to; or back to mheap. */
static void mcentral_insert(mheap *heap, page_no first, uint32_t nlive)
{
    const shm_span *span = shm_span_at(heap->map, first);
    bool is_partial = nlive < span->nelems;
    enum span_place place = (is_partial ? PLACE_PARTIAL : PLACE_FULL) + (heap->sweep_gen & 1);

    if (nlive == 0)
        mheap_free_span(heap, first, false);
    else
        spanlist_push_back(set_of(heap, first, place), heap->links, first, place);
}

page_no mcentral_take(mheap *heap, owner_no owner, mcentral_kind kind, unsigned *budget, uint32_t *ret_nfree)
{
    spanlist *sets = mcentrals_of(heap, owner.n)[mcentral_index(kind.spc, kind.marked)].sets;
    unsigned swept = heap->sweep_gen & 1;
    spanlist *order[] = { &sets[swept], &sets[!swept], &sets[PLACE_FULL - PLACE_PARTIAL + !swept] };

    for (size_t i = 0; i < sizeof(order) / sizeof(order[0]); i++) {
        while (order[i]->head.n != 0 && *budget > 0) {
            page_no first = order[i]->head;
            uint32_t nelems = shm_span_at(heap->map, first)->nelems;
            uint32_t nlive;

            (*budget)--;
            spanlist_remove(order[i], heap->links, first);
            nlive = span_fold(heap, first);
            if (nlive < nelems) {
                *ret_nfree = nelems - nlive;
                return first;
            }
            mcentral_insert(heap, first, nlive); /* where it belongs now */
        }
    }
    return page_at(0);
}

void mcentral_put(mheap *heap, page_no first)
{
    shm_span *span = shm_span_at(heap->map, first);

    span->needzero = 1;
    u64_store_release(&span->lease, lease_pack((lease_word){ .state = SPAN_CENTRAL }));
    CRASH_POINT(put_after_word);
    mcentral_insert(heap, first, span_fold(heap, first));
}

bool mcentral_sweep(mheap *heap, page_no first, bool force)
{
    enum span_place place = heap->links[first.n].place;
    uint32_t nlive;

    if (!force && ((unsigned)place & 1) == (heap->sweep_gen & 1))
        return false; /* swept since the sweep began */
    mcentral_remove(heap, first);
    nlive = span_fold(heap, first);
    mcentral_insert(heap, first, nlive);
    return nlive == 0;
}
