/*
 * Holds: finds, sets and looks for the holds of places.
 *
 * Called by client/lib (linking.c sets holds), by the folds of object.c and tiny.c, and by the daemon (what is swept).
 * Data: the holds in bitmap, which everybody writes. A word is compared, and nothing in it is used as an address.
 */
#include "shm/holds.h"

#define BUCKET_WORDS 8u /* a cache line */
#define NBUCKETS (SHM_HOLDS_MAX / BUCKET_WORDS)

_Static_assert((NBUCKETS & (NBUCKETS - 1)) == 0, "the upper bits of a product select a bucket");

/* Fibonacci hashing: neighbours are far from each other. */
static shm_u64 *bucket_of(const shm_map *map, uint64_t place)
{
    uint64_t mixed = (place / 8) * UINT64_C(0x9e3779b97f4a7c15);

    return &shm_intents_of(map)->holds[(mixed >> (64 - __builtin_ctz(NBUCKETS))) * BUCKET_WORDS];
}

/*
 * `used` first, and both before the caller's next store, so before the object is freed: a fold that sees it freed sees
 * the hold. If the process dies between the two, folds look for holds that are not there.
 */
shm_u64 *holds_add(const shm_map *map, hold h)
{
    shm_u64 *words = bucket_of(map, h.place);

    if (!holds_any(map))
        u32_store_release(&shm_intents_of(map)->used, 1);
    for (uint32_t i = 0; i < BUCKET_WORDS; i++) {
        uint64_t none = 0;

        if (u64_load_relaxed(&words[i]) == 0 && u64_exchange_if_acq_rel(&words[i], &none, hold_pack(h)))
            return &words[i];
    }
    return NULL;
}

bool holds_has(const shm_map *map, uint64_t place)
{
    const shm_u64 *words = bucket_of(map, place);

    for (uint32_t i = 0; i < BUCKET_WORDS; i++) {
        uint64_t word = u64_load_acquire(&words[i]);

        if (word != 0 && hold_unpack(word).place == place)
            return true;
    }
    return false;
}

uint64_t holds_among(const shm_map *map, page_no first, const shm_span *span, uint32_t w, uint64_t look)
{
    uint64_t held = 0;

    for (; look != 0; look &= look - 1) {
        uint64_t index = w * UINT64_C(64) + (uint64_t)__builtin_ctzll(look);

        if (holds_has(map, page_offset(first) + index * span->elem_bytes))
            held |= look & -look;
    }
    return held;
}
