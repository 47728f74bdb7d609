/*
 * Marked: the spans in which this process allocates what it samples, and nothing else (shm/profile.h).
 */
#ifndef GOALLOC_LIB_MARKED_H
#define GOALLOC_LIB_MARKED_H

#include "client/lib/mspan.h"

/* A free place in a marked span, which is its taker's until it is allocated or put back. */
typedef struct marked_place {
    mspan *s;
    uint32_t index;
} marked_place;

/*
 * Take a place for an object of the slot. False: there is none, and the daemon does not lease a span for it just now.
 * May wait for the daemon for 250 ms, twice that while the daemon is away, so no lock is held; errno is left alone.
 */
bool marked_take(uint32_t slot, marked_place *ret) __attribute__((warn_unused_result));

/* Where it is in the arena. */
uint64_t marked_offset(const marked_place *place);

/* Its record has been written: it is allocated. Or put it back, as free as before; others are taken first. */
void *marked_allocate(const marked_place *place);
void marked_put_back(const marked_place *place);

/* This process has freed an object in a marked span that it leases, by its remote bit. Leaves errno alone. */
void marked_note_free(page_no first);

/* Spans without object go back to the daemon. */
void marked_return_empty(void);

/* Detach: the leases are gone. And: in the child of a fork, the lock too, whoever holds it. */
void marked_forget(void);
void marked_reset(void);

#endif
