/*
 * Zeroing: pages that have got memory are zeroed in the daemon's time, before a client's first touch has to do it.
 */
#ifndef GOALLOC_DAEMON_MEMORY_ZEROING_H
#define GOALLOC_DAEMON_MEMORY_ZEROING_H

#include <stdbool.h>

#include "shm/units.h"

typedef struct zeroing zeroing;

/* NULL: no memory. The caller ends it with zeroing_free(), which returns NULL. */
zeroing *zeroing_new(void);
zeroing *zeroing_free(zeroing *z);

/* True if there are pages to zero. From any thread, without waiting. */
bool zeroing_is_due(const zeroing *z);

/* The pages have got memory by fallocate, and it is worth zeroing. From any thread of the pool. */
void zeroing_add(zeroing *z, page_range range);

/*
 * The pages are about to lose their memory: when this returns, nothing is zeroed there and nothing will be. From any
 * thread of the pool: it waits for a slice that is under way.
 */
void zeroing_forget(zeroing *z, page_range range);

/* Zero a slice of what is due, in the arena's memfd, from any thread of the pool. Its pages; 0: nothing is due. */
uint64_t zeroing_slice(zeroing *z, int fd);

#endif
