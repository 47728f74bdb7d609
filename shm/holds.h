/*
 * Holds: what keeps the places of objects from being used again. intents.h says what for, and what the words say.
 */
#ifndef GOALLOC_SHM_HOLDS_H
#define GOALLOC_SHM_HOLDS_H

#include "shm/intents.h"
#include "shm/objectref.h"

static inline shm_intents *shm_intents_of(const shm_map *map)
{
    return (shm_intents *)(void *)(map->bitmap + map->bitmap_bytes - sizeof(shm_intents));
}

/* The record that a hold names; NULL: there is none of that number. */
static inline shm_intent *shm_intent_of(const shm_map *map, hold h)
{
    return h.record < SHM_INTENTS_MAX ? &shm_intents_of(map)->records[h.session.n][h.record] : NULL;
}

/* The place whose hold keeps an object from being used again. */
static inline uint64_t holds_place(const shm_map *map, const object_ref *object)
{
    return page_offset(object->first) + object->index * shm_span_at(map, object->first)->elem_bytes;
}

/* True if there may be holds. Acquire: who sees the remote bit of an object that is held sees this, and the hold. */
static inline bool holds_any(const shm_map *map)
{
    return u32_load_acquire(&shm_intents_of(map)->used) != 0;
}

/* Set a hold. NULL: its bucket is full, by eight threads that are at it at this moment, or stopped. */
shm_u64 *holds_add(const shm_map *map, hold h);

/* True if anybody holds the place. */
bool holds_has(const shm_map *map, uint64_t place);

/* Of the objects `look` of word w of a span, those that are held. Call it if holds_any(). */
uint64_t holds_among(const shm_map *map, page_no first, const shm_span *span, uint32_t w, uint64_t look);

#endif
