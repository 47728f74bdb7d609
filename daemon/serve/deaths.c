/*
 * Deaths: notices that the process of a session is gone, and lets the session end.
 *
 * Called by requests.c (attach), rounds.c (a session is over) and server.c (a connection ends, a takeover).
 * Calls client and session. Data: private; and, through session, the state of a session.
 *
 * SO_PEERPIDFD (else pidfd_open of the peer's pid) gives a pidfd at attach; it becomes readable when the process is
 * dead, whatever happened to copies of its socket in forked children. The end of the stream alone does not end a
 * session: a process that lives may still write the alloc bits of its spans. But if its life lock (heapfile.c) has gone
 * too, its image has: it has exited, or become another program by exec. So after the end of a stream the lock is looked
 * at, at once and then every few milliseconds while it is held: the session is LOST, and its process may come back to
 * it with its token (requests.c), also after this daemon was replaced by another. The same timer looks at the locks of
 * groups that have no session left and wait for a forked child.
 *
 * A look goes round the table once, from behind the entry at which the last one ended. So of many that are lost for
 * long each has its turn, OLD_A_LOOK of them every PAUSE_MS_MAX: of SHM_SESSIONS_MAX, every 8 seconds. One whose pidfd
 * says that its process is dead does not wait for its turn; but after a takeover there is no pidfd before the process
 * has come back, so the locks alone tell.
 */
#include "daemon/serve/deaths.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/log.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

#define PAUSE_MS_MAX 32u
#define PAUSE_MS_GROUPS 256u /* if only groups are looked at, which may wait for hours */
#define LOOKS_FEW    64u /* at a session that has just been lost, before it counts as lost for long */
#define OLD_A_LOOK   16u

typedef struct watch {
    uv_poll_t poll;
    deaths *deaths;
    int pidfd;
    session_no session;
    uint32_t epoch;
} watch;

/* --- lost sessions --- */

/* Groups that only a child which has not attached kept begin to end when that is gone. True: there are others. */
static bool look_at_groups(deaths *d)
{
    const group_table *groups = d->srv->heap->groups;
    uint32_t from = d->from_group;
    bool more = false;
    unsigned nlooks = 0;

    for (uint32_t n = 1; n <= SHM_GROUPS_MAX && groups->ngroups > 0; n++) {
        uint32_t i = (from + n) % SHM_GROUPS_MAX;
        group *g = groups->groups[i];

        if (g == NULL || !g->waits)
            continue;
        if (nlooks++ == OLD_A_LOOK)
            return true;
        d->from_group = i;
        g->waits = heapfile_group_lives(d->srv->heap->file, g->no);
        if (g->waits)
            more = true;
        else
            service_wake(d->srv);
    }
    return more;
}

/* Sessions whose processes are gone begin to end. */
static void on_timer(uv_timer_t *timer)
{
    deaths *d = timer->data;
    session_table *table = &d->srv->sessions;
    uint32_t from = d->from;
    bool more = false;
    unsigned nold = 0;
    uint64_t longest_ms;

    for (uint32_t n = 1; n <= SHM_SESSIONS_MAX; n++) {
        uint32_t i = (from + n) % SHM_SESSIONS_MAX;
        session *s = session_at(table, i);

        if (s == NULL || s->state != SHM_SESSION_LOST)
            continue;
        /* A look costs the kernel a walk over all locks: of those lost for long, only some are looked at each time. */
        if (s->nlooks >= LOOKS_FEW) {
            more = true;
            if (nold == OLD_A_LOOK)
                continue;
            nold++;
            d->from = i;
        } else {
            s->nlooks++;
        }
        if (heapfile_session_lives(table->leases.heap->file, s->lessee.no)) {
            more = true;
        } else {
            log_client_debug(s->uid, "session %u (pid %u): its process is gone", s->lessee.no.n, s->pid);
            session_set_state(table, s, SHM_SESSION_ENDING);
            service_wake(d->srv);
        }
    }
    longest_ms = more ? PAUSE_MS_MAX : PAUSE_MS_GROUPS;
    if (look_at_groups(d))
        more = true;
    if (more)
        (void)uv_timer_start(timer, on_timer, d->pause_ms, 0);
    d->pause_ms = d->pause_ms * 2 < longest_ms ? d->pause_ms * 2 : longest_ms;
}

void deaths_look(deaths *d)
{
    d->pause_ms = 1;
    (void)uv_timer_start(&d->timer, on_timer, 0, 0);
}

void deaths_lost(deaths *d, session *s)
{
    session_set_state(&d->srv->sessions, s, SHM_SESSION_LOST);
    s->nlooks = 0;
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
    log_client_debug(s->uid, "session %u: pid %u has died", s->lessee.no.n, s->pid);
    service_drop_client(d->srv, s);
    /* If it was lost before, its socket was closed before its life lock was free: now that decides, at once. */
    deaths_lost(d, s);
}

bool deaths_watch(deaths *d, const client *c, const session *s)
{
    int pidfd = -1;
    socklen_t len = sizeof(pidfd);
    watch *w;

    if (getsockopt(peer_fd(&c->peer), SOL_SOCKET, SO_PEERPIDFD, &pidfd, &len) < 0)
        pidfd = s->pid == 0 ? -1 : (int)syscall(SYS_pidfd_open, s->pid, 0);
    if (pidfd < 0) {
        log_client_debug(s->uid, "session %u: no pidfd for pid %u: %s", s->lessee.no.n, s->pid, strerror(errno));
        return errno != EMFILE && errno != ENFILE;
    }
    if (pidfd >= c->peer.host->late_fd) {
        (void)close(pidfd);
        return false;
    }
    w = calloc(1, sizeof(*w));
    if (w == NULL || uv_poll_init(&d->srv->loop, &w->poll, pidfd) < 0) {
        (void)close(pidfd);
        free(w);
        return true;
    }
    w->poll.data = w;
    w->deaths = d;
    w->pidfd = pidfd;
    w->session = s->lessee.no;
    w->epoch = s->lessee.epoch;
    deaths_forget(d, s->lessee.no);
    d->watches[s->lessee.no.n] = w;
    if (uv_poll_start(&w->poll, UV_READABLE, watch_on_death) < 0)
        deaths_forget(d, s->lessee.no);
    return true;
}

/* --- start and stop --- */

void deaths_start(deaths *d, service *srv)
{
    d->srv = srv;
    srv->deaths = d;
    (void)uv_timer_init(&srv->loop, &d->timer);
    d->timer.data = d;
}

void deaths_stop(deaths *d)
{
    for (uint32_t i = 1; i < SHM_SESSIONS_MAX; i++)
        deaths_forget(d, (session_no){ (uint16_t)i });
}
