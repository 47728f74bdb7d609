// clang-format off: it would fill the list's lines up
/*
 * pages: reads the memory of stopped processes. See pages.h.
 *
 * Called by looker.c, ranges.c, declaration.c and shared.c, in several threads, each with pages of its own. Data:
 * buffers, used for one process after another. What threads share: `given_up`, which world.c raises, and two words that
 * say what the kernel does not know; whoever finds that out sets them.
 *
 *   which pages   PAGEMAP_SCAN (Linux 6.7) names those that are present or swapped, without zero pages, guards and
 *                 unchanged pages of files; before, /proc/PID/pagemap is read, 8 bytes a page. Neither touches a page.
 *   their words   process_vm_readv() into a buffer that stays in the processor's cache, through the filter of words.c.
 *                 What the process itself may not read (PROT_NONE, execute only) comes from /proc/PID/mem. Swapped
 *                 pages come back, as if the process had read them.
 *   files         SEEK_DATA and pread(): a hole stays one.
 *
 * With each buffer the clock is looked at, and whether anybody still wants to know: so a pause ends in time.
 */
// clang-format on
#include "client/collector/pages.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "client/collector/grow.h"
#include "client/collector/proc.h"

#define ALIGNMENT 4096u
#define ENTRIES_AT_ONCE 8192u
#define VECTOR 1024u
#define IOV_AT_ONCE 64u

/* Of linux/fs.h since 6.7. */
#ifndef PAGEMAP_SCAN
#define PAGEMAP_SCAN _IOWR('f', 16, struct pm_scan_arg)
struct page_region {
    uint64_t start, end, categories;
};
struct pm_scan_arg {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
    uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
#define PAGE_IS_FILE (1 << 2)
#define PAGE_IS_PRESENT (1 << 3)
#define PAGE_IS_SWAPPED (1 << 4)
#define PAGE_IS_PFNZERO (1 << 5)
#endif
#define IS_GUARD (1 << 8) /* since 6.15 */

#define ENTRY_PRESENT (UINT64_C(1) << 63)
#define ENTRY_SWAPPED (UINT64_C(1) << 62)
#define ENTRY_FILE (UINT64_C(1) << 61)

uint64_t pages_bytes_each(void)
{
    return (uint64_t)sysconf(_SC_PAGESIZE);
}

int pages_init(pages *p)
{
    *p = (pages){ .map_fd = -1, .memory_fd = -1 };
    p->buffer = aligned_alloc(ALIGNMENT, PAGES_BUFFER);
    if (p->buffer == NULL)
        return -ENOMEM;
    memset(p->buffer, 0, PAGES_BUFFER);
    return 0;
}

void pages_deinit(pages *p)
{
    if (p->buffer == NULL)
        return;
    pages_close(p);
    free(p->buffer);
    free(p->regions);
    *p = (pages){ .map_fd = -1, .memory_fd = -1 };
}

int pages_open(pages *p, pid_t pid, uint64_t deadline_ns)
{
    char path[64];

    pages_close(p);
    p->pid = pid;
    p->deadline_ns = deadline_ns;
    p->unreadable = 0;
    (void)snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
    p->map_fd = open(path, O_RDONLY | O_CLOEXEC);
    return p->map_fd < 0 ? -errno : 0;
}

void pages_close(pages *p)
{
    if (p->map_fd >= 0)
        (void)close(p->map_fd);
    if (p->memory_fd >= 0)
        (void)close(p->memory_fd);
    p->map_fd = p->memory_fd = -1;
}

int pages_go_on(const pages *p)
{
    if (p->given_up != NULL && atomic_load_explicit(p->given_up, memory_order_relaxed))
        return -ECANCELED;
    return proc_now_ns() > p->deadline_ns ? -ETIMEDOUT : 0;
}

static int region_add(pages *p, uint64_t start, uint64_t end)
{
    pages_region *regions;

    if (p->nregions > 0 && p->regions[p->nregions - 1].end == start) {
        p->regions[p->nregions - 1].end = end;
        return 0;
    }
    regions = grow(p->regions, &p->regions_room, p->nregions + 1, 1024, sizeof(*regions));
    if (regions == NULL)
        return -ENOMEM;
    p->regions = regions;
    p->regions[p->nregions++] = (pages_region){ start, end };
    return 0;
}

/* -ENOTTY: the kernel does not know it. */
static int find_by_scan(pages *p, uint64_t start, uint64_t end)
{
    static _Atomic bool has_no_guards; /* the kernel's: the same for all */
    struct page_region found[VECTOR];
    int r = 0;

    while (start < end && r == 0) {
        uint64_t without = PAGE_IS_FILE | PAGE_IS_PFNZERO | (has_no_guards ? 0 : IS_GUARD);
        struct pm_scan_arg scan = { .size = sizeof(scan),
                                    .start = start,
                                    .end = end,
                                    .vec = (uint64_t)(uintptr_t)found,
                                    .vec_len = VECTOR,
                                    .category_inverted = without,
                                    .category_mask = without,
                                    .category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
                                    .return_mask = PAGE_IS_FILE }; /* never set: neighbours are one region */
        long n = ioctl(p->map_fd, PAGEMAP_SCAN, &scan);

        if (n < 0 && errno == EINVAL && !has_no_guards) {
            has_no_guards = true;
            continue;
        }
        if (n < 0)
            return errno == EINVAL || errno == ENOSYS ? -ENOTTY : -errno;
        for (long i = 0; i < n && r == 0; i++)
            r = region_add(p, found[i].start, found[i].end);
        if (scan.walk_end <= start)
            break;
        start = scan.walk_end;
        if (r == 0)
            r = pages_go_on(p);
    }
    return r;
}

static int find_by_entries(pages *p, uint64_t start, uint64_t end)
{
    uint64_t *entries = p->buffer;
    uint64_t page = pages_bytes_each();
    int r = 0;

    while (start < end && r == 0) {
        uint64_t wanted = (end - start) / page < ENTRIES_AT_ONCE ? (end - start) / page : ENTRIES_AT_ONCE;
        ssize_t n = pread(p->map_fd, entries, wanted * sizeof(*entries), (off_t)(start / page * sizeof(*entries)));

        if (n <= 0)
            return n < 0 ? -errno : 0;
        for (uint64_t i = 0; i < (uint64_t)n / sizeof(*entries) && r == 0; i++) {
            if ((entries[i] & (ENTRY_PRESENT | ENTRY_SWAPPED)) != 0 && (entries[i] & ENTRY_FILE) == 0)
                r = region_add(p, start + i * page, start + (i + 1) * page);
        }
        start += (uint64_t)n / sizeof(*entries) * page;
        if (r == 0)
            r = pages_go_on(p);
    }
    return r;
}

int pages_find(pages *p, uint64_t start, uint64_t end)
{
    static _Atomic bool has_no_scan; /* the same */
    int r = -ENOTTY;

    if (!has_no_scan)
        r = find_by_scan(p, start, end);
    if (r == -ENOTTY) {
        has_no_scan = true;
        r = find_by_entries(p, start, end);
    }
    return r;
}

/* Of a page that the process itself may not read. 0: it can't be read. */
static uint64_t read_by_file(pages *p, uint64_t from, void *to, uint64_t bytes)
{
    char path[64];
    ssize_t n;

    if (p->memory_fd < 0) {
        (void)snprintf(path, sizeof(path), "/proc/%d/mem", p->pid);
        p->memory_fd = open(path, O_RDONLY | O_CLOEXEC);
    }
    n = p->memory_fd < 0 ? 0 : pread(p->memory_fd, to, bytes, (off_t)from);
    return n < 0 ? 0 : (uint64_t)n;
}

uint64_t pages_read(const pages *p, uint64_t from, void *to, uint64_t bytes)
{
    struct iovec local = { to, bytes };
    struct iovec remote = { (void *)(uintptr_t)from, bytes };
    ssize_t n = process_vm_readv(p->pid, &local, 1, &remote, 1, 0);

    return n < 0 ? 0 : (uint64_t)n;
}

int pages_look(pages *p, words_found *w, const words_range *what, uint64_t start, uint64_t end)
{
    words_range at = *what;
    int r = 0;

    /* Only aligned words count. What is declared or left out may begin anywhere. */
    start = (start + sizeof(uint64_t) - 1) & ~(sizeof(uint64_t) - 1);
    end &= ~(sizeof(uint64_t) - 1);
    at.address = start;
    words_begin(w, &at);
    while (start < end && r == 0) {
        uint64_t wanted = end - start < PAGES_BUFFER ? end - start : PAGES_BUFFER;
        uint64_t n = pages_read(p, start, p->buffer, wanted) & ~(sizeof(uint64_t) - 1);

        if (n == 0) {
            uint64_t to_page = pages_bytes_each() - start % pages_bytes_each();

            wanted = wanted < to_page ? wanted : to_page;
            n = read_by_file(p, start, p->buffer, wanted) & ~(sizeof(uint64_t) - 1);
        }
        if (n == 0) { /* poisoned, or a marker of the kernel's: go on behind it */
            p->unreadable++;
            n = wanted;
            memset(p->buffer, 0, n);
        }
        words_add(w, p->buffer, n / sizeof(uint64_t));
        start += n;
        r = pages_go_on(p);
    }
    words_end(w);
    return r;
}

/* Look at the file's words from *at to stop, which are data. *at: where they end; before stop, if the file does. */
static int look_at_data(pages *p, words_found *w, int fd, uint64_t *at, uint64_t stop)
{
    int r = 0;

    while (*at < stop && r == 0) {
        uint64_t wanted = stop - *at < PAGES_BUFFER ? stop - *at : PAGES_BUFFER;
        ssize_t n = pread(fd, p->buffer, wanted, (off_t)*at);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno; /* not an end: what lies there may be a pointer */
        if (n == 0)
            break;
        words_add(w, p->buffer, (uint64_t)n / sizeof(uint64_t));
        *at += (uint64_t)n;
        r = pages_go_on(p);
    }
    return r;
}

int pages_look_at_file(pages *p, words_found *w, const words_range *what, int fd, uint64_t offset, uint64_t bytes)
{
    uint64_t at = offset, end = offset + bytes;

    while (at < end) {
        off_t data = lseek(fd, (off_t)at, SEEK_DATA);
        off_t hole = data < 0 ? -1 : lseek(fd, data, SEEK_HOLE);
        uint64_t stop = hole < 0 || (uint64_t)hole > end ? end : (uint64_t)hole;
        words_range range = *what;
        int r;

        if (data < 0) {
            if (errno == ENXIO)
                return 0; /* no more data */
            if (errno != EINVAL)
                return -errno;
            data = (off_t)at; /* a file system that does not tell */
            stop = end;
        }
        if ((uint64_t)data >= end)
            return 0;
        at = (uint64_t)data & ~(sizeof(uint64_t) - 1);
        range.address = what->address + (at - offset);
        words_begin(w, &range);
        r = look_at_data(p, w, fd, &at, stop);
        words_end(w);
        if (r < 0 || at < stop)
            return r;
    }
    return 0;
}
