/*
 * Object: from an address to the object it names, and the life of its bits.
 *
 * Called by clients (remote frees, checks, publish) and by the daemon (sweep, roots, adoption). Data: page map and span
 * table in spans (the daemon writes them), bits in bitmap (everybody writes them). The words come from other processes:
 * each is read once and bounded, and none is used as an address. An index is checked against nelems before it selects a
 * bit. Objects in tiny spans are looked up in their block's word (tiny.c).
 */
#include "shm/object.h"

#include "shm/crash.h"
#include "shm/holds.h"
#include "shm/tiny.h"

static inline enum object_verdict find(const shm_map *map, uint64_t p, object_ref *ret, bool to_free)
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
    if (span_is_tiny(span))
        return tiny_find(map, p - map->base, ret);
    if (offset != index * elem_bytes)
        return OBJECT_INTERIOR;
    if (to_free)
        prefetch_to_write(shm_alloc_word(map, ret->first, ret->word));
    return object_is_live(map, ret) ? OBJECT_LIVE : OBJECT_FREE;
}

enum object_verdict object_find(const shm_map *map, uint64_t p, object_ref *ret)
{
    return find(map, p, ret, false);
}

enum object_verdict object_find_to_free(const shm_map *map, uint64_t p, object_ref *ret)
{
    return find(map, p, ret, true);
}

bool object_is_live(const shm_map *map, const object_ref *object)
{
    if (span_is_tiny(shm_span_at(map, object->first)))
        return tiny_is_live(map, object);

    /* The remote word first: a fold clears alloc before remote, so a free object is never taken for a live one. */
    uint64_t remote = u64_load_acquire(shm_remote_word(map, object->first, object->word));
    uint64_t alloc = u64_load_acquire(shm_alloc_word(map, object->first, object->word));

    return (alloc & ~remote & object->bit) != 0;
}

enum object_verdict object_free_remote(const shm_map *map, const object_ref *object)
{
    if (span_is_tiny(shm_span_at(map, object->first)))
        return tiny_free_remote(map, object);
    if (!object_is_live(map, object))
        return OBJECT_FREE;

    /* Release: what the freeing process wrote into the object happens before its next owner has it. */
    CRASH_POINT(remote_free_before_bit);

    uint64_t old = u64_fetch_or_acq_rel(shm_remote_word(map, object->first, object->word), object->bit);

    CRASH_POINT(remote_free_after_bit);
    return old & object->bit ? OBJECT_FREE : OBJECT_LIVE;
}

uint64_t object_fold_word(const shm_map *map, page_no first, const shm_span *span, uint32_t w)
{
    shm_u64 *alloc = shm_alloc_word(map, first, w);
    shm_u64 *remote = shm_remote_word(map, first, w);
    uint64_t freed = u64_load_acquire(remote);
    uint64_t bits = u64_load_relaxed(alloc);

    if (freed != 0 && holds_any(map))
        freed &= ~holds_among(map, first, span, w, freed);
    if (freed == 0)
        return bits;
    if (span_has_kept(span))
        (void)u64_fetch_and_acq_rel(shm_kept_word(map, first, w), ~freed);
    bits &= ~freed;
    CRASH_POINT(fold_before_alloc);
    u64_store_release(alloc, bits);
    CRASH_POINT(fold_after_alloc);
    (void)u64_fetch_and_acq_rel(remote, ~freed);
    CRASH_POINT(fold_after_remote);
    return bits;
}
