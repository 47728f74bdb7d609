/*
 * ranges: decides which memory of a process counts. See ranges.h.
 *
 * Called by looker.c: before the pause, for an estimate, and while all are stopped. Data: the list of one process.
 *
 *   the heap's three files              no: the heap's half looks there
 *   shared mappings of other files      all data of the file: shared.c
 *   private memory                      pages that have content of their own, whatever their protection is now
 *   with DECLARED_ONLY_ROOTS            of private memory only what is declared, stacks, thread-local storage and static
 *                                       data; of shared mappings those in which something is declared, whole
 *   the library's own tables (SKIP)     no; nor what the daemon shares with it
 *   a stack below its stack pointer     no, where that is sure: see below
 *   devices, memfd_secret()             nobody can look there: the process is opaque
 *   rings of an io_uring, of AIO        opaque too, unless the kernel is trusted
 *
 * Stacks. What lies below the stack pointer (and 128 bytes that leaf functions may use) is left from calls that have
 * returned, and would keep garbage alive. It is left out if the mapping is the process's first stack, or a thread's:
 * one that holds both stack pointer and thread pointer of a thread, follows a guard (memory without access of up to
 * GUARD_MAX bytes) and is no larger than the process's limit for stacks. A larger one may be a stack of the program's
 * own and data that the kernel has joined with it. Everything else that a stack pointer may lead to, coroutines' and
 * signals' stacks, counts whole. If several threads point into one mapping, the lowest decides.
 *
 * Static data is private memory of a file's mapping, and the anonymous mapping right behind a writable one (.bss), if
 * that does not begin with the file: so what lies behind another private file, such as the table of declarations, is
 * none.
 */
#include "client/collector/ranges.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "client/collector/grow.h"

#define RED_ZONE 128u
#define CLOCK_EACH 256u               /* mappings between two looks at the clock */
#define GUARD_MAX (UINT64_C(1) << 20) /* the rest of a malloc() arena, which has no access either, is larger */

void ranges_free(ranges *g)
{
    maps_free(&g->maps);
    declaration_free(&g->declared);
    free(g->pieces);
    free(g->points);
    *g = (ranges){ 0 };
}

static int piece_add(ranges *g, const ranges_piece *piece)
{
    ranges_piece *pieces;

    if (piece->start >= piece->end)
        return 0;
    pieces = grow(g->pieces, &g->room, g->n + 1, 256, sizeof(*pieces));
    if (pieces == NULL)
        return -ENOMEM;
    g->pieces = pieces;
    g->pieces[g->n++] = *piece;
    return 0;
}

static bool begins(const char *name, const char *with)
{
    return strncmp(name, with, strlen(with)) == 0;
}

/* The kernel's own pages: no file, and a name that it alone gives. */
static bool is_kernels(const maps_entry *entry)
{
    return entry->file.inode == 0 &&
           (begins(entry->name, "[v") || begins(entry->name, "[uprobes]") || begins(entry->name, "[sigpage]"));
}

static bool is_device(const maps_entry *entry)
{
    static const char *const memory[] = { "/dev/zero", "/dev/shm/", "/dev/hugepages/" };

    if (begins(entry->name, "anon_inode:"))
        return true;
    if (!begins(entry->name, "/dev/"))
        return false;
    for (size_t i = 0; i < sizeof(memory) / sizeof(memory[0]); i++) {
        if (begins(entry->name, memory[i]))
            return false;
    }
    return true;
}

/*
 * What the daemon shares with one session each, without pointers. Not in the table of what to skip: children don't have
 * these mappings, and may have something else there. A process that names a file of its own so hides what it shares.
 */
static bool is_the_daemons(const maps_entry *entry)
{
    static const char *const names[] = { "/memfd:goalloc-own (deleted)", "/memfd:goalloc-sign (deleted)",
                                         "/memfd:goalloc-profile (deleted)" };

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (entry->shared && strcmp(entry->name, names[i]) == 0)
            return true;
    }
    return false;
}

/* 0; 1: it is nothing to look at; -EOPNOTSUPP. */
static int is_hidden(const maps_entry *entry, pid_t pid, bool trust_kernel, world_trouble *ret)
{
    bool ring = begins(entry->name, "/[aio]") || begins(entry->name, "anon_inode:[io_uring]");

    if (is_kernels(entry) || is_the_daemons(entry))
        return 1;
    if (entry->file.inode == 0)
        return 0;
    if (ring && trust_kernel)
        return 1;
    if (ring)
        return trouble_is(ret, -EOPNOTSUPP, pid, "process %d has an %s, where the kernel may keep pointers", pid,
                          entry->name[0] == '/' ? "AIO context" : "io_uring");
    if (begins(entry->name, "/secretmem"))
        return trouble_is(ret, -EOPNOTSUPP, pid, "process %d has secret memory, which nobody else can read", pid);
    if (is_device(entry))
        return trouble_is(ret, -EOPNOTSUPP, pid, "process %d has a device mapped (%.100s), which can't be read", pid,
                          entry->name);
    return 0;
}

static bool holds(const maps_entry *entry, uint64_t address)
{
    return address >= entry->start && address < entry->end;
}

static int by_address(const void *a, const void *b)
{
    const ranges_point *left = a, *right = b;

    return left->address < right->address ? -1 : left->address > right->address;
}

/* Where the stack and thread pointers of the process's threads lead to. */
static int find_points(ranges *g, const targets *t, const target_process *process)
{
    ranges_point *points;
    uint32_t n = 0;

    g->npoints = g->point = 0;
    for (uint32_t i = process->last_thread; i != TARGET_NO_THREAD; i = t->threads[i].next)
        n += 2;
    points = grow(g->points, &g->points_room, n, 0, sizeof(*points));
    if (points == NULL && n > 0)
        return -ENOMEM;
    g->points = points;
    for (uint32_t i = process->last_thread; i != TARGET_NO_THREAD; i = t->threads[i].next) {
        if (t->threads[i].state != TARGET_STOPPED)
            continue;
        g->points[g->npoints++] = (ranges_point){ t->threads[i].leads.stack, i, true };
        g->points[g->npoints++] = (ranges_point){ t->threads[i].leads.thread, i, false };
    }
    if (g->npoints > 0)
        qsort(g->points, g->npoints, sizeof(*g->points), by_address);
    return 0;
}

static bool is_no_larger_than_a_stack(ranges *g, const maps_entry *entry, pid_t tid)
{
    if (g->stack_limit == 0)
        g->stack_limit = proc_stack_limit(tid);
    return entry->end - entry->start <= g->stack_limit;
}

/*
 * The thread whose stack lies in this mapping; 0: none's. *ret_start: what counts of it begins there. *ret_stack: the
 * stack pointer. *ret_thread: true if a thread pointer leads there. Mappings are asked about in order.
 */
static pid_t stack_in(ranges *g, const targets *t, uint32_t at, uint64_t *ret_start, uint64_t *ret_stack,
                      bool *ret_thread)
{
    const maps_entry *entry = &g->maps.entries[at];
    const maps_entry *before = at > 0 ? entry - 1 : NULL;
    bool guarded = before != NULL && before->end == entry->start && !before->accessible && before->file.inode == 0 &&
                   before->end - before->start <= GUARD_MAX;
    bool sure = strcmp(entry->name, "[stack]") == 0;
    uint64_t lowest = 0;
    uint32_t nstacks = 0;
    pid_t tid = 0;

    *ret_start = entry->start;
    *ret_thread = false;
    while (g->point < g->npoints && g->points[g->point].address < entry->start)
        g->point++;
    for (uint32_t i = g->point; i < g->npoints && g->points[i].address < entry->end; i++) {
        const target_thread *thread = &t->threads[g->points[i].thread];

        if (!g->points[i].stack) {
            *ret_thread = true;
            continue;
        }
        sure =
            sure || (guarded && holds(entry, thread->leads.thread) && is_no_larger_than_a_stack(g, entry, thread->tid));
        nstacks++;
        if (tid == 0) {
            lowest = thread->leads.stack;
            tid = thread->tid;
        }
    }
    if (tid != 0 && sure && lowest - entry->start > RED_ZONE)
        *ret_start = (lowest - RED_ZONE) & ~(uint64_t)7;
    *ret_stack = nstacks == 1 && tid == t->waiter ? UINT64_MAX : lowest;
    return tid;
}

/* The part of a piece that the library does not skip. */
static int add_without_skipped(ranges *g, ranges_piece piece)
{
    const declaration *d = &g->declared;
    uint64_t end = piece.end;
    int r = 0;

    for (uint32_t i = g->skip; i < d->nskip && r == 0 && piece.start < end; i++) {
        if (d->skip[i].end <= piece.start)
            continue;
        if (d->skip[i].start >= end)
            break;
        piece.end = d->skip[i].start;
        r = piece_add(g, &piece);
        piece.start = d->skip[i].end;
    }
    piece.end = end;
    return r == 0 ? piece_add(g, &piece) : r;
}

/* What is declared of this mapping. */
static int add_declared(ranges *g, ranges_piece whole)
{
    const declaration *d = &g->declared;
    int r = 0;

    for (uint32_t i = g->root; i < d->nroots && r == 0 && d->roots[i].start < whole.end; i++) {
        ranges_piece piece = whole;

        piece.start = d->roots[i].start > whole.start ? d->roots[i].start : whole.start;
        piece.end = d->roots[i].end < whole.end ? d->roots[i].end : whole.end;
        piece.kind = WORDS_DECLARED;
        r = piece_add(g, &piece);
    }
    return r;
}

static int choose_private(ranges *g, const targets *t, uint32_t at)
{
    const maps *m = &g->maps;
    const maps_entry *entry = &m->entries[at];
    const maps_entry *before = at > 0 ? &m->entries[at - 1] : NULL;
    bool bss = entry->file.inode == 0 && entry->name[0] == '\0' && before != NULL && before->end == entry->start &&
               before->file.inode != 0 && !before->shared && before->writable && before->offset != 0;
    ranges_piece piece = { .start = entry->start, .end = entry->end, .kind = WORDS_MEMORY, .name = entry->name };
    bool thread;

    piece.tid = stack_in(g, t, at, &piece.start, &piece.stack, &thread);
    if (piece.tid != 0)
        piece.kind = WORDS_STACK;
    else if (entry->file.inode != 0 || bss)
        piece.kind = WORDS_DATA;
    if (bss)
        piece.name = before->name;
    if (g->declared.only_roots && piece.kind == WORDS_MEMORY && !thread)
        return add_declared(g, piece);
    if (g->declared.only_roots && entry->file.inode != 0 && !entry->writable)
        return add_declared(g, piece);
    return add_without_skipped(g, piece);
}

static bool is_the_heaps(const targets *t, const maps_entry *entry)
{
    for (int i = 0; i < TARGETS_NFILES; i++) {
        if (maps_same_file(entry->file, t->files[i]))
            return true;
    }
    return false;
}

/* True if the library skips all of the mapping, as it does with what it shares with the daemon. */
static bool is_skipped(const ranges *g, const maps_entry *entry)
{
    const pages_region *first = g->declared.skip + g->skip;

    return g->skip < g->declared.nskip && first->start <= entry->start && first->end >= entry->end;
}

/* What is declared is sorted, and mappings come in order: what lies below this one is not looked at again. */
static void advance(ranges *g, const maps_entry *entry)
{
    const declaration *d = &g->declared;

    while (g->skip < d->nskip && d->skip[g->skip].end <= entry->start)
        g->skip++;
    while (g->root < d->nroots && d->roots[g->root].end <= entry->start)
        g->root++;
}

/* True if something is declared in that mapping, which the list has advanced to. */
static bool is_declared(const ranges *g, const maps_entry *entry)
{
    return g->root < g->declared.nroots && g->declared.roots[g->root].start < entry->end;
}

/* True if that shared mapping counts. */
static bool counts(const ranges *g, const targets *t, const maps_entry *entry)
{
    return !t->only_stop && (!g->declared.only_roots || is_declared(g, entry)) && !is_skipped(g, entry);
}

int ranges_choose_in(ranges *g, pages *p, shared *s, const targets *t, const target_process *process, bool trust_kernel,
                     world_trouble *ret)
{
    bool has_arena = false;
    int r;

    g->n = 0;
    g->skip = g->root = 0;
    g->stack_limit = 0;
    r = declaration_read(&g->declared, &g->maps, p);
    if (r == 0)
        r = find_points(g, t, process);
    if (r == 0 && g->declared.opaque)
        r = trouble_is(ret, -EOPNOTSUPP, process->pid,
                       "process %d has attached with GOALLOC_ATTACH_OPAQUE: it keeps pointers where nobody sees them",
                       process->pid);
    for (uint32_t i = 0; i < g->maps.n && r == 0; i++) {
        const maps_entry *entry = &g->maps.entries[i];

        advance(g, entry);
        has_arena |= maps_same_file(entry->file, t->files[TARGETS_ARENA]);
        if (is_the_heaps(t, entry))
            continue;
        r = is_hidden(entry, process->pid, trust_kernel, ret);
        if (r == 1)
            r = 0;
        else if (r == 0 && !entry->shared)
            r = choose_private(g, t, i);
        else if (r == 0 && counts(g, t, entry))
            r = shared_add(s, process->pid, p->pid, entry, ret);
        if (r == 0 && i % CLOCK_EACH == CLOCK_EACH - 1)
            r = pages_go_on(p);
    }
    if (r == -ETIMEDOUT)
        return trouble_is(ret, r, process->pid, "process %d has very many mappings", process->pid);
    /* It attaches just now, or the number is another process's: the session's own is in another pid namespace. */
    if (r == 0 && !has_arena && process->session != TARGET_NO_SESSION)
        r = trouble_is(ret, -EAGAIN, process->pid, "process %d has a session and not the heap (yet)", process->pid);
    return r == -ENOMEM ? trouble_is(ret, r, 0, "no memory") : r;
}

int ranges_choose(ranges *g, pages *p, shared *s, const targets *t, const target_process *process, bool trust_kernel,
                  world_trouble *ret)
{
    int r;

    g->maps.text.deadline_ns = p->deadline_ns;
    r = maps_read(&g->maps, p->pid);
    if (r == 0)
        return ranges_choose_in(g, p, s, t, process, trust_kernel, ret);
    g->n = 0;
    if (r == -ETIMEDOUT)
        return trouble_is(ret, r, process->pid, "process %d has very many mappings", process->pid);
    return trouble_is(ret, r == -ENOENT ? -ESRCH : r, process->pid, "the maps of process %d can't be read",
                      process->pid);
}

static int measure_piece(ranges *g, pages *p, uint32_t i)
{
    const ranges_piece *piece = &g->pieces[i];
    uint64_t page = pages_bytes_each();
    uint64_t start = piece->start & ~(page - 1), end = (piece->end + page - 1) & ~(page - 1);
    int r;

    p->nregions = 0;
    r = pages_find(p, start, end);
    for (uint32_t k = 0; k < p->nregions; k++) {
        pages_region *region = &p->regions[k];

        region->start = region->start > piece->start ? region->start : piece->start;
        region->end = region->end < piece->end ? region->end : piece->end;
        g->private_bytes += region->end > region->start ? region->end - region->start : 0;
    }
    return r;
}

int ranges_measure(ranges *g, pages *p)
{
    int r = 0;

    g->private_bytes = 0;
    for (uint32_t i = 0; i < g->n && r == 0; i++)
        r = measure_piece(g, p, i);
    return r;
}

int ranges_look(ranges *g, pages *p, words_found *w, pid_t pid)
{
    int r = 0;

    g->private_bytes = 0;
    for (uint32_t i = 0; i < g->n && r == 0; i++) {
        const ranges_piece *piece = &g->pieces[i];
        words_range what = { .pid = pid, .tid = piece->tid, .kind = piece->kind, .mapping = piece->name };
        uint64_t began = proc_now_ns(), found;

        r = measure_piece(g, p, i);
        found = proc_now_ns();
        w->text_from = piece->stack;
        for (uint32_t k = 0; k < p->nregions && r == 0; k++)
            r = pages_look(p, w, &what, p->regions[k].start, p->regions[k].end);
        g->pages_ns += found - began;
        g->read_ns += proc_now_ns() - found;
    }
    return r;
}
