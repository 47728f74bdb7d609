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

#include "shm/layout.h"

#define WORLD_TEXT_BYTES 256u

typedef struct world_trouble {
    int error; /* negative errno: see world_prepare() */
    pid_t pid; /* in the way; 0: nobody's fault */
    char text[WORLD_TEXT_BYTES]; /* a sentence for people, without a full stop */
} world_trouble;

/* A file by what the kernel says of mappings of it. */
typedef struct world_file {
    uint64_t device; /* major << 32 | minor */
    uint64_t inode;
} world_file;

typedef struct world_options {
    uint64_t max_pause_ns;     /* 0: no bound */
    uint64_t heap_estimate_ns; /* what the caller adds to the pause; counts when the pause is estimated */
    bool trust_kernel; /* io_uring, AIO and shared memory that can't be opened don't make a process opaque */
    bool offsets;      /* words that are offsets from the arena's base count as well */
    bool no_estimate;  /* stop even if the estimate says that max_pause_ns does not do; for tests */
} world_options;

enum words_kind {
    WORDS_REGISTERS, /* with vectors and the rest of the extended state; address: 0 */
    WORDS_STACK,     /* the mapping that holds a thread's stack pointer */
    WORDS_DATA,      /* a private mapping of a file, or what lies right behind one (.bss) */
    WORDS_MEMORY,    /* other private memory */
    WORDS_SHARED,    /* a shared mapping of another file than the heap's */
    WORDS_DECLARED,  /* goalloc_private_roots() */
    WORDS_EPOLL,     /* data of an epoll entry; address: the descriptor's number */
    WORDS_TIMER,     /* value of a POSIX timer; address: its number */
    WORDS_SIGNAL,    /* value of a signal that is on its way; address: its number */
};

/*
 * A word that may point into the heap: where in its range (bits 44 and up: the index of the word), and the offset from
 * the arena's base that it points to (below), which is below arena_bytes. Its upper 16 bits were ignored.
 */
typedef uint64_t words_hit;
#define WORDS_HIT_BITS   44u
#define WORDS_RANGE_MAX  (UINT64_C(1) << (64 - WORDS_HIT_BITS)) /* words of a range */

static inline uint64_t words_hit_offset(words_hit hit)
{
    return hit & ((UINT64_C(1) << WORDS_HIT_BITS) - 1);
}

/* Words of a process that were looked at. A range has at most WORDS_RANGE_MAX words. */
typedef struct words_range {
    uint64_t first_hit; /* hits of this range: w->hits[first_hit], nhits of them, in the order of their addresses */
    uint64_t nhits;
    uint64_t address; /* of its first word in that process, or what the kind says */
    uint64_t nwords;  /* that were looked at; all others than hits don't point into the heap */
    pid_t pid;
    pid_t tid; /* of a stack's and of registers' thread; 0 else */
    enum words_kind kind;
    const char *mapping; /* as /proc/PID/maps names it, control characters replaced; "": no name. Lives as long as w */
} words_range;

static inline uint64_t words_hit_address(const words_range *range, words_hit hit)
{
    return range->address + (hit >> WORDS_HIT_BITS) * sizeof(uint64_t);
}

/* Where the time of a pause went. */
typedef struct world_times {
    uint64_t seize_ns;     /* before the pause: all seized, nobody stopped */
    uint64_t stop_ns;      /* from the first interrupt until all have stopped */
    uint64_t registers_ns; /* parts of world_copy() */
    uint64_t kernel_ns;    /* maps, descriptors, timers */
    uint64_t pages_ns;     /* which pages have content */
    uint64_t read_ns;      /* their words */
    uint64_t resume_ns;
} world_times;

typedef struct world {
    const words_range *ranges;
    uint64_t nranges;
    const words_hit *hits;
    uint64_t nhits;
    uint64_t nwords;        /* that were looked at, in all */
    uint64_t estimate_ns;   /* of the pause, without heap_estimate_ns */
    uint64_t deadline_ns;   /* CLOCK_MONOTONIC, once stopped; UINT64_MAX: none */
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

void world_free(world *w);

/* What a kind of words is called, for people. */
const char *words_kind_name(enum words_kind kind);

#endif
