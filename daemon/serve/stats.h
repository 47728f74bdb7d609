/*
 * Stats: what a Stats request is answered, counted once for all who wait.
 */
#ifndef GOALLOC_DAEMON_SERVE_STATS_H
#define GOALLOC_DAEMON_SERVE_STATS_H

#include "daemon/serve/service.h"

/* Begin to count, in slices of budget spans, or as many sessions. True: all is counted, until the next count begins. */
void stats_begin(const service *srv);
bool stats_step(service *srv, unsigned budget) __attribute__((warn_unused_result));

/* What the session's process says that it has allocated is added to the ended ones'. */
void stats_session_ends(service *srv, session_no no);

/* What lived when it was counted last. */
live_sum stats_live(void);

/* Answer a Stats request. */
void stats_reply(operation *op);

#endif
