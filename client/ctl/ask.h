/*
 * Ask: one request to a daemon after the other, and what became of it.
 */
#ifndef GOALLOC_CLIENT_CTL_ASK_H
#define GOALLOC_CLIENT_CTL_ASK_H

#include "proto/channel.h"
#include "proto/goallocd.pb-c.h"

/* Whom, and until when. */
typedef struct asker {
    const char *socket_path;
    int timeout_ms;
    deadline until; /* by when the daemon must have answered all that is asked from now on */
} asker;

/*
 * Send a request and wait for its reply, which must be of that kind; it is valid until the next one. There is one
 * connection, which is made when there is none. NULL: ask_failed() says so; after that the next request makes another
 * connection, unless the daemon has answered.
 */
const Goallocd__Reply *ask(const asker *who, Goallocd__Request *request, Goallocd__Reply__ResultCase kind);

/* The errno that the daemon has answered last; 0: it has not refused. */
int ask_refused(void);

/*
 * Take the descriptors that came with the last reply, which are then the caller's. False: it has another number of
 * them.
 */
bool ask_take_fds(int *ret, int n);

/* True if the last failure was that nobody serves the socket, or that the connection was lost: a daemon may come. */
bool ask_may_come_back(void);

/* Say why the last request failed, by ctl_fail(). Returns the exit status. */
int ask_failed(const asker *who);

/* The same as text, in a buffer that the next call overwrites. */
const char *ask_failure_text(const asker *who);

#endif
