/*
 * Systemd: what it does for a daemon, done by a test: it hands over descriptors, and hears how the daemon is doing.
 */
#ifndef GOALLOC_TESTS_SYSTEMD_H
#define GOALLOC_TESTS_SYSTEMD_H

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

#include "tests/support/fixture.h"

#define SYSTEMD_FDS_MAX 8
#define SYSTEMD_FIRST_FD 3
#define SYSTEMD_PATIENCE_MS 20000

typedef struct systemd {
    int notify_fd; /* what daemons say comes in here */
    char notify_path[sizeof(((struct sockaddr_un *)0)->sun_path)];
    const char *watchdog_usec;  /* NULL: none */
    bool watches_somebody_else; /* WATCHDOG_PID is not the daemon's */
    int nfds;                   /* that daemons get which start from now on */
    int fds[SYSTEMD_FDS_MAX];
    const char *names[SYSTEMD_FDS_MAX]; /* all of them NULL: there is no LISTEN_FDNAMES */
} systemd;

/* In the process that becomes a daemon. */
static inline void systemd_prepare(void *data)
{
    const systemd *s = data;
    char names[256] = "";
    char text[32];

    CHECK(setenv("NOTIFY_SOCKET", s->notify_path, 1) == 0);
    (void)snprintf(text, sizeof(text), "%d", s->watches_somebody_else ? 1 : (int)getpid());
    if (s->watchdog_usec != NULL)
        CHECK(setenv("WATCHDOG_USEC", s->watchdog_usec, 1) == 0 && setenv("WATCHDOG_PID", text, 1) == 0);
    if (s->nfds == 0)
        return;
    for (int i = 0; i < s->nfds; i++) /* out of the way first */
        CHECK(fcntl(s->fds[i], F_DUPFD, 100 + i) == 100 + i);
    for (int i = 0; i < s->nfds; i++) {
        CHECK(dup2(100 + i, SYSTEMD_FIRST_FD + i) >= 0);
        CHECK(close(100 + i) == 0);
        (void)snprintf(names + strlen(names), sizeof(names) - strlen(names), "%s%s", i > 0 ? ":" : "",
                       s->names[i] != NULL ? s->names[i] : "");
    }
    if (s->names[0] != NULL)
        CHECK(setenv("LISTEN_FDNAMES", names, 1) == 0);
    (void)snprintf(text, sizeof(text), "%d", (int)getpid());
    CHECK(setenv("LISTEN_PID", text, 1) == 0);
    (void)snprintf(text, sizeof(text), "%d", s->nfds);
    CHECK(setenv("LISTEN_FDS", text, 1) == 0);
}

/* Daemons that f starts from now on are its services. */
static inline void systemd_start(systemd *s, fixture *f)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };

    *s = (systemd){ .notify_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0) };
    (void)snprintf(s->notify_path, sizeof(s->notify_path), "%s/notify", f->dir);
    memcpy(addr.sun_path, s->notify_path, sizeof(addr.sun_path));
    if (s->notify_fd < 0 || bind(s->notify_fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0) {
        perror("systemd: the socket for notifications");
        exit(EXIT_FAILURE);
    }
    f->prepare = systemd_prepare;
    f->prepare_data = s;
}

static inline void systemd_end(const systemd *s)
{
    (void)close(s->notify_fd);
}

static inline void systemd_hand_over(systemd *s, int fd, const char *name)
{
    s->fds[s->nfds] = fd;
    s->names[s->nfds++] = name;
}

/*
 * What a daemon says next, and the descriptors in it (ret_fds: NULL, or room for SYSTEMD_FDS_MAX). False: it has said
 * nothing for so long.
 */
static inline bool systemd_hear(const systemd *s, char *ret, size_t size, int *ret_fds, int *ret_nfds, int timeout_ms)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(SYSTEMD_FDS_MAX * sizeof(int))];
    } control;
    struct iovec data = { .iov_base = ret, .iov_len = size - 1 };
    struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = control.bytes,
                              .msg_controllen = sizeof(control.bytes) };
    struct pollfd poll_fd = { .fd = s->notify_fd, .events = POLLIN };
    const struct cmsghdr *header;
    ssize_t n;
    int nfds = 0;
    int fds[SYSTEMD_FDS_MAX];

    if (poll(&poll_fd, 1, timeout_ms) != 1)
        return false;
    n = recvmsg(s->notify_fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0)
        return false;
    ret[n] = '\0';
    header = CMSG_FIRSTHDR(&message);
    if (header != NULL && header->cmsg_type == SCM_RIGHTS) {
        nfds = (int)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(fds, CMSG_DATA(header), (size_t)nfds * sizeof(int));
    }
    for (int i = 0; i < nfds; i++) {
        if (ret_fds == NULL)
            (void)close(fds[i]);
        else
            ret_fds[i] = fds[i];
    }
    if (ret_nfds != NULL)
        *ret_nfds = nfds;
    return true;
}

/* Wait until a daemon says something with that in it. False: it does not, whatever else it says. */
static inline bool systemd_await(const systemd *s, const char *what)
{
    char said[256];
    time_t until = time(NULL) + 3 * SYSTEMD_PATIENCE_MS / 1000;

    while (time(NULL) < until && systemd_hear(s, said, sizeof(said), NULL, NULL, SYSTEMD_PATIENCE_MS)) {
        if (strstr(said, what) != NULL)
            return true;
    }
    (void)fprintf(stderr, "the daemon does not say %s\n", what);
    return false;
}

/* How often daemons have said that, of what has not been heard yet. */
static inline int systemd_count(const systemd *s, const char *what)
{
    char said[256];
    int n = 0;

    while (systemd_hear(s, said, sizeof(said), NULL, NULL, 0))
        n += strstr(said, what) != NULL;
    return n;
}

#endif
