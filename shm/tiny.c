/*
 * Tiny: the words of tiny blocks, read and changed.
 *
 * Called by object.c (look-up, remote free), client/lib (own frees, folds) and daemon/heap (folds, counts). Data:
 * the words in the arena, at the end of each page of span class SPAN_CLASS_TINY; the blocks' alloc and remote bits in
 * bitmap.
 *
 * The words lie in the arena because they take 4 bytes for 16. That would be more than all other metadata together, and
 * only pages with tiny objects should pay for it. The daemon reads and writes nothing else of the arena.
 *
 * The life of a block:
 *   1. A thread takes a free block, stores its word with the first object, then sets its alloc bit. If the process
 *      dies in between, the block is free.
 *   2. While the block is open, the thread adds objects (one fetch_or each) and everybody may free them (one fetch_and
 *      each): at any moment the bits say which objects live.
 *   3. The thread closes the block. From then on, the last free ends it: the owner of the span clears the alloc bit;
 *      anybody else sets the remote bit, then clears the object's bit, and the owner's next fold clears the alloc bit.
 *   4. If the lease ends first, the daemon settles all blocks of the span.
 *
 * Invariant: an object is live iff its block's alloc bit and its own bit are set. So if two free it, one of them is
 * told that it was free already.
 */
#include "shm/tiny.h"

#include "shm/crash.h"
#include "shm/holds.h"

uint32_t tiny_live_bytes(uint32_t word)
{
    uint32_t bytes = 0;

    for (uint32_t live = word & 0xffff; live != 0; live &= live - 1) {
        uint32_t at = (uint32_t)__builtin_ctz(live);

        bytes += tiny_end(word, at) - at;
    }
    return bytes;
}

/* The block's word, 0 if the block is free. */
static uint32_t block_word(const shm_map *map, const object_ref *object)
{
    uint64_t alloc = u64_load_acquire(shm_alloc_word(map, object->first, object->word));

    return (alloc & object->bit) != 0 ? u32_load_acquire(tiny_word(map, object->first, object->index)) : 0;
}

enum object_verdict tiny_find(const shm_map *map, uint64_t offset, object_ref *ret)
{
    uint32_t word = block_word(map, ret);
    uint32_t at = (uint32_t)(offset % TINY_BLOCK_BYTES);
    uint32_t begin = at;

    ret->offset = offset;
    ret->bytes = tiny_end(word, at) - at;
    if ((word >> at & 1) != 0)
        return OBJECT_LIVE;
    /* Free if an object has begun here, or nothing is known of the block any more; else look for the one around it. */
    if (at == 0 || word == 0 || (word >> 16 >> at & 1) != 0)
        return OBJECT_FREE;
    while (begin > 0 && (word >> begin & 1) == 0)
        begin--;
    if (tiny_end(word, begin) > at) { /* else it is the inside of an object that is free */
        ret->offset = offset - at + begin;
        ret->bytes = tiny_end(word, begin) - begin;
    }
    return OBJECT_INTERIOR;
}

bool tiny_is_live(const shm_map *map, const object_ref *object)
{
    return (block_word(map, object) >> (object->offset % TINY_BLOCK_BYTES) & 1) != 0;
}

enum object_verdict tiny_free(const shm_map *map, const object_ref *object, bool *ret_last)
{
    uint32_t bit = UINT32_C(1) << (object->offset % TINY_BLOCK_BYTES);
    uint32_t old;

    if (!tiny_is_live(map, object))
        return OBJECT_FREE;
    /* Acquire and release: what was written into this object, and into those freed before, happens before the block's
     * next use. */
    old = u32_fetch_and_acq_rel(tiny_word(map, object->first, object->index), ~bit);
    if ((old & bit) == 0)
        return OBJECT_FREE;
    *ret_last = (old & 0xffff) == bit;
    CRASH_POINT(tiny_free_after_bit);
    return OBJECT_LIVE;
}

enum object_verdict tiny_free_remote(const shm_map *map, const object_ref *object)
{
    uint32_t bit = UINT32_C(1) << (object->offset % TINY_BLOCK_BYTES);
    shm_u32 *word = tiny_word(map, object->first, object->index);
    bool hinted = false;
    uint32_t old;

    if (!tiny_is_live(map, object))
        return OBJECT_FREE;
    old = u32_load_acquire(word);
    do {
        if ((old & bit) == 0)
            return OBJECT_FREE;
        /* Before the object goes: while it lives, its span cannot become another one, which the hint would hit. */
        if ((old & 0xffff) == bit && !hinted) {
            (void)u64_fetch_or_acq_rel(shm_remote_word(map, object->first, object->word), object->bit);
            hinted = true;
            CRASH_POINT(tiny_remote_after_hint);
        }
    } while (!u32_exchange_if_acq_rel(word, &old, old & ~bit));
    CRASH_POINT(tiny_remote_after_bit);
    return OBJECT_LIVE;
}

/*
 * End the blocks of `look` that have no object left; of hints, those of blocks that are free go. What is held stays as
 * it is. Returns the alloc word.
 */
static uint64_t end_blocks(const shm_map *map, page_no page, const shm_span *span, uint32_t w, uint64_t hints,
                           uint64_t look)
{
    shm_u64 *alloc = shm_alloc_word(map, page, w);
    uint64_t bits = u64_load_relaxed(alloc);
    uint64_t empty = 0;

    for (look &= bits & bits_mask(TINY_NBLOCKS, w); look != 0; look &= look - 1) {
        uint32_t block = w * 64 + (uint32_t)__builtin_ctzll(look);

        if (tiny_nlive(u32_load_acquire(tiny_word(map, page, block))) == 0)
            empty |= look & -look;
    }
    hints &= empty | ~bits;
    if ((hints | empty) != 0 && holds_any(map)) {
        uint64_t held = holds_among(map, page, span, w, hints | empty);

        hints &= ~held;
        empty &= ~held;
    }
    if ((hints | empty) == 0)
        return bits;
    bits &= ~empty;
    if (empty != 0 && span_has_kept(span))
        (void)u64_fetch_and_acq_rel(shm_kept_word(map, page, w), ~empty);
    u64_store_release(alloc, bits);
    CRASH_POINT(tiny_fold_after_alloc);
    if (hints != 0)
        (void)u64_fetch_and_acq_rel(shm_remote_word(map, page, w), ~hints);
    return bits;
}

uint64_t tiny_fold_word(const shm_map *map, page_no page, const shm_span *span, uint32_t w, uint64_t open)
{
    uint64_t hints = u64_load_acquire(shm_remote_word(map, page, w));

    return end_blocks(map, page, span, w, hints, hints & ~open);
}

uint64_t tiny_settle_word(const shm_map *map, page_no page, const shm_span *span, uint32_t w)
{
    return end_blocks(map, page, span, w, u64_load_acquire(shm_remote_word(map, page, w)), UINT64_MAX);
}
