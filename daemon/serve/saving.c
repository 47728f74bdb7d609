/*
 * Saving: what a stop does before it ends the heap, if there is an --image: wait until nobody can write the heap, have
 * it saved, go on.
 *
 *     IDLE --begin--> WAITING --nobody can write--> WRITING --report--> OVER: done()
 *                        '------- too late, or it can't begin ------------^
 *
 * Called by server.c, which calls main's function to have the saver (daemon/saver.c) begin. Calls nobody back but
 * done(). Data: private; service.ending says to requests.c that no new session is opened from here on.
 *
 * Who can write. A session that is not read-only, be it open, lost or ending; a group in which such a session is or
 * was, since a child of it may live that has the heap mapped and no session (group.h), so the group's readers are in
 * the way too until it is over; and a reclaim, which frees what ended sessions have left. Groups of readers alone are
 * not in the way. The daemon can't pause anybody: who has a lease writes without asking. So it tells the sessions (a
 * notice to each, service.ending), waits for them as they are, and does not save when one stays: what an image would
 * hold then may be torn. The image of before is as it was, and counts as older than the heap (image.h). When the last
 * session has ended, and its end has freed what it was to free, the daemon alone writes: it sweeps, which changes no
 * live object (imageplan.c).
 *
 * The loop goes on meanwhile: requests of sessions that end are answered, pings, and the watchdog; nobody waits for
 * the disk but the stop. systemd is told each second that the stop goes on (EXTEND_TIMEOUT_USEC), as long as the saver
 * reports; a saver that has not said anything for a minute is given up, and so is one that has written nothing for
 * ten. If the daemon is killed here, the heap is there for the next one if somebody holds it, and the image is the old
 * one or the new one; which of them, nobody knows of a saver that was given up or has died either.
 */
#include "daemon/serve/saving.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "daemon/log.h"
#include "daemon/notify.h"

#define TICK_MS     20u
#define SAY_MS      1000u
#define EXTEND_US   "15000000"
#define SILENCE_MS  60000u
#define STUCK_MS    600000u /* the sync at the end has no progress of its own: so long */
#define NAMED_MAX   4u

void saving_init(saving *s, service *srv, const saving_setup *setup, void (*done)(void *data, const char *why),
                 void *data)
{
    s->srv = srv;
    s->done = done;
    s->done_data = data;
    s->state = SAVING_IDLE;
    if (setup != NULL)
        s->setup = *setup;
    (void)uv_timer_init(&srv->loop, &s->tick);
    s->tick.data = s;
}

/* --- who is in the way --- */

static bool can_write(const session *s)
{
    return s != NULL && ((s->flags & SESSION_READONLY) == 0 || (s->group != NULL && s->group->writes));
}

bool saving_reclaims(const service *srv)
{
    return srv->reclaiming || operations_first(&srv->peers, OPERATION_WAITING, ROUND_RECLAIM) != NULL;
}

static bool anybody_can_write(const service *srv)
{
    if (group_table_has_writers(srv->heap->groups) || saving_reclaims(srv))
        return true;
    for (uint32_t no = 1; srv->sessions.nopen > 0 && no < service_nentries(srv); no++) {
        if (can_write(session_at(&srv->sessions, no)))
            return true;
    }
    return false;
}

/* "session 3 (pid 412, 'worker'), session 4 (...) and 2 more". */
static void name_writers(const service *srv, char *ret, size_t size)
{
    unsigned nreaders = 0;
    unsigned n = 0;
    size_t len = 0;

    ret[0] = '\0';
    for (uint32_t no = 1; no < service_nentries(srv); no++) {
        const session *s = session_at(&srv->sessions, no);

        if (can_write(s) && n++ < NAMED_MAX && len < size) {
            const char *reads = (s->flags & SESSION_READONLY) != 0 ? "; reads" : "";

            len += (size_t)snprintf(ret + len, size - len, "%ssession %u (pid %u, '%s'%s)", n > 1 ? ", " : "", no,
                                    s->pid, s->label, reads);
            nreaders += *reads != '\0';
        }
    }
    if (n > NAMED_MAX && len < size)
        len += (size_t)snprintf(ret + len, size - len, " and %u more", n - NAMED_MAX);
    if (nreaders > 0 && len < size)
        (void)snprintf(ret + len, size - len, "; of a reader's group a child may be left of who could write");
    else if (n == 0 && saving_reclaims(srv))
        (void)snprintf(ret, size, "a reclaim that is under way");
    else if (n == 0)
        (void)snprintf(ret, size, "a child of a group's process, which has the heap mapped");
}

bool saving_writers(const service *srv, char *ret, size_t size)
{
    if (!anybody_can_write(srv))
        return false;
    name_writers(srv, ret, size);
    return true;
}

/* --- the end of it --- */

static void end(saving *s)
{
    s->state = SAVING_OVER;
    (void)uv_timer_stop(&s->tick);
    if (s->polls)
        (void)uv_poll_stop(&s->reports);
    s->done(s->done_data, s->why);
}

/* What is at the path when something has gone wrong. */
enum outcome { THE_OLD, THE_NEW, EITHER };

__attribute__((format(printf, 3, 4))) static void fail(saving *s, enum outcome there, const char *format, ...)
{
    static const char *const is[] = { [THE_OLD] = "not saved", [THE_NEW] = "saved",
                                      [EITHER] = "not known to be saved" };
    static const char *const so[] = { [THE_OLD] = "; what was there stays", [THE_NEW] = "",
                                      [EITHER] = "; what was there stays, or the new image is there, whole" };
    const log_subject subject = { .heap = s->srv->heap->map->header->generation };
    char text[640];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    log_event(LOG_EVENT_IMAGE_NOT_SAVED, &subject, "the heap is %s into %s: %s%s", is[there], s->setup.path, text,
              so[there]);
    end(s);
}

static void succeed(saving *s, const saving_report *report)
{
    const log_subject subject = { .heap = s->srv->heap->map->header->generation };

    log_event(LOG_EVENT_IMAGE_SAVED, &subject,
              "the heap is saved into %s: %" PRIu64 " objects with %" PRIu64 " KiB, in a file of %" PRIu64
              " KiB, in %" PRIu64 " ms",
              s->setup.path, report->live_objects, report->live_bytes / KIB, report->file_bytes / KIB, report->took_ms);
    end(s);
}

/* --- writing --- */

static void take_report(saving *s, const saving_report *report)
{
    char state[64];

    s->heard_ms = uv_now(&s->srv->loop);
    if (report->done != s->written) {
        s->written = report->done;
        s->moved_ms = s->heard_ms;
    }
    if (report->kind == SAVING_PROGRESS) {
        s->percent = report->total > 0 ? (unsigned)(report->done * 100 / report->total) : 0;
        (void)snprintf(state, sizeof(state), "STATUS=saving the heap: %u%%", s->percent);
        (void)notify_try(state);
    } else if (report->error != 0) {
        fail(s, report->in_place != 0 ? THE_NEW : THE_OLD, "%.*s", (int)sizeof(report->text), report->text);
    } else {
        succeed(s, report);
    }
}

static void on_report(uv_poll_t *poll, int status, int events)
{
    saving *s = poll->data;
    saving_report report;
    ssize_t n = recv(s->setup.fd, &report, sizeof(report), MSG_DONTWAIT);

    (void)status;
    (void)events;
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n != (ssize_t)sizeof(report))
        fail(s, EITHER, "the process that saves has died");
    else
        take_report(s, &report);
}

static void begin_writing(saving *s)
{
    int r = uv_poll_init(&s->srv->loop, &s->reports, s->setup.fd);

    if (r == 0) {
        s->polls = true;
        s->reports.data = s;
        r = uv_poll_start(&s->reports, UV_READABLE | UV_DISCONNECT, on_report);
    }
    if (r == 0)
        r = s->setup.begin(s->setup.data);
    if (r < 0) {
        fail(s, THE_OLD, "the process that saves can't be asked: %s", strerror(-r));
        return;
    }
    s->state = SAVING_WRITING;
    s->heard_ms = s->moved_ms = uv_now(&s->srv->loop);
}

/* --- waiting --- */

static void on_tick(uv_timer_t *timer)
{
    saving *s = timer->data;
    uint64_t now_ms = uv_now(timer->loop);
    char names[SAVING_NAMES_BYTES];

    if (now_ms - s->said_ms >= SAY_MS) {
        s->said_ms = now_ms;
        (void)notify_try("EXTEND_TIMEOUT_USEC=" EXTEND_US);
    }
    if (s->state == SAVING_WRITING) {
        if (now_ms - s->heard_ms > SILENCE_MS)
            fail(s, EITHER, "the process that saves has said nothing for a minute");
        else if (now_ms - s->moved_ms > STUCK_MS)
            fail(s, EITHER, "the disk has taken nothing for 10 minutes");
    } else if (!anybody_can_write(s->srv)) {
        begin_writing(s);
    } else if (now_ms >= s->until_ms) {
        name_writers(s->srv, names, sizeof(names));
        fail(s, THE_OLD, "after %" PRIu64 " ms there still is who can write: %s", *s->setup.wait_us / 1000, names);
    }
}

/* By a notice to each. The library reads it with the next reply and passes it over: a program hears of it by events. */
static void tell_sessions(service *srv)
{
    Goallocd__Reply notice = GOALLOCD__REPLY__INIT;
    Goallocd__ShutdownNotice body = GOALLOCD__SHUTDOWN_NOTICE__INIT;

    notice.result_case = GOALLOCD__REPLY__RESULT_SHUTDOWN_NOTICE;
    notice.shutdown_notice = &body;
    for (uint32_t no = 1; no < service_nentries(srv); no++) {
        if (srv->clients[no] != NULL)
            peer_reply(&srv->clients[no]->peer, &notice);
    }
}

bool saving_begin(saving *s, const char *why)
{
    service *srv = s->srv;
    const log_subject subject = { .heap = srv->heap->map->header->generation };

    if (s->state != SAVING_IDLE || s->setup.path == NULL)
        return false;
    s->why = why;
    s->state = SAVING_WAITING;
    s->until_ms = uv_now(&srv->loop) + *s->setup.wait_us / 1000;
    srv->ending = true;
    log_event(LOG_EVENT_STOPPING, &subject,
              "stopping: %s; waits up to %" PRIu64 " ms for %u sessions to end, then saves the heap into %s", why,
              *s->setup.wait_us / 1000, srv->sessions.nopen, s->setup.path);
    (void)notify_try("STOPPING=1\nEXTEND_TIMEOUT_USEC=" EXTEND_US "\nSTATUS=waiting for sessions to end");
    s->said_ms = uv_now(&srv->loop);
    tell_sessions(srv);
    events_stopping(&srv->events);
    (void)uv_timer_start(&s->tick, on_tick, 0, TICK_MS);
    return true;
}
