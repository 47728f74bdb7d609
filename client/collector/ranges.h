/*
 * Ranges: which parts of a process's memory count, and looking at them.
 */
#ifndef GOALLOC_COLLECTOR_RANGES_H
#define GOALLOC_COLLECTOR_RANGES_H

#include "client/collector/declaration.h"
#include "client/collector/shared.h"
#include "client/collector/targets.h"

typedef struct ranges_piece {
    uint64_t start, end;
    enum words_kind kind;
    pid_t tid;
    uint64_t stack; /* the lowest stack pointer that leads there; 0: none; UINT64_MAX: it is the waiter's alone */
    const char *name;
} ranges_piece;

/* Where a register of a thread leads to. */
typedef struct ranges_point {
    uint64_t address;
    uint32_t thread; /* of targets */
    bool stack;      /* its stack pointer; else its thread pointer */
} ranges_point;

typedef struct ranges {
    maps maps;
    declaration declared;
    ranges_piece *pieces;
    uint32_t n;
    uint64_t room;
    ranges_point *points; /* sorted */
    uint32_t npoints;
    uint64_t points_room;
    uint32_t point;         /* the first that is not below the mapping under way */
    uint32_t skip, root;    /* the same of declared.skip and declared.roots */
    uint64_t stack_limit;   /* of the process; 0: not asked yet */
    uint64_t private_bytes; /* with content, once ranges_measure() or ranges_look() has run */
    uint64_t pages_ns, read_ns;
} ranges;

void ranges_free(ranges *g);

/*
 * Decide, for the process that p is about. Its threads are those that are stopped by now, with stack and thread
 * pointers. Shared mappings go to s, under its lock. 0; -EOPNOTSUPP: it has memory that nobody can look at; -ESRCH,
 * -ENOMEM, -EPROTO.
 */
int ranges_choose(ranges *g, pages *p, shared *s, const targets *t, const target_process *process, bool trust_kernel,
                  world_trouble *ret) __attribute__((warn_unused_result));

/* The same of maps that are parsed. */
int ranges_choose_in(ranges *g, pages *p, shared *s, const targets *t, const target_process *process, bool trust_kernel,
                     world_trouble *ret) __attribute__((warn_unused_result));

/* How many bytes of it have content. */
int ranges_measure(ranges *g, pages *p) __attribute__((warn_unused_result));

/* Look at all of it. */
int ranges_look(ranges *g, pages *p, words_found *w, pid_t pid) __attribute__((warn_unused_result));

#endif
