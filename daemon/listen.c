/*
 * Listen: makes one goallocd the owner of a socket path.
 *
 * Called by main. A lock on a file beside the socket (PATH.lock, flock) says that a goallocd lives. The kernel drops
 * the lock with the process, so it is never stale. Only the holder of the lock replaces the socket file, and only if
 * nobody answers there: then a dead daemon has left it. A clean end removes both files. A daemon that opened the lock
 * file just before its removal sees that it is no longer the file at that path, and tries again.
 *
 * Nobody has to send descriptors to the daemon, and one that is closed there can hold it up (serve/closer.c). Linux
 * 6.16 refuses to send them, if that is asked for before the socket listens: sockets that are accepted have it from
 * there.
 */
#include "daemon/listen.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/log.h"

#define LISTEN_BACKLOG 511

#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83
#endif

/* Returns the locked file, -EADDRINUSE (another goallocd has it), -errno. */
static int lock_take(const char *name)
{
    struct stat mine;
    struct stat there;
    int r;

    for (;;) {
        int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

        if (fd < 0)
            return -errno;
        if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
            r = errno == EWOULDBLOCK ? -EADDRINUSE : -errno;
            (void)close(fd);
            return r;
        }
        if (fstat(fd, &mine) == 0 && stat(name, &there) == 0 && mine.st_ino == there.st_ino &&
            mine.st_dev == there.st_dev)
            return fd;
        (void)close(fd);
    }
}

/* Make sure that nothing is at the path. 0, -EADDRINUSE (somebody answers), -EEXIST (not a socket), -errno. */
static int clear_place(const struct sockaddr_un *addr)
{
    struct stat st;
    int fd;
    int r;

    if (lstat(addr->sun_path, &st) < 0)
        return errno == ENOENT ? 0 : -errno;
    if (!S_ISSOCK(st.st_mode))
        return -EEXIST;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    r = connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0 ? -errno : 0;
    (void)close(fd);
    if (r != -ECONNREFUSED)
        return r == 0 || r == -EAGAIN ? -EADDRINUSE : r;
    log_info("%s: replacing the socket of a daemon that is gone", addr->sun_path);
    return unlink(addr->sun_path) < 0 && errno != ENOENT ? -errno : 0;
}

int listen_open(listen_place *ret, const char *path)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    size_t len = strlen(path);
    listen_place place = { .fd = -1, .path = path };
    mode_t mask;
    int r;

    if (len == 0 || len >= sizeof(addr.sun_path)) {
        log_error("socket path '%s' is %s", path, len == 0 ? "empty" : "too long for a Unix socket");
        return len == 0 ? -EINVAL : -ENAMETOOLONG;
    }
    memcpy(addr.sun_path, path, len + 1);

    (void)snprintf(place.lock_path, sizeof(place.lock_path), "%s.lock", path);
    r = place.lock_fd = lock_take(place.lock_path);
    if (r < 0)
        goto fail;
    r = clear_place(&addr);
    if (r < 0)
        goto fail;
    /* It listens at once: a client that sees the file expects to be able to connect. */
    mask = umask(0117);
    place.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    place.refuses_fds = place.fd >= 0 && setsockopt(place.fd, SOL_SOCKET, SO_PASSRIGHTS, &(int){ 0 }, sizeof(int)) == 0;
    r = place.fd < 0 || bind(place.fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0 ||
                listen(place.fd, LISTEN_BACKLOG) < 0
            ? -errno
            : 0;
    (void)umask(mask);
    if (r < 0)
        goto fail;
    *ret = place;
    return 0;

fail:
    log_error("%s: %s", path,
              r == -EADDRINUSE ? "another goallocd, or another program, serves this socket"
              : r == -EEXIST   ? "exists and is not a socket; not touching it"
                               : strerror(-r));
    if (place.fd >= 0)
        (void)close(place.fd);
    if (place.lock_fd >= 0)
        (void)close(place.lock_fd);
    return r;
}

void listen_close(listen_place *place)
{
    (void)unlink(place->path);
    (void)unlink(place->lock_path);
    (void)close(place->lock_fd);
}
