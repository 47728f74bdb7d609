/*
 * Memory: how much the allocator occupies, compared with a baseline taken before the replay.
 */
#ifndef GOALLOC_REPLAY_MEMORY_H
#define GOALLOC_REPLAY_MEMORY_H

#include <stdint.h>

/* Bytes above the baseline. All differences stop at 0. */
typedef struct memory_use {
    uint64_t heap_bytes;    /* the shared heap: committed pages of the arena and metadata; peers: 0 */
    uint64_t private_bytes; /* this process: anonymous memory; peers: resident memory, always the highest so far */
} memory_use;

typedef struct memory_meter {
    uint64_t private_base;
    uint64_t heap_base; /* without what was free */
    uint64_t free_base;
    uint64_t rpcs_base;
    uint64_t nsamples; /* each costs a request of goalloc */
    memory_use peak;   /* the sample with the largest sum */
    memory_use last;
    uint64_t peak_heap_bytes; /* the largest of all samples, which may be another one */
    uint64_t rpcs;            /* requests up to the last sample, without those of the meter */
    uint64_t daemon_ns;       /* CPU time of the daemon up to the last sample, without what the samples took */
    uint64_t daemon_seen_ns;
} memory_meter;

/*
 * The baseline: of this process before the allocator is used at all (goalloc: before the attach), then of the heap.
 * 0, or -errno (of goalloc_stats()).
 */
void memory_begin_process(memory_meter *m);
int memory_begin_heap(memory_meter *m);

/* Look how much it is now. */
int memory_sample(memory_meter *m);

#endif
