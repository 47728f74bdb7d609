/*
 * Census: how many objects live, counted from the bits, in slices; by span class.
 */
#ifndef GOALLOC_DAEMON_HEAP_CENSUS_H
#define GOALLOC_DAEMON_HEAP_CENSUS_H

#include "daemon/heap/live.h"
#include "daemon/heap/mheap.h"

typedef struct census_class {
    uint64_t nspans;
    uint64_t npages;
    live_sum live;
} census_class;

/* What a session leases. */
typedef struct census_lessee {
    uint32_t epoch; /* of the session that had the number when it was counted */
    live_sum live;
    uint64_t nidle_pages; /* of spans in which nothing lives */
} census_lessee;

typedef struct census {
    page_no pos;
    census_class classes[SPAN_CLASS_COUNT];
    census_lessee leased[SHM_SESSIONS_MAX]; /* by session number */
    live_sum owned[SHM_OWNERS_MAX]; /* by owner: what it frees when it ends, but for what it has adopted */
} census;

/* Count up to budget spans more. True: that was all. Start with a zeroed census. */
bool census_step(census *c, const mheap *heap, unsigned budget);

/* What was counted of that session; zeroed if it leased nothing when its turn came, or is newer than that. */
census_lessee census_of_lessee(const census *c, session_no no, uint32_t epoch);

/* Of all classes. */
census_class census_total(const census *c);

#endif
