/*
 * process: which process this is, and what the kernel says of others.
 *
 * Called by block.c, and by _numpy_holders.c and _numpy_memory.c: it is in both modules. Of others it has no data: what
 * it says is in /proc/PID/stat. Without /proc, or of a process that is gone, all facts are 0: the caller asks kill()
 * first.
 *
 * A process whose first thread has ended is in state Z while its other threads live on, and holds what it held. So
 * state Z alone says nothing: only when no other thread is left (field 20 is 1, or 0 while it is taken apart) the
 * process has ended.
 *
 * The mark is drawn at the first call and kept on a page that forks wipe (MADV_WIPEONFORK): pids come again, getpid()
 * is a system call, and some forks call no handlers. Any thread may be the first; all get the same number.
 */
#include "process.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

/* Fields of /proc/PID/stat, as the manual numbers them; the name is 2. */
#define STAT_STATE 3
#define STAT_THREADS 20
#define STAT_START 22
#define STAT_STACK 28

/* What follows the name, which may hold anything: " S ppid ...". NULL: the process is gone, or there is no /proc. */
static const char *read_stat(pid_t pid, char *text, size_t size)
{
    char path[32];
    const char *p;
    ssize_t n;
    int fd;

    (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return NULL;
    n = read(fd, text, size - 1);
    (void)close(fd);
    text[n > 0 ? n : 0] = '\0';
    p = strrchr(text, ')');
    return p != NULL && p[1] != '\0' && p[2] != '\0' ? p + 1 : NULL;
}

process_facts process_look(pid_t pid)
{
    process_facts facts = { 0 };
    uint64_t nthreads = 0;
    char text[1024], *rest;
    const char *p = read_stat(pid, text, sizeof(text));

    if (p == NULL)
        return facts;
    const char state = p[1];
    p += 2;
    for (int field = STAT_STATE + 1; field <= STAT_STACK; field++, p = rest) {
        uint64_t value = strtoull(p, &rest, 10); /* some are negative, none of ours */

        if (rest == p)
            return (process_facts){ 0 };
        if (field == STAT_THREADS)
            nthreads = value;
        else if (field == STAT_START)
            facts.start = value;
        else if (field == STAT_STACK)
            facts.stack = value;
    }
    facts.has_ended = (state == 'Z' || state == 'X') && nthreads <= 1;
    return facts;
}

typedef _Atomic uint64_t mark_word;

static _Atomic(mark_word *) page; /* its first word is the mark; 0: not drawn yet */

static mark_word *page_of_mark(void)
{
    mark_word *none = NULL, *p = atomic_load_explicit(&page, memory_order_acquire);
    size_t size;
    void *mapped;

    if (p != NULL)
        return p;
    size = (size_t)sysconf(_SC_PAGESIZE);
    mapped = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED)
        return NULL;
    if (madvise(mapped, size, MADV_WIPEONFORK) < 0 || !atomic_compare_exchange_strong(&page, &none, mapped))
        (void)munmap(mapped, size);
    return atomic_load_explicit(&page, memory_order_acquire);
}

static uint64_t draw_mark(mark_word *word)
{
    uint64_t drawn = 0, none = 0;

    if (getrandom(&drawn, sizeof(drawn), GRND_NONBLOCK) != (ssize_t)sizeof(drawn))
        drawn = 0;
    drawn ^= (uint64_t)getpid() << 32;
    if (drawn == 0)
        drawn = 1;
    return atomic_compare_exchange_strong(word, &none, drawn) ? drawn : none;
}

uint64_t process_mark(void)
{
    mark_word *word = page_of_mark();
    uint64_t mark = word != NULL ? atomic_load_explicit(word, memory_order_relaxed) : (uint64_t)getpid();

    return mark != 0 ? mark : draw_mark(word);
}
