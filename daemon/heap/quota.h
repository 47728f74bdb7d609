/*
 * Quota: pages that several lessees hold together, and may hold: those of one user, or of one group. Also pages that
 * they have left (estate.h).
 */
#ifndef GOALLOC_DAEMON_HEAP_QUOTA_H
#define GOALLOC_DAEMON_HEAP_QUOTA_H

#include <stdint.h>

typedef struct lease_quota {
    uint64_t nheld_pages;
    uint64_t limit_pages; /* 0: none */
    struct estate *estate; /* estate.c's, of pages that were left; NULL: none yet */
} lease_quota;

#endif
