/*
 * Refs: who refers to which array in the shared heap.
 *
 * goalloc._numpy calls this: it makes a block (an object with an array's data), and whoever shows that array to Python
 * has a reference. The last reference that goes frees the block. Nothing is counted: a count can't tell after a death
 * whether the dead had changed it already. Instead each reference is a word of its own that says whose it is.
 *
 * Data, all in the shared heap. The root "goalloc.arrays" is a directory:
 *
 *     directory --- holders[]     a process: pid, start time, pid namespace, family
 *               '-- stripes[]     a mutex, and slabs of entries --- entry { state, block, meta, more, slots[] }
 *                                                                            |      |     '-> chunks of more slots
 *                                                                            |      '-> name, dtype, shape (publish)
 *                                                                            '-> the array's data
 *
 * A slot is one word: empty; HELD by a holder; TICKET of a message (family, nonce); NAMING by a holder that is about to
 * set a root; NAMED. A process has one slot of an entry at most, however many arrays it shows. Directory and slabs are
 * never freed, so a word of an entry is a word of an entry for ever; its generation tells its lives apart.
 *
 * Who writes: an entry's words, whoever has its stripe's mutex (robust, shared by processes). Holders, who has the mutex
 * `members`, except that a forked child takes its reservation by a compare-and-swap. Order of locks: members, then one
 * stripe. New references are made only by who finds the entry alive under its mutex.
 *
 * What a death between two stores leaves; the next one to lock the stripe gets EOWNERDEAD and repairs (stripe_repair):
 *
 *     create:  slot HELD -> block linked -> state alive      before the last: not alive with a block: it is freed
 *     ticket:  slot TICKET                                   one store; unread until its family ends
 *     take:    slot TICKET -> HELD                           one store: the message's or the receiver's
 *     release: slot empty -> block unlinked -> state free    alive without slots: it is freed
 *     name:    slot NAMING -> meta linked -> root set -> NAMED   NAMING of a dead holder becomes NAMED; and a NAMED
 *     unname:  root removed -> slot empty -> meta unlinked       entry without its root loses the slot (refs_collect)
 *     grow:    slab or chunk linked, then used               a slab that is not in the free list: the list is made anew
 *     fork:    reservation, slots HELD for it -> child's identity -> claimed   not claimed after a minute: it is dead
 *
 * goalloc_link() and goalloc_unlink_free() make the pointers change and the object with them, or neither; so repair
 * calls goalloc_settle() first. If that fails the stripe stays marked dirty, and the next one tries again. Free lists are
 * hints; states are the truth.
 *
 * A holder is dead if its pid is nobody's, or somebody's with another start time, or a zombie. Only processes of the
 * same pid namespace are judged; others count as alive. Who is asked is the kernel and not the daemon, since a child must
 * hold what it has inherited before it has a session. A holder is free again after all of its slots are empty.
 *
 * Who collects: each process when it becomes a holder, refs_collect(), and goalloc._numpy when memory is short.
 * Messages nobody has read are returned when no holder of the sender's family lives.
 *
 * Known limits: a process that is stopped (SIGSTOP) within one of these mutexes, some hundred nanoseconds long, has
 * others get -ETIMEDOUT after LOCK_MS. A process that calls exec() after it was a holder holds until it ends, or is a
 * holder again.
 */
#include "_numpy_refs.h"

#include <Python.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <goalloc.h>

#define DIRECTORY_NAME    "goalloc.arrays"
#define DIRECTORY_TAG     (UINT64_C(0x676f617272617931) & ~GOALLOC_ROOT_REINIT) /* another layout is another tag */
#define STRIPES           32U
#define SLABS             512U /* of a stripe */
#define SLAB_ENTRIES      256U
#define HOLDERS           4096U
#define ENTRY_SLOTS       3U
#define CHUNK_SLOTS       63U
#define CHUNKS_MAX        (1U << 16) /* of an entry: a circle that somebody has scribbled ends, too */
#define LOCK_MS           5000
#define RESERVATION_S     60
#define OPEN_TRIES        16
#define NONE              UINT32_MAX
#define FAMILY_MASK       UINT32_C(0xffffff)

/* The kind of a slot is in its top byte. */
#define SLOT_EMPTY  UINT64_C(0)
#define SLOT_HELD   (UINT64_C(1) << 56) /* | holder */
#define SLOT_TICKET (UINT64_C(2) << 56) /* | family << 32 | nonce */
#define SLOT_NAMING (UINT64_C(3) << 56) /* | holder */
#define SLOT_NAMED  (UINT64_C(4) << 56)
#define SLOT_KIND   (UINT64_C(0xff) << 56)

typedef struct refs_entry {
    uint64_t shm_state;              /* generation << 1 | alive */
    void *shm_block;                 /* by goalloc_link(), goalloc_unlink_free() alone, as meta and more */
    void *shm_meta;                  /* NULL: no name */
    void *shm_more;                  /* the first chunk */
    uint64_t shm_slots[ENTRY_SLOTS];
    uint64_t shm_next_free;          /* position in the stripe + 1; a hint, as the list's head */
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
    uint64_t shm_pid;
    uint64_t shm_reserved_s;    /* boot time of the reservation */
} refs_holder;

typedef struct refs_directory {
    pthread_mutex_t members;
    _Atomic uint32_t shm_nonce;
    uint32_t pad;
    refs_holder holders[HOLDERS];
    refs_stripe stripes[STRIPES];
} refs_directory;

/* This process. A forked child has its parent's copy until refs_after_fork_in_child(). */
static struct {
    refs_directory *directory;
    uint64_t heap; /* in which it is */
    uint32_t holder;
    uint32_t family;
    uint32_t next_stripe; /* of the next entry that it makes */
    pid_t pid;
    int is_leaving; /* Python has ended: there is no GIL */
} self = { .holder = NONE };

static _Thread_local uint32_t reserved = NONE; /* between the fork's two calls */

int refs_joined(void)
{
    return self.holder != NONE && self.pid == getpid() && self.heap == goalloc_heap_id() && self.heap != 0;
}

/* --- processes --- */

static uint64_t boot_seconds(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_BOOTTIME, &now);
    return (uint64_t)now.tv_sec;
}

static uint64_t own_namespace(void)
{
    struct stat st;

    return stat("/proc/self/ns/pid", &st) == 0 ? st.st_ino : 0;
}

/* Start time of a process; 0: not known. *ret_is_zombie: it has ended, and nobody has waited for it. */
static uint64_t start_time(pid_t pid, int *ret_is_zombie)
{
    char path[64], text[1024];
    const char *p;
    unsigned long long start = 0;
    char state = '?';
    long threads = 0;
    ssize_t n;
    int fd;

    *ret_is_zombie = 0;
    (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    n = read(fd, text, sizeof(text) - 1);
    (void)close(fd);
    if (n <= 0)
        return 0;
    text[n] = 0;
    p = strrchr(text, ')'); /* the program's name may hold anything */
    if (p == NULL ||
        sscanf(p + 1, " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %ld %*d %llu", &state,
               &threads, &start) != 3)
        return 0;
    *ret_is_zombie = (state == 'Z' || state == 'X') && threads <= 1; /* else its other threads live on */
    return start;
}

static int holder_alive(const refs_holder *h, uint64_t own)
{
    int is_zombie;
    uint64_t start;

    if (own == 0 || h->shm_namespace != own)
        return 1; /* not to be judged from here */
    if (h->shm_pid == 0 || h->shm_pid > INT32_MAX || (kill((pid_t)h->shm_pid, 0) < 0 && errno == ESRCH))
        return 0;
    start = start_time((pid_t)h->shm_pid, &is_zombie);
    return !is_zombie && (start == 0 || h->shm_start == 0 || start == h->shm_start);
}

static void holder_describe(refs_holder *h)
{
    int is_zombie;

    h->shm_pid = (uint64_t)getpid();
    h->shm_start = start_time(getpid(), &is_zombie);
    h->shm_namespace = own_namespace();
}

/* --- locks --- */

/* Without the GIL if it takes time. *ret_died: its last holder has. */
static int lock(pthread_mutex_t *mutex, int *ret_died)
{
    int r = pthread_mutex_trylock(mutex);

    *ret_died = 0;
    if (r == EBUSY) {
        struct timespec end;

        (void)clock_gettime(CLOCK_MONOTONIC, &end);
        end.tv_sec += LOCK_MS / 1000;
        PyThreadState *thread = self.is_leaving ? NULL : PyEval_SaveThread();
        r = pthread_mutex_clocklock(mutex, CLOCK_MONOTONIC, &end);
        if (thread != NULL)
            PyEval_RestoreThread(thread);
    }
    if (r == EOWNERDEAD) {
        *ret_died = 1;
        r = pthread_mutex_consistent(mutex);
    }
    return -r;
}

static void unlock(pthread_mutex_t *mutex)
{
    (void)pthread_mutex_unlock(mutex);
}

static int members_lock(void)
{
    int died;

    return lock(&self.directory->members, &died); /* nothing to repair: a holder's state is its last word */
}

/* --- entries --- */

static refs_entry *stripe_entry(const refs_stripe *stripe, uint64_t position)
{
    const uint64_t slab = position / SLAB_ENTRIES;

    if (slab >= SLABS || stripe->shm_slabs[slab] == NULL)
        return NULL;
    return (refs_entry *)stripe->shm_slabs[slab] + position % SLAB_ENTRIES;
}

static refs_stripe *stripe_of(uint64_t index)
{
    return &self.directory->stripes[index % STRIPES];
}

static int entry_is_alive(const refs_entry *e)
{
    return (e->shm_state & 1) != 0;
}

/* The slots of an entry, one after the other; *more is the chunk that comes next, NULL at first. */
typedef struct slot_walk {
    refs_entry *entry;
    refs_chunk *chunk;
    uint32_t next, nchunks;
} slot_walk;

static slot_walk walk_of(refs_entry *e)
{
    return (slot_walk){ .entry = e };
}

static uint64_t *walk_next(slot_walk *w)
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

static uint64_t *slot_find(refs_entry *e, uint64_t value)
{
    slot_walk w = walk_of(e);
    uint64_t *slot;

    while ((slot = walk_next(&w)) != NULL)
        if (*slot == value)
            return slot;
    return NULL;
}

static uint64_t *slot_find_kind(refs_entry *e, uint64_t kind)
{
    slot_walk w = walk_of(e);
    uint64_t *slot;

    while ((slot = walk_next(&w)) != NULL)
        if ((*slot & SLOT_KIND) == kind)
            return slot;
    return NULL;
}

static int entry_has_slots(refs_entry *e)
{
    slot_walk w = walk_of(e);
    uint64_t *slot;

    while ((slot = walk_next(&w)) != NULL)
        if (*slot != SLOT_EMPTY)
            return 1;
    return 0;
}

/* One aligned store: readers after a death find the old word or the new one. */
static void word_store(uint64_t *word, uint64_t value)
{
    __atomic_store_n(word, value, __ATOMIC_SEQ_CST);
}

/* Store value into an empty slot; there is one, or a chunk is added. */
static int slot_add(refs_entry *e, uint64_t value)
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
    r = goalloc_link(w.chunk != NULL ? &w.chunk->shm_more : &e->shm_more, chunk);
    if (r < 0) {
        goalloc_free(chunk);
        return r;
    }
    word_store(&chunk->shm_slots[0], value);
    return 0;
}

/* Free the object that *word points to; a word that is no object's address is cleared. */
static int word_unlink(void **word, void *next)
{
    int r;

    if (*word == NULL)
        return 0;
    r = goalloc_unlink_free(word, next);
    if (r == -EINVAL || r == -EALREADY) {
        *word = NULL;
        r = 0;
    }
    return r;
}

static void stripe_push(refs_stripe *stripe, refs_entry *e, uint64_t position)
{
    e->shm_next_free = stripe->shm_first_free;
    stripe->shm_first_free = position + 1;
}

/* Nobody refers to the entry: free what it has. After an error the stripe is dirty, and repair goes on. */
static int entry_free(refs_stripe *stripe, refs_entry *e, uint64_t position)
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
        else if (entry_has_slots(e)) {
            if (slot_find_kind(e, SLOT_NAMED) == NULL && slot_find_kind(e, SLOT_NAMING) == NULL)
                (void)word_unlink(&e->shm_meta, NULL);
            continue;
        }
        if (entry_free(stripe, e, position) < 0)
            r = -EAGAIN;
    }
    return r == -EAGAIN ? 0 : r; /* what stays dirty is nobody's; the rest of the stripe is whole */
}

static int stripe_lock(refs_stripe *stripe)
{
    int died, r = lock(&stripe->mutex, &died);

    if (r < 0)
        return r;
    if (died)
        word_store(&stripe->shm_dirty, 1);
    if (stripe->shm_dirty != 0 && (r = stripe_repair(stripe)) < 0) {
        word_store(&stripe->shm_dirty, 1);
        unlock(&stripe->mutex);
    }
    return r;
}

/* Lock the stripe of a living entry. -ENOENT: it is not that one any more. */
static int entry_lock(refs_id id, refs_entry **ret)
{
    refs_stripe *stripe = stripe_of(id.index);
    refs_entry *e;
    int r = stripe_lock(stripe);

    if (r < 0)
        return r;
    e = stripe_entry(stripe, id.index / STRIPES);
    if (e == NULL || e->shm_state != (id.generation << 1 | 1)) {
        unlock(&stripe->mutex);
        return -ENOENT;
    }
    *ret = e;
    return 0;
}

static void entry_unlock(refs_id id)
{
    unlock(&stripe_of(id.index)->mutex);
}

/* Empty a slot; the last one takes the entry along, now or when the stripe is repaired. */
static void slot_drop(refs_id id, refs_entry *e, uint64_t *slot)
{
    word_store(slot, SLOT_EMPTY);
    if (!entry_has_slots(e))
        (void)entry_free(stripe_of(id.index), e, id.index / STRIPES);
}

static int stripe_grow(refs_stripe *stripe)
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
    r = goalloc_link(&stripe->shm_slabs[slab], entries);
    if (r < 0) {
        goalloc_free(entries);
        return r;
    }
    for (uint32_t i = SLAB_ENTRIES; i-- > 0;)
        stripe_push(stripe, &entries[i], (uint64_t)slab * SLAB_ENTRIES + i);
    return 0;
}

/* --- references --- */

int refs_create(void *block, refs_id *ret_id)
{
    const uint32_t number = self.next_stripe++ % STRIPES;
    refs_stripe *stripe = &self.directory->stripes[number];
    refs_entry *e = NULL;
    uint64_t position = 0;
    int r = stripe_lock(stripe);

    if (r < 0)
        return r;
    if (stripe->shm_first_free == 0)
        r = stripe_grow(stripe);
    if (r == 0) {
        position = stripe->shm_first_free - 1;
        e = stripe_entry(stripe, position);
        if (e == NULL || entry_is_alive(e)) { /* the hint is wrong */
            word_store(&stripe->shm_dirty, 1);
            r = -EAGAIN;
        }
    }
    if (r == 0) {
        stripe->shm_first_free = e->shm_next_free;
        word_store(&e->shm_slots[0], SLOT_HELD | self.holder);
        r = goalloc_link(&e->shm_block, block);
        if (r == 0)
            word_store(&e->shm_state, ((e->shm_state >> 1) + 1) << 1 | 1);
        else {
            word_store(&e->shm_slots[0], SLOT_EMPTY);
            stripe_push(stripe, e, position);
        }
    }
    if (r == 0)
        *ret_id = (refs_id){ .index = position * STRIPES + number, .generation = e->shm_state >> 1 };
    unlock(&stripe->mutex);
    return r;
}

void *refs_block(refs_id id)
{
    const refs_entry *e = stripe_entry(stripe_of(id.index), id.index / STRIPES);

    return e != NULL ? e->shm_block : NULL;
}

int refs_release(refs_id id)
{
    refs_entry *e;
    uint64_t *slot;
    int r;

    if (!refs_joined())
        return 0; /* what this process has copies of is its parent's */
    r = entry_lock(id, &e);
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    slot = slot_find(e, SLOT_HELD | self.holder);
    if (slot != NULL)
        slot_drop(id, e, slot);
    entry_unlock(id);
    return r;
}

static uint64_t ticket_word(uint32_t family, uint32_t nonce)
{
    return SLOT_TICKET | (uint64_t)(family & FAMILY_MASK) << 32 | nonce;
}

int refs_ticket(refs_id id, uint32_t *ret_nonce)
{
    refs_entry *e;
    uint32_t nonce;
    int r = entry_lock(id, &e);

    if (r < 0)
        return r;
    nonce = atomic_fetch_add(&self.directory->shm_nonce, 1);
    r = slot_add(e, ticket_word(self.family, nonce));
    entry_unlock(id);
    if (r == 0)
        *ret_nonce = nonce;
    return r;
}

/* The message's slot, of whichever family its sender was. */
static uint64_t *ticket_find(refs_entry *e, uint32_t nonce)
{
    slot_walk w = walk_of(e);
    uint64_t *slot;

    while ((slot = walk_next(&w)) != NULL)
        if ((*slot & SLOT_KIND) == SLOT_TICKET && (uint32_t)*slot == nonce)
            return slot;
    return NULL;
}

int refs_take(refs_id id, uint32_t nonce, int is_held)
{
    refs_entry *e;
    uint64_t *slot;
    int r = entry_lock(id, &e);

    if (r < 0)
        return r;
    slot = ticket_find(e, nonce);
    if (slot != NULL && is_held)
        slot_drop(id, e, slot);
    else if (slot != NULL)
        word_store(slot, SLOT_HELD | self.holder);
    else if (!is_held)
        r = slot_add(e, SLOT_HELD | self.holder);
    entry_unlock(id);
    return r;
}

/* --- names --- */

int refs_name(refs_id id, const char *name, void *meta)
{
    refs_entry *e;
    uint64_t *slot;
    int r = entry_lock(id, &e);

    if (r < 0) {
        goalloc_free(meta);
        return r;
    }
    if (e->shm_meta != NULL)
        r = -EALREADY;
    if (r == 0)
        r = slot_add(e, SLOT_NAMING | self.holder);
    if (r == 0 && (r = goalloc_link(&e->shm_meta, meta)) < 0 && (slot = slot_find(e, SLOT_NAMING | self.holder)) != NULL)
        word_store(slot, SLOT_EMPTY);
    entry_unlock(id);
    if (r < 0) {
        goalloc_free(meta);
        return r;
    }

    r = goalloc_root_compare_and_set(name, NULL, e); /* no lock is held for this round trip */
    const int locked = entry_lock(id, &e);
    if (locked < 0)
        return r < 0 ? -EIO : 0; /* NAMING stays for refs_collect(); meta is the entry's */
    slot = slot_find(e, SLOT_NAMING | self.holder);
    if (r == 0 && slot != NULL)
        word_store(slot, SLOT_NAMED);
    else if (r < 0 && slot != NULL) {
        (void)word_unlink(&e->shm_meta, NULL);
        word_store(slot, SLOT_EMPTY); /* not the last one: this process has its own */
    }
    entry_unlock(id);
    return r;
}

/* Which entry the root's object is. -EINVAL: none. */
static int entry_of_address(const void *p, uint64_t *ret_index)
{
    const uintptr_t address = (uintptr_t)p;

    for (uint32_t s = 0; s < STRIPES; s++)
        for (uint32_t slab = 0; slab < SLABS && self.directory->stripes[s].shm_slabs[slab] != NULL; slab++) {
            const uintptr_t from = (uintptr_t)self.directory->stripes[s].shm_slabs[slab];
            if (address - from < SLAB_ENTRIES * sizeof(refs_entry)) {
                if ((address - from) % sizeof(refs_entry) != 0)
                    return -EINVAL;
                *ret_index = (slab * SLAB_ENTRIES + (address - from) / sizeof(refs_entry)) * STRIPES + s;
                return 0;
            }
        }
    return -EINVAL;
}

/* Lock the entry that a name leads to, in its present life. */
static int named_lock(const char *name, refs_id *ret_id, refs_entry **ret, void **ret_root)
{
    refs_stripe *stripe;
    uint64_t index;
    int r = goalloc_root_get(name, ret_root);

    if (r == 0)
        r = entry_of_address(*ret_root, &index);
    if (r < 0)
        return r;
    stripe = stripe_of(index);
    r = stripe_lock(stripe);
    if (r < 0)
        return r;
    *ret = stripe_entry(stripe, index / STRIPES);
    if (!entry_is_alive(*ret) || (*ret)->shm_meta == NULL ||
        (slot_find_kind(*ret, SLOT_NAMED) == NULL && slot_find_kind(*ret, SLOT_NAMING) == NULL)) {
        unlock(&stripe->mutex);
        return -EAGAIN; /* its name has just been taken away */
    }
    *ret_id = (refs_id){ .index = index, .generation = (*ret)->shm_state >> 1 };
    return 0;
}

int refs_open(const char *name, int (*is_held)(refs_id id), refs_id *ret_id, void *meta, size_t size,
              size_t *ret_meta_bytes)
{
    refs_entry *e;
    void *root;
    int r = -EAGAIN;

    for (int i = 0; i < OPEN_TRIES && r == -EAGAIN; i++)
        r = named_lock(name, ret_id, &e, &root);
    if (r < 0)
        return r == -EAGAIN ? -ENOENT : r;
    const size_t have = goalloc_usable_size(e->shm_meta);
    *ret_meta_bytes = have < size ? have : size;
    memcpy(meta, e->shm_meta, *ret_meta_bytes);
    if (!is_held(*ret_id))
        r = slot_add(e, SLOT_HELD | self.holder);
    entry_unlock(*ret_id);
    return r;
}

int refs_unname(const char *name)
{
    refs_entry *e;
    refs_id id;
    uint64_t *slot;
    void *root;
    int r = -EAGAIN;

    for (int i = 0; i < OPEN_TRIES && r == -EAGAIN; i++)
        r = named_lock(name, &id, &e, &root);
    if (r < 0)
        return r == -EAGAIN ? -ENOENT : r;
    entry_unlock(id);

    r = goalloc_root_compare_and_set(name, root, NULL); /* of several that try, one gets 0 */
    if (r < 0)
        return r == -EEXIST ? -ENOENT : r;
    if (entry_lock(id, &e) < 0)
        return 0; /* the name is gone; refs_collect() returns its reference */
    slot = slot_find_kind(e, SLOT_NAMED);
    if (slot == NULL)
        slot = slot_find_kind(e, SLOT_NAMING); /* who has named it died just then, or finds its slot gone */
    (void)word_unlink(&e->shm_meta, NULL);
    if (slot != NULL)
        slot_drop(id, e, slot);
    entry_unlock(id);
    return 0;
}

/* --- holders --- */

/* What a collection decides by: taken while `members` is locked, so that no holder's number changes hands. */
typedef struct reaping {
    uint8_t is_dead[HOLDERS];
    uint32_t families[HOLDERS]; /* that live */
    uint32_t nfamilies;
    uint32_t ndead;
    uint64_t references, arrays;
} reaping;

static int family_lives(const reaping *all, uint32_t family)
{
    for (uint32_t i = 0; i < all->nfamilies; i++)
        if (all->families[i] == family)
            return 1;
    return 0;
}

/* Judge all holders; `newcomer`, who has just joined, keeps no family alive. */
static void judge(reaping *all, uint32_t newcomer)
{
    const uint64_t own = own_namespace(), now = boot_seconds();

    for (uint32_t i = 0; i < HOLDERS; i++) {
        refs_holder *h = &self.directory->holders[i];
        uint64_t state = atomic_load(&h->shm_state);
        const uint32_t family = (uint32_t)(state >> 8) & FAMILY_MASK;
        const enum holder_state kind = (enum holder_state)(state & 0xff);
        int is_dead = kind == HOLDER_DEAD;

        if (kind == HOLDER_FREE)
            continue;
        if (i != self.holder && kind == HOLDER_USED && !holder_alive(h, own))
            is_dead = 1;
        if (kind == HOLDER_RESERVED && (now < h->shm_reserved_s || now - h->shm_reserved_s > RESERVATION_S))
            is_dead = 1;
        if (is_dead && (kind == HOLDER_DEAD ||
                        atomic_compare_exchange_strong(&h->shm_state, &state, (uint64_t)family << 8 | HOLDER_DEAD))) {
            all->is_dead[i] = 1;
            all->ndead++;
        } else if (i != newcomer && !family_lives(all, family))
            all->families[all->nfamilies++] = family;
    }
}

/* Return what the dead refer to, of one entry. */
static void reap_entry(reaping *all, refs_stripe *stripe, refs_entry *e, uint64_t position)
{
    slot_walk w = walk_of(e);
    uint64_t *slot;
    uint64_t dropped = 0;

    while ((slot = walk_next(&w)) != NULL) {
        const uint64_t word = *slot, kind = word & SLOT_KIND;
        const uint32_t holder = (uint32_t)word;
        if ((kind == SLOT_HELD && holder < HOLDERS && all->is_dead[holder]) ||
            (kind == SLOT_TICKET && !family_lives(all, (uint32_t)(word >> 32) & FAMILY_MASK))) {
            word_store(slot, SLOT_EMPTY);
            dropped++;
        } else if (kind == SLOT_NAMING && holder < HOLDERS && all->is_dead[holder])
            word_store(slot, SLOT_NAMED); /* if no root leads there, refs_collect() finds out */
    }
    all->references += dropped;
    if (dropped != 0 && !entry_has_slots(e)) {
        all->arrays += entry_free(stripe, e, position) == 0;
    }
}

/* Return what the dead refer to, and free their numbers. `members` is locked. */
static int reap(reaping *all)
{
    refs_entry *e;
    int r = 0;

    for (uint32_t s = 0; s < STRIPES; s++) {
        refs_stripe *stripe = &self.directory->stripes[s];
        const int locked = stripe_lock(stripe);
        if (locked < 0) {
            r = locked; /* the dead stay dead, for the next one to collect */
            continue;
        }
        for (uint64_t position = 0; (e = stripe_entry(stripe, position)) != NULL; position++)
            if (entry_is_alive(e))
                reap_entry(all, stripe, e, position);
        unlock(&stripe->mutex);
    }
    for (uint32_t i = 0; r == 0 && i < HOLDERS; i++)
        if (all->is_dead[i])
            atomic_store(&self.directory->holders[i].shm_state, HOLDER_FREE);
    return r;
}

static uint32_t holder_find_free(void)
{
    for (uint32_t i = 0; i < HOLDERS; i++)
        if ((atomic_load(&self.directory->holders[i].shm_state) & 0xff) == HOLDER_FREE)
            return i;
    return NONE;
}

/* The directory's mutexes, in new memory or in a heap that was loaded: there all holders are dead. */
static int directory_init(void *p, size_t size, void *arg)
{
    refs_directory *d = p;
    pthread_mutexattr_t attr;
    int r = pthread_mutexattr_init(&attr);

    (void)size;
    (void)arg;
    if (r == 0)
        r = pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    if (r == 0)
        r = pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
    if (r == 0)
        r = pthread_mutex_init(&d->members, &attr);
    for (uint32_t s = 0; r == 0 && s < STRIPES; s++) {
        r = pthread_mutex_init(&d->stripes[s].mutex, &attr);
        d->stripes[s].shm_dirty = 1;
    }
    for (uint32_t i = 0; r == 0 && i < HOLDERS; i++)
        if (atomic_load(&d->holders[i].shm_state) != HOLDER_FREE)
            atomic_store(&d->holders[i].shm_state, HOLDER_DEAD);
    (void)pthread_mutexattr_destroy(&attr);
    return -r;
}

/* Another program of this same process was a holder: exec() keeps the pid. */
static void bury_earlier_self(void)
{
    const uint64_t own = own_namespace();

    for (uint32_t i = 0; own != 0 && i < HOLDERS; i++) {
        refs_holder *h = &self.directory->holders[i];
        const uint64_t state = atomic_load(&h->shm_state);
        if ((state & 0xff) == HOLDER_USED && h->shm_namespace == own && h->shm_pid == (uint64_t)getpid())
            atomic_store(&h->shm_state, (state & ~UINT64_C(0xff)) | HOLDER_DEAD);
    }
}

int refs_join(uint32_t family)
{
    reaping *all;
    void *p;
    uint32_t number;
    int r;

    if (refs_joined())
        return 0;
    self.holder = NONE;
    r = goalloc_root_get_or_create(DIRECTORY_NAME, sizeof(refs_directory), DIRECTORY_TAG | GOALLOC_ROOT_REINIT,
                                   directory_init, NULL, &p, NULL);
    if (r < 0)
        return r;
    all = PyMem_RawCalloc(1, sizeof(*all));
    if (all == NULL)
        return -ENOMEM;
    self.directory = p;
    self.family = family & FAMILY_MASK;
    self.pid = getpid();
    self.next_stripe = (uint32_t)getpid();
    r = members_lock();
    if (r == 0) {
        bury_earlier_self();
        number = holder_find_free();
        if (number == NONE) {
            judge(all, NONE);
            (void)reap(all);
            number = holder_find_free();
        }
        if (number == NONE)
            r = -EUSERS;
        else {
            refs_holder *h = &self.directory->holders[number];
            holder_describe(h);
            atomic_store(&h->shm_state, (uint64_t)self.family << 8 | HOLDER_USED);
            self.holder = number;
            self.heap = goalloc_heap_id();
            memset(all, 0, sizeof(*all));
            judge(all, number);
            (void)reap(all); /* what can't be done now, the next one does */
        }
        unlock(&self.directory->members);
    }
    PyMem_RawFree(all);
    return r;
}

void refs_leave(void)
{
    reaping *all;

    self.is_leaving = 1;
    if (!refs_joined() || (all = PyMem_RawCalloc(1, sizeof(*all))) == NULL)
        return;
    if (members_lock() == 0) {
        atomic_store(&self.directory->holders[self.holder].shm_state, (uint64_t)self.family << 8 | HOLDER_DEAD);
        self.holder = NONE;
        judge(all, NONE);
        (void)reap(all);
        unlock(&self.directory->members);
    }
    self.holder = NONE;
    PyMem_RawFree(all);
}

/* --- collection of names --- */

/* Entries that roots lead to, sorted by nothing: there are 4096 roots at most. */
typedef struct rooted {
    uint64_t indexes[4096];
    uint32_t n;
} rooted;

static int rooted_add(const goalloc_root_info *info, void *arg)
{
    rooted *roots = arg;
    uint64_t index;

    if (roots->n < sizeof(roots->indexes) / sizeof(roots->indexes[0]) && entry_of_address(info->p, &index) == 0)
        roots->indexes[roots->n++] = index;
    return 0;
}

static int rooted_has(const rooted *roots, uint64_t index)
{
    for (uint32_t i = 0; i < roots->n; i++)
        if (roots->indexes[i] == index)
            return 1;
    return 0;
}

/* Call do_it for each living entry that is NAMED and that no root leads to. */
static int for_nameless(const rooted *roots, int (*do_it)(refs_id id, refs_entry *e, uint64_t *slot, void *arg),
                        void *arg)
{
    refs_entry *e;
    uint64_t *slot;

    for (uint32_t s = 0; s < STRIPES; s++) {
        refs_stripe *stripe = &self.directory->stripes[s];
        int r = stripe_lock(stripe);
        if (r < 0)
            return r;
        for (uint64_t position = 0; r == 0 && (e = stripe_entry(stripe, position)) != NULL; position++) {
            const refs_id id = { .index = position * STRIPES + s, .generation = e->shm_state >> 1 };
            if (entry_is_alive(e) && (slot = slot_find_kind(e, SLOT_NAMED)) != NULL && !rooted_has(roots, id.index))
                r = do_it(id, e, slot, arg);
        }
        unlock(&stripe->mutex);
        if (r < 0)
            return r;
    }
    return 0;
}

typedef struct suspects {
    refs_id ids[4096];
    uint32_t n;
    uint64_t references, arrays;
} suspects;

static int suspect_add(refs_id id, refs_entry *e, uint64_t *slot, void *arg)
{
    suspects *all = arg;

    (void)e;
    (void)slot;
    if (all->n < sizeof(all->ids) / sizeof(all->ids[0]))
        all->ids[all->n++] = id;
    return 0;
}

static int suspect_drop(refs_id id, refs_entry *e, uint64_t *slot, void *arg)
{
    suspects *all = arg;

    for (uint32_t i = 0; i < all->n; i++)
        if (all->ids[i].index == id.index && all->ids[i].generation == id.generation) {
            (void)word_unlink(&e->shm_meta, NULL);
            slot_drop(id, e, slot);
            all->references++;
            all->arrays += !entry_is_alive(e);
            break;
        }
    return 0;
}

/* A name's reference goes if no root leads to the entry. A slot is NAMED only after its root was set; so one that was
 * NAMED before the roots were listed, and is not among them, has lost its root. */
static int collect_names(refs_collected *ret)
{
    rooted *roots = PyMem_RawCalloc(1, sizeof(*roots));
    suspects *all = PyMem_RawCalloc(1, sizeof(*all));
    int r = roots == NULL || all == NULL ? -ENOMEM : for_nameless(roots, suspect_add, all);

    if (r == 0)
        r = goalloc_root_list(NULL, rooted_add, roots);
    if (r == 0)
        r = for_nameless(roots, suspect_drop, all);
    if (r == 0) {
        ret->references += all->references;
        ret->arrays += all->arrays;
    }
    PyMem_RawFree(roots);
    PyMem_RawFree(all);
    return r;
}

int refs_collect_dead(refs_collected *ret)
{
    reaping *all = PyMem_RawCalloc(1, sizeof(*all));
    int r = all == NULL ? -ENOMEM : members_lock();

    memset(ret, 0, sizeof(*ret));
    if (r == 0) {
        judge(all, NONE);
        r = reap(all);
        unlock(&self.directory->members);
        ret->holders = all->ndead;
        ret->references = all->references;
        ret->arrays = all->arrays;
    }
    PyMem_RawFree(all);
    return r;
}

int refs_collect(refs_collected *ret)
{
    const int r = refs_collect_dead(ret);

    return r == 0 ? collect_names(ret) : r;
}

/* --- fork --- */

void refs_before_fork(const refs_id *ids, size_t n)
{
    refs_holder *h;
    refs_entry *e;
    uint32_t number;

    reserved = NONE;
    if (!refs_joined() || n == 0 || members_lock() < 0)
        return;
    number = holder_find_free();
    if (number != NONE) {
        h = &self.directory->holders[number];
        h->shm_pid = 0;
        h->shm_reserved_s = boot_seconds();
        atomic_store(&h->shm_state, (uint64_t)self.family << 8 | HOLDER_RESERVED);
    }
    unlock(&self.directory->members);
    for (size_t i = 0; number != NONE && i < n; i++) {
        if (entry_lock(ids[i], &e) < 0)
            continue;
        (void)slot_add(e, SLOT_HELD | number);
        entry_unlock(ids[i]);
    }
    reserved = number;
}

int refs_after_fork_in_child(const refs_id *ids, size_t n)
{
    const uint32_t number = reserved;
    uint64_t state = (uint64_t)self.family << 8 | HOLDER_RESERVED;
    refs_entry *e;

    self.holder = NONE;
    reserved = NONE;
    if (number == NONE || self.directory == NULL)
        return 0;
    holder_describe(&self.directory->holders[number]);
    if (!atomic_compare_exchange_strong(&self.directory->holders[number].shm_state, &state,
                                        (uint64_t)self.family << 8 | HOLDER_USED))
        return 0; /* a minute has passed since the fork began */
    self.holder = number;
    self.pid = getpid();
    for (size_t i = 0; i < n; i++) { /* what another thread of the parent has made meanwhile */
        if (entry_lock(ids[i], &e) < 0)
            continue;
        if (slot_find(e, SLOT_HELD | number) == NULL)
            (void)slot_add(e, SLOT_HELD | number);
        entry_unlock(ids[i]);
    }
    return 1;
}
