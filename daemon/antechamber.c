/*
 * Antechamber: answers pings while the heap is being loaded, and lets all others wait.
 *
 * Called by main, around the load (imagefile.c). A large heap takes its time, and nothing of it can be served before all
 * of it is there: a page that is not loaded yet would be zeroes for whoever looks. Who pings is told how far it is, and
 * so is systemd, which is asked for more time each second. Data: connections, and the counters that the loader raises.
 *
 * A connection is accepted, and what it sends is looked at without being taken (MSG_PEEK). A whole Ping is taken and
 * answered. Anything else stays where it is, byte for byte, and the connection is the server's when the heap is there:
 * it is let in then as if it came now (serve/door.c), and its Attach is handled. So nothing of the protocol is known
 * here but Ping; limits of users, sessions and descriptors are the server's. There are ANTECHAMBER_MAX connections at
 * most; others wait in the socket's queue. A client may give up before (its timeout); it is closed then.
 *
 * With a message may come descriptors, where the kernel lets clients send any. They are not received here (MSG_CTRUNC
 * tells): such a connection waits for the server, which knows what to do.
 */
#include "daemon/antechamber.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/notify.h"
#include "proto/frame.h"
#include "proto/goallocd.pb-c.h"

#define TICK_MS   20
#define EXTEND_MS 1000
#define PINGS_A_TURN 16u /* of one connection: who pings without a pause keeps nobody waiting */
#define PING_MAX  256u /* bytes of a request that may be a Ping */

/* --- a connection --- */

static bool answer(const antechamber *a, int fd, uint64_t id)
{
    Goallocd__Reply reply = GOALLOCD__REPLY__INIT;
    Goallocd__PingReply body = GOALLOCD__PING_REPLY__INIT;
    uint8_t out[512];
    size_t len;

    body.protocol = GOALLOC_PROTOCOL;
    body.version = (char *)(uintptr_t)GOALLOC_VERSION;
    body.pid = (uint32_t)getpid();
    body.loading = true;
    body.loading_done = u64_load_relaxed(&a->done);
    body.loading_total = u64_load_relaxed(&a->total);
    reply.id = id;
    reply.result_case = GOALLOCD__REPLY__RESULT_PING;
    reply.ping = &body;
    len = frame_pack(&reply.base, out, sizeof(out));
    return len > 0 && send(fd, out, len, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)len;
}

enum found { NOTHING, A_PING, SOMETHING, GONE };

/* What is first in the socket; nothing is taken. */
static enum found peek(int fd, uint64_t *ret_id, size_t *ret_len)
{
    uint8_t in[FRAME_HEADER_BYTES + PING_MAX];
    struct iovec data = { in, sizeof(in) };
    struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1 };
    ssize_t n = recvmsg(fd, &message, MSG_PEEK | MSG_DONTWAIT);
    Goallocd__Request *request;
    enum found found = SOMETHING;
    size_t len;

    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? NOTHING : GONE;
    if (n == 0)
        return GONE;
    if ((message.msg_flags & MSG_CTRUNC) != 0 || n < (ssize_t)FRAME_HEADER_BYTES)
        return SOMETHING;
    len = frame_payload_bytes(in);
    if (len > (size_t)n - FRAME_HEADER_BYTES)
        return SOMETHING;
    request = goallocd__request__unpack(NULL, len, in + FRAME_HEADER_BYTES);
    if (request != NULL && request->op_case == GOALLOCD__REQUEST__OP_PING && request->id != 0) {
        *ret_id = request->id;
        *ret_len = FRAME_HEADER_BYTES + len;
        found = A_PING;
    }
    if (request != NULL)
        goallocd__request__free_unpacked(request, NULL);
    return found;
}

/* Answer what can be answered. False: it has gone. */
static bool serve(const antechamber *a, int fd, bool *ret_waits)
{
    uint8_t taken[FRAME_HEADER_BYTES + PING_MAX];
    uint64_t id;
    size_t len;

    for (unsigned i = 0; i < PINGS_A_TURN; i++) { /* the rest comes at its next turn */
        switch (peek(fd, &id, &len)) {
        case GONE:
            return false;
        case NOTHING:
            return true;
        case SOMETHING:
            *ret_waits = true;
            return true;
        case A_PING:
            if (recv(fd, taken, len, MSG_DONTWAIT) != (ssize_t)len || !answer(a, fd, id))
                return false;
        }
    }
    return true;
}

/* --- all of them --- */

static void accept_some(antechamber *a)
{
    while (a->nfds < ANTECHAMBER_MAX) {
        int fd = accept4(a->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

        if (fd < 0)
            return;
        a->waits[a->nfds] = false;
        a->fds[a->nfds++] = fd;
    }
}

static void drop(antechamber *a, unsigned i)
{
    (void)close(a->fds[i]);
    a->fds[i] = a->fds[--a->nfds];
    a->waits[i] = a->waits[a->nfds];
}

static void tell_systemd(const antechamber *a)
{
    uint64_t total = u64_load_relaxed(&a->total);
    char state[96];

    (void)snprintf(state, sizeof(state), "EXTEND_TIMEOUT_USEC=15000000\nSTATUS=loading the heap: %u%%",
                   total == 0 ? 0 : (unsigned)(u64_load_relaxed(&a->done) * 100 / total));
    (void)notify_try(state);
}

static void show(antechamber *a)
{
    uint32_t n = 0;

    for (unsigned i = 0; i < a->nfds; i++)
        n += a->waits[i];
    u32_store_relaxed(&a->nwaiting, n);
    u32_store_relaxed(&a->nopen, a->nfds);
}

static void *run(void *data)
{
    antechamber *a = data;
    struct pollfd polls[ANTECHAMBER_MAX + 1];

    for (int ms = EXTEND_MS; u32_load_acquire(&a->over) == 0; ms += TICK_MS) {
        unsigned n = a->nfds;

        if (ms >= EXTEND_MS) {
            tell_systemd(a);
            ms = 0;
        }
        polls[0] = (struct pollfd){ .fd = n < ANTECHAMBER_MAX ? a->listen_fd : -1, .events = POLLIN };
        for (unsigned i = 0; i < n; i++)
            polls[i + 1] = (struct pollfd){ .fd = a->fds[i], .events = (short)(a->waits[i] ? 0 : POLLIN) };
        if (poll(polls, n + 1, TICK_MS) <= 0)
            continue;
        for (unsigned i = n; i-- > 0;) {
            bool gone = (polls[i + 1].revents & (POLLHUP | POLLERR | POLLNVAL)) != 0;

            if (gone || ((polls[i + 1].revents & POLLIN) != 0 && !serve(a, a->fds[i], &a->waits[i])))
                drop(a, i);
        }
        if (polls[0].revents != 0)
            accept_some(a);
        show(a);
    }
    return NULL;
}

void antechamber_open(antechamber *a, int listen_fd)
{
    sigset_t all;
    sigset_t before;

    *a = (antechamber){ .listen_fd = listen_fd };
    (void)fcntl(listen_fd, F_SETFL, fcntl(listen_fd, F_GETFL) | O_NONBLOCK); /* as the server wants it, too */
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    a->runs = pthread_create(&a->thread, NULL, run, a) == 0;
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void antechamber_close(antechamber *a)
{
    u32_store_release(&a->over, 1);
    if (a->runs)
        (void)pthread_join(a->thread, NULL);
    a->runs = false;
}
