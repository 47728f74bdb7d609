/*
 * Helper: a thread of the collector's own, which is asked for one thing after the other, and may be left behind.
 */
#ifndef GOALLOC_COLLECTOR_HELPER_H
#define GOALLOC_COLLECTOR_HELPER_H

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct helper {
    void (*run)(struct helper *h);
    void *arg; /* for run() */
    pthread_t thread;
    pid_t tid; /* once it has answered */
    sem_t asked;
    sem_t answered;
    _Atomic uint32_t nanswers;
    _Atomic int job;
    _Atomic pid_t at; /* the process that it looks at; 0: none */
    bool runs;
    bool is_late; /* it has not answered in time: who has asked says so */
} helper;

/* Begin it; run() is all that it does. All signals are blocked there. 0 or -errno: runs is false. */
int helper_begin(helper *h, void (*run)(helper *h), void *arg) __attribute__((warn_unused_result));

void helper_ask(helper *h, int job);

/* False: it has not answered until then (CLOCK_MONOTONIC; UINT64_MAX: for ever). */
bool helper_await(helper *h, uint64_t until_ns) __attribute__((warn_unused_result));

/* Wait until it has ended, as it was asked to, and the kernel with it: whoever it has traced goes on. */
void helper_join(helper *h);

/*
 * The same of one that answers last of all: for no longer than patience_ns; or stuck_ns, if it is late. False: it is
 * left where it is.
 */
bool helper_join_or_leave(helper *h, uint64_t patience_ns, uint64_t stuck_ns) __attribute__((warn_unused_result));

/* In run(): wait for the next job; for spin_ns without sleeping. */
int helper_next_job(helper *h, uint64_t spin_ns);
void helper_answer(helper *h);

#endif
