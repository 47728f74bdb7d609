/*
 * Robust: a mutex in the shared heap whose holder may be killed.
 *
 * pthread's robust, process-shared mutex: when the thread that holds it dies, the kernel marks it, and the next one
 * that locks it has it, with EOWNERDEAD. What it guards may be half changed then. So who takes a lock over repairs
 * first, and only then calls the mutex consistent; a survivor that dies in the middle of that is survived in the same
 * way.
 *
 * The object with the mutex in it is freed only when nobody can be in pthread_mutex_lock() or pthread_mutex_unlock() of
 * it any more, not even somebody who has just let go of it: until unlock has returned, the kernel has a note of the
 * mutex's address, and if the process is killed then and the word there happens to be the thread's number, a bit is set
 * in whatever lies there by then. Who frees it has waited for all processes that knew it (waitpid(), not a counter of
 * users: that of a dead one never goes down).
 */
#ifndef EXAMPLES_ROBUST_H
#define EXAMPLES_ROBUST_H

#include <errno.h>
#include <pthread.h>
#include <time.h>

#define ROBUST_SLICE_NS 50000000 /* 50 ms */

/* Before anybody else knows the mutex. 0 or a positive errno. */
static inline int robust_init(pthread_mutex_t *mutex)
{
    pthread_mutexattr_t attr;
    int r = pthread_mutexattr_init(&attr);

    if (r != 0)
        return r;
    r = pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    if (r == 0)
        r = pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
    if (r == 0)
        r = pthread_mutex_init(mutex, &attr);
    (void)pthread_mutexattr_destroy(&attr);
    return r;
}

/*
 * pthread_mutex_lock(), but whoever sleeps looks again after a while. A waiter that unlock has woken may be killed
 * before it has the mutex. If somebody else has taken it meanwhile, without a word of waiters, nobody wakes those that
 * still sleep: with glibc 2.36, one of some hundred kills while three processes took turns.
 */
static inline int robust_await(pthread_mutex_t *mutex)
{
    struct timespec until;
    int r;

    do {
        (void)clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += ROBUST_SLICE_NS;
        if (until.tv_nsec >= 1000000000) {
            until.tv_nsec -= 1000000000;
            until.tv_sec++;
        }
        r = pthread_mutex_clocklock(mutex, CLOCK_MONOTONIC, &until);
    } while (r == ETIMEDOUT);
    return r;
}

/* Lock it; if its last holder has died, repair(arg) makes what it guards whole. 0 or an errno. */
static inline int robust_lock(pthread_mutex_t *mutex, void (*repair)(void *arg), void *arg)
{
    int r = robust_await(mutex);

    if (r != EOWNERDEAD)
        return r;
    repair(arg);
    return pthread_mutex_consistent(mutex); /* else unlock makes it unusable for ever */
}

#endif
