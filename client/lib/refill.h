/*
 * Refill: the slow paths of malloc and free: a thread's current span has no more objects, or a span changes its place.
 */
#ifndef GOALLOC_LIB_REFILL_H
#define GOALLOC_LIB_REFILL_H

#include "client/lib/mcache.h"

/* Make a span with a free object current, of what the thread holds without looking far. NULL: there is none. */
mspan *refill_near(uint32_t slot);

/* The same, of all that there is: NULL with errno set. The caller has made sure that there is a session to write in. */
mspan *refill_far(uint32_t slot);

/* A free by the owner of s has brought nfrees to 0. Leaves errno alone. */
void refill_note_free(mspan *s);

/* Clear the bit of a live object of the thread's own span, past its magazine, which is full. Leaves errno alone. */
void refill_spill(mspan *s, shm_u64 *word, uint64_t bit);

/* Take over the span that begins at first from the pool. NULL: it is not there. */
mspan *refill_inherit(page_no first);

#endif
