/*
 * Fail calls: a library that is preloaded into a daemon. Its functions stand before libc's; each counts its calls, and
 * one of them, as the plan says, fails with an error that the call may have. See fail_calls.h.
 *
 * Only the process into which it was loaded counts: a keeper is a fork of the daemon, and its calls are its own. Calls
 * that libc makes within itself do not come by here, but allocations of it do.
 */
#include "tests/support/fail_calls.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <unistd.h>

#define VISIBLE __attribute__((visibility("default")))

void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *p, size_t bytes);

/* What each fails with. */
static const int errors[FAIL_CALLS] = {
    [FAIL_MALLOC] = ENOMEM,       [FAIL_CALLOC] = ENOMEM,    [FAIL_REALLOC] = ENOMEM,
    [FAIL_MMAP] = ENOMEM,         [FAIL_FALLOCATE] = ENOSPC, [FAIL_MADVISE] = ENOMEM,
    [FAIL_FTRUNCATE] = ENOSPC,    [FAIL_MEMFD] = EMFILE,     [FAIL_OPEN] = EMFILE,
    [FAIL_FCNTL] = EMFILE,        [FAIL_READ] = EIO,         [FAIL_WRITE] = ENOSPC,
    [FAIL_SEND] = ENOBUFS,        [FAIL_SENDMSG] = ENOBUFS,  [FAIL_RECV] = ENOMEM,
    [FAIL_RECVMSG] = ENOMEM,      [FAIL_SOCKET] = EMFILE,    [FAIL_ACCEPT] = ENFILE,
    [FAIL_EPOLL_CREATE] = EMFILE, [FAIL_EPOLL_CTL] = ENOSPC, [FAIL_EPOLL_WAIT] = EINTR,
    [FAIL_EVENTFD] = EMFILE,      [FAIL_TIMERFD] = EMFILE,   [FAIL_FORK] = EAGAIN,
    [FAIL_THREAD] = EAGAIN,       [FAIL_SYSCALL] = EPERM,
};

static fail_plan *plan;
static pid_t loaded_into;

__attribute__((constructor)) static void map_plan(void)
{
    const char *path = getenv(FAIL_CALLS_ENV);
    int fd = path == NULL ? -1 : open(path, O_RDWR | O_CLOEXEC);
    void *map = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof(*plan), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    if (fd >= 0)
        (void)close(fd);
    loaded_into = getpid();
    if (map != MAP_FAILED)
        plan = map;
}

/* Counts a call. True: it is to fail, and errno says why. */
static bool fails(enum fail_call call)
{
    uint64_t n;
    uint64_t nth;
    uint64_t every;

    if (plan == NULL || u32_load_acquire(&plan->armed) == 0 || getpid() != loaded_into)
        return false;
    n = atomic_fetch_add_explicit(&plan->counts[call], 1, memory_order_relaxed) + 1;
    nth = u64_load_relaxed(&plan->nth);
    every = u64_load_relaxed(&plan->every);
    if (u32_load_relaxed(&plan->call) != call || nth == 0 || n < nth ||
        (n > nth && (every == 0 || (n - nth) % every != 0)))
        return false;
    u64_add_relaxed(&plan->nfailed, 1);
    errno = errors[call];
    return true;
}

/* libc's own function of that name. */
#define NEXT(name) ((__typeof__(&name))next(&next_##name, #name))

static void *next(_Atomic(void *) *cached, const char *name)
{
    void *function = atomic_load_explicit(cached, memory_order_acquire);

    if (function == NULL) {
        function = dlsym(RTLD_NEXT, name);
        atomic_store_explicit(cached, function, memory_order_release);
    }
    return function;
}

/* A function of libc's whose failure is an errno and that value; what it is called with stands in two lists. */
#define FAILING(call, type, failure, name, parameters, arguments)                                                      \
    static _Atomic(void *) next_##name;                                                                                \
    VISIBLE type name parameters                                                                                       \
    {                                                                                                                  \
        if (fails(call))                                                                                               \
            return failure;                                                                                            \
        return NEXT(name) arguments;                                                                                   \
    }

/* Sockets and files fail; what libuv wakes its loop by does not. */
static bool can_fail(int fd)
{
    struct stat st;
    int error = errno;
    bool can = plan != NULL && fstat(fd, &st) == 0 && (S_ISSOCK(st.st_mode) || S_ISREG(st.st_mode));

    errno = error;
    return can;
}

/* As FAILING, for a descriptor fd. */
#define FAILING_FD(call, type, failure, name, parameters, arguments)                                                   \
    static _Atomic(void *) next_##name;                                                                                \
    VISIBLE type name parameters                                                                                       \
    {                                                                                                                  \
        if (can_fail(fd) && fails(call))                                                                               \
            return failure;                                                                                            \
        return NEXT(name) arguments;                                                                                   \
    }

/* --- memory --- */

#ifndef FAIL_CALLS_LEAVES_MALLOC
static void tell_heap(void)
{
    if (plan == NULL || u32_load_acquire(&plan->ask_heap) == 0 || getpid() != loaded_into)
        return;
    u64_store_relaxed(&plan->heap_bytes, mallinfo2().uordblks + mallinfo2().hblkhd);
    u32_store_release(&plan->ask_heap, 0);
}

VISIBLE void *malloc(size_t bytes)
{
    return fails(FAIL_MALLOC) ? NULL : __libc_malloc(bytes);
}

VISIBLE void *calloc(size_t count, size_t bytes)
{
    tell_heap();
    return fails(FAIL_CALLOC) ? NULL : __libc_calloc(count, bytes);
}

VISIBLE void *realloc(void *p, size_t bytes)
{
    return fails(FAIL_REALLOC) ? NULL : __libc_realloc(p, bytes);
}
#endif

FAILING(FAIL_MMAP, void *, MAP_FAILED, mmap, (void *p, size_t bytes, int prot, int flags, int fd, off_t at),
        (p, bytes, prot, flags, fd, at))
FAILING(FAIL_MADVISE, int, -1, madvise, (void *p, size_t bytes, int advice), (p, bytes, advice))
FAILING(FAIL_FALLOCATE, int, -1, fallocate, (int fd, int mode, off_t at, off_t bytes), (fd, mode, at, bytes))
FAILING(FAIL_FTRUNCATE, int, -1, ftruncate, (int fd, off_t bytes), (fd, bytes))
FAILING(FAIL_MEMFD, int, -1, memfd_create, (const char *name, unsigned flags), (name, flags))

void *mmap64(void *p, size_t bytes, int prot, int flags, int fd, off_t at)
    __attribute__((alias("mmap"), visibility("default")));
int fallocate64(int fd, int mode, off_t at, off_t bytes) __attribute__((alias("fallocate"), visibility("default")));
int ftruncate64(int fd, off_t bytes) __attribute__((alias("ftruncate"), visibility("default")));

/* --- descriptors --- */

static _Atomic(void *) next_open;
static _Atomic(void *) next_fcntl;

VISIBLE int open(const char *path, int flags, ...)
{
    va_list args;
    mode_t mode;

    va_start(args, flags);
    mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(args, mode_t) : 0;
    va_end(args);
    return fails(FAIL_OPEN) ? -1 : NEXT(open)(path, flags, mode);
}

/* The argument is a word, whatever it is. */
VISIBLE int fcntl(int fd, int command, ...)
{
    va_list args;
    void *argument;

    va_start(args, command);
    argument = va_arg(args, void *);
    va_end(args);
    return fails(FAIL_FCNTL) ? -1 : NEXT(fcntl)(fd, command, argument);
}

int open64(const char *path, int flags, ...) __attribute__((alias("open"), visibility("default")));
int fcntl64(int fd, int command, ...) __attribute__((alias("fcntl"), visibility("default")));

FAILING_FD(FAIL_READ, ssize_t, -1, read, (int fd, void *data, size_t bytes), (fd, data, bytes))
FAILING_FD(FAIL_WRITE, ssize_t, -1, write, (int fd, const void *data, size_t bytes), (fd, data, bytes))
FAILING_FD(FAIL_WRITE, ssize_t, -1, writev, (int fd, const struct iovec *iov, int n), (fd, iov, n))
FAILING(FAIL_EVENTFD, int, -1, eventfd, (unsigned value, int flags), (value, flags))
FAILING(FAIL_TIMERFD, int, -1, timerfd_create, (int clock, int flags), (clock, flags))
FAILING(FAIL_TIMERFD, int, -1, timerfd_settime,
        (int fd, int flags, const struct itimerspec *value, struct itimerspec *old), (fd, flags, value, old))
FAILING(FAIL_EPOLL_CREATE, int, -1, epoll_create1, (int flags), (flags))
FAILING(FAIL_EPOLL_CTL, int, -1, epoll_ctl, (int epoll, int op, int fd, struct epoll_event *event),
        (epoll, op, fd, event))
FAILING(FAIL_EPOLL_WAIT, int, -1, epoll_wait, (int epoll, struct epoll_event *events, int n, int ms),
        (epoll, events, n, ms))
FAILING(FAIL_EPOLL_WAIT, int, -1, epoll_pwait,
        (int epoll, struct epoll_event *events, int n, int ms, const sigset_t *mask), (epoll, events, n, ms, mask))

/* --- sockets --- */

FAILING(FAIL_SOCKET, int, -1, socket, (int domain, int type, int protocol), (domain, type, protocol))
FAILING(FAIL_SOCKET, int, -1, socketpair, (int domain, int type, int protocol, int fds[2]),
        (domain, type, protocol, fds))
FAILING(FAIL_ACCEPT, int, -1, accept4, (int fd, struct sockaddr *address, socklen_t *bytes, int flags),
        (fd, address, bytes, flags))
FAILING(FAIL_SEND, ssize_t, -1, send, (int fd, const void *data, size_t bytes, int flags), (fd, data, bytes, flags))
FAILING(FAIL_SENDMSG, ssize_t, -1, sendmsg, (int fd, const struct msghdr *message, int flags), (fd, message, flags))
FAILING(FAIL_RECV, ssize_t, -1, recv, (int fd, void *data, size_t bytes, int flags), (fd, data, bytes, flags))
FAILING(FAIL_RECVMSG, ssize_t, -1, recvmsg, (int fd, struct msghdr *message, int flags), (fd, message, flags))

/* --- processes, threads, and what libc has no function for --- */

FAILING(FAIL_FORK, pid_t, -1, fork, (void), ())

static _Atomic(void *) next_pthread_create;

VISIBLE int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *data)
{
    return fails(FAIL_THREAD) ? EAGAIN : NEXT(pthread_create)(thread, attributes, run, data);
}

static _Atomic(void *) next_syscall;

/* A close, which libuv has done this way, does not fail. */
VISIBLE long syscall(long number, ...)
{
    va_list args;
    long a[6];

    va_start(args, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(args, long);
    va_end(args);
    return number != SYS_close && fails(FAIL_SYSCALL) ? -1 : NEXT(syscall)(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
