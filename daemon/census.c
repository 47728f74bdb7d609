/*
 * Census: walks the spans by address and counts alloc bits that have no remote bit.
 *
 * Called by the server's idle handle on behalf of Stats requests, one slice a turn of the loop, so that refills go on
 * in between. Writes nothing. Exact when nobody allocates or frees meanwhile; otherwise every object that lived all
 * the time is counted.
 */
#include "daemon/census.h"

bool census_step(census *c, const mheap *heap, unsigned budget)
{
    for (; budget > 0; budget--) {
        page_no first = mheap_next_span(heap, &c->pos);
        uint64_t nlive = 0;

        if (first.n == 0)
            return true;

        const shm_span *span = shm_span_at(heap->map, first);

        for (uint32_t w = 0; w < bits_nwords(span->nelems); w++) {
            uint64_t remote = u64_load_acquire(&shm_remote_bits(heap->map, first)[w]);
            uint64_t alloc = u64_load_acquire(&shm_alloc_bits(heap->map, first)[w]);

            nlive += (uint64_t)__builtin_popcountll(alloc & ~remote & bits_mask(span->nelems, w));
        }
        c->live_objects += nlive;
        c->live_bytes += nlive * span->elem_bytes;
    }
    return false;
}
