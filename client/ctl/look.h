/*
 * Look: statistics again and again, of a daemon that may go and come back.
 */
#ifndef GOALLOC_CLIENT_CTL_LOOK_H
#define GOALLOC_CLIENT_CTL_LOOK_H

#include <stdbool.h>

#include "client/ctl/ask.h"
#include "client/ctl/roster.h"

/* What has become of the daemon since the look before. */
enum look_news {
    LOOK_AS_BEFORE,
    LOOK_LOST,
    LOOK_BACK,
    LOOK_ANOTHER,    /* came in between, unnoticed */
    LOOK_OTHER_HEAP, /* it serves another one than the daemon before */
};

/* Zeroed at the beginning. */
typedef struct look_state {
    bool seen; /* there has been a daemon */
    bool lost;
    enum look_news news;
    uint64_t uptime_ms; /* of the last daemon that has answered */
    uint64_t generation; /* of its heap, as the last one that names it has said; 0: none has */
} look_state;

/* What it answers, valid until the next request. NULL: ask_failure_text() says why; look_waits() what follows. */
const Goallocd__StatsReply *look_stats(look_state *state, const asker *who);

/* The same for another request of that look: state says if the daemon was lost. */
const Goallocd__Reply *look_ask(look_state *state, const asker *who, Goallocd__Request *request,
                                Goallocd__Reply__ResultCase kind);

/* The sessions that have not ended, in place of what is in *ret. False: not answered, as by look_ask(). */
bool look_sessions(look_state *state, const asker *who, roster *ret);

/* After a failure: true if there was a daemon, and one may come. */
bool look_waits(const look_state *state);

/* Say on stderr what is new, if anything is. */
void look_tell(const look_state *state, const asker *who);

/* Wait. */
void look_pause(int ms);

#endif
