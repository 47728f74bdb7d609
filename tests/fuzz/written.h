/*
 * Written: the memory that an input has written. Called by targets that share one heap among all their inputs.
 *
 * An input notes each place before it writes there, and written_zero() zeroes them all at its end: so the next input
 * begins with the same heap, without the cost of a new one. Data: a list of WRITTEN_MAX places, of the target.
 */
#ifndef GOALLOC_TESTS_WRITTEN_H
#define GOALLOC_TESTS_WRITTEN_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#define WRITTEN_MAX 1024u

static struct {
    void *at;
    size_t len;
} written[WRITTEN_MAX];
static size_t nwritten;

/* False: the list is full, and nothing may be written there. */
static inline bool written_note(void *at, size_t len)
{
    if (nwritten == WRITTEN_MAX)
        return false;
    written[nwritten].at = at;
    written[nwritten++].len = len;
    return true;
}

static inline void written_zero(void)
{
    for (size_t i = 0; i < nwritten; i++)
        memset(written[i].at, 0, written[i].len);
    nwritten = 0;
}

#endif
