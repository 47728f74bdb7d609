/*
 * A module that is preloaded into a daemon, whose first $GOALLOC_TEST_FORKS_FAIL calls of fork() fail, as with a full
 * table of processes.
 */
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

__attribute__((visibility("default"))) pid_t fork(void)
{
    static long nfailed;
    const char *wanted = getenv("GOALLOC_TEST_FORKS_FAIL");
    pid_t (*next)(void);

    if (wanted != NULL && nfailed < atol(wanted)) {
        nfailed++;
        errno = EAGAIN;
        return -1;
    }
    *(void **)&next = dlsym(RTLD_NEXT, "fork");
    return next();
}
