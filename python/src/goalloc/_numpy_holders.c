/*
 * Holders: the processes that have references, and what becomes of those of the dead. The essay is in _numpy_refs.c.
 */
#include "_numpy_entries.h"

#include <Python.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <goalloc.h>

#include "process.h"

#define DIRECTORY_NAME "goalloc.arrays"
#define DIRECTORY_TAG (UINT64_C(0x676f617272617931) & ~GOALLOC_ROOT_REINIT) /* another layout is another tag */
#define RESERVATION_S 60

static _Thread_local uint32_t reserved = NONE; /* between the fork's two calls */

int refs_joined(void)
{
    return refs_self.holder != NONE && refs_self.mark == process_mark() && refs_self.heap == goalloc_heap_id() &&
           refs_self.heap != 0;
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

static int holder_alive(const refs_holder *h, uint64_t own)
{
    process_facts facts;

    if (own == 0 || h->shm_namespace != own)
        return 1; /* not to be judged from here */
    if (h->shm_pid == 0 || h->shm_pid > INT32_MAX || (kill((pid_t)h->shm_pid, 0) < 0 && errno == ESRCH))
        return 0;
    facts = process_look((pid_t)h->shm_pid);
    return !facts.has_ended && (facts.start == 0 || h->shm_start == 0 || facts.start == h->shm_start) &&
           (facts.stack == 0 || h->shm_stack == 0 || facts.stack == h->shm_stack);
}

static void holder_describe(refs_holder *h)
{
    const process_facts facts = process_look(getpid());

    h->shm_pid = (uint64_t)getpid();
    h->shm_start = facts.start;
    h->shm_stack = facts.stack;
    h->shm_namespace = own_namespace();
}

static int members_lock(void)
{
    int died;

    return mutex_lock(&refs_self.directory->members, &died); /* nothing to repair: a holder's state is its last word */
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
        refs_holder *h = &refs_self.directory->holders[i];
        uint64_t state = atomic_load(&h->shm_state);
        const uint32_t family = (uint32_t)(state >> 8) & FAMILY_MASK;
        const enum holder_state kind = (enum holder_state)(state & 0xff);
        int is_dead = kind == HOLDER_DEAD;

        if (kind == HOLDER_FREE)
            continue;
        if (i != refs_self.holder && kind == HOLDER_USED && !holder_alive(h, own))
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
            slot_set_named(slot); /* if no root leads there, refs_collect() finds out */
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
        refs_stripe *stripe = &refs_self.directory->stripes[s];
        const int locked = stripe_lock(stripe);
        if (locked < 0) {
            r = locked; /* the dead stay dead, for the next one to collect */
            continue;
        }
        for (uint64_t position = 0; (e = stripe_entry(stripe, position)) != NULL; position++)
            if (entry_is_alive(e))
                reap_entry(all, stripe, e, position);
        mutex_unlock(&stripe->mutex);
    }
    for (uint32_t i = 0; r == 0 && i < HOLDERS; i++)
        if (all->is_dead[i])
            atomic_store(&refs_self.directory->holders[i].shm_state, HOLDER_FREE);
    return r;
}

static uint32_t holder_find_free(void)
{
    for (uint32_t i = 0; i < HOLDERS; i++)
        if ((atomic_load(&refs_self.directory->holders[i].shm_state) & 0xff) == HOLDER_FREE)
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

/* Another program of this same process was a holder: exec keeps the pid. */
static void bury_earlier_self(void)
{
    const uint64_t own = own_namespace();

    for (uint32_t i = 0; own != 0 && i < HOLDERS; i++) {
        refs_holder *h = &refs_self.directory->holders[i];
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
    refs_self.holder = NONE;
    r = goalloc_root_get_or_create(DIRECTORY_NAME, sizeof(refs_directory), DIRECTORY_TAG | GOALLOC_ROOT_REINIT,
                                   directory_init, NULL, &p, NULL);
    if (r < 0)
        return r;
    all = PyMem_RawCalloc(1, sizeof(*all));
    if (all == NULL)
        return -ENOMEM;
    refs_self.directory = p;
    refs_self.family = family & FAMILY_MASK;
    refs_self.mark = process_mark();
    refs_self.next_stripe = (uint32_t)getpid();
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
            refs_holder *h = &refs_self.directory->holders[number];
            holder_describe(h);
            atomic_store(&h->shm_state, (uint64_t)refs_self.family << 8 | HOLDER_USED);
            refs_self.holder = number;
            refs_self.heap = goalloc_heap_id();
            memset(all, 0, sizeof(*all));
            judge(all, number);
            (void)reap(all); /* what can't be done now, the next one does */
        }
        mutex_unlock(&refs_self.directory->members);
    }
    PyMem_RawFree(all);
    return r;
}

void refs_leave(int is_python_gone)
{
    reaping *all;

    refs_self.is_leaving = is_python_gone;
    if (!refs_joined() || (all = PyMem_RawCalloc(1, sizeof(*all))) == NULL)
        return;
    if (members_lock() == 0) {
        atomic_store(&refs_self.directory->holders[refs_self.holder].shm_state,
                     (uint64_t)refs_self.family << 8 | HOLDER_DEAD);
        refs_self.holder = NONE;
        judge(all, NONE);
        (void)reap(all);
        mutex_unlock(&refs_self.directory->members);
    }
    refs_self.holder = NONE;
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
        refs_stripe *stripe = &refs_self.directory->stripes[s];
        int r = stripe_lock(stripe);
        if (r < 0)
            return r;
        for (uint64_t position = 0; r == 0 && (e = stripe_entry(stripe, position)) != NULL; position++) {
            const refs_id id = { .index = position * STRIPES + s, .generation = e->shm_state >> 1 };
            if (entry_is_alive(e) && (slot = slot_find_kind(e, SLOT_NAMED)) != NULL && !rooted_has(roots, id.index))
                r = do_it(id, e, slot, arg);
        }
        mutex_unlock(&stripe->mutex);
        if (r < 0)
            return r;
    }
    return 0;
}

typedef struct suspect {
    refs_id id;
    uint64_t slot; /* as it was: which name */
} suspect;

typedef struct suspects {
    suspect at[4096];
    uint32_t n;
    uint64_t references, arrays;
} suspects;

static int suspect_add(refs_id id, refs_entry *e, uint64_t *slot, void *arg)
{
    suspects *all = arg;

    (void)e;
    if (all->n < sizeof(all->at) / sizeof(all->at[0]))
        all->at[all->n++] = (suspect){ .id = id, .slot = *slot };
    return 0;
}

static int suspect_drop(refs_id id, refs_entry *e, uint64_t *slot, void *arg)
{
    suspects *all = arg;

    for (uint32_t i = 0; i < all->n; i++)
        if (all->at[i].id.index == id.index && all->at[i].id.generation == id.generation && all->at[i].slot == *slot) {
            slot_drop_name(id, e, slot);
            all->references++;
            all->arrays += !entry_is_alive(e);
            break;
        }
    return 0;
}

/* A name's reference goes if no root leads to the entry. A slot is NAMED only after its root was set; so one that was
 * NAMED before the roots were listed, and is not among them, has lost its root. By the second look the entry may have
 * lost that name and got another one, whose root was set too late for the list: the number in the slot tells. */
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
        mutex_unlock(&refs_self.directory->members);
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
        h = &refs_self.directory->holders[number];
        h->shm_pid = 0;
        h->shm_reserved_s = boot_seconds();
        atomic_store(&h->shm_state, (uint64_t)refs_self.family << 8 | HOLDER_RESERVED);
    }
    mutex_unlock(&refs_self.directory->members);
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
    uint64_t state = (uint64_t)refs_self.family << 8 | HOLDER_RESERVED;
    refs_entry *e;

    refs_self.holder = NONE;
    reserved = NONE;
    if (number == NONE || refs_self.directory == NULL)
        return 0;
    holder_describe(&refs_self.directory->holders[number]);
    if (!atomic_compare_exchange_strong(&refs_self.directory->holders[number].shm_state, &state,
                                        (uint64_t)refs_self.family << 8 | HOLDER_USED))
        return 0; /* a minute has passed since the fork began */
    refs_self.holder = number;
    refs_self.mark = process_mark();
    for (size_t i = 0; i < n; i++) { /* what another thread of the parent has made meanwhile */
        if (entry_lock(ids[i], &e) < 0)
            continue;
        if (slot_find(e, SLOT_HELD | number) == NULL)
            (void)slot_add(e, SLOT_HELD | number);
        entry_unlock(ids[i]);
    }
    return 1;
}
