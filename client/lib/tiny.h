/*
 * Tiny: objects below 16 bytes that hold no pointers share blocks of 16 bytes. Go's tiny allocator.
 */
#ifndef GOALLOC_LIB_TINY_H
#define GOALLOC_LIB_TINY_H

#include "client/lib/mcache.h"
#include "shm/tiny.h"

/* Allocate size bytes, below 16. NULL with errno. Everything that the thread's open block has no room for. */
void *tiny_alloc_slow(size_t size);

/* Free a tiny object, whoever holds its span. LIVE: done; FREE: it was free already. */
enum object_verdict tiny_object_free(const object_ref *object);

/*
 * The thread closes its open block: no objects come into it any more. Before its span is given away. No block is open:
 * nothing happens.
 */
void tiny_close(mcache *mc);

/* The open block's bit in word w of the span; 0: it lies elsewhere. For folds. */
static inline uint64_t tiny_open_bit(const mcache *mc, const mspan *s, uint32_t w)
{
    return mc->tiny.span == s && mc->tiny.block / 64 == w ? UINT64_C(1) << (mc->tiny.block % 64) : 0;
}

/* The body of malloc: a place in the thread's open block. */
static inline void *tiny_alloc(size_t size)
{
    mcache *mc = mcache_tls;
    uint32_t bytes = size == 0 ? 1 : (uint32_t)size;
    uint32_t at = tiny_align_up(mc->tiny.used, bytes);

    if (UNLIKELY(at + bytes > mc->tiny.limit))
        return tiny_alloc_slow(size);
    /* From here on the object lives. Dying before it has taken nothing, after it costs that one object. */
    (void)u32_fetch_or_acq_rel(mc->tiny.word, tiny_bits(at, bytes));
    CRASH_POINT(tiny_add_after_bit);
    mc->tiny.used = at + bytes;
    mc->tiny.nallocs++;
    return mc->tiny.base + at;
}

#endif
