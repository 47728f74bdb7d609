/*
 * Entries: locks, slots and free lists below the references of arrays. The essay is in _numpy_refs.c; here is what it
 * calls a stripe, an entry, a slot, and repair.
 */
#include "_numpy_entries.h"

#include <Python.h>
#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include <goalloc.h>

#include "link.h"

#define CHUNKS_MAX (1U << 16) /* of an entry: a circle that somebody has scribbled ends, too */
#define LOCK_MS 5000
#define LEAST_PAUSE_NS 20000L
#define MOST_PAUSE_NS 1000000L

refs_process refs_self = { .holder = NONE };

/* --- locks --- */

static int64_t now_ms(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* A thread has a mutex with the GIL, and keeps the GIL until it unlocks; only with `members` it may wait for the GIL,
 * at one stripe after the other. So a mutex takes long where another thread keeps the GIL from its holder, in this
 * process too: nobody waits for one with the GIL. This tries, and sleeps in between without. */
int mutex_lock(pthread_mutex_t *mutex, int *ret_died)
{
    int r = pthread_mutex_trylock(mutex);

    *ret_died = 0;
    if (r == EBUSY) {
        const int64_t end = now_ms() + LOCK_MS;
        struct timespec pause = { .tv_nsec = LEAST_PAUSE_NS };

        while (r == EBUSY && now_ms() < end) {
            PyThreadState *thread = refs_self.is_leaving ? NULL : PyEval_SaveThread();
            (void)nanosleep(&pause, NULL);
            if (thread != NULL)
                PyEval_RestoreThread(thread);
            if (pause.tv_nsec < MOST_PAUSE_NS)
                pause.tv_nsec *= 2;
            r = pthread_mutex_trylock(mutex);
        }
    }
    if (r == EOWNERDEAD) {
        *ret_died = 1;
        r = pthread_mutex_consistent(mutex);
    }
    return r == EBUSY ? -ETIMEDOUT : -r;
}

void mutex_unlock(pthread_mutex_t *mutex)
{
    (void)pthread_mutex_unlock(mutex);
}

/* --- entries --- */

refs_entry *stripe_entry(const refs_stripe *stripe, uint64_t position)
{
    const uint64_t slab = position / SLAB_ENTRIES;

    if (slab >= SLABS || stripe->shm_slabs[slab] == NULL)
        return NULL;
    return (refs_entry *)stripe->shm_slabs[slab] + position % SLAB_ENTRIES;
}

refs_stripe *stripe_of(uint64_t index)
{
    return &refs_self.directory->stripes[index % STRIPES];
}

int entry_is_alive(const refs_entry *e)
{
    return (e->shm_state & 1) != 0;
}

slot_walk walk_of(refs_entry *e)
{
    return (slot_walk){ .entry = e };
}

uint64_t *walk_next(slot_walk *w)
{
    if (w->chunk == NULL && w->next < ENTRY_SLOTS)
        return &w->entry->shm_slots[w->next++];
    if (w->chunk != NULL && w->next < CHUNK_SLOTS)
        return &w->chunk->shm_slots[w->next++];
    refs_chunk *more = w->chunk != NULL ? w->chunk->shm_more : w->entry->shm_more;
    if (more == NULL || goalloc_usable_size(more) < sizeof(*more) || w->nchunks++ == CHUNKS_MAX)
        return NULL;
    w->chunk = more;
    w->next = 1;
    return &more->shm_slots[0];
}

uint64_t *slot_find(refs_entry *e, uint64_t value)
{
    slot_walk w = walk_of(e);
    uint64_t *slot;

    while ((slot = walk_next(&w)) != NULL)
        if (*slot == value)
            return slot;
    return NULL;
}

uint64_t *slot_find_kind(refs_entry *e, uint64_t kind)
{
    slot_walk w = walk_of(e);
    uint64_t *slot;

    while ((slot = walk_next(&w)) != NULL)
        if ((*slot & SLOT_KIND) == kind)
            return slot;
    return NULL;
}

uint64_t *slot_find_name(refs_entry *e)
{
    uint64_t *slot = slot_find_kind(e, SLOT_NAMED);

    return slot != NULL ? slot : slot_find_kind(e, SLOT_NAMING);
}

int slot_same_naming(uint64_t a, uint64_t b)
{
    return ((a ^ b) & SLOT_NAMING_NUMBER) == 0;
}

void slot_set_named(uint64_t *slot)
{
    word_store(slot, SLOT_NAMED | (*slot & SLOT_NAMING_NUMBER));
}

int entry_has_slots(refs_entry *e)
{
    slot_walk w = walk_of(e);
    uint64_t *slot;

    while ((slot = walk_next(&w)) != NULL)
        if (*slot != SLOT_EMPTY)
            return 1;
    return 0;
}

/* One aligned store: readers after a death find the old word or the new one. */
void word_store(uint64_t *word, uint64_t value)
{
    __atomic_store_n(word, value, __ATOMIC_SEQ_CST);
}

/* Store value into an empty slot; there is one, or a chunk is added. */
int slot_add(refs_entry *e, uint64_t value)
{
    slot_walk w = walk_of(e);
    uint64_t *slot;
    refs_chunk *chunk;
    int r;

    while ((slot = walk_next(&w)) != NULL)
        if (*slot == SLOT_EMPTY) {
            word_store(slot, value);
            return 0;
        }
    chunk = goalloc_calloc_noscan(1, sizeof(*chunk));
    if (chunk == NULL)
        return -errno;
    r = link_patiently(w.chunk != NULL ? &w.chunk->shm_more : &e->shm_more, chunk);
    if (r < 0) {
        goalloc_free(chunk);
        return r;
    }
    word_store(&chunk->shm_slots[0], value);
    return 0;
}

/* Free the object that *word points to; a word that is no object's address is cleared. */
int word_unlink(void **word, void *next)
{
    return *word != NULL ? unlink_patiently(word, next) : 0;
}

void stripe_push(refs_stripe *stripe, refs_entry *e, uint64_t position)
{
    e->shm_next_free = stripe->shm_first_free;
    stripe->shm_first_free = position + 1;
}

/* Nobody refers to the entry: free what it has. After an error the stripe is dirty, and repair goes on. */
int entry_free(refs_stripe *stripe, refs_entry *e, uint64_t position)
{
    int r = word_unlink(&e->shm_block, NULL);

    if (r == 0)
        r = word_unlink(&e->shm_meta, NULL);
    for (uint32_t n = 0; r == 0 && e->shm_more != NULL && n < CHUNKS_MAX; n++) {
        const refs_chunk *chunk = e->shm_more;
        void *next = goalloc_usable_size(chunk) >= sizeof(*chunk) ? chunk->shm_more : NULL;
        r = word_unlink(&e->shm_more, next == e->shm_more ? NULL : next);
    }
    if (r < 0) {
        word_store(&stripe->shm_dirty, 1);
        return r;
    }
    word_store(&e->shm_state, ((e->shm_state >> 1) + 1) << 1);
    stripe_push(stripe, e, position);
    return 0;
}

/* A living entry has one slot of a name and a meta object, or neither. */
static void repair_name(refs_entry *e)
{
    uint64_t *slot = slot_find_name(e);

    if (slot == NULL)
        (void)word_unlink(&e->shm_meta, NULL);
    for (; slot != NULL && e->shm_meta == NULL; slot = slot_find_name(e))
        word_store(slot, SLOT_EMPTY);
}

/* Somebody has died within the stripe, or something could not be freed. */
static int stripe_repair(refs_stripe *stripe)
{
    refs_entry *e;
    int r = goalloc_settle();

    if (r < 0)
        return r;
    stripe->shm_first_free = 0;
    word_store(&stripe->shm_dirty, 0);
    for (uint64_t position = 0; (e = stripe_entry(stripe, position)) != NULL; position++) {
        if (!entry_is_alive(e))
            memset(e->shm_slots, 0, sizeof(e->shm_slots)); /* of a creation that was not finished */
        else {
            repair_name(e);
            if (entry_has_slots(e))
                continue;
        }
        if (entry_free(stripe, e, position) < 0)
            r = -EAGAIN;
    }
    return r == -EAGAIN ? 0 : r; /* what stays dirty is nobody's; the rest of the stripe is whole */
}

int stripe_lock(refs_stripe *stripe)
{
    int died, r = mutex_lock(&stripe->mutex, &died);

    if (r < 0)
        return r;
    if (died)
        word_store(&stripe->shm_dirty, 1);
    if (stripe->shm_dirty != 0 && (r = stripe_repair(stripe)) < 0) {
        word_store(&stripe->shm_dirty, 1);
        mutex_unlock(&stripe->mutex);
    }
    return r;
}

/* Lock the stripe of a living entry. -ENOENT: it is not that one any more. */
int entry_lock(refs_id id, refs_entry **ret)
{
    refs_stripe *stripe = stripe_of(id.index);
    refs_entry *e;
    int r = stripe_lock(stripe);

    if (r < 0)
        return r;
    e = stripe_entry(stripe, id.index / STRIPES);
    if (e == NULL || e->shm_state != (id.generation << 1 | 1)) {
        mutex_unlock(&stripe->mutex);
        return -ENOENT;
    }
    *ret = e;
    return 0;
}

void entry_unlock(refs_id id)
{
    mutex_unlock(&stripe_of(id.index)->mutex);
}

/* Empty a slot; the last one takes the entry along, now or when the stripe is repaired. */
void slot_drop(refs_id id, refs_entry *e, uint64_t *slot)
{
    word_store(slot, SLOT_EMPTY);
    if (!entry_has_slots(e))
        (void)entry_free(stripe_of(id.index), e, id.index / STRIPES);
}

void slot_drop_name(refs_id id, refs_entry *e, uint64_t *slot)
{
    if (word_unlink(&e->shm_meta, NULL) < 0)
        word_store(&stripe_of(id.index)->shm_dirty, 1); /* the next one goes on */
    slot_drop(id, e, slot);
}

int stripe_grow(refs_stripe *stripe)
{
    uint32_t slab = 0;
    refs_entry *entries;
    int r;

    while (slab < SLABS && stripe->shm_slabs[slab] != NULL)
        slab++;
    if (slab == SLABS)
        return -ENOSPC;
    entries = goalloc_calloc(SLAB_ENTRIES, sizeof(*entries));
    if (entries == NULL)
        return -errno;
    r = link_patiently(&stripe->shm_slabs[slab], entries);
    if (r < 0) {
        goalloc_free(entries);
        return r;
    }
    for (uint32_t i = SLAB_ENTRIES; i-- > 0;)
        stripe_push(stripe, &entries[i], (uint64_t)slab * SLAB_ENTRIES + i);
    return 0;
}

int entry_of_address(const void *p, uint64_t *ret_index)
{
    const uintptr_t address = (uintptr_t)p;

    for (uint32_t s = 0; s < STRIPES; s++)
        for (uint32_t slab = 0; slab < SLABS && refs_self.directory->stripes[s].shm_slabs[slab] != NULL; slab++) {
            const uintptr_t from = (uintptr_t)refs_self.directory->stripes[s].shm_slabs[slab];
            if (address - from < SLAB_ENTRIES * sizeof(refs_entry)) {
                if ((address - from) % sizeof(refs_entry) != 0)
                    return -EINVAL;
                *ret_index = ((uint64_t)slab * SLAB_ENTRIES + (address - from) / sizeof(refs_entry)) * STRIPES + s;
                return 0;
            }
        }
    return -EINVAL;
}
