/*
 * Stall: a client that holds the inode lock of one of the heap's files, as long as the test likes: a pwrite whose
 * source page does not come (userfaultfd).
 */
#ifndef GOALLOC_TESTS_STALL_H
#define GOALLOC_TESTS_STALL_H

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef struct stall {
    int uffd;
    int fd;
    off_t at;
    char *page;
    pthread_t thread;
} stall;

static inline void *stall_write(void *arg)
{
    const stall *s = arg;

    (void)!pwrite(s->fd, s->page, 8, s->at);
    return NULL;
}

/* Write to fd, 8 bytes at that offset, and don't come to an end. False: this process may not (no userfaultfd). */
static inline bool stall_begin(stall *ret, int fd, off_t at)
{
    struct uffdio_api api = { .api = UFFD_API };
    struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
    struct pollfd poll_fd = { .events = POLLIN };

    ret->fd = fd;
    ret->at = at;
    ret->uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (ret->uffd < 0)
        return false;
    ret->page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    reg.range = (struct uffdio_range){ (uintptr_t)ret->page, 4096 };
    if (ret->page == MAP_FAILED || ioctl(ret->uffd, UFFDIO_API, &api) < 0 ||
        ioctl(ret->uffd, UFFDIO_REGISTER, &reg) < 0 || pthread_create(&ret->thread, NULL, stall_write, ret) != 0)
        abort();
    poll_fd.fd = ret->uffd;
    while (poll(&poll_fd, 1, -1) != 1)
        ; /* it asks for the page: it has the lock */
    return true;
}

/* The page comes, and it writes zeroes. */
static inline void stall_end(stall *s)
{
    struct uffdio_zeropage zero = { .range = { (uintptr_t)s->page, 4096 } };

    if (ioctl(s->uffd, UFFDIO_ZEROPAGE, &zero) < 0)
        abort();
    (void)pthread_join(s->thread, NULL);
    (void)munmap(s->page, 4096);
    (void)close(s->uffd);
}

#endif
