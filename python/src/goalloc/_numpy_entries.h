/*
 * Entries: the words of which _numpy_refs.c and _numpy_holders.c make references; _numpy_entries.c changes them. The
 * essay is in _numpy_refs.c.
 */
#ifndef GOALLOC_NUMPY_ENTRIES_H
#define GOALLOC_NUMPY_ENTRIES_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "_numpy_refs.h"

#define STRIPES 32U
#define SLABS 512U /* of a stripe */
#define SLAB_ENTRIES 256U
#define HOLDERS 4096U
#define ENTRY_SLOTS 3U
#define CHUNK_SLOTS 63U
#define NONE UINT32_MAX
#define FAMILY_MASK UINT32_C(0xffffff)

/* The kind of a slot is in its top byte. */
#define SLOT_EMPTY UINT64_C(0)
#define SLOT_HELD (UINT64_C(1) << 56)   /* | holder */
#define SLOT_TICKET (UINT64_C(2) << 56) /* | family << 32 | nonce */
#define SLOT_NAMING (UINT64_C(3) << 56) /* | naming << 32 | holder */
#define SLOT_NAMED (UINT64_C(4) << 56)  /* | naming << 32 */
#define SLOT_KIND (UINT64_C(0xff) << 56)
#define SLOT_NAMING_NUMBER                                                                                             \
    (UINT64_C(0xffffff) << 32) /* tells the names apart that an entry has one after the other                          \
                                */

typedef struct refs_entry {
    uint64_t shm_state; /* generation << 1 | alive */
    void *shm_block;    /* by goalloc_link(), goalloc_unlink_free() alone, as meta and more */
    void *shm_meta;     /* NULL: no name */
    void *shm_more;     /* the first chunk */
    uint64_t shm_slots[ENTRY_SLOTS];
    uint64_t shm_next_free; /* position in the stripe + 1; a hint, as the list's head */
} refs_entry;

typedef struct refs_chunk {
    void *shm_more;
    uint64_t shm_slots[CHUNK_SLOTS];
} refs_chunk;

_Static_assert(sizeof(refs_entry) == 64, "an entry is a cache line");
_Static_assert(sizeof(refs_chunk) == 512, "a chunk is an object of 512 bytes");

typedef struct refs_stripe {
    pthread_mutex_t mutex;
    uint64_t shm_dirty;      /* repair first */
    uint64_t shm_first_free; /* position + 1; 0: none */
    void *shm_slabs[SLABS];  /* the first ones that are not NULL */
} refs_stripe;

enum holder_state { HOLDER_FREE, HOLDER_RESERVED, HOLDER_USED, HOLDER_DEAD };

typedef struct refs_holder {
    _Atomic uint64_t shm_state; /* family << 8 | holder_state; the last word that is written */
    uint64_t shm_namespace;     /* inode of the pid namespace; 0: not known */
    uint64_t shm_start;         /* of the process, in clock ticks; 0: not known */
    uint64_t shm_stack;         /* where its stack begins; 0: not known */
    uint64_t shm_pid;
    uint64_t shm_reserved_s; /* boot time of the reservation */
} refs_holder;

typedef struct refs_directory {
    pthread_mutex_t members;
    _Atomic uint32_t shm_nonce;   /* of the next message */
    _Atomic uint32_t shm_namings; /* number of the next name */
    refs_holder holders[HOLDERS];
    refs_stripe stripes[STRIPES];
} refs_directory;

/* This process. A forked child has its parent's copy until refs_after_fork_in_child(). */
typedef struct refs_process {
    refs_directory *directory;
    uint64_t heap; /* in which it is */
    uint32_t holder;
    uint32_t family;
    uint32_t next_stripe; /* of the next entry that it makes */
    uint64_t mark;        /* process_mark() of who has become a holder */
    int is_leaving;       /* Python has ended: there is no GIL */
} refs_process;

extern refs_process refs_self;

/* Lock a mutex of the directory, without the GIL if it takes time. *ret_died: its last holder has. */
int mutex_lock(pthread_mutex_t *mutex, int *ret_died);
void mutex_unlock(pthread_mutex_t *mutex);

/* One aligned store: readers after a death find the old word or the new one. */
void word_store(uint64_t *word, uint64_t value);

/* Free the object that *word points to; a word that is no object's address is cleared. */
int word_unlink(void **word, void *next);

/* The entry at that position of a stripe; NULL behind the last one. */
refs_entry *stripe_entry(const refs_stripe *stripe, uint64_t position);
refs_stripe *stripe_of(uint64_t index);
int entry_is_alive(const refs_entry *e);

/* Lock a stripe, which is whole then. */
int stripe_lock(refs_stripe *stripe);

/* A free entry is there, first in the list. The stripe is locked. */
int stripe_grow(refs_stripe *stripe);
void stripe_push(refs_stripe *stripe, refs_entry *e, uint64_t position);

/* Lock the stripe of a living entry. -ENOENT: it is not that one any more. */
int entry_lock(refs_id id, refs_entry **ret);
void entry_unlock(refs_id id);

/* Nobody refers to the entry: free what it has. After an error the stripe is dirty, and repair goes on. */
int entry_free(refs_stripe *stripe, refs_entry *e, uint64_t position);
int entry_has_slots(refs_entry *e);

/* Which entry begins at p, as that of a root. -EINVAL: none. */
int entry_of_address(const void *p, uint64_t *ret_index);

/* The slots of an entry, one after the other: slot_walk w = walk_of(e); while ((slot = walk_next(&w)) != NULL). */
typedef struct slot_walk {
    refs_entry *entry;
    refs_chunk *chunk; /* in which the next one is; NULL: in the entry */
    uint32_t next, nchunks;
} slot_walk;

slot_walk walk_of(refs_entry *e);
uint64_t *walk_next(slot_walk *w);

uint64_t *slot_find(refs_entry *e, uint64_t value);
uint64_t *slot_find_kind(refs_entry *e, uint64_t kind);

/* The slot of the entry's name: NAMED or NAMING; there is one if there is a meta object, and else none. */
uint64_t *slot_find_name(refs_entry *e);

/* NAMING and NAMED of the same naming. */
int slot_same_naming(uint64_t a, uint64_t b);

/* NAMING becomes NAMED. */
void slot_set_named(uint64_t *slot);

/* Store value into an empty slot; there is one, or a chunk is added. */
int slot_add(refs_entry *e, uint64_t value);

/* Empty a slot; the last one takes the entry along, now or when the stripe is repaired. */
void slot_drop(refs_id id, refs_entry *e, uint64_t *slot);

/* The same with the slot of the entry's name, and with its meta object. */
void slot_drop_name(refs_id id, refs_entry *e, uint64_t *slot);

#endif
