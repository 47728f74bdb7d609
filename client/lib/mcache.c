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
 *
 * A full span is in no list but that of all, so that the first free in it touches no other span but the last of the
 * partial ones.
 *
 * What is true if the process dies at any point: the alloc bits say which objects are allocated; all else here is
 * forgotten, and the daemon ends the lease.
 */
#include "client/lib/mcache.h"

#include <string.h>

#define LOOK_OFFERED_MAX 16u /* offered spans that may be gone: who takes one back looks at so many */

mcache mcache_none = {
    .tiny = TINY_NONE_OPEN,
    .current = { [0 ... SLOT_COUNT - 1] = &mspan_none },
};
_Thread_local mcache *mcache_tls = &mcache_none;

void mcache_clear(mcache *mc)
{
    mc->tiny = (tiny_block)TINY_NONE_OPEN;
    mc->nempty_pages = mc->noffered_pages = mc->nheld_pages = 0;
    memset(mc->slots, 0, sizeof(mc->slots));
    memcpy(mc->current, mcache_none.current, sizeof(mc->current));
    for (size_t i = 0; i < sizeof(mc->slot8[0]); i++) {
        mc->slot8[0][i] = (uint8_t)slot_of_class((size_class){ size_table8[i] }, false);
        mc->slot8[1][i] = (uint8_t)slot_of_class((size_class){ size_table8[i] }, true);
    }
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
    if (slot != SLOT_TINY) /* of tiny blocks the objects are counted, not they themselves */
        count(slot_spc(slot), mc->slots[slot].nuncounted);
    mc->slots[slot].nuncounted = 0;
}

void mcache_count_all(mcache *mc)
{
    if (mc == &mcache_none)
        return;
    for (uint32_t i = 0; i < SLOT_COUNT; i++) {
        if (mc->current[i] != &mspan_none)
            mcache_count_current(mc, mc->current[i], mspan_nused(mc->current[i]));
        if (mc->slots[i].nuncounted > 0)
            mcache_flush_count(mc, i);
    }
    count((span_class){ SPAN_CLASS_TINY }, mc->tiny.nallocs);
    mc->tiny.nallocs = 0;
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

    for (unsigned n = 0; n < LOOK_OFFERED_MAX && (s = oldest ? slot->offered.tail : slot->offered.head) != NULL; n++) {
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

    if (s == &mspan_none)
        return;
    nused = mspan_nused(s);
    mcache_leave_current(mc, s, nused);
    mc->current[slot] = &mspan_none;
    mcache_place(mc, s, nused);
}

/* The last object that was used of a word of the span's has been freed. */
static void place_freed(mcache *mc, mspan *s)
{
    if (mcache_place_freed(mc, s))
        mcache_place_empty(mc, s);
}

void mcache_close_tiny(mcache *mc)
{
    tiny_block open = mc->tiny;

    count((span_class){ SPAN_CLASS_TINY }, open.nallocs);
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
