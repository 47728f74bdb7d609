/*
 * Notify: one datagram to the socket that systemd names in the environment. The protocol is stable and documented in
 * sd_notify(3); a path that begins with '@' is in the abstract namespace.
 */
#include "daemon/notify.h"

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "daemon/log.h"

#define NFDS_MAX 6

/* The address in $NOTIFY_SOCKET, and its length; 0: there is none. */
static socklen_t notify_address(struct sockaddr_un *ret)
{
    const char *path = getenv("NOTIFY_SOCKET");
    size_t len;

    if (path == NULL || path[0] == '\0')
        return 0;
    len = strlen(path);
    if (len >= sizeof(ret->sun_path)) {
        log_warn("NOTIFY_SOCKET is too long");
        return 0;
    }
    *ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
    memcpy(ret->sun_path, path, len);
    if (ret->sun_path[0] == '@')
        ret->sun_path[0] = '\0';
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
}

bool notify_is_wanted(void)
{
    const char *path = getenv("NOTIFY_SOCKET");

    return path != NULL && path[0] != '\0';
}

void notify_systemd_fds(const char *state, const int *fds, int nfds)
{
    struct sockaddr_un addr;
    socklen_t len = notify_address(&addr);
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(NFDS_MAX * sizeof(int))];
    } control = { .bytes = { 0 } };
    struct iovec data = { .iov_base = (char *)(uintptr_t)state, .iov_len = strlen(state) };
    struct msghdr message = { .msg_name = &addr, .msg_namelen = len, .msg_iov = &data, .msg_iovlen = 1 };
    int fd;

    if (len == 0 || nfds > NFDS_MAX)
        return;
    if (nfds > 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE((size_t)nfds * sizeof(int));

        struct cmsghdr *header = CMSG_FIRSTHDR(&message);

        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN((size_t)nfds * sizeof(int));
        memcpy(CMSG_DATA(header), fds, (size_t)nfds * sizeof(int));
    }
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || sendmsg(fd, &message, MSG_NOSIGNAL) < 0)
        log_warn("notify %s: %s", state, strerror(errno));
    if (fd >= 0)
        (void)close(fd);
}

void notify_systemd(const char *state)
{
    notify_systemd_fds(state, NULL, 0);
}

/* The time tells systemd which READY=1 is of before the reload. */
void notify_reloading(void)
{
    struct timespec now = { 0 };
    char state[64];

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    (void)snprintf(state, sizeof(state), "RELOADING=1\nMONOTONIC_USEC=%llu",
                   (unsigned long long)now.tv_sec * 1000000 + (unsigned long long)now.tv_nsec / 1000);
    notify_systemd(state);
}

void notify_ready(void)
{
    notify_systemd("READY=1");
}
