/*
 * Loopcpu: the thread of the loop goes to the CPU of its client (follow.c), and back.
 */
#ifndef GOALLOC_DAEMON_SERVE_LOOPCPU_H
#define GOALLOC_DAEMON_SERVE_LOOPCPU_H

#include <sched.h>
#include <sys/types.h>
#include <uv.h>

#include "daemon/serve/follow.h"
#include "proto/goallocd.pb-c.h"

enum loopcpu_state {
    LOOPCPU_OFF,      /* this system does not let it */
    LOOPCPU_UNTRIED,  /* nobody was worth following yet */
    LOOPCPU_STARTING, /* the thread pool is being made */
    LOOPCPU_READY,
};

typedef struct loopcpu {
    follow policy;
    uv_loop_t *loop;
    uv_check_t turn;  /* runs after each poll, while there is something to see to */
    uv_timer_t timer; /* runs while the thread is bound */
    uv_work_t work;
    enum loopcpu_state state;
    pid_t unbound;      /* a thread of the pool, which nobody binds: what it may use the loop may use, too */
    cpu_set_t wide;     /* what the thread was given last when it was set free */
    int schedstat_fd;   /* the kernel's account of how long the thread has waited for a CPU */
    uint64_t waited_ns; /* by the last look at it */
} loopcpu;

/* Called by the loop's thread, like all that follows. */
void loopcpu_start(loopcpu *l, uv_loop_t *loop);

/* The thread is free from now on, and stays so. Its handles are closed by whoever closes the loop's. */
void loopcpu_stop(loopcpu *l);

/* A client's request has come, for the first time if it is handled again. Cheap: the thread goes nowhere yet. */
void loopcpu_note_request(loopcpu *l, const void *client, const Goallocd__Request *request);

/* Set the thread free: before it makes a process, which would be bound as it is. */
void loopcpu_release(loopcpu *l);

#endif
