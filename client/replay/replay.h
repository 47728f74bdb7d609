/*
 * Replay: the operations of a trace, carried out.
 */
#ifndef GOALLOC_REPLAY_REPLAY_H
#define GOALLOC_REPLAY_REPLAY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "client/replay/memory.h"
#include "client/replay/trace.h"

#define REPLAY_REPEAT_MAX 1000u

enum replay_touch {
    REPLAY_TOUCH_PAGES = 0, /* the first byte of each object, and of each page of it */
    REPLAY_TOUCH_ALL,
    REPLAY_TOUCH_NONE,
};

typedef struct replay_options {
    enum replay_touch touch;
    bool noscan;
    bool threads; /* a thread for each thread of the trace, which was read by_thread */
    uint32_t repeat;
    uint64_t sample_ops; /* a look at the memory each so many operations; 0: 256 in all */
} replay_options;

typedef struct replay_result {
    uint64_t ns[REPLAY_REPEAT_MAX]; /* of each repetition */
    uint32_t nrepeats;              /* that were completed */
    uint64_t usable_bytes;          /* at the peak of the bytes requested; 0 with threads */
    memory_meter meter;             /* meter.last: after all has been freed */
    /* If it failed: */
    int error;     /* errno value; 0: *interrupted was set */
    size_t op;     /* of the operation, in the order of the trace's array */
    bool in_stats; /* it was goalloc_stats() that failed */
} replay_result;

/* Memory for the objects of a trace, touched. NULL: there is none, see trace_table(). */
void *replay_table_new(trace *t);

/*
 * Replay t as often as options says; ret->meter has its baselines. Whatever happens, all objects are freed at the end.
 * 0; -1: ret->error says why. interrupted: somebody wants it to end.
 */
int replay_run(const trace *t, void *table, const replay_options *options, const atomic_bool *interrupted,
               replay_result *ret);

#endif
