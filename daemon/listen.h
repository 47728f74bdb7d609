/*
 * Listen: the socket's place in the file system, held by one goallocd at a time.
 */
#ifndef GOALLOC_DAEMON_LISTEN_H
#define GOALLOC_DAEMON_LISTEN_H

#include <stdbool.h>
#include <sys/un.h>

typedef struct listen_place {
    int fd;      /* bound and listening; the caller's */
    bool refuses_fds; /* the kernel lets nobody send descriptors to it, or to what is accepted from it */
    int lock_fd; /* PATH.lock, locked while the daemon serves */
    const char *path;
    char lock_path[sizeof(((struct sockaddr_un *)0)->sun_path) + sizeof(".lock")];
} listen_place;

/*
 * Listen on a socket at path, mode 0660. It replaces a socket file that a dead daemon has left. path must outlive *ret.
 * 0, or -errno with a message logged: -EADDRINUSE (somebody serves there), -EEXIST (a file that is no socket),
 * -ENAMETOOLONG, ...
 */
int listen_open(listen_place *ret, const char *path) __attribute__((warn_unused_result));

/* Remove socket and lock from the file system. The socket's descriptor stays the caller's. */
void listen_close(listen_place *place);

#endif
