/*
 * Tiny: several objects below 16 bytes in one block. Go's tiny allocator, but each object can be freed by itself.
 */
#ifndef GOALLOC_SHM_TINY_H
#define GOALLOC_SHM_TINY_H

#include "shm/objectref.h"

/*
 * A block's word, in the last 4 * 409 bytes of its page: which objects live, and where they begin and end.
 *
 *        bits 0 to 15    an object that lives begins at this byte of the block
 *        bits 16 to 31   an object has begun or ended at this byte since the block was opened (byte 0: not needed)
 *
 * The second half only grows until the block is opened anew: no byte of a block is used twice. So an object's end is
 * the next boundary above its beginning, or the block's end.
 * The word means something only while the block's alloc bit is set. tiny.c says who writes it when.
 */
static inline shm_u32 *tiny_word(const shm_map *map, page_no page, uint32_t block)
{
    return (shm_u32 *)(void *)(map->arena + page_offset(page) + PAGE_BYTES) - TINY_NBLOCKS + block;
}

static inline uint32_t tiny_nlive(uint32_t word)
{
    return (uint32_t)__builtin_popcount(word & 0xffff);
}

/* Where the object that begins at byte `at` ends. */
static inline uint32_t tiny_end(uint32_t word, uint32_t at)
{
    uint32_t above = word >> 16 & (UINT32_MAX << at << 1);

    return above != 0 ? (uint32_t)__builtin_ctz(above) : TINY_BLOCK_BYTES;
}

/* The bits to set for an object of bytes at byte `at`. */
static inline uint32_t tiny_bits(uint32_t at, uint32_t bytes)
{
    uint32_t end = at + bytes;

    return UINT32_C(1) << at | UINT32_C(1) << (at + 16) | (end < TINY_BLOCK_BYTES ? UINT32_C(1) << (end + 16) : 0);
}

/* Go's alignment: to 8, 4, 2 or 1, by which of them the size is a multiple of. size > 0. */
static inline uint32_t tiny_align_up(uint32_t at, uint32_t size)
{
    uint32_t align = (size | 8) & -(size | 8);

    return (at + align - 1) & -align;
}

/* Bytes of all objects that live in a block. */
uint32_t tiny_live_bytes(uint32_t word);

static inline bool span_is_tiny(const shm_span *span)
{
    return span->spc.n == SPAN_CLASS_TINY;
}

/* As object_find(), for an address in a span of tiny blocks whose index and offset have been found. */
enum object_verdict tiny_find(const shm_map *map, uint64_t offset, object_ref *ret);

/* True if the object is allocated and not freed. */
bool tiny_is_live(const shm_map *map, const object_ref *object);

/*
 * Free one object of a span whose alloc bits the caller may write: clear the object's bit in the block's word. LIVE:
 * done, and *ret_last says whether it was the block's last object; then the caller ends the block. FREE: it was free
 * already. If the process dies before it ends the block, the daemon finds the block when the span's lease ends.
 */
enum object_verdict tiny_free(const shm_map *map, const object_ref *object, bool *ret_last);

/*
 * The same for anybody else. The block's remote bit is a hint for the owner. It is set before the block's last object
 * goes, and nothing is written after that. If the process dies in between, the object lives, and the hint does no harm.
 */
enum object_verdict tiny_free_remote(const shm_map *map, const object_ref *object);

/*
 * Fold word w of a tiny span: blocks that have a remote bit and no object left become free, except those in `open`.
 * Only the one who may write the alloc word may call it. Returns the alloc word afterwards.
 *
 * A block is free because its word says so, not because of the hint. A hint for a block with objects in it does no
 * harm; it stays, since the process that set it may be about to free the last of them. Order as in object_fold_word().
 */
uint64_t tiny_fold_word(const shm_map *map, page_no page, const shm_span *span, uint32_t w, uint64_t open);

/*
 * The same for every block of word w, with or without a hint. Only while nobody leases the span: then no block is open,
 * and a block without objects was left by a process that died or gave the span back.
 */
uint64_t tiny_settle_word(const shm_map *map, page_no page, const shm_span *span, uint32_t w);

#endif
