/* memory_use: how much memory there is because of the allocator, at its peak. See memory_use.c. */
#ifndef BENCH_MEMORY_USE_H
#define BENCH_MEMORY_USE_H

#include <stdbool.h>
#include <stdint.h>

typedef struct memory_use {
    bool whole_heap; /* counts what processes share, too */
    uint64_t base_bytes;
    uint64_t peak_bytes;
} memory_use;

/* Take the baseline of this process; of the daemon and of its heap as well if whole_heap. */
void memory_use_begin(memory_use *m, bool whole_heap);
void memory_use_sample(memory_use *m);
/* At the samples, or between them where the kernel can tell; above the baseline. */
uint64_t memory_use_peak(const memory_use *m);

#endif
