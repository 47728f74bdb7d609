/*
 * Server: the loop. Connections, frames in and out, deaths of clients, work that is done in slices.
 */
#ifndef GOALLOC_DAEMON_SERVER_H
#define GOALLOC_DAEMON_SERVER_H

#include <uv.h>

#include "daemon/ahead.h"
#include "daemon/census.h"
#include "daemon/commit.h"
#include "daemon/keeper.h"
#include "daemon/roots.h"
#include "daemon/scavenge.h"
#include "daemon/session.h"
#include "daemon/sweep.h"
#include "daemon/sysmem.h"
#include "proto/frame.h"
#include "proto/goallocd.pb-c.h"

typedef struct server server;

/* What a peer waits for that is done for all who ask, in rounds: who asks during one waits for the next. */
enum peer_wait { WAIT_NONE = 0, WAIT_STATS, WAIT_TRIM, WAIT_SCAVENGE, WAIT_RELEASED };

/*
 * One connection. While busy, a request of it is under way (memory is being committed, objects counted, a session
 * ended): nothing more is read from it, so its requests are answered in order and cost no queue.
 */
typedef struct peer {
    uv_pipe_t pipe;
    server *server;
    struct peer *prev;
    struct peer *next;
    uint32_t pid;
    uint32_t uid;
    session_no session; /* 0: not attached */
    uint32_t epoch;
    bool busy;
    bool closing;
    bool closed;   /* the handle is; the peer goes when it is not busy either */
    bool notified; /* a notice was sent since its last request: no second one, it may be asleep */
    uint8_t *in;   /* bytes not yet handled */
    size_t in_bytes;
    size_t queued_bytes; /* of output that the socket did not take */

    /* The request under way. */
    uint64_t op_id;
    bool op_detach;
    enum peer_wait wait;
    bool in_round;    /* the round of counting or sweeping under way is for it too */
    bool deferred;    /* its next request is tried again when pages that are being released are free again */
    unsigned ndefers;
    uint64_t op_grow; /* pages that are being committed for op_spans[0] to grow by */
    commit_job commit;
    uint32_t *op_spans; /* leased for it; the last op_nfresh are the ones being committed */
    uint32_t op_nspans;
    uint32_t op_nfresh;
} peer;

/* A process that has a session: its pidfd tells when it dies. */
typedef struct watch watch;

typedef struct server_options {
    bool eager_commit;
    bool scavtrace;
    bool recovered; /* the heap was another daemon's before */
    keeper *keeper; /* NULL: none. The caller's */
} server_options;

struct server {
    uv_loop_t loop;
    uv_pipe_t listener;
    uv_signal_t signals[3];
    uv_idle_t idle; /* runs while there is work in slices */
    bool idle_active;
    bool stopping;
    bool leave_heap; /* it stops, and another daemon is to take the heap over */
    heapfile *file;
    mheap *heap;
    session_table sessions;
    roots *roots;
    sweep sweep;
    scavenger scav;
    commit_pool commits;
    sysmem mem;
    ahead ahead;
    census census; /* of the round under way */
    bool counting;
    bool sweeping; /* a round, for Trim and Scavenge requests */
    page_no sweep_pos;
    page_no rescue_pos;
    uv_poll_t keeper_poll; /* tells when the keeper has died */
    uv_timer_t lost_timer; /* looks whether the processes of lost sessions are still there */
    uint64_t lost_ms;
    uint32_t lost_from; /* the slot that was asked last */
    uint64_t ended_allocs[SPAN_CLASS_COUNT]; /* objects that sessions which have ended allocated */
    peer *peers;
    watch *watches[SHM_SESSIONS_MAX];
    server_options options;
    uint64_t nrpcs;
    uint64_t started_ms;
    uint64_t last_rescue_ns; /* when the heap was last swept because it was exhausted, and what that took */
    uint64_t rescue_cost_ns;
    uint64_t last_limit_warning_ms;
    frame_bump bump; /* for the request being handled */
    uint8_t in[FRAME_BYTES_MAX];
    uint8_t out[FRAME_BYTES_MAX];
    uint8_t bump_buf[MIB];
};

/* Set up and serve on listen_fd (taken). 0 after a clean stop by SIGTERM or SIGINT, -errno if it could not start. */
int server_run(server *s, int listen_fd, mheap *heap, const server_options *options)
    __attribute__((warn_unused_result));

/* For request.c. */

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
/* Close the connection that still has this session: its process has come back with another one. */
void server_drop_peer_of(server *s, const session *session);
/* Watch the process of a session that the peer has just opened, or taken up again. */
void server_watch(server *s, peer *p, const session *session);
/*
 * Pages are being released that the peer's request could have: it is to be handled again when they are. False: there
 * are none, or it has waited often enough.
 */
bool peer_defer(peer *p);
/* The same, until requests under way of its session's old connection have ended. */
void peer_wait_for_ops(peer *p);
/* Pages that were being released are free again: data is the server. */
void server_on_released(void *data);
/* Run the slices from now on. */
void server_wake_idle(server *s);
/* Ask all sessions to give back what is idle. */
void server_ask_trim(server *s);

#endif
