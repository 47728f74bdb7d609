/*
 * Notes: a private table beside the arena, a word for each place of at least 16 bytes.
 *
 * Called by debug.c (places that are taken and freed) and shadow.c (spans that leave, fork, detach). Calls mapping.c
 * (memory). Data: the table, private. It is there only in the debug variant, once GOALLOC_DEBUG=1 has had an object
 * allocated.
 *
 *   table -> group (1 MiB of the arena) -> keys, one a page: the lease of the span that begins there
 *                                       -> words, one for each 16 bytes: the note of the place that begins there
 *
 * A note counts while the span's lease word and its nleases are those of the key. Both are the daemon's words, and no
 * two leases have both in common: when a span has been given back, offered and taken, or has ended with its session,
 * its notes mean nothing, though nobody has struck them out. A span that goes back has its key struck out all the same:
 * between that and the end of the lease, which the daemon writes, others may free its objects, and shadow.c has
 * permitted it already.
 *
 * Who writes: the thread that allocates in a span begins its notes (the words to 0, then the key), and no other thread
 * allocates there meanwhile; but in a marked span any thread does, so two may begin them at once, and the one may wipe
 * what the other has just noted. Such an object is one without a note: its free is not checked, and nothing is reported
 * of it. Who takes a place or frees its object writes its word; both have it to themselves then. A group, once made,
 * stays until a detach: threads that need one at the same time make two, and one of them wins.
 *
 * The child of a fork finds the groups zero, however it came about (mapping_private), so it knows nothing of its
 * parent's places, and checks nothing there. The table it finds as it was: by that it knows where something may have
 * been forbidden (shadow.c). If the process dies, its notes go with it.
 */
#include "client/lib/notes.h"

#include "client/lib/mapping.h"

#define GROUP_BYTES MIB
#define GROUP_PAGES (GROUP_BYTES / PAGE_BYTES)
#define PLACE_BYTES 16u

typedef struct span_key {
    shm_u64 lease;
    shm_u64 nleases;
} span_key;

typedef struct group {
    span_key keys[GROUP_PAGES];
    shm_u64 words[GROUP_BYTES / PLACE_BYTES];
} group;

typedef group *_Atomic group_pointer;

static group_pointer *_Atomic table;
static shm_u32 ended; /* for all spans */

static uint64_t ngroups(void)
{
    return (process.map.arena_bytes + GROUP_BYTES - 1) / GROUP_BYTES;
}

static uint64_t table_bytes(void)
{
    uint64_t bytes = ngroups() * sizeof(group_pointer);

    return (bytes + MAPPING_UNWIPED_UNIT - 1) / MAPPING_UNWIPED_UNIT * MAPPING_UNWIPED_UNIT;
}

static group_pointer *table_now(void)
{
    return atomic_load_explicit(&table, memory_order_acquire);
}

/* The table, made if need be. NULL: no memory. */
static group_pointer *table_make(void)
{
    group_pointer *now = table_now();
    void *p;

    if (now != NULL || mapping_private(table_bytes(), table_bytes(), &p) < 0)
        return now;
    if (atomic_compare_exchange_strong_explicit(&table, &now, p, memory_order_acq_rel, memory_order_acquire))
        return p;
    mapping_delete(p, table_bytes());
    return now;
}

static group *group_at(uint64_t offset)
{
    group_pointer *all = table_now();

    return all == NULL ? NULL : atomic_load_explicit(&all[offset / GROUP_BYTES], memory_order_acquire);
}

/* The same, made if need be. */
static group *group_make(uint64_t offset)
{
    group *now = group_at(offset);
    group_pointer *all;
    void *p;

    if (now != NULL || (all = table_make()) == NULL || mapping_private(sizeof(group), 0, &p) < 0)
        return now;
    if (atomic_compare_exchange_strong_explicit(&all[offset / GROUP_BYTES], &now, p, memory_order_acq_rel,
                                                memory_order_acquire))
        return p;
    mapping_delete(p, sizeof(group));
    return now;
}

static span_key *key_of(group *g, page_no first)
{
    return &g->keys[first.n % GROUP_PAGES];
}

static shm_u64 *word_of(group *g, uint64_t offset)
{
    return &g->words[offset % GROUP_BYTES / PLACE_BYTES];
}

/* True if the notes are those of the span's present lease. */
static bool is_current(span_key *key, const shm_span *span)
{
    uint64_t lease = u64_load_acquire(&key->lease); /* pairs with begin() */

    return lease != 0 && u32_load_acquire(&ended) == 0 && lease == u64_load_acquire(&span->lease) &&
           u64_load_relaxed(&key->nleases) == u64_load_relaxed(&span->nleases);
}

shm_u64 *notes_find(const object_ref *object)
{
    group *at_span = group_at(page_offset(object->first));
    group *at_object = group_at(object->offset);

    if (at_span == NULL || at_object == NULL ||
        !is_current(key_of(at_span, object->first), shm_span_at(&process.map, object->first)))
        return NULL;
    return word_of(at_object, object->offset);
}

/*
 * The notes of a span begin. False: no memory. There are groups for all of its bytes, also where they hold no note: by
 * the groups it is known where something may be forbidden.
 */
static bool begin(span_key *key, page_no first, const shm_span *span)
{
    uint64_t end = page_offset(first) + span->npages * PAGE_BYTES;
    uint64_t words_end = span->nelems == 1 ? page_offset(first) + PLACE_BYTES : end; /* one object, one word */

    u64_store_release(&key->lease, 0);
    for (uint64_t at = page_offset(first); at < end; at += GROUP_BYTES - at % GROUP_BYTES) {
        if (group_make(at) == NULL)
            return false;
    }
    for (uint64_t at = page_offset(first); at < words_end; at += PLACE_BYTES)
        u64_store_relaxed(word_of(group_at(at), at), NOTE_NONE);
    u64_store_relaxed(&key->nleases, u64_load_relaxed(&span->nleases));
    u64_store_release(&key->lease, u64_load_acquire(&span->lease));
    return true;
}

shm_u64 *notes_begin(const object_ref *object)
{
    const shm_span *span = shm_span_at(&process.map, object->first);
    group *at_span = group_make(page_offset(object->first));
    span_key *key;

    if (at_span == NULL || !process_leases(span) || u32_load_acquire(&ended) != 0)
        return NULL;
    key = key_of(at_span, object->first);
    if (!is_current(key, span) && !begin(key, object->first, span))
        return NULL;
    return notes_find(object);
}

void notes_end(page_no first)
{
    group *g = group_at(page_offset(first));

    if (g != NULL)
        u64_store_release(&key_of(g, first)->lease, 0);
    fence_seq_cst(); /* pairs with that of who forbids */
}

void notes_end_all(void)
{
    u32_store_release(&ended, 1);
    fence_seq_cst(); /* the same */
}

void notes_resume(void)
{
    u32_store_release(&ended, 0);
}

void notes_each_piece(void (*visit)(uint64_t offset, uint64_t bytes))
{
    group_pointer *all = table_now();

    for (uint64_t i = 0; all != NULL && i < ngroups(); i++) {
        if (atomic_load_explicit(&all[i], memory_order_acquire) != NULL)
            visit(i * GROUP_BYTES, GROUP_BYTES);
    }
}

void notes_forget(void)
{
    group_pointer *all = table_now();

    if (all == NULL)
        return;
    for (uint64_t i = 0; i < ngroups(); i++)
        mapping_delete(atomic_load_explicit(&all[i], memory_order_acquire), sizeof(group));
    atomic_store_explicit(&table, NULL, memory_order_release);
    mapping_delete(all, table_bytes());
}
