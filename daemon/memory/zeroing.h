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

/* The pages are about to lose their memory: when this returns, no slice of them will be sent. Waits for nobody. */
void zeroing_forget(zeroing *z, page_range range);

/* How a slice is zeroed: begin may wait, and false says "not now"; send does not wait; end waits for what was sent. */
typedef struct zeroing_way {
    bool (*begin)(void *data);
    void (*send)(void *data, page_range range);
    void (*end)(void *data);
    void *data;
} zeroing_way;

/* Zero a slice of what is due, from any thread of the pool. Its pages; 0: nothing is due, or not now. */
uint64_t zeroing_slice(zeroing *z, const zeroing_way *way);

#endif
