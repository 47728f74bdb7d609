/*
 * memory: measures what an allocator occupies, so that goalloc and peers count the same things: all resident memory
 * that is there because of the allocator and was not there before.
 *
 * Called by goalloc-replay.c for the baselines and by replay.c. No data but the caller's meter.
 *
 *   goalloc  pages of the arena that have memory (committed_bytes: leased, or free) and the physical memory of
 *            the spans and bitmap regions (metadata_bytes), both of the whole heap, above what they were after the
 *            attach. Of what is free (free_bytes) only what is more than was free then counts: a daemon keeps as much
 *            ready for whoever comes. And this process's anonymous memory (RssAnon) above what it was before the
 *            attach, which is the library's tables. What the arena's pages map to is counted once, as the heap's.
 *   peers    resident memory (VmHWM, which is reset by writing 5 to clear_refs) above what it was before the replay.
 *            The kernel remembers the peak, so one look at the end finds it.
 *
 * Not counted: the daemon's fixed memory, which was there before, and its list links (0.15% of the heap). The
 * replayer's tables are mapped and touched before the baseline. What is prepared anew after goallocctl scavenge was not
 * free then, so it counts.
 */
#include "client/replay/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "client/replay/backend.h"

#define STATUS_BYTES 8192

static uint64_t above(uint64_t value, uint64_t base)
{
    return value > base ? value - base : 0;
}

/* A field of /proc/self/status in kB, in bytes. */
static uint64_t status_bytes(const char *field)
{
    char text[STATUS_BYTES];
    int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    ssize_t n = read(fd, text, sizeof(text) - 1);
    const char *at;

    (void)close(fd);
    text[n > 0 ? n : 0] = '\0';
    at = strstr(text, field);
    return at == NULL ? 0 : strtoull(at + strlen(field), NULL, 10) * 1024;
}

#if BACKEND_IS_GOALLOC
#define STATUS_FIELD "\nRssAnon:"

/* What the heap occupies, and how much of that is free. */
static int heap_now(memory_meter *m, uint64_t *ret_bytes, uint64_t *ret_free, uint64_t *ret_rpcs)
{
    goalloc_stats_t stats = { .struct_size = sizeof(stats) };
    int r = goalloc_stats(&stats);

    if (r < 0)
        return r;
    m->nsamples++;
    *ret_bytes = stats.committed_bytes + stats.metadata_bytes;
    *ret_free = stats.free_bytes;
    *ret_rpcs = stats.session_rpcs;
    return 0;
}
#else
#define STATUS_FIELD "\nVmHWM:"

static int heap_now(memory_meter *m, uint64_t *ret_bytes, uint64_t *ret_free, uint64_t *ret_rpcs)
{
    (void)m;
    *ret_bytes = 0;
    *ret_free = 0;
    *ret_rpcs = 0;
    return 0;
}
#endif

void memory_begin_process(memory_meter *m)
{
    int fd = BACKEND_IS_GOALLOC ? -1 : open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);

    if (fd >= 0) {
        if (write(fd, "5", 1) != 1)
            errno = 0; /* then the peak includes what was there before the baseline */
        (void)close(fd);
    }
    *m = (memory_meter){ .private_base = status_bytes(STATUS_FIELD) };
}

/* CPU time of goallocd so far, of all its threads; 0 if $GOALLOC_BENCH_DAEMON does not say which process that is. */
static uint64_t daemon_ns(void)
{
    const char *pid = BACKEND_IS_GOALLOC ? getenv("GOALLOC_BENCH_DAEMON") : NULL;
    struct timespec ts = { 0, 0 };
    clockid_t id;

    if (pid != NULL && clock_getcpuclockid((pid_t)strtol(pid, NULL, 10), &id) == 0)
        (void)clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

int memory_begin_heap(memory_meter *m)
{
    int r = heap_now(m, &m->heap_base, &m->free_base, &m->rpcs_base);

    m->heap_base = above(m->heap_base, m->free_base);
    m->nsamples = 0;
    m->daemon_seen_ns = daemon_ns();
    return r;
}

int memory_sample(memory_meter *m)
{
    uint64_t heap_bytes;
    uint64_t free_bytes;
    uint64_t rpcs;
    int r;

    m->daemon_ns += daemon_ns() - m->daemon_seen_ns;
    r = heap_now(m, &heap_bytes, &free_bytes, &rpcs);
    m->daemon_seen_ns = daemon_ns();
    if (r < 0)
        return r;
    heap_bytes = above(heap_bytes, free_bytes < m->free_base ? free_bytes : m->free_base);
    m->last = (memory_use){ above(heap_bytes, m->heap_base), above(status_bytes(STATUS_FIELD), m->private_base) };
    if (m->last.heap_bytes + m->last.private_bytes >= m->peak.heap_bytes + m->peak.private_bytes)
        m->peak = m->last;
    if (m->last.heap_bytes > m->peak_heap_bytes)
        m->peak_heap_bytes = m->last.heap_bytes;
    m->rpcs = rpcs - m->rpcs_base - m->nsamples;
    return 0;
}
