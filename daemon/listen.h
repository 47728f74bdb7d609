/*
 * Listen: the socket's place in the file system, held by one goallocd at a time.
 */
#ifndef GOALLOC_DAEMON_LISTEN_H
#define GOALLOC_DAEMON_LISTEN_H

#include <stdbool.h>
#include <sys/types.h>
#include <sys/un.h>

#define LISTEN_PATH_BYTES sizeof(((struct sockaddr_un *)0)->sun_path)

typedef struct listen_place {
    int fd;           /* bound and listening; the caller's */
    bool given;       /* systemd has made the socket, and has it as well: it stays when the daemon ends */
    bool refuses_fds; /* the kernel lets nobody send descriptors to it, or to what is accepted from it */
    int lock_fd;      /* PATH.lock, locked while the daemon serves; -1: it can't be made */
    ino_t ino;        /* of the socket file that was made */
    dev_t dev;
    char path[LISTEN_PATH_BYTES];
    char lock_path[LISTEN_PATH_BYTES + sizeof(".lock")];
} listen_place;

/*
 * Listen on a socket at path, mode 0660. It replaces a socket file that a dead daemon has left. 0, or -errno with a
 * message logged: -EADDRINUSE (somebody serves there), -EEXIST (a file that is no socket), -ENAMETOOLONG, ...
 */
int listen_open(listen_place *ret, const char *path) __attribute__((warn_unused_result));

/*
 * Serve on fd, which systemd has made and listens on, whatever its path is: wanted is only what was asked for. 0: it is
 * *ret's. -errno with a message logged, fd is closed: -EADDRINUSE (another goallocd has the lock of that path), -EINVAL
 * (it has no path).
 */
int listen_take(listen_place *ret, int fd, const char *wanted) __attribute__((warn_unused_result));

/* Remove the lock and, unless it is systemd's, the socket from the file system. The descriptor stays the caller's. */
void listen_close(listen_place *place);

#endif
