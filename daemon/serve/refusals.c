/*
 * Refusals: episodes of what users are refused, for the log.
 *
 * Called by users.c, which counts refusals, and by who stops the daemon. Calls the log. Data: private; an episode for
 * each kind of refusal in the account of each user, so nobody can push another user's out; and a list of the accounts
 * that have one open.
 *
 *   the first refusal --> a line at once: who, what, which limit       (the caller's)
 *   those behind it   --> counted
 *   10 s of quiet, or a minute in all --> a line: how many more, in how many seconds; none if there were none
 *
 * So a client that asks in a loop costs two lines a minute, each of which counts on its user's quota besides
 * (daemon/logquota.c). The timer runs while an episode is open; it looks at LOOKS accounts a second, the next ones
 * then. So thousands of users with an episode each cost the loop some microseconds a second, and their lines come
 * later.
 */
#include "daemon/serve/refusals.h"

#include <utlist.h>

#include "daemon/log.h"

#define LOOKS   256u
#define TICK_MS 1000u

_Static_assert(REFUSALS <= 32, "open has a bit for each kind");

const char *refusal_name(enum refusal what)
{
    static const char *const names[REFUSALS - LIMITS] = {
        [REFUSAL_ARENA - LIMITS] = "arena",
        [REFUSAL_MAX_MEMORY - LIMITS] = "max-memory",
        [REFUSAL_MEMORY_LIMIT - LIMITS] = "memory-limit",
        [REFUSAL_SYSTEM - LIMITS] = "system",
        [REFUSAL_TABLE - LIMITS] = "table",
        [REFUSAL_ACCESS - LIMITS] = "access",
        [REFUSAL_VERSION - LIMITS] = "version",
    };

    return (unsigned)what < LIMITS ? limit_row_of((enum limit)what)->name : names[(unsigned)what - LIMITS];
}

static void on_timer(uv_timer_t *timer)
{
    refusal_log *log = timer->data;

    refusals_look(log, uv_now(timer->loop));
    if (log->open == NULL)
        (void)uv_timer_stop(timer);
}

void refusals_start(refusal_log *log, uv_loop_t *loop)
{
    (void)uv_timer_init(loop, &log->timer);
    log->timer.data = log;
    log->has_timer = true;
}

static void close_episode(refusal_log *log, refusals *of, enum refusal what)
{
    const refusal_episode *e = &of->episodes[what];
    uint32_t seconds = (e->last_ms - e->from_ms + 999) / 1000;

    if (e->nmore > 0)
        log_client_event(LOG_EVENT_REFUSED_MORE,
                         &(log_subject){ .has_uid = true, .uid = of->uid, .limit = refusal_name(what) },
                         "limit %s: refused %u more within %u s", refusal_name(what), e->nmore, seconds);
    of->open &= ~(1u << what);
    if (of->open == 0)
        DL_DELETE(log->open, of);
}

static bool is_over(const refusal_episode *e, uint32_t now_ms)
{
    return now_ms - e->last_ms >= REFUSAL_QUIET_MS || now_ms - e->from_ms >= REFUSAL_LONGEST_MS;
}

bool refusals_note(refusal_log *log, refusals *of, enum refusal what, uint64_t now_ms)
{
    refusal_episode *e = &of->episodes[what];
    uint32_t now = (uint32_t)now_ms;

    if ((of->open & 1u << what) != 0 && !is_over(e, now)) {
        e->last_ms = now;
        e->nmore += e->nmore < UINT32_MAX;
        return false;
    }
    if ((of->open & 1u << what) != 0)
        close_episode(log, of, what);
    if (of->open == 0)
        DL_APPEND(log->open, of);
    of->open |= 1u << what;
    *e = (refusal_episode){ .from_ms = now, .last_ms = now };
    if (log->has_timer && !uv_is_active((const uv_handle_t *)&log->timer) &&
        !uv_is_closing((const uv_handle_t *)&log->timer))
        (void)uv_timer_start(&log->timer, on_timer, TICK_MS, TICK_MS);
    return true;
}

void refusals_look(refusal_log *log, uint64_t now_ms)
{
    refusals *end = NULL; /* the first that stays open: behind it the round begins anew */

    for (unsigned n = 0; n < LOOKS && log->open != NULL && log->open != end; n++) {
        refusals *of = log->open;

        for (unsigned what = 0; what < REFUSALS; what++) {
            if ((of->open & 1u << what) != 0 && is_over(&of->episodes[what], (uint32_t)now_ms))
                close_episode(log, of, (enum refusal)what);
        }
        if (of->open == 0)
            continue;
        DL_DELETE(log->open, of);
        DL_APPEND(log->open, of);
        end = end == NULL ? of : end;
    }
}

void refusals_end(refusal_log *log, refusals *of)
{
    for (unsigned what = 0; what < REFUSALS; what++) {
        if ((of->open & 1u << what) != 0)
            close_episode(log, of, (enum refusal)what);
    }
}

void refusals_end_all(refusal_log *log)
{
    while (log->open != NULL)
        refusals_end(log, log->open);
}
