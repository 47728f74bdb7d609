/*
 * Kill steps: a child process that is killed after any number of instructions of one thing that it does, and what is
 * checked after each death.
 */
#ifndef GOALLOC_TESTS_KILL_STEPS_H
#define GOALLOC_TESTS_KILL_STEPS_H

#include "tests/support/attach.h"
#include "tests/support/steps.h"

#define KILL_STEPS_MAX 1000000

/* So many deaths at most, at equal distances: after each instruction, but in builds with many more of them. */
#if defined(__SANITIZE_THREAD__)
#define KILL_STEPS_ROUNDS 50
#elif defined(__SANITIZE_ADDRESS__)
#define KILL_STEPS_ROUNDS 300
#else
#define KILL_STEPS_ROUNDS 700
#endif

/*
 * The child calls it after it has done all that comes before, and again at the end of the thing.
 * prepare() makes what a round works on; check() looks at it when the child is dead, and takes it away.
 */
typedef struct kill_steps {
    child_fn child; /* calls steps_begin(), steps_mark(), does the thing, calls steps_mark() */
    void *(*prepare)(void);
    void (*check)(void *arg, uint64_t nsteps);
} kill_steps;

/* One death, after nsteps instructions; how many there were. */
static inline uint64_t kill_steps_round(const fixture *f, const kill_steps *k, uint64_t nsteps)
{
    void *arg = k->prepare();
    pid_t pid = child_start(f, k->child, arg);
    uint64_t taken;
    bool alive;

    if (!steps_start(pid))
        skip(); /* the system allows no tracing */
    taken = steps_take(pid, nsteps, &alive);
    assert_true(alive);
    (void)kill(pid, SIGKILL);
    assert_int_equal(child_wait(pid), 1000 + SIGKILL);
    k->check(arg, taken);
    return taken;
}

/* Returns the number of deaths. */
static inline uint64_t kill_steps_run(const fixture *f, const kill_steps *k)
{
    uint64_t nsteps = kill_steps_round(f, k, KILL_STEPS_MAX);
    uint64_t ndeaths = 1;

    assert_in_range(nsteps, 1, KILL_STEPS_MAX - 1);
    for (uint64_t at = 0; at < nsteps; at += nsteps / KILL_STEPS_ROUNDS + 1, ndeaths++)
        (void)kill_steps_round(f, k, at);
    print_message("%llu instructions, %llu deaths\n", (unsigned long long)nsteps, (unsigned long long)ndeaths);
    return ndeaths;
}

#endif
