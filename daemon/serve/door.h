/*
 * Door: lets connections in, as many as limits allow, and out again who never asks anything.
 */
#ifndef GOALLOC_DAEMON_SERVE_DOOR_H
#define GOALLOC_DAEMON_SERVE_DOOR_H

#include "daemon/serve/closer.h"
#include "daemon/serve/peer.h"

typedef struct door {
    peer_host *host; /* borrowed */
    int listen_fd;   /* own */
    int spare_fd;    /* given up for a moment when there is no other descriptor; -1: it could not be had again */
    uint64_t next_warning_ms;
    uv_poll_t listener;
    uv_timer_t again;   /* while nobody can be accepted */
    uv_timer_t silence; /* runs while there are peers that have asked nothing yet */
    closer closer;      /* where the kernel lets clients send descriptors */
} door;

/*
 * Accept connections from listen_fd (taken) for the host, which has been started. refuses_fds: the kernel lets nobody
 * send descriptors there. 0, or an error of libuv's.
 */
int door_open(door *d, peer_host *host, int listen_fd, bool refuses_fds) __attribute__((warn_unused_result));

/* Let a connection in that was accepted elsewhere (taken), as if it came now. */
void door_let_in(door *d, int fd);

/* Accept no more. */
void door_shut(door *d);

#endif
