/*
 * Record: which cache lines each thread writes and reads, told by instrumented code.
 */
#ifndef BENCH_LINES_RECORD_H
#define BENCH_LINES_RECORD_H

#include <stddef.h>
#include <stdint.h>

#define RECORD_THREADS_MAX 64u

/* What one thread has done with a line. */
typedef struct record_use {
    uint64_t line; /* address / 64; 0: none */
    uint64_t nwrites;
    uint64_t nreads;
    const void *writes_at; /* the code of its last write, NULL: none */
} record_use;

/* What all threads have done with a line. */
typedef struct record_line {
    uint64_t line;
    unsigned nwriters;
    unsigned nreaders; /* that do not write */
    uint64_t nwrites;
    const void *writes_at[2]; /* the code of two of the writers */
} record_line;

/* The calling thread is number thread from now on, and what it does counts; or it does not count any more. */
void record_begin(unsigned thread);
void record_end(void);

/*
 * The lines that any thread has written, when all have ended: sorted by the number of writers, then by writes. The
 * caller frees them. Returns how many.
 */
size_t record_lines(record_line **ret);

#endif
