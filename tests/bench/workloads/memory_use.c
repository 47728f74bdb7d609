/*
 * memory_use: how much memory there is because of the allocator, in resident bytes above a baseline that is taken when
 * the workload's own arrays and threads are there and the allocator has not been used.
 *
 * Peers: the kernel's high-water mark of this process's resident set (reset at the baseline by writing 5 to
 * /proc/self/clear_refs; VmHWM at the end), less the resident set at the baseline.
 *
 * goalloc: the sum of
 *   - the physical memory of the daemon's memfds (st_blocks): arena, spans, bitmap; pages that are committed but were
 *     never written count, and so does what the daemon holds for other clients; but not what is free of the arena, up
 *     to the stock that a daemon keeps ready with or without a client (SHM_STOCK_PAGES): it is fixed cost,
 *   - the daemon's own private memory (RssAnon), and
 *   - this process's resident memory that is not shared (RssAnon + RssFile: tables of the library),
 * each above its value at the baseline, which is taken before the attach with a fresh daemon. There is no high-water
 * mark for such a sum, so it is sampled where it is highest: after the setup and at the end of the timed part (the
 * memfds retain what they had, but for what the scavenger has given back at 1% of a CPU). With several processes the
 * first one counts memfds and daemon, each one itself. The daemon is found through $GOALLOC_BENCH_DAEMON (its pid);
 * without it the memory is not counted.
 *
 * The kernel's RSS counters may be off by some 100 KiB on some versions: small figures mean little.
 */
#include "tests/bench/workloads/memory_use.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shm/limits.h"
#include "tests/bench/workloads/bench.h"

#if !defined(BENCH_SEGMENT)
/* The number after that name in /proc/PID/status, in bytes. */
static uint64_t status_bytes(const char *pid, const char *name)
{
    char path[64];
    char text[4096];
    const char *found;
    ssize_t n;
    int fd;

    (void)snprintf(path, sizeof(path), "/proc/%s/status", pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    if (n < 0)
        bench_die("cannot read /proc/PID/status");
    (void)close(fd);
    text[n] = '\0';
    found = strstr(text, name);
    return found == NULL ? 0 : strtoull(found + strlen(name), NULL, 10) * 1024;
}
#endif

#if defined(BENCH_GOALLOC)
/* Of what is free now, what the daemon would keep ready anyway. Before the attach nothing of the arena is in use. */
static uint64_t stock_bytes(bool attached, uint64_t arena_bytes)
{
    goalloc_stats_t stats = { .struct_size = sizeof(stats) };
    uint64_t free_bytes = arena_bytes;

    if (attached && goalloc_stats(&stats) < 0)
        bench_die("goalloc_stats");
    if (attached && stats.free_bytes < arena_bytes) /* it may have got its memory since that was looked at */
        free_bytes = stats.free_bytes;
    return free_bytes < SHM_STOCK_PAGES * PAGE_BYTES ? free_bytes : SHM_STOCK_PAGES * PAGE_BYTES;
}

/* Each memfd once, though the daemon has several descriptors of some; without the stock. */
static uint64_t memfds_bytes(const char *pid, bool attached)
{
    ino_t seen[16];
    unsigned nseen = 0;
    uint64_t bytes = 0;
    char path[64];
    DIR *dir;

    (void)snprintf(path, sizeof(path), "/proc/%s/fd", pid);
    dir = opendir(path);
    if (dir == NULL)
        bench_die("cannot look at the daemon's descriptors");
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        char link[64];
        ssize_t n = readlinkat(dirfd(dir), entry->d_name, link, sizeof(link) - 1);
        struct stat st;
        bool again = false;

        link[n > 0 ? n : 0] = '\0';
        if (strncmp(link, "/memfd:goalloc-", 15) != 0 || fstatat(dirfd(dir), entry->d_name, &st, 0) != 0)
            continue;
        for (unsigned i = 0; i < nseen; i++)
            again = again || seen[i] == st.st_ino;
        if (!again && nseen < 16) {
            seen[nseen++] = st.st_ino;
            bytes += (uint64_t)st.st_blocks * 512;
            if (strncmp(link, "/memfd:goalloc-arena", 20) == 0)
                bytes -= stock_bytes(attached, (uint64_t)st.st_blocks * 512);
        }
    }
    (void)closedir(dir);
    return bytes;
}

static uint64_t bytes_now(const memory_use *m, bool attached)
{
    const char *daemon = getenv("GOALLOC_BENCH_DAEMON");

    if (daemon == NULL)
        return 0;
    return status_bytes("self", "RssAnon:") + status_bytes("self", "RssFile:") +
           (m->whole_heap ? memfds_bytes(daemon, attached) + status_bytes(daemon, "RssAnon:") : 0);
}

void memory_use_begin(memory_use *m, bool whole_heap)
{
    m->whole_heap = whole_heap;
    m->base_bytes = bytes_now(m, false);
}

void memory_use_sample(memory_use *m)
{
    uint64_t bytes = bytes_now(m, true);

    if (bytes > m->peak_bytes)
        m->peak_bytes = bytes;
}

#elif defined(BENCH_SEGMENT)
/* Its segment has a fixed size: there is nothing to compare. */
void memory_use_begin(memory_use *m, bool whole_heap)
{
    m->whole_heap = whole_heap;
}

void memory_use_sample(memory_use *m)
{
    (void)m;
}

#else
void memory_use_begin(memory_use *m, bool whole_heap)
{
    int fd = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);

    if (fd < 0 || write(fd, "5", 1) != 1)
        bench_die("cannot reset the high-water mark");
    (void)close(fd);
    m->whole_heap = whole_heap;
    m->base_bytes = status_bytes("self", "VmRSS:");
}

void memory_use_sample(memory_use *m)
{
    m->peak_bytes = status_bytes("self", "VmHWM:");
}
#endif

uint64_t memory_use_peak(const memory_use *m)
{
    return m->peak_bytes > m->base_bytes ? m->peak_bytes - m->base_bytes : 0;
}
