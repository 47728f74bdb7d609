/*
 * Backing: how pages get memory.
 *
 * Called by commit, in the thread pool. Calls hugepages, helper. Data: none; the caller has taken the pages, so nobody
 * else gives them memory or takes it away, but for clients, which can do both with pages that they have mapped.
 *
 *   1. whole blocks of 2 MiB: huge pages, where the system has them (hugepages.c)
 *   2. the rest: the helper's fallocate, which costs least (0.6 us for 4 KiB, and is zeroed later: zeroing.c)
 *   3. if a client holds the file's inode lock, so that the helper does not answer within 20 ms: MADV_POPULATE_WRITE on
 *      the daemon's mapping (2.1 us, zeroed, and 0.35 us to take the pages out of the daemon's page tables again, where
 *      they would count as its resident memory). It takes no lock of the file.
 *
 * What 1 and 3 wait for is a punch of the same pages by a client, which no client can draw out: it takes as long as the
 * kernel needs to free what is there. It is in the pool all the same, and commit.c sees to it that those who wait so
 * don't fill the pool.
 *
 * If the daemon dies, some pages have memory and others have none; no object lives in any of them.
 */
#include "daemon/memory/backing.h"

#include <errno.h>
#include <sys/mman.h>

#include "daemon/memory/helper.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define CALL_BYTES MIB /* while it lasts, nobody maps or unmaps in this process */

/* What MADV_POPULATE_WRITE does, on a kernel before 5.14. The value of nothing changes. */
static void touch(char *at, uint64_t len_bytes)
{
    for (uint64_t i = 0; i < len_bytes; i += SYSTEM_PAGE_BYTES)
        (void)u64_fetch_or_acq_rel((shm_u64 *)(void *)(at + i), 0);
}

static int populate(const heapfile *file, uint64_t from, uint64_t to)
{
    for (; from < to; from += CALL_BYTES) {
        char *at = file->map.arena + from;
        uint64_t len = to - from < CALL_BYTES ? to - from : CALL_BYTES;
        int error = madvise(at, len, MADV_POPULATE_WRITE) < 0 ? errno : 0;

        if (error == EINVAL)
            touch(at, len);
        (void)madvise(at, len, MADV_DONTNEED); /* out of the daemon's page tables, as in hugepages.c */
        if (error != 0 && error != EINVAL)
            return error == ENOSPC ? -ENOSPC : -ENOMEM; /* EFAULT, too, is a page that can't be had */
    }
    return 0;
}

static int commit_small(const heapfile *file, uint64_t from, uint64_t to, bool *zeroed)
{
    page_range range = { page_at(from / PAGE_BYTES), (to - from) / PAGE_BYTES };
    int r;

    if (from >= to)
        return 0;
    r = helper_fill(file->helper, range);
    *zeroed &= r == HELPER_E_BUSY;
    return r == HELPER_E_BUSY ? populate(file, from, to) : r;
}

int backing_commit(heapfile *file, page_no first, uint64_t npages, bool *ret_zeroed)
{
    uint64_t from = page_offset(first);
    uint64_t to = from + npages * PAGE_BYTES;
    uint64_t huge_from = (from + HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES;
    uint64_t huge_to = to / HUGE_BYTES * HUGE_BYTES;
    bool zeroed = true;
    int r = 0;

    if (huge_from < huge_to) {
        r = commit_small(file, from, huge_from, &zeroed);
        from = huge_from;
        if (r == 0)
            from += HUGE_BYTES * hugepages_commit(&file->huge, file->map.arena + huge_from,
                                                  (huge_to - huge_from) / HUGE_BYTES);
    }
    if (r == 0)
        r = commit_small(file, from, to, &zeroed);
    if (r == 0)
        *ret_zeroed = zeroed;
    return r;
}

/* Before Linux 5.14 nothing happens. */
static void populate_shared(void *from, uint64_t len_bytes)
{
    uintptr_t at = (uintptr_t)from & ~(uintptr_t)(SYSTEM_PAGE_BYTES - 1);

    (void)madvise((void *)at, (uintptr_t)from + len_bytes - at, MADV_POPULATE_WRITE);
}

void backing_commit_metadata(const heapfile *file, page_no first, uint64_t npages)
{
    populate_shared(file->map.bitmap + first.n * UINT64_C(256), npages * 256);
    populate_shared(&file->map.span_table[first.n], npages * sizeof(shm_span));
}
