/*
 * Argtime: reads a time. Called by who has a command line: the services beside the daemon, and goallocctl. The daemon
 * takes times from a file, too, and reads them by itself (daemon/limits.c). Data: none.
 */
#include "proto/argtime.h"

#include <stdlib.h>
#include <string.h>

bool argtime_parse(const char *arg, unsigned more_units, double ms, double *ret)
{
    const struct {
        const char *unit;
        double each;
        bool counts;
    } units[] = { { "", ms * 1000, (more_units & ARGTIME_BARE) != 0 },
                  { "us", ms / 1000, (more_units & ARGTIME_US) != 0 },
                  { "ms", ms, true },
                  { "s", ms * 1000, true },
                  { "min", ms * 60000, true } };
    char *end;
    double value;

    if (arg[0] < '0' || arg[0] > '9')
        return false;
    value = strtod(arg, &end);
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        if (units[i].counts && strcmp(end, units[i].unit) == 0) {
            *ret = value * units[i].each;
            return true;
        }
    }
    return false;
}
