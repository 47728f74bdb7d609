/*
 * Adopt: the table of objects that a session has made its own with goalloc_adopt().
 *
 * Called by request (adopt, publish), session (end) and mheap (a span ends). Data: a hash by the object's offset and
 * a list a session, private; kept bits in bitmap; nadopted in the span's description and free_limit in the header,
 * written here alone.
 *
 * An adopted object can be freed by anybody, and its place taken by another object, without the daemon being asked.
 * The kept bit tells: while a span's has_kept is set (it is owned, or has adopted objects), whoever frees an object
 * clears its kept bit before the place is handed out again. So an entry whose kept bit is 0 names an object that is
 * gone. Clients look at a span's has_kept only while the header's free_limit is 0, one word that stays in everybody's
 * cache; clients of a session that reclaims always do. Of tiny objects the kept bit is their block's.
 *
 * The order of adopt_set: counters first, then the kept bit, then the entry. A free by another process that started
 * before it saw the counters may miss the bit; that is why goalloc_adopt() asks that nobody frees the object
 * meanwhile.
 *
 * When the first object of an unowned span is adopted, old kept bits of an earlier life of the span are cleared
 * (has_kept goes from 0 to 1). When the last adoption of an unowned span ends, has_kept is 0 again.
 *
 * What the table says stands also in slots of the private memfd, so that it outlives the daemon. A slot is in use while
 * its offset is not 0; the session is written before. Removing clears the slot first, then counts down: so nadopted is
 * never below what is there, whenever the daemon dies, and adopt_recover_span() sets it right.
 */
#include "daemon/heap/adopt.h"

#include <assert.h>
#include <stdlib.h>

#include "shm/crash.h"
#include "shm/tiny.h"

#define uthash_fatal(message) abort() /* not reached: HASH_NONFATAL_OOM reports instead */
#define HASH_NONFATAL_OOM     1
#include <uthash.h>
#include <utlist.h>

typedef struct adoption {
    uint64_t offset;
    session_no session;
    uint32_t slot; /* in the private memfd */
    UT_hash_handle hh;
    struct adoption *prev;
    struct adoption *next;
} adoption;

struct adopt_table {
    shm_map *map;
    heap_private *private;
    uint32_t *free_slots; /* below nadoption_entries */
    size_t nfree_slots;
    size_t cap_free_slots;
    adoption *by_offset;
    adoption *of_session[SHM_SESSIONS_MAX];
    uint32_t nof_session[SHM_SESSIONS_MAX];
};

adopt_table *adopt_new(heapfile *file)
{
    adopt_table *table = calloc(1, sizeof(*table));

    if (table != NULL) {
        table->map = &file->map;
        table->private = file->private;
    }
    return table;
}

/* --- slots --- */

static void slot_give_back(adopt_table *table, uint32_t slot)
{
    u64_store_release(&table->private->adoptions[slot].offset, 0);
    if (table->nfree_slots == table->cap_free_slots) {
        size_t cap = table->cap_free_slots == 0 ? 64 : 2 * table->cap_free_slots;
        uint32_t *more = reallocarray(table->free_slots, cap, sizeof(*more));

        if (more == NULL)
            return; /* the next daemon finds it again */
        table->free_slots = more;
        table->cap_free_slots = cap;
    }
    table->free_slots[table->nfree_slots++] = slot;
}

/* False: all are in use. */
static bool slot_take(adopt_table *table, uint32_t *ret)
{
    uint32_t used = u32_load_relaxed(&table->private->nadoption_entries);

    if (table->nfree_slots > 0) {
        *ret = table->free_slots[--table->nfree_slots];
        return true;
    }
    if (used >= ADOPTIONS_MAX)
        return false;
    u32_store_release(&table->private->nadoption_entries, used + 1);
    *ret = used;
    return true;
}

static void slot_write(adopt_table *table, uint32_t slot, uint64_t offset, session_no session, uint32_t epoch)
{
    u64_store_release(&table->private->adoptions[slot].who, (uint64_t)session.n << 32 | epoch);
    u64_store_release(&table->private->adoptions[slot].offset, offset);
}

/* --- entries --- */

/* While objects are adopted, clients that free must look for kept bits. */
static void set_free_limit(adopt_table *table, uint64_t nadopted)
{
    u64_store_release(&table->map->header->free_limit, nadopted == 0 ? table->map->arena_bytes : 0);
}

static void adoption_remove(adopt_table *table, adoption *entry)
{
    shm_span *span = shm_span_at(table->map, page_at(u32_load_relaxed(
                                                 &table->map->page_map[entry->offset >> PAGE_SHIFT])));

    slot_give_back(table, entry->slot);
    CRASH_POINT(adopt_remove_after_entry);
    u32_store_release(&span->nadopted, u32_load_relaxed(&span->nadopted) - 1);
    if (u32_load_relaxed(&span->nadopted) == 0 && u32_load_relaxed(&span->owner) == 0)
        u32_store_release(&span->has_kept, 0);
    set_free_limit(table, HASH_COUNT(table->by_offset) - 1);
    CRASH_POINT(adopt_remove_after_counters);
    HASH_DEL(table->by_offset, entry);
    DL_DELETE(table->of_session[entry->session.n], entry);
    table->nof_session[entry->session.n]--;
    free(entry);
}

adopt_table *adopt_free(adopt_table *table)
{
    if (table != NULL) {
        for (adoption *entry = table->by_offset, *next; entry != NULL; entry = next) {
            next = entry->hh.next;
            HASH_DEL(table->by_offset, entry);
            free(entry);
        }
        free(table->free_slots);
        free(table);
    }
    return NULL;
}

/* Find the entry of the object at offset, or add one for session. NULL: no memory. */
static adoption *adoption_get(adopt_table *table, uint64_t offset, session_no session)
{
    adoption *entry;

    HASH_FIND(hh, table->by_offset, &offset, sizeof(offset), entry);
    if (entry != NULL) {
        DL_DELETE(table->of_session[entry->session.n], entry);
        table->nof_session[entry->session.n]--;
        return entry;
    }
    entry = calloc(1, sizeof(*entry));
    if (entry == NULL)
        return NULL;
    entry->offset = offset;
    if (!slot_take(table, &entry->slot)) {
        free(entry);
        return NULL;
    }
    HASH_ADD(hh, table->by_offset, offset, sizeof(entry->offset), entry);
    if (entry->hh.tbl == NULL) {
        slot_give_back(table, entry->slot);
        free(entry);
        return NULL;
    }
    entry->session = session;
    return entry;
}

void adopt_ensure_kept(shm_map *map, page_no first)
{
    shm_span *span = shm_span_at(map, first);

    if (span_has_kept(span))
        return;
    for (uint32_t w = 0; w < bits_nwords(span->nelems); w++)
        u64_store_relaxed(&shm_kept_bits(map, first)[w], 0);
    u32_store_release(&span->has_kept, 1);
}

/* The kept bit of a tiny block is not set: entries for objects in it are of an earlier life of the block. */
static void forget_stale_tiny(adopt_table *table, const object_ref *object)
{
    const shm_span *span = shm_span_at(table->map, object->first);

    if (!span_is_tiny(span) || !span_has_kept(span) ||
        (u64_load_acquire(&shm_kept_bits(table->map, object->first)[object->word]) & object->bit) != 0)
        return;
    for (uint64_t at = 0; at < TINY_BLOCK_BYTES; at++)
        adopt_clear(table, object->offset / TINY_BLOCK_BYTES * TINY_BLOCK_BYTES + at);
}

int adopt_set(adopt_table *table, const object_ref *object, session_no session, uint32_t epoch)
{
    shm_span *span = shm_span_at(table->map, object->first);
    uint64_t nentries;
    adoption *entry;

    if (table->nof_session[session.n] >= ADOPT_PER_SESSION_MAX)
        return ADOPT_E_FULL;
    forget_stale_tiny(table, object);
    nentries = HASH_COUNT(table->by_offset);
    entry = adoption_get(table, object->offset, session);
    if (entry == NULL)
        return ADOPT_E_FULL;
    if (HASH_COUNT(table->by_offset) > nentries) {
        adopt_ensure_kept(table->map, object->first);
        set_free_limit(table, HASH_COUNT(table->by_offset));
        u32_store_release(&span->nadopted, u32_load_relaxed(&span->nadopted) + 1);
    }
    CRASH_POINT(adopt_after_counters);
    slot_write(table, entry->slot, object->offset, session, epoch);
    CRASH_POINT(adopt_after_entry);
    (void)u64_fetch_or_acq_rel(&shm_kept_bits(table->map, object->first)[object->word], object->bit);
    CRASH_POINT(adopt_after_kept);
    entry->session = session;
    DL_APPEND(table->of_session[session.n], entry);
    table->nof_session[session.n]++;
    return 0;
}

void adopt_clear(adopt_table *table, uint64_t offset)
{
    adoption *entry;

    HASH_FIND(hh, table->by_offset, &offset, sizeof(offset), entry);
    if (entry != NULL)
        adoption_remove(table, entry);
}

void adopt_forget_span(adopt_table *table, page_no first)
{
    const shm_span *span = shm_span_at(table->map, first);
    uint64_t step_bytes = span_is_tiny(span) ? 1 : span->elem_bytes;
    uint64_t end = page_offset(first) + span->npages * PAGE_BYTES;

    for (uint64_t at = page_offset(first); at < end && u32_load_relaxed(&span->nadopted) != 0; at += step_bytes)
        adopt_clear(table, at);
    assert(u32_load_relaxed(&span->nadopted) == 0);
}

bool adopt_pop(adopt_table *table, session_no session, object_ref *ret, bool *ret_empty)
{
    adoption *entry = table->of_session[session.n];
    bool is_same;

    *ret_empty = entry == NULL;
    if (entry == NULL)
        return false;
    is_same = object_find(table->map, table->map->base + entry->offset, ret) == OBJECT_LIVE &&
              (u64_load_acquire(&shm_kept_bits(table->map, ret->first)[ret->word]) & ret->bit) != 0;
    adoption_remove(table, entry);
    return is_same;
}

/* --- after another daemon --- */

/* Take a slot's adoption over. False: no memory. *ret_stale: it means nothing any more. */
static bool recover_slot(adopt_table *table, uint32_t slot, adopt_lives_fn lives, void *data, bool *ret_stale)
{
    uint64_t offset = u64_load_relaxed(&table->private->adoptions[slot].offset);
    uint64_t who = u64_load_relaxed(&table->private->adoptions[slot].who);
    session_no session = { (uint16_t)(who >> 32) };
    adoption *entry;
    object_ref object;

    *ret_stale = true;
    if (offset == 0 || offset >= table->map->arena_bytes || who >> 32 >= SHM_SESSIONS_MAX ||
        !lives(data, session, (uint32_t)who) ||
        object_find(table->map, table->map->base + offset, &object) != OBJECT_LIVE ||
        !span_has_kept(shm_span_at(table->map, object.first)) ||
        (u64_load_acquire(&shm_kept_bits(table->map, object.first)[object.word]) & object.bit) == 0)
        return true;
    HASH_FIND(hh, table->by_offset, &offset, sizeof(offset), entry);
    if (entry != NULL)
        return true;
    entry = calloc(1, sizeof(*entry));
    if (entry == NULL)
        return false;
    *entry = (adoption){ .offset = offset, .session = session, .slot = slot };
    HASH_ADD(hh, table->by_offset, offset, sizeof(entry->offset), entry);
    if (entry->hh.tbl == NULL) {
        free(entry);
        return false;
    }
    DL_APPEND(table->of_session[session.n], entry);
    table->nof_session[session.n]++;
    *ret_stale = false;
    return true;
}

bool adopt_recover(adopt_table *table, adopt_lives_fn lives, void *data)
{
    uint32_t used = u32_load_relaxed(&table->private->nadoption_entries);

    for (uint32_t slot = 0; slot < used && slot < ADOPTIONS_MAX; slot++) {
        bool stale;

        if (!recover_slot(table, slot, lives, data, &stale))
            return false;
        if (stale)
            slot_give_back(table, slot);
    }
    /* Exactly the entries: set before the spans' own counters go down, which keeps clients looking. */
    set_free_limit(table, HASH_COUNT(table->by_offset));
    return true;
}

void adopt_recover_span(adopt_table *table, page_no first)
{
    shm_span *span = shm_span_at(table->map, first);
    uint64_t step_bytes = span_is_tiny(span) ? 1 : span->elem_bytes;
    uint64_t end = page_offset(first) + span->npages * PAGE_BYTES;
    uint32_t n = 0;

    if (u32_load_relaxed(&span->nadopted) == 0)
        return;
    for (uint64_t at = page_offset(first); at < end; at += step_bytes) {
        adoption *entry;

        HASH_FIND(hh, table->by_offset, &at, sizeof(at), entry);
        n += entry != NULL;
    }
    u32_store_release(&span->nadopted, n);
    if (n == 0 && u32_load_relaxed(&span->owner) == 0)
        u32_store_release(&span->has_kept, 0);
}
