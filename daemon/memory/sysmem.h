/*
 * Sysmem: how much memory the system would still give.
 */
#ifndef GOALLOC_DAEMON_MEMORY_SYSMEM_H
#define GOALLOC_DAEMON_MEMORY_SYSMEM_H

#include <stdbool.h>
#include <stdint.h>

/* What has been asked, and what has been committed since. Zeroed at the start. */
typedef struct sysmem {
    uint64_t left_bytes;
    uint64_t asked_ms;
} sysmem;

/*
 * Could bytes be committed? False: the system, or a memory cgroup that the daemon is in, has not so much to spare, and
 * fallocate would not say so but bring the OOM killer. The system is asked again after a second, and when what it had
 * is used up. Cost then: a few small files of /proc and /sys.
 */
bool sysmem_has(sysmem *mem, uint64_t bytes, uint64_t now_ms) __attribute__((warn_unused_result));

/* So much is going to be committed. */
void sysmem_spend(sysmem *mem, uint64_t bytes);

#endif
