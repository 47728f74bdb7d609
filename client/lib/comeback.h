/*
 * Comeback: the session that this process has with the daemon, and how it gets back to it.
 */
#ifndef GOALLOC_LIB_COMEBACK_H
#define GOALLOC_LIB_COMEBACK_H

#include "client/lib/rpc.h"
#include "shm/units.h"

/*
 * Begin a request: its time begins, and it takes the turn. 0, or without the turn: -ETIMEDOUT (the time is over; or the
 * last request found nobody, and nobody is there now), -ENOENT, -EACCES.
 */
int comeback_begin(deadline *ret_until) __attribute__((warn_unused_result));

/* Give the turn; the reply is not valid any more. */
void comeback_end(void);

/*
 * As rpc_call(), again if the connection is lost meanwhile. It comes back to the session, and sends what waits in the
 * outbox, first. The caller holds the turn.
 */
int comeback_call(Goallocd__Request *request, Goallocd__Reply **ret, deadline until)
    __attribute__((warn_unused_result));

/*
 * Ask for a session: connect and send attach, again if the connection is lost before the reply. wait: a daemon that is
 * not there yet is waited for, too. gated: as any request, fail at once if the last one found nobody; if false, forget
 * that. until: the deadline of all of it, the wait for the turn included.
 * If it returns 0, the caller holds the turn, and *ret is valid until it gives it. path must stay as it is.
 */
int comeback_open(const char *path, bool wait, bool gated, deadline until, Goallocd__Request *attach,
                  Goallocd__Reply **ret) __attribute__((warn_unused_result));

/* The session that has been opened is this process's now. The caller holds the turn. */
/*
 * Say in an Attach which group the last session had, and show its token: in a forked child, whose parent's session that
 * was. The daemon believes it as long as that group is open.
 */
void comeback_name_parent(Goallocd__Attach *ret);

void comeback_set_session(const Goallocd__AttachReply *reply);

/* There is no session any more; close the connection. The caller holds the turn. */
void comeback_forget(void);

/* In the child of a fork. */
void comeback_reset(void);

/* True if there is a connection, and the daemon behind it answers. Any thread. */
bool comeback_is_up(void);

#endif
