/*
 * Live: which objects of a span live, by its bits.
 *
 * An object lives while its alloc bit is set and its remote bit is not; an object in a tiny block, while the block is
 * allocated and its word says so. Used by census, left and lease. Reads the bits, whoever leases the span, and writes
 * nothing: what it says was true of each word at some moment.
 */
#ifndef GOALLOC_DAEMON_HEAP_LIVE_H
#define GOALLOC_DAEMON_HEAP_LIVE_H

#include "shm/tiny.h"

typedef struct live_sum {
    uint64_t objects;
    uint64_t bytes;
} live_sum;

/* The word of the first block in bits, which are word w. */
static inline uint32_t live_first_block(const shm_map *map, page_no first, uint32_t w, uint64_t bits)
{
    return u32_load_acquire(tiny_word(map, first, w * 64 + (uint32_t)__builtin_ctzll(bits)));
}

/* The objects of word w of the span's bits that live; of a tiny span, the blocks with any. */
static inline uint64_t live_word(const shm_map *map, page_no first, uint32_t w)
{
    const shm_span *span = shm_span_at(map, first);
    uint64_t remote = u64_load_acquire(shm_remote_word(map, first, w));
    uint64_t alloc = u64_load_acquire(shm_alloc_word(map, first, w)) & bits_mask(span->nelems, w);
    uint64_t live = 0;

    if (!span_is_tiny(span))
        return alloc & ~remote;
    for (; alloc != 0; alloc &= alloc - 1)
        live |= tiny_nlive(live_first_block(map, first, w, alloc)) != 0 ? alloc & -alloc : 0;
    return live;
}

/* Add the objects that bits, some of live_word(), stand for. */
static inline void live_add(const shm_map *map, page_no first, uint32_t w, uint64_t bits, live_sum *sum)
{
    const shm_span *span = shm_span_at(map, first);

    if (!span_is_tiny(span)) {
        sum->objects += bits_count(bits);
        sum->bytes += bits_count(bits) * span->elem_bytes;
        return;
    }
    for (; bits != 0; bits &= bits - 1) {
        uint32_t word = live_first_block(map, first, w, bits);

        sum->objects += tiny_nlive(word);
        sum->bytes += tiny_live_bytes(word);
    }
}

#endif
