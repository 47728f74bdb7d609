/*
 * condvar: why there is no condition variable in these examples. Waiters on a process-shared pthread_cond_t are
 * killed, and after some kills the one who signals is blocked for ever: glibc counts who waits in which group, and a
 * signaller that wants to use a group again waits until the count of its waiters is 0. A dead one's share never goes.
 *
 *   condvar --seconds 10      (GOALLOC_SOCKET says where the daemon is)
 *
 * It says after how many kills the signaller stood still; or, of a C library that does better, that it did not. A
 * robust mutex does not help: it is the condition's own words that are left as they were. event.h is what to use
 * instead.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <argp.h>
#include <stdatomic.h>

#include <goalloc.h>

#include "crew.h"
#include "robust.h"

#define NWAITERS   4
#define BLOCKED_MS 3000 /* without a signal: the signaller does nothing else but signal */

typedef struct shared {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    _Atomic uint64_t nsignals;
} shared;

static void nothing_to_repair(void *arg)
{
    (void)arg;
}

static int wait_for_ever(uint32_t me, void *arg)
{
    shared *s = arg;

    (void)me;
    if (robust_lock(&s->mutex, nothing_to_repair, s) != 0)
        return EXIT_FAILURE;
    for (int r = 0; r == 0;) {
        r = pthread_cond_wait(&s->changed, &s->mutex);
        if (r == EOWNERDEAD)
            r = pthread_mutex_consistent(&s->mutex);
    }
    return EXIT_FAILURE;
}

static int signal_for_ever(uint32_t me, void *arg)
{
    shared *s = arg;

    (void)me;
    while (pthread_cond_broadcast(&s->changed) == 0) {
        (void)atomic_fetch_add(&s->nsignals, 1);
        crew_sleep_ms(1);
    }
    return EXIT_FAILURE;
}

static int shared_init(shared *s)
{
    pthread_condattr_t attr;
    int r = robust_init(&s->mutex);

    if (r == 0)
        r = pthread_condattr_init(&attr);
    if (r == 0)
        r = pthread_condattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    return r == 0 ? pthread_cond_init(&s->changed, &attr) : r;
}

static void run(shared *s, uint32_t seconds)
{
    int64_t until_ms = crew_now_ms() + (int64_t)seconds * 1000;
    int64_t last_ms = crew_now_ms();
    uint64_t nsignals = 0;
    crew_harassment harassment = { .every_ms = 5, .seed = 1 };
    crew waiters;
    crew signaller;

    crew_start(&waiters, NWAITERS, wait_for_ever, s);
    crew_start(&signaller, 1, signal_for_ever, s);
    while (crew_now_ms() < until_ms && crew_now_ms() - last_ms < BLOCKED_MS) {
        if (atomic_load(&s->nsignals) != nsignals) {
            nsignals = atomic_load(&s->nsignals);
            last_ms = crew_now_ms();
            crew_harass(&waiters, &harassment);
        }
        crew_sleep_ms(1);
        (void)crew_tend(&waiters);
    }
    if (crew_now_ms() - last_ms >= BLOCKED_MS)
        (void)printf("condvar: the signaller stands still after %llu signals and %llu killed waiters\n",
                     (unsigned long long)nsignals, (unsigned long long)waiters.nkilled);
    else
        (void)printf("condvar: %llu signals went through, with %llu killed waiters\n", (unsigned long long)nsignals,
                     (unsigned long long)waiters.nkilled);
    crew_kill(&signaller);
    crew_kill(&waiters);
}

static const struct argp_option option_table[] = {
    { "seconds", 's', "N", 0, "Give up after so many seconds (default 10)", 0 },
    { 0 },
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    if (key != 's')
        return ARGP_ERR_UNKNOWN;
    *(uint32_t *)state->input = (uint32_t)crew_parse_number("--seconds", arg, 1, 1000000);
    return 0;
}

int main(int argc, char **argv)
{
    static const struct argp argp = {
        .options = option_table,
        .parser = parse_option,
        .doc = "Kills waiters on a condition variable in the shared heap at $GOALLOC_SOCKET.",
    };
    uint32_t seconds = 10;
    shared *s;
    int r;

    (void)argp_parse(&argp, argc, argv, 0, NULL, &seconds);
    r = goalloc_attach(NULL);
    if (r < 0) {
        (void)printf("condvar: %s\n", goalloc_strerror(r));
        return EXIT_FAILURE;
    }
    s = goalloc_calloc(1, sizeof(*s));
    if (s == NULL || shared_init(s) != 0)
        return EXIT_FAILURE;
    run(s, seconds);
    goalloc_free(s);
    return goalloc_detach() == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
