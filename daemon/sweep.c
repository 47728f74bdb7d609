/*
 * Sweep: passes over all spans by address, a slice at a time.
 *
 * Called by a timer of the loop. A slice is 4096 spans (well below a millisecond), slices follow each other after 5
 * ms, and a pass after a pause: 100 ms, doubled to at most 1 s while passes find nothing. So memory freed from afar
 * is back within about a second on heaps up to some millions of spans, and an idle daemon wakes once a second.
 * Nothing to sweep, no work: an empty heap costs one look at its counter.
 */
#include "daemon/sweep.h"

#define SLICE_SPANS   4096u
#define SLICE_GAP_MS  5u
#define PAUSE_MIN_MS  100u
#define PAUSE_MAX_MS  1000u

static void sweep_tick(uv_timer_t *timer)
{
    sweep *s = timer->data;
    mheap *heap = s->table->heap;
    uint64_t next_ms = SLICE_GAP_MS;

    for (unsigned i = 0; i < SLICE_SPANS; i++) {
        page_no first = mheap_next_span(heap, &s->pos);

        if (first.n == 0) {
            s->pos = page_at(0);
            s->pause_ms = s->nfreed != 0 ? PAUSE_MIN_MS : s->pause_ms * 2;
            if (s->pause_ms > PAUSE_MAX_MS)
                s->pause_ms = PAUSE_MAX_MS;
            s->nfreed = 0;
            next_ms = s->pause_ms;
            break;
        }
        s->nfreed += lease_sweep(s->table, first);
    }
    (void)uv_timer_start(timer, sweep_tick, next_ms, 0);
}

void sweep_start(sweep *s, uv_loop_t *loop, session_table *table)
{
    *s = (sweep){ .table = table, .pause_ms = PAUSE_MIN_MS };
    (void)uv_timer_init(loop, &s->timer);
    s->timer.data = s;
    (void)uv_timer_start(&s->timer, sweep_tick, PAUSE_MIN_MS, 0);
}

void sweep_stop(sweep *s)
{
    uv_close((uv_handle_t *)&s->timer, NULL);
}

uint64_t sweep_all(session_table *table)
{
    page_no pos = { 0 };
    uint64_t nfreed = 0;

    for (page_no first = mheap_next_span(table->heap, &pos); first.n != 0; first = mheap_next_span(table->heap, &pos))
        nfreed += lease_sweep(table, first);
    return nfreed;
}
