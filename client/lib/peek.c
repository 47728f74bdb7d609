/*
 * Peek: reads memory of this process that may not be there, without a signal.
 *
 * Called by backtrace.c, for stacks whose frames lead who knows where, and by modules.c. Data: none but what the kernel
 * has been found to do.
 *
 * rt_sigprocmask() reads its new mask before it looks at what to do with it. With an unknown operation it changes
 * nothing, and answers EFAULT if the mask is not readable, else EINVAL. So one call of 0.1 us says whether a page is
 * readable; it is asked for once a page, then the page is read. (process_vm_readv() reads and asks at once, but takes
 * 0.5 us, and sandboxes may forbid it.) If another thread unmaps the page between the two, the process is killed by its
 * own reading: the page was no stack of a living thread then, and it was unmapped within some nanoseconds.
 *
 * Whether it is so is tried out once, with an address that nobody can have. Where it isn't (an emulator), nothing but
 * what is known to be readable is read. Under Valgrind process_vm_readv() is taken: what it reads counts as defined, so
 * nobody is told that a stack is looked at whose frames are not all written.
 */
#include "client/lib/peek.h"

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "shm/atomics.h"

#if __has_include(<valgrind/valgrind.h>)
#include <valgrind/valgrind.h>
#else
#define RUNNING_ON_VALGRIND 0
#endif

#define PAGE ((uintptr_t)4096) /* the smallest that there is */
#define NOBODYS ((uintptr_t)16)
#define NO_OPERATION (~0)
#define KERNEL_SIGSET 8u

/* Other frames' words are nobody's variables to a sanitizer. */
#define UNCHECKED __attribute__((no_sanitize("address", "thread", "undefined"), noinline))

enum way {
    WAY_UNKNOWN = 0,
    WAY_PROBE,
    WAY_COPY, /* process_vm_readv() */
    WAY_NONE,
};

static shm_u32 way;

static bool probe(uintptr_t at)
{
    int before = errno;
    bool readable = syscall(SYS_rt_sigprocmask, NO_OPERATION, at, NULL, KERNEL_SIGSET) < 0 && errno == EINVAL;

    errno = before;
    return readable;
}

static bool copy(uintptr_t from, void *to, size_t bytes)
{
    struct iovec local = { to, bytes };
    struct iovec remote = { (void *)from, bytes };
    int before = errno;
    bool copied = process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == (ssize_t)bytes;

    errno = before;
    return copied;
}

static enum way find_way(void)
{
    enum way found = (enum way)u32_load_relaxed(&way);

    if (found == WAY_UNKNOWN) {
        if (RUNNING_ON_VALGRIND)
            found = WAY_COPY;
        else
            found = probe(NOBODYS) ? WAY_NONE : WAY_PROBE;
        u32_store_relaxed(&way, found);
    }
    return found;
}

static uintptr_t page_begin(uintptr_t at)
{
    return at & ~(PAGE - 1);
}

peek_room peek_room_of(const void *p)
{
    uintptr_t begin = page_begin((uintptr_t)p);

    return (peek_room){ .begin = begin, .end = find_way() == WAY_COPY ? begin : begin + PAGE };
}

/* The pages that these bytes lie in are readable: *room is theirs, or what it was extended by them. */
static bool extend(peek_room *room, uintptr_t from, size_t bytes)
{
    uintptr_t begin = page_begin(from);
    uintptr_t end = begin;

    while (end < from + bytes) {
        if ((end < room->begin || end >= room->end) && !probe(end))
            return false;
        end += PAGE;
    }
    if (begin > room->end || room->end == room->begin || begin < room->begin)
        room->begin = begin;
    room->end = end;
    return true;
}

UNCHECKED static void load_pair(uintptr_t from, uintptr_t ret[2])
{
    const volatile uintptr_t *words = (const volatile uintptr_t *)from;

    ret[0] = words[0];
    ret[1] = words[1];
}

UNCHECKED static void load_bytes(uintptr_t from, unsigned char *to, size_t bytes)
{
    const volatile unsigned char *at = (const volatile unsigned char *)from;

    for (size_t i = 0; i < bytes; i++)
        to[i] = at[i];
}

bool peek_pair(peek_room *room, uintptr_t from, uintptr_t ret[2])
{
    const size_t bytes = 2 * sizeof(uintptr_t);

    if (from < NOBODYS || from > UINTPTR_MAX - 2 * PAGE)
        return false;
    if (from < room->begin || from + bytes > room->end) {
        enum way how = find_way();

        if (how == WAY_COPY)
            return copy(from, ret, bytes);
        if (how != WAY_PROBE || !extend(room, from, bytes))
            return false;
    }
    load_pair(from, ret);
    return true;
}

bool peek(const void *from, void *to, size_t bytes)
{
    uintptr_t at = (uintptr_t)from;
    peek_room room = { 0, 0 };

    if (at < NOBODYS || at > UINTPTR_MAX - 2 * PAGE - bytes)
        return false;
    switch (find_way()) {
    case WAY_COPY:
        return copy(at, to, bytes);
    case WAY_PROBE:
        break;
    default:
        return false;
    }
    if (!extend(&room, at, bytes))
        return false;
    load_bytes(at, to, bytes);
    return true;
}
