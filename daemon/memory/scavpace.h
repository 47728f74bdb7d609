/*
 * Scavpace: how long the background scavenger sleeps so that it takes a hundredth of one CPU.
 */
#ifndef GOALLOC_DAEMON_MEMORY_SCAVPACE_H
#define GOALLOC_DAEMON_MEMORY_SCAVPACE_H

#include <stdint.h>

#define SCAVPACE_CPU_PERCENT 1u

typedef struct scavpace {
    int64_t owed_ns;  /* sleep that the work so far still owes; negative: it has slept more */
    uint64_t page_ns; /* what releasing a page costs, smoothed; 0: not known */
} scavpace;

/*
 * Pages to release next: about a millisecond of work, by what pages have cost so far, in units of 64 KiB (one unit
 * while no cost is known), and no more than npages.
 */
uint64_t scavpace_npages(const scavpace *pace, uint64_t npages);

/*
 * The scavenger has slept slept_ns since the work before, and then released npages (0: it found none) with work_ns of
 * CPU time. Returns how many ns to sleep now, at least 1 ms.
 */
uint64_t scavpace_worked(scavpace *pace, uint64_t npages, uint64_t work_ns, uint64_t slept_ns);

#endif
