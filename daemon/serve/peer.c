/*
 * Peer: a connection, from accept to close: bytes in, frames, replies out.
 *
 * Called by who serves (door.c lets connections in, handlers reply and close). Calls the handler that the host was
 * given, for each frame, users (what it buffers, and its part of a turn) and unread (descriptors that it was sent);
 * knows nothing of sessions or of what a request means. Data: the peer, and the host's two buffers, which hold nothing
 * over a return to the loop.
 *
 * In:   read into the host's buffer -> whole frames are handled where they lie -> the rest is held by the peer; the
 *       next read goes behind a copy of it. A few bytes are held within the peer; more get memory, which doubles as
 *       they come, up to the whole frame, and are read there. So a header that announces 64 KiB costs nothing.
 * Out:  packed into the host's other buffer -> uv_try_write -> what the socket does not take is copied and queued. From
 *       half of what it may buffer on, no request of the peer is handled, nor is it read from: who does not read its
 *       replies waits for itself. The daemon never waits for a client.
 * Busy: a request that takes longer is an operation (operation.c). While the peer has one it is not read from, so its
 *       requests are answered in order and cost no queue. A request that is to be handled again stays with the input.
 * Turn: in one turn of the loop a peer has LIMIT_PIPELINED requests handled, and all peers of a user together
 *       LIMIT_UID_TURN: then they are ready, which is to go on in a later turn, one after the other. The time of a
 *       user's first TURN_FREE requests of a turn is not measured, so that those who wait for each reply cost no look
 *       at the clock.
 * End:  every reply and notice may close its peer, that of the request being handled too. Who goes on after one may
 *       read and write the peer until the loop turns. The peer's memory goes when its handle is closed and it has no
 *       operation. If the client has not received descriptors, the socket is only shut down: the peer lingers, and
 *       counts as a connection, until they are received or the client is gone (unread.c).
 *
 * Bounds: what a peer holds and has queued is counted, with what malloc and libuv need beside it, against
 *       LIMIT_CONNECTION_BUFFER, LIMIT_UID_BUFFER and LIMIT_BUFFER; who would pass one is closed. When half of one of
 *       them is used, who has replies to read gets no more before it has read them. In the kernel wait 2 * SEND_BYTES
 *       of replies at most.
 *
 * Descriptors that a client sends are closed by whoever receives, or discards, the bytes that they came with, and to
 *       close one can take as long as its sender likes. Where the kernel refuses them (door.c) there are none. Else
 *       there is a closer (closer.c), and nothing is received that was not peeked at: a message with descriptors stays
 *       in the socket, and its peer is disconnected.
 *
 * Invariants (check.c): a peer is ready iff it is in that list; what all have buffered is what their users
 *       have.
 */
#include "daemon/serve/peer.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <utlist.h>

#include "daemon/log.h"
#include "proto/fdpass.h"

#define TURN_FREE    8u              /* requests of a user in a turn of the loop, whose time is not measured */
#define SEND_BYTES   (32 * 1024)     /* of replies in the kernel, which doubles it for what it needs beside them */
#define GROW_BYTES   1024u           /* for a frame that has begun: the first memory, doubled as it fills */
#define MALLOC_BYTES 16u             /* what malloc needs beside a block */
#define NS_PER_US    UINT64_C(1000)
#define LINGER_MS    100u            /* until those that linger are looked at again, */
#define LINGER_LOOKS 256             /* so many at once: some 100 us */

static void peer_process(peer *p, bool has_turn);

/* --- memory --- */

static bool peer_charge(peer *p, uint64_t nbytes)
{
    users *accounts = p->host->users;
    uint64_t most = accounts->limits->max[LIMIT_CONNECTION_BUFFER];
    enum limit why = LIMIT_CONNECTION_BUFFER;

    if (p->buffered + nbytes <= most && users_count(accounts, p->user, LIMIT_UID_BUFFER, nbytes, &why)) {
        p->buffered += nbytes;
        return true;
    }
    if (!p->closing)
        p->host->on_refused(p, why);
    peer_close(p);
    return false;
}

static void peer_uncharge(peer *p, uint64_t nbytes)
{
    users_uncount(p->host->users, p->user, LIMIT_UID_BUFFER, nbytes);
    p->buffered -= nbytes;
}

static void peer_drop_input(peer *p)
{
    if (p->in != NULL && p->in != p->in_few) {
        peer_uncharge(p, p->in_cap + MALLOC_BYTES);
        free(p->in);
    }
    p->in = NULL;
    p->in_bytes = p->in_cap = 0;
}

/* --- the end --- */

static void peer_unref(peer *p)
{
    if (!p->closed || p->op != NULL)
        return;
    peer_drop_input(p);
    users_uncount(p->host->users, p->user, LIMIT_UID_CONNECTIONS, 1);
    DL_DELETE(p->host->peers, p);
    free(p);
}

static void peer_on_closed(uv_handle_t *handle)
{
    peer *p = handle->data;

    p->closed = true;
    peer_unref(p);
}

static void peer_not_silent(peer *p)
{
    if (p->silent)
        DL_DELETE2(p->host->silent, p, silent_prev, silent_next);
    p->silent = false;
}

void peer_still_silent(peer *p)
{
    p->came_ms = uv_now(p->host->loop);
    DL_DELETE2(p->host->silent, p, silent_prev, silent_next);
    DL_APPEND2(p->host->silent, p, silent_prev, silent_next);
}

static void peer_not_ready(peer *p)
{
    if (p->ready) {
        DL_DELETE2(p->host->ready, p, ready_prev, ready_next);
        p->host->nready--;
    }
    p->ready = false;
}

void peer_be_late(peer *p)
{
    p->late = true;
    DL_APPEND2(p->host->late, p, late_prev, late_next);
    p->host->nlate++;
}

static void peer_not_late(peer *p)
{
    if (p->late) {
        DL_DELETE2(p->host->late, p, late_prev, late_next);
        p->host->nlate--;
    }
    p->late = false;
}

static void peer_close_handle(peer *p)
{
    peer_host *host = p->host;
    int copy = -1;

    if (p->lingers)
        DL_DELETE2(host->lingering, p, lingering_prev, lingering_next);
    p->lingers = false;
    unread_end(p->host->users, &p->unread);
    if (host->closer != NULL && peer_fd(p) >= 0)
        copy = closer_keep(peer_fd(p));
    uv_close((uv_handle_t *)&p->pipe, peer_on_closed); /* which closes the descriptor at once */
    if (copy >= 0)
        closer_take(host->closer, copy, p->user);
}

/* Some that linger have received what they were sent, or are gone. */
static void on_linger(uv_timer_t *timer)
{
    peer_host *host = timer->data;

    for (unsigned i = 0; i < LINGER_LOOKS && host->lingering != NULL; i++) {
        peer *p = host->lingering;

        if (!unread_has(p->host->users, &p->unread)) {
            peer_close_handle(p);
            continue;
        }
        DL_DELETE2(host->lingering, p, lingering_prev, lingering_next);
        DL_APPEND2(host->lingering, p, lingering_prev, lingering_next);
    }
    if (host->lingering == NULL)
        (void)uv_timer_stop(timer);
}

/* To the client the connection is closed. What it has not received is in its socket, and the kernel counts it on us. */
static void peer_linger(peer *p)
{
    peer_host *host = p->host;

    (void)uv_read_stop((uv_stream_t *)&p->pipe);
    (void)shutdown(peer_fd(p), SHUT_RDWR);
    p->lingers = true;
    DL_APPEND2(host->lingering, p, lingering_prev, lingering_next);
    if (!uv_is_active((const uv_handle_t *)&host->linger))
        (void)uv_timer_start(&host->linger, on_linger, LINGER_MS, LINGER_MS);
}

void peer_close(peer *p)
{
    if (p->closing)
        return;
    p->host->on_close(p);
    p->closing = true;
    peer_not_late(p);
    peer_not_silent(p);
    peer_not_ready(p);
    if (unread_has(p->host->users, &p->unread))
        peer_linger(p);
    else
        peer_close_handle(p);
}

void peer_violation(peer *p, const char *format, ...)
{
    const log_subject subject = peer_subject(p);
    char why[256];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(why, sizeof(why), format, args);
    va_end(args);
    log_client_event(LOG_EVENT_CLIENT_VIOLATION, &subject, "disconnected: %s", why);
    peer_close(p);
}

/* --- output --- */

typedef struct queued_write {
    uv_write_t req;
    peer *peer;
    size_t len_bytes;
    uint8_t data[];
} queued_write;

static uint64_t write_cost(size_t len_bytes)
{
    return sizeof(queued_write) + len_bytes + MALLOC_BYTES;
}

/* When the peer has read enough, it goes on. */
static void peer_on_written(uv_write_t *req, int status)
{
    queued_write *w = req->data;
    peer *p = w->peer;

    p->queued_bytes -= w->len_bytes;
    peer_uncharge(p, write_cost(w->len_bytes));
    free(w);
    if (status < 0 && status != UV_ECANCELED)
        peer_close(p);
    if (p->closing)
        return;
    if (p->queued_bytes == 0)
        p->host->on_drained(p);
    if (!p->ready && !p->closing)
        peer_process(p, false);
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
    if (!peer_charge(p, write_cost(len_bytes)))
        return;
    w = malloc(sizeof(*w) + len_bytes);
    if (w == NULL) {
        peer_uncharge(p, write_cost(len_bytes));
        peer_violation(p, "no memory for its reply");
        return;
    }
    w->req.data = w;
    w->peer = p;
    w->len_bytes = len_bytes;
    memcpy(w->data, data, len_bytes);

    uv_buf_t buf = uv_buf_init((char *)w->data, (unsigned)len_bytes);

    if (uv_write(&w->req, (uv_stream_t *)&p->pipe, &buf, 1, peer_on_written) < 0) {
        peer_uncharge(p, write_cost(len_bytes));
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

int peer_reply_with_fds(peer *p, const Goallocd__Reply *reply, const int *fds, int nfds)
{
    size_t len = wire_pack_reply(reply, p->host->out, sizeof(p->host->out));
    int fd = peer_fd(p);
    ssize_t n;
    int r;

    /* The descriptors go around libuv, so nothing of libuv's may still be on its way. */
    if (len == 0 || p->queued_bytes != 0 || fd < 0) {
        peer_violation(p, "it does not read its replies");
        return 0;
    }
    r = unread_begin(p->host->users, &p->unread, p->user, fd, (unsigned)nfds);
    if (r < 0)
        return r;
    n = fdpass_send(fd, p->host->out, len, fds, nfds);
    if (n < 0)
        unread_end(p->host->users, &p->unread);
    if (n == -ETOOMANYREFS)
        return (int)n;
    if (n != (ssize_t)len)
        peer_close(p);
    return 0;
}

/* --- turns --- */

/* True if the user's peers may have another request handled in this turn of the loop. */
static bool has_time(const peer *p)
{
    return p->user->turn != p->host->turn ||
           p->user->spent_ns < p->host->users->limits->max[LIMIT_UID_TURN] * NS_PER_US;
}

static void on_go_on(uv_idle_t *idle)
{
    peer_host *host = idle->data;

    for (size_t n = host->nready; n > 0 && host->ready != NULL; n--) {
        peer *p = host->ready;

        DL_DELETE2(host->ready, p, ready_prev, ready_next);
        if (has_time(p)) {
            p->ready = false;
            host->nready--;
            peer_process(p, false);
        } else {
            DL_APPEND2(host->ready, p, ready_prev, ready_next);
        }
    }
    if (host->ready == NULL)
        (void)uv_idle_stop(idle);
}

/* It has had its part, and goes on in a later turn. */
static void peer_be_ready(peer *p)
{
    peer_host *host = p->host;

    if (p->ready || p->closing)
        return;
    p->ready = true;
    DL_APPEND2(host->ready, p, ready_prev, ready_next);
    host->nready++;
    (void)uv_idle_start(&host->go_on, on_go_on);
}

/* Have a request handled, in its user's time. */
static bool peer_handle(peer *p, const Goallocd__Request *request)
{
    user *who = p->user;
    uint64_t start_ns;
    bool handled;

    if (p->silent)
        peer_not_silent(p);
    if (who->turn != p->host->turn) {
        who->turn = p->host->turn;
        who->nrequests = 0;
        who->spent_ns = 0;
    }
    if (who->nrequests++ < TURN_FREE)
        return p->host->handle(p, request);
    start_ns = uv_hrtime();
    handled = p->host->handle(p, request);
    who->spent_ns += uv_hrtime() - start_ns;
    return handled;
}

/* --- input --- */

/*
 * True if the peer, for which replies are queued, may have more: half of what it may buffer, since a reply can need as
 * much. When its user has buffered half of what that may, it has to read first.
 */
static bool peer_may_queue(const peer *p)
{
    const users *accounts = p->host->users;

    return p->buffered <= accounts->limits->max[LIMIT_CONNECTION_BUFFER] / 2 &&
           p->user->used[LIMIT_UID_BUFFER] <= accounts->limits->max[LIMIT_UID_BUFFER] / 2 &&
           accounts->used[LIMIT_BUFFER] <= accounts->limits->max[LIMIT_BUFFER] / 2;
}

/* True if the next request of the peer may be handled. */
static inline bool peer_goes_on(const peer *p)
{
    return p->op == NULL && !p->closing && (p->queued_bytes == 0 || peer_may_queue(p));
}

/* Handle whole frames in data; has_turn: the first one whatever the turn says. Returns the bytes used up. */
static size_t peer_handle_frames(peer *p, const uint8_t *data, size_t len_bytes, bool has_turn)
{
    peer_host *host = p->host;
    uint64_t nleft = host->users->limits->max[LIMIT_PIPELINED];
    size_t used = 0;

    while (peer_goes_on(p) && len_bytes - used >= FRAME_HEADER_BYTES) {
        uint32_t payload = frame_payload_bytes(data + used);
        Goallocd__Request *request;

        if (payload > FRAME_PAYLOAD_MAX) {
            peer_violation(p, "a frame of %u bytes", payload);
            break;
        }
        if (len_bytes - used < FRAME_HEADER_BYTES + payload)
            break;
        if (nleft-- == 0 || (!has_turn && !has_time(p))) {
            peer_be_ready(p);
            break;
        }
        has_turn = false;
        request = wire_unpack_request(&host->bump, data + used + FRAME_HEADER_BYTES, payload);
        if (request == NULL) {
            peer_violation(p, "a frame that is no request");
            break;
        }
        if (!peer_handle(p, request))
            break;
        used += FRAME_HEADER_BYTES + payload;
    }
    return used;
}

/* Have memory for cap bytes of input, of which the first len_bytes are at data, which may lie in p->in. */
static void peer_take_memory(peer *p, const uint8_t *data, size_t len_bytes, size_t cap)
{
    uint8_t *in;

    if (!peer_charge(p, cap + MALLOC_BYTES))
        return;
    in = malloc(cap);
    if (in == NULL) {
        peer_uncharge(p, cap + MALLOC_BYTES);
        peer_violation(p, "no memory for its request");
        return;
    }
    memcpy(in, data, len_bytes);
    peer_drop_input(p);
    p->in = in;
    p->in_bytes = len_bytes;
    p->in_cap = cap;
}

/* Of the frame that begins at data, of which len_bytes are there. */
static size_t frame_bytes(const uint8_t *data, size_t len_bytes)
{
    size_t bytes = FRAME_HEADER_BYTES + (size_t)frame_payload_bytes(data);

    return bytes > len_bytes && bytes <= FRAME_BYTES_MAX ? bytes : len_bytes;
}

/* Hold what has not been handled: len_bytes at data, which may lie in p->in. */
static void peer_hold_input(peer *p, const uint8_t *data, size_t len_bytes)
{
    size_t cap;

    if (len_bytes == 0 || p->closing) {
        peer_drop_input(p);
        return;
    }
    if (len_bytes <= sizeof(p->in_few)) {
        memmove(p->in_few, data, len_bytes);
        peer_drop_input(p);
        p->in = p->in_few;
        p->in_bytes = p->in_cap = len_bytes;
        return;
    }
    cap = frame_bytes(data, len_bytes);
    if (cap > 2 * len_bytes)
        cap = 2 * len_bytes > GROW_BYTES ? 2 * len_bytes : cap < GROW_BYTES ? cap : GROW_BYTES;
    peer_take_memory(p, data, len_bytes, cap);
}

/* True if the rest of a long frame is read to where its beginning lies. */
static bool peer_reads_in_place(const peer *p)
{
    return p->in != NULL && p->in != p->in_few;
}

/* A long frame has filled its memory: it is whole, or gets twice as much. */
static void peer_fill(peer *p)
{
    size_t frame = frame_bytes(p->in, p->in_cap);

    if (frame == p->in_cap)
        peer_process(p, false);
    else
        peer_take_memory(p, p->in, p->in_bytes, frame < 2 * p->in_cap ? frame : 2 * p->in_cap);
}

/*
 * Bytes that can be received without receiving descriptors, up to cap; 0: there are none now. The bytes that a peek
 * brings are those that the next read brings, since nobody else reads.
 */
static size_t peer_peek(peer *p, char *to, size_t cap)
{
    struct iovec iov = { .iov_base = to, .iov_len = cap };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
    ssize_t n = recvmsg(peer_fd(p), &msg, MSG_PEEK | MSG_DONTWAIT);

    p->sends_fds = n > 0 && (msg.msg_flags & MSG_CTRUNC) != 0;
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : cap;
    return p->sends_fds ? 0 : n == 0 ? cap : (size_t)n;
}

static void peer_on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    peer *p = handle->data;
    uint8_t *in = p->host->in;

    (void)suggested;
    if (!has_time(p)) {
        peer_be_ready(p);
        *buf = uv_buf_init(NULL, 0);
        return;
    }
    if (peer_reads_in_place(p)) {
        *buf = uv_buf_init((char *)p->in + p->in_bytes, (unsigned)(p->in_cap - p->in_bytes));
    } else {
        if (p->in_bytes > 0)
            memcpy(in, p->in, p->in_bytes);
        *buf = uv_buf_init((char *)in + p->in_bytes, (unsigned)(sizeof(p->host->in) - p->in_bytes));
    }
    if (p->host->closer != NULL)
        buf->len = peer_peek(p, buf->base, buf->len);
}

static void peer_on_read(uv_stream_t *stream, ssize_t nread, const uv_buf_t *buf)
{
    peer *p = stream->data;
    const uint8_t *data = p->host->in;
    size_t len = p->in_bytes + (size_t)nread;
    size_t used;

    (void)buf;
    if (nread == UV_ENOBUFS && !p->sends_fds) { /* peer_on_alloc() gave none */
        if (p->ready)
            (void)uv_read_stop(stream);
        return;
    }
    if (nread == 0)
        return;
    if (nread < 0) {
        if (p->sends_fds)
            peer_violation(p, "it sends descriptors");
        peer_close(p);
        return;
    }
    if (peer_reads_in_place(p)) {
        p->in_bytes = len;
        if (p->in_bytes == p->in_cap)
            peer_fill(p);
        return;
    }
    used = peer_handle_frames(p, data, len, false);
    if (len > used || p->in != NULL)
        peer_hold_input(p, data + used, len - used);
    if (!p->closing && (p->ready || !peer_goes_on(p)))
        (void)uv_read_stop(stream);
}

/* Go on with the input that the peer holds, then with reading. */
static void peer_process(peer *p, bool has_turn)
{
    size_t used = peer_handle_frames(p, p->in, p->in_bytes, has_turn);
    int r;

    if (used > 0 || p->closing)
        peer_hold_input(p, p->in + used, p->in_bytes - used);
    if (p->closing)
        return;
    if (p->ready || !peer_goes_on(p)) {
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
        peer_process(p, true);
}

/* --- from the beginning to the end --- */

peer *peer_open(peer_host *host, int fd, user *who, const struct ucred *cred)
{
    peer *p = calloc(1, host->peer_bytes);

    if (p == NULL || uv_pipe_init(host->loop, &p->pipe, 0) < 0) {
        free(p);
        users_uncount(host->users, who, LIMIT_UID_CONNECTIONS, 1);
        return NULL;
    }
    p->host = host;
    p->pipe.data = p;
    p->user = who;
    p->pid = (uint32_t)cred->pid;
    p->uid = cred->uid;
    p->came_ms = uv_now(host->loop);
    p->silent = true;
    DL_APPEND(host->peers, p);
    DL_APPEND2(host->silent, p, silent_prev, silent_next);
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &(int){ SEND_BYTES }, sizeof(int));
    if (host->closer != NULL) /* else a peek would pass over a byte that was sent out of band, with descriptors */
        (void)setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &(int){ 1 }, sizeof(int));
    if (uv_pipe_open(&p->pipe, fd) < 0) {
        peer_close(p);
        return NULL;
    }
    if (uv_read_start((uv_stream_t *)&p->pipe, peer_on_alloc, peer_on_read) < 0)
        peer_close(p);
    return p;
}

static void on_turn(uv_check_t *check)
{
    peer_host *host = check->data;

    host->turn++;
}

void peer_host_start(peer_host *host)
{
    host->turn = 1;
    (void)uv_check_init(host->loop, &host->turns);
    (void)uv_idle_init(host->loop, &host->go_on);
    (void)uv_timer_init(host->loop, &host->linger);
    host->turns.data = host->go_on.data = host->linger.data = host;
    (void)uv_check_start(&host->turns, on_turn);
    frame_bump_init(&host->bump, host->bump_buf, sizeof(host->bump_buf));
}

void peer_host_stop(peer_host *host, const Goallocd__Reply *notice)
{
    for (peer *p = host->peers, *next; p != NULL; p = next) {
        next = p->next;
        peer_reply(p, notice);
        peer_close(p);
        if (p->lingers)
            peer_close_handle(p);
    }
    (void)uv_timer_stop(&host->linger);
}
