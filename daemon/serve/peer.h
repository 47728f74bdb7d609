/*
 * Peer: one connection. Frames in, replies out.
 */
#ifndef GOALLOC_DAEMON_SERVE_PEER_H
#define GOALLOC_DAEMON_SERVE_PEER_H

#include <stdio.h>

#include <uv.h>

#include "daemon/memory/commit.h"
#include "daemon/serve/oppool.h"
#include "daemon/serve/session.h"
#include "proto/goallocd.pb-c.h"

typedef struct server server;

/* Part of a frame, or frames behind a request that takes longer, that a peer keeps without memory of their own. */
#define PEER_FEW_BYTES 128u

/* What a peer waits for that is done for all who ask, in rounds: who asks during one waits for the next. */
enum peer_wait { WAIT_NONE = 0, WAIT_STATS, WAIT_TRIM, WAIT_SCAVENGE, WAIT_RELEASED, WAIT_SESSIONS };

/*
 * One connection. While busy, a request of it is under way (memory is being committed, objects counted, a session
 * ended): nothing more is read from it, so its requests are answered in order and cost no queue.
 */
typedef struct peer {
    uv_pipe_t pipe;
    server *server;
    struct peer *prev; /* of those that are served */
    struct peer *next;
    struct peer *gone_prev; /* of those that are closing; a list of its own, so that who walks the other one goes on */
    struct peer *gone_next;
    uint32_t pid;
    uint32_t uid;
    session_no session; /* 0: not attached */
    uint32_t epoch;
    bool busy;
    bool closing;
    bool closed;   /* the handle is; the peer goes when it is not busy either */
    bool late;     /* it has a descriptor of the reserve: no session for it */
    bool notified; /* a notice was sent since its last request: no second one, it may be asleep */
    uint8_t *in;   /* bytes not yet handled: in_few, or memory of their own. NULL: none */
    size_t in_bytes;
    size_t in_cap;
    size_t queued_bytes; /* of output that the socket did not take */

    /* The request under way. */
    uint64_t op_id;
    bool op_detach;
    uint32_t op_start; /* of a list */
    enum peer_wait wait;
    bool in_round;    /* the round of counting or sweeping under way is for it too */
    bool deferred;    /* its next request is tried again when pages that are being released are free again */
    unsigned ndefers;
    uint64_t op_grow; /* pages that are being committed for op_spans[0] to grow by */
    commit_job commit;
    op_memory *op;      /* what the arrays here and in commit lie in; NULL: no such request is under way */
    uint32_t *op_spans; /* leased for it; the last op_nfresh are the ones being committed */
    uint32_t op_nspans;
    uint32_t op_nfresh;
    uint8_t in_few[PEER_FEW_BYTES];
} peer;

/* A connection has come in at the server that is the listener's data. */
void peer_on_connection(uv_stream_t *listener, int status);
/* The first descriptor of the reserve, by the limit of this process. */
int peer_late_fd(void);
/* Close it. Its session, if it has one, is lost from now on. Closing already: nothing happens. */
void peer_close(peer *p);
/* Send a reply. A client that does not read is disconnected when 256 KiB wait for it. */
void peer_reply(peer *p, const Goallocd__Reply *reply);
/* Send a reply with descriptors, which stay the caller's. */
void peer_reply_with_fds(peer *p, const Goallocd__Reply *reply, const int *fds, int nfds);
/* The request under way is done: go on with what has come in meanwhile. */
void peer_resume(peer *p);
/* Disconnect a client that broke the protocol. */
__attribute__((format(printf, 2, 3))) void peer_violation(peer *p, const char *format, ...);
/* The open session of the peer; NULL: none. */
session *peer_session(const peer *p);
/*
 * Pages are being released that the peer's request could have: it is to be handled again when they are. False: there
 * are none, or it has waited often enough.
 */
bool peer_defer(peer *p);
/* The same, until a request under way has ended: of its session's old connection, or any. Closing: nothing happens. */
void peer_wait_for_ops(peer *p);
/* Nothing more is read from the peer until peer_resume(). False: it is closing, so nobody is to come back to it. */
bool peer_hold(peer *p);
/*
 * Check the connections: those served are open, and closed ones are kept by memory being committed for them alone. 0,
 * -EUCLEAN after printing what differs. Linear in the connections.
 */
int peer_validate_all(const server *s, FILE *err) __attribute__((warn_unused_result));

#endif
