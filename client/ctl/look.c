/*
 * Look: what watch and top ask in each turn.
 *
 * A look that fails since the daemon is gone, or is being replaced, loses nothing but itself: the next one connects
 * anew (ask.c). A daemon that has been up for less time than the one before is another one.
 */
#include "client/ctl/look.h"

#include <stdio.h>
#include <time.h>

#include "client/ctl/ctl.h"
#include "proto/wire.h"

const Goallocd__Reply *look_ask(look_state *state, const asker *who, Goallocd__Request *request,
                                Goallocd__Reply__ResultCase kind)
{
    asker now = *who;
    const Goallocd__Reply *reply;

    now.until = deadline_in(who->timeout_ms);
    reply = ask(&now, request, kind);
    if (reply == NULL) {
        state->news = state->lost ? LOOK_AS_BEFORE : LOOK_LOST;
        state->lost = true;
    }
    return reply;
}

const Goallocd__StatsReply *look_stats(look_state *state, const asker *who)
{
    Goallocd__Stats body = GOALLOCD__STATS__INIT;
    Goallocd__Request request = WIRE_REQUEST(STATS, stats, &body);
    const Goallocd__Reply *reply = look_ask(state, who, &request, GOALLOCD__REPLY__RESULT_STATS);

    if (reply == NULL)
        return NULL;
    state->news = !state->seen                                   ? LOOK_AS_BEFORE
                  : state->lost                                  ? LOOK_BACK
                  : reply->stats->uptime_ms < state->uptime_ms   ? LOOK_ANOTHER
                                                                 : LOOK_AS_BEFORE;
    state->lost = false;
    state->seen = true;
    state->uptime_ms = reply->stats->uptime_ms;
    return reply->stats;
}

bool look_waits(const look_state *state)
{
    return state->seen && ask_may_come_back();
}

void look_tell(const look_state *state, const asker *who)
{
    char plain[512];

    if (state->news == LOOK_LOST)
        (void)fprintf(stderr, "goallocctl: %s; waiting for a daemon\n",
                      ctl_plain_text(ask_failure_text(who), plain, sizeof(plain)));
    else if (state->news == LOOK_BACK)
        (void)fprintf(stderr, "goallocctl: a daemon is back\n");
    else if (state->news == LOOK_ANOTHER)
        (void)fprintf(stderr, "goallocctl: the daemon was restarted\n");
}

void look_pause(int ms)
{
    struct timespec ts = { ms / 1000, ms % 1000 * 1000000L };

    (void)nanosleep(&ts, NULL);
}
