/*
 * Hugepages: MADV_COLLAPSE on the daemon's mapping of the arena.
 *
 * Called by backing_commit(), in the thread pool. Data: what is known of the system, in the heapfile; no shared words.
 *
 * A huge page costs the kernel 0.13 ms, clearing it included; 512 small ones cost 0.5 ms by fallocate, and the same
 * again in the client, a fault for each, where a huge page costs one fault of 10 us. Shared memory gets huge pages by
 * itself only if shmem_enabled says so, which it does nowhere by default; but MADV_COLLAPSE (Linux 6.1) asks for them
 * by name and works unless it says "deny" (or the process has them switched off by prctl, or the kernel has none).
 *
 *   1. MADV_POPULATE_WRITE gives each block its first 4 KiB: the kernel collapses no block without any page. (fallocate
 *      would wait for who holds the file's inode lock: holes.c.)
 *   2. One call collapses up to 8 MiB, since each call has every CPU give up the pages that it is about to list
 *      (lru_add_drain_all). As long as no attempt has succeeded, or after a failure, it is one block.
 *   3. MADV_DONTNEED takes the blocks out of the daemon's page tables, where they would count as its resident memory.
 *      Shared memory loses nothing by it: what the daemon reads there (tiny blocks' words) faults in anew.
 *
 * Clients map the arena at multiples of 64 MiB, so for them too each block is one entry of the page table.
 *
 * Failures: EINVAL before the first success means that it will never work. Every other error (ENOMEM: no free huge
 * page; EBUSY: no room in the memory cgroup; EAGAIN: pages that somebody looks at) means small pages for now, and no
 * attempt for 1 s, then 2, up to 16. For a huge page the kernel neither retries for long nor calls the OOM killer, for
 * the machine or for a cgroup, because the order is above PAGE_ALLOC_COSTLY_ORDER (tried: a full cgroup gives EBUSY).
 * A call that takes too much CPU time is a failure as well: the kernel may have to move pages to make a huge one, or
 * the host of a virtual machine to fault in a block of memory that was reported free (4 ms). That seldom changes while
 * a machine runs, and each attempt costs what 3000 small pages cost: so the next one is after 64 s, then 128, up to
 * 1024.
 *
 * Releasing part of a huge page splits it, and the rest stays. Nobody has to know which pages are huge.
 */
#include "daemon/memory/hugepages.h"

#include <errno.h>
#include <sys/mman.h>
#include <time.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define CALL_BLOCKS   4u
#define WAIT_S_MIN    1u
#define WAIT_S_MAX    16u
#define SLOW_S_MIN    64u
#define SLOW_S_MAX    1024u
#define BLOCK_NS_SLOW UINT64_C(1000000) /* what 2 MiB of small pages cost daemon and client together */

static uint64_t clock_ns(clockid_t id)
{
    struct timespec ts = { 0, 0 };

    (void)clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static void note_failure(hugepages *huge, bool slow)
{
    uint32_t least = slow ? SLOW_S_MIN : WAIT_S_MIN;
    uint32_t most = slow ? SLOW_S_MAX : WAIT_S_MAX;
    uint32_t wait_s = u32_load_relaxed(&huge->wait_s) * 2;

    wait_s = wait_s < least ? least : wait_s < most ? wait_s : most;
    u32_store_relaxed(&huge->trusted, 0);
    u32_store_relaxed(&huge->wait_s, wait_s);
    u64_store_relaxed(&huge->not_before_ms, clock_ns(CLOCK_MONOTONIC) / 1000000 + wait_s * UINT64_C(1000));
}

/* True if huge pages are worth an attempt: the last one succeeded, or its failure is long enough ago. */
static bool is_worth_trying(const hugepages *huge)
{
    return u32_load_relaxed(&huge->never) == 0 &&
           (u32_load_relaxed(&huge->trusted) != 0 ||
            clock_ns(CLOCK_MONOTONIC) / 1000000 >= u64_load_relaxed(&huge->not_before_ms));
}

/* True if all of the blocks have memory now. */
static bool collapse(hugepages *huge, char *addr, uint64_t nblocks)
{
    uint64_t start = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    uint64_t len = nblocks * HUGE_BYTES;
    int error;

    for (uint64_t i = 0; i < nblocks; i++) {
        if (madvise(addr + i * HUGE_BYTES, SYSTEM_PAGE_BYTES, MADV_POPULATE_WRITE) < 0)
            return false; /* the caller will find out why */
    }
    error = madvise(addr, len, MADV_COLLAPSE) < 0 ? errno : 0;
    (void)madvise(addr, len, MADV_DONTNEED);
    if (error == EINVAL && u32_load_relaxed(&huge->worked) == 0) {
        u32_store_relaxed(&huge->never, 1);
        return false;
    }
    if (error != 0 || clock_ns(CLOCK_THREAD_CPUTIME_ID) - start > nblocks * BLOCK_NS_SLOW) {
        note_failure(huge, error == 0);
        return error == 0;
    }
    u32_store_relaxed(&huge->worked, 1);
    if (u32_load_relaxed(&huge->trusted) != 0)
        u32_store_relaxed(&huge->wait_s, 0);
    u32_store_relaxed(&huge->trusted, 1);
    return true;
}

uint64_t hugepages_commit(hugepages *huge, char *addr, uint64_t nblocks)
{
    uint64_t done = 0;

    while (done < nblocks && is_worth_trying(huge)) {
        uint64_t n = u32_load_relaxed(&huge->trusted) == 0 ? 1 : CALL_BLOCKS;

        if (n > nblocks - done)
            n = nblocks - done;
        if (!collapse(huge, addr + done * HUGE_BYTES, n))
            break;
        done += n;
    }
    return done;
}
