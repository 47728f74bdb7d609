/*
 * World: the processes that may hold pointers into the heap. It finds them, stops all of their threads for an instant,
 * takes out of their private memory, registers and what the kernel keeps for them each word that may point into the
 * heap, and lets them go.
 *
 * Called by the cycle, from one thread, which has no child processes of its own (the kernel's tracer is a thread, and
 * this one waits for whatever it traces). That process is a session of the heap; it never looks at itself.
 *
 *   world_prepare   nobody notices anything: sessions copied, processes found, their memory estimated
 *   world_stop      all are seized, then interrupted: the pause begins at the first PTRACE_INTERRUPT (pause_begin_ns)
 *   world_copy      their words: ranges
 *   world_validate  nobody has attached or ended meanwhile; after the bits of the heap were read
 *   world_resume    the pause ends (pause_end_ns)
 *   world_free
 *
 * A function that fails has resumed everybody before it returns, and *ret_trouble names the process in the way. If the
 * collector is killed at any instruction, the kernel lets go of all whom it has stopped.
 */
#ifndef GOALLOC_COLLECTOR_WORLD_H
#define GOALLOC_COLLECTOR_WORLD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "client/collector/stop.h"
#include "client/collector/trouble.h"
#include "client/collector/words.h"
#include "shm/layout.h"

typedef struct world_options {
    uint64_t max_pause_ns;     /* 0: no bound */
    uint64_t heap_estimate_ns; /* what the caller adds to the pause; counts when the pause is estimated */
    bool trust_kernel;         /* io_uring, AIO, and timers that the kernel does not show don't make a process opaque */
    bool only_stop;            /* there is no world_copy(): shared memory that can't be opened is in nobody's way */
    bool offsets;              /* words that are offsets from the arena's base count as well */
    pid_t waiter;              /* a thread in goalloc_collect(), so at nothing else in the library; 0: none */
    bool no_estimate;          /* stop even if the estimate says that max_pause_ns does not do; for tests */
} world_options;

/* Where the time of a pause went. */
typedef struct world_times {
    uint64_t seize_ns;     /* before the pause: all seized, nobody stopped */
    uint64_t stop_ns;      /* from the first interrupt until all have stopped */
    stop_times stop;       /* of that */
    uint64_t woken_ns;     /* from then until the caller goes on */
    uint64_t registers_ns; /* of the tracer */
    uint64_t maps_ns;      /* of all threads, as the next four */
    uint64_t kernel_ns;    /* descriptors, timers */
    uint64_t pages_ns;     /* which pages have content */
    uint64_t read_ns;      /* their words */
    uint64_t shared_ns;    /* of shared files: the last one's */
    uint64_t copy_ns;      /* world_copy() in all */
    uint64_t validate_ns;
    uint64_t resume_ns;
} world_times;

typedef struct world {
    const words_range *ranges;
    uint64_t nranges;
    const words_hit *hits;
    uint64_t nhits;
    uint64_t nwords;         /* that were looked at, in all */
    uint64_t estimate_ns;    /* of the pause, without heap_estimate_ns */
    uint64_t deadline_ns;    /* CLOCK_MONOTONIC, once stopped; UINT64_MAX: none */
    uint64_t pause_begin_ns; /* 0: nobody was stopped */
    uint64_t pause_end_ns;   /* 0: not resumed yet */
    uint32_t nprocesses;
    uint32_t nthreads;
    world_times times;
    struct world_state *state; /* what is behind it */
} world;

/*
 * Find out whom to stop, and estimate what that takes. map: the caller's view of the heap, with an arena. *w is
 * overwritten; call world_free() in any case. 0, or
 *   -EAGAIN      a session is ending, or its process has just ended, or its number was used again: try again
 *   -ESRCH       a session's process is not visible from here
 *   -EPERM       may not look into a process
 *   -ETIMEDOUT   the estimate is above max_pause_ns
 *   -EOPNOTSUPP  a process keeps pointers where nobody can see them
 *   -ENOMEM
 * No session but the caller's: 0, and w->nprocesses is 0 unless a forked child has the heap mapped.
 */
int world_prepare(world *w, const shm_map *map, const world_options *options, world_trouble *ret_trouble)
    __attribute__((warn_unused_result));

/* Stop all. As above; -EPERM: may not trace one, as when a debugger has it; -ETIMEDOUT: one was late. */
int world_stop(world *w, world_trouble *ret_trouble) __attribute__((warn_unused_result));

/* Look at all their words. As above. */
int world_copy(world *w, world_trouble *ret_trouble) __attribute__((warn_unused_result));

/* -EAGAIN: a session was opened or has changed since world_prepare(); -ETIMEDOUT: max_pause_ns is over by now. */
int world_validate(world *w, world_trouble *ret_trouble) __attribute__((warn_unused_result));

/* Let all go on. Who was stopped by a signal before stays so; signals that came meanwhile arrive. Idempotent. */
void world_resume(world *w);

/*
 * Once all was looked at: true if no thread of that session's process was in the library, by what the process says of
 * its code. Then none was about to hand out an object that no word shows, or to take one back. False of sessions
 * without a process here.
 */
bool world_is_outside(const world *w, uint32_t session);

void world_free(world *w);

/*
 * Threads of this process that wait for memory of others that does not come. Each keeps what a cycle had, a MiB or two;
 * they go when it comes, or when this process or the other one ends. Who runs many cycles ends when there are many.
 */
uint32_t world_nstuck(void);

#endif
