/*
 * Stats: what a Stats request is answered, counted once for all who wait.
 */
#ifndef GOALLOC_DAEMON_SERVE_STATS_H
#define GOALLOC_DAEMON_SERVE_STATS_H

#include "daemon/heap/census.h"
#include "proto/goallocd.pb-c.h"

struct operation;
struct service;

/* The server's; zeroed. What is counted stays until the next count begins. */
typedef struct stats_sums {
    census census;
    uint32_t session;                  /* the next one whose counters are added; 0: spans are still being counted */
    uint64_t allocs[SPAN_CLASS_COUNT]; /* objects allocated, as clients say: by sessions before that one, and ended ones */
    Goallocd__StatsReply body;         /* all but what concerns one session */
    Goallocd__ClassStats classes[SIZE_CLASS_COUNT + 1];
    Goallocd__ClassStats *class_pointers[SIZE_CLASS_COUNT + 1];
} stats_sums;

/* Begin to count, in slices of budget spans, or as many sessions. True: all is counted, and the figures stand. */
void stats_begin(struct service *srv);
bool stats_step(struct service *srv, unsigned budget) __attribute__((warn_unused_result));

/* What the session's process says that it has allocated is added to the ended ones'. */
void stats_session_ends(struct service *srv, session_no no);

/* Answer a Stats request. */
void stats_reply(struct operation *op);

#endif
