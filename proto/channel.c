/*
 * Channel: connect, send and receive frames on a socket, with a deadline.
 *
 * Called by link.c, with the turn, and by goallocctl. No malloc, no thread, no signal. Data: the channel itself,
 * private to the process. The child of a fork closes its copy of the descriptor and connects anew.
 *
 * The socket does not block; poll() waits, and has the deadline. (A connect() that waits for room in a full queue does
 * block, as long as its caller says.) So no call here can hang, whatever the descriptor names. It may name something
 * else, because the program can close a library's descriptors: programs that become daemons close all that are open,
 * and what they open next gets the same numbers. Therefore the channel remembers its socket by device and inode, and
 * compares them before each use. What is not its socket is neither read nor written nor closed, and counts as a
 * connection that was lost. (If another thread exchanges the descriptor between the comparison and the use, some
 * hundred nanoseconds, that can't be noticed; even then no call hangs.)
 *
 * A request and its reply are five short system calls: fstat and send; a poll that waits; fstat and recvmsg.
 */
#include "proto/channel.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define LOOK_EVERY_MS 100

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

/* True if the descriptor still names the socket that the channel has connected, or if that socket is not known. */
static bool is_own(const channel *ch)
{
    struct stat st;

    if (ch->ino == 0)
        return true;
    return fstat(ch->fd, &st) == 0 && st.st_ino == ch->ino && st.st_dev == ch->dev;
}

/*
 * Wait until the socket is ready for events. 0, -ETIMEDOUT, -EBADF (the descriptor names something else), -errno. If
 * another thread exchanges the descriptor meanwhile, poll waits for what it names now: so it waits for LOOK_EVERY_MS at
 * most, and compares again.
 */
static int wait_ready(const channel *ch, short events, deadline until)
{
    for (;;) {
        struct pollfd pfd = { .fd = ch->fd, .events = events };
        int left_ms = deadline_left_ms(until);
        int n = poll(&pfd, 1, left_ms < LOOK_EVERY_MS ? left_ms : LOOK_EVERY_MS);

        if (n > 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return -errno;
        if (!is_own(ch))
            return -EBADF;
        if (n == 0 && left_ms < LOOK_EVERY_MS)
            return -ETIMEDOUT;
    }
}

/* --- connect --- */

/*
 * The address of path. One that is longer than a socket address is reached through a descriptor of the socket's file,
 * *ret_file, which the caller closes; -1: there is none.
 */
static int address_of(const char *path, struct sockaddr_un *addr, int *ret_file)
{
    size_t len = strlen(path);

    *ret_file = -1;
    if (len == 0)
        return -EINVAL;
    if (len < sizeof(addr->sun_path)) {
        memcpy(addr->sun_path, path, len + 1);
        return 0;
    }
    *ret_file = open(path, O_PATH | O_CLOEXEC);
    if (*ret_file < 0)
        return -errno;
    (void)snprintf(addr->sun_path, sizeof(addr->sun_path), "/proc/self/fd/%d", *ret_file);
    return 0;
}

/* Make a socket above the low numbers that programs expect for themselves. The descriptor, or -errno. */
static int socket_above(int lowest_fd)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int above;

    if (fd < 0)
        return -errno;
    if (fd >= lowest_fd || (above = fcntl(fd, F_DUPFD_CLOEXEC, lowest_fd)) < 0)
        return fd;
    (void)close(fd);
    return above;
}

/*
 * Connect when the listener's queue is full: wait room_ms for room. Only a call that blocks has a place in the line of
 * those who wait: who asks again and again meets a full queue each time, as long as others connect without a pause.
 */
static int connect_in_line(int fd, const struct sockaddr_un *addr, int room_ms)
{
    struct timeval wait = { .tv_sec = room_ms / 1000, .tv_usec = (suseconds_t)(room_ms % 1000) * 1000 };
    int flags = fcntl(fd, F_GETFL);
    int r;

    if (flags < 0 || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait)) < 0 ||
        fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0)
        return -errno;
    r = connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0 ? -errno : 0;
    if (fcntl(fd, F_SETFL, flags) < 0)
        return -errno;
    return r == -EINTR ? -EAGAIN : r;
}

int channel_try_connect(channel *ch, const char *path, int lowest_fd, int room_ms)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    struct stat st;
    int file;
    int r = address_of(path, &addr, &file);

    ch->fd = -1;
    ch->have_bytes = 0;
    ch->nfds = 0;
    if (r == 0)
        r = ch->fd = socket_above(lowest_fd);
    if (r >= 0)
        r = fstat(ch->fd, &st) < 0 ? -errno : 0;
    if (r == 0) {
        ch->dev = st.st_dev;
        ch->ino = st.st_ino;
        do
            r = connect(ch->fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0 ? -errno : 0;
        while (r == -EINTR);
        if (r == -EAGAIN && room_ms > 0)
            r = connect_in_line(ch->fd, &addr, room_ms);
    }
    if (file >= 0)
        (void)close(file);
    if (r < 0)
        channel_close(ch);
    return r;
}

int channel_connect(channel *ch, const char *path, deadline until)
{
    int r = channel_try_connect(ch, path, 0, 0);

    while (r == -EAGAIN && deadline_left_ms(until) > 0)
        r = channel_try_connect(ch, path, 0, deadline_left_ms(until));
    return r == -EAGAIN ? -ETIMEDOUT : r;
}

void channel_close_fds(channel *ch)
{
    for (int i = 0; i < ch->nfds; i++)
        (void)close(ch->fds[i]);
    ch->nfds = 0;
}

void channel_close(channel *ch)
{
    if (ch->fd >= 0 && is_own(ch))
        (void)close(ch->fd);
    ch->fd = -1;
    ch->have_bytes = 0;
    channel_close_fds(ch);
}

/* --- send --- */

/* Send what the socket takes at once. Returns how much, -EAGAIN (nothing), -errno. */
static ssize_t send_some(channel *ch, const uint8_t *data, size_t len_bytes)
{
    ssize_t n;

    if (!is_own(ch))
        return -EBADF;
    do
        n = send(ch->fd, data, len_bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

int channel_send(channel *ch, const uint8_t *data, size_t len_bytes, deadline until)
{
    while (len_bytes > 0) {
        ssize_t n = send_some(ch, data, len_bytes);

        if (n == -EAGAIN)
            n = wait_ready(ch, POLLOUT, until);
        if (n < 0)
            return (int)n;
        data += n;
        len_bytes -= (size_t)n;
    }
    return 0;
}

int channel_try_send(channel *ch, const uint8_t *data, size_t len_bytes)
{
    ssize_t n = send_some(ch, data, len_bytes);

    if (n < 0)
        return (int)n;
    return (size_t)n == len_bytes ? 0 : -EPIPE; /* after half a frame nothing can follow */
}

/* --- receive --- */

int channel_take_frame(channel *ch, const uint8_t **ret_payload, size_t *ret_len_bytes)
{
    uint32_t payload;

    if (ch->have_bytes < FRAME_HEADER_BYTES)
        return -EAGAIN;
    payload = frame_payload_bytes(ch->in);
    if (payload > FRAME_PAYLOAD_MAX)
        return -EPROTO;
    if (ch->have_bytes < FRAME_HEADER_BYTES + payload)
        return -EAGAIN;
    *ret_payload = ch->in + FRAME_HEADER_BYTES;
    *ret_len_bytes = payload;
    return 0;
}

int channel_wait(channel *ch, deadline until)
{
    return wait_ready(ch, POLLIN, until);
}

int channel_read(channel *ch)
{
    ssize_t n;

    if (!is_own(ch))
        return -EBADF;
    n = fdpass_recv(ch->fd, ch->in + ch->have_bytes, sizeof(ch->in) - ch->have_bytes, ch->fds, &ch->nfds);
    if (n <= 0)
        return n == 0 ? -ECONNRESET : (int)n;
    ch->have_bytes += (size_t)n;
    return 0;
}

int channel_recv(channel *ch, const uint8_t **ret_payload, size_t *ret_len_bytes, deadline until)
{
    int r;

    while ((r = channel_take_frame(ch, ret_payload, ret_len_bytes)) == -EAGAIN) {
        r = channel_wait(ch, until);
        if (r == 0)
            r = channel_read(ch);
        if (r < 0 && r != -EAGAIN)
            return r;
    }
    return r;
}

void channel_drop_frame(channel *ch)
{
    size_t frame = FRAME_HEADER_BYTES + frame_payload_bytes(ch->in);

    memmove(ch->in, ch->in + frame, ch->have_bytes - frame);
    ch->have_bytes -= frame;
}
