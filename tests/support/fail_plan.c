/*
 * Fail plan: the test's side of fail_calls.c: the file that both map, and the daemons that get the library.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/support/fail_calls.h"
#include "tests/support/fixture.h"

const char *const fail_calls_names[FAIL_CALLS] = {
    [FAIL_MALLOC] = "malloc",
    [FAIL_CALLOC] = "calloc",
    [FAIL_REALLOC] = "realloc",
    [FAIL_MMAP] = "mmap",
    [FAIL_FALLOCATE] = "fallocate",
    [FAIL_MADVISE] = "madvise",
    [FAIL_FTRUNCATE] = "ftruncate",
    [FAIL_MEMFD] = "memfd_create",
    [FAIL_OPEN] = "open",
    [FAIL_FCNTL] = "fcntl",
    [FAIL_READ] = "read",
    [FAIL_WRITE] = "write",
    [FAIL_SEND] = "send",
    [FAIL_SENDMSG] = "sendmsg",
    [FAIL_RECV] = "recv",
    [FAIL_RECVMSG] = "recvmsg",
    [FAIL_SOCKET] = "socket",
    [FAIL_ACCEPT] = "accept4",
    [FAIL_EPOLL_CREATE] = "epoll_create1",
    [FAIL_EPOLL_CTL] = "epoll_ctl",
    [FAIL_EPOLL_WAIT] = "epoll_wait",
    [FAIL_EVENTFD] = "eventfd",
    [FAIL_TIMERFD] = "timerfd",
    [FAIL_FORK] = "fork",
    [FAIL_THREAD] = "pthread_create",
    [FAIL_SYSCALL] = "syscall",
};

fail_plan *fail_plan_open(const char *dir)
{
    char path[128];
    void *map = MAP_FAILED;
    int fd;

    (void)snprintf(path, sizeof(path), "%s/plan", dir);
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd >= 0 && ftruncate(fd, sizeof(fail_plan)) == 0)
        map = mmap(NULL, sizeof(fail_plan), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd >= 0)
        (void)close(fd);
    if (map == MAP_FAILED || setenv(FAIL_CALLS_ENV, path, 1) < 0) {
        perror("a plan of calls that fail");
        exit(EXIT_FAILURE);
    }
    return map;
}

void fail_plan_preload(bool preload)
{
    fixture_preload(preload ? FAIL_CALLS_PATH : NULL);
}
