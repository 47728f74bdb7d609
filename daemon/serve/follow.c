/*
 * Follow: which CPU the loop should be on: its client's, or any.
 *
 * Called by loopcpu.c, which says what happens and puts the thread where this wants it. No loop, no clock, no system
 * call: tests/unit/test_follow.c has a clock of its own. Data: private.
 *
 * Why: a client that waits leaves its CPU idle. A loop that is woken there needs no other CPU to wake up, and nor does
 * the client when the reply comes: a round trip takes 5 us instead of 50 to 70 (README.md).
 *
 *        ANY --- 3 requests from one CPU, and none of another client from another one for 2 ms ---> that CPU
 *        that CPU --- a request from another one; 10 ms without any; late for a request ---> ANY
 *
 * The rule of 2 ms is for several clients: while two take turns, each would pull the loop away from the other (larson
 * with two processes: 20.7 ns instead of 15.7 with a loop that follows each request). One client whose thread has moved
 * to another CPU, or one of whose threads has begun to ask, is followed there at its third request: 2 ms are 40 round
 * trips that would wake two CPUs each. Requests whose CPU is not known count as of another client.
 *
 * What CPU a request comes from is the client's word, and what else runs there nobody knows. So nothing is believed:
 * a request from elsewhere sets the loop free at once; and if the loop was late for a request, because another thread
 * had its CPU, no CPU is followed for 100 ms, the next time for 200 ms, up to 10 s. (Half of that again, whenever a CPU
 * was followed for so long and all went well.) So who lies to bring the loop where it has to wait for a CPU makes it
 * late once a pause.
 *
 * The loop was late for a request if two things come together. One is a fact: it has waited for its CPU for more than 1
 * ms since the last look, which is after at most 64 turns. There is a look
 *   - at the end of each turn that ends 1 ms or more after the last one: who has waited for 1 ms is among these;
 *   - at the end of every 64th turn, so that many short waits don't add up;
 *   - at the end of each turn without requests.
 * The other one is that a client says that its request is older than 1 ms (or does not say how old it is). For the fact
 * alone is no harm to anybody: a client that goes on computing, after a message for which it does not wait, or while a
 * timer of the loop is due, keeps the loop from its CPU until it waits for it (with the recorded programs once in some
 * 100 requests). And the client's word alone would let one client end this for all.
 */
#include "daemon/serve/follow.h"

void follow_init(follow *f)
{
    *f = (follow){ .to = FOLLOW_ANY, .at = FOLLOW_ANY, .cpu = FOLLOW_ANY, .pause_ms = FOLLOW_PAUSE_MS };
}

void follow_end(follow *f)
{
    f->to = FOLLOW_ANY;
    f->nsame = 0;
}

/* --- what comes --- */

void follow_request(follow *f, const void *who, int cpu, uint64_t age_ns, uint64_t now_ms)
{
    f->asked = true;
    f->late |= age_ns > FOLLOW_LATE_NS;
    if (cpu == FOLLOW_ANY || cpu != f->cpu) {
        if (cpu == FOLLOW_ANY || who != f->who)
            f->elsewhere_ms = f->last_ms;
        f->cpu = cpu;
        follow_end(f);
    }
    f->who = who;
    f->last_ms = now_ms;
    if (f->nsame < FOLLOW_REQUESTS)
        f->nsame++;
    if (f->to != FOLLOW_ANY || cpu == FOLLOW_ANY || f->nsame < FOLLOW_REQUESTS ||
        now_ms - f->elsewhere_ms <= FOLLOW_ALONE_MS || now_ms < f->not_before_ms)
        return;
    f->to = cpu;
    f->begun_ms = now_ms;
}

/* --- where the loop is --- */

void follow_moved(follow *f, int at, uint64_t now_ms)
{
    f->at = at;
    f->nturns = 0;
    f->turn_ms = now_ms;
}

static void pause_until(follow *f, uint64_t until_ms)
{
    follow_end(f);
    if (f->not_before_ms < until_ms)
        f->not_before_ms = until_ms;
}

void follow_refused(follow *f, uint64_t now_ms)
{
    pause_until(f, now_ms + FOLLOW_PAUSE_MS);
}

/* --- turns --- */

bool follow_wants_look(follow *f, uint64_t now_ms)
{
    bool soon = now_ms == f->turn_ms;

    f->turn_ms = now_ms;
    if (f->asked && soon && ++f->nturns < FOLLOW_LOOK_TURNS)
        return false;
    f->nturns = 0;
    return true;
}

bool follow_looked(follow *f, uint64_t waited_ns, uint64_t now_ms)
{
    if (waited_ns <= FOLLOW_LATE_NS || !f->late)
        return false;
    pause_until(f, now_ms + f->pause_ms);
    f->pause_ms *= 2;
    if (f->pause_ms > FOLLOW_PAUSE_MS_MAX)
        f->pause_ms = FOLLOW_PAUSE_MS_MAX;
    return true;
}

void follow_end_turn(follow *f)
{
    f->asked = f->late = false;
}

void follow_tick(follow *f, uint64_t now_ms)
{
    if (f->to == FOLLOW_ANY)
        return;
    if (now_ms - f->last_ms >= FOLLOW_IDLE_MS) {
        follow_end(f);
    } else if (f->pause_ms > FOLLOW_PAUSE_MS && now_ms - f->begun_ms >= f->pause_ms) {
        f->pause_ms = f->pause_ms / 2 > FOLLOW_PAUSE_MS ? f->pause_ms / 2 : FOLLOW_PAUSE_MS;
        f->begun_ms = now_ms;
    }
}
