/*
 * Server: one libuv loop, one thread, which owns all heap state.
 *
 * Called by main. Calls request.c for each frame. A connection (peer) and a session are two things: a peer may have
 * no session (goallocctl), and a session may outlive its peer (the process closed the socket and lives).
 *
 * In:   uv_read into one buffer of the loop -> whole frames are handled where they lie -> the rest is copied into
 * the peer. Out:  packed into one buffer of the loop -> uv_try_write -> what the socket does not take is copied and
 *       queued; above 256 KiB the peer is disconnected. The daemon never waits for a client.
 * Busy: a peer whose request takes longer is not read from until it is answered.
 * Idle: ending sessions and counting objects are done in slices between the turns of the loop.
 *
 * Death: SO_PEERPIDFD (else pidfd_open of the peer's pid) gives a pidfd at attach; it becomes readable when the
 * process is dead, whatever happened to copies of its socket in forked children. End of the stream alone does not end
 * a session: a process that lives may still write the alloc bits of its spans. But if its life lock (heapfile.c) has
 * gone too, its image has: it has exited, or become another program by exec. So after the end of a stream the lock is
 * looked at, at once and then every few milliseconds while it is held: the session is LOST, and its process may come
 * back to it with its token (request.c), also after this daemon was replaced by another.
 */
#include "daemon/server.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <utlist.h>

#include "daemon/log.h"
#include "daemon/notify.h"
#include "daemon/request.h"
#include "proto/fdpass.h"
#include "shm/crash.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

#define QUEUED_BYTES_MAX   (256 * KIB)
#define END_SLICE_SPANS    256u
#define LOST_MS_MAX        32u
#define LOST_LOOKS_FEW     64u /* at a session that has just been lost, before it counts as lost for long */
#define LOST_OLD_A_TICK    16u
#define CENSUS_SLICE_SPANS 1024u
#define SWEEP_SLICE_SPANS  512u
#define DEFERS_MAX         16u

struct watch {
    uv_poll_t poll;
    server *server;
    int pidfd;
    session_no session;
    uint32_t epoch;
};

static void peer_process(peer *p);
static void peer_close(peer *p);
static void server_watch_lost(server *s);

/* --- peers --- */

static void peer_unref(peer *p)
{
    if (!p->closed || p->busy)
        return;
    free(p->op_spans);
    free(p->in);
    free(p);
}

static void peer_on_closed(uv_handle_t *handle)
{
    peer *p = handle->data;

    p->closed = true;
    peer_unref(p);
}

session *peer_session(const peer *p)
{
    session *s = p->session.n == 0 ? NULL : session_find(&p->server->sessions, p->session, p->epoch);

    return s != NULL && s->state == SHM_SESSION_OPEN ? s : NULL;
}

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
        session *sess = s->sessions.slots[i];

        if (sess == NULL || sess->state != SHM_SESSION_LOST)
            continue;
        /* To ask costs the kernel a walk over all locks: those that have been lost for long are asked some at a time. */
        if (sess->nlooks >= LOST_LOOKS_FEW) {
            more = true;
            if (nold == LOST_OLD_A_TICK)
                continue;
            nold++;
            s->lost_from = i;
        } else {
            sess->nlooks++;
        }
        if (heapfile_session_lives(s->file, sess->no)) {
            more = true;
        } else {
            log_debug("session %u (pid %u): its process is gone", sess->no.n, sess->pid);
            server_end_session(s, sess);
        }
    }
    if (more)
        (void)uv_timer_start(timer, server_on_lost_timer, s->lost_ms, 0);
    s->lost_ms = s->lost_ms * 2 < LOST_MS_MAX ? s->lost_ms * 2 : LOST_MS_MAX;
}

static void server_watch_lost(server *s)
{
    s->lost_ms = 1;
    (void)uv_timer_start(&s->lost_timer, server_on_lost_timer, 0, 0);
}

void server_drop_peer_of(server *s, const session *sess)
{
    for (peer *p = s->peers, *next; p != NULL; p = next) {
        next = p->next;
        if (p->session.n == sess->no.n && p->epoch == sess->epoch)
            peer_close(p);
    }
}

static void peer_close(peer *p)
{
    server *s = p->server;
    session *sess = peer_session(p);

    if (p->closing)
        return;
    p->closing = true;
    if (sess != NULL && !s->stopping) {
        session_set_state(&s->sessions, sess, SHM_SESSION_LOST);
        sess->nlooks = 0;
        log_debug("session %u (pid %u): connection ended", sess->no.n, sess->pid);
        server_watch_lost(s);
    }
    if (p->wait != WAIT_NONE || p->op_detach || p->deferred) {
        /* Nobody will come back to this peer for these. A commit does, so the peer waits for that. */
        p->wait = WAIT_NONE;
        p->op_detach = p->deferred = false;
        p->busy = false;
    }
    DL_DELETE(s->peers, p);
    uv_close((uv_handle_t *)&p->pipe, peer_on_closed);
}

void peer_violation(peer *p, const char *format, ...)
{
    char why[256];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(why, sizeof(why), format, args);
    va_end(args);
    log_warn("client pid %u, session %u disconnected: %s", p->pid, p->session.n, why);
    peer_close(p);
}

typedef struct queued_write {
    uv_write_t req;
    peer *peer;
    size_t len_bytes;
    uint8_t data[];
} queued_write;

static void peer_on_written(uv_write_t *req, int status)
{
    queued_write *w = req->data;

    w->peer->queued_bytes -= w->len_bytes;
    if (status < 0 && status != UV_ECANCELED)
        peer_close(w->peer);
    free(w);
}

static void peer_send(peer *p, const uint8_t *data, size_t len_bytes)
{
    queued_write *w;

    if (p->queued_bytes == 0) {
        uv_buf_t buf = uv_buf_init((char *)(uintptr_t)data, (unsigned)len_bytes);
        int n = uv_try_write((uv_stream_t *)&p->pipe, &buf, 1);

        if (n < 0 && n != UV_EAGAIN) {
            peer_close(p);
            return;
        }
        if (n > 0) {
            data += n;
            len_bytes -= (size_t)n;
        }
        if (len_bytes == 0)
            return;
    }
    w = p->queued_bytes + len_bytes > QUEUED_BYTES_MAX ? NULL : malloc(sizeof(*w) + len_bytes);
    if (w == NULL) {
        peer_violation(p, "it does not read its replies");
        return;
    }
    w->req.data = w;
    w->peer = p;
    w->len_bytes = len_bytes;
    memcpy(w->data, data, len_bytes);

    uv_buf_t buf = uv_buf_init((char *)w->data, (unsigned)len_bytes);

    if (uv_write(&w->req, (uv_stream_t *)&p->pipe, &buf, 1, peer_on_written) < 0) {
        free(w);
        peer_close(p);
        return;
    }
    p->queued_bytes += len_bytes;
}

void peer_reply(peer *p, const Goallocd__Reply *reply)
{
    size_t len = frame_pack(&reply->base, p->server->out, sizeof(p->server->out));

    if (p->closing)
        return;
    if (len == 0)
        peer_violation(p, "a reply does not fit into a frame");
    else
        peer_send(p, p->server->out, len);
}

void peer_reply_with_fds(peer *p, const Goallocd__Reply *reply, const int *fds, int nfds)
{
    size_t len = frame_pack(&reply->base, p->server->out, sizeof(p->server->out));
    uv_os_fd_t fd;
    ssize_t n;

    /* The descriptors go around libuv, so nothing of libuv's may still be on its way. */
    if (len == 0 || p->queued_bytes != 0 || uv_fileno((uv_handle_t *)&p->pipe, &fd) < 0) {
        peer_violation(p, "it does not read its replies");
        return;
    }
    n = fdpass_send(fd, p->server->out, len, fds, nfds);
    if (n != (ssize_t)len)
        peer_close(p);
}

static void peer_on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    peer *p = handle->data;

    (void)suggested;
    *buf = uv_buf_init((char *)p->server->in, sizeof(p->server->in));
}

/* Handle whole frames in data. Returns the bytes used up. */
static size_t peer_handle_frames(peer *p, const uint8_t *data, size_t len_bytes)
{
    server *s = p->server;
    size_t used = 0;

    while (!p->busy && !p->closing && len_bytes - used >= FRAME_HEADER_BYTES) {
        uint32_t payload = frame_payload_bytes(data + used);
        Goallocd__Request *request;

        if (payload > FRAME_PAYLOAD_MAX) {
            peer_violation(p, "a frame of %u bytes", payload);
            break;
        }
        if (len_bytes - used < FRAME_HEADER_BYTES + payload)
            break;
        frame_bump_reset(&s->bump);
        request = goallocd__request__unpack(&s->bump.allocator, payload, data + used + FRAME_HEADER_BYTES);
        if (request == NULL) {
            peer_violation(p, "a frame that is no request");
            break;
        }
        s->nrpcs++;
        p->notified = false;
        request_handle(p, request);
        if (p->deferred)
            break;
        p->ndefers = 0;
        used += FRAME_HEADER_BYTES + payload;
    }
    return used;
}

/* Keep what has not been handled: len_bytes at data, which may lie in p->in. */
static void peer_keep(peer *p, const uint8_t *data, size_t len_bytes)
{
    if (len_bytes == 0 || p->closing) {
        free(p->in);
        p->in = NULL;
        p->in_bytes = 0;
        return;
    }

    uint8_t *copy = malloc(len_bytes);

    if (copy == NULL) {
        peer_violation(p, "no memory for its request");
        return;
    }
    memcpy(copy, data, len_bytes);
    free(p->in);
    p->in = copy;
    p->in_bytes = len_bytes;
}

static void peer_on_read(uv_stream_t *stream, ssize_t nread, const uv_buf_t *buf)
{
    peer *p = stream->data;
    const uint8_t *data = (const uint8_t *)buf->base;
    size_t len = (size_t)nread;
    size_t used;

    if (nread == 0)
        return;
    if (nread < 0) {
        peer_close(p);
        return;
    }
    if (p->in_bytes > 0) {
        uint8_t *joined = realloc(p->in, p->in_bytes + len);

        if (joined == NULL) {
            peer_violation(p, "no memory for its request");
            return;
        }
        memcpy(joined + p->in_bytes, data, len);
        p->in = joined;
        p->in_bytes += len;
        peer_process(p);
        return;
    }
    used = peer_handle_frames(p, data, len);
    peer_keep(p, data + used, len - used);
    if (p->busy && !p->closing)
        (void)uv_read_stop(stream);
}

/* Go on with what is kept, then with reading. */
static void peer_process(peer *p)
{
    size_t used = peer_handle_frames(p, p->in, p->in_bytes);
    int r;

    if (used > 0 || p->closing)
        peer_keep(p, p->in + used, p->in_bytes - used);
    if (p->closing)
        return;
    if (p->busy) {
        (void)uv_read_stop((uv_stream_t *)&p->pipe);
        return;
    }
    r = uv_read_start((uv_stream_t *)&p->pipe, peer_on_alloc, peer_on_read);
    if (r < 0 && r != UV_EALREADY)
        peer_close(p);
}

void peer_resume(peer *p)
{
    p->busy = false;
    if (p->closing)
        peer_unref(p);
    else
        peer_process(p);
}

static void server_on_connection(uv_stream_t *listener, int status)
{
    server *s = listener->data;
    struct ucred cred = { 0 };
    socklen_t len = sizeof(cred);
    uv_os_fd_t fd;
    peer *p;

    if (status < 0) {
        log_warn("accept: %s", uv_strerror(status));
        return;
    }
    p = calloc(1, sizeof(*p));
    if (p == NULL || uv_pipe_init(&s->loop, &p->pipe, 0) < 0) {
        log_warn("no memory for a connection");
        free(p);
        return;
    }
    p->server = s;
    p->pipe.data = p;
    DL_APPEND(s->peers, p);
    if (uv_accept(listener, (uv_stream_t *)&p->pipe) < 0 || uv_fileno((uv_handle_t *)&p->pipe, &fd) < 0 ||
        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0 ||
        uv_read_start((uv_stream_t *)&p->pipe, peer_on_alloc, peer_on_read) < 0) {
        peer_close(p);
        return;
    }
    p->pid = (uint32_t)cred.pid;
    p->uid = cred.uid;
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
    log_debug("session %u: pid %u has died", sess->no.n, sess->pid);
    server_drop_peer_of(s, sess); /* it is LOST: now its life lock decides, at once as a rule */
    if (sess->state == SHM_SESSION_OPEN) {
        session_set_state(&s->sessions, sess, SHM_SESSION_LOST);
        server_watch_lost(s);
    }
}

void server_watch(server *s, peer *p, const session *sess)
{
    uv_os_fd_t fd;
    int pidfd = -1;
    socklen_t len = sizeof(pidfd);
    watch *w;

    if (uv_fileno((uv_handle_t *)&p->pipe, &fd) < 0)
        return;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &len) < 0)
        pidfd = sess->pid == 0 ? -1 : (int)syscall(SYS_pidfd_open, sess->pid, 0);
    if (pidfd < 0) {
        log_debug("session %u: no pidfd for pid %u: %s", sess->no.n, sess->pid, strerror(errno));
        return;
    }
    w = calloc(1, sizeof(*w));
    if (w == NULL || uv_poll_init(&s->loop, &w->poll, pidfd) < 0) {
        (void)close(pidfd);
        free(w);
        return;
    }
    w->poll.data = w;
    w->server = s;
    w->pidfd = pidfd;
    w->session = sess->no;
    w->epoch = sess->epoch;
    watch_end(s, sess->no);
    s->watches[sess->no.n] = w;
    if (uv_poll_start(&w->poll, UV_READABLE, watch_on_death) < 0)
        watch_end(s, sess->no);
}

/* --- work in slices --- */

static bool idle_end_sessions(server *s)
{
    bool more = false;

    for (uint32_t i = 1; i < SHM_SESSIONS_MAX; i++) {
        session *sess = s->sessions.slots[i];

        if (sess == NULL || sess->state != SHM_SESSION_ENDING || sess->nops > 0)
            continue;
        session_no no = sess->no;
        uint32_t epoch = sess->epoch;

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

static bool idle_sweep(server *s)
{
    uint64_t nfreed = 0;

    if (!s->sweeping) {
        s->sweeping = round_begin(s, WAIT_TRIM, WAIT_SCAVENGE);
        s->sweep_pos = page_at(0);
    }
    if (!s->sweeping)
        return false;
    if (!sweep_some(&s->sessions, &s->sweep_pos, SWEEP_SLICE_SPANS, &nfreed))
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

bool peer_defer(peer *p)
{
    const mheap *heap = p->server->heap;

    if (heap->nreleasing_pages + heap->nempty_pages == 0 || p->ndefers >= DEFERS_MAX)
        return false;
    p->ndefers++;
    p->deferred = true;
    p->busy = true;
    return true;
}

void peer_wait_for_ops(peer *p)
{
    p->deferred = true;
    p->busy = true;
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
        if (s->sessions.slots[i] != NULL) {
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
    sweep_start(&s->sweep, &s->loop, &s->sessions);
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
    return uv_listen((uv_stream_t *)&s->listener, SOMAXCONN, server_on_connection);
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
    s->roots = roots_new(heap->map);
    if (s->roots == NULL)
        return -ENOMEM;
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
