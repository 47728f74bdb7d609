/*
 * Tiny: the thread's open block, and blocks that end.
 *
 * Called by alloc.c (malloc and free) and mcache.c (before spans go away). Data: the open block in the thread's mcache,
 * private; the block's word in the arena (see shm/tiny.h for who writes it and what holds if a process dies), its alloc
 * bit in bitmap.
 *
 *   malloc: round the open block's position up to the size's alignment (8, 4, 2 or 1, by which of them divides the
 *           size); if the object fits, one fetch_or makes it live. Else a new block is taken, the object is its first,
 *           and of the two blocks that with more room left stays open, as in Go.
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

#include <errno.h>

/* A block without objects is free again. s is this thread's. */
static void block_end(mspan *s, uint32_t block)
{
    uint32_t w = block / 64;
    uint64_t bit = UINT64_C(1) << (block % 64);

    if (span_has_kept(shm_span_at(&process.map, mspan_first(s))))
        (void)u64_fetch_and_acq_rel(&shm_kept_bits(&process.map, mspan_first(s))[w], ~bit);
    mspan_clear_bit(NULL, s, &s->alloc[w], bit);
    CRASH_POINT(tiny_end_after_bit);
}

void tiny_close(mcache *mc)
{
    tiny_block open = mc->tiny;

    mcache_count(mc, (span_class){ SPAN_CLASS_TINY }, open.nallocs);
    mc->tiny = (tiny_block){ .used = TINY_BLOCK_BYTES };
    if (open.span != NULL && tiny_nlive(u32_load_acquire(open.word)) == 0)
        block_end(open.span, open.block);
}

void *tiny_alloc_slow(size_t size)
{
    uint32_t bytes = size == 0 ? 1 : (uint32_t)size;
    mcache *mc = mcache_tls;
    mspan *s = mc->current[SLOT_TINY];
    tiny_block block;

    if (s->cache == 0 && process_ensure_writable() == 0 && process.reclaim) {
        uint32_t slot = slot_of_class(size_class_for(size), true);
        void *p = mspan_alloc(mc->current[slot]);

        return p != NULL ? p : mcache_alloc(slot);
    }
    if (s->cache == 0)
        s = mcache_refill(SLOT_TINY);
    if (s == NULL)
        return NULL;
    mc = mcache_tls; /* the refill may have made it */
    block = (tiny_block){ .span = s, .used = bytes, .limit = TINY_BLOCK_BYTES, .nallocs = 1 };
    block.block = s->cur * 64 + (uint32_t)__builtin_ctzll(s->cache);
    block.word = tiny_word(&process.map, mspan_first(s), block.block);
    /* The word first: while the alloc bit is clear it means nothing. */
    u32_store_release(block.word, tiny_bits(0, bytes));
    CRASH_POINT(tiny_open_after_word);
    block.base = mspan_take(s);

    if (bytes < mc->tiny.used) { /* the new block has more room left */
        void *p = block.base;

        tiny_close(mc);
        mc->tiny = block;
        return p;
    }
    mc->tiny.nallocs++;
    return block.base;
}

enum object_verdict tiny_object_free(const object_ref *object)
{
    mcache *mc = mcache_tls;
    mspan *s = atomic_load_explicit(&process.mspan_of[object->first.n], memory_order_acquire);
    bool last = false;
    enum object_verdict verdict;

    if (s == NULL || mc == &mcache_none || !mspan_is_own(s))
        return object_free_remote(&process.map, object);
    verdict = tiny_free(&process.map, object, &last);
    if (last && tiny_open_bit(mc, s, object->word) != object->bit)
        block_end(s, object->index);
    return verdict;
}
