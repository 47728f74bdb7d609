/*
 * Server: the loop. Deaths of clients, work that is done in slices, start and stop.
 */
#ifndef GOALLOC_DAEMON_SERVE_SERVER_H
#define GOALLOC_DAEMON_SERVE_SERVER_H

#include <uv.h>

#include "daemon/serve/ahead.h"
#include "daemon/heap/census.h"
#include "daemon/memory/commit.h"
#include "daemon/keeper.h"
#include "daemon/serve/oppool.h"
#include "daemon/serve/peer.h"
#include "daemon/heap/roots.h"
#include "daemon/serve/scavenge.h"
#include "daemon/serve/session.h"
#include "daemon/serve/sweep.h"
#include "daemon/memory/sysmem.h"
#include "proto/frame.h"

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
    bool counting_left; /* what sessions have left */
    bool sweeping; /* a round, for Trim and Scavenge requests */
    page_no sweep_pos;
    page_no rescue_pos;
    uv_poll_t keeper_poll; /* tells when the keeper has died */
    uv_timer_t lost_timer; /* looks whether the processes of lost sessions are still there */
    uint64_t lost_ms;
    uint32_t lost_from; /* the slot that was asked last */
    uint64_t ended_allocs[SPAN_CLASS_COUNT]; /* objects that sessions which have ended allocated */
    peer *peers;
    unsigned nlate; /* peers that came when few descriptors were left */
    int late_fd;    /* descriptors from here on are the reserve, see peer.c */
    uv_pipe_t refused; /* takes a connection that there is no memory for, and closes it */
    bool refusing;
    bool refuse_again; /* another one waits for that */
    peer *gone; /* closing, or closed while memory is being committed for their requests */
    watch *watches[SHM_SESSIONS_MAX];
    server_options options;
    uint64_t nrpcs;
    uint64_t started_ms;
    uint64_t last_rescue_ns; /* when the heap was last swept because it was exhausted, and what that took */
    uint64_t rescue_cost_ns;
    uint64_t last_limit_warning_ms;
    frame_bump bump; /* for the request being handled */
    /* Nobody's over a return to the loop. */
    uint8_t in[FRAME_BYTES_MAX];
    uint8_t out[FRAME_BYTES_MAX];
    uint8_t bump_buf[MIB];
    oppool ops;
};

/* Set up and serve on listen_fd (taken). 0 after a clean stop by SIGTERM or SIGINT, -errno if it could not start. */
int server_run(server *s, int listen_fd, mheap *heap, const server_options *options)
    __attribute__((warn_unused_result));

/* For request.c and peer.c. */

/* Close the connection that still has this session: its process has come back with another one. */
void server_drop_peer_of(server *s, const session *session);
/*
 * Watch the process of a session that the peer has just opened, or taken up again. False: no descriptor is left for it,
 * and its death will be seen by the end of its connection alone.
 */
bool server_watch(server *s, peer *p, const session *session);
/* Pages that were being released are free again: data is the server. */
void server_on_released(void *data);
/* Look whether the processes of lost sessions are still there, from now on. */
void server_watch_lost(server *s);
/* Run the slices from now on. */
void server_wake_idle(server *s);
/* Ask all sessions to give back what is idle. */
void server_ask_trim(server *s);

#endif
