/*
 * Live: an object lives while its alloc bit is set and its remote bit is not; an object in a tiny block, while the
 * block is allocated and its word says so.
 *
 * Called by census, left and lease. Reads the bits, whoever leases the span, and writes nothing: what it says was true
 * of each word at some moment.
 */
#include "daemon/heap/live.h"

#include "shm/tiny.h"

/* The word of the first block in bits, which are word w. */
static uint32_t first_block(const shm_map *map, page_no first, uint32_t w, uint64_t bits)
{
    return u32_load_acquire(tiny_word(map, first, w * 64 + (uint32_t)__builtin_ctzll(bits)));
}

uint64_t live_word(const shm_map *map, page_no first, uint32_t w)
{
    const shm_span *span = shm_span_at(map, first);
    uint64_t remote = u64_load_acquire(&shm_remote_bits(map, first)[w]);
    uint64_t alloc = u64_load_acquire(&shm_alloc_bits(map, first)[w]) & bits_mask(span->nelems, w);
    uint64_t live = 0;

    if (!span_is_tiny(span))
        return alloc & ~remote;
    for (; alloc != 0; alloc &= alloc - 1)
        live |= tiny_nlive(first_block(map, first, w, alloc)) != 0 ? alloc & -alloc : 0;
    return live;
}

void live_add(const shm_map *map, page_no first, uint32_t w, uint64_t bits, live_sum *sum)
{
    const shm_span *span = shm_span_at(map, first);

    if (!span_is_tiny(span)) {
        sum->objects += bits_count(bits);
        sum->bytes += bits_count(bits) * span->elem_bytes;
        return;
    }
    for (; bits != 0; bits &= bits - 1) {
        uint32_t word = first_block(map, first, w, bits);

        sum->objects += tiny_nlive(word);
        sum->bytes += tiny_live_bytes(word);
    }
}
