/*
 * The names of the calls that fail_calls.c has fail, for messages of tests.
 */
#include "tests/support/fail_calls.h"

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
