/*
 * fdpass: descriptors over a Unix socket (SCM_RIGHTS).
 */
#ifndef GOALLOC_PROTO_FDPASS_H
#define GOALLOC_PROTO_FDPASS_H

#include <stddef.h>
#include <sys/types.h>

#define FDPASS_MAX 7

/*
 * Send data with nfds (1 to FDPASS_MAX) descriptors attached to its first byte; the caller still owns them. Never
 * blocks, never raises SIGPIPE. Returns the bytes sent (the descriptors went with them), or -errno: -EAGAIN, -EPIPE,
 * ...
 */
ssize_t fdpass_send(int socket_fd, const void *data, size_t len_bytes, const int *fds, int nfds)
    __attribute__((warn_unused_result));

/*
 * Receive up to cap_bytes. Descriptors that came along are close-on-exec and appended to fds, which has *nfds of them
 * so far; those above FDPASS_MAX are closed. The caller owns them. Never blocks. Returns the bytes, 0 at the end of the
 * stream, or -errno.
 */
ssize_t fdpass_recv(int socket_fd, void *buf, size_t cap_bytes, int fds[FDPASS_MAX], int *nfds)
    __attribute__((warn_unused_result));

#endif
