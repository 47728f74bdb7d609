/*
 * Channel: connect, send and receive frames on a socket, with a deadline.
 *
 * A request and its reply are two system calls: send, and a recvmsg that waits. It waits for 100 ms at most
 * (SO_RCVTIMEO, set once); then the deadline is looked at, and what is left of it below 100 ms is waited for with poll,
 * to the millisecond. Nothing else waits in the socket: it blocks only from when it is connected on, and sends
 * don't.
 *
 * Called under the lock of whoever owns the channel. No malloc, no thread, no signal. Data: the channel itself, private
 * to the process. The child of a fork closes its copy of the descriptor and connects anew.
 */
#include "proto/channel.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define RECV_WAIT_MS 100

static int64_t now_ms(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

deadline deadline_in(int timeout_ms)
{
    return (deadline){ now_ms() + timeout_ms };
}

int deadline_left_ms(deadline until)
{
    int64_t left = until.at_ms - now_ms();

    return left <= 0 ? 0 : left > INT_MAX ? INT_MAX : (int)left;
}

/* Wait until the socket is ready for events. 0, -ETIMEDOUT, -errno. */
static int wait_ready(int fd, short events, deadline until)
{
    for (;;) {
        struct pollfd pfd = { .fd = fd, .events = events };
        int n = poll(&pfd, 1, deadline_left_ms(until));

        if (n > 0)
            return 0;
        if (n == 0)
            return -ETIMEDOUT;
        if (errno != EINTR)
            return -errno;
    }
}

/* From now on the socket waits for what it is asked to receive, but not for long. */
static int let_wait(int fd)
{
    struct timeval wait = { .tv_usec = RECV_WAIT_MS * 1000 };
    int flags = fcntl(fd, F_GETFL);

    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait)) < 0 || flags < 0 ||
        fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0)
        return -errno;
    return 0;
}

int channel_connect(channel *ch, const char *path, deadline until)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    size_t len = strlen(path);
    int r;

    ch->fd = -1;
    ch->have_bytes = 0;
    ch->nfds = 0;
    if (len == 0)
        return -EINVAL;
    if (len >= sizeof(addr.sun_path))
        return -ENAMETOOLONG;
    memcpy(addr.sun_path, path, len + 1);

    ch->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (ch->fd < 0)
        return -errno;

    /*
     * A Unix socket connects at once, or answers EAGAIN while the listener's queue is full: nothing tells when to try
     * again.
     */
    for (;;) {
        r = connect(ch->fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0 ? -errno : 0;
        if (r == -EAGAIN && deadline_left_ms(until) > 0)
            (void)poll(NULL, 0, 2);
        else if (r != -EINTR)
            break;
    }
    if (r == 0)
        r = let_wait(ch->fd);
    if (r < 0)
        channel_close(ch);
    return r == -EAGAIN ? -ETIMEDOUT : r;
}

void channel_close(channel *ch)
{
    if (ch->fd >= 0)
        (void)close(ch->fd);
    ch->fd = -1;
    for (int i = 0; i < ch->nfds; i++)
        (void)close(ch->fds[i]);
    ch->nfds = 0;
    ch->have_bytes = 0;
}

int channel_send(channel *ch, const uint8_t *data, size_t len_bytes, deadline until)
{
    while (len_bytes > 0) {
        ssize_t n = send(ch->fd, data, len_bytes, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n >= 0) {
            data += n;
            len_bytes -= (size_t)n;
        } else if (errno == EAGAIN) {
            int r = wait_ready(ch->fd, POLLOUT, until);

            if (r < 0)
                return r;
        } else if (errno != EINTR) {
            return -errno;
        }
    }
    return 0;
}

int channel_recv(channel *ch, const uint8_t **ret_payload, size_t *ret_len_bytes, deadline until)
{
    for (;;) {
        if (ch->have_bytes >= FRAME_HEADER_BYTES) {
            uint32_t payload = frame_payload_bytes(ch->in);

            if (payload > FRAME_PAYLOAD_MAX)
                return -EPROTO;
            if (ch->have_bytes >= FRAME_HEADER_BYTES + payload) {
                *ret_payload = ch->in + FRAME_HEADER_BYTES;
                *ret_len_bytes = payload;
                return 0;
            }
        }

        bool waits = deadline_left_ms(until) >= RECV_WAIT_MS;
        uint8_t *at = ch->in + ch->have_bytes;
        size_t room = sizeof(ch->in) - ch->have_bytes;
        ssize_t n = waits ? fdpass_recv_wait(ch->fd, at, room, ch->fds, &ch->nfds)
                          : fdpass_recv(ch->fd, at, room, ch->fds, &ch->nfds);

        if (n > 0) {
            ch->have_bytes += (size_t)n;
        } else if (n == 0) {
            return -ECONNRESET;
        } else if (n == -EAGAIN && !waits) {
            int r = wait_ready(ch->fd, POLLIN, until);

            if (r < 0)
                return r;
        } else if (n != -EAGAIN && n != -EINTR) {
            return (int)n;
        }
    }
}

void channel_drop_frame(channel *ch)
{
    size_t frame = FRAME_HEADER_BYTES + frame_payload_bytes(ch->in);

    memmove(ch->in, ch->in + frame, ch->have_bytes - frame);
    ch->have_bytes -= frame;
}
