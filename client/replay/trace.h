/*
 * Trace: what a program has allocated and freed, read from text into a compact array.
 */
#ifndef GOALLOC_REPLAY_TRACE_H
#define GOALLOC_REPLAY_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TRACE_VERSION_LINE "goalloc-trace 1"
#define TRACE_THREADS_MAX 4096u
#define TRACE_ID_MAX (UINT32_C(1) << 28)
#define TRACE_SIZE_MAX ((UINT64_C(1) << 47) - 1)
#define TRACE_ALIGN_MAX (UINT64_C(64) << 20)

enum trace_kind {
    TRACE_MALLOC = 0,
    TRACE_CALLOC,
    TRACE_REALLOC,
    TRACE_ALIGNED,
    TRACE_FREE,
    TRACE_KINDS,
};

/*
 * One operation. Objects are named by places of a table with nplaces entries: without by_thread a place is used again
 * when its object has been freed, so the table is as small as the program's peak; with it each object has its own.
 */
typedef struct trace_op {
    uint64_t size : 48;
    uint64_t kind : 4;
    uint64_t thread : 12; /* counted in the order of their first operations */
    uint32_t place;        /* the object that is made, or freed */
    uint32_t aux;         /* realloc: the place of the object that there was; aligned: log2 of the alignment */
} trace_op;

_Static_assert(sizeof(trace_op) == 16, "an operation takes 16 bytes");

typedef struct trace {
    trace_op *ops; /* in the order of the trace; by_thread: thread after thread, in the order of each */
    size_t nops;
    size_t ops_capacity;
    uint32_t nplaces;
    uint32_t nthreads;
    size_t *first; /* by_thread: thread t has the operations from first[t] to first[t + 1] */
    uint64_t kinds[TRACE_KINDS];
    uint64_t peak_bytes;   /* requested and live, at most; */
    uint64_t peak_objects; /* live at that moment, */
    size_t peak_op;        /* which is behind so many operations */
    uint64_t end_objects;  /* still live at the end */
    uint64_t limit_bytes;  /* what all tables together may take; */
    uint64_t bytes;        /* what they take */
} trace;

/*
 * Read a trace from a descriptor. t->limit_bytes is set, all else zero. 0; -1: ret_error has a message, with the
 * line's number if it is about one, and t is of no use.
 */
int trace_read(trace *t, int fd, bool by_thread, char *ret_error, size_t error_bytes);

/*
 * Memory for a table, zeroed and within t->limit_bytes; not from malloc, which is what is measured. It stays until the
 * process ends. table NULL: a new one. NULL: there is none, and the old one, if any, stays.
 */
void *trace_table(trace *t, void *table, size_t old_bytes, size_t bytes);

#endif
