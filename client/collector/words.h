/*
 * Words: what was found in the memory of processes: the words that may point into the heap, and where they stood.
 *
 * Written by who looks (pages.c, registers.c, kernelheld.c), into a collection of the thread's; these are joined before
 * the pause ends, and read by the cycle after it. Only words that may point into the heap are kept (hits): nothing of
 * the size of what was looked at is needed. A word counts if, without its upper 16 bits, it lies in the arena; with
 * offsets, also if it is a number of at least a page below the arena's size.
 */
#ifndef GOALLOC_COLLECTOR_WORDS_H
#define GOALLOC_COLLECTOR_WORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

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
#define WORDS_HIT_BITS 44u
#define WORDS_RANGE_MAX (UINT64_C(1) << (64 - WORDS_HIT_BITS)) /* words of a range */

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

/* What a kind of words is called, for people. */
const char *words_kind_name(enum words_kind kind);

/* Where the library's code is in a process: [start, end). */
typedef struct words_text {
    uint64_t start, end;
} words_text;

typedef struct words_found {
    uint64_t base; /* of the arena */
    uint64_t arena_bytes;
    bool offsets;
    bool fours;             /* the processor looks at four words at once */
    const words_text *text; /* words of stacks are compared with these, too, from address text_from on */
    uint64_t text_from;
    uint32_t ntext;
    bool in_text; /* one points there */
    bool full;    /* there was no memory for all hits: they are worth nothing */
    words_range *ranges;
    uint64_t nranges, ranges_room;
    words_hit *hits;
    uint64_t nhits, hits_room;
    uint64_t nwords;
    bool open;           /* ranges[nranges] is being made */
    words_range current; /* if so */
    struct words_names *names;
} words_found;

/* Room for some hits is made and touched, so that a pause need not. -ENOMEM. */
int words_init(words_found *w, uint64_t base, uint64_t arena_bytes, bool offsets) __attribute__((warn_unused_result));
void words_deinit(words_found *w);

/* True if one of these points into text. */
bool words_point_into_text(const words_found *w, const uint64_t *from, uint64_t n);

/* Words of a process follow that stand at address; mapping is copied when there are hits. */
void words_begin(words_found *w, const words_range *what);
void words_add(words_found *w, const uint64_t *from, uint64_t n);
void words_end(words_found *w);

/* Take over what another collection of the same heap has; it is empty then. */
void words_join(words_found *w, words_found *from);

/* The three at once. */
void words_put(words_found *w, const words_range *what, const uint64_t *from, uint64_t n);

#endif
