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

/*
 * A free by the owner of s, past the magazine, has brought nfrees to 0. Leaves errno alone. The object is not looked
 * at: it comes first, where it is anyway, which saves goalloc_free() an instruction.
 */
void refill_note_free(const void *object, mspan *s);

/* Take over the span that begins at first from the pool. NULL: it is not there. */
mspan *refill_inherit(page_no first);

#endif
