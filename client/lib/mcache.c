/*
 * mcache: the lists that a thread's spans are in, and the counting of what it allocates.
 *
 * Called by refill.c (the slow paths of malloc and free), idle.c (spans that go back) and thread.c (threads that end).
 * Calls mspan.c (bits), offer.c and tiny.c. Data: all private to the thread, but for the session's counters in bitmap.
 *
 * A span's way through a thread, per slot:
 *
 *        refill                     out of free objects
 *       ---------> EMPTY ---> CURRENT ------------------> FULL
 *                    ^           ^                         |  one of its objects is freed: by this thread
 *                    |           +------- PARTIAL <--------+  (refill_note_free), or remotely (found when looked at)
 *                    +-- last object freed --+
 *
 * Of the empty spans those that are not needed soon are OFFERED (refill.c): the daemon may take them. The thread takes
 * them back when it has no other empty one; those that are gone it forgets then.
 * What waits in a magazine counts as used here (magazine.h): its flush is what "is freed" means.
 *
 * A full span is in no list but that of all, so that the first free in it touches no other span but the last of the
 * partial ones.
 *
 * What is true if the process dies at any point: the alloc bits say which objects are allocated; all else here is
 * forgotten, and the daemon ends the lease.
 */
#include "client/lib/mcache.h"

#include <string.h>

#define MAGAZINE_BYTES       (64 * KIB) /* of the objects in it */
#define MAGAZINE_ENTRIES_MAX 1024u

mcache mcache_none = {
    .tiny = TINY_NONE_OPEN,
    .current = { [0 ... SLOT_COUNT - 1] = &mspan_none },
    .front8 = { [0 ... 1] = { [0 ... SIZE_TABLE8_MAX / 8] = &mcache_none.fronts[0] } },
};
_Thread_local mcache *mcache_tls = &mcache_none;

uint64_t mcache_slot_bytes(uint32_t slot)
{
    uint32_t n = slot % SLOT_NOSCAN;

    return n < SLOT_RUNS ? size_class_bytes[n] : slot_npages(slot) * PAGE_BYTES;
}

/* Entries that the magazine of a slot has: none for blocks of tiny objects, which are not freed as a whole. */
static uint32_t magazine_capacity(uint32_t slot)
{
    uint64_t bytes = mcache_slot_bytes(slot);
    uint64_t capacity;

    if (bytes == 0 || slot == SLOT_TINY)
        return 0;
    capacity = MAGAZINE_BYTES / bytes;
    return capacity < MAGAZINE_ENTRIES_MAX ? (uint32_t)capacity : MAGAZINE_ENTRIES_MAX;
}

/* What it may become: where a span is one object, an entry pins no more than an empty span that the slot retains. */
static uint32_t magazine_capacity_max(uint32_t slot)
{
    uint32_t capacity = magazine_capacity(slot);

    return capacity > 0 && mcache_slot_bytes(slot) * 2 > slot_npages(slot) * PAGE_BYTES ? MAGAZINE_ENTRIES_MAX : capacity;
}

uint64_t mcache_bytes(void)
{
    uint64_t nentries = 0;

    for (uint32_t i = 0; i < SLOT_COUNT; i++)
        nentries += magazine_capacity_max(i);
    return sizeof(mcache) + nentries * sizeof(magazine_entry);
}

void mcache_clear(mcache *mc)
{
    magazine_entry *floor = mc->entries;

    for (uint32_t i = 0; i < SLOT_COUNT; i++) {
        mc->fronts[i] = (slot_front){ .magazine = { .top = floor, .floor = floor, .limit = floor } };
        floor += magazine_capacity_max(i);
    }
    mc->tiny = (tiny_block)TINY_NONE_OPEN;
    mc->profile_seen = mc->rate = mc->random = mc->tiny_distance = mc->ntiny_flushed = mc->ntiny_seen = 0;
    mc->retry_at_ms = 0;
    mc->nempty_pages = mc->noffered_pages = mc->nwanted_pages = mc->nheld_pages = 0;
    memset(mc->slots, 0, sizeof(mc->slots));
    for (uint32_t i = 0; i < SLOT_COUNT; i++)
        mcache_give_credit(mc, i, MCACHE_LOOK_AT);
    memcpy(mc->current, mcache_none.current, sizeof(mc->current));
    for (size_t i = 0; i <= SIZE_TABLE8_MAX / 8; i++) {
        for (unsigned noscan = 0; noscan < 2; noscan++) {
            uint32_t slot = slot_of_class((size_class){ size_table8[i] }, noscan);

            mc->front8[noscan][i] = &mc->fronts[slot];
        }
    }
}

/* The free that changes the place of a span has been done. */
static void place_freed(mcache *mc, mspan *s)
{
    if (mcache_place_freed(mc, s))
        mcache_place_idle(mc, s);
}

/* --- magazines --- */

void mcache_flush_magazine(mcache *mc, uint32_t slot)
{
    magazine *m = &mc->fronts[slot].magazine;

    while (!magazine_is_empty(m)) {
        const magazine_entry *e = --m->top;
        uint64_t page = ((uintptr_t)e->p - u64_load_relaxed(&process.base)) >> PAGE_SHIFT;
        mspan *s = atomic_load_explicit(&process.mspan_of[page], memory_order_relaxed);

        CRASH_POINT(magazine_flush);
        if (mspan_count_free(s))
            place_freed(mc, s);
    }
}

void mcache_flush_magazines(mcache *mc)
{
    for (uint32_t i = 0; mc != &mcache_none && i < SLOT_COUNT; i++)
        mcache_flush_magazine(mc, i);
}

void mcache_change_magazine(mcache *mc, uint32_t slot, bool open)
{
    magazine *m = &mc->fronts[slot].magazine;
    uint32_t capacity = magazine_capacity(slot) + mc->slots[slot].nwanted_pages / slot_npages(slot);
    uint32_t most = magazine_capacity_max(slot);

    if (!open)
        mcache_flush_magazine(mc, slot);
    m->limit = m->floor + (!open ? 0 : capacity < most ? capacity : most);
}

/* --- what is retained --- */

/* All slots but one have wanted half as much: who still wants it takes it back again. */
static void halve_wanted(mcache *mc, uint32_t but)
{
    mc->nwanted_pages = mc->slots[but].nwanted_pages;
    for (uint32_t i = 0; i < SLOT_COUNT; i++) {
        if (i == but || mc->slots[i].nwanted_pages == 0)
            continue;
        mc->slots[i].nwanted_pages /= 2;
        mc->nwanted_pages += mc->slots[i].nwanted_pages;
        if (mcache_magazine_is_open(mc, i)) {
            mcache_flush_magazine(mc, i);
            mcache_change_magazine(mc, i, true);
        }
    }
}

void mcache_note_wanted(mcache *mc, const mspan *s)
{
    mcache_slot *slot = &mc->slots[s->slot];

    if (mc->nwanted_pages + s->npages > MCACHE_WANTED_PAGES_MAX && mc->nwanted_pages > slot->nwanted_pages)
        halve_wanted(mc, s->slot);
    if (mc->nwanted_pages + s->npages > MCACHE_WANTED_PAGES_MAX)
        return;
    mc->nwanted_pages += s->npages;
    slot->nwanted_pages += s->npages;
    if (s->nelems == 1)
        mcache_change_magazine(mc, s->slot, true);
}

/* --- counting --- */

/* Count n objects of class spc as allocated, in the session's shared counters. */
static void count(span_class spc, uint64_t n)
{
    if (n > 0 && process_state_now() == PROCESS_ATTACHED)
        u64_add_relaxed(&shm_counters(&process.map, process.session)[spc.n], n);
}

void mcache_flush_count(mcache *mc, uint32_t slot)
{
    mcache_count_pops(mc, slot);
    if (slot != SLOT_TINY) /* of tiny blocks the objects are counted, not they themselves */
        count(slot_spc(slot), mc->slots[slot].nuncounted);
    mc->slots[slot].nuncounted = 0;
}

static void count_tiny(mcache *mc)
{
    count((span_class){ SPAN_CLASS_TINY }, mc->tiny.nallocs);
    mc->ntiny_flushed += mc->tiny.nallocs;
    mc->tiny.nallocs = 0;
}

void mcache_count_all(mcache *mc)
{
    if (mc == &mcache_none)
        return;
    mcache_flush_magazines(mc);
    for (uint32_t i = 0; i < SLOT_COUNT; i++) {
        if (mc->current[i] != &mspan_none)
            mcache_count_current(mc, mc->current[i], mspan_nused(mc->current[i]));
        mcache_flush_count(mc, i);
    }
    count_tiny(mc);
}

/* --- spans come and go --- */

void mcache_add(mcache *mc, mspan *s)
{
    mcache_slot *slot = &mc->slots[s->slot];

    s->all_prev = NULL;
    s->all_next = slot->all;
    if (slot->all != NULL)
        slot->all->all_prev = s;
    slot->all = s;
    slot->nspans++;
    mc->nheld_pages += s->npages;
    s->front = &mc->fronts[s->slot];
}

/* Take a span that is not current out of its list. */
static void unlist(mcache *mc, mspan *s)
{
    mcache_slot *slot = &mc->slots[s->slot];

    if (s->place == MSPAN_PARTIAL)
        mspan_list_remove(&slot->partial, s);
    if (s->place == MSPAN_OFFERED)
        mcache_unlist_offered(mc, slot, s);
    if (s->place != MSPAN_EMPTY)
        return;
    mspan_list_remove(&slot->empty, s);
    slot->nempty--;
    mc->nempty_pages -= s->npages;
}

void mcache_remove(mcache *mc, mspan *s)
{
    mcache_slot *slot = &mc->slots[s->slot];

    unlist(mc, s);
    if (slot->scan_at == s)
        slot->scan_at = s->all_next;
    if (s->all_prev != NULL)
        s->all_prev->all_next = s->all_next;
    else
        slot->all = s->all_next;
    if (s->all_next != NULL)
        s->all_next->all_prev = s->all_prev;
    slot->nspans--;
    mc->nheld_pages -= s->npages;
}

void mcache_place(mcache *mc, mspan *s, uint32_t nused)
{
    if (nused == 0)
        mcache_place_empty(mc, s);
    else if (nused >= s->nelems)
        mcache_place_full(s);
    else
        mcache_place_partial(mc, s, nused);
}

void mcache_move(mcache *mc, mspan *s, uint32_t nused)
{
    unlist(mc, s);
    mcache_place(mc, s, nused);
}

void mcache_offer(mcache *mc, mspan *s)
{
    unlist(mc, s);
    mcache_place_offered(mc, s);
}

mspan *mcache_take_offered(mcache *mc, mcache_slot *slot, bool oldest)
{
    mspan *s;

    for (unsigned n = 0; n < OFFER_LOOK_MAX && (s = oldest ? slot->offered.tail : slot->offered.head) != NULL; n++) {
        mcache_unlist_offered(mc, slot, s);
        if (offer_take_back(s, mc->thread))
            return s;
        mcache_forget(mc, s);
    }
    return NULL;
}

void mcache_forget(mcache *mc, mspan *s)
{
    s->place = MSPAN_FULL; /* in no list but that of all */
    mcache_remove(mc, s);
    offer_forget(s);
}

void mcache_put_current(mcache *mc, uint32_t slot)
{
    mspan *s = mc->current[slot];
    uint32_t nused;

    mcache_flush_magazine(mc, slot);
    if (s == &mspan_none)
        return;
    mcache_count_takes(mc, slot);
    nused = mspan_nused(s);
    mcache_leave_current(mc, s, nused);
    mc->current[slot] = &mspan_none;
    mc->fronts[slot].cache = 0; /* they are in their word's bits */
    mc->slots[slot].ncached = 0;
    mcache_place(mc, s, nused);
}

void mcache_close_tiny(mcache *mc)
{
    tiny_block open = mc->tiny;

    count_tiny(mc);
    mc->tiny = (tiny_block)TINY_NONE_OPEN;
    if (open.span == NULL)
        return;
    open.span->open_block = 0;
    if (tiny_nlive(u32_load_acquire(open.word)) == 0 && tiny_block_end(open.span, open.index))
        place_freed(mc, open.span);
}

void *mcache_open_tiny(mcache *mc, mspan *s, uint32_t bytes)
{
    tiny_block block = tiny_open(s, bytes);

    if (bytes < mc->tiny.used) { /* the new block has more room left */
        mcache_close_tiny(mc);
        mc->tiny = block;
        s->open_block = block.index + 1;
    } else {
        mc->tiny.nallocs++;
    }
    return block.base;
}
