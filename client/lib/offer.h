/*
 * Offer: idle spans that the daemon may take back without asking. The process's side of shm/offers.h.
 */
#ifndef GOALLOC_LIB_OFFER_H
#define GOALLOC_LIB_OFFER_H

#include "client/lib/mspan.h"
#include "shm/offers.h"

/* True if this process has where to offer anything. */
static inline bool offer_is_possible(void)
{
    return atomic_load_explicit(&process.offers, memory_order_relaxed) != NULL;
}

/*
 * Offer a span without object, which is in no list of its place. Its structure stays, with no owner: frees by whoever
 * holds the structure take the slow path from now on, since the place may soon be others'.
 */
void offer_make(mspan *s);

/*
 * Take it back, for that owner; it is in no list of its place. False: it is gone, and the caller, who takes it out of
 * all its lists, forgets it.
 */
bool offer_take_back(mspan *s, void *owner) __attribute__((warn_unused_result));
void offer_forget(mspan *s);

/*
 * True if a span was forgotten that this process may lease still, since a daemon has died while it took it: it is to
 * be looked for in the list of leases.
 */
bool offer_take_unknown(void);

/* True if the daemon has taken the span, which this process does not know, and is about to end its lease. */
bool offer_is_taken(page_no first);

#endif
