/*
 * Peer: a connection, from accept to close: bytes in, frames, replies out.
 *
 * Called by who serves (server.c starts the host, handlers reply and close). Calls the handler that the host was given,
 * for each frame, and knows nothing of sessions or of what a request means. Data: the peer, and the host's two buffers,
 * which hold nothing over a return to the loop.
 *
 * In:   read into the host's buffer -> whole frames are handled where they lie -> the rest is held by the peer; the
 *       next read goes behind a copy of it. A few bytes are held within the peer; more get memory, for the whole frame
 *       at once, and are read there.
 * Out:  packed into the host's other buffer -> uv_try_write -> what the socket does not take is copied and queued;
 *       above 256 KiB the peer is disconnected. The daemon never waits for a client.
 * Busy: a request that takes longer is an operation (operation.c). While the peer has one it is not read from, so its
 *       requests are answered in order and cost no queue. A request that is to be handled again stays with the input.
 * End:  every reply and notice may close its peer, that of the request being handled too. Who goes on after one may
 *       read and write the peer until the loop turns. The peer's memory goes when its handle is closed and it has no
 *       operation.
 *
 * Descriptors: the last 16 below the limit of the process are a reserve. A peer that connects when only these are left
 *       (late) gets no session, and can ask all that needs none: so a daemon with too many clients can still be looked
 *       at. A session's pidfd is never one of the reserve either (deaths.c). At most 8 connections are late, the oldest
 *       makes room for the next. If accept finds no descriptor in spite of that, libuv gives up one that it has for the
 *       purpose, and closes what waits (uv__emfile_trick); so the loop does not spin.
 */
#include "daemon/serve/peer.h"

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
#include "proto/fdpass.h"

#define QUEUED_BYTES_MAX (256 * KIB)
#define RESERVE_FDS      16
#define LATE_MAX         8u
#define NOBODY_UID       UINT32_MAX /* a line of the log: it is not known who has caused it */

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
    if (!p->closed || p->op != NULL)
        return;
    peer_drop_input(p);
    DL_DELETE(p->host->peers, p);
    free(p);
}

static void peer_on_closed(uv_handle_t *handle)
{
    peer *p = handle->data;

    p->closed = true;
    peer_unref(p);
}

void peer_close(peer *p)
{
    peer_host *host = p->host;

    if (p->closing)
        return;
    host->on_close(p);
    p->closing = true;
    host->nlate -= p->late;
    p->late = false;
    uv_close((uv_handle_t *)&p->pipe, peer_on_closed);
}

void peer_violation(peer *p, const char *format, ...)
{
    char why[256];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(why, sizeof(why), format, args);
    va_end(args);
    log_client_warn(p->uid, "client pid %u disconnected: %s", p->pid, why);
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
    else if (w->peer->queued_bytes == 0 && !w->peer->closing)
        w->peer->host->on_drained(w->peer);
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
    uint8_t *out = p->host->out;
    size_t len;

    if (p->closing)
        return;
    len = wire_pack_reply(reply, out, sizeof(p->host->out));
    if (len == 0)
        peer_violation(p, "a reply does not fit into a frame");
    else
        peer_send(p, out, len);
}

int peer_fd(const peer *p)
{
    uv_os_fd_t fd;

    return uv_fileno((const uv_handle_t *)&p->pipe, &fd) < 0 ? -1 : fd;
}

void peer_reply_with_fds(peer *p, const Goallocd__Reply *reply, const int *fds, int nfds)
{
    size_t len = wire_pack_reply(reply, p->host->out, sizeof(p->host->out));
    int fd = peer_fd(p);

    /* The descriptors go around libuv, so nothing of libuv's may still be on its way. */
    if (len == 0 || p->queued_bytes != 0 || fd < 0)
        peer_violation(p, "it does not read its replies");
    else if (fdpass_send(fd, p->host->out, len, fds, nfds) != (ssize_t)len)
        peer_close(p);
}

/* Handle whole frames in data. Returns the bytes used up. */
static size_t peer_handle_frames(peer *p, const uint8_t *data, size_t len_bytes)
{
    peer_host *host = p->host;
    size_t used = 0;

    while (p->op == NULL && !p->closing && len_bytes - used >= FRAME_HEADER_BYTES) {
        uint32_t payload = frame_payload_bytes(data + used);
        Goallocd__Request *request;

        if (payload > FRAME_PAYLOAD_MAX) {
            peer_violation(p, "a frame of %u bytes", payload);
            break;
        }
        if (len_bytes - used < FRAME_HEADER_BYTES + payload)
            break;
        request = wire_unpack_request(&host->bump, data + used + FRAME_HEADER_BYTES, payload);
        if (request == NULL) {
            peer_violation(p, "a frame that is no request");
            break;
        }
        if (!host->handle(p, request))
            break;
        used += FRAME_HEADER_BYTES + payload;
    }
    return used;
}

/* Hold what has not been handled: len_bytes at data, which may lie in p->in. */
static void peer_hold_input(peer *p, const uint8_t *data, size_t len_bytes)
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

/* True if the rest of a long frame is read to where its beginning lies. */
static bool peer_reads_in_place(const peer *p)
{
    return p->in != NULL && p->in != p->in_few;
}

static void peer_on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    peer *p = handle->data;
    uint8_t *in = p->host->in;

    (void)suggested;
    if (peer_reads_in_place(p)) {
        *buf = uv_buf_init((char *)p->in + p->in_bytes, (unsigned)(p->in_cap - p->in_bytes));
        return;
    }
    if (p->in_bytes > 0)
        memcpy(in, p->in, p->in_bytes);
    *buf = uv_buf_init((char *)in + p->in_bytes, (unsigned)(sizeof(p->host->in) - p->in_bytes));
}

static void peer_on_read(uv_stream_t *stream, ssize_t nread, const uv_buf_t *buf)
{
    peer *p = stream->data;
    const uint8_t *data = p->host->in;
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
        peer_hold_input(p, data + used, len - used);
    if (p->op != NULL && !p->closing)
        (void)uv_read_stop(stream);
}

/* Go on with the input that the peer holds, then with reading. */
static void peer_process(peer *p)
{
    size_t used = peer_handle_frames(p, p->in, p->in_bytes);
    int r;

    if (used > 0 || p->closing)
        peer_hold_input(p, p->in + used, p->in_bytes - used);
    if (p->closing)
        return;
    if (p->op != NULL) {
        (void)uv_read_stop((uv_stream_t *)&p->pipe);
        return;
    }
    r = uv_read_start((uv_stream_t *)&p->pipe, peer_on_alloc, peer_on_read);
    if (r < 0 && r != UV_EALREADY)
        peer_close(p);
}

void peer_resume(peer *p)
{
    if (p->closing)
        peer_unref(p);
    else
        peer_process(p);
}

/* --- connections come in --- */

/* A peer of the reserve; if there are many, the oldest makes room. */
static void peer_note_late(peer *p)
{
    peer_host *host = p->host;

    p->late = true;
    host->nlate++;
    if (host->nlate == 1)
        log_client_warn(p->uid, "few descriptors are left: no more sessions");
    for (peer *old = host->peers; host->nlate > LATE_MAX; old = old->next) {
        if (old->late) {
            peer_close(old);
            return;
        }
    }
}

static void refuse(peer_host *host);

static void on_refused(uv_handle_t *handle)
{
    peer_host *host = handle->data;

    host->refusing = false;
    if (host->refuse_again && !uv_is_closing((uv_handle_t *)&host->listener))
        refuse(host);
}

/* There is no memory for a connection. It has to be accepted all the same: libuv accepts no other one before it. */
static void refuse(peer_host *host)
{
    host->refuse_again = host->refusing;
    if (host->refusing)
        return;
    log_client_warn(NOBODY_UID, "no memory for a connection");
    (void)uv_pipe_init(host->loop, &host->refused, 0);
    host->refused.data = host;
    host->refusing = true;
    (void)uv_accept((uv_stream_t *)&host->listener, (uv_stream_t *)&host->refused);
    uv_close((uv_handle_t *)&host->refused, on_refused);
}

static void peer_on_connection(uv_stream_t *listener, int status)
{
    peer_host *host = listener->data;
    struct ucred cred = { 0 };
    socklen_t len = sizeof(cred);
    uv_os_fd_t fd;
    peer *p;

    if (status < 0) {
        log_client_warn(NOBODY_UID, "accept: %s", uv_strerror(status));
        return;
    }
    p = calloc(1, host->peer_bytes);
    if (p == NULL || uv_pipe_init(host->loop, &p->pipe, 0) < 0) {
        free(p);
        refuse(host);
        return;
    }
    p->host = host;
    p->pipe.data = p;
    DL_APPEND(host->peers, p);
    if (uv_accept(listener, (uv_stream_t *)&p->pipe) < 0 || uv_fileno((uv_handle_t *)&p->pipe, &fd) < 0 ||
        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0 ||
        uv_read_start((uv_stream_t *)&p->pipe, peer_on_alloc, peer_on_read) < 0) {
        peer_close(p);
        return;
    }
    p->pid = (uint32_t)cred.pid;
    p->uid = cred.uid;
    if (fd >= host->late_fd)
        peer_note_late(p);
}

int peer_host_start(peer_host *host, int listen_fd)
{
    struct rlimit limit;
    int r = uv_pipe_init(host->loop, &host->listener, 0);

    host->listener.data = host;
    host->late_fd = INT_MAX;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur <= INT_MAX)
        host->late_fd = (int)limit.rlim_cur - RESERVE_FDS;
    frame_bump_init(&host->bump, host->bump_buf, sizeof(host->bump_buf));
    if (r == 0)
        r = uv_pipe_open(&host->listener, listen_fd);
    return r < 0 ? r : uv_listen((uv_stream_t *)&host->listener, SOMAXCONN, peer_on_connection);
}

void peer_host_stop(peer_host *host, const Goallocd__Reply *notice)
{
    uv_close((uv_handle_t *)&host->listener, NULL);
    for (peer *p = host->peers, *next; p != NULL; p = next) {
        next = p->next;
        peer_reply(p, notice);
        peer_close(p);
    }
}
