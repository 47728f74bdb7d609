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
 * set a root; NAMED. The latter two have a number: between two looks without the lock an entry may lose its name and
 * get another one, which is not to be taken for the first. A process has one HELD slot of an entry, however many arrays
 * it shows (two while a thread returns what another one has just taken again). Directory and slabs are never freed, so
 * a word of an entry is a word of an entry for ever; its generation tells its lives apart.
 *
 * Who writes: an entry's words, whoever has its stripe's mutex (robust, shared by processes). Holders, who has the
 * mutex `members`, except that a forked child takes its reservation by a compare-and-swap. Order of locks: members,
 * then one stripe. New references are made only by who finds the entry alive under its mutex.
 *
 * What a death between two stores leaves; the next one to lock the stripe gets EOWNERDEAD and repairs (stripe_repair):
 *
 *     create:  slot HELD -> block linked -> state alive      before the last: not alive with a block: it is freed
 *     ticket:  slot TICKET                                   one store; unread until its family ends
 *     take:    slot TICKET -> HELD                           one store: the message's or the receiver's
 *     release: slot empty -> block unlinked -> state free    alive without slots: it is freed
 *     name:    slot NAMING -> meta linked -> root set -> NAMED   NAMING without meta is emptied. NAMING of a dead
 * holder unname:  root removed -> meta unlinked -> slot empty       becomes NAMED; and a NAMED entry without its root
 * loses the slot (refs_collect). A root that is set later than that, by a request that was on its way, named_lock
 *              removes
 *     grow:    slab or chunk linked, then used               a slab that is not in the free list: the list is made anew
 *     fork:    reservation, slots HELD for it -> child's identity -> claimed   not claimed after a minute: it is dead
 *
 * goalloc_link() and goalloc_unlink_free() make the pointers change and the object with them, or neither; so repair
 * calls goalloc_settle() first. If that fails the stripe stays marked dirty, and the next one tries again. Free lists
 * are hints; states are the truth.
 *
 * A holder is dead if its pid is nobody's, or somebody's with another start time, or a zombie, or if its stack begins
 * elsewhere, since it has become another program by exec. Only processes of the
 * same pid namespace are judged; others count as alive. Who is asked is the kernel and not the daemon, since a child
 * must hold what it has inherited before it has a session. A holder is free again after all of its slots are empty.
 *
 * Who collects: each process when it becomes a holder, refs_collect(), and goalloc._numpy when memory is short.
 * Messages nobody has read are returned when no holder of the sender's family lives.
 *
 * Known limits: a process that is stopped (SIGSTOP) within one of these mutexes, some hundred nanoseconds long, has
 * others get -ETIMEDOUT after LOCK_MS. Where addresses are not random, a process that has called exec holds until
 * it ends, or is a holder again.
 */
#include "_numpy_entries.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include <goalloc.h>

#include "link.h"

#define OPEN_TRIES 16

/* --- references --- */

int refs_create(void *block, refs_id *ret_id)
{
    const uint32_t number = refs_self.next_stripe++ % STRIPES;
    refs_stripe *stripe = &refs_self.directory->stripes[number];
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
        word_store(&e->shm_slots[0], SLOT_HELD | refs_self.holder);
        r = link_patiently(&e->shm_block, block);
        if (r == 0)
            word_store(&e->shm_state, ((e->shm_state >> 1) + 1) << 1 | 1);
        else {
            word_store(&e->shm_slots[0], SLOT_EMPTY);
            stripe_push(stripe, e, position);
        }
    }
    if (r == 0)
        *ret_id = (refs_id){ .index = position * STRIPES + number, .generation = e->shm_state >> 1 };
    mutex_unlock(&stripe->mutex);
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
    slot = slot_find(e, SLOT_HELD | refs_self.holder);
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
    nonce = atomic_fetch_add(&refs_self.directory->shm_nonce, 1);
    r = slot_add(e, ticket_word(refs_self.family, nonce));
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
        word_store(slot, SLOT_HELD | refs_self.holder);
    else if (!is_held)
        r = slot_add(e, SLOT_HELD | refs_self.holder);
    entry_unlock(id);
    return r;
}

/* --- names --- */

/* The slot NAMING by this process, and the meta object: both, or neither. The stripe is locked. */
static int name_begin(refs_entry *e, uint64_t naming, void *meta)
{
    uint64_t *slot;
    int r;

    if (e->shm_meta != NULL)
        return -EALREADY;
    r = slot_add(e, naming);
    if (r == 0 && (r = link_patiently(&e->shm_meta, meta)) < 0 && (slot = slot_find(e, naming)) != NULL)
        word_store(slot, SLOT_EMPTY); /* not the last one: this process has its own */
    return r;
}

int refs_name(refs_id id, const char *name, void *meta)
{
    refs_entry *e;
    uint64_t naming = SLOT_NAMING | refs_self.holder, *slot;
    int r = entry_lock(id, &e);

    if (r == 0) {
        naming |= (uint64_t)atomic_fetch_add(&refs_self.directory->shm_namings, 1) << 32 & SLOT_NAMING_NUMBER;
        r = name_begin(e, naming, meta);
        entry_unlock(id);
    }
    if (r < 0) {
        goalloc_free(meta);
        return r;
    }

    r = goalloc_root_compare_and_set(name, NULL, e); /* no lock is held for this round trip */
    const int locked = entry_lock(id, &e);
    if (locked < 0)
        return r < 0 ? -EIO : 0; /* NAMING stays for refs_collect(); meta is the entry's */
    slot = slot_find(e, naming); /* NULL: it has been unnamed already */
    if (r == 0 && slot != NULL)
        slot_set_named(slot);
    else if (r < 0 && slot != NULL)
        slot_drop_name(id, e, slot);
    entry_unlock(id);
    return r;
}

/* Lock the entry that a name leads to, in its present life, and copy its meta object. -EAGAIN: look again.
 *
 * Whoever sets a root has linked the name's meta object before, and takes it away after the root. So a root whose entry
 * has no name, or another one, is left over: from a process that was killed, or given up, while its request was on the
 * way. Such a root is removed here, with the stripe locked, so that nobody can give the entry this name meanwhile. */
static int named_lock(const char *name, refs_look *look, refs_id *ret_id, refs_entry **ret, void **ret_root)
{
    refs_stripe *stripe;
    refs_entry *e;
    uint64_t index = 0;
    int r = goalloc_root_get(name, ret_root);
    int is_named = 0;

    if (r == 0)
        r = entry_of_address(*ret_root, &index);
    if (r < 0)
        return r;
    stripe = stripe_of(index);
    r = stripe_lock(stripe);
    if (r < 0)
        return r;
    e = stripe_entry(stripe, index / STRIPES);
    if (entry_is_alive(e) && e->shm_meta != NULL && slot_find_name(e) != NULL) {
        const size_t have = goalloc_usable_size(e->shm_meta);
        look->have = have < look->size ? have : look->size;
        memcpy(look->meta, e->shm_meta, look->have);
        is_named = look->has_name(look->meta, look->have, name);
    }
    if (!is_named) {
        r = goalloc_root_compare_and_set(name, *ret_root, NULL);
        mutex_unlock(&stripe->mutex);
        return r == 0 || r == -EEXIST || r == -ENOENT ? -EAGAIN : r;
    }
    *ret = e;
    *ret_id = (refs_id){ .index = index, .generation = e->shm_state >> 1 };
    return 0;
}

/* The same, until it is settled. */
static int name_lock(const char *name, refs_look *look, refs_id *ret_id, refs_entry **ret, void **ret_root)
{
    int r = -EAGAIN;

    for (int i = 0; i < OPEN_TRIES && r == -EAGAIN; i++)
        r = named_lock(name, look, ret_id, ret, ret_root);
    return r == -EAGAIN ? -ENOENT : r;
}

int refs_open(const char *name, refs_look *look, int (*is_held)(refs_id id), refs_id *ret_id)
{
    refs_entry *e;
    void *root;
    int r = name_lock(name, look, ret_id, &e, &root);

    if (r < 0)
        return r;
    if (!is_held(*ret_id))
        r = slot_add(e, SLOT_HELD | refs_self.holder);
    entry_unlock(*ret_id);
    return r;
}

int refs_unname(const char *name, refs_look *look)
{
    refs_entry *e;
    refs_id id;
    uint64_t naming, *slot;
    void *root;
    int r = name_lock(name, look, &id, &e, &root);

    if (r < 0)
        return r;
    naming = *slot_find_name(e);
    entry_unlock(id);

    r = goalloc_root_compare_and_set(name, root, NULL); /* of several that try, one gets 0 */
    if (r < 0)
        return r == -EEXIST ? -ENOENT : r;
    if (entry_lock(id, &e) < 0)
        return 0;             /* the name is gone; refs_collect() returns its reference */
    slot = slot_find_name(e); /* it may be collected by now, and another one's: that stays */
    if (slot != NULL && slot_same_naming(*slot, naming))
        slot_drop_name(id, e, slot);
    entry_unlock(id);
    return 0;
}
