/*
 * Sysmem: how much memory the system would still give.
 */
#ifndef GOALLOC_DAEMON_MEMORY_SYSMEM_H
#define GOALLOC_DAEMON_MEMORY_SYSMEM_H

#include <stdbool.h>
#include <stdint.h>

/* What the system said when it was asked last, less what has been committed since. Zeroed at the start. */
typedef struct sysmem {
    uint64_t left_bytes;
    uint64_t asked_ms;
} sysmem;

/*
 * True if the system, and each memory cgroup that the daemon is in, can spare so many bytes. It is asked again after a
 * second, and when what it had is used up; that costs the reading of some small files of /proc and /sys. coming_bytes
 * are being committed, so that the system does not count all of them yet.
 */
bool sysmem_has(sysmem *mem, uint64_t bytes, uint64_t coming_bytes, uint64_t now_ms)
    __attribute__((warn_unused_result));

/* The caller is about to commit so many bytes. */
void sysmem_spend(sysmem *mem, uint64_t bytes);

#endif
