/*
 * Points: the crash points of shm/crash.h, by who passes them.
 */
#ifndef GOALLOC_TESTS_SUPPORT_POINTS_H
#define GOALLOC_TESTS_SUPPORT_POINTS_H

#include <stddef.h>
#include <string.h>

#include "shm/crash.h"

/* The next point that these pass, a letter of CRASH_POINTS, from number *at on. NULL: none is left. */
static inline const char *points_next(char who, size_t *at)
{
#define POINT(name, letter) { #name, #letter },
    static const struct {
        const char *name;
        const char *who;
    } points[] = { CRASH_POINTS(POINT) };
#undef POINT

    while (*at < sizeof(points) / sizeof(points[0])) {
        size_t i = (*at)++;

        if (points[i].who[0] == who)
            return points[i].name;
    }
    return NULL;
}

/* The first point that these pass and no row has; rows begin with the name of theirs. NULL: the table has them all. */
static inline const char *points_missing(char who, const void *rows, size_t nrows, size_t row_bytes)
{
    const char *name;

    for (size_t at = 0; (name = points_next(who, &at)) != NULL;) {
        size_t i = 0;

        while (i < nrows && strcmp(*(const char *const *)((const char *)rows + i * row_bytes), name) != 0)
            i++;
        if (i == nrows)
            return name;
    }
    return NULL;
}

#endif
