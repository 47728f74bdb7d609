/*
 * Comeback: the session that this process has with the daemon, and how it gets back to it.
 */
#ifndef GOALLOC_LIB_COMEBACK_H
#define GOALLOC_LIB_COMEBACK_H

#include "client/lib/rpc.h"
#include "client/lib/process.h"
#include "shm/units.h"

#define COMEBACK_SAID_BYTES 112

/*
 * Begin a request: its time begins, and it takes the turn. 0, or without the turn: -ETIMEDOUT (the time is over; or the
 * last request found nobody, and nobody is there now), -ENOENT, -EACCES.
 */
int comeback_begin(deadline *ret_until) __attribute__((warn_unused_result));

/*
 * The same with another time. If that is less than half of the attach's timeout, a request that is not answered says
 * nothing of the daemon: others do not fail because of it.
 */
int comeback_begin_within(int timeout_ms, deadline *ret_until) __attribute__((warn_unused_result));

/* Give the turn; the reply is not valid any more. */
void comeback_end(void);

/*
 * As rpc_call(), again if the connection is lost meanwhile. It comes back to the session, and sends what waits in the
 * outbox, first. The caller holds the turn.
 */
int comeback_call(Goallocd__Request *request, Goallocd__Reply **ret, deadline until)
    __attribute__((warn_unused_result));

/* Which daemon is waited for by who connects. */
enum comeback_patience {
    COMEBACK_SERVES,   /* one that serves the socket now */
    COMEBACK_RESTARTS, /* one that may be on its way up again: the socket may be missing, its directory not */
    COMEBACK_STARTS,   /* one that may never have run: the directory may be missing as well */
};

/*
 * Ask for a session: connect and send attach, again if the connection is lost before the reply. gated: as any request,
 * fail at once if the last one found nobody; if false, forget that. until: the deadline of all of it, the wait for the
 * turn included.
 * If it returns 0, the caller holds the turn, and *ret is valid until it gives it. path must stay as it is.
 */
int comeback_open(const char *path, enum comeback_patience patience, bool gated, deadline until,
                  Goallocd__Request *attach, Goallocd__Reply **ret) __attribute__((warn_unused_result));

/* Why the last comeback_open() has failed, for people. */
typedef struct comeback_failure {
    int connect_error;          /* -errno of its last connect; 0: there was a connection, or no time for one */
    char said[COMEBACK_SAID_BYTES]; /* what the daemon said, or this library, cut; "": nothing */
} comeback_failure;

/* This process does not take what the daemon has answered to the Attach: note why. */
void comeback_note_why(const char *why);

/* It stays until the next comeback_open(), so for who has the turn of attaching. */
const comeback_failure *comeback_last_failure(void);

/*
 * Say in an Attach which group the last session had, and show its token: in a forked child, whose parent's session that
 * was. The daemon believes it as long as that group is open.
 */
void comeback_name_parent(Goallocd__Attach *ret);

/* The session that has been opened is this process's now. The caller holds the turn. */
void comeback_set_session(const Goallocd__AttachReply *reply);

/* By what a daemon knows the session, for a connection of another kind. */
typedef struct comeback_ticket {
    const char *socket_path; /* as long as the session lasts */
    session_no session;
    uint32_t epoch;
    uint64_t generation;
    size_t token_bytes;
    uint8_t token[SESSION_TOKEN_BYTES];
} comeback_ticket;

/* Waits for the turn. 0, -ETIMEDOUT, -ENOTCONN: there is no session. */
int comeback_take_ticket(comeback_ticket *ret, deadline until) __attribute__((warn_unused_result));

/* There is no session any more; close the connection. The caller holds the turn. */
void comeback_forget(void);

/* In the child of a fork. */
void comeback_reset(void);

/* True if there is a connection, and the daemon behind it answers. Any thread. */
bool comeback_is_up(void);

#endif
