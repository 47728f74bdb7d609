/*
 * Listen: the socket's place in the file system, held by one goallocd at a time.
 */
#ifndef GOALLOC_DAEMON_LISTEN_H
#define GOALLOC_DAEMON_LISTEN_H

typedef struct listen_place {
    int fd;      /* bound and listening; the caller takes it */
    int lock_fd; /* PATH.lock, locked while the daemon serves */
    const char *path;
} listen_place;

/*
 * Listen on a socket at path, mode 0660. A socket file that a dead daemon has left is replaced. path must outlive
 * *ret. 0, or -errno after logging what is wrong: -EADDRINUSE (somebody serves there), -EEXIST (a file that is no
 * socket), -ENAMETOOLONG, ...
 */
int listen_open(listen_place *ret, const char *path) __attribute__((warn_unused_result));

/* Remove socket and lock from the file system. The socket's descriptor has been taken. */
void listen_close(listen_place *place);

#endif
