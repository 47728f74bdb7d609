/*
 * Operation: a request that takes more than one turn of the loop, or leases spans.
 */
#ifndef GOALLOC_DAEMON_SERVE_OPERATION_H
#define GOALLOC_DAEMON_SERVE_OPERATION_H

#include "daemon/heap/mheap.h"
#include "daemon/memory/commit.h"
#include "daemon/serve/peer.h"
#include "daemon/serve/queue.h"

/* operation.c draws the transitions. */
enum operation_state {
    OPERATION_NONE = 0,   /* no request is under way */
    OPERATION_DEFERRED,   /* it is in a queue; its request will be handled again, when what it waits for is there */
    OPERATION_LEASING,    /* it gathers spans, in the turn of the loop in which it has begun */
    OPERATION_COMMITTING, /* its spans get memory in the thread pool; its session does not end before that is done */
    OPERATION_WAITING,    /* for the next round of its kind */
    OPERATION_JOINED,     /* the round under way is for it */
    OPERATION_RELEASING,  /* Scavenge, after its round: free pages are being released */
    OPERATION_ENDING,     /* Detach: its session is being ended */
    OPERATION_AWAITING,   /* the region of profiles; its request is handled again */
    OPERATION_PAUSED,     /* a slice of it is done; its request is handled again for the next one */
    OPERATION_STATES
};

/*
 * Work that is done once for all who ask for the same: passes over the heap (rounds.c), which are counted by ROUNDS,
 * and the reading of the configuration (reload.c).
 */
enum round { ROUND_STATS, ROUND_SESSIONS, ROUND_SWEEP, ROUND_RECLAIM, ROUND_CHECK, ROUNDS, ROUND_RELOAD = ROUNDS,
             ROUNDS_ALL };

/* A place in a ring of operations; or the ring itself, which is its own neighbour when it is empty. */
typedef struct operation_link {
    struct operation_link *prev;
    struct operation_link *next;
} operation_link;

/* All operations, the oldest of each state first; those that wait for a round, or are in one, by round. */
typedef struct operation_rings {
    operation_link of_state[OPERATION_STATES];
    operation_link waiting[ROUNDS_ALL];
    operation_link joined[ROUNDS_ALL];
} operation_rings;

/* Arrays for spans that are leased: a fixed number of them. What was never used was never touched and has no memory. */
#define OPERATION_MEMORIES 64u

typedef struct operation_memory {
    uint32_t spans[PROTO_SPANS_MAX];
    page_range ranges[PROTO_SPANS_MAX];
    bool unbacked[PROTO_SPANS_MAX]; /* none of the span's pages had memory */
} operation_memory;

typedef struct operation_pool {
    operation_memory all[OPERATION_MEMORIES];
    uint64_t used; /* a bit each; the first that is free is taken */
} operation_pool;

/* Zeroed with the connection. A connection has one session at most, so the operation's session is its client's. */
typedef struct operation {
    enum operation_state state;
    Goallocd__Request__OpCase kind;
    uint64_t id; /* of the request */
    peer *peer;
    operation_link link;      /* in the ring of its state */
    waiter waiter;            /* DEFERRED: in a queue. Its number outlives the operation, until operation_answered() */
    queue *queue;             /* DEFERRED, LEASING and COMMITTING: that waiter is or may be in */
    unsigned nvain;           /* how often it has found no pages; outlives the operation */
    bool has_turn;            /* the request is handled after it has waited: it does not queue for memory again */
    enum round round;         /* WAITING and JOINED */
    void (*after_round)(struct operation *op); /* replies, or goes on in state RELEASING */
    uint32_t start;           /* SessionList: where the list begins */
    size_t ndone;             /* ReturnSpans: spans that earlier slices have returned; ProfileSet: the region that it
                                 waits for; until operation_answered() */
    operation_memory *memory; /* LEASING and COMMITTING; else NULL */
    operation_pool *pool;     /* where memory comes from */
    uint32_t nspans;          /* in memory, leased for it; the last nfresh have just been taken from the page heap */
    uint32_t nfresh;
    bool marked;              /* those that are fresh are marked, and no others are wanted */
    uint64_t asked_pages; /* for the log */
    uint64_t grow_pages; /* ResizeLarge: pages at spans[1] that the object in spans[0] is to grow by */
    commit_job commit;
    mheap_mapping mapping; /* COMMITTING: of the long span that has no lease yet */
    uint64_t nscavenged;   /* of its pages */
    bool committing; /* the job was begun: pages may have got memory */
} operation;

/* True if memory is left. */
static inline bool operation_pool_has(const operation_pool *pool)
{
    return pool->used != UINT64_MAX;
}

/*
 * The peer's request becomes an operation: op, its only one, in state WAITING, ENDING or PAUSED. If the peer is closing
 * nothing happens, since nobody would come back to it.
 */
void operation_begin(operation *op, peer *p, const Goallocd__Request *request, enum operation_state state);

/* The same in state DEFERRED, before anything has been done for it. session: for WAIT_SESSION, else 0. */
void operation_begin_deferred(operation *op, peer *p, const Goallocd__Request *request, queue *q, enum wait wait,
                              uint32_t session);

/* The same in state LEASING, also for a peer that is closing. The pool has memory. */
void operation_begin_leasing(operation *op, peer *p, const Goallocd__Request *request, operation_pool *pool, queue *q);

/* LEASING to DEFERRED; if the peer is closing, it is over. npages: for WAIT_PAGES, else 0. in_vain as queue_enter(). */
void operation_defer(operation *op, enum wait wait, uint64_t npages, bool in_vain);

/* What it waited for is there, or it is time for its next slice: its request is handled again. */
void operation_take_turn(operation *op);

/* The request has been handled and is neither DEFERRED nor PAUSED: the next one begins anew. */
void operation_answered(operation *op);

static inline operation *operation_of(waiter *w)
{
    return (operation *)(void *)((char *)w - offsetof(operation, waiter));
}

/* It goes on: COMMITTING, JOINED, RELEASING. */
void operation_set_state(operation *op, enum operation_state state);

/* It is over, within the turn in which it has begun; the peer goes on by itself. */
void operation_end(operation *op);

/* It is over, in a later turn, or was: its reply has closed the peer. The peer goes on, or, if closed, is gone. */
void operation_finish(operation *op);

/* Its peer is about to be closed: it ends, unless somebody comes back to it in any case. */
void operation_close(operation *op);

void operation_rings_init(operation_rings *rings);

/*
 * The operation that has been in that state longest; of those that are WAITING or JOINED, in that round. NULL: none is.
 */
operation *operations_first(const peer_host *host, enum operation_state state, enum round round);

/* Visit all that are in that state now, in no round; visit may begin, end and close any. */
void operations_each(const peer_host *host, enum operation_state state, void (*visit)(operation *op, void *data),
                     void *data);

/* Visit all that are in any state but LEASING; visit changes none. */
void operations_all(const peer_host *host, void (*visit)(operation *op, void *data), void *data);

/* How many are in that state and, of those that are WAITING or JOINED, in that round. Linear. */
size_t operations_count(const peer_host *host, enum operation_state state, enum round round);

/* What is wrong with op, which lies with the peer p; NULL: nothing. */
const char *operation_validate(const operation *op, const peer *p) __attribute__((warn_unused_result));

#endif
