/*
 * coredump: has a dying process's core dump hold what is in use of the heap, and no more (GOALLOC_ATTACH_DUMP).
 *
 * Called by attach.c with its turn, and by the kernel: the handlers. Reads process.map and the shared tables;
 * writes nothing but the kernel's marks on this process's mappings.
 *
 * All of the heap is MADV_DONTDUMP (mapping.c says why), and what is in use changes with each span. So a handler of
 * each signal that ends in a core dump by default looks it up at the last moment:
 *   1. The page map is read up to the end of what was ever handed out (zeroed_base of each heap arena; reading further
 *      would give memory to the map itself). A page counts if the span that it belongs to is not FREE.
 *   2. MADV_DODUMP for: these pages; their entries in the page map and in mspan_of; description, alloc, remote and kept
 *      bits of their spans; the header, and the tables of sessions, roots and heap arenas as far as they are used.
 *   3. The default action is put back, and the signal sent again to this thread with the information that came with it.
 *      It is blocked until the handler returns, and then kills: the registers, and what debuggers show as the cause,
 *      are those of the first time. To run the instruction again would not be enough: after a breakpoint, or a system
 *      call that seccomp has refused, the program would go on.
 *
 * Streams: each kind of thing in 2 is a stream of ranges, in the order of their addresses, neighbours being one. Each
 * end of a range costs a mapping, and vm.max_map_count (65530) bounds them. If a stream has more than RANGES_MAX
 * ranges, those with small gaps between them become one; "small" doubles until there are few enough ranges. But a gap
 * may have no memory, and the dump would give it some. So when the gaps came to more bytes than what is in use, "small"
 * stays as it was, and the ranges at the end, above RANGES_MAX, are left out.
 *
 * Spans, and in a read-only session arena and bitmap, come by read-only descriptors. To the kernel such mappings are
 * private ones of files, which /proc/PID/coredump_filter leaves out by default: with 0x37 they are in the dump.
 *
 * What the dump still gives memory to: those gaps; the rest of a system page that a table's entry lies on; and, with
 * commit lazy, pages of spans that nobody has touched. Pages that were released, and the reserve, belong to no span.
 *
 * What other processes write is bounded before use: a page map entry by the page that it is for, the ends of tables by
 * their sizes. If the daemon changes them meanwhile, a range more or less is dumped.
 *
 * Signals: the handler calls nothing but madvise, sigaction and two system calls without a function; all other signals
 * are blocked meanwhile, so a fault in it kills at once, with what has been marked so far. Two threads that fail at
 * the same time do the same work twice: the one that dies first has done all of it. After a stack overflow no handler
 * can run unless the program has a sigaltstack(): without one the heap is not in the dump. A handler that the program
 * had before the attach is left alone. One that it installs later takes the place of ours, and may call ours, as it may
 * call any handler that it finds; ours does not return to where the signal came from.
 *
 * A forked child has its parent's handlers, and marks its own mappings. After vfork() they are its parent's: if the
 * child fails there, the parent's marks stay, and its own dump, later, may hold pages that have been released since.
 */
#include "client/lib/coredump.h"

#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "client/lib/process.h"

#define RANGES_MAX 2048u /* of each stream */

static const int signals[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS, SIGTRAP, SIGQUIT, SIGXCPU, SIGXFSZ };

#define NSIGNALS (sizeof(signals) / sizeof(signals[0]))

/* What is dumped of one table, or of the arena: an entry for each page. */
typedef struct stream {
    uintptr_t base; /* of the entry of page 0 */
    uint64_t entry_bytes;
    uint64_t gap_bytes;      /* ranges that are no farther apart become one */
    uint64_t fair_gap_bytes; /* the largest of those tried that did not dump more gaps than entries */
    bool settled;            /* gap_bytes is final */
    bool marks;              /* this walk marks ranges; else it counts them */
    uintptr_t begin;         /* the range that grows: none while end is 0 */
    uintptr_t end;
    uint64_t nranges; /* before it */
    uint64_t used_bytes;
    uint64_t gaps_bytes; /* that lie in ranges */
} stream;

enum { STREAM_ARENA, STREAM_PAGE_MAP, STREAM_MSPAN_OF, STREAM_SPANS, STREAM_BITS, STREAM_KEPT, NSTREAMS };

static uintptr_t system_page_bytes; /* written before there are handlers */

static uintptr_t round_down(uintptr_t at)
{
    return at & ~(system_page_bytes - 1);
}

static uintptr_t round_up(uintptr_t at)
{
    return round_down(at + system_page_bytes - 1);
}

/* If it fails nothing can be done about it: less is dumped. */
static void mark(uintptr_t begin, uintptr_t end)
{
    (void)madvise((void *)begin, end - begin, MADV_DODUMP);
}

static void mark_table(const void *table, uint64_t bytes)
{
    mark(round_down((uintptr_t)table), round_up((uintptr_t)table + bytes));
}

/* --- streams --- */

static void stream_end_range(stream *s)
{
    if (s->end != 0 && s->nranges++ < RANGES_MAX && s->marks)
        mark(s->begin, s->end);
    s->end = 0;
}

/* The entry of a page, none of which comes before the last one. */
static void stream_add(stream *s, uint64_t page)
{
    uintptr_t begin = round_down(s->base + page * s->entry_bytes);
    uintptr_t end = round_up(s->base + (page + 1) * s->entry_bytes);

    if (s->end != 0 && begin > s->end + s->gap_bytes)
        stream_end_range(s);
    if (s->end == 0) {
        s->begin = s->end = begin;
    } else if (begin > s->end) {
        s->gaps_bytes += begin - s->end;
        s->end = begin;
    }
    if (end > s->end) {
        s->used_bytes += end - s->end;
        s->end = end;
    }
}

/* After a count of the ranges. True: there are too many, so count again with larger gaps. */
static bool stream_widen(stream *s)
{
    if (s->settled)
        return false;
    s->settled = s->nranges <= RANGES_MAX || s->gaps_bytes > s->used_bytes;
    if (s->gaps_bytes <= s->used_bytes)
        s->fair_gap_bytes = s->gap_bytes;
    if (s->settled)
        s->gap_bytes = s->fair_gap_bytes;
    else
        s->gap_bytes = s->gap_bytes == 0 ? system_page_bytes : 2 * s->gap_bytes;
    return !s->settled;
}

/* --- what is in use --- */

/* All pages of heap arena i that were ever handed out lie below this one. */
static uint64_t arena_npages(const shm_map *map, uint64_t i)
{
    uint64_t added = u64_load_relaxed(&map->heap_arenas[i].npages);
    uint64_t used = u32_load_relaxed(&map->heap_arenas[i].zeroed_base);

    added = added < SHM_HEAP_ARENA_PAGES ? added : SHM_HEAP_ARENA_PAGES;
    return used < added ? used : added;
}

static uint64_t heap_narenas(const shm_map *map)
{
    uint64_t n = 0;

    while (n < map->npages / SHM_HEAP_ARENA_PAGES && u64_load_relaxed(&map->heap_arenas[n].npages) != 0)
        n++;
    return n;
}

/* A span that is not FREE begins at first. */
static void add_span(stream *streams, const shm_span *span, uint64_t first)
{
    stream_add(&streams[STREAM_SPANS], first);
    stream_add(&streams[STREAM_BITS], first);
    if (span->nelems > SPAN_NELEMS_MAX / 2 && span_has_kept(span))
        stream_add(&streams[STREAM_KEPT], first);
}

static void walk_arena(stream *streams, const shm_map *map, uint64_t from, uint64_t to)
{
    uint64_t seen = 0; /* first page of the last span; 0 is none's */
    bool in_use = false;

    for (uint64_t page = from; page < to; page++) {
        uint64_t first = u32_load_acquire(&map->page_map[page]);

        if (first == 0 || first > page)
            continue;
        if (first != seen) {
            const shm_span *span = shm_span_at(map, page_at(first));

            in_use = lease_unpack(u64_load_acquire(&span->lease)).state != SPAN_FREE;
            seen = first;
            if (in_use && first == page) /* one that began in the last heap arena has been added there */
                add_span(streams, span, first);
        }
        if (in_use) {
            stream_add(&streams[STREAM_ARENA], page);
            stream_add(&streams[STREAM_PAGE_MAP], page);
            stream_add(&streams[STREAM_MSPAN_OF], page);
        }
    }
}

static void walk(stream *streams, const shm_map *map, bool marks)
{
    uint64_t narenas = heap_narenas(map);

    for (int i = 0; i < NSTREAMS; i++) {
        streams[i].marks = marks;
        streams[i].end = 0;
        streams[i].nranges = streams[i].used_bytes = streams[i].gaps_bytes = 0;
    }
    for (uint64_t i = 0; i < narenas; i++)
        walk_arena(streams, map, i * SHM_HEAP_ARENA_PAGES, i * SHM_HEAP_ARENA_PAGES + arena_npages(map, i));
    for (int i = 0; i < NSTREAMS; i++)
        stream_end_range(&streams[i]);
}

static void mark_tables(const shm_map *map)
{
    uint32_t nsessions = u32_load_relaxed(&map->header->nsession_entries);
    uint32_t nroots = u32_load_relaxed(&map->header->nroot_entries);

    mark_table(map->header, sizeof(*map->header));
    mark_table(map->sessions, (nsessions < SHM_SESSIONS_MAX ? nsessions : SHM_SESSIONS_MAX) * sizeof(*map->sessions));
    mark_table(map->roots, (nroots < SHM_ROOTS_MAX ? nroots : SHM_ROOTS_MAX) * sizeof(*map->roots));
    mark_table(map->heap_arenas, heap_narenas(map) * sizeof(*map->heap_arenas));
}

/* Steps 1 and 2. */
static void mark_in_use(const shm_map *map)
{
    stream streams[NSTREAMS] = {
        [STREAM_ARENA] = { .base = (uintptr_t)map->arena, .entry_bytes = PAGE_BYTES },
        [STREAM_PAGE_MAP] = { .base = (uintptr_t)map->page_map, .entry_bytes = sizeof(*map->page_map) },
        [STREAM_MSPAN_OF] = { .base = (uintptr_t)process.mspan_of, .entry_bytes = sizeof(*process.mspan_of) },
        [STREAM_SPANS] = { .base = (uintptr_t)map->span_table, .entry_bytes = sizeof(*map->span_table) },
        [STREAM_BITS] = { .base = (uintptr_t)map->bitmap, .entry_bytes = 256 },
        [STREAM_KEPT] = { .base = (uintptr_t)map->bitmap + map->npages * 256, .entry_bytes = 128 },
    };
    bool again = true;

    mark_tables(map);
    while (again) {
        again = false;
        walk(streams, map, false);
        for (int i = 0; i < NSTREAMS; i++)
            again = stream_widen(&streams[i]) || again;
    }
    walk(streams, map, true);
}

/* --- signals --- */

/* Step 3. If the kernel refuses both calls, a fault comes again by itself, and abort() goes on to its own end. */
static void kill_again(int sig, siginfo_t *info)
{
    struct sigaction action = { .sa_handler = SIG_DFL };
    pid_t pid = getpid();
    pid_t tid = (pid_t)syscall(SYS_gettid);

    (void)sigaction(sig, &action, NULL);
    if (syscall(SYS_rt_tgsigqueueinfo, pid, tid, sig, info) != 0)
        (void)syscall(SYS_tgkill, pid, tid, sig);
}

static void on_signal(int sig, siginfo_t *info, void *context)
{
    int saved_errno = errno;

    (void)context;
    if (u64_load_acquire(&process.arena_bytes) != 0) /* else the program has called a handler that it had found */
        mark_in_use(&process.map);
    kill_again(sig, info);
    errno = saved_errno;
}

void coredump_enable(void)
{
    struct sigaction ours = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK };
    struct sigaction now;

    system_page_bytes = (uintptr_t)sysconf(_SC_PAGESIZE);
    (void)sigfillset(&ours.sa_mask);
    for (size_t i = 0; i < NSIGNALS; i++) {
        if (sigaction(signals[i], NULL, &now) == 0 && now.sa_handler == SIG_DFL)
            (void)sigaction(signals[i], &ours, NULL);
    }
}

void coredump_disable(void)
{
    struct sigaction none = { .sa_handler = SIG_DFL };
    struct sigaction now;

    for (size_t i = 0; i < NSIGNALS; i++) {
        if (sigaction(signals[i], NULL, &now) == 0 && now.sa_flags & SA_SIGINFO && now.sa_sigaction == on_signal)
            (void)sigaction(signals[i], &none, NULL);
    }
}
