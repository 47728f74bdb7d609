/*
 * Outbox: a short queue before the link.
 *
 * Called by the slow paths (idle.c, large.c, refill.c), since a free must not wait: neither for a daemon that is gone
 * or asleep, nor for a thread that waits for its reply. Also by rpc.c (late replies) and comeback.c (before a request,
 * after it). Calls link and held. Data: private, under a lock that is held for some instructions only.
 *
 * A thread that puts something here tries to take the turn then. If nobody holds the turn, the thread sends at once as
 * much as the socket takes. Otherwise the holder of the turn sends it: before its own request, so that the daemon has
 * it when it serves the request, and once more when it has given the turn. Nothing is forgotten between the two: an
 * entry is made before its thread looks for the turn, and the holder looks for entries after it has given the turn. So
 * either the holder sees the entry, or the thread finds the turn free. What the socket does not take, and what comes
 * while there is no connection, waits for the next request.
 *
 * Spans in the outbox count as held (held.c), so that a process that comes back does not return them twice; their mark
 * goes when they have been sent. If there is no room, spans become unknown at once. They are found as everything that
 * this process does not know is found: by the list of its leases, which the next request asks for (comeback.c). Frees
 * of large objects that find no room are left to the daemon's sweep, so their queue is shorter.
 */
#include "client/lib/outbox.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "client/lib/held.h"
#include "proto/wire.h"
#include "shm/crash.h"
#include "shm/probe.h"

#define RETURNS_MAX 4096u
#define FREES_MAX   256u

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint32_t returns[RETURNS_MAX];
static uint32_t frees[FREES_MAX];
static size_t nreturns;
static size_t nfrees;
static shm_u32 overflow; /* set after the marks of spans that found no room are gone */

/* --- in --- */

static bool has_some(void)
{
    bool any;

    (void)pthread_mutex_lock(&lock);
    any = nreturns + nfrees > 0;
    (void)pthread_mutex_unlock(&lock);
    return any;
}

/*
 * If nobody holds the turn, send what is there, and what comes until the turn is given. What the socket does not take
 * stays.
 */
static void send_soon(void)
{
    bool sent = true;

    while (sent && has_some() && link_is_open() && turn_try(&link_turn)) {
        sent = outbox_flush(NULL) == 0;
        turn_give(&link_turn);
    }
}

void outbox_return(const uint32_t *spans, size_t nspans)
{
    bool room;

    if (nspans == 0)
        return;
    held_set(spans, nspans);
    (void)pthread_mutex_lock(&lock);
    room = nspans <= RETURNS_MAX - nreturns;
    if (room) {
        memcpy(returns + nreturns, spans, nspans * sizeof(*spans));
        nreturns += nspans;
    } else {
        held_clear(spans, nspans);
        outbox_put_overflow();
    }
    (void)pthread_mutex_unlock(&lock);
    send_soon();
}

void outbox_free_large(page_no span)
{
    if (!link_is_open())
        return;
    (void)pthread_mutex_lock(&lock);
    if (nfrees < FREES_MAX)
        frees[nfrees++] = span.n;
    (void)pthread_mutex_unlock(&lock);
    send_soon();
}

/* --- out --- */

/* Copy the first entries of a queue; returns how many. They stay in it until they have been sent. */
static size_t peek(const uint32_t *queue, const size_t *n, uint32_t *ret, size_t most)
{
    size_t some;

    (void)pthread_mutex_lock(&lock);
    some = *n < most ? *n : most;
    memcpy(ret, queue, some * sizeof(*ret));
    (void)pthread_mutex_unlock(&lock);
    return some;
}

static void drop(uint32_t *queue, size_t *n, size_t some)
{
    (void)pthread_mutex_lock(&lock);
    *n -= some;
    memmove(queue, queue + some, *n * sizeof(*queue));
    (void)pthread_mutex_unlock(&lock);
}

static int flush_returns(const deadline *until)
{
    static uint32_t spans[PROTO_SPANS_MAX];
    Goallocd__ReturnSpans body = GOALLOCD__RETURN_SPANS__INIT;
    Goallocd__Request request = WIRE_REQUEST(RETURN_SPANS, return_spans, &body);

    body.spans = spans;
    while ((body.n_spans = peek(returns, &nreturns, spans, PROTO_SPANS_MAX)) > 0) {
        int r;

        CRASH_POINT(return_before_send);
        r = link_send(&request, until);
        if (r < 0)
            return r;
        CRASH_POINT(return_after_send);
        PROBE(goalloc, return, process.session.n, (uint32_t)body.n_spans);
        held_clear(spans, body.n_spans);
        drop(returns, &nreturns, body.n_spans);
    }
    return 0;
}

static int flush_frees(const deadline *until)
{
    Goallocd__FreeLarge body = GOALLOCD__FREE_LARGE__INIT;
    Goallocd__Request request = WIRE_REQUEST(FREE_LARGE, free_large, &body);

    while (peek(frees, &nfrees, &body.span, 1) > 0) {
        int r = link_send(&request, until);

        if (r < 0)
            return r;
        drop(frees, &nfrees, 1);
    }
    return 0;
}

int outbox_flush(const deadline *until)
{
    int r = flush_returns(until);

    return r < 0 ? r : flush_frees(until);
}

void outbox_give_turn(void)
{
    turn_give(&link_turn);
    send_soon();
}

bool outbox_take_overflow(void)
{
    return u32_fetch_and_acq_rel(&overflow, 0) != 0;
}

void outbox_put_overflow(void)
{
    u32_store_release(&overflow, 1);
}

void outbox_clear(void)
{
    (void)pthread_mutex_lock(&lock);
    nreturns = nfrees = 0;
    u32_store_relaxed(&overflow, 0);
    (void)pthread_mutex_unlock(&lock);
}

void outbox_reset(void)
{
    (void)pthread_mutex_init(&lock, NULL);
    outbox_clear();
}
