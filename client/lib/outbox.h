/*
 * Outbox: what the daemon is told without anybody waiting for it: spans that go back, large objects that were freed.
 */
#ifndef GOALLOC_LIB_OUTBOX_H
#define GOALLOC_LIB_OUTBOX_H

#include "client/lib/link.h"
#include "shm/units.h"

/*
 * Give back spans that nobody in this process uses any more; they count as held until they are sent. Any thread, at any
 * time; never waits.
 */
void outbox_return(const uint32_t *spans, size_t nspans);

/* Say that this process has freed a large object that another session leases. Never waits; the message may be lost. */
void outbox_free_large(page_no span);

/*
 * Send all that is there. The caller holds the turn. 0, -ENOTCONN, -ETIMEDOUT; what is not sent stays. until NULL: do
 * not wait, and return -EAGAIN if the daemon does not read.
 */
int outbox_flush(const deadline *until) __attribute__((warn_unused_result));

/* Give the turn, and make sure that what has been put here meanwhile is sent. */
void outbox_give_turn(void);

/*
 * The overflow says that there was no room for spans to give back, which are unknown to this process now. Whoever takes
 * it (true: it was set) must look for them, and puts it back if that fails. The caller holds the turn.
 */
bool outbox_take_overflow(void);
void outbox_put_overflow(void);

/* The session is another one, or there is none. The caller holds the turn. */
void outbox_clear(void);

/* In the child of a fork. */
void outbox_reset(void);

#endif
