/*
 * Hugepages: memory behind whole, aligned 2 MiB blocks of the arena in huge pages, where the system has them at hand.
 */
#ifndef GOALLOC_DAEMON_MEMORY_HUGEPAGES_H
#define GOALLOC_DAEMON_MEMORY_HUGEPAGES_H

#include "shm/atomics.h"
#include "shm/units.h"

#define HUGE_BYTES (2 * MIB)
#define HUGE_PAGES (HUGE_BYTES / PAGE_BYTES)

/* What is known of the system. All words are for any thread; none of them is shared with another process. */
typedef struct hugepages {
    shm_u32 never;         /* not wanted, or the system does not have them */
    shm_u32 worked;        /* they have been had at least once */
    shm_u32 trusted;       /* the last time went well */
    shm_u32 wait_s;        /* for how long they were not asked for after the last failure */
    shm_u64 not_before_ms; /* not to be asked for before */
} hugepages;

/*
 * Put memory behind nblocks whole blocks at file offset from_bytes of fd, which has them mapped at addr; both are
 * multiples of 2 MiB. Returns how many of them, from the first on, have memory now, in huge pages. Of the others some
 * may have got some; the caller calls fallocate for them, which is right in any case. Never waits for the OOM killer:
 * what the system can't give at once is a failure, after which nothing is tried for some seconds. From any thread.
 */
uint64_t hugepages_commit(hugepages *huge, int fd, char *addr, uint64_t from_bytes, uint64_t nblocks)
    __attribute__((warn_unused_result));

#endif
