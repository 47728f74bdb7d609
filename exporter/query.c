/*
 * Query: asks the daemon for all figures, on one connection, without ever waiting for it.
 *
 * Called by cache.c. Calls proto's channel and wire. Data: the connection, and memory of fixed size into which the
 * replies are unpacked, one each: so what a daemon sends costs no more than that.
 *
 *     IDLE -> CONNECTING   the daemon's listener has no room: tried again after a while
 *          -> ASKED        three requests are sent at once (Stats, Limits, SessionList), and answered in this order
 *          -> IDLE         all answers have come, or the connection has ended
 *
 * It attaches to nothing: no session, no memory of the heap, and none of it mapped. The daemon closes connections on
 * which nothing is asked for, so each query has one of its own.
 *
 * There is one query at a time. One that the daemon does not answer stays under way, however long that takes, and no
 * other one begins: a daemon that hangs has one request of this process to answer when it goes on, and not one for each
 * scrape. What ends it is the answer, or the end of the connection, which comes when the daemon's process ends.
 */
#include "exporter/query.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "proto/wire.h"
#include "shm/limits.h"

/* Unpacked, a list is several times as long as its frame. */
#define REPLY_BYTES_MAX (16u * FRAME_PAYLOAD_MAX)

enum { ASKS_STATS, ASKS_LIMITS, ASKS_ENDED, ASKS };

static const Goallocd__Reply__ResultCase kinds[ASKS] = {
    [ASKS_STATS] = GOALLOCD__REPLY__RESULT_STATS,
    [ASKS_LIMITS] = GOALLOCD__REPLY__RESULT_LIMITS,
    [ASKS_ENDED] = GOALLOCD__REPLY__RESULT_SESSION_LIST,
};

static uint64_t clock_us(void)
{
    struct timespec now = { 0 };

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

void query_init(query *q, const char *socket_path)
{
    *q = (query){ .path = socket_path, .ch = { .fd = -1 } };
}

void query_end(query *q)
{
    channel_close(&q->ch);
    q->state = QUERY_IDLE;
}

bool query_give_up(query *q)
{
    if (q->state == QUERY_ASKED)
        return false;
    query_end(q);
    return true;
}

static enum query_result fail(query *q, enum query_failure why, int error)
{
    query_end(q);
    q->failure = why;
    q->error = error;
    return QUERY_FAILED;
}

/* All requests, in one piece. Returns their length. */
static size_t pack(uint8_t *buf, size_t cap_bytes)
{
    Goallocd__Stats stats = GOALLOCD__STATS__INIT;
    Goallocd__Limits limits = GOALLOCD__LIMITS__INIT;
    Goallocd__SessionList ended = GOALLOCD__SESSION_LIST__INIT;
    Goallocd__Request requests[ASKS] = {
        [ASKS_STATS] = WIRE_REQUEST(STATS, stats, &stats),
        [ASKS_LIMITS] = WIRE_REQUEST(LIMITS, limits, &limits),
        [ASKS_ENDED] = WIRE_REQUEST(SESSION_LIST, session_list, &ended),
    };
    size_t len = 0;

    limits.nearest = true;
    ended.start = SHM_SESSIONS_MAX;
    for (uint64_t i = 0; i < ASKS; i++) {
        requests[i].id = i + 1;
        len += frame_pack(&requests[i].base, buf + len, cap_bytes - len);
    }
    return len;
}

static enum query_result ask(query *q)
{
    uint8_t out[256];
    int r = channel_try_connect(&q->ch, q->path, 0, 0);

    if (r == -EAGAIN)
        return QUERY_UNDER_WAY;
    if (r < 0)
        return fail(q, QUERY_CONNECT, -r);
    r = channel_try_send(&q->ch, out, pack(out, sizeof(out)));
    if (r < 0)
        return fail(q, QUERY_CLOSED, -r);
    q->state = QUERY_ASKED;
    return QUERY_UNDER_WAY;
}

/* The next reply. False: it is not what was asked for. */
static bool take(query *q, const uint8_t *payload, size_t len_bytes)
{
    static _Alignas(16) uint8_t memory[ASKS][REPLY_BYTES_MAX];
    unsigned i = q->nreplies;
    const Goallocd__Reply *reply;
    frame_bump bump;

    frame_bump_init(&bump, memory[i], sizeof(memory[i]));
    reply = wire_unpack_reply(&bump, payload, len_bytes);
    if (reply == NULL || reply->id != i + 1 || reply->error != 0 || reply->result_case != kinds[i])
        return false;
    if (i == ASKS_STATS)
        q->figures.stats = reply->stats;
    else if (i == ASKS_LIMITS)
        q->figures.limits = reply->limits;
    else
        q->figures.ended = reply->session_list;
    q->nreplies++;
    return true;
}

/* What there is to read. */
static enum query_result receive(query *q)
{
    const uint8_t *payload;
    size_t len;
    int r;

    for (;;) {
        r = channel_take_frame(&q->ch, &payload, &len);
        if (r == -EAGAIN)
            r = channel_read(&q->ch);
        else if (r == 0) {
            if (!take(q, payload, len))
                return fail(q, QUERY_NOT_UNDERSTOOD, 0);
            channel_drop_frame(&q->ch);
            if (q->nreplies < ASKS)
                continue;
            q->figures.took_us = clock_us() - q->began_us;
            query_end(q);
            return QUERY_ANSWERED;
        }
        if (r == -EAGAIN)
            return QUERY_UNDER_WAY;
        if (r < 0)
            return fail(q, r == -EPROTO ? QUERY_NOT_UNDERSTOOD : QUERY_CLOSED, -r);
    }
}

enum query_result query_step(query *q)
{
    return q->state == QUERY_CONNECTING ? ask(q) : receive(q);
}

enum query_result query_begin(query *q)
{
    if (q->state != QUERY_IDLE)
        return QUERY_UNDER_WAY;
    q->state = QUERY_CONNECTING;
    q->nreplies = 0;
    q->began_us = clock_us();
    return ask(q);
}
