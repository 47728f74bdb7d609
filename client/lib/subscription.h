/*
 * Subscription: the process's connection for events, and the descriptor that says when there are some.
 */
#ifndef GOALLOC_LIB_SUBSCRIPTION_H
#define GOALLOC_LIB_SUBSCRIPTION_H

#include "client/include/goalloc.h"
#include "proto/channel.h"

/* Subscribe, unless that is done. The process has a session. Returns the descriptor, or -errno (goalloc_event_fd()). */
int subscription_open(deadline until) __attribute__((warn_unused_result));

/* As goalloc_next_event(), with all of *ret to be filled. */
int subscription_next(goalloc_event *ret) __attribute__((warn_unused_result));

/* The session ends: no subscription any more. */
void subscription_close(void);

/* In the child of a fork: close its copies. */
void subscription_reset(void);

#endif
