/*
 * Idle: what a thread holds without objects, and what of it goes back to the daemon.
 */
#ifndef GOALLOC_LIB_IDLE_H
#define GOALLOC_LIB_IDLE_H

#include "client/lib/mcache.h"

/* What a thread retains of its empty spans; it offers what is more. Of a slot: two spans, or so many pages. */
#define IDLE_SLOT_PAGES_MAX (64 * KIB / PAGE_BYTES)
#define IDLE_PAGES_MAX      (MIB / PAGE_BYTES)

/* True if the thread retains so much that it offers a span of npages in this slot that has become empty. */
static inline bool idle_is_enough(const mcache *mc, const mcache_slot *slot, uint64_t npages)
{
    return (slot->nempty >= 2 && (slot->nempty + 1) * npages > IDLE_SLOT_PAGES_MAX) ||
           mc->nempty_pages + npages > IDLE_PAGES_MAX;
}

/* Offer the span, which has become empty and is in no list; and one that has been so longest, if there are too many. */
static inline void idle_offer(mcache *mc, mspan *s)
{
    mcache_slot *slot = &mc->slots[s->slot];

    mcache_place_offered(mc, s);
    if (UNLIKELY(slot->nempty > 2 && slot->nempty * (uint64_t)s->npages > IDLE_SLOT_PAGES_MAX))
        mcache_offer(mc, slot->empty.tail);
}

/*
 * The thread is about to ask the daemon for npages, in a slot or (SLOT_COUNT) for a large object: give as many back
 * that other slots hold empty, if they are more than a small part.
 */
void idle_exchange(mcache *mc, uint32_t slot, uint64_t npages);

/* Give back all that the thread, the pool and the cache of large spans hold empty. */
void idle_return_empty(mcache *mc);

/* Give all of the thread's and the pool's spans back (RECLAIM: the empty ones). Sent, not awaited. */
void idle_return_all(void);

/* True if somebody wants idle spans back, and the thread has not returned them yet. */
static inline bool idle_is_wanted(const mcache *mc)
{
    return process_trim_seq() != mc->trim_seen;
}

#endif
