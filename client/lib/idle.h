/*
 * Idle: what a thread holds without objects, and what of it goes back to the daemon.
 */
#ifndef GOALLOC_LIB_IDLE_H
#define GOALLOC_LIB_IDLE_H

#include "client/lib/mcache.h"

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
