/*
 * Listen: makes one goallocd the owner of a socket path.
 *
 * Called by main. A lock on a file beside the socket (PATH.lock, flock) says that a goallocd lives. The kernel drops
 * the lock with the process, so it is never stale. Only the holder of the lock replaces the socket file, and only if
 * nobody answers there: then a dead daemon has left it. A clean end removes both files, the socket only if it is still
 * its own. A daemon that opened the lock file just before its removal sees that it is no longer the file at that path,
 * and tries again. A daemon that was killed while it forked leaves a child that has the lock and the socket for a
 * moment (memory/helper.c): so who finds them in use looks again for PATIENCE_MS.
 *
 * A socket that systemd has made is systemd's (listen_take()): the daemon neither replaces nor removes it, and changes
 * neither its owner nor its mode nor its queue. Who connects while no daemon runs is in the queue, and the next one
 * serves him. systemd hands the socket to one service, and who else wants to serve the path finds that somebody answers
 * there. So the lock only keeps apart what systemd does not know of: a daemon whose socket systemd has replaced, or two
 * services that get one socket by mistake. A daemon that can't make the lock, since the directory is not its own,
 * serves without it. It does not call listen() again: clients look at who has called that (client/lib/link.c), and
 * trust root wherever the socket is.
 *
 * Nobody has to send descriptors to the daemon, and one that is closed there can hold it up (serve/closer.c). Linux
 * 6.16 refuses to send them, if that is asked for before the socket listens: a connection has it from the listener when
 * it is made. The first daemon that systemd gives a socket to comes too late for connections that wait there already,
 * and handles all as if they could; for the next ones, the socket has it from the beginning.
 */
#include "daemon/listen.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "daemon/log.h"

#define LISTEN_BACKLOG 511
#define PATIENCE_MS    200
#define TRY_EVERY_MS   5

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

/* True, after a while, if what has answered r may answer otherwise; *waited_ms begins with 0. */
static bool look_again(int r, int *waited_ms)
{
    if (r != -EADDRINUSE || *waited_ms >= PATIENCE_MS)
        return false;
    (void)nanosleep(&(struct timespec){ 0, TRY_EVERY_MS * 1000000L }, NULL);
    *waited_ms += TRY_EVERY_MS;
    return true;
}

static int lock_await(const char *name)
{
    int waited_ms = 0;
    int fd;

    do
        fd = lock_take(name);
    while (look_again(fd, &waited_ms));
    return fd;
}

/* By who has the lock. */
static int await_clear_place(const struct sockaddr_un *addr)
{
    int waited_ms = 0;
    int r;

    do
        r = clear_place(addr);
    while (look_again(r, &waited_ms));
    return r;
}

static void set_path(listen_place *place, const char *path)
{
    (void)snprintf(place->path, sizeof(place->path), "%s", path);
    (void)snprintf(place->lock_path, sizeof(place->lock_path), "%s.lock", path);
}

static int fail(listen_place *place, int r)
{
    log_error("%s: %s", place->path,
              r == -EADDRINUSE ? "another goallocd, or another program, serves this socket"
              : r == -EEXIST   ? "exists and is not a socket; not touching it"
                               : strerror(-r));
    if (place->fd >= 0)
        (void)close(place->fd);
    if (place->lock_fd >= 0)
        (void)close(place->lock_fd);
    return r;
}

/* From now on nobody can send descriptors to who is accepted. False: this kernel can't have that. */
static bool refuse_fds(int fd)
{
    bool done = setsockopt(fd, SOL_SOCKET, SO_PASSRIGHTS, &(int){ 0 }, sizeof(int)) == 0;

    if (!done)
        log_warn("this kernel lets clients send descriptors (Linux 6.16 does not): threads of their own close them");
    return done;
}

int listen_open(listen_place *ret, const char *path)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    size_t len = strlen(path);
    listen_place place = { .fd = -1, .lock_fd = -1 };
    struct stat st;
    mode_t mask;
    int r;

    if (len == 0 || len >= sizeof(addr.sun_path)) {
        log_error("socket path '%s' is %s", path, len == 0 ? "empty" : "too long for a Unix socket");
        return len == 0 ? -EINVAL : -ENAMETOOLONG;
    }
    memcpy(addr.sun_path, path, len + 1);
    set_path(&place, path);
    r = place.lock_fd = lock_await(place.lock_path);
    if (r >= 0)
        r = await_clear_place(&addr);
    if (r < 0)
        return fail(&place, r);
    /* It listens at once: a client that sees the file expects to be able to connect. */
    mask = umask(0117);
    place.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    place.refuses_fds = place.fd >= 0 && refuse_fds(place.fd);
    r = place.fd < 0 || bind(place.fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0 ||
                lstat(path, &st) < 0 || listen(place.fd, LISTEN_BACKLOG) < 0
            ? -errno
            : 0;
    (void)umask(mask);
    if (r < 0)
        return fail(&place, r);
    place.ino = st.st_ino;
    place.dev = st.st_dev;
    *ret = place;
    return 0;
}

/* True if nobody could send descriptors to what waits in its queue: a daemon before this one has asked for that. */
static bool refused_fds(int fd)
{
    int passes = 1;
    socklen_t len = sizeof(passes);

    return getsockopt(fd, SOL_SOCKET, SO_PASSRIGHTS, &passes, &len) == 0 && passes == 0;
}

int listen_take(listen_place *ret, int fd, const char *wanted)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    socklen_t len = sizeof(addr);
    listen_place place = { .fd = fd, .lock_fd = -1, .given = true };
    int flags;

    if (getsockname(fd, (struct sockaddr *)&addr, &len) < 0 || len <= offsetof(struct sockaddr_un, sun_path) ||
        addr.sun_path[0] == '\0' || strnlen(addr.sun_path, sizeof(addr.sun_path)) == sizeof(addr.sun_path)) {
        log_error("the socket of systemd's has no path, and goallocd serves only those that have");
        (void)close(fd);
        return -EINVAL;
    }
    set_path(&place, addr.sun_path);
    if (strcmp(place.path, wanted) != 0)
        log_warn("systemd has handed over the socket %s: that is served, and not %s", place.path, wanted);
    place.lock_fd = lock_await(place.lock_path);
    if (place.lock_fd == -EADDRINUSE)
        return fail(&place, place.lock_fd);
    if (place.lock_fd < 0)
        log_info("%s: %s; going on, since systemd hands the socket to one service", place.lock_path,
                 strerror(-place.lock_fd));
    flags = fcntl(fd, F_GETFL); /* systemd has made it to wait, unless the unit says NonBlocking= */
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return fail(&place, -errno);
    place.refuses_fds = refused_fds(fd);
    if (!place.refuses_fds && refuse_fds(fd))
        log_info("clients may have sent descriptors before goallocd had the socket: threads of their own close them");
    *ret = place;
    return 0;
}

/* True if what is at the path now is the socket that was bound: systemd replaces it when its socket unit starts. */
static bool is_there(const listen_place *place)
{
    struct stat st;

    return lstat(place->path, &st) == 0 && st.st_ino == place->ino && st.st_dev == place->dev;
}

void listen_close(listen_place *place)
{
    if (!place->given && is_there(place))
        (void)unlink(place->path);
    if (place->lock_fd < 0)
        return;
    (void)unlink(place->lock_path);
    (void)close(place->lock_fd);
}
