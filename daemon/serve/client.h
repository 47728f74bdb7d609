/*
 * Client: who is at the other end of a connection, and what it has under way.
 */
#ifndef GOALLOC_DAEMON_SERVE_CLIENT_H
#define GOALLOC_DAEMON_SERVE_CLIENT_H

#include "daemon/serve/service.h"

typedef struct client {
    peer peer;          /* first: the memory of a peer is a client's */
    session_no session; /* 0: not attached */
    uint32_t epoch;
    bool notified; /* a notice was sent since its last request: no second one, it may be asleep */
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

/* Close the connection that still has this session: its process has come back with another one, or has died. */
void clients_drop(service *srv, const session *s);

/* Ask all sessions to give back what is idle. */
void clients_ask_trim(service *srv);

/* Check connections, operations and sessions against each other. 0, -EUCLEAN after printing what differs. */
int clients_validate(const service *srv, FILE *err) __attribute__((warn_unused_result));

#endif
