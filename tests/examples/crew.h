/*
 * Crew: the children of a supervisor, by number.
 *
 * Child k is forked, and forked again when it was killed. So that it is not missed, it leaves by exit status 0 alone
 * when it is told to. Children die with their supervisor. One process at a time works under a number, since a child
 * is started after its predecessor was waited for, but for the moment after a supervisor was killed and started
 * again.
 *
 * crew_harass() kills a child at random: it is what these examples are tested with, and no part of a real supervisor.
 */
#ifndef EXAMPLES_CREW_H
#define EXAMPLES_CREW_H

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CREW_MAX 64

typedef struct crew {
    pid_t pids[CREW_MAX]; /* 0: it has left */
    uint32_t n;
    uint64_t nkilled;
    int (*work)(uint32_t me, void *arg); /* what child `me` does; its exit status */
    void *arg;
} crew;

/* What the examples' command lines say about kills. */
typedef struct crew_harassment {
    long every_ms; /* 0: never */
    uint64_t seed; /* 0: one is chosen */
    int64_t next_ms;
} crew_harassment;

static inline int64_t crew_now_ms(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static inline void crew_sleep_ms(long ms)
{
    struct timespec ts = { ms / 1000, ms % 1000 * 1000000 };

    (void)nanosleep(&ts, NULL);
}

/* A number's bits, mixed (splitmix64). */
static inline uint64_t crew_mix(uint64_t x)
{
    x += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

static inline void crew_start_one(crew *c, uint32_t k)
{
    pid_t parent = getpid();
    pid_t pid = fork();

    if (pid == 0) {
        (void)signal(SIGTERM, SIG_DFL);
        (void)signal(SIGINT, SIG_IGN); /* of a terminal: it is the supervisor who says when */
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent)
            _exit(EXIT_FAILURE);
        _exit(c->work(k, c->arg));
    }
    c->pids[k] = pid < 0 ? 0 : pid; /* no process to be had: the next crew_tend() tries again */
}

static inline void crew_start(crew *c, uint32_t n, int (*work)(uint32_t me, void *arg), void *arg)
{
    *c = (crew){ .n = n, .work = work, .arg = arg };
    for (uint32_t k = 0; k < n; k++)
        crew_start_one(c, k);
}

/* Start again who was killed. 0, or the exit status of a child that has left by itself. */
static inline int crew_tend(crew *c)
{
    for (uint32_t k = 0; k < c->n; k++) {
        int status = 0;

        if (c->pids[k] != 0 && waitpid(c->pids[k], &status, WNOHANG) != c->pids[k])
            continue;
        c->pids[k] = 0;
        if (WIFEXITED(status) && WEXITSTATUS(status) != 0)
            return WEXITSTATUS(status);
        c->nkilled += WIFSIGNALED(status);
        crew_start_one(c, k);
    }
    return 0;
}

/* Kill one at random, now and then. */
static inline void crew_harass(crew *c, crew_harassment *h)
{
    int64_t now = crew_now_ms();
    uint32_t k;

    if (h->every_ms == 0 || now < h->next_ms)
        return;
    h->seed = crew_mix(h->seed);
    k = (uint32_t)(h->seed % c->n);
    if (h->next_ms != 0 && c->pids[k] != 0)
        (void)kill(c->pids[k], SIGKILL);
    h->next_ms = now + 1 + (int64_t)((h->seed >> 32) % (uint64_t)(2 * h->every_ms));
}

/* All have been told to leave: wait until they have; who is killed meanwhile is started again. As crew_tend(). */
static inline int crew_wait(crew *c)
{
    for (uint32_t k = 0; k < c->n;) {
        int status = 0;

        if (c->pids[k] == 0)
            crew_start_one(c, k);
        if (c->pids[k] == 0 || waitpid(c->pids[k], &status, 0) != c->pids[k])
            continue;
        c->pids[k] = 0;
        if (WIFEXITED(status) && WEXITSTATUS(status) != 0)
            return WEXITSTATUS(status);
        c->nkilled += WIFSIGNALED(status);
        k += WIFEXITED(status);
    }
    c->n = 0;
    return 0;
}

/* Kill all that are left, and wait for them. */
static inline void crew_kill(crew *c)
{
    for (uint32_t k = 0; k < c->n; k++) {
        if (c->pids[k] != 0)
            (void)kill(c->pids[k], SIGKILL);
    }
    for (uint32_t k = 0; k < c->n; k++) {
        while (c->pids[k] != 0 && waitpid(c->pids[k], NULL, 0) != c->pids[k] && errno == EINTR)
            ;
    }
    c->n = 0;
}

/* A decimal number from min to max, and nothing else; ends the program if it is none. */
static inline uint64_t crew_parse_number(const char *option, const char *text, uint64_t min, uint64_t max)
{
    char *end;
    unsigned long long value;

    errno = 0;
    value = strtoull(text, &end, 10);
    if (strspn(text, "0123456789") != strlen(text) || end == text || errno != 0 || value < min || value > max) {
        (void)fprintf(stderr, "%s: '%s' is not a number from %llu to %llu\n", option, text, (unsigned long long)min,
                      (unsigned long long)max);
        exit(2);
    }
    return value;
}

/* --- what their command lines have in common --- */

typedef struct crew_options {
    uint32_t seconds; /* 0: until SIGTERM or SIGINT */
    crew_harassment harassment;
} crew_options;

/* Rows for argp. */
#define CREW_OPTION_ROWS                                                                                  \
    { "seconds", 's', "N", 0, "End after so many seconds (default: at SIGTERM or SIGINT)", 0 },           \
    { "kill-every", 'k', "MS", 0, "Kill a child at random every MS milliseconds, on average", 0 },        \
    { "seed", 'r', "N", 0, "Which ones, and when (default: chosen, and printed)", 0 }

/* False: the option is none of these. */
static inline bool crew_parse_option(crew_options *o, int key, const char *arg)
{
    switch (key) {
    case 's':
        o->seconds = (uint32_t)crew_parse_number("--seconds", arg, 1, 1000000);
        return true;
    case 'k':
        o->harassment.every_ms = (long)crew_parse_number("--kill-every", arg, 1, 1000000);
        return true;
    case 'r':
        o->harassment.seed = crew_parse_number("--seed", arg, 1, UINT64_MAX);
        return true;
    default:
        return false;
    }
}

static volatile sig_atomic_t crew_told_to_stop; /* by SIGTERM or SIGINT, after crew_begin() */

static inline void crew_on_signal(int number)
{
    (void)number;
    crew_told_to_stop = 1;
}

/* After the command line. When something is to be killed, the seed is said; signals don't end the program by then. */
static inline void crew_begin(crew_options *o, const char *program)
{
    (void)signal(SIGTERM, crew_on_signal);
    (void)signal(SIGINT, crew_on_signal);
    if (o->harassment.seed == 0 && getrandom(&o->harassment.seed, sizeof(o->harassment.seed), 0) < 0)
        o->harassment.seed = (uint64_t)getpid();
    if (o->harassment.every_ms > 0) {
        (void)printf("%s: seed %llu\n", program, (unsigned long long)o->harassment.seed);
        (void)fflush(stdout);
    }
}

/* When it is time to end, by crew_now_ms(), if it is begun now. */
static inline int64_t crew_until_ms(const crew_options *o)
{
    return o->seconds == 0 ? INT64_MAX : crew_now_ms() + (int64_t)o->seconds * 1000;
}

#endif
