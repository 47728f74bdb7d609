/*
 * Intents: goes through the holds of a session whose process is dead.
 *
 * Called by session (a session begins to end) and requests (goalloc_settle). Calls lease, for a large object that comes
 * free. Data: records and holds in bitmap, kept and remote bits, and one word of an object: the slot.
 *
 * All of it can be written by every client, and nothing is believed. A record's slot must be an aligned word in a
 * span, which is read once and compared; its object must be a live one, at the place that the hold names. That slot is
 * the one word within an object that the daemon reads, and it is never used as an address. What comes of a forged
 * record is what its author could have done itself: a remote bit is set, a kept bit is cleared, a hold goes. A hold in
 * the name of a number that no session has, 0 among them, would not be settled for its own sake: it goes with those of
 * any other.
 *
 * For each hold, whose process does nothing any more:
 *   UNLINK  the slot has `next`: the object is freed, or was. It has the object: nothing has been done. It has
 *           something else: its guard was not held, or others did not settle first; the object stays.
 *   LINK    the slot has the object: it is published, and linked. Else it is the session's again: its kept bit goes,
 *           and it ends with its session. If the owner of its span has ended meanwhile, nobody's end would free it: it
 *           is freed here.
 * Then the hold goes. If the daemon dies before that, the hold keeps the place as it is, and the next daemon does the
 * same again: to free what is free, or clear what is clear, changes nothing.
 */
#include "daemon/heap/intents.h"

#include "shm/crash.h"
#include "shm/holds.h"

/* A record, read once. */
typedef struct intent {
    uint64_t slot;
    uint64_t object;
    uint64_t next;
    uint64_t state;
} intent;

/* Read the word of the arena at that offset, if it is one, and lies in a span. */
static bool read_slot(const shm_map *map, uint64_t offset, uint64_t *ret)
{
    object_ref around;

    if (offset % sizeof(shm_u64) != 0 || offset >= map->arena_bytes ||
        object_find(map, map->base + offset, &around) > OBJECT_INTERIOR)
        return false;
    *ret = u64_load_acquire((shm_u64 *)(void *)(map->arena + offset));
    return true;
}

static void free_object(lease_table *table, const object_ref *object)
{
    (void)object_free_remote(table->heap->map, object);
    CRASH_POINT(settle_after_free);
}

/* The object was published to be linked, and is not. */
static void unpublish(lease_table *table, const object_ref *object)
{
    const shm_map *map = table->heap->map;
    const shm_span *span = shm_span_at(map, object->first);

    if (u32_load_relaxed(&span->nadopted) != 0)
        return; /* what its kept bit says is the adoption table's matter */
    if (u32_load_relaxed(&span->owner) == 0)
        free_object(table, object);
    else if (span_has_kept(span))
        (void)u64_fetch_and_acq_rel(shm_kept_word(map, object->first, object->word), ~object->bit);
    CRASH_POINT(settle_after_unpublish);
}

/* What is to be done by the record of a hold on that place. */
static void settle_record(lease_table *table, const intent *i, uint64_t place)
{
    const shm_map *map = table->heap->map;
    object_ref object;
    uint64_t slot;

    if (i->object >= map->arena_bytes || !read_slot(map, i->slot, &slot) ||
        object_find(map, map->base + i->object, &object) != OBJECT_LIVE || holds_place(map, &object) != place)
        return;
    if (i->state == INTENT_UNLINK && slot == i->next)
        free_object(table, &object);
    else if (i->state == INTENT_LINK && slot != map->base + i->object)
        unpublish(table, &object);
}

/* A large object that is free: its lease ends. Others are found when their spans are folded. */
static void sweep_large(lease_table *table, uint64_t place)
{
    const shm_map *map = table->heap->map;
    page_no first = page_at(u32_load_relaxed(&map->page_map[place >> PAGE_SHIFT]));

    if (first.n != 0 && page_offset(first) == place && lease_is_large(shm_span_at(map, first)))
        (void)lease_sweep(table, first, true);
}

static void settle_hold(lease_table *table, shm_u64 *at, uint64_t word)
{
    const shm_map *map = table->heap->map;
    hold h = hold_unpack(word);
    shm_intent *record = shm_intent_of(map, h);

    if (record != NULL && h.place < map->arena_bytes) {
        intent i = { .state = u64_load_acquire(&record->state) };

        i.slot = u64_load_relaxed(&record->slot);
        i.object = u64_load_relaxed(&record->object);
        i.next = u64_load_relaxed(&record->next);
        settle_record(table, &i, h.place);
    }
    u64_store_release(at, 0);
    CRASH_POINT(settle_after_release);
    if (h.place < map->arena_bytes)
        sweep_large(table, h.place);
}

/* True if a hold in that name is to be settled with those of the session: it is its own, or nobody's. */
static bool goes_with(const lease_table *table, session_no name, session_no session)
{
    return name.n == session.n || name.n >= SHM_SESSIONS_MAX || table->lessees[name.n] == NULL;
}

void intents_settle(lease_table *table, session_no session)
{
    const shm_map *map = table->heap->map;

    if (!holds_any(map))
        return;
    for (uint32_t i = 0; i < SHM_HOLDS_MAX; i++) {
        shm_u64 *at = &shm_intents_of(map)->holds[i];
        uint64_t word = u64_load_acquire(at);

        if (word != 0 && goes_with(table, hold_unpack(word).session, session))
            settle_hold(table, at, word);
    }
}
