/*
 * Deaths: notices that the process of a session is gone, and lets the session end.
 *
 * Called by requests.c (attach, settle), rounds.c (a session is over) and server.c (a connection ends, a takeover).
 * Calls client, session and group. Data: private; through session, the state of a session; and in the private memfd,
 * which process has which session.
 *
 * What says that a process is gone, in this order:
 *   1. Its pidfd is readable: it is dead, whatever else is held. SO_PEERPIDFD (else pidfd_open of the peer's pid) gives
 *      the pidfd at attach, and the loop watches it. So copies of its socket in forked children, or of its sign of life
 *      in the hands of somebody to whom it has passed it on, keep no dead session.
 *   2. Its sign of life (memory/lifesign.h) is not held: it has exited, or become another program by exec. The end of
 *      the stream alone does not end a session: a process that lives may still write the alloc bits of its spans. So
 *      after it the session is LOST, and the sign is looked at, at once and then every few milliseconds while it is
 *      held: the process may come back to the session with its token (requests.c).
 *
 * The next daemon has both, too. The sign it finds on the shelf (memory/shelf.h). The process is written down: the
 * inode of its pidfd, which on Linux 6.9 and later is no other process's ever, and pid and pid namespace, by which the
 * next daemon gets a pidfd of its own (deaths_recover). Order of the stores: inode 0, pid and namespace, inode. So if
 * the daemon dies in between, nothing is known, as for a process in a namespace that the daemon does not see, and the
 * sign alone decides. Before Linux 6.9 all pidfds have one inode: another process that has got the same pid counts as
 * this one, as long as the sign is held by whom the dead one has passed it on to.
 *
 * A session whose sign was not on the shelf, which only a damaged heap has, lives until its pidfd says otherwise.
 *
 * The looks take a tenth of the time at most, however many there are. The same timer looks at groups that have no
 * session left and wait for a forked child.
 */
#include "daemon/serve/deaths.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/log.h"
#include "shm/crash.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

#define PAUSE_MS_MAX    32u
#define PAUSE_MS_GROUPS 256u /* if only groups are looked at, which may wait for hours */
#define PASS_NS         UINT64_C(500000) /* looks, some hundred of them, without a pause */
#define REST            10u /* and for so many times as long none */

typedef struct watch {
    uv_poll_t poll;
    deaths *deaths;
    int pidfd;
    session_no session;
    uint32_t epoch;
} watch;

static void end_session(deaths *d, session *s, const char *why)
{
    s->why_ended = why;
    session_set_state(&d->srv->sessions, s, SHM_SESSION_ENDING);
    service_wake(d->srv);
}

/* --- lost sessions --- */

static bool is_readable(int pidfd)
{
    struct pollfd p = { .fd = pidfd, .events = POLLIN };

    return poll(&p, 1, 0) > 0;
}

bool deaths_process_lives(const deaths *d, const session *s)
{
    const watch *w = d->watches[s->lessee.no.n];

    if (w != NULL && is_readable(w->pidfd))
        return false;
    return s->sign.fd < 0 || lifesign_is_held(&s->sign);
}

static bool has_time(uint64_t start_ns)
{
    return uv_hrtime() - start_ns < PASS_NS;
}

/* Sessions whose processes are gone begin to end. True: there are others. */
static bool look_at_sessions(deaths *d, uint64_t start_ns)
{
    bool more = false;
    uint32_t from = d->from;

    for (uint32_t n = 1; n <= SHM_SESSIONS_MAX; n++) {
        uint32_t i = (from + n) % SHM_SESSIONS_MAX;
        session *s = session_at(&d->srv->sessions, i);

        if (s == NULL || s->state != SHM_SESSION_LOST)
            continue;
        d->from = i;
        if (deaths_process_lives(d, s))
            more = true;
        else
            end_session(d, s, "its process is gone");
        if (!has_time(start_ns))
            return true;
    }
    return more;
}

/* Groups that only a child which has not attached kept begin to end when that is gone. True: there are others. */
static bool look_at_groups(deaths *d, uint64_t start_ns)
{
    const group_table *groups = d->srv->heap->groups;
    uint32_t from = d->from_group;
    bool more = false;

    for (uint32_t n = 1; n <= SHM_GROUPS_MAX && groups->ngroups > 0; n++) {
        uint32_t i = (from + n) % SHM_GROUPS_MAX;
        group *g = groups->groups[i];

        if (g == NULL || !g->waits)
            continue;
        if (!has_time(start_ns))
            return true;
        d->from_group = i;
        g->waits = group_lives(g);
        if (g->waits)
            more = true;
        else
            service_wake(d->srv);
    }
    return more;
}

static void on_timer(uv_timer_t *timer)
{
    deaths *d = timer->data;
    uint64_t start_ns = uv_hrtime();
    bool sessions = look_at_sessions(d, start_ns);
    bool groups = look_at_groups(d, start_ns);
    uint64_t longest_ms = sessions ? PAUSE_MS_MAX : PAUSE_MS_GROUPS;
    uint64_t now_ns = uv_hrtime();

    d->rest_until_ns = now_ns + REST * (now_ns - start_ns);
    if (sessions || groups)
        (void)uv_timer_start(timer, on_timer, d->pause_ms + REST * (now_ns - start_ns) / 1000000, 0);
    d->pause_ms = d->pause_ms * 2 < longest_ms ? d->pause_ms * 2 : longest_ms;
}

void deaths_look(deaths *d)
{
    uint64_t now_ns = uv_hrtime();
    uint64_t rest_ns = d->rest_until_ns > now_ns ? d->rest_until_ns - now_ns : 0;

    d->pause_ms = 1;
    (void)uv_timer_start(&d->timer, on_timer, (rest_ns + 999999) / 1000000, 0);
}

void deaths_lost(deaths *d, session *s)
{
    session_set_state(&d->srv->sessions, s, SHM_SESSION_LOST);
    deaths_look(d);
}

/* --- pidfds --- */

static void watch_on_closed(uv_handle_t *handle)
{
    watch *w = handle->data;

    (void)close(w->pidfd);
    free(w);
}

void deaths_forget(deaths *d, session_no no)
{
    watch *w = d->watches[no.n];

    if (w != NULL) {
        d->watches[no.n] = NULL;
        d->nwatches--;
        uv_close((uv_handle_t *)&w->poll, watch_on_closed);
    }
}

static void watch_on_death(uv_poll_t *poll, int status, int events)
{
    watch *w = poll->data;
    deaths *d = w->deaths;
    session *s = session_find(&d->srv->sessions, w->session, w->epoch);

    (void)status;
    (void)events;
    (void)uv_poll_stop(poll);
    if (s == NULL || s->state == SHM_SESSION_ENDING)
        return;
    service_drop_client(d->srv, s); /* it is LOST then */
    end_session(d, s, "its process has died");
}

/* Watch that process as the session's, and none that was its own before. The pidfd is the watch's, or closed. */
static bool watch_pidfd(deaths *d, const session *s, int pidfd)
{
    bool has_room = d->nwatches < d->srv->users.most_pidfds;
    watch *w = has_room ? calloc(1, sizeof(*w)) : NULL;

    if (w == NULL || uv_poll_init(&d->srv->loop, &w->poll, pidfd) < 0) {
        (void)close(pidfd);
        free(w);
        return false;
    }
    w->poll.data = w;
    w->deaths = d;
    w->pidfd = pidfd;
    w->session = s->lessee.no;
    w->epoch = s->lessee.epoch;
    if (uv_poll_start(&w->poll, UV_READABLE, watch_on_death) < 0) {
        uv_close((uv_handle_t *)&w->poll, watch_on_closed);
        return false;
    }
    deaths_forget(d, s->lessee.no);
    d->watches[s->lessee.no.n] = w;
    d->nwatches++;
    return true;
}

static uint64_t inode_of(int fd)
{
    struct stat st;

    return fstat(fd, &st) < 0 ? 0 : st.st_ino;
}

/* For the next daemon. ino 0: it can't know the process. */
static void note_process(deaths *d, session_no no, uint32_t pid, uint64_t ino)
{
    private_process *p = &d->srv->heap->file->private->processes[no.n];

    u64_store_release(&p->pidfd_ino, 0);
    u32_store_release(&p->pid, pid); /* release: behind the store before it */
    u64_store_relaxed(&p->pid_namespace, d->pid_namespace);
    CRASH_POINT(process_half);
    u64_store_release(&p->pidfd_ino, pid == 0 ? 0 : ino);
    CRASH_POINT(process_after_inode);
}

bool deaths_watch(deaths *d, const client *c, const session *s)
{
    int pidfd = -1;
    socklen_t len = sizeof(pidfd);
    uint64_t ino;

    if (getsockopt(peer_fd(&c->peer), SOL_SOCKET, SO_PEERPIDFD, &pidfd, &len) < 0)
        pidfd = c->peer.pid == 0 ? -1 : (int)syscall(SYS_pidfd_open, c->peer.pid, 0);
    if (pidfd < 0) {
        const log_subject subject = session_subject(s);
        bool is_short = errno == EMFILE || errno == ENFILE;

        log_client_debug(&subject, "there is no pidfd for pid %u: %s", c->peer.pid, strerror(errno));
        if (is_short)
            return false;
        deaths_forget(d, s->lessee.no);
        note_process(d, s->lessee.no, 0, 0);
        return true;
    }
    if (pidfd >= c->peer.host->late_fd) {
        (void)close(pidfd);
        return false;
    }
    ino = inode_of(pidfd);
    if (!watch_pidfd(d, s, pidfd))
        return false;
    note_process(d, s->lessee.no, c->peer.pid, ino);
    return true;
}

/* --- after another daemon --- */

/* True if the process that had the session is dead, as far as pids say; if it lives it is watched. */
static bool is_dead(deaths *d, const session *s)
{
    const private_process *p = &d->srv->heap->file->private->processes[s->lessee.no.n];
    uint64_t ino = u64_load_relaxed(&p->pidfd_ino);
    int pidfd;

    if (ino == 0 || d->pid_namespace == 0 || u64_load_relaxed(&p->pid_namespace) != d->pid_namespace)
        return false;
    pidfd = (int)syscall(SYS_pidfd_open, u32_load_relaxed(&p->pid), 0);
    if (pidfd < 0) /* none; or a thread of another process has the number by now */
        return errno == ESRCH || errno == EINVAL || errno == ENOENT;
    if (inode_of(pidfd) != ino) {
        (void)close(pidfd);
        return true;
    }
    if (!watch_pidfd(d, s, pidfd)) {
        const log_subject subject = session_subject(s);

        log_client_warn(&subject, "the death of its process may be noticed late");
    }
    return false;
}

void deaths_recover(deaths *d)
{
    for (uint32_t i = 1; i < SHM_SESSIONS_MAX; i++) {
        session *s = session_at(&d->srv->sessions, i);

        if (s != NULL && s->state == SHM_SESSION_LOST && is_dead(d, s))
            end_session(d, s, "its process is gone");
    }
    deaths_look(d);
}

/* --- start and stop --- */

void deaths_start(deaths *d, service *srv)
{
    struct stat st;

    d->srv = srv;
    d->pid_namespace = stat("/proc/self/ns/pid", &st) < 0 ? 0 : st.st_ino;
    srv->deaths = d;
    (void)uv_timer_init(&srv->loop, &d->timer);
    d->timer.data = d;
}

void deaths_stop(deaths *d)
{
    for (uint32_t i = 1; i < SHM_SESSIONS_MAX; i++)
        deaths_forget(d, (session_no){ (uint16_t)i });
}
