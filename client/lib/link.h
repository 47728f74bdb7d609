/*
 * Link: the process's one connection to the daemon, and the turn by which threads share it.
 *
 * The caller must hold the turn, except for link_is_open(). Errors: -ENOTCONN (there
 * is no connection, or it has just been lost), -ETIMEDOUT (the deadline has passed; the connection is as it was), and
 * those of the socket for a connect.
 */
#ifndef GOALLOC_LIB_LINK_H
#define GOALLOC_LIB_LINK_H

#include "client/lib/turn.h"
#include "proto/goallocd.pb-c.h"
#include "shm/atomics.h"

extern turn link_turn;
extern shm_u64 link_nrpcs; /* requests sent in the session, or for it: whoever begins or ends one sets it to 0 */

/* True if there is a connection, as far as is known. Any thread. */
bool link_is_open(void);

/* Descriptors of this library are at this number or above it, if the limit of descriptors allows that. */
int link_lowest_fd(void);

/*
 * Who listens at the other end of a connection to path may be root, this user, the owner of the directory if nobody
 * else may write there, or whom $GOALLOC_SERVER_UID names: this process follows pointers in the memory that it is
 * given. 0, -EPERM: it is another one.
 */
int link_check_server(int fd, const char *path) __attribute__((warn_unused_result));

/* Connect once, without waiting. A connection that is there is closed first. -EPERM: a stranger serves the socket. */
int link_connect(const char *path) __attribute__((warn_unused_result));
void link_close(void);

/*
 * Send a request (-EMSGSIZE: it is too long). until NULL: do not wait; -EAGAIN means that the daemon does not read just
 * now, and that nothing was sent. After -ETIMEDOUT and -ENOTCONN the link is closed.
 */
int link_send(const Goallocd__Request *request, const deadline *until) __attribute__((warn_unused_result));

/* Wait for the next reply; *ret is valid until the one after it. -EPROTO: it was no reply, and the link is closed. */
int link_recv(Goallocd__Reply **ret, deadline until) __attribute__((warn_unused_result));

/* Copy the descriptors that came with the last reply; returns how many. The link owns them until link_close_fds(). */
int link_fds(int ret_fds[FDPASS_MAX]);
void link_close_fds(void);

/* In the child of a fork: there is no connection, and nobody holds the turn. */
void link_reset(void);

#endif
