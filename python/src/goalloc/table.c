/*
 * table: a hash table in the heap that all processes use, and that a death at any instruction leaves whole.
 *
 * Called by dict.c (entries of bytes), block.c (memory that several processes hold) and segment.c (names of it);
 * buffer_names.c opens the last one's table. Calls link.c, libgoalloc, pthread and xxhash. Data, all in the heap: the
 * table (a root: it is never freed, since its mutexes are not), for each stripe an array of places, and the entries.
 *
 *   table -> stripe (mutex, count, bytes) -> places {entry, hash} ... -> entry {replaced, key, value}
 *
 * The top of a key's hash says which stripe, its bottom at which place the search begins; it goes on to the next place
 * until it has the entry, or one that was never used. An entry in the table never changes: a new value is a new entry.
 * A stripe's array is at most three quarters full; then there is a new one, twice as long as the entries need.
 *
 * Nobody waits for the daemon with a lock: entries and arrays are allocated before. The only exceptions are
 * goalloc_settle() after a death, and goalloc_link() as far as goalloc.h says that it may.
 *
 * Stores, all by the holder of the stripe's mutex, and what is true if it dies behind each:
 *
 *   store a new key     is_open = 1     nothing has changed
 *                       place.hash      the place has no entry: nobody looks at its hash
 *                       place.entry     by goalloc_link(): the entry is in the table and the heap's, both or neither
 *                       count, bytes    the repair counts anew
 *                       is_open = 0     done
 *   store a value       is_open, entry.replaced = the old entry, place.entry by goalloc_link(): the new value is the
 *                       key's; then goalloc_unlink_free(entry.replaced): the old entry is free. Between the two the
 *                       repair finds `replaced`, and frees it: once
 *   remove              is_open, place.entry = TOMB by goalloc_unlink_free(): gone and free, both or neither
 *   a new array         is_open, new.replaced = the old one, stripe.places by goalloc_link(), then
 *                       goalloc_unlink_free(new.replaced); the entries are in both arrays, and in the new one alone
 *                       when the old one is free
 *
 * Who locks and finds is_open repairs, whether the mutex tells of a death or not (a repair may itself have failed for
 * want of a daemon): goalloc_settle(), then `replaced` of the array and of all entries, then the counts. That takes
 * some ten nanoseconds an entry of the stripe, after a death only. -ESTALE (the heap is nobody's any more) does not
 * keep a process from the table: nobody will change a word of it behind its back.
 *
 * What is lost: nothing that is in the table. A process without GOALLOC_ATTACH_RECLAIM that dies before its
 * goalloc_link() leaves the entry that it had allocated, as after any malloc.
 *
 * Eviction, if the table has a limit: each stripe has its share of it. A store that is above it takes entries out,
 * where a hand goes round the places and passes over who was read since it came by last (second chance).
 */
#include "table.h"

#include <errno.h>
#include <goalloc.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "link.h"

#define TABLE_MAGIC UINT64_C(0x31656c6261746f67) /* "gotable1" */
#define TABLE_TAG (UINT64_C(0x0001676f7461626c) | GOALLOC_ROOT_REINIT)
#define TOMB ((void *)(uintptr_t)1)
#define PLACES_MIN 16u
#define STRIPE_SHARE (UINT64_C(1) << 20) /* of a limit, that is worth a stripe of its own */
#define SLICE_MS 50                      /* of a wait for a mutex, between looks */

/* --- the table --- */

static int mutexes_init(table *t)
{
    pthread_mutexattr_t attr;
    int r = pthread_mutexattr_init(&attr);

    if (r != 0)
        return -r;
    r = pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    if (r == 0)
        r = pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
    for (size_t i = 0; i < TABLE_STRIPES_MAX && r == 0; i++)
        r = pthread_mutex_init(&t->stripes[i].mutex, &attr);
    (void)pthread_mutexattr_destroy(&attr);
    return -r;
}

/* A new table, or one that was loaded with a heap's image: its mutexes may have holders that never were. */
static int table_init(void *p, size_t size, void *arg)
{
    const uint64_t *max_bytes = arg;
    table *t = p;

    (void)size;
    if (t->magic == TABLE_MAGIC) {
        for (size_t i = 0; i < TABLE_STRIPES_MAX; i++)
            atomic_store(&t->stripes[i].is_open, 1);
        return mutexes_init(t);
    }
    if (getrandom(&t->seed, sizeof(t->seed), 0) != (ssize_t)sizeof(t->seed))
        return -EIO;
    t->max_bytes = *max_bytes;
    t->nstripes = TABLE_STRIPES_MAX;
    while (t->max_bytes != 0 && t->nstripes > 1 && t->max_bytes / t->nstripes < STRIPE_SHARE)
        t->nstripes /= 2;
    t->magic = TABLE_MAGIC;
    return mutexes_init(t);
}

int table_open(const char *root, uint64_t max_bytes, table **ret)
{
    void *p;
    int r = goalloc_root_get_or_create(root, sizeof(table), TABLE_TAG, table_init, &max_bytes, &p, NULL);

    if (r < 0)
        return r;
    *ret = p;
    return 0;
}

uint64_t table_hash(const table *t, const void *key, size_t len)
{
    return XXH3_64bits_withSeed(key, len, t->seed);
}

static stripe *stripe_of(table *t, uint64_t hash)
{
    return &t->stripes[(hash >> 48) & (t->nstripes - 1)];
}

/* --- entries --- */

entry *entry_new(const table *t, const void *key, size_t key_len, size_t value_room)
{
    entry *e;

    if (key_len > TABLE_KEY_MAX || value_room > SIZE_MAX / 2) {
        errno = ENOMEM;
        return NULL;
    }
    e = goalloc_malloc(sizeof(*e) + key_len + value_room);
    if (e == NULL)
        return NULL;
    memset(e, 0, sizeof(*e));
    e->key_at = sizeof(*e);
    e->key_len = (uint32_t)key_len;
    e->value_len = value_room;
    e->hash = table_hash(t, key, key_len);
    memcpy(entry_key(e), key, key_len);
    return e;
}

void entry_free(entry *e)
{
    goalloc_free(e);
}

/* What an entry counts as: its own bytes, and what places and rounding take besides, about. */
static uint64_t entry_bytes(const entry *e)
{
    return (e->key_at + e->key_len + e->value_len + 15u) / 16u * 16u + 2 * sizeof(place);
}

/* --- lock and repair --- */

void table_open_change(stripe *s)
{
    atomic_store_explicit(&s->is_open, 1, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst); /* for a death: before what follows */
}

void table_close_change(stripe *s)
{
    if (s->places != NULL && s->places->replaced != NULL)
        return; /* an array that could not be freed: a later change within this lock does not hide it */
    atomic_signal_fence(memory_order_seq_cst);
    atomic_store_explicit(&s->is_open, 0, memory_order_relaxed);
}

static bool is_entry(const void *p)
{
    return p != NULL && p != TOMB;
}

static void add(_Atomic uint64_t *word, uint64_t n)
{
    /* One writer, with the lock: a plain sum. */
    atomic_store_explicit(word, atomic_load_explicit(word, memory_order_relaxed) + n, memory_order_relaxed);
}

/* All tombs go when nothing else is there. */
static void sweep_tombs(stripe *s)
{
    for (uint64_t i = 0; i < s->places->n; i++)
        s->places->at[i].entry = NULL;
    s->ntombs = 0;
}

static int stripe_repair(stripe *s)
{
    uint64_t count = 0, bytes = 0, ntombs = 0;
    int r = goalloc_settle();

    if (r < 0 && r != -ESTALE)
        return r;
    r = 0;
    if (s->places != NULL && s->places->replaced != NULL)
        r = unlink_patiently(&s->places->replaced, NULL);
    for (uint64_t i = 0; s->places != NULL && i < s->places->n && r == 0; i++) {
        entry *e = s->places->at[i].entry;

        if (!is_entry(e)) {
            ntombs += e != NULL;
            continue;
        }
        if (e->replaced != NULL)
            r = unlink_patiently(&e->replaced, NULL);
        count++;
        bytes += entry_bytes(e);
    }
    if (r < 0)
        return r;
    atomic_store(&s->count, count);
    atomic_store(&s->bytes, bytes);
    s->ntombs = ntombs;
    if (count == 0 && ntombs > 0)
        sweep_tombs(s);
    table_close_change(s);
    return 0;
}

/* In slices: of a waiter that is killed just after it was woken nobody else hears (client/GUIDE.md). */
static int mutex_await(pthread_mutex_t *mutex, int wait_ms)
{
    struct timespec until;
    int r;

    do {
        (void)clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += (wait_ms < SLICE_MS ? wait_ms : SLICE_MS) * 1000000L;
        if (until.tv_nsec >= 1000000000L) {
            until.tv_sec++;
            until.tv_nsec -= 1000000000L;
        }
        r = pthread_mutex_clocklock(mutex, CLOCK_MONOTONIC, &until);
        wait_ms -= SLICE_MS;
    } while (r == ETIMEDOUT && wait_ms > 0);
    return r;
}

static int mutex_take(pthread_mutex_t *mutex, int wait_ms)
{
    int r = pthread_mutex_trylock(mutex);

    if (r == EBUSY && wait_ms > 0)
        r = mutex_await(mutex, wait_ms);
    if (r == EOWNERDEAD)
        r = pthread_mutex_consistent(mutex); /* is_open says what there is to do */
    return r == ETIMEDOUT ? -EBUSY : -r;
}

int table_lock_stripe(stripe *s, int wait_ms)
{
    int r = mutex_take(&s->mutex, wait_ms);

    if (r == 0 && atomic_load_explicit(&s->is_open, memory_order_relaxed) != 0) {
        r = wait_ms > 0 ? stripe_repair(s) : -EBUSY; /* a repair may wait for the daemon */
        if (r < 0)
            (void)pthread_mutex_unlock(&s->mutex);
    }
    return r;
}

int table_lock(table *t, uint64_t hash, int wait_ms, stripe **ret)
{
    *ret = stripe_of(t, hash);
    return table_lock_stripe(*ret, wait_ms);
}

void table_unlock(stripe *s)
{
    (void)pthread_mutex_unlock(&s->mutex);
}

/* --- with the lock --- */

uint64_t table_nplaces(const stripe *s)
{
    return s->places != NULL ? s->places->n : 0;
}

entry *table_at(stripe *s, uint64_t index)
{
    void *e = s->places->at[index].entry;

    return is_entry(e) ? e : NULL;
}

/* The entry of the key, or NULL; *ret_index is its place, or where one may be stored (if there is an array). */
static entry *search(stripe *s, uint64_t hash, const void *key, size_t key_len, uint64_t *ret_index)
{
    uint64_t free_index = UINT64_MAX;
    uint64_t mask;

    if (s->places == NULL)
        return NULL;
    mask = s->places->n - 1;
    for (uint64_t i = hash & mask, n = 0; n <= mask; i = (i + 1) & mask, n++) {
        place *p = &s->places->at[i];
        entry *e = p->entry;

        if (e == NULL) {
            *ret_index = free_index != UINT64_MAX ? free_index : i;
            return NULL;
        }
        if (e == TOMB) {
            free_index = free_index == UINT64_MAX ? i : free_index;
        } else if (p->hash == hash && e->key_len == key_len && memcmp(entry_key(e), key, key_len) == 0) {
            *ret_index = i;
            return e;
        }
    }
    *ret_index = free_index;
    return NULL;
}

entry *table_find(stripe *s, uint64_t hash, const void *key, size_t key_len, uint64_t *ret_index)
{
    return search(s, hash, key, key_len, ret_index);
}

int table_remove(stripe *s, uint64_t index)
{
    place *p = &s->places->at[index];
    uint64_t bytes = entry_bytes(p->entry);
    bool ends_search = s->places->at[(index + 1) & (s->places->n - 1)].entry == NULL;
    int r;

    table_open_change(s);
    r = unlink_patiently(&p->entry, ends_search ? NULL : TOMB);
    if (r == 0) {
        add(&s->count, (uint64_t)-1);
        add(&s->bytes, -bytes);
        s->ntombs += !ends_search;
    }
    table_close_change(s);
    return r;
}

int table_clear_stripe(stripe *s)
{
    int r = 0;

    if (s->places == NULL)
        return 0;
    for (uint64_t i = 0; i < s->places->n && r == 0; i++)
        if (table_at(s, i) != NULL)
            r = table_remove(s, i);
    if (r == 0 && s->ntombs > 0) {
        table_open_change(s);
        sweep_tombs(s);
        table_close_change(s);
    }
    return r;
}

/* --- store --- */

/* True if one more entry fits. */
static bool has_place(const stripe *s)
{
    return s->places != NULL &&
           (atomic_load_explicit(&s->count, memory_order_relaxed) + s->ntombs + 1) * 4 <= s->places->n * 3;
}

static places *places_new(uint64_t count)
{
    uint64_t n = PLACES_MIN;
    places *fresh;

    while (n < (count + 1) * 2)
        n *= 2;
    fresh = goalloc_calloc(1, sizeof(*fresh) + n * sizeof(place));
    if (fresh != NULL)
        fresh->n = n;
    return fresh;
}

static int move_to(stripe *s, places *fresh)
{
    places *old = s->places;
    int r;

    for (uint64_t i = 0; old != NULL && i < old->n; i++) {
        const place *p = &old->at[i];
        uint64_t j;

        if (!is_entry(p->entry))
            continue;
        for (j = p->hash & (fresh->n - 1); fresh->at[j].entry != NULL; j = (j + 1) & (fresh->n - 1))
            ;
        fresh->at[j] = *p;
    }
    fresh->replaced = old;
    table_open_change(s);
    r = link_patiently(&s->places, fresh);
    if (r == 0) {
        s->ntombs = 0;
        s->hand = 0;
        if (old != NULL && unlink_patiently(&fresh->replaced, NULL) < 0)
            return 0; /* is_open stays: the next one repairs */
    }
    table_close_change(s);
    return r;
}

/* Take one entry out, but not the one at `keep`. 0 or a negative errno; 1: there is none to take. */
static int evict(stripe *s, uint64_t keep)
{
    for (uint64_t looks = 0; looks < 2 * s->places->n; looks++) {
        uint64_t i = s->hand++ & (s->places->n - 1);
        entry *e = table_at(s, i);

        if (e == NULL || i == keep)
            continue;
        if (atomic_load_explicit(&e->is_used, memory_order_relaxed) == 0)
            return table_remove(s, i);
        atomic_store_explicit(&e->is_used, 0, memory_order_relaxed);
    }
    return 1;
}

static int put(stripe *s, entry *e, entry *old, uint64_t index)
{
    place *p = &s->places->at[index];
    bool was_tomb = p->entry == TOMB;
    uint64_t old_bytes = old != NULL ? entry_bytes(old) : 0;
    int r;

    table_open_change(s);
    e->replaced = old;
    p->hash = e->hash;
    r = link_patiently(&p->entry, e);
    if (r == 0) {
        s->ntombs -= was_tomb;
        add(&s->bytes, entry_bytes(e) - old_bytes);
        add(&s->count, old == NULL);
        if (old != NULL && unlink_patiently(&e->replaced, NULL) < 0)
            return 0; /* the entry is in; is_open stays, so the next one repairs */
    }
    table_close_change(s);
    return r;
}

/* What can't be evicted now, for want of somebody who answers, the next store evicts. */
static void keep_within(stripe *s, uint64_t share, uint64_t index)
{
    while (share != 0 && atomic_load_explicit(&s->bytes, memory_order_relaxed) > share &&
           atomic_load_explicit(&s->is_open, memory_order_relaxed) == 0)
        if (evict(s, index) != 0)
            break;
}

int table_store(table *t, entry *e, int wait_ms, table_decide_fn decide, void *arg)
{
    uint64_t share = t->max_bytes / t->nstripes;
    places *fresh = NULL;
    stripe *s;
    int r;

    for (;;) {
        uint64_t count, index = 0;
        entry *old;
        bool is_short;

        r = table_lock(t, e->hash, wait_ms, &s);
        if (r < 0)
            break;
        count = atomic_load_explicit(&s->count, memory_order_relaxed);
        is_short = !has_place(s);
        if (is_short && fresh != NULL && fresh->n >= (count + 1) * 2) {
            r = move_to(s, fresh);
            if (r == 0)
                fresh = NULL;
            is_short = false;
        }
        if (is_short) { /* memory before the lock */
            table_unlock(s);
            if (fresh != NULL)
                goalloc_free(fresh);
            fresh = places_new(count);
            if (fresh == NULL)
                return -errno;
            continue;
        }
        old = r == 0 ? search(s, e->hash, entry_key(e), e->key_len, &index) : NULL;
        if (r == 0)
            r = decide != NULL ? decide(old, e, arg) : 1;
        if (r == 1 && share != 0 && entry_bytes(e) > share)
            r = -EFBIG;
        if (r == 1) {
            r = put(s, e, old, index);
            if (r == 0) {
                keep_within(s, share, index);
                r = 1;
            }
        }
        table_unlock(s);
        break;
    }
    if (fresh != NULL)
        goalloc_free(fresh);
    return r;
}

uint64_t table_count(table *t)
{
    uint64_t n = 0;

    for (uint64_t i = 0; i < t->nstripes; i++)
        n += atomic_load_explicit(&t->stripes[i].count, memory_order_relaxed);
    return n;
}

uint64_t table_bytes(table *t)
{
    uint64_t n = 0;

    for (uint64_t i = 0; i < t->nstripes; i++)
        n += atomic_load_explicit(&t->stripes[i].bytes, memory_order_relaxed);
    return n;
}
