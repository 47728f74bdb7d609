/*
 * Sweep: passes over all spans by address, a slice at a time, which find what was freed remotely in spans that nobody
 * leases.
 *
 * Background passes run on a timer; rounds.c and leasing.c sweep on request. Calls lease and mheap. Data: private.
 *
 * A pass begins by making all that is swept unswept (mcentral.c); it skips spans that a refill sweeps meanwhile. A
 * slice takes half a millisecond, and the next one follows after 5 ms. After a pass there is a pause: 100 ms, doubled
 * to at most 1 s while passes find nothing, and at least 20 times as long as the pass has worked, so that sweeping
 * costs a twentieth of a CPU at worst. So memory that was freed remotely is back within about a second on heaps up to
 * some hundred thousand spans that nobody leases, and an idle daemon wakes once a second.
 *
 * Passes also find the spans that processes offer (shm/offers.h), but only those that begin a second after the last
 * one that did: what a process uses again within a second is not taken from it. What is offered is marked by the first
 * pass and taken by the second one, so after 1 to 2 s and the time that passes take.
 */
#include "daemon/serve/sweep.h"

#define SLICE_SPANS   64u /* between two looks at the clock */
#define SLICE_NS      UINT64_C(500000)
#define SLICE_GAP_MS  5u
#define PAUSE_MIN_MS  100u
#define PAUSE_MAX_MS  1000u
#define PAUSE_RATIO   20u
#define LOOK_EVERY_MS 1000u

static void begin_pass(sweep *s, uint64_t now_ms)
{
    s->table->heap->sweep_gen++;
    s->naged = s->table->naged;
    s->look = now_ms >= s->next_look_ms ? OFFERS_AGE : OFFERS_PASS_OVER;
    if (s->look == OFFERS_AGE)
        s->next_look_ms = now_ms + LOOK_EVERY_MS;
}

/* Returns how long to wait after a pass, in ms. */
static uint64_t end_pass(sweep *s, uint64_t now_ms)
{
    uint64_t to_look_ms = s->next_look_ms > now_ms ? s->next_look_ms - now_ms : 0;
    uint64_t least_ms = s->worked_ns * PAUSE_RATIO / 1000000;
    uint64_t pause_ms;

    s->pause_ms = s->nfreed != 0 ? PAUSE_MIN_MS : s->pause_ms * 2;
    if (s->pause_ms > PAUSE_MAX_MS)
        s->pause_ms = PAUSE_MAX_MS;
    pause_ms = s->table->naged != s->naged && s->pause_ms > to_look_ms ? to_look_ms : s->pause_ms;
    s->nfreed = 0;
    s->worked_ns = 0;
    return pause_ms > least_ms ? pause_ms : least_ms;
}

uint64_t sweep_some(lease_table *table, page_no *pos, unsigned nspans, bool force, enum offers_look look)
{
    uint64_t nfreed = 0;

    for (; nspans > 0; nspans--) {
        page_no first = mheap_next_span(table->heap, pos);

        if (first.n == 0) {
            *pos = page_at(0);
            break;
        }
        nfreed += lease_sweep(table, first, force) || lease_take_offered(table, first, look);
    }
    return nfreed;
}

static void sweep_tick(uv_timer_t *timer)
{
    sweep *s = timer->data;
    uint64_t start = uv_hrtime();

    if (s->pos.n == 0)
        begin_pass(s, start / 1000000);
    do
        s->nfreed += sweep_some(s->table, &s->pos, SLICE_SPANS, false, s->look);
    while (s->pos.n != 0 && uv_hrtime() - start < SLICE_NS);
    s->worked_ns += uv_hrtime() - start;
    (void)uv_timer_start(timer, sweep_tick, s->pos.n != 0 ? SLICE_GAP_MS : end_pass(s, uv_hrtime() / 1000000), 0);
}

void sweep_start(sweep *s, uv_loop_t *loop, lease_table *table)
{
    *s = (sweep){ .table = table, .pause_ms = PAUSE_MIN_MS };
    (void)uv_timer_init(loop, &s->timer);
    s->timer.data = s;
    (void)uv_timer_start(&s->timer, sweep_tick, PAUSE_MIN_MS, 0);
}
