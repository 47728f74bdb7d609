/*
 * Comeback: the session that this process has with the daemon, and how it gets back to it.
 */
#ifndef GOALLOC_LIB_COMEBACK_H
#define GOALLOC_LIB_COMEBACK_H

#include "client/lib/rpc.h"
#include "shm/units.h"

/* Bound of each request from now on. */
void comeback_set_timeout(int timeout_ms);

/*
 * Begin a request: its time begins and the turn is taken. 0, or an error at once: -ETIMEDOUT (the time is over; or the
 * last request found nobody, and nobody is there now), -ENOENT, -EACCES.
 */
int comeback_begin(deadline *ret_until) __attribute__((warn_unused_result));
void comeback_end(void);

/* As rpc_call(), and as often as it takes: coming back to the session, sending what waits in the outbox first. */
int comeback_call(Goallocd__Request *request, Goallocd__Reply **ret, deadline until)
    __attribute__((warn_unused_result));

/*
 * Ask for a session: connect and send attach, again if the connection is lost before the reply. wait: also for a daemon
 * that is not there yet. gated: as any request, fail at once if the last one found nobody; else it is forgotten.
 * until: of all of it, the wait for the turn included.
 * If it returns 0 the caller has the turn, and *ret is valid until it is given. path is the caller's and stays.
 */
int comeback_open(const char *path, bool wait, bool gated, deadline until, Goallocd__Request *attach,
                  Goallocd__Reply **ret) __attribute__((warn_unused_result));

/* The session that has been opened is this process's now. With the turn. */
void comeback_set_session(const Goallocd__AttachReply *reply);

/* There is none any more; close the connection. With the turn. And: in the child of a fork. */
void comeback_forget(void);
void comeback_reset(void);

/* True if there is a connection, and who is behind it answers. Any thread. */
bool comeback_is_up(void);

#endif
