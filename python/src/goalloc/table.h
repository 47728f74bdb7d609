/* table: a hash table in the heap, for all processes; table.c says how it survives deaths. No Python here. */
#ifndef GOALLOC_TABLE_H
#define GOALLOC_TABLE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TABLE_STRIPES_MAX 64u
#define TABLE_NAME_MAX 200u /* bytes of a table's name, so that the root's name fits */
#define TABLE_KEY_MAX (1u << 30)

typedef struct entry {
    struct entry *replaced; /* what this entry has taken the place of, and is to be freed; else NULL */
    uint64_t hash;
    uint64_t value_len;
    uint32_t key_len;
    uint16_t key_at;      /* the key's distance from the entry */
    atomic_uchar is_used; /* since the hand of eviction came by */
    uint8_t pad;
} entry;

_Static_assert(sizeof(entry) == 32, "an entry's head");

typedef struct place {
    void *entry;   /* NULL: never used since the array was made; TOMB: an entry was here; else an entry */
    uint64_t hash; /* of the entry; without meaning for the others */
} place;

typedef struct places {
    struct places *replaced;
    uint64_t n; /* a power of two */
    place at[];
} places;

typedef struct stripe {
    pthread_mutex_t mutex;         /* robust, process-shared: guards all below, and the entries */
    atomic_uint is_open;           /* 1: somebody is, or was when he died, at a change: repair before use */
    uint32_t hand;                 /* of eviction: a place */
    places *places;                /* NULL: nothing was ever stored here */
    _Atomic uint64_t count, bytes; /* of entries; read without the lock as well, for len() */
    uint64_t ntombs;
    uint64_t pad[11 - sizeof(pthread_mutex_t) / 8]; /* a mutex has 40 bytes on x86-64, and 48 on arm64 */
} stripe;

_Static_assert(sizeof(stripe) == 128, "two cache lines, so that stripes don't share one");

typedef struct table {
    uint64_t magic;
    uint64_t seed;      /* of the hash: who sends keys does not know it */
    uint64_t max_bytes; /* 0: no limit */
    uint64_t nstripes;  /* a power of two */
    uint64_t pad[12];
    stripe stripes[TABLE_STRIPES_MAX];
} table;

/* The table of that name, made if it is not there (max_bytes is its maker's). 0 or a negative errno. */
int table_open(const char *root, uint64_t max_bytes, table **ret);

/* An entry with its key and room for a value, or NULL with errno. entry_free() frees one that is in no table. */
entry *entry_new(const table *t, const void *key, size_t key_len, size_t value_room);
void entry_free(entry *e);

static inline char *entry_key(entry *e)
{
    return (char *)e + e->key_at;
}

static inline char *entry_value(entry *e)
{
    return entry_key(e) + e->key_len;
}

uint64_t table_hash(const table *t, const void *key, size_t len);

/*
 * Lock the key's stripe, and repair it if somebody has died in it. wait_ms 0: don't wait, nor
 * repair. 0; -EBUSY: not within that time; or an error of goalloc_settle(): then it is not locked.
 */
int table_lock(table *t, uint64_t hash, int wait_ms, stripe **ret);
int table_lock_stripe(stripe *s, int wait_ms);
void table_unlock(stripe *s);

/* Below, the caller has the stripe's lock. */

/* NULL: there is none. *ret_index is where it is. */
entry *table_find(stripe *s, uint64_t hash, const void *key, size_t key_len, uint64_t *ret_index);
/* Take the entry out and free it. 0 or a negative errno. */
int table_remove(stripe *s, uint64_t index);
/* The entry at a place, NULL if there is none. */
entry *table_at(stripe *s, uint64_t index);
uint64_t table_nplaces(const stripe *s);
/*
 * Bracket a change of an entry that link_patiently() or unlink_patiently() makes, so that a death is settled. The
 * change stays open, for the next one to repair, if something that was replaced is not freed yet.
 */
void table_open_change(stripe *s);
void table_close_change(stripe *s);

/* What table_store() does, when there is an entry of that key already, or not (old NULL): 1 store, 0 leave it,
 * negative: an error. It may change the new entry's value, in its room. Called with the lock, perhaps more than once.
 */
typedef int (*table_decide_fn)(entry *old, entry *fresh, void *arg);

/* Store e, in place of another one of its key. decide NULL: always. 1: stored; 0: decided against, e is the caller's;
 * or a negative errno, e is the caller's: -EBUSY, -EFBIG (larger than the table's limit lets it be), -ENOMEM and
 * others. */
int table_store(table *t, entry *e, int wait_ms, table_decide_fn decide, void *arg);

/* Remove all entries of a stripe. 0 or a negative errno. With the lock. */
int table_clear_stripe(stripe *s);

uint64_t table_count(table *t);
uint64_t table_bytes(table *t);

#endif
