/*
 * Query: asks the daemon for all figures, on one connection, without ever waiting for it.
 */
#ifndef GOALLOC_EXPORTER_QUERY_H
#define GOALLOC_EXPORTER_QUERY_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/channel.h"
#include "proto/goallocd.pb-c.h"

/* What the daemon has said; valid until the next query begins. */
typedef struct figures {
    const Goallocd__StatsReply *stats;
    const Goallocd__LimitsReply *limits;     /* a row a limit */
    const Goallocd__SessionListReply *ended; /* the last sessions that have ended */
    uint64_t took_us;
} figures;

enum query_state {
    QUERY_IDLE,
    QUERY_CONNECTING, /* the listener's queue is full */
    QUERY_ASKED,
};

/* Why there is no answer. */
enum query_failure { QUERY_CONNECT, QUERY_TIMEOUT, QUERY_CLOSED, QUERY_NOT_UNDERSTOOD, QUERY_FAILURES };

enum query_result { QUERY_UNDER_WAY, QUERY_ANSWERED, QUERY_FAILED };

typedef struct query {
    const char *path;
    enum query_state state;
    unsigned nreplies; /* that have come */
    uint64_t began_us;
    channel ch;
    figures figures;
    enum query_failure failure; /* of QUERY_FAILED */
    int error;                  /* the errno with it; 0: none */
} query;

void query_init(query *q, const char *socket_path);

/* Begin, if none is under way, and go on as far as that can be done at once. */
enum query_result query_begin(query *q);

/* Go on with the one that is under way. */
enum query_result query_step(query *q);

/* Has something to read when there is something to do; -1: only time tells. */
static inline int query_fd(const query *q)
{
    return q->state == QUERY_ASKED ? q->ch.fd : -1;
}

/* Give up a query that has asked for nothing yet. False: the daemon has been asked, and its answer is waited for. */
bool query_give_up(query *q);

void query_end(query *q);

#endif
