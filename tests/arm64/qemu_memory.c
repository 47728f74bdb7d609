/*
 * madvise() for programs under qemu's user emulation, which answers 0 to most of it and does nothing (7.2); and
 * process_vm_readv(), which it does not know.
 *
 * It is linked into every program of the arm64 build, where its functions come before the C library's.
 *
 *   MADV_DONTFORK, MADV_WIPEONFORK, and what takes them back: the ranges are kept in a table, and the child of a fork
 *       unmaps and zeroes them before anything else runs in it. A library that finds its parent's private state in a
 *       child would take the parent's spans for its own.
 *   MADV_POPULATE_WRITE, MADV_COLLAPSE: EINVAL, as a kernel without them says. Who is told 0 believes that there is
 *       memory, or huge pages.
 *   all others: as they were.
 *
 * A table that is full says ENOMEM. munmap() takes ranges out of the table, since their addresses may be used again.
 *
 *   process_vm_readv(): from /proc/PID/mem. The addresses of a program are the emulator's own, so they are the same
 *       there.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_READ  22
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#define RANGES_MAX 16384u

typedef struct range {
    uintptr_t from;
    uintptr_t to;
    bool wipe; /* else unmap */
} range;

static range ranges[RANGES_MAX];
static size_t nranges;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* A system call as the kernel makes it: with errno negative. */
static long call(long n, long a, long b, long c, long d, long e, long f)
{
    register long x8 __asm__("x8") = n;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;

    __asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory", "cc");
    return x0;
}

static long with_errno(long r)
{
    if (r < 0 && r > -4096) {
        errno = (int)-r;
        return -1;
    }
    return r;
}

/* Take [from, to) out of what stands in the table. */
static void forget(uintptr_t from, uintptr_t to)
{
    size_t n = nranges;

    nranges = 0;
    for (size_t i = 0; i < n; i++) {
        range r = ranges[i];

        if (r.to <= from || to <= r.from) {
            ranges[nranges++] = r;
        } else if (r.from < from) { /* at most one range is cut in two, and loses its end then */
            ranges[nranges++] = (range){ r.from, from, r.wipe };
        } else if (to < r.to) {
            ranges[nranges++] = (range){ to, r.to, r.wipe };
        }
    }
}

/* --- forks --- */

static void before_fork(void)
{
    (void)pthread_mutex_lock(&lock);
}

static void in_parent(void)
{
    (void)pthread_mutex_unlock(&lock);
}

static void in_child(void)
{
    (void)pthread_mutex_init(&lock, NULL);
    for (size_t i = 0; i < nranges; i++) {
        if (ranges[i].wipe)
            (void)call(SYS_madvise, (long)ranges[i].from, (long)(ranges[i].to - ranges[i].from), MADV_DONTNEED, 0, 0,
                       0);
        else
            (void)call(SYS_munmap, (long)ranges[i].from, (long)(ranges[i].to - ranges[i].from), 0, 0, 0, 0);
    }
}

/* Before the constructors of any library: handlers run in the child in the order in which they were registered. */
static void begin(void)
{
    (void)pthread_atfork(before_fork, in_parent, in_child);
}

__attribute__((section(".preinit_array"), used)) static void (*const begin_early)(void) = begin;

/* It calls no handlers. */
pid_t _Fork(void)
{
    pid_t (*next)(void) = (pid_t(*)(void))dlsym(RTLD_NEXT, "_Fork");
    pid_t pid;

    before_fork();
    pid = next();
    if (pid == 0)
        in_child();
    else
        in_parent();
    return pid;
}

/* As the C library's, but for a clone() that is a fork. */
long syscall(long n, ...)
{
    long a[6];
    bool forks;
    long r;
    va_list args;

    va_start(args, n);
    for (unsigned i = 0; i < 6; i++)
        a[i] = va_arg(args, long);
    va_end(args);
    forks = n == SYS_clone && (a[0] & CLONE_VM) == 0;
    if (forks)
        before_fork();
    r = call(n, a[0], a[1], a[2], a[3], a[4], a[5]);
    if (forks && r == 0)
        in_child();
    else if (forks)
        in_parent();
    return with_errno(r);
}

/* --- memory --- */

static int advise_forks(uintptr_t from, uintptr_t to, int advice)
{
    int r = 0;

    (void)pthread_mutex_lock(&lock);
    forget(from, to);
    if (advice == MADV_DONTFORK || advice == MADV_WIPEONFORK) {
        if (nranges < RANGES_MAX)
            ranges[nranges++] = (range){ from, to, advice == MADV_WIPEONFORK };
        else
            r = -1;
    }
    (void)pthread_mutex_unlock(&lock);
    if (r < 0)
        errno = ENOMEM;
    return r;
}

int madvise(void *at, size_t len, int advice)
{
    switch (advice) {
    case MADV_DONTFORK:
    case MADV_DOFORK:
    case MADV_WIPEONFORK:
    case MADV_KEEPONFORK:
        return advise_forks((uintptr_t)at, (uintptr_t)at + len, advice);
    case MADV_POPULATE_READ:
    case MADV_POPULATE_WRITE:
    case MADV_COLLAPSE:
        errno = EINVAL;
        return -1;
    default:
        return (int)with_errno(call(SYS_madvise, (long)at, (long)len, advice, 0, 0, 0));
    }
}

int munmap(void *at, size_t len)
{
    long r;

    (void)pthread_mutex_lock(&lock);
    forget((uintptr_t)at, (uintptr_t)at + len);
    r = call(SYS_munmap, (long)at, (long)len, 0, 0, 0, 0);
    (void)pthread_mutex_unlock(&lock);
    return (int)with_errno(r);
}

/* --- others' memory --- */

/* Pieces of the same lengths on both sides, as all callers have them. */
ssize_t process_vm_readv(pid_t pid, const struct iovec *local, unsigned long nlocal, const struct iovec *remote,
                         unsigned long nremote, unsigned long flags)
{
    char path[32];
    ssize_t sum = 0;
    ssize_t n = 0;
    int fd;

    if (nlocal != nremote || flags != 0) {
        errno = EINVAL;
        return -1;
    }
    (void)snprintf(path, sizeof(path), "/proc/%d/mem", (int)pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        errno = errno == ENOENT ? ESRCH : EPERM;
        return -1;
    }
    for (unsigned long i = 0; i < nlocal; i++) {
        size_t bytes = local[i].iov_len < remote[i].iov_len ? local[i].iov_len : remote[i].iov_len;

        n = pread(fd, local[i].iov_base, bytes, (off_t)(uintptr_t)remote[i].iov_base);
        sum += n > 0 ? n : 0;
        if (n < (ssize_t)bytes)
            break;
    }
    (void)close(fd);
    if (sum == 0 && n < 0)
        errno = EFAULT;
    return sum == 0 && n < 0 ? -1 : sum;
}
