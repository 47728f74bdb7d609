/*
 * Held: which spans this process holds, by their first pages: the marks in process.mspan_of.
 */
#ifndef GOALLOC_LIB_HELD_H
#define GOALLOC_LIB_HELD_H

#include "client/lib/mspan.h"

/* What stands in mspan_of instead of a span's structure. None of them has an owner, so frees take the slow path. */
extern mspan mspan_held;  /* being described or returned, or a large span without object: held in any case */
extern mspan mspan_offered; /* the same, and in the cache: the daemon may have taken it (largecache.c) */
extern mspan mspan_large; /* a large object of large.c: held while its alloc bit is set, since others may free it */
extern mspan mspan_doubt; /* the same, and its length is in doubt (large.c) */

/* From now on the process holds these spans; or no longer. Numbers beyond the arena are passed over. */
void held_set(const uint32_t *spans, size_t nspans);
void held_clear(const uint32_t *spans, size_t nspans);

/*
 * True if the process knows what to do with a span that the daemon says it leases. Of one with the mark "offered"
 * largecache_knows() says it.
 */
bool held_knows(uint32_t first);

/* A large span that the process holds gets an object: its alloc bit is set. */
void held_set_object(page_no first);

/*
 * The object of a large span that the process leases is freed. False: it was free already. *ret_in_doubt: its length
 * is in doubt.
 */
bool held_clear_object(page_no first, bool *ret_in_doubt) __attribute__((warn_unused_result));

/*
 * A cached large span is offered; or such a one is gone, and its mark, if no other one stands there. Both under the
 * cache's lock.
 */
void held_set_offered(page_no first);
void held_clear_offered(page_no first);
bool held_is_offered(page_no first);

/* The daemon may be about to lease a large span to this process, if nobody holds it. */
void held_expect(page_no first);

/* The length of a large object may change at any time: a resize was asked for and not answered. */
void held_set_doubt(page_no first);
bool held_is_in_doubt(page_no first);

/* In the child of a fork. */
void held_reset(void);

#endif
