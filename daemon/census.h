/*
 * Census: how many objects live, counted from the bits, in slices.
 */
#ifndef GOALLOC_DAEMON_CENSUS_H
#define GOALLOC_DAEMON_CENSUS_H

#include "daemon/mheap.h"

typedef struct census {
    page_no pos;
    uint64_t live_objects;
    uint64_t live_bytes;
} census;

/* Count up to budget spans more. True: that was all. Start with a zeroed census. */
bool census_step(census *c, const mheap *heap, unsigned budget);

#endif
