/*
 * Adopt: the table of objects that a session has made its own, or its group's, with goalloc_adopt().
 *
 * Called by the request handlers (adopt, publish), lease (the end of an owner, a takeover) and mheap (a span ends).
 * Data: a hash by the object's offset and a list an owner, private; entries in the private memfd, which outlive the
 * daemon; kept bits in bitmap; nadopted and has_kept in the span's description and free_limit in the header.
 *
 * An adopted object can be freed by anybody, and its place taken by another object, without the daemon being asked.
 * The kept bit tells: while a span's has_kept is set (it is owned, or has adopted objects), whoever frees an object
 * clears its kept bit before the place is handed out again. So an adoption whose kept bit is 0 names an object that is
 * gone. Clients look at a span's has_kept only while the header's free_limit is 0, one word that stays in everybody's
 * cache; clients of a session that reclaims always do. Of tiny objects the kept bit is their block's.
 *
 * The order of adopt_set: counters first, then the entry (the owner, then the offset, which is 0 while the entry is
 * free), then the kept bit. A free by another process that started before it saw the counters may miss the bit; that is
 * why goalloc_adopt() asks that nobody frees the object meanwhile. A removal clears the entry first, then counts down:
 * so nadopted is never below what is there, whenever the daemon dies, and adopt_recover_span() sets it right.
 *
 * has_kept of an unowned span goes from 0 to 1 with its first adoption, after kept bits of the span's earlier life have
 * been cleared, and back to 0 with its last one.
 *
 * Invariants (adopt_validate, linear): an entry in use says the same as the adoption that has it, and no other has it;
 * an adoption is in the list of its owner; free_limit is 0 iff there is any; nadopted of a span is the number of
 * adoptions in it (mheap_validate, which walks the spans).
 */
#include "daemon/heap/adopt.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "shm/crash.h"
#include "shm/tiny.h"

#define uthash_fatal(message) abort() /* not reached: HASH_NONFATAL_OOM reports instead */
#define HASH_NONFATAL_OOM     1
#include <uthash.h>
#include <utlist.h>

typedef struct adoption {
    uint64_t offset;
    owner_no owner;
    uint32_t entry; /* in the private memfd */
    UT_hash_handle hh;
    struct adoption *prev;
    struct adoption *next;
} adoption;

struct adopt_table {
    shm_map *map;
    heap_private *private;
    uint32_t free_entry; /* one more than its number; 0: none is free below nadoption_entries */
    adoption *by_offset;
    adoption *of_owner[SHM_OWNERS_MAX];
    uint32_t nof_owner[SHM_OWNERS_MAX];
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

/* --- entries in the private memfd --- */

/* Entries that are free name each other: while its offset is 0, who is the free one after it. */
static void entry_give_back(adopt_table *table, uint32_t entry)
{
    u64_store_release(&table->private->adoptions[entry].offset, 0);
    u64_store_relaxed(&table->private->adoptions[entry].who, table->free_entry);
    table->free_entry = entry + 1;
}

/* False: all are in use. */
static bool entry_take(adopt_table *table, uint32_t *ret)
{
    uint32_t used = u32_load_relaxed(&table->private->nadoption_entries);

    if (table->free_entry != 0) {
        *ret = table->free_entry - 1;
        table->free_entry = (uint32_t)u64_load_relaxed(&table->private->adoptions[*ret].who);
        return true;
    }
    if (used >= ADOPTIONS_MAX)
        return false;
    u32_store_release(&table->private->nadoption_entries, used + 1);
    *ret = used;
    return true;
}

/* --- adoptions --- */

/* While objects are adopted, clients that free look for kept bits. */
static void set_free_limit(adopt_table *table, uint64_t nadopted)
{
    u64_store_release(&table->map->header->free_limit, nadopted == 0 ? table->map->arena_bytes : 0);
}

static void adoption_remove(adopt_table *table, adoption *a)
{
    page_no first = page_at(u32_load_relaxed(&table->map->page_map[a->offset >> PAGE_SHIFT]));
    shm_span *span = shm_span_at(table->map, first);

    entry_give_back(table, a->entry);
    CRASH_POINT(adopt_remove_after_entry);
    u32_store_release(&span->nadopted, u32_load_relaxed(&span->nadopted) - 1);
    if (u32_load_relaxed(&span->nadopted) == 0 && u32_load_relaxed(&span->owner) == 0)
        u32_store_release(&span->has_kept, 0);
    set_free_limit(table, HASH_COUNT(table->by_offset) - 1);
    CRASH_POINT(adopt_remove_after_counters);
    HASH_DEL(table->by_offset, a);
    DL_DELETE(table->of_owner[a->owner.n], a);
    table->nof_owner[a->owner.n]--;
    free(a);
}

adopt_table *adopt_free(adopt_table *table)
{
    if (table != NULL) {
        for (adoption *a = table->by_offset, *next; a != NULL; a = next) {
            next = a->hh.next;
            HASH_DEL(table->by_offset, a);
            free(a);
        }
        free(table);
    }
    return NULL;
}

static adoption *adoption_find(const adopt_table *table, uint64_t offset)
{
    adoption *a;

    HASH_FIND(hh, table->by_offset, &offset, sizeof(offset), a);
    return a;
}

/* The object at offset, which has no adoption, has one with that entry. False: no memory. */
static bool adoption_add(adopt_table *table, uint64_t offset, uint32_t entry, owner_no owner)
{
    adoption *a = calloc(1, sizeof(*a));

    if (a == NULL)
        return false;
    *a = (adoption){ .offset = offset, .owner = owner, .entry = entry };
    HASH_ADD(hh, table->by_offset, offset, sizeof(a->offset), a);
    if (a->hh.tbl == NULL) {
        free(a);
        return false;
    }
    DL_APPEND(table->of_owner[owner.n], a);
    table->nof_owner[owner.n]++;
    return true;
}

/* It is owner's from now on. */
static void adoption_move(adopt_table *table, adoption *a, owner_no owner)
{
    DL_DELETE(table->of_owner[a->owner.n], a);
    table->nof_owner[a->owner.n]--;
    a->owner = owner;
    DL_APPEND(table->of_owner[owner.n], a);
    table->nof_owner[owner.n]++;
}

void adopt_ensure_kept(shm_map *map, page_no first)
{
    shm_span *span = shm_span_at(map, first);

    if (span_has_kept(span))
        return;
    for (uint32_t w = 0; w < bits_nwords(span->nelems); w++)
        u64_store_relaxed(shm_kept_word(map, first, w), 0);
    u32_store_release(&span->has_kept, 1);
}

/* If the kept bit of a tiny block is not set, adoptions in it are of an earlier life of the block. */
static void forget_stale_tiny(adopt_table *table, const object_ref *object)
{
    const shm_span *span = shm_span_at(table->map, object->first);

    if (!span_is_tiny(span) || !span_has_kept(span) ||
        (u64_load_acquire(shm_kept_word(table->map, object->first, object->word)) & object->bit) != 0)
        return;
    for (uint64_t at = 0; at < TINY_BLOCK_BYTES; at++)
        adopt_clear(table, object->offset / TINY_BLOCK_BYTES * TINY_BLOCK_BYTES + at);
}

int adopt_set(adopt_table *table, const object_ref *object, owner_no owner, uint32_t epoch)
{
    shm_span *span = shm_span_at(table->map, object->first);
    adoption *a;
    uint32_t entry;

    if (table->nof_owner[owner.n] >= ADOPT_PER_OWNER_MAX)
        return ADOPT_E_FULL;
    forget_stale_tiny(table, object);
    a = adoption_find(table, object->offset);
    if (a != NULL) {
        entry = a->entry;
        adoption_move(table, a, owner);
    } else {
        if (!entry_take(table, &entry))
            return ADOPT_E_FULL;
        if (!adoption_add(table, object->offset, entry, owner)) {
            entry_give_back(table, entry);
            return ADOPT_E_FULL;
        }
        adopt_ensure_kept(table->map, object->first);
        set_free_limit(table, adopt_count(table));
        u32_store_release(&span->nadopted, u32_load_relaxed(&span->nadopted) + 1);
    }
    CRASH_POINT(adopt_after_counters);
    u64_store_release(&table->private->adoptions[entry].who, (uint64_t)owner.n << 32 | epoch);
    u64_store_release(&table->private->adoptions[entry].offset, object->offset);
    CRASH_POINT(adopt_after_entry);
    (void)u64_fetch_or_acq_rel(shm_kept_word(table->map, object->first, object->word), object->bit);
    CRASH_POINT(adopt_after_kept);
    return 0;
}

void adopt_clear(adopt_table *table, uint64_t offset)
{
    adoption *a = adoption_find(table, offset);

    if (a != NULL)
        adoption_remove(table, a);
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

/* True if the object at offset lives, and is still the one that was adopted. */
static bool is_same_object(const shm_map *map, uint64_t offset, object_ref *ret)
{
    return object_find(map, map->base + offset, ret) == OBJECT_LIVE && span_has_kept(shm_span_at(map, ret->first)) &&
           (u64_load_acquire(shm_kept_word(map, ret->first, ret->word)) & ret->bit) != 0;
}

bool adopt_pop(adopt_table *table, owner_no owner, object_ref *ret, bool *ret_lives)
{
    adoption *a = table->of_owner[owner.n];

    if (a == NULL)
        return false;
    *ret_lives = is_same_object(table->map, a->offset, ret);
    adoption_remove(table, a);
    return true;
}

/* --- after another daemon --- */

/* True if the owner has an entry in spans that is in use. */
static bool owner_lives(const shm_map *map, uint64_t no, uint32_t epoch)
{
    group_word word;

    if (no < SHM_OWNERS_MAX && owner_is_group((uint32_t)no)) {
        word = group_unpack(u64_load_relaxed(&shm_group_at(map, (uint32_t)no)->word));
        return word.state != SHM_GROUP_FREE && word.epoch == epoch;
    }
    return no < u32_load_relaxed(&map->header->nsession_entries) && no < SHM_SESSIONS_MAX &&
           u32_load_relaxed(&map->sessions[no].state) != SHM_SESSION_FREE &&
           u32_load_relaxed(&map->sessions[no].epoch) == epoch;
}

bool adopt_recover(adopt_table *table)
{
    uint32_t used = u32_load_relaxed(&table->private->nadoption_entries);

    for (uint32_t entry = 0; entry < used && entry < ADOPTIONS_MAX; entry++) {
        uint64_t offset = u64_load_relaxed(&table->private->adoptions[entry].offset);
        uint64_t who = u64_load_relaxed(&table->private->adoptions[entry].who);
        object_ref object;

        /* It counts if its owner is there, its object lives and was adopted, and no entry before names it. */
        if (offset == 0 || offset >= table->map->arena_bytes || !owner_lives(table->map, who >> 32, (uint32_t)who) ||
            !is_same_object(table->map, offset, &object) || adoption_find(table, offset) != NULL ||
            u32_load_relaxed(&shm_span_at(table->map, object.first)->nadopted) == 0)
            entry_give_back(table, entry);
        else if (!adoption_add(table, offset, entry, (owner_no){ (uint16_t)(who >> 32) }))
            return false;
    }
    /* Exactly the adoptions: set before the spans' own counters go down, so that clients go on looking. */
    set_free_limit(table, adopt_count(table));
    return true;
}

void adopt_recover_span(adopt_table *table, page_no first)
{
    shm_span *span = shm_span_at(table->map, first);
    uint32_t n;

    if (u32_load_relaxed(&span->nadopted) == 0)
        return;
    n = adopt_count_span(table, first);
    u32_store_release(&span->nadopted, n);
    if (n == 0 && u32_load_relaxed(&span->owner) == 0)
        u32_store_release(&span->has_kept, 0);
}

/* --- looking --- */

uint32_t adopt_count(const adopt_table *table)
{
    return HASH_COUNT(table->by_offset);
}

uint32_t adopt_count_span(const adopt_table *table, page_no first)
{
    const shm_span *span = shm_span_at(table->map, first);
    uint64_t step_bytes = span_is_tiny(span) ? 1 : span->elem_bytes;
    uint64_t end = page_offset(first) + span->npages * PAGE_BYTES;
    uint32_t n = 0;

    for (uint64_t at = page_offset(first); at < end; at += step_bytes)
        n += adoption_find(table, at) != NULL;
    return n;
}

/* The owner's list: each adoption in it is the owner's, and its entry says so. Returns how many, or -EUCLEAN. */
static int64_t validate_owner(const adopt_table *table, uint16_t no, FILE *err)
{
    uint32_t n = 0;

    for (const adoption *a = table->of_owner[no]; a != NULL && n <= table->nof_owner[no]; a = a->next, n++) {
        uint64_t offset = u64_load_relaxed(&table->private->adoptions[a->entry].offset);
        uint64_t who = u64_load_relaxed(&table->private->adoptions[a->entry].who);

        if (a->owner.n != no || offset != a->offset || who >> 32 != no) {
            (void)fprintf(err, "adopt: 0x%llx of owner %u is in the list of owner %u; entry %u: 0x%llx of %llu\n",
                          (unsigned long long)a->offset, a->owner.n, no, a->entry, (unsigned long long)offset,
                          (unsigned long long)who >> 32);
            return -EUCLEAN;
        }
    }
    if (n == table->nof_owner[no])
        return n;
    (void)fprintf(err, "adopt: %u objects in the list of owner %u, %u noted\n", n, no, table->nof_owner[no]);
    return -EUCLEAN;
}

int adopt_validate(const adopt_table *table, FILE *err)
{
    uint32_t end = u32_load_relaxed(&table->private->nadoption_entries);
    uint64_t limit = u64_load_relaxed(&table->map->header->free_limit);
    uint32_t count = adopt_count(table);
    uint64_t nlisted = 0;
    uint64_t nused = 0;

    for (uint16_t no = 0; no < SHM_OWNERS_MAX; no++) {
        int64_t n = validate_owner(table, no, err);

        if (n < 0)
            return -EUCLEAN;
        nlisted += (uint64_t)n;
    }
    for (uint32_t entry = 0; entry < end && entry < ADOPTIONS_MAX; entry++)
        nused += u64_load_relaxed(&table->private->adoptions[entry].offset) != 0;
    if (nlisted == count && nused == count && limit == (count == 0 ? table->map->arena_bytes : 0))
        return 0;
    (void)fprintf(err, "adopt: %u objects, %llu listed, %llu of %u entries used; frees look from 0x%llx on\n", count,
                  (unsigned long long)nlisted, (unsigned long long)nused, end, (unsigned long long)limit);
    return -EUCLEAN;
}

void adopt_dump(const adopt_table *table, FILE *out)
{
    for (const adoption *a = table->by_offset; a != NULL; a = a->hh.next)
        (void)fprintf(out, "adoption %u: object 0x%llx of owner %u\n", a->entry, (unsigned long long)a->offset,
                      a->owner.n);
}
