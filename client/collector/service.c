/*
 * Service: waits for deaths, then runs cycles.
 *
 * Called by main. Calls collect.c (the session, the cycle), and the library for events, as any program may. Data:
 * private. One thread and one poll(), for signals, events and time; while a cycle goes on nothing else does.
 *
 *        AWAY --attached--> QUIET --a session has died, or events were lost--> DUE --- its time ---> a cycle --> QUIET
 *         ^                   |                                                                  |
 *         '---the heap is gone, or the daemon stops, or could not be asked-----------------------+
 *                                                                     it has failed: DUE, later
 *
 * A cycle is due delay_ms after the first death, so that a pool that dies together is one cycle, and interval_ms after
 * the last one. After an attach, too: what has died before nobody has told. A cycle that fails is tried again
 * after the interval, then after twice as long, up to RETRY_MS_MAX; nothing is lost by waiting.
 *
 * A cycle after deaths looks at what the dead had a part in (COLLECT_SUSPECTS) and frees in spans that nobody leases.
 * It begins only if the estimate of its pause fits into --max-pause. What the dead had unlinked in spans of others, and
 * what hung on objects of theirs that a cycle had confirmed, only a look at the whole heap finds: so one of the cycles
 * in full_ms is of that kind, if it fits; if not, it is one as the others, and a whole one is tried again after
 * FULL_AFTER intervals: each try costs a walk over the heap's spans and an estimate of all processes.
 *
 * A daemon that stops, and saves the heap first, waits for all who can write: this session too, which leaves when it is
 * told. Then a daemon is looked for as one that is away.
 *
 * If this process dies, systemd starts it again, and it begins with a cycle; what was stopped goes on (collect.h). If
 * the daemon dies, the session comes back to the next one, events are told as lost, and a cycle follows.
 *
 * The log is the journal or stderr (proto/servicelog.h), a line for each: the first attach, a cycle that has freed
 * something or has taken a pause, and a failure that is another one than that of before, or lasts for SAY_AGAIN_MS.
 * Names of mappings and programs, which any client chooses, are in sentences of trouble.h alone, which keeps control
 * characters out.
 */
#include "client/collector/service.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include "client/collector/collect.h"
#include "client/include/goalloc.h"
#include "proto/ready.h"
#include "proto/servicelog.h"
#include "proto/serviceloop.h"

#define ATTACH_MS 5000 /* for a daemon that is slow to answer */
#define LOOK_MS 1000   /* between two looks for a daemon */
#define RETRY_MS_MAX 600000
#define SAY_AGAIN_MS 600000
#define STUCK_MAX 16 /* threads that are left in the kernel (world_nstuck()): then another process begins anew */
#define FULL_AFTER 8 /* intervals after a cycle over the whole heap that would have taken too long */

typedef struct service {
    const options *options;
    int signals;
    int events;       /* of the session; -1: there is none */
    int64_t due_ms;   /* of the next cycle, or of the next look for a daemon; INT64_MAX: there is nothing to do */
    int64_t last_ms;  /* when the last cycle ended; INT64_MIN: there was none */
    int64_t full_ms;  /* no cycle over the whole heap before */
    int64_t retry_ms; /* after the next failure; 0: the last cycle has not failed */
    uint64_t ndeaths; /* since the last cycle that has not failed */
    int said_error;   /* of the last failure that was said; 0: none since a success */
    pid_t said_pid;
    int64_t said_ms;
} service;

/* A failure, unless it was said a short time ago. */
static void say_failure(service *s, enum servicelog_event event, int error, pid_t pid, const char *text)
{
    const servicelog_about about = { .pid = pid, .heap = goalloc_heap_id() };
    int64_t now_ms = serviceloop_clock_ms();

    if (s->said_error == error && s->said_pid == pid && now_ms - s->said_ms < SAY_AGAIN_MS)
        return;
    s->said_error = error;
    s->said_pid = pid;
    s->said_ms = now_ms;
    if (pid != 0)
        servicelog_say(event, &about, "pid %d is in the way: %s", (int)pid, text);
    else
        servicelog_say(event, &about, "%s", text);
}

/* --- the session --- */

static void leave(service *s)
{
    s->events = -1;
    (void)goalloc_detach();
    s->due_ms = serviceloop_clock_ms() + LOOK_MS;
}

/* There is no session: look for a daemon. */
static void look(service *s)
{
    int r = collect_attach(s->options->socket_path, ATTACH_MS);
    const char *why = goalloc_attach_error();

    s->due_ms = serviceloop_clock_ms() + LOOK_MS;
    if (r == 0) {
        r = s->events = goalloc_event_fd();
        why = goalloc_strerror(r);
        if (r < 0)
            (void)goalloc_detach();
    }
    if (r < 0) {
        say_failure(s, SERVICELOG_COLLECTOR_UNATTACHED, r, 0, why);
        return;
    }
    servicelog_say(SERVICELOG_COLLECTOR_ATTACHED, &(servicelog_about){ .heap = goalloc_heap_id() },
                   "watches the sessions of heap %016llx", (unsigned long long)goalloc_heap_id());
    s->said_error = 0;
    s->retry_ms = 0;
    s->due_ms = serviceloop_clock_ms() + s->options->delay_ms;
}

/* --- deaths --- */

static void note_death(service *s)
{
    int64_t due_ms = serviceloop_clock_ms() + s->options->delay_ms;

    s->ndeaths++;
    if (s->last_ms != INT64_MIN && s->last_ms + s->options->interval_ms > due_ms)
        due_ms = s->last_ms + s->options->interval_ms;
    if (due_ms < s->due_ms)
        s->due_ms = due_ms;
}

static void hear(service *s)
{
    for (;;) {
        goalloc_event event = { .struct_size = sizeof(event) };
        int r = goalloc_next_event(&event);

        if (r == 1 && event.kind == GOALLOC_EVENT_STOPPING) { /* it waits for this session, too */
            servicelog_say(SERVICELOG_COLLECTOR_LEFT, &(servicelog_about){ .heap = goalloc_heap_id() },
                           "the daemon is stopping");
            leave(s);
            return;
        }
        if (r == 1 && (event.kind == GOALLOC_EVENT_LOST ||
                       (event.kind == GOALLOC_EVENT_SESSION_END && event.cause == GOALLOC_CAUSE_DIED)))
            note_death(s);
        if (r == -ESTALE || r == -EBADF) {
            servicelog_say(SERVICELOG_COLLECTOR_HEAP_GONE, &(servicelog_about){ .heap = goalloc_heap_id() },
                           "the heap is gone");
            leave(s);
        }
        if (r != 1)
            return;
    }
}

/* --- cycles --- */

static void say_done(const service *s, const collect_result *result)
{
    const garbage *g = &result->garbage;

    if (g->total.objects == 0 && result->nprocesses == 0)
        return;
    servicelog_say(SERVICELOG_COLLECTED, &(servicelog_about){ .heap = goalloc_heap_id() },
                   "after %llu deaths: %llu objects (%llu bytes) nobody can reach, freed %llu (%llu bytes); %u "
                   "processes with %u threads stopped for %llu us",
                   (unsigned long long)s->ndeaths, (unsigned long long)g->total.objects,
                   (unsigned long long)g->total.bytes, (unsigned long long)g->freed.objects,
                   (unsigned long long)g->freed.bytes, result->nprocesses, result->nthreads,
                   (unsigned long long)result->pause_ns / 1000);
}

static int collect(const service *s, unsigned flags, collect_result *ret)
{
    const collect_options wanted = { .socket_path = s->options->socket_path,
                                     .flags = s->options->flags | flags,
                                     .max_pause_ns = s->options->max_pause_ns };

    return collect_run(&wanted, ret);
}

static void cycle(service *s)
{
    bool full = serviceloop_clock_ms() >= s->full_ms;
    collect_result result;
    int r = collect(s, full ? 0 : COLLECT_SUSPECTS, &result);

    if (full && r == -ETIMEDOUT) {
        collect_end(&result);
        full = false;
        s->full_ms = serviceloop_clock_ms() + FULL_AFTER * s->options->interval_ms;
        r = collect(s, COLLECT_SUSPECTS, &result);
    }
    s->last_ms = serviceloop_clock_ms();
    if (r == 0 && full)
        s->full_ms = s->last_ms + s->options->full_ms;
    s->due_ms = INT64_MAX;
    if (r == 0) {
        say_done(s, &result);
        s->ndeaths = 0;
        s->said_error = 0;
        s->retry_ms = 0;
    } else {
        say_failure(s, SERVICELOG_COLLECT_REFUSED, r, result.trouble.pid, result.trouble.text);
        s->retry_ms = s->retry_ms == 0 ? s->options->interval_ms : s->retry_ms * 2;
        if (s->retry_ms > RETRY_MS_MAX)
            s->retry_ms = RETRY_MS_MAX;
        s->due_ms = s->last_ms + s->retry_ms;
    }
    collect_end(&result);
    if (r == -ESTALE)
        leave(s);
}

/* --- the loop --- */

/* Until a signal comes. 0; the error of poll(), or -ETIMEDOUT: then systemd starts another one. */
static int serve(service *s)
{
    for (;;) {
        struct pollfd fds[] = { { .fd = s->signals, .events = POLLIN }, { .fd = s->events, .events = POLLIN } };

        if (poll(fds, 2, serviceloop_wait_ms(s->due_ms, serviceloop_clock_ms())) < 0 && errno != EINTR)
            return -errno;
        if (fds[0].revents != 0)
            return 0;
        if (s->events >= 0 && fds[1].revents != 0)
            hear(s);
        if (serviceloop_clock_ms() < s->due_ms)
            continue;
        if (s->events < 0)
            look(s);
        else
            cycle(s);
        if (world_nstuck() >= STUCK_MAX) {
            servicelog_say(SERVICELOG_SERVICE_FAILED, NULL, "%u threads wait for memory of others that does not come",
                           world_nstuck());
            return -ETIMEDOUT;
        }
    }
}

int service_run(const options *o)
{
    int r;
    service s = { .options = o, .events = -1, .due_ms = INT64_MIN, .last_ms = INT64_MIN, .full_ms = INT64_MIN };

    s.signals = serviceloop_open_signals();
    if (s.signals < 0)
        return s.signals;
    look(&s);
    ready_tell("READY=1");
    r = serve(&s);
    ready_tell("STOPPING=1");
    if (s.events >= 0)
        leave(&s);
    (void)close(s.signals);
    return r;
}
