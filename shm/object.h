/*
 * Object: from an address to the object it names, by the shared tables alone; and folding remote frees into alloc bits.
 */
#ifndef GOALLOC_SHM_OBJECT_H
#define GOALLOC_SHM_OBJECT_H

#include "shm/crash.h"
#include "shm/tiny.h"

/*
 * Look up the object at address p. *ret is set for LIVE, FREE and INTERIOR (then it is the object that p lies in). The
 * answer is a snapshot: if others may free the object meanwhile, the caller has to know that they don't. Cost: three
 * cache lines.
 */
enum object_verdict object_find(const shm_map *map, uint64_t p, object_ref *ret);

/* The same for a caller who frees the object next: its words' cache line comes to be written, in one go. */
enum object_verdict object_find_to_free(const shm_map *map, uint64_t p, object_ref *ret);

/* True if the object is allocated and not freed. */
bool object_is_live(const shm_map *map, const object_ref *object);

/* The same, and no tiny object. */
static inline bool object_bit_is_live(const shm_map *map, const object_ref *object)
{
    /* The remote word first: a fold clears alloc before remote, so a free object is never taken for a live one. */
    uint64_t remote = u64_load_acquire(shm_remote_word(map, object->first, object->word));
    uint64_t alloc = u64_load_acquire(shm_alloc_word(map, object->first, object->word));

    return (alloc & ~remote & object->bit) != 0;
}

/*
 * The body of object_find() and object_find_to_free(), for who frees what other processes have allocated, all the time:
 * inlined there, *ret needs no memory.
 */
__attribute__((always_inline)) static inline enum object_verdict object_look(const shm_map *map, uint64_t p,
                                                                             object_ref *ret, bool to_free)
{
    uint64_t offset = p - map->base; /* wraps if p lies below */
    uint32_t index;

    if (offset >= map->arena_bytes)
        return OBJECT_FOREIGN;

    uint32_t first = u32_load_acquire(&map->page_map[offset >> PAGE_SHIFT]);

    if (first == 0 || first > offset >> PAGE_SHIFT)
        return OBJECT_NO_SPAN;

    const shm_span *span = &map->span_table[first];
    uint64_t elem_bytes = span->elem_bytes;

    if (lease_unpack(u64_load_acquire(&span->lease)).state == SPAN_FREE || elem_bytes == 0)
        return OBJECT_NO_SPAN;
    offset -= page_offset(page_at(first));
    if (offset >= span->npages * PAGE_BYTES)
        return OBJECT_NO_SPAN; /* a large object has become shorter */
    index = object_index(offset, span->magic);
    if (index >= span->nelems || index >= SPAN_NELEMS_MAX)
        return OBJECT_NO_SPAN; /* the tail that no object uses */

    *ret = (object_ref){
        .first = { first },
        .index = index,
        .word = index / 64,
        .bit = UINT64_C(1) << (index % 64),
        .offset = page_offset(page_at(first)) + index * elem_bytes,
        .bytes = elem_bytes,
    };
    if (span_is_tiny(span)) {
        object_ref block = *ret;
        enum object_verdict verdict = tiny_find(map, p - map->base, &block);

        *ret = block;
        return verdict;
    }
    if (offset != index * elem_bytes)
        return OBJECT_INTERIOR;
    if (to_free)
        prefetch_to_write(shm_alloc_word(map, ret->first, ret->word));
    return object_bit_is_live(map, ret) ? OBJECT_LIVE : OBJECT_FREE;
}

/*
 * Free an object whose alloc word the caller may not write, by one bit in the remote word (of a tiny object, by its bit
 * in the block's word). LIVE: done; FREE: it was free already. If the caller dies before the fetch_or, the object is
 * live; after it, the object is free.
 */
enum object_verdict object_free_remote(const shm_map *map, const object_ref *object);

/* The same for an object, no tiny one, that the caller has just found to be live. */
static inline enum object_verdict object_free_found(const shm_map *map, const object_ref *object)
{
    /* Release: what the freeing process wrote into the object happens before its next owner has it. */
    CRASH_POINT(remote_free_before_bit);

    uint64_t old = u64_fetch_or_acq_rel(shm_remote_word(map, object->first, object->word), object->bit);

    CRASH_POINT(remote_free_after_bit);
    return old & object->bit ? OBJECT_FREE : OBJECT_LIVE;
}

/*
 * Fold the remote frees of word w of a span into its alloc word. Only the one who may write the alloc word may call it:
 * the leasing thread, or the daemon for a span that nobody leases. Returns the alloc word afterwards. Tiny spans have
 * folds of their own (tiny.h).
 *
 * Order: the alloc bits first, then the remote bits that were seen. If the process dies in between, remote bits stay on
 * objects that are free, and the next fold clears them; the other order would lose the objects. A remote bit that is
 * set between the two steps stays, because only the bits that were seen are cleared. So does that of an object which is
 * held (intents.h): a later fold finds it.
 */
uint64_t object_fold_word(const shm_map *map, page_no first, const shm_span *span, uint32_t w);

#endif
