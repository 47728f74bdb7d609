/*
 * Crash: kills the process at the point that $GOALLOC_CRASH names, which is read once, before main(). The count is in
 * memory that forked children share, so of a daemon's helpers, one after the other, one dies.
 */
#include "shm/crash.h"

#ifdef GOALLOC_CRASH_POINTS

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define NAME_BYTES 64

static char wanted[NAME_BYTES];
static _Atomic long *countdown;

__attribute__((constructor)) static void crash_init(void)
{
    const char *spec = getenv("GOALLOC_CRASH");
    size_t len = spec == NULL ? 0 : strcspn(spec, ":");

    if (len == 0 || len >= sizeof(wanted))
        return;
    countdown = mmap(NULL, sizeof(*countdown), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (countdown == MAP_FAILED)
        return;
    atomic_store(countdown, spec[len] == ':' ? strtol(spec + len + 1, NULL, 10) : 1);
    memcpy(wanted, spec, len);
}

void crash_here(const char *name)
{
    if (strcmp(name, wanted) == 0 && atomic_fetch_sub(countdown, 1) == 1)
        (void)raise(SIGKILL);
}

#endif
