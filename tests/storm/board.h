/*
 * Board: memory that all processes of a storm share and that is not the heap: it is there when the heap is not.
 *
 * It holds an intent for each thread that works, figures, and the first failure. Made by storm.c before any fork;
 * anonymous, so it is gone with the last process.
 *
 * An intent says what its thread is about to do to one object. Only its thread writes it; audit.c reads it when the
 * thread is dead. Stores are in program order, so what a killed thread has stored last is what holds:
 *
 *   state         word               if the thread is dead
 *   IDLE          -                  it had no object
 *   ALLOCATING    0                  at most one object that nobody knows of
 *                 object             the object is live
 *   FILLING       object             the object is live; its content is undefined
 *   OWNED         object             the object is live, in no entry, and its content is right
 *   PUTTING       object             it is in its entry, or was; or it is live and in no entry
 *   TAKING        object             the same
 *   FREEING       object             it is live or free
 *   CLAIMING      object             a RECLAIM session has it, or has given it away: it is live or free
 *   REALLOCATING  object             it is live or free, and at most one object is there that nobody knows of
 *                 object, result     the result is live; its content is undefined
 *   PRIVATE       -                  a RECLAIM session's private object: it goes with the session
 *
 * Where an object is "live or free", its address may meanwhile be another object's: in an entry, or in another hand.
 */
#ifndef GOALLOC_TESTS_STORM_BOARD_H
#define GOALLOC_TESTS_STORM_BOARD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "tests/storm/options.h"

#define INTENTS_MAX (1u << 20)

enum intent_state {
    INTENT_IDLE,
    INTENT_ALLOCATING,
    INTENT_FILLING,
    INTENT_OWNED,
    INTENT_PUTTING,
    INTENT_TAKING,
    INTENT_FREEING,
    INTENT_CLAIMING,
    INTENT_REALLOCATING,
    INTENT_PRIVATE,
};

typedef struct intent {
    _Atomic uint32_t state;
    _Atomic uint32_t entry;
    _Atomic uint64_t word;   /* as in an entry of the table: pattern.h */
    _Atomic uint64_t result; /* REALLOCATING */
    _Atomic uint64_t size;   /* asked for */
    _Atomic uint64_t nops;
    const char *_Atomic doing; /* a literal: at the same address in all processes, which are forks of one */
    _Atomic int32_t pid;
    uint16_t worker;
    uint8_t thread;
    bool reclaims;
} intent;

enum figure {
    FIGURE_MALLOC,
    FIGURE_NOSCAN,
    FIGURE_CALLOC,
    FIGURE_ALIGNED,
    FIGURE_REALLOC,
    FIGURE_FREE,
    FIGURE_PUBLISH,
    FIGURE_ADOPT,
    FIGURE_MOVE,
    FIGURE_ROOT,
    FIGURE_TRIM,
    FIGURE_CUT,
    FIGURE_FORK,
    FIGURE_THREAD,
    FIGURE_DETACH,
    FIGURE_EXIT,
    FIGURE_WORKER_KILL,
    FIGURE_DAEMON_KILL,
    FIGURE_STOP,
    FIGURE_CTL,
    FIGURE_ROUND,
    FIGURE_COUNT,
};

typedef struct figures {
    _Atomic uint64_t n[FIGURE_COUNT];
} figures;

typedef struct board {
    _Atomic int stop;   /* workers end */
    _Atomic int failed; /* somebody has failed, and has said why */
    unsigned round;
    storm_options options;
    figures all[PROCESSES_MAX + 1]; /* of each worker, and the supervisor's */
    _Atomic uint32_t nintents;
    intent intents[INTENTS_MAX];
} board;

extern board *the_board;

/* Make the board. Ends the program on failure. */
void board_make(const storm_options *options);

/* For the next round: no intents, nobody has failed. Everybody else has ended. */
void board_begin_round(unsigned round);

/* A new intent, IDLE, for the calling thread. */
intent *board_intent(unsigned worker, unsigned thread, bool reclaims);

const char *intent_state_name(uint32_t state);

static inline void board_count(unsigned worker, enum figure figure)
{
    atomic_fetch_add_explicit(&the_board->all[worker].n[figure], 1, memory_order_relaxed);
}

static inline void intent_store(_Atomic uint64_t *field, uint64_t value)
{
    atomic_store_explicit(field, value, memory_order_release);
}

static inline void intent_enter(intent *i, enum intent_state state)
{
    atomic_store_explicit(&i->state, (uint32_t)state, memory_order_release);
}

/* One line on standard error, with what the storm is. The first one counts, later ones are printed too. */
__attribute__((format(printf, 2, 3))) void board_fail(const intent *who, const char *format, ...);

/* The same, and the process ends with status 3. Safe in a forked child. */
__attribute__((format(printf, 2, 3), noreturn)) void storm_die(const intent *who, const char *format, ...);

/* What the threads of a process were at. */
void board_dump(pid_t pid);

#endif
