/*
 * Tiny: the thread's open block, and blocks that end.
 *
 * Called by alloc.c (malloc and free) and mcache.c (before spans go away). Data: the open block in the thread's mcache,
 * private; the block's word in the arena (see shm/tiny.h for who writes it and what holds if a process dies), its alloc
 * bit in bitmap.
 *
 *   malloc: round the open block's position up to the size's alignment; if the object fits, one fetch_or makes it
 *           live. Else it is the first of a new block, and of the two blocks that with more room stays open, as in Go.
 *   free:   one fetch_and. If that was the block's last object, and the block is not open, the block ends: its
 *           alloc bit is cleared by the span's owner; another thread or process sets the remote bit first, for the
 *           owner to find.
 *
 * Unlike Go's, blocks are not zeroed, and each object is freed by itself. A session with GOALLOC_ATTACH_RECLAIM does
 * not use them, since its objects are published and reclaimed one by one.
 *
 * Frees of tiny objects do not take the fast path: the magic of their spans' structures is 0, which no offset passes.
 */
#include "client/lib/tiny.h"

#include "shm/holds.h"

tiny_block tiny_open(mspan *s, uint32_t bytes)
{
    tiny_block block = { .used = bytes, .limit = TINY_BLOCK_BYTES, .span = s, .nallocs = 1 };

    block.index = s->cur * 64 + (uint32_t)__builtin_ctzll(s->front->cache);
    block.word = tiny_word(&process.map, mspan_first(s), block.index);
    /* The word first: while the alloc bit is clear it means nothing. */
    u32_store_release(block.word, tiny_bits(0, bytes));
    CRASH_POINT(tiny_open_after_word);
    block.base = slot_take(s->front);
    return block;
}

/* Somebody unlinks an object of the block: a fold is to end it later. */
static bool is_held(const mspan *s, uint32_t block)
{
    return holds_has(&process.map, page_offset(mspan_first(s)) + (uint64_t)block * TINY_BLOCK_BYTES);
}

bool tiny_block_end(mspan *s, uint32_t block)
{
    uint32_t w = block / 64;
    uint64_t bit = UINT64_C(1) << (block % 64);

    if (UNLIKELY(holds_any(&process.map)) && is_held(s, block)) {
        (void)u64_fetch_or_acq_rel(shm_remote_word(&process.map, mspan_first(s), w), bit);
        return false;
    }
    if (span_has_kept(shm_span_at(&process.map, mspan_first(s))))
        (void)u64_fetch_and_acq_rel(shm_kept_word(&process.map, mspan_first(s), w), ~bit);
    alloc_bit_clear(mspan_word(s, w), bit);
    CRASH_POINT(tiny_end_after_bit);
    return mspan_count_free(s);
}
