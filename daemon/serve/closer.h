/*
 * Closer: closes sockets in which a client may have left descriptors, in threads of its own.
 */
#ifndef GOALLOC_DAEMON_SERVE_CLOSER_H
#define GOALLOC_DAEMON_SERVE_CLOSER_H

#include "daemon/serve/users.h"

#include <uv.h>

#define CLOSER_THREADS 4u
#define CLOSER_QUEUE   256u

typedef struct closer_thread {
    uv_thread_t thread;
    struct closer *closer;
    int fd;            /* that it closes; -1: none. Under the closer's lock, as all here */
    uint32_t uid;      /* whose */
    uint64_t since_ns; /* it has begun then */
    bool begun;        /* the thread is there */
    bool stuck;        /* given up: it is not given another one before it comes back */
} closer_thread;

typedef struct closer {
    users *users; /* borrowed; the loop's */
    uv_timer_t look;
    uv_mutex_t lock;
    uv_cond_t wanted;
    struct {
        int fd;
        uint32_t uid;
    } queue[CLOSER_QUEUE];
    unsigned from; /* the first one in it */
    unsigned n;
    unsigned nstuck;     /* closes that were given up, ever */
    closer_thread threads[CLOSER_THREADS];
} closer;

/* c is zeroed. Its threads begin when they are needed, and end with the process. */
void closer_start(closer *c, uv_loop_t *loop, users *accounts);

/*
 * The caller is about to close fd: nothing comes into it any more. A duplicate, which the caller gives to closer_take()
 * after it has closed fd; -1: there is nothing in it, or no descriptor for that.
 */
int closer_keep(int fd);

/* Close what closer_keep() has returned, of a socket of that user's (NULL: not known), in another thread. */
void closer_take(closer *c, int copy, const user *who);

#endif
