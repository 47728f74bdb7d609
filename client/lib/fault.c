/*
 * Fault: messages of bad frees and broken objects, and the end. Called by alloc.c, resize.c and debug.c; calls nobody.
 * No stdio and no malloc: the heap of the process may be what is broken.
 */
#include "client/lib/fault.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void fault_die(const char *function, const void *p, const char *what)
{
    char line[320];
    int n = snprintf(line, sizeof(line), "%s(): %p: %s\n", function, p, what);

    if (n > 0 && write(STDERR_FILENO, line, (size_t)n < sizeof(line) ? (size_t)n : sizeof(line) - 1) < 0)
        abort();
    abort();
}

void fault_die_of(const char *function, const void *p, enum object_verdict verdict)
{
    switch (verdict) {
    case OBJECT_FREE:
        fault_die(function, p, "double free: the object is free already, or was never allocated");
    case OBJECT_INTERIOR:
        fault_die(function, p, "invalid pointer: inside an object, not its beginning");
    case OBJECT_NO_SPAN:
        fault_die(function, p, "invalid pointer: in the heap, but there is no object");
    default:
        fault_die(function, p,
                  process_is_mapped() ? "invalid pointer: not in the heap" : "invalid pointer: not attached to a heap");
    }
}
