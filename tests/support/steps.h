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

/* Wait until the thread stops. True: at a mark; *ret_alive false: it has ended. */
static inline bool steps_wait(pid_t tid, bool *ret_alive)
{
    int status = 0;

    while (waitpid(tid, &status, __WALL) < 0 && errno == EINTR)
        ;
    *ret_alive = WIFSTOPPED(status);
    return *ret_alive && WSTOPSIG(status) == SIGSTOP;
}

/* Let it run to its next mark. False: it ended before. */
static inline bool steps_run(pid_t tid)
{
    bool alive = true;
    int signal = 0;

    while (ptrace(PTRACE_CONT, tid, NULL, (void *)(intptr_t)signal) == 0) {
        if (steps_wait(tid, &alive))
            return true;
        if (!alive)
            return false;
    }
    return false;
}

/* Let it execute n instructions: how many it did. Fewer: it has come to its next mark, or ended (*ret_alive). */
static inline uint64_t steps_take(pid_t tid, uint64_t n, bool *ret_alive)
{
    *ret_alive = true;
    for (uint64_t i = 0; i < n; i++) {
        if (ptrace(PTRACE_SINGLESTEP, tid, NULL, NULL) != 0 || steps_wait(tid, ret_alive) || !*ret_alive)
            return i;
    }
    return n;
}

#endif
