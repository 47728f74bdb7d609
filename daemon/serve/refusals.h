/*
 * Refusals: what users are refused, in episodes: the log has the first one at once, and how many there were at the end.
 */
#ifndef GOALLOC_DAEMON_SERVE_REFUSALS_H
#define GOALLOC_DAEMON_SERVE_REFUSALS_H

#include <uv.h>

#include "daemon/limits.h"

/* What has refused: a limit, or one of these. */
enum refusal {
    REFUSAL_ARENA = LIMITS, /* it is full */
    REFUSAL_MAX_MEMORY,
    REFUSAL_MEMORY_LIMIT, /* the client is asked to give back what is idle first */
    REFUSAL_SYSTEM,       /* the system has no memory */
    REFUSAL_TABLE,        /* sessions, groups, descriptors: there are no more */
    REFUSAL_ACCESS,       /* who asks may not: attach, or control */
    REFUSAL_VERSION,      /* the client's library knows another layout, or protocol */
    REFUSALS
};

#define REFUSAL_QUIET_MS   10000u /* without a refusal: the episode is over */
#define REFUSAL_LONGEST_MS 60000u /* then as well: who is refused for hours is in the log each minute */

typedef struct refusal_episode {
    uint32_t from_ms; /* of a clock that may wrap round: an episode is shorter */
    uint32_t last_ms;
    uint32_t nmore; /* after the first one; not said yet */
} refusal_episode;

/* Of a user. Zeroed, but for uid. */
typedef struct refusals {
    struct refusals *prev; /* among those that have an episode */
    struct refusals *next;
    uint32_t uid;
    uint32_t open; /* a bit for each episode that is not over */
    refusal_episode episodes[REFUSALS];
} refusals;

/* Of all users. Zeroed at first. */
typedef struct refusal_log {
    refusals *open;
    bool has_timer;
    uv_timer_t timer;
} refusal_log;

/* Look once a second, while there is something to say, whether it is time for that. */
void refusals_start(refusal_log *log, uv_loop_t *loop);

/* The name of what has refused, for the log. */
const char *refusal_name(enum refusal what);

/* True: an episode begins, and the caller says what was refused to whom. False: it is counted. */
bool refusals_note(refusal_log *log, refusals *of, enum refusal what, uint64_t now_ms)
    __attribute__((warn_unused_result));

/* Say of some users what is over by then. From the timer; and tests. */
void refusals_look(refusal_log *log, uint64_t now_ms);

/* The user is forgotten, or (all) the daemon stops: say what there is to say. */
void refusals_end(refusal_log *log, refusals *of);
void refusals_end_all(refusal_log *log);

#endif
