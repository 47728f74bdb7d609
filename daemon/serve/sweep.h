/*
 * Sweep: finds what was freed remotely in spans that nobody leases, in the background or at once.
 */
#ifndef GOALLOC_DAEMON_SERVE_SWEEP_H
#define GOALLOC_DAEMON_SERVE_SWEEP_H

#include <uv.h>

#include "daemon/heap/lease.h"

typedef struct sweep {
    lease_table *table;
    uv_timer_t timer;
    page_no pos;
    enum offers_look look; /* of this pass */
    uint64_t next_look_ms; /* the next pass that ages offers begins then, or later */
    uint64_t naged;        /* the table's, when this pass began */
    uint64_t pause_ms;  /* until the next pass */
    uint64_t nfreed;    /* spans that this pass has freed */
    uint64_t worked_ns; /* by this pass */
} sweep;

void sweep_start(sweep *s, uv_loop_t *loop, lease_table *table);

/*
 * Sweep up to nspans spans from *pos on; force: also those that the pass under way has swept; look: what happens to
 * spans that are offered. *pos moves behind them, and is page 0 again at the end of the heap. Returns how many spans
 * came free.
 */
uint64_t sweep_some(lease_table *table, page_no *pos, unsigned nspans, bool force, enum offers_look look);

#endif
