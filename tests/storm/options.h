/*
 * Options: what kind of storm, and how long.
 */
#ifndef GOALLOC_TESTS_STORM_OPTIONS_H
#define GOALLOC_TESTS_STORM_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#define PROCESSES_MAX 64u
#define THREADS_MAX 64u

/* What happens to the workers beside their random operations. A set of them is a mask of bits 1 << kind. */
enum death {
    DEATH_WORKER,  /* workers are killed with SIGKILL and replaced */
    DEATH_EXIT,    /* workers leave: with a detach, without one, or while their other threads are at work */
    DEATH_DAEMON,  /* the daemon is killed with SIGKILL, and another one takes the heap over */
    DEATH_CUT,     /* a connection ends though both sides live */
    DEATH_FORK,    /* workers fork children that work, and exit or are killed */
    DEATH_THREADS, /* threads come and go, and allocate in destructors of thread-local values */
    DEATH_TRIM,    /* goalloc_trim(), and goallocctl trim, scavenge and check from outside */
    DEATH_RECLAIM, /* every second worker is a session with GOALLOC_ATTACH_RECLAIM */
    DEATH_STOP,    /* workers are stopped by SIGSTOP for a while */
    DEATH_DETACH,  /* workers detach and attach again, while their other threads are quiet */
    DEATH_COUNT,
};

/* What a worker does wrong on purpose, to show that the storm notices. */
enum fault {
    FAULT_NONE,
    FAULT_BYTE,    /* writes to an object in the table */
    FAULT_LEAK,    /* allocates an object and forgets it */
    FAULT_TWICE,   /* puts an object into two entries */
    FAULT_HANG,    /* a thread does not end */
    FAULT_PRIVATE, /* publishes an object of a RECLAIM session, and forgets it */
    FAULT_COUNT,
};

typedef struct storm_options {
    unsigned seconds;
    unsigned round_seconds; /* a round is a storm with a daemon of its own, up to the final audit */
    unsigned nprocesses;
    unsigned nthreads;
    unsigned deaths; /* a mask */
    unsigned interval_ms;
    unsigned often; /* what workers do to themselves happens so many times as often as by default */
    unsigned nentries;
    unsigned max_mib;
    uint64_t seed;
    enum fault fault;
    const char *base; /* of the arena, and its size, as goallocd takes them; NULL: the fixture's */
    const char *reserve;
    bool debug; /* workers 0 and 1 of each four are in debug mode, if they run with that variant of the library */
    bool verbose;
} storm_options;

/* Parses the command line, and exits if it is wrong. *ret is complete: what was not given has its default. */
void options_parse(int argc, char **argv, storm_options *ret);

static inline bool options_has(const storm_options *o, enum death kind)
{
    return (o->deaths >> kind & 1) != 0;
}

/* The kinds as --deaths takes them: "worker,daemon", or "none". */
void options_name_deaths(unsigned deaths, char *ret, unsigned size);

#endif
