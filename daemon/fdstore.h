/*
 * Fdstore: what systemd hands over at the start: the heap's memfds from its descriptor store, which holds them over a
 * restart of the service, and the socket of a socket unit.
 */
#ifndef GOALLOC_DAEMON_FDSTORE_H
#define GOALLOC_DAEMON_FDSTORE_H

#include "daemon/memory/heapfile.h"

/* What a caller handles itself. */
enum {
    FDSTORE_E_NONE = 1,  /* systemd has handed over nothing of a heap, or no socket */
    FDSTORE_E_BROKEN = 2 /* only a part of one, or the same twice: logged */
};

/* Take the heap's descriptors that systemd has passed at the start. 0: they are the caller's. Else FDSTORE_E_*. */
int fdstore_take(int ret_fds[HEAPFILE_NFDS]) __attribute__((warn_unused_result));

/*
 * Take the socket to serve on, which systemd has made, and close what is neither that nor the heap's. 0: it is the
 * caller's. FDSTORE_E_NONE. -errno, with a message logged: there are several (-E2BIG), or it is none that a stream of
 * a Unix socket comes in on (-EPROTOTYPE).
 */
int fdstore_take_socket(int *ret_fd) __attribute__((warn_unused_result));

/* Put the heap's descriptors into the store. Systemd does not say whether it has taken them. */
void fdstore_put(const heapfile *file);

/* Remove them from the store. */
void fdstore_remove(void);

#endif
