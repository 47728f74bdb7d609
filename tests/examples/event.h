/*
 * Event: processes wait until something has changed, and any of them may be killed at any time.
 *
 * A counter in the shared heap that goes up with each change, and a futex on it. No word says who waits, so a dead
 * waiter leaves nothing behind, and a signaller waits for nobody. (pthread_cond_t is not made for that: glibc's
 * counts its waiters, and a signaller can wait for ever for one that was killed.)
 *
 *   waiter                                           signaller
 *   1. seen = event_now()                            1. change the state, under its lock
 *   2. look at the state, under its lock             2. event_signal()
 *   3. not yet: event_wait(seen, timeout); again
 *
 * If the change comes after 2, the counter is not `seen` any more, and the wait ends at once. A signaller that is
 * killed between its two steps wakes nobody: that is why the wait has a time-out, after which the state is looked at
 * again.
 */
#ifndef EXAMPLES_EVENT_H
#define EXAMPLES_EVENT_H

#include <limits.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

typedef struct event {
    _Atomic uint32_t count; /* of zeros: a new event */
} event;

static inline uint32_t event_now(event *e)
{
    return atomic_load(&e->count);
}

static inline void event_signal(event *e)
{
    (void)atomic_fetch_add(&e->count, 1);
    (void)syscall(SYS_futex, &e->count, FUTEX_WAKE, INT_MAX, NULL, NULL, 0); /* not _PRIVATE */
}

/* Until a signal since event_now() gave `seen`, a signal handler, or the time-out ends it. */
static inline void event_wait(event *e, uint32_t seen, long timeout_ms)
{
    struct timespec timeout = { timeout_ms / 1000, timeout_ms % 1000 * 1000000 };

    (void)syscall(SYS_futex, &e->count, FUTEX_WAIT, seen, &timeout, NULL, 0);
}

#endif
