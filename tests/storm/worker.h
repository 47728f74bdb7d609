/*
 * Worker: a process of the storm, its threads, and what one of them needs for its operations.
 */
#ifndef GOALLOC_TESTS_STORM_WORKER_H
#define GOALLOC_TESTS_STORM_WORKER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "tests/storm/board.h"
#include "tests/storm/table.h"
#include "tests/support/fixture.h"

#define PRIVATES_MAX 64u

/* How the process ends, besides being told to by the board. */
enum leaving { LEAVING_NOT, LEAVING_WITH_DETACH, LEAVING_WITHOUT };

typedef struct worker {
    const fixture *f;
    const storm_options *options;
    unsigned number;
    uint64_t seed; /* of this process */
    bool reclaims;
    bool is_forked; /* a child with one thread: no lock to take, and nothing to fork or to join */
    table *t;
    pthread_rwlock_t quiet;     /* read: in an operation; write: nobody is, so the process can detach */
    _Atomic unsigned nsessions; /* changes with each detach, under quiet */
    pthread_mutex_t
        forking; /* glibc takes fork handlers away in exit(), under the feet of a fork() in another thread */
    _Atomic int leaving;
} worker;

/* One thread's. */
typedef struct actor {
    worker *w;
    intent *intent;
    uint64_t seed;
    uint64_t random; /* set anew for each operation, so that its decisions do not depend on what others left for it */
    unsigned nsessions; /* of the worker, when privates were allocated */
    uint32_t nprivates;
    uint64_t privates[PRIVATES_MAX]; /* words: a RECLAIM session's objects that are in no entry */
    pid_t child;                     /* a forked one, or 0 */
    pthread_t thread;                /* a short one, if has_thread */
    bool has_thread;
} actor;

typedef struct worker_arguments {
    unsigned number;
    unsigned incarnation;
} worker_arguments;

/* The process's main function, a child_fn. Its status is 0 if nothing was wrong. */
int worker_run(const fixture *f, void *arguments);

/* Attach to the daemon, that may be dying just now. */
void worker_attach(const worker *w);

void actor_init(actor *a, worker *w, unsigned thread, uint64_t seed);

/* Draw from the seed and the number of operations so far; which: for the operation, or for what follows it. */
void actor_reseed(actor *a, unsigned which);

/* In an operation: the process does not detach meanwhile. */
void actor_begin(actor *a);
void actor_end(actor *a);

static inline bool worker_must_end(const worker *w)
{
    return atomic_load_explicit(&the_board->stop, memory_order_relaxed) != 0 ||
           atomic_load_explicit(&w->leaving, memory_order_relaxed) != LEAVING_NOT;
}

/* operations.c: one random operation, between actor_begin() and actor_end(). */
void operations_do(actor *a);

/* operations.c: of a RECLAIM session's private objects the thread leaves so many. Not between begin and end. */
void operations_leave_privates(actor *a, uint32_t most);

/* incidents.c: now and then, what --deaths says and workers do themselves. Between operations. */
void incidents_do(actor *a);

/* faults.c: what --fault says, once. Between operations. And: it is this thread's, and not done yet. */
void faults_do(actor *a);
bool faults_are_due(const actor *a);

/* incidents.c: wait for what the thread has begun: its child, its short thread. */
void incidents_finish(actor *a);

#endif
