/*
 * Service: what handlers work on: the heap and what belongs to it, and the clients that are served.
 */
#ifndef GOALLOC_DAEMON_SERVE_SERVICE_H
#define GOALLOC_DAEMON_SERVE_SERVICE_H

#include <stdio.h>

#include "daemon/access.h"
#include "daemon/heap/roots.h"
#include "daemon/memory/sysmem.h"
#include "daemon/serve/ahead.h"
#include "daemon/serve/events.h"
#include "daemon/serve/excess.h"
#include "daemon/serve/loopcpu.h"
#include "daemon/serve/making.h"
#include "daemon/serve/operation.h"
#include "daemon/serve/profiling.h"
#include "daemon/serve/reply.h"
#include "daemon/serve/session.h"

/* Kinds of requests are below it: numbers of the fields of a Request. */
#define SERVICE_OPS_MAX 160u

/* Why a request for memory got none, as statistics have it: the answer's errno. */
enum memory_error { MEMORY_ENOSPC, MEMORY_EDQUOT, MEMORY_ENOMEM, MEMORY_EAGAIN, MEMORY_ERRORS };
extern const int service_memory_errors[MEMORY_ERRORS];

/* The server has one and sets it up; all of it is the loop's thread's. */
typedef struct service {
    uv_loop_t loop;
    mheap *heap;
    session_table sessions;
    users users;
    roots *roots;
    making_table making; /* roots that are being made */
    scavenger scav;
    helper helper;
    commit_pool commits;
    sysmem mem;
    ahead ahead;
    excess excess;
    profiling profiling;
    bool eager_commit;
    bool stopping;
    bool ending; /* it will stop when the heap is saved (saving.c): no session is opened any more */
    const access_policy *access; /* who may do what */
    uv_idle_t idle; /* runs while there is work in slices; rounds.c does it */
    uv_idle_cb on_idle;
    struct client *holder; /* copies the heap, so no session is opened that could write (request_save.c); NULL: nobody */
    uv_timer_t hold;       /* how long it may do that, */
    bool hold_is_made;     /* once somebody has */
    struct deaths *deaths; /* notices that the process of a session is gone */
    void (*on_drop)(void *data, bool save); /* the heap is to be dropped, saved first or not, and the daemon to stop */
    void *on_drop_data;
    struct reload *reload; /* reads the configuration again; NULL: nobody does */
    uint64_t nrpcs;
    uint64_t nrequests[SERVICE_OPS_MAX]; /* the same by kind; 0: unknown ones */
    uint64_t nrefusals[MEMORY_ERRORS];
    uint64_t started_ms;
    uint64_t start_time_ms; /* the same by the system's clock */
    bool taken_over;        /* the heap was another daemon's before */
    bool reclaiming;                         /* a ROUND_RECLAIM is under way, whether its peer is there or not */
    bool tell_census;                        /* objects are to be counted for the log, after a takeover */
    bool wants_count;                        /* and for on_count */
    void (*on_count)(void *data, uint64_t live_bytes, uint64_t worked_ns); /* after each count; NULL: nobody is told */
    void *on_count_data;
    uint64_t ended_allocs[SPAN_CLASS_COUNT]; /* objects that sessions which have ended allocated */
    page_no rescue_pos;                      /* where the next rescue goes on (leasing.c) */
    uint64_t next_rescue_ns;                 /* not before */
    uint64_t next_over_limit_ms;             /* not said in the log before */
    operation_pool operations;
    loopcpu loopcpu;
    event_ring events;   /* for those who have subscribed */
    queue queue;         /* requests that wait for something to come free */
    uv_idle_t mapping;   /* runs while the page map of long spans is being written */
    uv_timer_t rest;     /* runs while no long span is begun, because one has cost much (leasing.c) */
    uv_idle_t turns;     /* runs while one of them may be able to go on */
    uint64_t ntries;     /* requests handled, those that were deferred and came back again */
    uint32_t ask_at;      /* the next session that is asked to give back what is idle; 0: none */
    uint64_t next_ask_ns; /* not before, unless somebody has asked for it by name (Trim) */
    operation_rings rings;
    peer_host peers;
    struct client *clients[SHM_SESSIONS_MAX]; /* the connection of a session; NULL: it has none */
} service;

/* Who is at the other end of a connection, and what it has under way. */
typedef struct client {
    peer peer;          /* first: the memory of a peer is a client's */
    session_no session; /* 0: not attached */
    uint32_t epoch;
    bool notified; /* a notice was sent since its last request: no second one, it may be asleep */
    subscriber subscriber; /* if it has subscribed to events; then it has no session */
    operation op;
} client;

static inline client *client_of(peer *p)
{
    return (client *)(void *)p;
}

static inline service *client_service(const client *c)
{
    return c->peer.host->data;
}

/* The session that the client has attached to, in whatever state. NULL: none, or it is over. */
static inline session *client_any_session(const client *c)
{
    return c->session.n == 0 ? NULL : session_find(&client_service(c)->sessions, c->session, c->epoch);
}

/* The same if it is open. */
static inline session *client_session(const client *c)
{
    session *s = client_any_session(c);

    return s != NULL && s->state == SHM_SESSION_OPEN ? s : NULL;
}

/* As the log names it. */
static inline log_subject client_subject(const client *c)
{
    const session *s = client_any_session(c);

    return s != NULL ? session_subject(s) : peer_subject(&c->peer);
}

/* Entries of the session table from here on were never used. */
static inline uint32_t service_nentries(const service *srv)
{
    uint32_t n = u32_load_relaxed(&srv->heap->map->header->nsession_entries);

    return n < SHM_SESSIONS_MAX ? n : SHM_SESSIONS_MAX; /* it may be another daemon's */
}

/* Work in slices has come up: it is done between the turns of the loop from now on. */
void service_wake(service *srv);

/* Serve the queue from the loop, until its handle is closed. */
void service_queue_start(service *srv);

/* Give turns to those who can go on, now; not while a request is being handled. What is left goes on in the loop. */
void service_give_turns(service *srv);

/* What there is for those who wait. */
queue_facts service_facts(const service *srv);

/*
 * Send a reply with descriptors, which stay the caller's. ANSWER_GIVEN: it is sent, or the client is disconnected; else
 * nothing was sent, and this is what the client is told instead.
 */
answer service_reply_with_fds(client *c, const Goallocd__Reply *reply, const int *fds, int nfds)
    __attribute__((warn_unused_result));

/* The request waits for the next round of its kind, and after it for after(). */
answer service_wait(client *c, const Goallocd__Request *request, enum round round, void (*after)(operation *op));

/* What a request shows of a session, to go on with it or to hear of its events. */
typedef struct session_claim {
    uint32_t no;
    uint32_t epoch;
    uint64_t generation; /* of its heap */
    ProtobufCBinaryData token;
} session_claim;

/*
 * The session that is claimed, which has not ended. The token alone says that it may be: a process that has attached as
 * root and become another user since has it, and nobody else does. ESTALE: it has ended; EACCES: the token is wrong.
 */
answer service_find_session(const service *srv, const session_claim *claim, session **ret);

/* The client's session is this one from now on. */
void service_note_session(client *c, const session *s);

/* The connection of the client ends. */
void service_forget_client(const client *c);

/* Close the connection that still has this session: its process has come back with another one, or has died. */
void service_drop_client(service *srv, const session *s);

/* Nobody copies the heap any more: who waits may open a session. */
void service_end_hold(service *srv);

/* True if who is at the other end may do what costs others: root, the daemon's user, and the control group. */
bool service_may_control(const peer *p);

/*
 * A limit refuses the client something: the answer, after it is counted and said in the log. used and maximum: of a
 * limit that users do not count; else 0.
 */
answer service_refuse(client *c, enum limit which, uint64_t used, uint64_t maximum);

/* A request for memory is answered with that errno: counted if it is a refusal. */
void service_count_refusal(service *srv, int error);

/* Close the connections of a session, and let its process not come back to it. The session is LOST until that ends. */
void service_disconnect(service *srv, session *s);

/*
 * Ask all sessions to give back what is idle: some at once, the others from the loop, by service_ask_some(). Unless it
 * is forced, nobody is asked who was asked within the last 10 ms, since it empties the caches of every thread.
 */
void service_ask_trim(service *srv, bool forced);

/* Ask one session; if there is none of that number, nothing happens. */
void service_ask_session(service *srv, session_no no);

/* Ask the next ones. True: all have been asked. */
bool service_ask_some(service *srv);

#endif
