/*
 * Outbox: what the daemon is told without anybody waiting for it: spans that go back, large objects that were freed.
 */
#ifndef GOALLOC_LIB_OUTBOX_H
#define GOALLOC_LIB_OUTBOX_H

#include "client/lib/link.h"
#include "shm/units.h"

/*
 * Give spans back, which nobody in this process uses any more; they count as held until they are sent. Any thread, at
 * any time; never waits.
 */
void outbox_return(const uint32_t *spans, size_t nspans);

/* Say that this process has freed a large object that another session leases. Never waits; may be left out. */
void outbox_free_large(page_no run);

/*
 * Send all that is there. With the turn. 0, -ENOTCONN, -ETIMEDOUT; what is not sent stays. until NULL: no waiting, and
 * -EAGAIN if the daemon does not read.
 */
int outbox_flush(const deadline *until) __attribute__((warn_unused_result));

/* Give the turn, and see to it that what has been put here meanwhile is sent. */
void outbox_give_turn(void);

/*
 * There was no room to note spans that were to go back: nobody here knows them any more. Who asks looks for them, and
 * puts the overflow back if that has failed. With the turn.
 */
bool outbox_take_overflow(void);
void outbox_put_overflow(void);

/* There is another session, or none. With the turn. And: in the child of a fork. */
void outbox_clear(void);
void outbox_reset(void);

#endif
