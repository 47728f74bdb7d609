/*
 * Rounds: work in slices between the turns of the loop: what takes long is done a piece at a time, and no client waits
 * for more than a piece.
 *
 * Runs in the loop's idle handle, from service_wake() until nothing is left. Calls session, census, left, sweep, and
 * the second halves of handlers (request_heap.c, requests.c).
 *
 * Sessions that are ENDING give back some spans a slice. When one is over, the Detach that asked for it is answered.
 *
 * A round is one pass over the heap for all who ask for the same. It begins when operations are WAITING for it, and
 * these are JOINED from then on. Who asks while it is under way waits for the next one, since the pass has left part
 * of the heap behind. At its end those in it are answered, or go on (Scavenge).
 *
 *     ROUND_STATS      Stats             objects are counted
 *     ROUND_SESSIONS   SessionList       what sessions have left is counted; also without anybody asking, to drop what
 *                                        nobody can ask for any more
 *     ROUND_SWEEP      Trim, Scavenge    all spans are swept
 */
#include "daemon/serve/rounds.h"

#include <string.h>

#include "daemon/serve/deaths.h"
#include "daemon/serve/reply.h"
#include "daemon/serve/request_heap.h"
#include "daemon/serve/requests.h"
#include "daemon/serve/sweep.h"

#define END_SLICE_SPANS   256u
#define COUNT_SLICE_SPANS 1024u
#define SWEEP_SLICE_SPANS 512u

/* --- sessions that end --- */

/* The session at data is over: so is the Detach that has ended it. */
static void detach_done(operation *op, void *data)
{
    const client *over = data;
    client *c = client_of(op->peer);

    if (c->session.n != over->session.n || c->epoch != over->epoch)
        return;
    c->session = (session_no){ 0 };
    reply_ok(op->peer, op->id);
    operation_finish(op);
}

static bool end_sessions(service *srv)
{
    bool more = false;

    for (uint32_t i = 1, end = service_nentries(srv); i < end; i++) {
        session *s = session_at(&srv->sessions, i);

        if (s == NULL || s->state != SHM_SESSION_ENDING || s->lessee.nops > 0)
            continue;
        client over = { .session = s->lessee.no, .epoch = s->lessee.epoch };

        stats_note_ended(srv, over.session);
        if (!session_end_step(&srv->sessions, s, END_SLICE_SPANS)) {
            more = true;
            continue;
        }
        deaths_forget(srv->deaths, over.session);
        operations_each(&srv->peers, OPERATION_ENDING, detach_done, &over);
    }
    return more;
}

/* --- rounds --- */

static enum round round_of(const operation *op)
{
    switch (op->kind) {
    case GOALLOCD__REQUEST__OP_STATS:
        return ROUND_STATS;
    case GOALLOCD__REQUEST__OP_SESSION_LIST:
        return ROUND_SESSIONS;
    default:
        return ROUND_SWEEP;
    }
}

static void join(operation *op, void *data)
{
    rounds *r = data;

    if (round_of(op) == r->now) {
        operation_set_state(op, OPERATION_JOINED);
        r->any = true;
    }
}

/* Begin the round r->now if somebody asks for it. */
static bool begin(rounds *r)
{
    left_table *left = r->srv->heap->left;

    r->any = r->now == ROUND_SESSIONS && left_wants_walk(left);
    operations_each(&r->srv->peers, OPERATION_WAITING, join, r);
    if (!r->any)
        return false;
    if (r->now == ROUND_STATS)
        memset(&r->census, 0, sizeof(r->census));
    else if (r->now == ROUND_SESSIONS)
        left_walk_begin(left);
    else
        r->sweep_pos = page_at(0);
    return true;
}

/* A slice of the round r->now. True: that was the last one. */
static bool step(rounds *r)
{
    uint64_t nfreed = 0;

    switch (r->now) {
    case ROUND_STATS:
        return census_step(&r->census, r->srv->heap, COUNT_SLICE_SPANS);
    case ROUND_SESSIONS:
        return left_walk_step(r->srv->heap->left, COUNT_SLICE_SPANS);
    default:
        return sweep_some(&r->srv->sessions.leases, &r->sweep_pos, SWEEP_SLICE_SPANS, &nfreed);
    }
}

static void leave(operation *op, void *data)
{
    const rounds *r = data;
    client *c = client_of(op->peer);

    if (round_of(op) != r->now)
        return;
    if (r->now == ROUND_STATS)
        stats_counted(c, &r->census);
    else if (r->now == ROUND_SESSIONS)
        session_list_counted(c);
    else if (op->kind == GOALLOCD__REQUEST__OP_TRIM)
        trim_swept(c);
    else
        scavenge_swept(c);
}

static void on_idle(uv_idle_t *idle)
{
    rounds *r = idle->data;
    bool more;

    /* Off first: what the work wakes up is not lost. */
    r->srv->idle_active = false;
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

void rounds_stop(rounds *r)
{
    uv_close((uv_handle_t *)&r->srv->idle, NULL);
}
