/*
 * Events: what subscribers are told of, and how far each of them is.
 */
#ifndef GOALLOC_DAEMON_SERVE_EVENTS_H
#define GOALLOC_DAEMON_SERVE_EVENTS_H

#include "daemon/serve/peer.h"
#include "daemon/serve/session.h"
#include "proto/events.h"

/* Events that are held for those who have not been sent them yet: so many, however many subscribers there are. */
#define EVENTS_KEPT 256u

typedef struct event {
    enum proto_event kind;
    uint32_t session; /* of PROTO_EVENT_SESSION_END, as all up to group */
    uint32_t pid;
    uint32_t uid;
    uint32_t cause;
    uint32_t root_bytes;
    char label[SHM_LABEL_BYTES];
    uint32_t group_uid; /* whose name the group's is */
    char group[SHM_GROUP_NAME_BYTES]; /* "": none */
    uint8_t root[SHM_ROOT_NAME_MAX];
} event;

/* Lies with its connection. */
typedef struct subscriber {
    struct subscriber *prev;
    struct subscriber *next;
    peer *peer; /* NULL: the connection has no subscription */
    session_no session;
    uint32_t epoch;
    bool controls; /* sees the sessions of all users */
    uint64_t at;   /* the number of the next event for it */
    bool told;     /* of the stop */
    uint32_t group_uid;
    char group[SHM_GROUP_NAME_BYTES];
} subscriber;

typedef struct event_ring {
    event kept[EVENTS_KEPT]; /* event n is kept[n % EVENTS_KEPT] */
    uint64_t nevents;        /* ever; those from nevents - EVENTS_KEPT on are kept */
    subscriber *subscribers;
    subscriber *turn;      /* who is looked at next; NULL: the first one */
    unsigned nsubscribers;
    unsigned nidle;        /* so many have been looked at in a row that had nothing to be sent */
    bool stopping;          /* each is told so, whoever comes later too */
    uint64_t next_short_ms; /* no PROTO_EVENT_MEMORY_SHORT before */
    subscriber *of_session[SHM_SESSIONS_MAX];
    uv_idle_t idle; /* runs while there is something to send */
} event_ring;

/* e is zeroed. Sends from the loop until its handles are closed. */
void events_start(event_ring *e, uv_loop_t *loop);

/*
 * The connection p, whose memory holds s, is told from now on what session `of` may know. If that has a connection for
 * events already it is closed. The caller has checked that p may.
 */
void events_subscribe(event_ring *e, subscriber *s, peer *p, const session *of, bool controls);

/* Its connection is about to be closed. If it has no subscription nothing happens. */
void events_unsubscribe(event_ring *e, subscriber *s);

/* The connection has taken what was queued for it. */
void events_go_on(event_ring *e, const subscriber *s);

/* --- what has happened --- */

/* A session is over; its own subscription with it. */
void events_session_end(event_ring *e, const session *s);
void events_root(event_ring *e, enum proto_event kind, const uint8_t *name, size_t name_bytes);
/* A stop waits for who can write, to save the heap. Once; it does not go by the ring, so nobody misses it. */
void events_stopping(event_ring *e);
/* Somebody did not get memory. At most one a second is told of. */
void events_memory_short(event_ring *e);

/* What is wrong with the list of subscribers; NULL: nothing. */
const char *events_validate(const event_ring *e) __attribute__((warn_unused_result));

#endif
