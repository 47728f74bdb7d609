/*
 * mcentral: 136 pairs of lists, partial and full, of spans in state CENTRAL.
 *
 * Called by request (refill), lease (a lease ends) and sweep (background). Data: links in private memory; the
 * spans' alloc, remote and kept bits, which the daemon may write while nobody leases the span.
 *
 * "full" is what was true when the span was last looked at: objects may have been freed from afar since. So a refill
 * looks through partial first, then through full from its oldest end, folding as it goes, at most 100 spans together
 * as in Go, before it asks mheap for fresh ones; and the background sweep (sweep.c) finds the rest without anybody
 * asking. A full span that was looked at in vain goes to the young end.
 *
 * A client can scribble over the bits. All that happens is that objects count as free or live which are not: the
 * masks keep every index within the span, and no list depends on them.
 */
#include "daemon/mcentral.h"

static uint32_t nbits(uint64_t word)
{
    return (uint32_t)__builtin_popcountll(word);
}

uint32_t span_fold(mheap *heap, page_no first)
{
    const shm_span *span = shm_span_at(heap->map, first);
    uint32_t nlive = 0;

    for (uint32_t w = 0; w < bits_nwords(span->nelems); w++)
        nlive += nbits(object_fold_word(heap->map, first, span, w) & bits_mask(span->nelems, w));
    return nlive;
}

static mcentral *mcentral_of(mheap *heap, page_no first)
{
    return &heap->central[shm_span_at(heap->map, first)->spc.n];
}

static void mcentral_remove(mheap *heap, page_no first)
{
    mcentral *central = mcentral_of(heap, first);
    enum span_place place = heap->links[first.n].place;

    if (place == PLACE_PARTIAL)
        spanlist_remove(&central->partial, heap->links, first);
    else if (place == PLACE_FULL)
        spanlist_remove(&central->full, heap->links, first);
}

static void mcentral_insert(mheap *heap, page_no first, uint32_t nlive)
{
    const shm_span *span = shm_span_at(heap->map, first);
    mcentral *central = mcentral_of(heap, first);

    if (nlive == 0)
        mheap_free_span(heap, first, false);
    else if (span_class_size(span->spc).n == 0)
        return; /* a large object that stays */
    else if (nlive < span->nelems)
        spanlist_push_back(&central->partial, heap->links, first, PLACE_PARTIAL);
    else
        spanlist_push_back(&central->full, heap->links, first, PLACE_FULL);
}

page_no mcentral_take(mheap *heap, span_class spc, unsigned *budget, uint32_t *ret_nfree)
{
    mcentral *central = &heap->central[spc.n];

    for (; *budget > 0; (*budget)--) {
        page_no first = central->partial.head.n != 0 ? central->partial.head : central->full.head;

        if (first.n == 0)
            break;
        mcentral_remove(heap, first);

        uint32_t nelems = shm_span_at(heap->map, first)->nelems;
        uint32_t nlive = span_fold(heap, first);

        if (nlive < nelems) {
            (*budget)--;
            *ret_nfree = nelems - nlive;
            return first;
        }
        mcentral_insert(heap, first, nlive);
    }
    return page_at(0);
}

void mcentral_put(mheap *heap, page_no first)
{
    shm_span *span = shm_span_at(heap->map, first);

    span->needzero = 1;
    u64_store_release(&span->lease, lease_pack((lease_word){ .state = SPAN_CENTRAL }));
    mcentral_insert(heap, first, span_fold(heap, first));
}

bool mcentral_sweep(mheap *heap, page_no first)
{
    const shm_span *span = shm_span_at(heap->map, first);
    uint32_t nlive = span_fold(heap, first);
    bool is_partial = heap->links[first.n].place == PLACE_PARTIAL;

    if (nlive != 0 && (nlive < span->nelems) == is_partial)
        return false; /* where it belongs */
    mcentral_remove(heap, first);
    mcentral_insert(heap, first, nlive);
    return nlive == 0;
}
