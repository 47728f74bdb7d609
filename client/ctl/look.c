/*
 * Look: what watch and top ask in each turn.
 *
 * A look that fails since the daemon is gone, or is being replaced, loses nothing but itself: the next one connects
 * anew (ask.c). A daemon that has been up for less time than the one before is another one; a heap of another
 * generation is another heap.
 */
#include "client/ctl/look.h"

#include <stdio.h>
#include <stdlib.h>
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

/* Daemons of older versions don't say which heap it is. */
static bool is_other_heap(const look_state *state, const Goallocd__StatsReply *s)
{
    return state->generation != 0 && s->generation != 0 && s->generation != state->generation;
}

const Goallocd__StatsReply *look_stats(look_state *state, const asker *who)
{
    Goallocd__Stats body = GOALLOCD__STATS__INIT;
    Goallocd__Request request = WIRE_REQUEST(STATS, stats, &body);
    const Goallocd__Reply *reply = look_ask(state, who, &request, GOALLOCD__REPLY__RESULT_STATS);

    if (reply == NULL)
        return NULL;
    state->news = !state->seen                                   ? LOOK_AS_BEFORE
                  : is_other_heap(state, reply->stats)           ? LOOK_OTHER_HEAP
                  : state->lost                                  ? LOOK_BACK
                  : reply->stats->uptime_ms < state->uptime_ms   ? LOOK_ANOTHER
                                                                 : LOOK_AS_BEFORE;
    state->lost = false;
    state->seen = true;
    state->uptime_ms = reply->stats->uptime_ms;
    if (reply->stats->generation != 0)
        state->generation = reply->stats->generation;
    return reply->stats;
}

bool look_sessions(look_state *state, const asker *who, roster *ret)
{
    Goallocd__SessionList body = GOALLOCD__SESSION_LIST__INIT;
    Goallocd__Request request = WIRE_REQUEST(SESSION_LIST, session_list, &body);

    roster_clear(ret);
    body.live = true;
    for (;;) {
        const Goallocd__Reply *reply = look_ask(state, who, &request, GOALLOCD__REPLY__RESULT_SESSION_LIST);

        if (reply == NULL)
            return false;
        if (!roster_add(ret, reply->session_list))
            exit(ctl_fail(CTL_E_MEMORY, 0, "out of memory, or more sessions than there can be"));
        if (reply->session_list->next <= body.start)
            return true;
        body.start = reply->session_list->next;
    }
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
    else if (state->news == LOOK_OTHER_HEAP)
        (void)fprintf(stderr, "goallocctl: a daemon serves another heap\n");
}

void look_pause(int ms)
{
    struct timespec ts = { ms / 1000, ms % 1000 * 1000000L };

    (void)nanosleep(&ts, NULL);
}
