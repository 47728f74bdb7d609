/*
 * Rounds: work in slices between the turns of the loop: what takes long is done a piece at a time, and no client waits
 * for more than a piece.
 *
 * Runs in the loop's idle handle, from service_wake() until nothing is left. Calls deaths, session, stats, check, left
 * and sweep, and what handlers have given to service_wait(). A turn does three things, each for a quarter of a
 * millisecond at most: sessions and groups that end; a slice of one round; a request that is PAUSED.
 *
 * Sessions that are ENDING give back some spans a slice, in turn. When one is over, the Detach that asked for it is
 * answered. So do groups whose last session has gone.
 *
 * A round is one pass over the heap for all who ask for the same. Who asks while it is under way waits for the next
 * one, since the pass has left part of the heap behind; so whatever a client has done before it asks, its answer shows.
 *
 *     IDLE -> JOINING   somebody waits, and the round may begin
 *          -> WORKING   all who wait are in it
 *          -> LEAVING   the pass is done: those in it are answered, some a slice, or go on (Scavenge)
 *          -> IDLE
 *
 *     ROUND_STATS      Stats             objects are counted; also after a takeover, for the log, and for systemd
 *     ROUND_SESSIONS   SessionList       what sessions have left is counted; also without anybody asking, to drop what
 *                                        nobody can ask for any more
 *     ROUND_SWEEP      Trim, Scavenge    all sessions are asked for what is idle, and all spans are swept
 *     ROUND_RECLAIM    Reclaim           what ended sessions have left is freed; for one who asks (request_group.c)
 *     ROUND_CHECK      Check             all tables are recounted
 *
 * What rounds cost is bounded whoever asks and how often. Counts and checks take a tenth of a CPU: after one, the next
 * of its kind begins when nine times as long has passed. What has been saved up in the last 2 s may be used at once, so
 * that who asks now and then does not wait; and nobody waits for more than 2 s in between, so that no request times
 * out, which makes it more than a tenth if a count takes more than 0.2 s (some 10 GiB of small objects). A sweep is
 * begun once a second, since it empties the caches of all threads of all processes.
 */
#include "daemon/serve/rounds.h"

#include "daemon/serve/check.h"
#include "daemon/serve/deaths.h"
#include "daemon/serve/stats.h"
#include "daemon/serve/sweep.h"
#include "shm/probe.h"

#define SLICE_NS   UINT64_C(250000)
#define STEP_SPANS 16u /* between two looks at the clock; a span takes 10 us at most */
#define STEP_CHECK 64u

#define COST_FACTOR    10u /* of ten parts of the time a round takes one */
#define SAVED_NS       UINT64_C(2000000000)
#define PAUSE_NS_MAX   UINT64_C(2000000000) /* a client's request must not time out behind others */
#if defined(GOALLOC_CRASH_POINTS) /* hundreds of daemons are trimmed one after the other */
#define SWEEP_EVERY_NS UINT64_C(1000000)
#else
#define SWEEP_EVERY_NS UINT64_C(1000000000)
#endif

/* --- sessions that end --- */

/* If the session was to be ended by a Detach, that is answered. */
static void answer_detach(service *srv, session_no no)
{
    client *c = srv->clients[no.n];

    if (c == NULL || c->op.state != OPERATION_ENDING || client_any_session(c) != NULL)
        return;
    service_forget_client(c);
    c->session = (session_no){ 0 };
    reply_answer(&c->peer, c->op.id, ANSWER_DONE);
    operation_finish(&c->op);
}

/* Who has ended, how, and what is left of it. */
static void log_end(const session *s)
{
    const log_subject subject = session_subject(s);
    const lease_ending *e = &s->lessee.ending;
    const char *how = s->detached            ? "has detached"
                      : s->why_ended != NULL ? s->why_ended
                                             : "had ended before this daemon";

    log_client_event(s->detached ? LOG_EVENT_SESSION_ENDED : LOG_EVENT_SESSION_DIED, &subject,
                     "%s; of %llu spans, %llu objects with %llu KiB stay, %llu of its own with %llu KiB are freed", how,
                     (unsigned long long)e->nspans, (unsigned long long)e->left.objects,
                     (unsigned long long)(e->left.bytes / KIB), (unsigned long long)e->freed.objects,
                     (unsigned long long)(e->freed.bytes / KIB));
}

/* True: it is over, s is gone. */
static bool end_session(service *srv, session *s, uint64_t until_ns)
{
    session_no no = s->lessee.no;
    const session *ended;

    stats_session_ends(srv, no);
    if (making_end_session(&srv->making, s, srv->heap->map))
        roots_wake(srv->roots);
    while (!session_end_step(&srv->sessions, s, STEP_SPANS)) {
        if (uv_hrtime() >= until_ns)
            return false;
    }
    deaths_forget(srv->deaths, no);
    ended = &srv->sessions.ended[(srv->sessions.nended - 1) % SESSIONS_ENDED_MAX];
    log_end(ended);
    PROBE(goallocd, session_end, no.n, ended->pid, ended->detached, ended->lessee.ending.left.bytes,
          ended->lessee.ending.freed.bytes, ended->label);
    events_session_end(&srv->events, ended);
    answer_detach(srv, no);
    return true;
}

/* True if there is more to do now. */
static bool end_sessions(rounds *r, uint64_t until_ns)
{
    service *srv = r->srv;
    uint32_t end = srv->holder == NULL ? service_nentries(srv) : 0; /* not while somebody copies the heap */

    for (uint32_t i = 0; i < end && srv->sessions.nending > 0; i++) {
        uint32_t no = (r->ending + i) % end;
        session *s = session_at(&srv->sessions, no);

        if (s == NULL || s->state != SHM_SESSION_ENDING || s->lessee.nops > 0)
            continue;
        if (!end_session(srv, s, until_ns) || uv_hrtime() >= until_ns) {
            r->ending = no + 1; /* others are to have a slice, too */
            return true;
        }
    }
    return false;
}

/* Groups without open or lost sessions end. For one that waits for a child, deaths.c looks at its sign of life. */
static bool end_groups(rounds *r, uint64_t until_ns)
{
    service *srv = r->srv;
    const group_table *groups = srv->heap->groups;
    bool more = false;

    for (uint32_t n = 0; n < SHM_GROUPS_MAX && groups->ngroups > 0 && srv->holder == NULL; n++) {
        uint32_t i = (r->ending_group + n) % SHM_GROUPS_MAX;
        group *g = groups->groups[i];
        enum session_group_end end;

        if (g == NULL || g->nliving > 0 || g->waits)
            continue;
        do
            end = session_group_end_step(&srv->sessions, g, STEP_SPANS);
        while (end == GROUP_HAS_MORE && uv_hrtime() < until_ns);
        if (end == GROUP_WAITS_FOR_CHILD)
            deaths_look(srv->deaths);
        more |= end == GROUP_HAS_MORE;
        if (uv_hrtime() >= until_ns) {
            r->ending_group = i + 1;
            return true;
        }
    }
    return more;
}

/* --- rounds --- */

static bool is_wanted(const service *srv, enum round round)
{
    return operations_first(&srv->peers, OPERATION_WAITING, round) != NULL ||
           (round == ROUND_SESSIONS && left_wants_walk(srv->heap->left)) ||
           (round == ROUND_STATS && (srv->tell_census || srv->wants_count));
}

static void begin(rounds *r, enum round round)
{
    service *srv = r->srv;

    if (round == ROUND_STATS) {
        srv->wants_count = false;
        stats_begin(srv);
    } else if (round == ROUND_SESSIONS) {
        left_walk_begin(srv->heap->left);
    } else if (round == ROUND_RECLAIM) {
        srv->reclaiming = true;
    } else if (round == ROUND_CHECK) {
        check_begin(srv);
    } else {
        r->sweep_pos = page_at(0);
        service_ask_trim(srv, true);
    }
}

/* Places in it have been freed. */
static void sweep_span(void *data, page_no first)
{
    service *srv = data;

    if (lease_sweep(&srv->sessions.leases, first, true))
        queue_note(&srv->queue, WAIT_PAGES);
}

/* A part of a slice. True: that was the last one. */
static bool step(rounds *r, enum round round)
{
    service *srv = r->srv;

    switch (round) {
    case ROUND_STATS:
        return stats_step(srv, STEP_SPANS);
    case ROUND_SESSIONS:
        return left_walk_step(srv->heap->left, STEP_SPANS);
    case ROUND_RECLAIM:
        srv->reclaiming = !left_free_step(srv->heap->left, STEP_SPANS, sweep_span, srv);
        return !srv->reclaiming;
    case ROUND_CHECK:
        return check_step(srv, STEP_CHECK);
    default:
        if (srv->ask_at != 0 && !service_ask_some(srv))
            return false;
        (void)sweep_some(&srv->sessions.leases, &r->sweep_pos, STEP_SPANS, true, OFFERS_TAKE);
        return r->sweep_pos.n == 0;
    }
}

/* What lives has been counted: that is said in the log, once after a takeover, and to who wants to know (pulse.c). */
static void tell_count(service *srv, const round_state *state)
{
    const log_subject subject = { .heap = srv->heap->map->header->generation };
    live_sum live = stats_live();

    if (srv->tell_census)
        log_event(LOG_EVENT_TAKEOVER_COUNTED, &subject, "the heap that was taken over has %llu objects with %llu KiB",
                  (unsigned long long)live.objects, (unsigned long long)(live.bytes / KIB));
    srv->tell_census = false;
    if (srv->on_count != NULL)
        srv->on_count(srv->on_count_data, live.bytes, state->worked_ns);
}

/* The operation that is answered leaves the round, whatever becomes of it. */
static void leave(operation *op)
{
    op->after_round(op);
    if (op->state == OPERATION_JOINED)
        operation_finish(op);
}

/* A round that is not IDLE goes on until then, into its next stages too. */
static void work(rounds *r, enum round round, uint64_t until_ns)
{
    const peer_host *peers = &r->srv->peers;
    round_state *state = &r->states[round];
    operation *op;

    while (state->stage != STAGE_IDLE && uv_hrtime() < until_ns) {
        if (state->stage == STAGE_JOINING) {
            op = operations_first(peers, OPERATION_WAITING, round);
            if (op != NULL) {
                operation_set_state(op, OPERATION_JOINED);
                continue;
            }
            begin(r, round);
            state->stage = STAGE_WORKING;
        } else if (state->stage == STAGE_WORKING) {
            if (!step(r, round))
                continue;
            if (round == ROUND_STATS)
                tell_count(r->srv, state);
            state->stage = STAGE_LEAVING;
        } else {
            op = operations_first(peers, OPERATION_JOINED, round);
            if (op != NULL)
                leave(op);
            else
                state->stage = STAGE_IDLE;
        }
    }
}

/* The round is over: when may the next one begin? */
static void set_pause(round_state *state, enum round round, uint64_t now)
{
    if (round == ROUND_SWEEP) {
        state->not_before_ns = state->began_ns + SWEEP_EVERY_NS;
        PROBE(goallocd, sweep_end, state->worked_ns / 1000);
    }
    if (round == ROUND_SWEEP || round == ROUND_RECLAIM)
        return;
    if (state->not_before_ns + SAVED_NS < now)
        state->not_before_ns = now - SAVED_NS;
    state->not_before_ns += state->worked_ns * COST_FACTOR;
    if (state->not_before_ns > now + PAUSE_NS_MAX)
        state->not_before_ns = now + PAUSE_NS_MAX;
}

/* A slice of a round. False: it has nothing to do now; *earliest_ns may fall to when it will have. */
static bool go_on(rounds *r, enum round round, uint64_t *earliest_ns)
{
    round_state *state = &r->states[round];
    uint64_t now = uv_hrtime();

    if (state->stage == STAGE_IDLE) {
        if (!is_wanted(r->srv, round))
            return false;
        if (now < state->not_before_ns) {
            *earliest_ns = state->not_before_ns < *earliest_ns ? state->not_before_ns : *earliest_ns;
            return false;
        }
        *state = (round_state){ .stage = STAGE_JOINING, .began_ns = now, .not_before_ns = state->not_before_ns };
    }
    work(r, round, now + SLICE_NS);
    state->worked_ns += uv_hrtime() - now;
    if (state->stage == STAGE_IDLE)
        set_pause(state, round, uv_hrtime());
    return true;
}

static void on_timer(uv_timer_t *timer)
{
    service_wake(timer->data);
}

/* A slice of the next round that has something to do. True: there may be more. */
static bool rounds_go_on(rounds *r)
{
    uint64_t earliest_ns = UINT64_MAX;
    uint64_t now;

    for (unsigned i = 0; i < ROUNDS; i++) {
        enum round round = (r->turn + i) % ROUNDS;

        if (go_on(r, round, &earliest_ns)) {
            r->turn = round + 1;
            return true;
        }
    }
    now = uv_hrtime();
    if (earliest_ns != UINT64_MAX && !r->srv->stopping)
        (void)uv_timer_start(&r->timer, on_timer, earliest_ns > now ? (earliest_ns - now) / 1000000 + 1 : 0, 0);
    return false;
}

/* --- the loop --- */

static void on_idle(uv_idle_t *idle)
{
    rounds *r = idle->data;
    operation *paused = operations_first(&r->srv->peers, OPERATION_PAUSED, 0);
    bool more;

    /* Off first: what the work wakes up is not lost. */
    (void)uv_idle_stop(idle);
    if (paused != NULL)
        operation_take_turn(paused);
    more = end_sessions(r, uv_hrtime() + SLICE_NS);
    more |= end_groups(r, uv_hrtime() + SLICE_NS);
    more |= r->srv->ask_at != 0 && !service_ask_some(r->srv);
    more |= rounds_go_on(r);
    more |= operations_first(&r->srv->peers, OPERATION_PAUSED, 0) != NULL;
    if (more)
        service_wake(r->srv);
}

void rounds_start(rounds *r, service *srv)
{
    r->srv = srv;
    (void)uv_idle_init(&srv->loop, &srv->idle);
    (void)uv_timer_init(&srv->loop, &r->timer);
    srv->idle.data = r;
    r->timer.data = srv;
    srv->on_idle = on_idle;
}
