/*
 * Argtime: times on the command lines of programs that use argp: a number and a unit.
 */
#ifndef GOALLOC_PROTO_ARGTIME_H
#define GOALLOC_PROTO_ARGTIME_H

#include <stdbool.h>

/* Units besides ms, s and min. */
enum {
    ARGTIME_US = 1,
    ARGTIME_BARE = 2, /* none: seconds */
};

/* *ret: the time, counted in units of which `ms` are a millisecond. False: it is none, and *ret is untouched. */
bool argtime_parse(const char *arg, unsigned more_units, double ms, double *ret);

#endif
