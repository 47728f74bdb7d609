/*
 * Crash: kills the process at the point that $GOALLOC_CRASH names, which is read once, before main().
 */
#include "shm/crash.h"

#ifdef GOALLOC_CRASH_POINTS

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define NAME_BYTES 64

static char wanted[NAME_BYTES];
static _Atomic long countdown;

__attribute__((constructor)) static void crash_init(void)
{
    const char *spec = getenv("GOALLOC_CRASH");
    size_t len = spec == NULL ? 0 : strcspn(spec, ":");

    if (len == 0 || len >= sizeof(wanted))
        return;
    memcpy(wanted, spec, len);
    atomic_store(&countdown, spec[len] == ':' ? strtol(spec + len + 1, NULL, 10) : 1);
}

void crash_here(const char *name)
{
    if (strcmp(name, wanted) == 0 && atomic_fetch_sub(&countdown, 1) == 1)
        (void)raise(SIGKILL);
}

#endif
