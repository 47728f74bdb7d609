/*
 * Serviceloop: signals and time for a loop of one thread and one poll(). Called by the exporter and the collector.
 * Data: the process's mask of signals.
 */
#include "proto/serviceloop.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <time.h>

int64_t serviceloop_clock_ms(void)
{
    struct timespec now = { 0 };

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int serviceloop_open_signals(void)
{
    sigset_t set;
    int fd;

    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGINT);
    (void)signal(SIGPIPE, SIG_IGN);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
        return -errno;
    fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return fd < 0 ? -errno : fd;
}

int serviceloop_wait_ms(int64_t until_ms, int64_t now_ms)
{
    if (until_ms == INT64_MAX)
        return -1;
    return until_ms <= now_ms ? 0 : until_ms - now_ms > INT_MAX ? INT_MAX : (int)(until_ms - now_ms);
}
