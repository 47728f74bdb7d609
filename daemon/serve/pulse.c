/*
 * Pulse: WATCHDOG=1 while the loop turns, and STATUS= with sessions and live bytes.
 *
 * Called by server.c. Calls notify (what is said), service and, by way of it, rounds.c (which counts). Data: private.
 * Without systemd nothing of it runs.
 *
 * A turn. One turn of the loop takes the events that the kernel has, handles what they ask for, as far as a turn goes
 * (peer.c, rounds.c), and comes back to wait for the next ones. It is over when libuv calls the check handle, which it
 * does right after the callbacks of these events, and nowhere else. That is the one place from which systemd is told.
 * So a callback that does not come back (an endless loop, a wait for a lock, a stopped process) is the end of the
 * pulse, whatever the other threads do; and a loop that goes round has served, not only lived. The timer `beat` tells
 * nothing: an idle loop sleeps in the kernel, and the timer ends that sleep, so that there is a turn to be told of.
 * Four are told of in the time after which systemd takes the daemon for dead.
 *
 * What a turn does not say: that the threads which give memory, the helper or a client come to an end of what they do.
 * These can wait for a lock that a client holds, which is no fault of the daemon's, and a new one would wait as well.
 *
 * The status. Live bytes are counted from the bits (census.c), by a round as for a Stats request; rounds.c tells of
 * each count, whoever has asked for it. The pulse asks for one when requests have been handled since the last one
 * began, or sessions have come or gone; at most once a second, and so rarely that counting takes a two hundredth of a
 * CPU. A heap of which nobody asks anything is not counted and nothing is said of it, so what processes allocate and
 * free by themselves shows after their next request. What has been said already is not said again; what systemd had no
 * room for is news until it is said.
 */
#include "daemon/serve/pulse.h"

#include <stdio.h>
#include <string.h>

#include "daemon/notify.h"
#include "shm/units.h"

#define BEATS        4u /* in the time that systemd waits */
#define STATUS_MS    1000u
#define COUNT_FACTOR 200u /* of so many parts of the time a count takes one */

/* A turn is over. If systemd has no room for the message, the next turn tries again, but not each of a busy loop's. */
static void tell_alive(pulse *p, uint64_t now_ms)
{
    if (p->beat_ms == 0 || now_ms < p->next_beat_ms)
        return;
    p->next_beat_ms = now_ms + (notify_try("WATCHDOG=1") ? p->beat_ms : p->beat_ms / 8);
}

static bool is_news(const pulse *p)
{
    return p->srv->nrpcs != p->nrpcs || p->srv->sessions.nopen != p->nsessions;
}

/* It has the loop turn; what is to be done then is done by the turn. */
static void on_timer(uv_timer_t *timer)
{
    (void)timer;
}

/* Have it counted what lives, if that is to be said. */
static void look(pulse *p, uint64_t now_ms)
{
    service *srv = p->srv;

    if (p->asked || srv->stopping || !is_news(p))
        return;
    if (now_ms >= p->next_status_ms) {
        p->nrpcs = srv->nrpcs;
        p->asked = true;
        srv->wants_count = true;
        service_wake(srv);
    } else if (!uv_is_active((const uv_handle_t *)&p->look)) {
        (void)uv_timer_start(&p->look, on_timer, p->next_status_ms - now_ms, 0);
    }
}

static void on_turn(uv_check_t *turns)
{
    pulse *p = turns->data;
    uint64_t now_ms = uv_now(turns->loop);

    tell_alive(p, now_ms);
    look(p, now_ms);
}

/* 1536 KiB, 12 MiB, 100 GiB: three digits at least. */
static void format_bytes(uint64_t bytes, char *ret, size_t size)
{
    static const char *const units[] = { "bytes", "KiB", "MiB", "GiB", "TiB" };
    size_t unit = 0;

    while (bytes >= 10 * KIB && unit + 1 < sizeof(units) / sizeof(units[0])) {
        bytes /= KIB;
        unit++;
    }
    (void)snprintf(ret, size, "%llu %s", (unsigned long long)bytes, units[unit]);
}

/* What lives has been counted, for whomever; it took so much of the loop's time. */
static void on_count(void *data, uint64_t live_bytes, uint64_t worked_ns)
{
    pulse *p = data;
    uint64_t rest_ms = worked_ns / 1000000 * COUNT_FACTOR;
    char bytes[32];
    char status[sizeof(p->status)];

    p->asked = false;
    p->nsessions = p->srv->sessions.nopen;
    p->next_status_ms = uv_now(p->turns.loop) + (rest_ms > STATUS_MS ? rest_ms : STATUS_MS);
    format_bytes(live_bytes, bytes, sizeof(bytes));
    (void)snprintf(status, sizeof(status), "STATUS=%u session%s, %s live", p->nsessions, p->nsessions == 1 ? "" : "s",
                   bytes);
    if (strcmp(status, p->status) == 0)
        return;
    if (notify_try(status))
        memcpy(p->status, status, sizeof(status));
    else
        p->nrpcs = UINT64_MAX; /* it is still to be said: counted anew when the next one is due */
}

void pulse_start(pulse *p, service *srv)
{
    if (!notify_is_wanted())
        return;
    p->srv = srv;
    p->nrpcs = UINT64_MAX; /* there is something to say */
    (void)uv_check_init(&srv->loop, &p->turns);
    (void)uv_timer_init(&srv->loop, &p->look);
    (void)uv_timer_init(&srv->loop, &p->beat);
    p->turns.data = p;
    srv->on_count = on_count;
    srv->on_count_data = p;
    p->beat_ms = (notify_watchdog_ms() + BEATS - 1) / BEATS;
    if (p->beat_ms != 0)
        (void)uv_timer_start(&p->beat, on_timer, p->beat_ms, p->beat_ms);
    (void)uv_timer_start(&p->look, on_timer, 0, 0);
    (void)uv_check_start(&p->turns, on_turn);
}
