/*
 * Logquota: windows of 5 s, one for each of the users whose clients cause lines, and one for all clients together.
 *
 * Called by log.c, under its lock. Data: private, of a fixed size: a user costs nothing that others would miss.
 *
 * A user's first line opens a window. In it LOGQUOTA_OF_USER lines are said, and the others counted; when it is over,
 * log.c says how many these were. A window that is over and has nothing to say is free for another user. If none is
 * free, the oldest one is taken, and what it has counted is said as that of other users: somebody with thousands of
 * uids (of a user namespace) gets the lines of all clients, LOGQUOTA_OF_ALL in a window, and no more.
 */
#include "daemon/logquota.h"

#include <stddef.h>

static bool is_over(const logquota_window *w, uint64_t now_ms)
{
    return !w->used || now_ms - w->from_ms >= LOGQUOTA_WINDOW_MS;
}

static void open_window(logquota_window *w, uint32_t uid, uint64_t now_ms)
{
    *w = (logquota_window){ .uid = uid, .used = true, .from_ms = now_ms, .nleft_out = 0 };
}

/* The user's window; it may be over, and still have something to say. */
static logquota_window *window_of(logquota *q, uint32_t uid, uint64_t now_ms)
{
    logquota_window *best = &q->users[0];

    for (size_t i = 0; i < LOGQUOTA_USERS; i++) {
        if (q->users[i].used && q->users[i].uid == uid)
            return &q->users[i];
    }
    for (size_t i = 0; i < LOGQUOTA_USERS; i++) {
        logquota_window *w = &q->users[i];

        if (is_over(w, now_ms) && w->nleft_out == 0) {
            best = w;
            break;
        }
        if (w->from_ms < best->from_ms)
            best = w;
    }
    q->all.nleft_out += best->nleft_out;
    open_window(best, uid, now_ms);
    return best;
}

bool logquota_take(logquota *q, uint32_t uid, uint64_t now_ms)
{
    logquota_window *w = window_of(q, uid, now_ms);

    if (is_over(w, now_ms) && w->nleft_out == 0)
        open_window(w, uid, now_ms);
    if (is_over(&q->all, now_ms)) {
        q->all.used = true;
        q->all.from_ms = now_ms;
        q->all.nsaid = 0;
    }
    if (w->nsaid >= LOGQUOTA_OF_USER || q->all.nsaid >= LOGQUOTA_OF_ALL) {
        w->nleft_out++;
        return false;
    }
    w->nsaid++;
    q->all.nsaid++;
    return true;
}

bool logquota_left_out(logquota *q, uint64_t now_ms, logquota_note *ret)
{
    for (size_t i = 0; i < LOGQUOTA_USERS; i++) {
        logquota_window *w = &q->users[i];

        if (w->nleft_out == 0 || !is_over(w, now_ms))
            continue;
        *ret = (logquota_note){ .uid = w->uid, .nlines = w->nleft_out };
        *w = (logquota_window){ .used = false };
        return true;
    }
    if (q->all.nleft_out == 0 || !is_over(&q->all, now_ms))
        return false;
    *ret = (logquota_note){ .of_others = true, .nlines = q->all.nleft_out };
    q->all.nleft_out = 0;
    return true;
}
