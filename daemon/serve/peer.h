/*
 * Peer: one connection. Frames in, replies out.
 */
#ifndef GOALLOC_DAEMON_SERVE_PEER_H
#define GOALLOC_DAEMON_SERVE_PEER_H

#include <uv.h>

#include "daemon/log.h"
#include "daemon/serve/closer.h"
#include "daemon/serve/unread.h"
#include "proto/goallocd.pb-c.h"
#include "proto/wire.h"

/* Bytes of a frame, or of frames behind a request that takes longer, that a peer holds without memory of their own. */
#define PEER_FEW_BYTES 128u

typedef struct peer_host peer_host;

typedef struct peer {
    uv_pipe_t pipe;
    peer_host *host;
    struct peer *prev; /* among all; one that is closing stays until the loop turns, so that who walks them goes on */
    struct peer *next;
    struct peer *silent_prev; /* among those that have asked nothing yet, the oldest first */
    struct peer *silent_next;
    struct peer *ready_prev; /* among those that have had their part of this turn of the loop */
    struct peer *ready_next;
    struct peer *late_prev; /* among those that are late, the oldest first */
    struct peer *late_next;
    struct peer *lingering_prev; /* among those that linger, the longest first */
    struct peer *lingering_next;
    user *user; /* whose account it counts on */
    uint64_t came_ms;
    uint32_t pid;
    uint32_t uid;
    struct operation *op; /* the handler's: a request takes longer, and the peer is not read from. NULL: none */
    unread unread;        /* descriptors that it was sent */
    bool closing;
    bool lingers;   /* it is closing, and its handle is not yet: it has not received descriptors */
    bool closed;    /* the handle is; the peer's memory goes when it has no operation either */
    bool late;      /* it has a descriptor of the reserve: no session for it */
    bool silent;    /* no request of it has been handled */
    bool ready;     /* it has input, and goes on in a later turn of the loop; it is not read from */
    bool sends_fds; /* descriptors are next in its input */
    uint8_t *in;    /* bytes not yet handled: in_few, or memory of their own. NULL: none */
    size_t in_bytes;
    size_t in_cap;
    size_t queued_bytes; /* of output that the socket did not take */
    uint64_t buffered;   /* memory of both, as counted on its user */
    uint8_t in_few[PEER_FEW_BYTES];
} peer;

/* As the log names it. */
static inline log_subject peer_subject(const peer *p)
{
    return (log_subject){ .pid = p->pid, .has_uid = true, .uid = p->uid };
}

/* What all peers share. The caller sets the first members; all others are zero. */
struct peer_host {
    uv_loop_t *loop;
    size_t peer_bytes; /* of a peer and what the handler has behind it, zeroed when a connection comes in */
    users *users;
    /* Handle a request, which is valid until the next one. False: handle the same one again after peer_resume(). */
    bool (*handle)(peer *p, const Goallocd__Request *request);
    void (*on_close)(peer *p); /* once a peer: it is about to be closed */
    void (*on_drained)(peer *p); /* nothing is queued for it any more */
    void (*on_refused)(peer *p, enum limit which); /* a limit keeps it from memory; it is closed next */
    closer *closer; /* of sockets in which there may be descriptors. NULL: there can be none */
    void *data;                /* the handler's */
    struct operation_rings *operations; /* the handler's, of all peers (operation.h) */

    peer *peers;
    peer *silent;
    peer *ready;
    peer *late;
    peer *lingering;
    size_t nready;
    unsigned nlate;    /* peers that came when few descriptors were left */
    int late_fd;       /* descriptors from here on are the reserve */
    uint64_t turn;     /* of the loop */
    uv_check_t turns;  /* counts it */
    uv_timer_t linger; /* runs while any peer lingers */
    uv_idle_t go_on;   /* runs while any peer is ready */
    frame_bump bump; /* for the request being handled */
    /* Nobody's over a return to the loop. */
    uint8_t in[FRAME_BYTES_MAX];
    uint8_t out[FRAME_BYTES_MAX];
    uint8_t bump_buf[MIB];
};

/* The loop has been set: peers may come. */
void peer_host_start(peer_host *host);
/* Send notice to all peers and close them. The loop must run on until they are closed. */
void peer_host_stop(peer_host *host, const Goallocd__Reply *notice);

/*
 * A connection has come in on fd, and is counted on its user: read from it. NULL: no memory, or the loop can't have it;
 * then fd stays the caller's, and it is not counted any more.
 */
peer *peer_open(peer_host *host, int fd, user *who, const struct ucred *cred) __attribute__((warn_unused_result));

/* Close it. If it is closing already, nothing happens. */
void peer_close(peer *p);
/* It has a descriptor of the reserve. */
void peer_be_late(peer *p);
/* It is silent, and has time to ask something from now on. */
void peer_still_silent(peer *p);
/* Send a reply. What the socket does not take waits, within the limits of buffers. */
void peer_reply(peer *p, const Goallocd__Reply *reply);
/*
 * Send a reply with descriptors, which stay the caller's. 0: it is sent, or the peer is disconnected. Else nothing was
 * sent, and another reply may be: -EBUSY: it has not received descriptors of an earlier one; -EDQUOT: its user's peers
 * have not received as many as they may (LIMIT_UID_UNREAD); -ETOOMANYREFS: the kernel lets the daemon send none, since
 * its user has too many on their way.
 */
int peer_reply_with_fds(peer *p, const Goallocd__Reply *reply, const int *fds, int nfds)
    __attribute__((warn_unused_result));
/* The operation has ended (op is NULL): go on with what has come in meanwhile. A peer that is closed is gone. */
void peer_resume(peer *p);
/* Disconnect a client that broke the protocol. */
__attribute__((format(printf, 2, 3))) void peer_violation(peer *p, const char *format, ...);
/* The descriptor of its socket; -1: it has none any more. */
int peer_fd(const peer *p);

#endif
