/*
 * Object: from an address to the object it names, and the life of its bits.
 *
 * Called by clients (remote frees, checks, publish) and by the daemon (sweep, roots, adoption). Data: page map and span
 * table in spans (the daemon writes them), bits in bitmap (everybody writes them). The words come from other processes:
 * each is read once and bounded, and none is used as an address. An index is checked against nelems before it selects a
 * bit. Objects in tiny spans are looked up in their block's word (tiny.c). The look-up and the remote free themselves
 * stand in object.h, since frees of others' objects have them inlined.
 */
#include "shm/object.h"

#include "shm/holds.h"

enum object_verdict object_find(const shm_map *map, uint64_t p, object_ref *ret)
{
    return object_look(map, p, ret, false);
}

enum object_verdict object_find_to_free(const shm_map *map, uint64_t p, object_ref *ret)
{
    return object_look(map, p, ret, true);
}

bool object_is_live(const shm_map *map, const object_ref *object)
{
    return span_is_tiny(shm_span_at(map, object->first)) ? tiny_is_live(map, object) : object_bit_is_live(map, object);
}

enum object_verdict object_free_remote(const shm_map *map, const object_ref *object)
{
    if (span_is_tiny(shm_span_at(map, object->first)))
        return tiny_free_remote(map, object);
    return object_bit_is_live(map, object) ? object_free_found(map, object) : OBJECT_FREE;
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
    if (span_has_kept(span)) {
        shm_u64 *kept = shm_kept_word(map, first, w);

        /* Mostly none is set, and a look costs less. Who has set one had the object before it was freed. */
        if ((u64_load_acquire(kept) & freed) != 0)
            (void)u64_fetch_and_acq_rel(kept, ~freed);
    }
    bits &= ~freed;
    CRASH_POINT(fold_before_alloc);
    u64_store_release(alloc, bits);
    CRASH_POINT(fold_after_alloc);
    (void)u64_fetch_and_acq_rel(remote, ~freed);
    CRASH_POINT(fold_after_remote);
    return bits;
}
