/*
 * Hugepages: memory behind whole, aligned 2 MiB blocks of the arena in huge pages, where the system has them at hand.
 */
#ifndef GOALLOC_DAEMON_MEMORY_HUGEPAGES_H
#define GOALLOC_DAEMON_MEMORY_HUGEPAGES_H

#include "shm/atomics.h"
#include "shm/units.h"

#define HUGE_BYTES (2 * MIB)
#define HUGE_PAGES (HUGE_BYTES / PAGE_BYTES)

/* What is known of the system. Any thread may use the words; none of them is shared with another process. */
typedef struct hugepages {
    shm_u32 never;         /* not wanted, or the system has none */
    shm_u32 worked;        /* at least one attempt has succeeded */
    shm_u32 trusted;       /* the last attempt succeeded */
    shm_u32 wait_s;        /* the pause after the last failure */
    shm_u64 not_before_ms; /* no attempt before that time */
} hugepages;

/*
 * Put huge pages behind the nblocks blocks of 2 MiB that are mapped at addr, which is a multiple of 2 MiB, as its
 * offset in the file is. Returns how many of the blocks, from the first on, have memory now; the caller sees to the
 * others, which may have got a part of theirs. This never waits for the OOM killer. From any thread.
 */
uint64_t hugepages_commit(hugepages *huge, char *addr, uint64_t nblocks)
    __attribute__((warn_unused_result));

#endif
