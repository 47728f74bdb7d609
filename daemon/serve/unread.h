/*
 * Unread: descriptors that a connection was sent and has not received. What they cost, and who may have more.
 */
#ifndef GOALLOC_DAEMON_SERVE_UNREAD_H
#define GOALLOC_DAEMON_SERVE_UNREAD_H

#include "daemon/serve/users.h"

/* Those of a connection; zeroed at its beginning. */
typedef struct unread {
    struct unread *prev; /* among its user's that have nfds, the oldest first */
    struct unread *next;
    user *user;
    int fd;        /* the connection's */
    unsigned nfds; /* that it was sent and, when last looked, had not received */
} unread;

/*
 * The connection is about to be sent nfds descriptors, which count on its user from now on. 0; -EBUSY: it has not
 * received earlier ones; -EDQUOT: LIMIT_UID_UNREAD forbids it. Constant time.
 */
int unread_begin(users *u, unread *connection, user *who, int fd, unsigned nfds) __attribute__((warn_unused_result));

/* True if there are some that it has not received. Those that it has received count no more. */
bool unread_has(users *u, unread *connection) __attribute__((warn_unused_result));

/* They were not sent, or the connection is about to be closed: they count no more. */
void unread_end(users *u, unread *connection);

#endif
