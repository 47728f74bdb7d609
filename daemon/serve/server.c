/*
 * Server: one libuv loop, one thread, which owns all heap state. Deaths of clients, work in slices, start and stop.
 *
 * Called by main. Connections are in peer.c. A connection (peer) and a session are two things: a peer may have no
 * session (goallocctl), and a session may outlive its peer (the process closed the socket and lives).
 *
 * Idle: ending sessions and counting objects are done in slices between the turns of the loop.
 *
 * Death: SO_PEERPIDFD (else pidfd_open of the peer's pid) gives a pidfd at attach; it becomes readable when the
 * process is dead, whatever happened to copies of its socket in forked children. End of the stream alone does not end
 * a session: a process that lives may still write the alloc bits of its spans. But if its life lock (heapfile.c) has
 * gone too, its image has: it has exited, or become another program by exec. So after the end of a stream the lock is
 * looked at, at once and then every few milliseconds while it is held: the session is LOST, and its process may come
 * back to it with its token (request.c), also after this daemon was replaced by another.
 */
#include "daemon/serve/server.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/log.h"
#include "daemon/notify.h"
#include "daemon/serve/request.h"
#include "shm/crash.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

#define END_SLICE_SPANS    256u
#define LOST_MS_MAX        32u
#define LOST_LOOKS_FEW     64u /* at a session that has just been lost, before it counts as lost for long */
#define LOST_OLD_A_TICK    16u
#define CENSUS_SLICE_SPANS 1024u
#define SWEEP_SLICE_SPANS  512u

struct watch {
    uv_poll_t poll;
    server *server;
    int pidfd;
    session_no session;
    uint32_t epoch;
};

/* --- lost sessions --- */

static void server_end_session(server *s, session *sess)
{
    session_set_state(&s->sessions, sess, SHM_SESSION_ENDING);
    server_wake_idle(s);
}

/* Which lost sessions have no process any more? */
static void server_on_lost_timer(uv_timer_t *timer)
{
    server *s = timer->data;
    bool more = false;
    unsigned nold = 0;

    for (uint32_t n = 1; n <= SHM_SESSIONS_MAX; n++) {
        uint32_t i = (s->lost_from + n) % SHM_SESSIONS_MAX;
        session *sess = session_at(&s->sessions, i);

        if (sess == NULL || sess->state != SHM_SESSION_LOST)
            continue;
        /* To ask costs the kernel a walk over all locks: of those lost for long, some are asked at a time. */
        if (sess->nlooks >= LOST_LOOKS_FEW) {
            more = true;
            if (nold == LOST_OLD_A_TICK)
                continue;
            nold++;
            s->lost_from = i;
        } else {
            sess->nlooks++;
        }
        if (heapfile_session_lives(s->file, sess->lessee.no)) {
            more = true;
        } else {
            log_debug("session %u (pid %u): its process is gone", sess->lessee.no.n, sess->pid);
            server_end_session(s, sess);
        }
    }
    if (more)
        (void)uv_timer_start(timer, server_on_lost_timer, s->lost_ms, 0);
    s->lost_ms = s->lost_ms * 2 < LOST_MS_MAX ? s->lost_ms * 2 : LOST_MS_MAX;
}

void server_watch_lost(server *s)
{
    s->lost_ms = 1;
    (void)uv_timer_start(&s->lost_timer, server_on_lost_timer, 0, 0);
}

void server_drop_peer_of(server *s, const session *sess)
{
    for (peer *p = s->peers, *next; p != NULL; p = next) {
        next = p->next;
        if (p->session.n == sess->lessee.no.n && p->epoch == sess->lessee.epoch)
            peer_close(p);
    }
}

/* --- deaths --- */

static void watch_on_closed(uv_handle_t *handle)
{
    watch *w = handle->data;

    (void)close(w->pidfd);
    free(w);
}

static void watch_end(server *s, session_no no)
{
    watch *w = s->watches[no.n];

    if (w != NULL) {
        s->watches[no.n] = NULL;
        uv_close((uv_handle_t *)&w->poll, watch_on_closed);
    }
}

static void watch_on_death(uv_poll_t *poll, int status, int events)
{
    watch *w = poll->data;
    server *s = w->server;
    session *sess = session_find(&s->sessions, w->session, w->epoch);

    (void)status;
    (void)events;
    (void)uv_poll_stop(poll);
    if (sess == NULL || sess->state == SHM_SESSION_ENDING)
        return;
    log_debug("session %u: pid %u has died", sess->lessee.no.n, sess->pid);
    server_drop_peer_of(s, sess); /* it is LOST: now its life lock decides, at once as a rule */
    if (sess->state == SHM_SESSION_OPEN) {
        session_set_state(&s->sessions, sess, SHM_SESSION_LOST);
        server_watch_lost(s);
    }
}

bool server_watch(server *s, peer *p, const session *sess)
{
    uv_os_fd_t fd;
    int pidfd = -1;
    socklen_t len = sizeof(pidfd);
    watch *w;

    if (uv_fileno((uv_handle_t *)&p->pipe, &fd) < 0)
        return true;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &len) < 0)
        pidfd = sess->pid == 0 ? -1 : (int)syscall(SYS_pidfd_open, sess->pid, 0);
    if (pidfd < 0) {
        log_debug("session %u: no pidfd for pid %u: %s", sess->lessee.no.n, sess->pid, strerror(errno));
        return errno != EMFILE && errno != ENFILE;
    }
    if (pidfd >= s->late_fd) {
        (void)close(pidfd);
        return false;
    }
    w = calloc(1, sizeof(*w));
    if (w == NULL || uv_poll_init(&s->loop, &w->poll, pidfd) < 0) {
        (void)close(pidfd);
        free(w);
        return true;
    }
    w->poll.data = w;
    w->server = s;
    w->pidfd = pidfd;
    w->session = sess->lessee.no;
    w->epoch = sess->lessee.epoch;
    watch_end(s, sess->lessee.no);
    s->watches[sess->lessee.no.n] = w;
    if (uv_poll_start(&w->poll, UV_READABLE, watch_on_death) < 0)
        watch_end(s, sess->lessee.no);
    return true;
}

/* --- work in slices --- */

static bool idle_end_sessions(server *s)
{
    bool more = false;

    for (uint32_t i = 1; i < SHM_SESSIONS_MAX; i++) {
        session *sess = session_at(&s->sessions, i);

        if (sess == NULL || sess->state != SHM_SESSION_ENDING || sess->lessee.nops > 0)
            continue;
        session_no no = sess->lessee.no;
        uint32_t epoch = sess->lessee.epoch;

        request_count_session(s, no);

        if (!session_end_step(&s->sessions, sess, END_SLICE_SPANS)) {
            more = true;
            continue;
        }
        watch_end(s, no);
        for (peer *p = s->peers, *next; p != NULL; p = next) {
            next = p->next;
            if (p->op_detach && p->session.n == no.n && p->epoch == epoch)
                request_detach_done(p);
        }
    }
    return more;
}

/* Does a peer wait for one of these? Those who do are in the round from now on. */
static bool round_begin(server *s, enum peer_wait one, enum peer_wait other)
{
    bool any = false;

    for (peer *p = s->peers; p != NULL; p = p->next) {
        if (p->wait != one && p->wait != other)
            continue;
        p->in_round = true;
        any = true;
    }
    return any;
}

static bool idle_count_objects(server *s)
{
    if (!s->counting) {
        s->counting = round_begin(s, WAIT_STATS, WAIT_STATS);
        memset(&s->census, 0, sizeof(s->census));
    }
    if (!s->counting)
        return false;
    if (!census_step(&s->census, s->heap, CENSUS_SLICE_SPANS))
        return true;
    s->counting = false;
    for (peer *p = s->peers, *next; p != NULL; p = next) {
        next = p->next;
        if (p->wait == WAIT_STATS && p->in_round) {
            p->wait = WAIT_NONE;
            p->in_round = false;
            request_stats_done(p);
        }
    }
    return true; /* somebody may have asked meanwhile */
}

/* What sessions have left behind: for who lists them, and to drop what nobody can ask for any more. */
static bool idle_count_left(server *s)
{
    left_table *left = s->heap->left;

    if (!s->counting_left) {
        s->counting_left = round_begin(s, WAIT_SESSIONS, WAIT_SESSIONS) || left_wants_walk(left);
        if (!s->counting_left)
            return false;
        left_walk_begin(left);
    }
    if (!left_walk_step(left, CENSUS_SLICE_SPANS))
        return true;
    s->counting_left = false;
    for (peer *p = s->peers, *next; p != NULL; p = next) {
        next = p->next;
        if (p->wait == WAIT_SESSIONS && p->in_round) {
            p->wait = WAIT_NONE;
            p->in_round = false;
            request_session_list_done(p);
        }
    }
    return true;
}

static bool idle_sweep(server *s)
{
    uint64_t nfreed = 0;

    if (!s->sweeping) {
        s->sweeping = round_begin(s, WAIT_TRIM, WAIT_SCAVENGE);
        s->sweep_pos = page_at(0);
    }
    if (!s->sweeping)
        return false;
    if (!sweep_some(&s->sessions.leases, &s->sweep_pos, SWEEP_SLICE_SPANS, &nfreed))
        return true;
    s->sweeping = false;
    for (peer *p = s->peers, *next; p != NULL; p = next) {
        next = p->next;
        if ((p->wait == WAIT_TRIM || p->wait == WAIT_SCAVENGE) && p->in_round) {
            p->in_round = false;
            request_swept(p);
        }
    }
    return true;
}

void server_on_released(void *data)
{
    server *s = data;

    for (peer *p = s->peers, *next; p != NULL; p = next) {
        next = p->next;
        if (p->deferred) {
            p->deferred = false;
            peer_resume(p);
        }
    }
}

static void server_on_idle(uv_idle_t *idle)
{
    server *s = idle->data;

    /* Off first: what the work wakes up is not lost. */
    s->idle_active = false;
    (void)uv_idle_stop(idle);

    bool more = idle_end_sessions(s);

    more |= idle_count_objects(s);
    more |= idle_count_left(s);
    more |= idle_sweep(s);
    if (more)
        server_wake_idle(s);
}

void server_wake_idle(server *s)
{
    if (!s->idle_active && !s->stopping)
        (void)uv_idle_start(&s->idle, server_on_idle);
    s->idle_active = true;
}

void server_ask_trim(server *s)
{
    Goallocd__Reply notice = GOALLOCD__REPLY__INIT;
    Goallocd__TrimNotice body = GOALLOCD__TRIM_NOTICE__INIT;

    notice.result_case = GOALLOCD__REPLY__RESULT_TRIM_NOTICE;
    notice.trim_notice = &body;
    for (uint32_t i = 1; i < SHM_SESSIONS_MAX; i++) {
        if (session_at(&s->sessions, i) != NULL) {
            shm_u32 *seq = &s->heap->map->sessions[i].trim_seq;

            u32_store_release(seq, u32_load_relaxed(seq) + 1);
        }
    }
    for (peer *p = s->peers, *next; p != NULL; p = next) {
        next = p->next;
        if (peer_session(p) != NULL && !p->notified) {
            p->notified = true;
            peer_reply(p, &notice);
        }
    }
}

/* --- start and stop --- */

static void server_on_signal(uv_signal_t *handle, int signum)
{
    server *s = handle->data;
    Goallocd__Reply notice = GOALLOCD__REPLY__INIT;
    Goallocd__ShutdownNotice body = GOALLOCD__SHUTDOWN_NOTICE__INIT;

    if (s->stopping)
        return;
    log_info("stopping on signal %d", signum);
    s->leave_heap = signum == SIGUSR1;
    notify_systemd("STOPPING=1");
    s->stopping = s->commits.stopping = true;
    notice.result_case = GOALLOCD__REPLY__RESULT_SHUTDOWN_NOTICE;
    notice.shutdown_notice = &body;
    uv_close((uv_handle_t *)&s->listener, NULL);
    for (peer *p = s->peers, *next; p != NULL; p = next) {
        next = p->next;
        peer_reply(p, &notice);
        if (!p->closing)
            peer_close(p);
    }
    for (uint32_t i = 1; i < SHM_SESSIONS_MAX; i++)
        watch_end(s, (session_no){ (uint16_t)i });
    sweep_stop(&s->sweep);
    scavenge_stop(&s->scav);
    uv_close((uv_handle_t *)&s->lost_timer, NULL);
    if (s->options.keeper != NULL && s->options.keeper->poll_active)
        uv_close((uv_handle_t *)&s->keeper_poll, NULL);
    uv_close((uv_handle_t *)&s->idle, NULL);
    for (size_t i = 0; i < 3; i++)
        uv_close((uv_handle_t *)&s->signals[i], NULL);
}

static void server_watch_keeper(server *s);

static void server_on_keeper_closed(uv_handle_t *handle)
{
    server *s = handle->data;

    if (!s->stopping)
        server_watch_keeper(s);
}

/* The keeper says nothing while it lives. If it has died, another one takes its place. */
static void server_on_keeper(uv_poll_t *poll, int status, int events)
{
    server *s = poll->data;

    (void)status;
    (void)events;
    (void)uv_poll_stop(poll);
    uv_close((uv_handle_t *)poll, server_on_keeper_closed);
    s->options.keeper->poll_active = false;
    keeper_leave(s->options.keeper);
    log_warn("the keeper of the heap has died; starting another one");
    if (keeper_start(s->options.keeper, s->file) < 0)
        log_error("nobody keeps the heap from now on: if this daemon dies it is gone");
}

static void server_watch_keeper(server *s)
{
    keeper *k = s->options.keeper;

    if (k == NULL || k->fd < 0 || uv_poll_init(&s->loop, &s->keeper_poll, k->fd) < 0)
        return;
    s->keeper_poll.data = s;
    k->poll_active = true;
    if (uv_poll_start(&s->keeper_poll, UV_READABLE | UV_DISCONNECT, server_on_keeper) < 0)
        log_warn("the keeper can't be watched");
}

static int server_start(server *s, int listen_fd)
{
    static const int signums[3] = { SIGTERM, SIGINT, SIGUSR1 };
    int r;

    if ((r = uv_loop_init(&s->loop)) < 0 || (r = uv_pipe_init(&s->loop, &s->listener, 0)) < 0 ||
        (r = uv_pipe_open(&s->listener, listen_fd)) < 0)
        return r;
    s->listener.data = s;
    for (size_t i = 0; i < 3; i++) {
        if ((r = uv_signal_init(&s->loop, &s->signals[i])) < 0 ||
            (r = uv_signal_start(&s->signals[i], server_on_signal, signums[i])) < 0)
            return r;
        s->signals[i].data = s;
    }
    if ((r = uv_idle_init(&s->loop, &s->idle)) < 0)
        return r;
    s->idle.data = s;
    sweep_start(&s->sweep, &s->loop, &s->sessions.leases);
    (void)uv_timer_init(&s->loop, &s->lost_timer);
    s->lost_timer.data = s;
    server_watch_keeper(s);
    if (s->options.recovered) {
        server_watch_lost(s);
        server_wake_idle(s);
    }
    s->commits.loop = &s->loop;
    scavenge_start(&s->scav, &s->loop, s->heap, s->options.scavtrace, server_on_released, s);
    if (s->options.eager_commit)
        ahead_start(&s->ahead, s->heap, &s->commits, &s->mem, &s->scav, server_on_released, s);
    return uv_listen((uv_stream_t *)&s->listener, SOMAXCONN, peer_on_connection);
}

int server_run(server *s, int listen_fd, mheap *heap, const server_options *options)
{
    const char *why = NULL;
    int r;

    memset(s, 0, offsetof(server, in));
    s->file = heap->file;
    s->heap = heap;
    s->options = *options;
    s->started_ms = uv_hrtime() / 1000000;
    s->late_fd = peer_late_fd();
    oppool_init(&s->ops);
    frame_bump_init(&s->bump, s->bump_buf, sizeof(s->bump_buf));
    if (options->recovered) {
        r = session_table_recover(&s->sessions, heap, &why);
        if (r < 0) {
            log_error("the heap's sessions can't be taken over: %s", why != NULL ? why : strerror(-r));
            return r;
        }
        CRASH_POINT(recover_after_sessions);
    } else {
        session_table_init(&s->sessions, heap);
    }
    r = roots_new(heap->map, &s->roots);
    if (r < 0) {
        log_error("the heap's named roots can't be read: %s", r == -EUCLEAN ? "the table is damaged" : strerror(-r));
        return r;
    }
    r = server_start(s, listen_fd);
    if (r < 0) {
        log_error("start: %s", uv_strerror(r));
        return r; /* the process ends */
    }
    log_info("serving %llu MiB at 0x%llx", (unsigned long long)(heap->map->arena_bytes / MIB),
             (unsigned long long)heap->map->base);
    notify_systemd("READY=1\nSTATUS=serving");
    (void)uv_run(&s->loop, UV_RUN_DEFAULT);
    (void)uv_loop_close(&s->loop);
    session_table_end(&s->sessions);
    s->roots = roots_free(s->roots);
    return 0;
}
