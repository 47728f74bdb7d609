/*
 * Board: memory that is not the heap, which the supervisor and all that it starts have in common. The supervisor
 * writes phase and stop; each honest client writes its own entry, each attacker its own.
 */
#ifndef GOALLOC_TESTS_HOSTILE_BOARD_H
#define GOALLOC_TESTS_HOSTILE_BOARD_H

#include <time.h>

#include "tests/hostile/histogram.h"
#include "tests/hostile/options.h"

/* A request counts for the phase in which it was sent; for PHASE_ATTACK if it was under way at any time of it. */
enum phase { PHASE_START, PHASE_CALM, PHASE_ATTACK, PHASE_PAUSE, PHASE_AFTER, PHASE_BURN, PHASE_COUNT };

/* What an honest client is: the supervisor starts two of each of the first two, and one of the third. */
enum honest_kind { HONEST_PROBE, HONEST_WORKER, HONEST_COMER, HONEST_KINDS };

#define HONEST_MAX 5u

typedef struct honest_entry {
    histogram latency[PHASE_COUNT]; /* of a refill; HONEST_COMER: of an attach */
    shm_u64 since_ns;               /* when the request was sent that is not answered yet; 0: there is none */
    shm_u64 ready;                  /* it has attached */
    shm_u64 quiet;                  /* it has seen that `quiet` of the board is set, and touches the heap no more */
    shm_u64 operations;
    shm_u64 refused;  /* requests that were answered with an error, or allocations that failed */
    shm_u64 error;    /* the last of them */
    shm_u64 ended;    /* its session, or its connection, was ended, or a lease of it */
    shm_u64 wrong;    /* bytes of its own that were not as it left them */
    shm_u64 nobjects; /* live ones that it knows of */
} honest_entry;

typedef struct attacker_entry {
    shm_u64 ready;
    shm_u64 deeds;   /* what it has done; 0: the attack has not happened */
    shm_u64 refused; /* what it was refused */
    shm_u64 strays;  /* blows that have, or may have, hit others than those it was aimed at */
} attacker_entry;

typedef struct board {
    shm_u32 phase;
    shm_u32 stop;          /* honest clients free all that they have, and end */
    shm_u32 quiet;         /* they let their objects be */
    shm_u32 burn_permille; /* of a CPU, each burner */
    honest_entry honest[HONEST_MAX];
    attacker_entry attackers[ATTACKERS_MAX];
} board;

static inline uint64_t board_now_ns(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static inline void board_sleep_us(uint64_t us)
{
    struct timespec ts = { (time_t)(us / 1000000), (long)(us % 1000000) * 1000 };

    (void)nanosleep(&ts, NULL);
}

#endif
