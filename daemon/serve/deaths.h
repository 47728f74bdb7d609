/*
 * Deaths: notices that the process of a session is gone.
 */
#ifndef GOALLOC_DAEMON_SERVE_DEATHS_H
#define GOALLOC_DAEMON_SERVE_DEATHS_H

#include "daemon/serve/service.h"

typedef struct deaths {
    service *srv;
    uv_timer_t timer;  /* looks whether the processes of lost sessions are still there */
    uint64_t pause_ms; /* until the next look */
    uint32_t from;     /* the entry of the session table that was looked at last */
    uint32_t from_group; /* the same of the group table */
    struct watch *watches[SHM_SESSIONS_MAX]; /* of the processes' pidfds; NULL: none */
} deaths;

/* d is zeroed; the service uses it from now on. */
void deaths_start(deaths *d, service *srv);
/* Watch no process any more. The loop must run on until the handles for that are closed. */
void deaths_stop(deaths *d);

/*
 * Watch the process of a session that the client has just opened, or come back to. False: no descriptor is left for it.
 * If there is no pidfd for another reason: true, and the end of the connection alone tells of its death.
 */
bool deaths_watch(deaths *d, const client *c, const session *s);

/* The session is over. */
void deaths_forget(deaths *d, session_no no);

/* The session has lost its connection: it is LOST until its process comes back, or is gone. */
void deaths_lost(deaths *d, session *s);

/* Look at lost sessions from now on. */
void deaths_look(deaths *d);

#endif
