/*
 * Offers: what a lessee's process says the daemon may take back. The daemon's side of shm/offers.h.
 */
#ifndef GOALLOC_DAEMON_HEAP_OFFERS_H
#define GOALLOC_DAEMON_HEAP_OFFERS_H

#include "shm/offers.h"

/* A lessee's; zeroed: it has none. */
typedef struct offers {
    shm_offers *shared; /* the daemon's mapping of all of it, sparse */
    uint64_t bytes;
    uint64_t id; /* not 0; the first word of the memfd as well, by which a process says which one it has mapped */
} offers;

/* What a walk does about offers. */
enum offers_look {
    OFFERS_PASS_OVER,
    OFFERS_AGE, /* OFFERED becomes SEEN, and what is SEEN is taken */
    OFFERS_TAKE,
};

/*
 * From now on the offers are those in a new memfd, which has room for a heap of npages. The descriptor, for the
 * session's process: the caller's, who sends it and closes it. -errno: nothing has changed.
 */
int offers_renew(offers *o, uint64_t npages) __attribute__((warn_unused_result));

/* There are none any more. */
void offers_end(offers *o);

/* Who unmaps them when they end, since it may take milliseconds; NULL: offers_end() itself, as at first. */
void offers_unmap_by(void (*by)(void *at, uint64_t bytes));

/* Whether that lease of the span is offered: NONE, OFFERED or SEEN. */
enum offer_state offers_state(const offers *o, page_no first, uint64_t nleases);

/* OFFERED becomes SEEN. */
void offers_age(offers *o, page_no first, uint64_t nleases);

/*
 * Of a large span, whose object another process may free. The lease begins: its process has it in hand. Then the object
 * is freed, as the bits say: take it, true, or leave it to its process, which has it in hand. Then not that, after all.
 */
void offers_begin_large(offers *o, page_no first, uint64_t nleases);
bool offers_claim_large(offers *o, page_no first, uint64_t nleases) __attribute__((warn_unused_result));
void offers_unclaim_large(offers *o, page_no first, uint64_t nleases);

/* Take it. False: its owner has been faster. If true, the caller ends the lease. */
bool offers_take(offers *o, page_no first, uint64_t nleases) __attribute__((warn_unused_result));

#endif
