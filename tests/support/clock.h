/*
 * Clock: the time, and how long a test goes on.
 */
#ifndef GOALLOC_TESTS_CLOCK_H
#define GOALLOC_TESTS_CLOCK_H

#include <stdint.h>
#include <stdlib.h>
#include <time.h>

static inline int64_t clock_now_ms(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* For how long kills go on: $GOALLOC_TEST_SECONDS, or what is given. */
static inline int64_t clock_test_ms(int64_t otherwise_ms)
{
    const char *given = getenv("GOALLOC_TEST_SECONDS");

    return given == NULL ? otherwise_ms : strtol(given, NULL, 10) * 1000;
}

#endif
