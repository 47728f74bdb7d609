/*
 * Notify: one datagram to the socket that systemd names in the environment. The protocol is stable and documented in
 * sd_notify(3); a path that begins with '@' is in the abstract namespace.
 */
#include "daemon/notify.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/log.h"

void notify_systemd(const char *state)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    size_t len;
    int fd;

    if (path == NULL || path[0] == '\0')
        return;
    len = strlen(path);
    if (len >= sizeof(addr.sun_path)) {
        log_warn("NOTIFY_SOCKET is too long");
        return;
    }
    memcpy(addr.sun_path, path, len);
    if (addr.sun_path[0] == '@')
        addr.sun_path[0] = '\0';
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || sendto(fd, state, strlen(state), MSG_NOSIGNAL, (const struct sockaddr *)&addr,
                         (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)) < 0)
        log_warn("notify %s: %s", state, strerror(errno));
    if (fd >= 0)
        (void)close(fd);
}
