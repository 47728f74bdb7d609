/*
 * Channel: the blocking end of a connection, with a deadline on everything. For clients: libgoalloc and goallocctl.
 */
#ifndef GOALLOC_PROTO_CHANNEL_H
#define GOALLOC_PROTO_CHANNEL_H

#include <stddef.h>
#include <stdint.h>

#include "proto/frame.h"
#include "proto/fdpass.h"

/* Milliseconds of CLOCK_MONOTONIC by which something must be done. */
typedef struct deadline {
    int64_t at_ms;
} deadline;

deadline deadline_in(int timeout_ms);

/* Milliseconds left, 0 if it has passed. */
int deadline_left_ms(deadline until);

/* One connection. fd is -1 when closed. The buffer holds at most one frame that is not complete yet. */
typedef struct channel {
    int fd;
    size_t have_bytes;
    int fds[FDPASS_MAX]; /* received and not taken yet */
    int nfds;
    uint8_t in[FRAME_BYTES_MAX];
} channel;

/*
 * Connect to the Unix socket at path. 0, or -errno: -EINVAL (path empty), -ENAMETOOLONG (more than a socket address
 * holds),
 * -ENOENT, -ECONNREFUSED, -EACCES, -ETIMEDOUT, ... On failure the channel is closed.
 */
int channel_connect(channel *ch, const char *path, deadline until) __attribute__((warn_unused_result));

/* Close; descriptors not taken are closed too. A closed channel: nothing happens. */
void channel_close(channel *ch);

/* Send len_bytes. 0, -ETIMEDOUT (some of it may have been sent: the connection is of no use any more), -EPIPE, ... */
int channel_send(channel *ch, const uint8_t *data, size_t len_bytes, deadline until)
    __attribute__((warn_unused_result));

/*
 * Wait for a whole frame. 0: *ret_payload points into the channel, valid until the next call, and the frame is to be
 * dropped with channel_drop_frame(). -ETIMEDOUT, -ECONNRESET (the peer has closed), -EPROTO (longer than a frame may
 * be), ... A time-out loses nothing: the next call goes on.
 */
int channel_recv(channel *ch, const uint8_t **ret_payload, size_t *ret_len_bytes, deadline until)
    __attribute__((warn_unused_result));
void channel_drop_frame(channel *ch);

#endif
