/*
 * Rounds: work in slices between the turns of the loop: what takes long is done a piece at a time, and no client waits
 * for more than a piece.
 *
 * Runs in the loop's idle handle, from service_wake() until nothing is left. Calls deaths, session, census, left and
 * sweep, and what handlers have given to service_wait().
 *
 * Sessions that are ENDING give back some spans a slice. When one is over, the Detach that asked for it is answered.
 *
 * A round is one pass over the heap for all who ask for the same. It begins when operations are WAITING for it, and
 * these are JOINED from then on. Who asks while it is under way waits for the next one, since the pass has left part
 * of the heap behind. At its end those in it are answered, or go on (Scavenge).
 *
 *     ROUND_STATS      Stats             objects are counted; also after a takeover, for the log
 *     ROUND_SESSIONS   SessionList       what sessions have left is counted; also without anybody asking, to drop what
 *                                        nobody can ask for any more
 *     ROUND_SWEEP      Trim, Scavenge    all spans are swept
 */
#include "daemon/serve/rounds.h"

#include <string.h>

#include "daemon/serve/deaths.h"
#include "daemon/serve/sweep.h"

#define END_SLICE_SPANS   256u
#define COUNT_SLICE_SPANS 1024u
#define SWEEP_SLICE_SPANS 512u

/* --- sessions that end --- */

/* If the session is over, so is the Detach that has ended it. */
static void detach_done(operation *op, void *data)
{
    client *c = client_of(op->peer);

    (void)data;
    if (client_any_session(c) != NULL)
        return;
    c->session = (session_no){ 0 };
    reply_answer(op->peer, op->id, ANSWER_DONE);
    operation_finish(op);
}

/* What the session's process says that it has allocated is added to the ended ones'. */
static void note_allocs(service *srv, session_no no)
{
    shm_u64 *counters = shm_counters(srv->heap->map, no);

    for (size_t c = 0; c < SPAN_CLASS_COUNT; c++) {
        srv->ended_allocs[c] += u64_load_relaxed(&counters[c]);
        u64_store_relaxed(&counters[c], 0);
    }
}

static bool end_sessions(service *srv)
{
    bool more = false;

    for (uint32_t i = 1, end = service_nentries(srv); i < end; i++) {
        session *s = session_at(&srv->sessions, i);
        session_no no = { (uint16_t)i };

        if (s == NULL || s->state != SHM_SESSION_ENDING || s->lessee.nops > 0)
            continue;
        note_allocs(srv, no);
        if (making_end_session(&srv->making, s, srv->heap->map))
            roots_wake(srv->roots);
        if (!session_end_step(&srv->sessions, s, END_SLICE_SPANS)) {
            more = true;
            continue;
        }
        deaths_forget(srv->deaths, no);
        events_session_end(&srv->events, &srv->sessions.ended[(srv->sessions.nended - 1) % SESSIONS_ENDED_MAX]);
        operations_each(&srv->peers, OPERATION_ENDING, detach_done, NULL);
    }
    return more;
}

/* --- rounds --- */

static void join(operation *op, void *data)
{
    rounds *r = data;

    if (op->round == r->now) {
        operation_set_state(op, OPERATION_JOINED);
        r->any = true;
    }
}

/* Begin the round r->now if somebody asks for it. */
static bool begin(rounds *r)
{
    left_table *left = r->srv->heap->left;

    r->any = r->now == ROUND_SESSIONS ? left_wants_walk(left) : r->now == ROUND_STATS && r->srv->tell_census;
    operations_each(&r->srv->peers, OPERATION_WAITING, join, r);
    if (!r->any)
        return false;
    if (r->now == ROUND_STATS)
        memset(&r->srv->census, 0, sizeof(r->srv->census));
    else if (r->now == ROUND_SESSIONS)
        left_walk_begin(left);
    else
        r->sweep_pos = page_at(0);
    return true;
}

/* A slice of the round r->now. True: that was the last one. */
static bool step(rounds *r)
{
    switch (r->now) {
    case ROUND_STATS:
        return census_step(&r->srv->census, r->srv->heap, COUNT_SLICE_SPANS);
    case ROUND_SESSIONS:
        return left_walk_step(r->srv->heap->left, COUNT_SLICE_SPANS);
    default:
        (void)sweep_some(&r->srv->sessions.leases, &r->sweep_pos, SWEEP_SLICE_SPANS, true, OFFERS_TAKE);
        return r->sweep_pos.n == 0;
    }
}

/* Once after a takeover. */
static void tell_census(service *srv)
{
    live_sum live = census_total(&srv->census).live;

    srv->tell_census = false;
    log_info("the heap that was taken over has %llu objects with %llu KiB", (unsigned long long)live.objects,
             (unsigned long long)(live.bytes / KIB));
}

static void leave(operation *op, void *data)
{
    const rounds *r = data;

    if (op->round != r->now)
        return;
    op->after_round(op);
    if (op->state == OPERATION_JOINED)
        operation_finish(op);
}

static void on_idle(uv_idle_t *idle)
{
    rounds *r = idle->data;
    bool more;

    /* Off first: what the work wakes up is not lost. */
    (void)uv_idle_stop(idle);
    more = end_sessions(r->srv);
    for (r->now = 0; r->now < ROUNDS; r->now++) {
        bool *active = &r->active[r->now];

        if (!*active)
            *active = begin(r);
        if (!*active)
            continue;
        more = true; /* also after the last slice: somebody may have asked meanwhile */
        if (step(r)) {
            *active = false;
            if (r->now == ROUND_STATS && r->srv->tell_census)
                tell_census(r->srv);
            operations_each(&r->srv->peers, OPERATION_JOINED, leave, r);
        }
    }
    if (more)
        service_wake(r->srv);
}

void rounds_start(rounds *r, service *srv)
{
    r->srv = srv;
    (void)uv_idle_init(&srv->loop, &srv->idle);
    srv->idle.data = r;
    srv->on_idle = on_idle;
}
