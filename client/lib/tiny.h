/*
 * Tiny: objects below 16 bytes that hold no pointers share blocks of 16 bytes. Go's tiny allocator.
 */
#ifndef GOALLOC_LIB_TINY_H
#define GOALLOC_LIB_TINY_H

#include "client/lib/mspan.h"
#include "shm/tiny.h"

/* The block that a thread puts tiny objects into. */
typedef struct tiny_block {
    shm_u32 *word;
    char *base;
    uint32_t used;    /* bytes; TINY_BLOCK_BYTES when no block is open */
    uint32_t limit;   /* TINY_BLOCK_BYTES; 0 when no block is open, also as a forked child finds it */
    uint32_t index;   /* in its span */
    mspan *span;      /* NULL: no block is open */
    uint64_t nallocs; /* objects not yet counted */
} tiny_block;

#define TINY_NONE_OPEN { .used = TINY_BLOCK_BYTES }

/*
 * Take a block of s, which is current and has a free one in the cache, with an object of bytes in it. The object is at
 * its base.
 */
tiny_block tiny_open(mspan *s, uint32_t bytes);

/* A block without objects is free again. s is this thread's. True: that changes the place of s. */
bool tiny_block_end(mspan *s, uint32_t block) __attribute__((warn_unused_result));

static inline uint32_t tiny_bytes(size_t size)
{
    return size == 0 ? 1 : (uint32_t)size;
}

/* The body of malloc: a place in the thread's open block. False: it has no room. */
static inline bool tiny_alloc(tiny_block *open, size_t size, void **ret)
{
    uint32_t bytes = tiny_bytes(size);
    uint32_t at = tiny_align_up(open->used, bytes);

    if (UNLIKELY(at + bytes > open->limit))
        return false;
    /* From here on the object lives. Dying before it has taken nothing, after it costs that one object. */
    (void)u32_fetch_or_acq_rel(open->word, tiny_bits(at, bytes));
    CRASH_POINT(tiny_add_after_bit);
    open->used = at + bytes;
    open->nallocs++;
    *ret = open->base + at;
    return true;
}

#endif
