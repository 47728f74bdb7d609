/*
 * Adopt: the table of objects that a session has made its own, or its group's, with goalloc_adopt().
 *
 * Called by the request handlers (adopt, publish), lease (the end of an owner, a takeover) and mheap (a span ends).
 * Data: an adoption for each entry, private; the entries, in the private memfd, which outlive the daemon; kept bits in
 * bitmap; nadopted and has_kept in the span's description and free_limit in the header.
 *
 * An adoption is in three lists: of its bucket, by which it is found from its object's offset; of its owner, which pops
 * all of them when it ends; and of its span, which forgets them when it ends. The hash has a seed (seededhash.c),
 * because clients choose the offsets; so a look costs the same whatever they adopt. What is done for a span costs what
 * is adopted in it, at most an object of each of its places, and nothing for objects elsewhere.
 *
 * An adopted object can be freed by anybody, and its place taken by another object, without the daemon being asked.
 * The kept bit tells: while a span's has_kept is set (it is owned, or has adopted objects), whoever frees an object
 * clears its kept bit before the place is handed out again. So an adoption whose kept bit is 0 names an object that is
 * gone. Clients look at kept bits only while the header's free_limit is 0, one word that stays in everybody's cache;
 * clients of a session that reclaims always do. A kept bit that is 0 says enough, and if it is 1 the span's has_kept
 * says whether that means anything. Of tiny objects the kept bit is their block's.
 *
 * The order of adopt_set: counters first, then the entry (the owner, then the offset, which is 0 while the entry is
 * free), then the kept bit. A free by another process that started before it saw the counters may miss the bit; that is
 * why goalloc_adopt() asks that nobody frees the object meanwhile. A removal clears the entry first, then counts down:
 * so nadopted is never below what is there, whenever the daemon dies, and adopt_recover_span() sets it right.
 *
 * has_kept of an unowned span goes from 0 to 1 with its first adoption, after kept bits of the span's earlier life have
 * been cleared, and back to 0 with its last one.
 *
 * Memory: 40 bytes an adoption, and 4 for each page that has one at its place in heads, all of it mapped at the start
 * and without memory until it is used; so nothing is moved when the table grows, and nothing can fail.
 *
 * Invariants (adopt_validate, linear): an entry in use says the same as its adoption, which its bucket's list, its
 * owner's and its span's have; free_limit is 0 iff there is any; an owner's count is that of its list; nadopted of a
 * span is the number of adoptions in it (mheap_validate, which walks the spans).
 */
#include "daemon/heap/adopt.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <sys/mman.h>

#include "daemon/heap/seededhash.h"
#include "shm/crash.h"
#include "shm/tiny.h"

#define BUCKETS (ADOPTIONS_MAX / 4)

/* An adoption has the number of its entry, plus 1; 0 is none. */
typedef struct adoption {
    uint64_t offset; /* 0: the entry is free */
    page_no first;   /* of its span */
    uint32_t in_bucket;
    uint32_t prev_of_owner;
    uint32_t next_of_owner;
    uint32_t prev_of_span;
    uint32_t next_of_span;
    owner_no owner;
} adoption;

_Static_assert(sizeof(adoption) == 40, "what is said of it above");

/* Of a check that is under way: what has been counted of the adoptions below end, and is kept right (checking.h). */
typedef struct adopt_checked {
    uint32_t end; /* 0: there was none yet */
    uint32_t count;
    uint32_t nof_owner[SHM_OWNERS_MAX];
} adopt_checked;

struct adopt_table {
    shm_map *map;
    heap_private *private;
    uint32_t count;
    uint32_t free_entry; /* one more than its number; 0: none is free below nadoption_entries */
    uint32_t *heads;     /* one a page: of the span that begins there */
    uint32_t of_owner[SHM_OWNERS_MAX];
    uint32_t nof_owner[SHM_OWNERS_MAX];
    adopt_checked checked;
    uint32_t buckets[BUCKETS];
    adoption all[ADOPTIONS_MAX + 1]; /* all[0] is none */
};

/* Zeroes that have no memory until they are written. NULL: no room. */
static void *map_zeroes(uint64_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return p == MAP_FAILED ? NULL : p;
}

static uint64_t heads_bytes(const shm_map *map)
{
    return map->npages * sizeof(uint32_t);
}

adopt_table *adopt_new(heapfile *file)
{
    adopt_table *table = map_zeroes(sizeof(*table));

    if (table == NULL)
        return NULL;
    table->map = &file->map;
    table->private = file->private;
    table->heads = map_zeroes(heads_bytes(table->map));
    if (table->heads != NULL && hash_start())
        return table;
    return adopt_free(table);
}

adopt_table *adopt_free(adopt_table *table)
{
    if (table != NULL) {
        if (table->heads != NULL)
            (void)munmap(table->heads, heads_bytes(table->map));
        (void)munmap(table, sizeof(*table));
    }
    return NULL;
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

static uint32_t bucket_at(uint64_t offset)
{
    return hash_word(offset) % BUCKETS;
}

static uint32_t *bucket_of(adopt_table *table, uint64_t offset)
{
    return &table->buckets[bucket_at(offset)];
}

static adoption *adoption_find(adopt_table *table, uint64_t offset)
{
    uint32_t at = *bucket_of(table, offset);

    while (at != 0 && table->all[at].offset != offset)
        at = table->all[at].in_bucket;
    return at == 0 ? NULL : &table->all[at];
}

static uint32_t number_of(const adopt_table *table, const adoption *a)
{
    return (uint32_t)(a - table->all);
}

static void enter_owner(adopt_table *table, adoption *a, owner_no owner)
{
    uint32_t *head = &table->of_owner[owner.n];

    a->owner = owner;
    a->prev_of_owner = 0;
    a->next_of_owner = *head;
    table->all[*head].prev_of_owner = number_of(table, a); /* all[0]: nobody reads it */
    *head = number_of(table, a);
    table->nof_owner[owner.n]++;
    table->checked.nof_owner[owner.n] += number_of(table, a) < table->checked.end;
}

static void leave_owner(adopt_table *table, const adoption *a)
{
    uint32_t *before = a->prev_of_owner == 0 ? &table->of_owner[a->owner.n]
                                             : &table->all[a->prev_of_owner].next_of_owner;

    *before = a->next_of_owner;
    table->all[a->next_of_owner].prev_of_owner = a->prev_of_owner;
    table->nof_owner[a->owner.n]--;
    table->checked.nof_owner[a->owner.n] -= number_of(table, a) < table->checked.end;
}

static void enter_span(adopt_table *table, adoption *a, page_no first)
{
    uint32_t *head = &table->heads[first.n];

    a->first = first;
    a->prev_of_span = 0;
    a->next_of_span = *head;
    table->all[*head].prev_of_span = number_of(table, a);
    *head = number_of(table, a);
}

static void leave_span(adopt_table *table, const adoption *a)
{
    uint32_t *before = a->prev_of_span == 0 ? &table->heads[a->first.n] : &table->all[a->prev_of_span].next_of_span;

    *before = a->next_of_span;
    table->all[a->next_of_span].prev_of_span = a->prev_of_span;
}

static void leave_bucket(adopt_table *table, const adoption *a)
{
    uint32_t *at = bucket_of(table, a->offset);

    while (*at != number_of(table, a))
        at = &table->all[*at].in_bucket;
    *at = a->in_bucket;
}

static void adoption_remove(adopt_table *table, adoption *a)
{
    shm_span *span = shm_span_at(table->map, a->first);

    entry_give_back(table, number_of(table, a) - 1);
    CRASH_POINT(adopt_remove_after_entry);
    u32_store_release(&span->nadopted, u32_load_relaxed(&span->nadopted) - 1);
    if (u32_load_relaxed(&span->nadopted) == 0 && u32_load_relaxed(&span->owner) == 0)
        u32_store_release(&span->has_kept, 0);
    set_free_limit(table, --table->count);
    CRASH_POINT(adopt_remove_after_counters);
    leave_bucket(table, a);
    leave_owner(table, a);
    leave_span(table, a);
    table->checked.count -= number_of(table, a) < table->checked.end;
    a->offset = 0;
}

/* The object at offset, of the span first, which has no adoption, has the one of that entry. */
static void adoption_add(adopt_table *table, uint64_t offset, page_no first, uint32_t entry, owner_no owner)
{
    adoption *a = &table->all[entry + 1];
    uint32_t *bucket = bucket_of(table, offset);

    assert(a->offset == 0);
    a->offset = offset;
    a->in_bucket = *bucket;
    *bucket = entry + 1;
    enter_owner(table, a, owner);
    enter_span(table, a, first);
    table->count++;
    table->checked.count += number_of(table, a) < table->checked.end;
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
        entry = number_of(table, a) - 1;
        leave_owner(table, a);
        enter_owner(table, a, owner);
    } else {
        if (!entry_take(table, &entry))
            return ADOPT_E_FULL;
        adoption_add(table, object->offset, object->first, entry, owner);
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
    while (table->heads[first.n] != 0)
        adoption_remove(table, &table->all[table->heads[first.n]]);
    assert(u32_load_relaxed(&shm_span_at(table->map, first)->nadopted) == 0);
}

/* True if the object at offset lives, and is still the one that was adopted. */
static bool is_same_object(const shm_map *map, uint64_t offset, object_ref *ret)
{
    return object_find(map, map->base + offset, ret) == OBJECT_LIVE && span_has_kept(shm_span_at(map, ret->first)) &&
           (u64_load_acquire(shm_kept_word(map, ret->first, ret->word)) & ret->bit) != 0;
}

bool adopt_pop(adopt_table *table, owner_no owner, object_ref *ret, bool *ret_lives)
{
    adoption *a = &table->all[table->of_owner[owner.n]];

    if (a == table->all)
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

void adopt_recover(adopt_table *table)
{
    uint32_t used = u32_load_relaxed(&table->private->nadoption_entries);

    for (uint32_t entry = 0; entry < used && entry < ADOPTIONS_MAX; entry++) {
        uint64_t offset = u64_load_relaxed(&table->private->adoptions[entry].offset);
        uint64_t who = u64_load_relaxed(&table->private->adoptions[entry].who);
        object_ref object;

        /* It counts if its owner is there, its object lives and was adopted, and no entry before names it. */
        if (offset == 0 || offset >= table->map->arena_bytes || !owner_lives(table->map, who >> 32, (uint32_t)who) ||
            !is_same_object(table->map, offset, &object) || adoption_find(table, offset) != NULL)
            entry_give_back(table, entry);
        else
            adoption_add(table, offset, object.first, entry, (owner_no){ (uint16_t)(who >> 32) });
    }
    /* Exactly the adoptions: set before the spans' own counters go down, so that clients go on looking. */
    set_free_limit(table, adopt_count(table));
}

void adopt_recover_span(adopt_table *table, page_no first)
{
    shm_span *span = shm_span_at(table->map, first);
    uint32_t n;

    if (u32_load_relaxed(&span->nadopted) == 0 && table->heads[first.n] == 0)
        return;
    n = adopt_count_span(table, first);
    u32_store_release(&span->nadopted, n);
    if (n == 0 && u32_load_relaxed(&span->owner) == 0)
        u32_store_release(&span->has_kept, 0);
}

/* --- looking --- */

uint32_t adopt_count(const adopt_table *table)
{
    return table->count;
}

uint32_t adopt_count_owner(const adopt_table *table, owner_no owner)
{
    return table->nof_owner[owner.n];
}

uint32_t adopt_count_span(const adopt_table *table, page_no first)
{
    uint32_t n = 0;

    for (uint32_t at = table->heads[first.n]; at != 0; at = table->all[at].next_of_span)
        n++;
    return n;
}

uint32_t adopt_look_steps(const adopt_table *table, uint64_t offset)
{
    uint32_t n = 0;

    for (uint32_t at = table->buckets[bucket_at(offset)]; at != 0; at = table->all[at].in_bucket)
        n++;
    return n;
}

/* --- checking --- */

static int differs(const adopt_table *table, uint32_t at, FILE *err)
{
    const adoption *a = &table->all[at];
    const private_adoption *entry = &table->private->adoptions[at - 1];

    (void)fprintf(err, "adopt: entry %u: 0x%llx of %llu; adoption of 0x%llx by owner %u in span %u\n", at - 1,
                  (unsigned long long)u64_load_relaxed(&entry->offset),
                  (unsigned long long)u64_load_relaxed(&entry->who) >> 32, (unsigned long long)a->offset, a->owner.n,
                  a->first.n);
    return -EUCLEAN;
}

/* True if both neighbours of the adoption in its owner's and its span's list name it. */
static bool is_linked(const adopt_table *table, uint32_t at)
{
    const adoption *a = &table->all[at];
    uint32_t by_owner =
        a->prev_of_owner == 0 ? table->of_owner[a->owner.n] : table->all[a->prev_of_owner].next_of_owner;
    uint32_t by_span = a->prev_of_span == 0 ? table->heads[a->first.n] : table->all[a->prev_of_span].next_of_span;

    return by_owner == at && by_span == at &&
           (a->next_of_owner == 0 || table->all[a->next_of_owner].prev_of_owner == at) &&
           (a->next_of_span == 0 || table->all[a->next_of_span].prev_of_span == at);
}

/* The entry and its adoption. 0, -EUCLEAN. */
static int validate_entry(adopt_table *table, uint32_t at, FILE *err)
{
    const adoption *a = &table->all[at];
    uint64_t offset = u64_load_relaxed(&table->private->adoptions[at - 1].offset);
    uint64_t who = u64_load_relaxed(&table->private->adoptions[at - 1].who);

    if (offset == 0 && a->offset == 0)
        return 0;
    if (offset != a->offset || who >> 32 != a->owner.n || adoption_find(table, offset) != a ||
        u32_load_relaxed(&table->map->page_map[offset >> PAGE_SHIFT]) != a->first.n || !is_linked(table, at))
        return differs(table, at, err);
    table->checked.count++;
    table->checked.nof_owner[a->owner.n]++;
    return 0;
}

void adopt_validate_begin(adopt_table *table)
{
    table->checked = (adopt_checked){ .end = 1 };
}

int adopt_validate_step(adopt_table *table, unsigned budget, FILE *err)
{
    uint64_t limit = u64_load_relaxed(&table->map->header->free_limit);

    for (; budget > 0; budget--) {
        if (table->checked.end > u32_load_relaxed(&table->private->nadoption_entries) ||
            table->checked.end > ADOPTIONS_MAX)
            break;
        if (validate_entry(table, table->checked.end, err) < 0)
            return -EUCLEAN;
        table->checked.end++;
    }
    if (budget == 0)
        return VALIDATE_E_MORE;
    for (uint32_t no = 0; no < SHM_OWNERS_MAX; no++) {
        if (table->checked.nof_owner[no] != table->nof_owner[no]) {
            (void)fprintf(err, "adopt: %u objects of owner %u, %u noted\n", table->checked.nof_owner[no], no,
                          table->nof_owner[no]);
            return -EUCLEAN;
        }
    }
    if (table->checked.count == table->count && limit == (table->count == 0 ? table->map->arena_bytes : 0))
        return 0;
    (void)fprintf(err, "adopt: %u objects, %u noted; frees look from 0x%llx on\n", table->checked.count, table->count,
                  (unsigned long long)limit);
    return -EUCLEAN;
}

int adopt_validate(adopt_table *table, FILE *err)
{
    adopt_validate_begin(table);
    return adopt_validate_step(table, UINT_MAX, err);
}

void adopt_dump(const adopt_table *table, FILE *out)
{
    uint32_t end = u32_load_relaxed(&table->private->nadoption_entries);

    for (uint32_t at = 1; at <= end && at <= ADOPTIONS_MAX; at++) {
        if (table->all[at].offset != 0)
            (void)fprintf(out, "adoption %u: object 0x%llx of owner %u\n", at - 1,
                          (unsigned long long)table->all[at].offset, table->all[at].owner.n);
    }
}
