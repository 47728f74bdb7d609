/*
 * Census: walks the spans by address and counts alloc bits that have no remote bit; in tiny spans, the objects of each
 * block that is allocated.
 *
 * Called by the server's idle handle on behalf of Stats requests, one slice a turn of the loop, so that refills go on
 * in between. Writes nothing. Exact when nobody allocates or frees meanwhile; otherwise every object that lived all
 * the time is counted.
 */
#include "daemon/heap/census.h"

#include "shm/tiny.h"

static void count_tiny(const shm_map *map, page_no first, census_class *c)
{
    for (uint32_t w = 0; w < bits_nwords(TINY_NBLOCKS); w++) {
        uint64_t alloc = u64_load_acquire(&shm_alloc_bits(map, first)[w]) & bits_mask(TINY_NBLOCKS, w);

        for (; alloc != 0; alloc &= alloc - 1) {
            uint32_t word = u32_load_acquire(tiny_word(map, first, w * 64 + (uint32_t)__builtin_ctzll(alloc)));

            c->live_objects += tiny_nlive(word);
            c->live_bytes += tiny_live_bytes(word);
        }
    }
}

static void count_small(const shm_map *map, page_no first, census_class *c)
{
    const shm_span *span = shm_span_at(map, first);
    uint64_t nlive = 0;

    for (uint32_t w = 0; w < bits_nwords(span->nelems); w++) {
        uint64_t remote = u64_load_acquire(&shm_remote_bits(map, first)[w]);
        uint64_t alloc = u64_load_acquire(&shm_alloc_bits(map, first)[w]);

        nlive += bits_count(alloc & ~remote & bits_mask(span->nelems, w));
    }
    c->live_objects += nlive;
    c->live_bytes += nlive * span->elem_bytes;
}

void census_span(const shm_map *map, page_no first, census_class *c)
{
    if (span_is_tiny(shm_span_at(map, first)))
        count_tiny(map, first, c);
    else
        count_small(map, first, c);
}

bool census_step(census *c, const mheap *heap, unsigned budget)
{
    for (; budget > 0; budget--) {
        page_no first = mheap_next_span(heap, &c->pos);
        const shm_span *span = shm_span_at(heap->map, first);
        census_class *class;

        if (first.n == 0)
            return true;
        class = &c->classes[span->spc.n];
        class->nspans++;
        class->npages += span->npages;
        census_span(heap->map, first, class);
    }
    return false;
}

census_class census_total(const census *c)
{
    census_class all = { 0 };

    for (size_t i = 0; i < SPAN_CLASS_COUNT; i++) {
        all.nspans += c->classes[i].nspans;
        all.npages += c->classes[i].npages;
        all.live_objects += c->classes[i].live_objects;
        all.live_bytes += c->classes[i].live_bytes;
    }
    return all;
}
