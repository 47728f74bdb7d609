/*
 * Thread: which thread has which mcache.
 */
#ifndef GOALLOC_LIB_THREAD_H
#define GOALLOC_LIB_THREAD_H

#include "client/lib/mcache.h"

/* The calling thread's mcache, made at its first use. NULL: no memory. */
mcache *thread_make_mcache(void);

static inline mcache *thread_mcache(void)
{
    mcache *mc = mcache_tls;

    /* Not mcache_none; nor one of the parent's that nobody has: see thread_reset(). */
    return LIKELY(mc->thread != NULL) ? mc : thread_make_mcache();
}

/*
 * Detach: forget every span of every thread, after what they have allocated was counted and the gate was closed. The
 * daemon ends the leases. Threads that exit meanwhile, which is all that other threads may do, come before it or after.
 */
void thread_forget_all(void);

/* In the child of a fork: no thread has anything. is_forker: the calling thread is that which has forked. */
void thread_reset(bool is_forker);

#endif
