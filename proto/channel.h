/*
 * Channel: the client's end of a connection, with a deadline on everything. For libgoalloc and goallocctl.
 */
#ifndef GOALLOC_PROTO_CHANNEL_H
#define GOALLOC_PROTO_CHANNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "proto/frame.h"
#include "proto/fdpass.h"

/* When something must be done: milliseconds of CLOCK_MONOTONIC. */
typedef struct deadline {
    int64_t at_ms;
} deadline;

deadline deadline_in(int timeout_ms);

/* Milliseconds left, 0 if it has passed. */
int deadline_left_ms(deadline until);

/* One connection. fd is -1 when it is closed. */
typedef struct channel {
    int fd;
    dev_t dev; /* of the socket behind fd, to tell it from what the program may have opened in its place */
    ino_t ino; /* 0: not known, because a test has put a descriptor here by hand */
    size_t have_bytes;
    int fds[FDPASS_MAX]; /* received and not taken yet */
    int nfds;
    uint8_t in[FRAME_BYTES_MAX]; /* frames, the last of which may not be complete */
} channel;

/*
 * Connect to the Unix socket at path, which may be longer than a socket address holds if /proc is there. 0, or -errno:
 * -EINVAL (path empty), -ENAMETOOLONG, -ENOENT, -ECONNREFUSED, -EACCES, -ETIMEDOUT, ... On failure the channel is
 * closed.
 */
int channel_connect(channel *ch, const char *path, deadline until) __attribute__((warn_unused_result));

/*
 * The same, once: waits room_ms at most if the listener's queue is full (0: not at all), -EAGAIN if it stays so. A
 * signal ends the wait. The descriptor is lowest_fd or above it, if the limit of descriptors allows that.
 */
int channel_try_connect(channel *ch, const char *path, int lowest_fd, int room_ms)
    __attribute__((warn_unused_result));

/*
 * Close the channel, and descriptors that were not taken. It may be closed already. If the program has closed the
 * socket's descriptor and opened something in its place, that is left alone.
 */
void channel_close(channel *ch);
void channel_close_fds(channel *ch); /* only descriptors that were not taken */

/*
 * Send len_bytes. 0, -ETIMEDOUT (some of it may have been sent: the connection is of no use any more), -EPIPE, -EBADF
 * (the descriptor is closed, or names something else), ...
 */
int channel_send(channel *ch, const uint8_t *data, size_t len_bytes, deadline until)
    __attribute__((warn_unused_result));

/* The same without waiting. -EAGAIN: nothing has been sent. Any other error: the connection is of no use any more. */
int channel_try_send(channel *ch, const uint8_t *data, size_t len_bytes) __attribute__((warn_unused_result));

/*
 * Wait for a whole frame. 0: *ret_payload points into the channel and is valid until the next call; the caller drops
 * the frame with channel_drop_frame(). -ETIMEDOUT, -ECONNRESET (the peer has closed), -EPROTO (longer than a frame may
 * be), ... A timeout loses nothing: the next call goes on.
 */
int channel_recv(channel *ch, const uint8_t **ret_payload, size_t *ret_len_bytes, deadline until)
    __attribute__((warn_unused_result));
void channel_drop_frame(channel *ch);

/*
 * The steps of channel_recv(), for callers with something to do between them. channel_take_frame() looks for a frame
 * that has been read: 0, -EAGAIN (there is none), -EPROTO. channel_wait() waits until there is something to read: 0,
 * -ETIMEDOUT, -errno. channel_read() reads what there is: 0, -EAGAIN (nothing), -ECONNRESET, -errno.
 */
int channel_take_frame(channel *ch, const uint8_t **ret_payload, size_t *ret_len_bytes)
    __attribute__((warn_unused_result));
int channel_wait(channel *ch, deadline until) __attribute__((warn_unused_result));
int channel_read(channel *ch) __attribute__((warn_unused_result));

#endif
