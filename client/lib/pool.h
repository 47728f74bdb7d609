/*
 * Pool: the spans of threads that have exited, which belong to the process until a thread takes them over.
 */
#ifndef GOALLOC_LIB_POOL_H
#define GOALLOC_LIB_POOL_H

#include "client/lib/mspan.h"

/* A thread has ended: all its spans of one slot, linked by all_next, go to the pool. They are in no list. */
void pool_put(mspan *all);

/* A span of that slot with a free object, for a thread; *ret_nused: what is used in it. NULL: there is none. */
mspan *pool_take(uint32_t slot, void *thread, uint32_t *ret_nused);

/* The span that begins at first, for a thread that frees in it. NULL: it is not in the pool. */
mspan *pool_take_at(page_no first, void *thread, uint32_t *ret_nused);

/* All of them, or only those without object, linked by next, to be returned. */
mspan *pool_take_all(bool empty_only);

/* Detach: forget them. And: in the child of a fork. */
void pool_forget(void);
void pool_reset(void);

#endif
