/*
 * Peer: a connection, from accept to close: bytes in, frames, replies out.
 *
 * Called by server (loop, deaths, slices) and by request (replies). Calls request.c for each frame. A connection and a
 * session are two things: a peer may have no session (goallocctl), and a session may outlive its peer (server.c).
 * Data: the peer, and the loop's two buffers, which nobody uses over a return to the loop.
 *
 * In:   read into the loop's buffer -> whole frames are handled where they lie -> the rest is kept in the peer; the
 *       next read goes behind a copy of it. A few bytes are kept within the peer; more get memory, for the whole frame
 *       at once, and are read there.
 * Out:  packed into the loop's other buffer -> uv_try_write -> what the socket does not take is copied and queued;
 *       above 256 KiB the peer is disconnected. The daemon never waits for a client.
 * Busy: a peer whose request takes longer is not read from until it is answered.
 * End:  every reply and notice may close its peer, that of the request being handled too. Who goes on after one may
 *       read and write the peer until the loop turns. A peer that is closing is never made to wait (peer_hold), since
 *       nobody comes back to it; only memory that is being committed for it keeps it until that has ended.
 *
 * Descriptors: the last 16 below the limit of the process are a reserve. Who connects when only these are left (late)
 *       has its Attach answered with EUSERS and is closed, and can ask all that needs no session: so a daemon with too
 *       many clients can still be looked at. A session's pidfd is never one of the reserve either. At most 8
 *       connections are late, the oldest makes room for the next. If accept finds no descriptor in spite of that, libuv
 *       gives up one that it keeps for the purpose, and closes what waits (uv__emfile_trick); so the loop does not
 *       spin.
 *
 * A request that comes in one piece and whose reply the socket takes, so each of an honest client, costs three system
 * calls (epoll_wait, read, write: as many as a bare echo) and no malloc: it is unpacked into the server's bump, what it
 * leases is noted in memory of the server (oppool.c), the reply is packed into a buffer of the server.
 */
#include "daemon/serve/server.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <utlist.h>

#include "daemon/log.h"
#include "daemon/serve/request.h"
#include "proto/fdpass.h"
#include "proto/wire.h"

#define QUEUED_BYTES_MAX (256 * KIB)
#define DEFERS_MAX       16u
#define RESERVE_FDS      16u
#define LATE_MAX         8u

static void peer_process(peer *p);

static void peer_drop_input(peer *p)
{
    if (p->in != p->in_few)
        free(p->in);
    p->in = NULL;
    p->in_bytes = p->in_cap = 0;
}

static void peer_unref(peer *p)
{
    if (!p->closed || p->busy)
        return;
    peer_drop_input(p);
    DL_DELETE2(p->server->gone, p, gone_prev, gone_next);
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

void peer_close(peer *p)
{
    server *s = p->server;
    session *sess = peer_session(p);

    if (p->closing)
        return;
    p->closing = true;
    if (sess != NULL && !s->stopping) {
        session_set_state(&s->sessions, sess, SHM_SESSION_LOST);
        sess->nlooks = 0;
        log_debug("session %u (pid %u): connection ended", sess->lessee.no.n, sess->pid);
        server_watch_lost(s);
    }
    if (p->wait != WAIT_NONE || p->op_detach || p->deferred) {
        /* Nobody will come back to this peer for these. A commit does, so the peer waits for that. */
        p->wait = WAIT_NONE;
        p->op_detach = p->deferred = false;
        p->busy = false;
    }
    s->nlate -= p->late;
    DL_DELETE(s->peers, p);
    DL_APPEND2(s->gone, p, gone_prev, gone_next);
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
    size_t len = wire_pack_reply(reply, p->server->out, sizeof(p->server->out));

    if (p->closing)
        return;
    if (len == 0)
        peer_violation(p, "a reply does not fit into a frame");
    else
        peer_send(p, p->server->out, len);
}

void peer_reply_with_fds(peer *p, const Goallocd__Reply *reply, const int *fds, int nfds)
{
    size_t len = wire_pack_reply(reply, p->server->out, sizeof(p->server->out));
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
        request = wire_unpack_request(&s->bump, data + used + FRAME_HEADER_BYTES, payload);
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
    size_t cap = len_bytes;
    uint8_t *in = p->in_few;

    if (len_bytes == 0 || p->closing) {
        peer_drop_input(p);
        return;
    }
    if (len_bytes > sizeof(p->in_few)) {
        size_t frame = FRAME_HEADER_BYTES + (size_t)frame_payload_bytes(data);

        if (frame > len_bytes && frame <= FRAME_BYTES_MAX)
            cap = frame;
        in = malloc(cap);
        if (in == NULL) {
            peer_violation(p, "no memory for its request");
            return;
        }
    }
    memmove(in, data, len_bytes);
    peer_drop_input(p);
    p->in = in;
    p->in_bytes = len_bytes;
    p->in_cap = cap;
}

/* Is the rest of a long frame being read to where its beginning is kept? */
static bool peer_reads_in_place(const peer *p)
{
    return p->in != NULL && p->in != p->in_few;
}

static void peer_on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    peer *p = handle->data;
    server *s = p->server;

    (void)suggested;
    if (peer_reads_in_place(p)) {
        *buf = uv_buf_init((char *)p->in + p->in_bytes, (unsigned)(p->in_cap - p->in_bytes));
        return;
    }
    if (p->in_bytes > 0)
        memcpy(s->in, p->in, p->in_bytes);
    *buf = uv_buf_init((char *)s->in + p->in_bytes, (unsigned)(sizeof(s->in) - p->in_bytes));
}

static void peer_on_read(uv_stream_t *stream, ssize_t nread, const uv_buf_t *buf)
{
    peer *p = stream->data;
    const uint8_t *data = p->server->in;
    size_t len = p->in_bytes + (size_t)nread;
    size_t used;

    (void)buf;
    if (nread == 0)
        return;
    if (nread < 0) {
        peer_close(p);
        return;
    }
    if (peer_reads_in_place(p)) {
        p->in_bytes = len;
        if (p->in_bytes == p->in_cap)
            peer_process(p);
        return;
    }
    used = peer_handle_frames(p, data, len);
    if (len > used || p->in != NULL)
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

bool peer_hold(peer *p)
{
    if (p->closing)
        return false;
    p->busy = true;
    return true;
}

bool peer_defer(peer *p)
{
    const mheap *heap = p->server->heap;

    if (mheap_releasing_pages(heap) + heap->naside_pages[ASIDE_UNUSED] == 0 || p->ndefers >= DEFERS_MAX ||
        !peer_hold(p))
        return false;
    p->ndefers++;
    p->deferred = true;
    return true;
}

void peer_wait_for_ops(peer *p)
{
    p->deferred = peer_hold(p);
}

int peer_validate_all(const server *s, FILE *err)
{
    for (const peer *p = s->peers; p != NULL; p = p->next) {
        if (p->closing || p->closed) {
            (void)fprintf(err, "peer: a connection of pid %u is closed and still served\n", p->pid);
            return -EUCLEAN;
        }
    }
    for (const peer *p = s->gone; p != NULL; p = p->gone_next) {
        if (p->closed && p->op == NULL) {
            (void)fprintf(err, "peer: a connection of pid %u is closed, and nobody comes back to it\n", p->pid);
            return -EUCLEAN;
        }
    }
    return 0;
}

int peer_late_fd(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur > INT_MAX)
        return INT_MAX;
    return limit.rlim_cur < RESERVE_FDS ? 0 : (int)(limit.rlim_cur - RESERVE_FDS);
}

/* A peer of the reserve; if there are many, the oldest makes room. */
static void peer_note_late(peer *p)
{
    server *s = p->server;

    p->late = true;
    s->nlate++;
    if (s->nlate == 1)
        log_warn("few descriptors are left: no more sessions");
    for (peer *old = s->peers; s->nlate > LATE_MAX; old = old->next) {
        if (old->late) {
            peer_close(old);
            return;
        }
    }
}

static void refuse(server *s);

static void on_refused(uv_handle_t *handle)
{
    server *s = handle->data;

    s->refusing = false;
    if (s->refuse_again && !s->stopping)
        refuse(s);
}

/* There is no memory for a connection. It has to be accepted all the same: libuv takes no other one before it. */
static void refuse(server *s)
{
    s->refuse_again = s->refusing;
    if (s->refusing)
        return;
    log_warn("no memory for a connection");
    (void)uv_pipe_init(&s->loop, &s->refused, 0);
    s->refused.data = s;
    s->refusing = true;
    (void)uv_accept((uv_stream_t *)&s->listener, (uv_stream_t *)&s->refused);
    uv_close((uv_handle_t *)&s->refused, on_refused);
}

void peer_on_connection(uv_stream_t *listener, int status)
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
        free(p);
        refuse(s);
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
    if (fd >= s->late_fd)
        peer_note_late(p);
}
