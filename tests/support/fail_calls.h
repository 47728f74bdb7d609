/*
 * Fail calls: a library that is preloaded into a daemon and has a call of its choice fail (fail_calls.c). A test
 * maps the same file, and says which call, and when.
 */
#ifndef GOALLOC_TESTS_FAIL_CALLS_H
#define GOALLOC_TESTS_FAIL_CALLS_H

#include "shm/atomics.h"

#define FAIL_CALLS_ENV "GOALLOC_FAIL_CALLS" /* the file's path */

/* The calls that can fail. fail_calls_names has their names. */
enum fail_call {
    FAIL_MALLOC,
    FAIL_CALLOC,
    FAIL_REALLOC,
    FAIL_MMAP,
    FAIL_FALLOCATE,
    FAIL_MADVISE,
    FAIL_FTRUNCATE,
    FAIL_MEMFD,
    FAIL_OPEN,
    FAIL_FCNTL,
    FAIL_READ,
    FAIL_WRITE,
    FAIL_SEND,
    FAIL_SENDMSG,
    FAIL_RECV,
    FAIL_RECVMSG,
    FAIL_SOCKET,
    FAIL_ACCEPT,
    FAIL_EPOLL_CREATE,
    FAIL_EPOLL_CTL,
    FAIL_EPOLL_WAIT,
    FAIL_EVENTFD,
    FAIL_TIMERFD,
    FAIL_FORK,
    FAIL_THREAD,
    FAIL_SYSCALL,
    FAIL_CALLS,
};

extern const char *const fail_calls_names[FAIL_CALLS];

/* The file. The test writes all but counts and nfailed, and armed last. */
typedef struct fail_plan {
    shm_u32 armed; /* 0: calls are neither counted nor failed */
    shm_u32 call;  /* enum fail_call */
    shm_u64 nth;   /* fails, counted from 1 since counts were zeroed; 0: none */
    shm_u64 every; /* so do those that come after it in such steps; 0: it alone */
    shm_u64 counts[FAIL_CALLS];
    shm_u64 nfailed;
    shm_u32 ask_heap;   /* set by the test: the next allocation stores heap_bytes and clears it */
    shm_u64 heap_bytes; /* that malloc has given out */
} fail_plan;

/* A new plan, in a file in dir. Exits the test program on failure. */
fail_plan *fail_plan_open(const char *dir);

/* Daemons that are started from now on get the library, or do not. */
void fail_plan_preload(bool preload);

#endif
