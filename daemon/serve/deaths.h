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
    uint64_t rest_until_ns; /* no look before */
    uint64_t pid_namespace; /* inode of the daemon's; 0: not known */
    uint32_t from;     /* the entry of the session table that was looked at last */
    uint32_t from_group; /* the same of the group table */
    struct watch *watches[SHM_SESSIONS_MAX]; /* of the processes' pidfds; NULL: none */
    uint32_t nwatches;
} deaths;

/* d is zeroed; the service uses it from now on. */
void deaths_start(deaths *d, service *srv);
/*
 * After a takeover, before anybody is served: sessions whose processes are dead begin to end, and the others' are
 * watched. Those whose pid says nothing are judged by their signs, soon.
 */
void deaths_recover(deaths *d);
/* Watch no process any more. The loop must run on until the handles for that are closed. */
void deaths_stop(deaths *d);

/*
 * Watch the process at the other end as that of a session, which it has just opened or come back to. False: no
 * descriptor or memory is left for it, and nothing has changed. If there is no pidfd for another reason: true, and the
 * end of the connection and its sign of life tell of its death.
 */
bool deaths_watch(deaths *d, const client *c, const session *s);

/* False if the process of a session is dead, or has become another program; the kernel is asked. */
bool deaths_process_lives(const deaths *d, const session *s);

/* The session is over. */
void deaths_forget(deaths *d, session_no no);

/* The session has lost its connection: it is LOST until its process comes back, or is gone. */
void deaths_lost(deaths *d, session *s);

/* Look at lost sessions from now on. */
void deaths_look(deaths *d);

#endif
