/*
 * Steps: a thread of a child process that is stopped after any number of instructions, so that a test can have
 * something happen between any two of them. The test is its tracer.
 *
 * The thread calls steps_begin() once, and steps_mark() wherever the test is to find it.
 */
#ifndef GOALLOC_TESTS_STEPS_H
#define GOALLOC_TESTS_STEPS_H

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* In the thread: the parent of its process traces it from now on. False: the system does not allow it. */
static inline bool steps_begin(void)
{
    return ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0;
}

/* In the thread: stop, until the test goes on with it. The other threads run on. */
static inline void steps_mark(void)
{
    (void)syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGSTOP);
}

enum steps_stop { STEPS_MARK, STEPS_STEP, STEPS_ENDED };

/* Wait until the thread stops. *ret_signal: what it is to get when it goes on. */
static inline enum steps_stop steps_await(pid_t tid, int *ret_signal)
{
    int status = 0;

    while (waitpid(tid, &status, __WALL) < 0) {
        if (errno != EINTR)
            return STEPS_ENDED;
    }
    *ret_signal = 0;
    if (!WIFSTOPPED(status))
        return STEPS_ENDED;
    if (WSTOPSIG(status) == SIGSTOP)
        return STEPS_MARK;
    if (WSTOPSIG(status) != SIGTRAP)
        *ret_signal = WSTOPSIG(status);
    return STEPS_STEP;
}

/* Wait for its first mark. False: it has ended. */
static inline bool steps_start(pid_t tid)
{
    int signal;

    return steps_await(tid, &signal) == STEPS_MARK;
}

/* Let it run to its next mark. False: it has ended. */
static inline bool steps_run(pid_t tid)
{
    int signal = 0;

    while (ptrace(PTRACE_CONT, tid, NULL, (void *)(intptr_t)signal) == 0) {
        enum steps_stop stop = steps_await(tid, &signal);

        if (stop != STEPS_STEP)
            return stop == STEPS_MARK;
    }
    return false;
}

/*
 * Kill the process, a thread of which is traced or may be by now: the process is over only when its tracer has waited
 * for that thread, too. Returns the wait status; -1: it is not the caller's child. Other children must not end
 * meanwhile.
 */
static inline int steps_kill(pid_t pid)
{
    int status = -1;
    pid_t over = 0;

    (void)kill(pid, SIGKILL);
    while (over != pid && (over >= 0 || errno == EINTR))
        over = waitpid(-1, &status, __WALL);
    return over == pid ? status : -1;
}

/* Let it execute n instructions: how many it did. Fewer: it has come to its next mark, or (*ret_alive) ended. */
static inline uint64_t steps_take(pid_t tid, uint64_t n, bool *ret_alive)
{
    int signal = 0;

    *ret_alive = true;
    for (uint64_t i = 0; i < n; i++) {
        enum steps_stop stop = STEPS_ENDED;

        if (ptrace(PTRACE_SINGLESTEP, tid, NULL, (void *)(intptr_t)signal) == 0)
            stop = steps_await(tid, &signal);
        *ret_alive = stop != STEPS_ENDED;
        if (stop != STEPS_STEP)
            return i;
    }
    return n;
}

#endif
