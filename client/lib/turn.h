/*
 * Turn: a lock that one thread holds while it waits for the daemon, and that other threads wait for with a deadline.
 */
#ifndef GOALLOC_LIB_TURN_H
#define GOALLOC_LIB_TURN_H

#include <pthread.h>
#include <stdbool.h>

#include "proto/channel.h"

typedef struct turn {
    pthread_mutex_t mutex; /* guards the rest; held for some instructions only */
    bool taken;
    int cancel_state;            /* of the holder before it took the turn, to be restored */
    struct turn_waiter *waiters; /* the first in line */
} turn;

#define TURN_INIT { .mutex = PTHREAD_MUTEX_INITIALIZER }

/* Take the turn: 0, or -ETIMEDOUT when the deadline has passed. Its holder can't be cancelled. */
int turn_take(turn *t, deadline until) __attribute__((warn_unused_result));

/* Take the turn if nobody holds it. */
bool turn_try(turn *t) __attribute__((warn_unused_result));

void turn_give(turn *t);

/* In the child of a fork: nobody holds it, whoever held it in the parent. */
void turn_reset(turn *t);

#endif
