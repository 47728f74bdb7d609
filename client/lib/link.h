/*
 * Link: the process's one connection to the daemon, and the turn by which threads share it.
 *
 * The caller must hold the turn, except for link_is_open(), link_nrpcs() and the turn itself. Errors: -ENOTCONN (there
 * is no connection, or it has just been lost), -ETIMEDOUT (the deadline has passed; the connection is as it was), and
 * those of the socket for a connect.
 */
#ifndef GOALLOC_LIB_LINK_H
#define GOALLOC_LIB_LINK_H

#include "proto/channel.h"
#include "proto/goallocd.pb-c.h"
#include "shm/atomics.h"

/* The turn: see turn.h. */
int link_take_turn(deadline until) __attribute__((warn_unused_result));
bool link_try_turn(void) __attribute__((warn_unused_result));
void link_give_turn(void);

/* True if there is a connection, as far as is known. Any thread. */
bool link_is_open(void);

/* Requests sent since link_reset_count(). Any thread. */
uint64_t link_nrpcs(void);
void link_reset_count(void);

/* Connect once, without waiting. A connection that is there is closed first. */
int link_connect(const char *path) __attribute__((warn_unused_result));
void link_close(void);

/* The connection is of no use any more: close it. -ENOTCONN, for the caller to return. */
int link_lose(void);

/*
 * Send a request (-EMSGSIZE: it is too long). link_try_send() does not wait: -EAGAIN means that the daemon does not
 * read just now, and that nothing was sent.
 */
int link_send(const Goallocd__Request *request, deadline until) __attribute__((warn_unused_result));
int link_try_send(const Goallocd__Request *request) __attribute__((warn_unused_result));

/* Wait for the next reply; *ret is valid until the one after it. -EPROTO: it was no reply, and the link is closed. */
int link_recv(Goallocd__Reply **ret, deadline until) __attribute__((warn_unused_result));

/* Copy the descriptors that came with the last reply; returns how many. The link owns them until link_close_fds(). */
int link_fds(int ret_fds[FDPASS_MAX]);
void link_close_fds(void);

/* In the child of a fork: there is no connection, and nobody holds the turn. */
void link_reset(void);

#endif
