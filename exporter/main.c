/*
 * main: one thread and one loop, which waits for HTTP, the daemon, signals and time, and never for one of them alone.
 * Exit status 0 after SIGTERM or SIGINT, 1 if it could not serve, 2 for a wrong command line.
 *
 * It starts whether the daemon is there or not: to say that it isn't is half of what it is for.
 */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "exporter/confine.h"
#include "exporter/options.h"
#include "exporter/web.h"
#include "proto/ready.h"
#include "proto/servicelog.h"

#define EXIT_COMMAND_LINE 2
#define DESCRIPTORS_BESIDES 64u /* that are no connections */

static int64_t clock_ms(void)
{
    struct timespec now = { 0 };

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* SIGTERM and SIGINT come by a descriptor. -errno. */
static int open_signals(void)
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

static int wait_ms(int64_t until_ms, int64_t now_ms)
{
    if (until_ms == INT64_MAX)
        return -1;
    return until_ms <= now_ms ? 0 : until_ms - now_ms > INT_MAX ? INT_MAX : (int)(until_ms - now_ms);
}

static void serve(web *w, cache *c, int signals)
{
    for (;;) {
        int64_t now_ms = clock_ms();
        int64_t web_ms = web_wakes_ms(w, now_ms);
        int64_t cache_ms = cache_wakes_ms(c, now_ms);
        struct pollfd fds[] = { { .fd = signals, .events = POLLIN },
                                { .fd = web_fd(w), .events = POLLIN },
                                { .fd = cache_fd(c), .events = POLLIN } };

        if (poll(fds, sizeof(fds) / sizeof(fds[0]), wait_ms(web_ms < cache_ms ? web_ms : cache_ms, now_ms)) < 0 &&
            errno != EINTR)
            return;
        if (fds[0].revents != 0)
            return;
        now_ms = clock_ms();
        web_run(w, now_ms);
        if (cache_step(c, now_ms))
            web_answer_all(w);
    }
}

int main(int argc, char **argv)
{
    static cache c;
    static web w;
    options o;
    int signals;
    int r;

    options_parse(&o, argc, argv);
    cache_init(&c, o.socket_path, o.cache_ms, o.timeout_ms, o.groups_max);
    signals = open_signals();
    if (signals < 0) {
        servicelog_say(SERVICELOG_SERVICE_FAILED, NULL, "signals: %s", strerror(-signals));
        return EXIT_FAILURE;
    }
    r = web_start(&w, &c, o.listen, o.connections, o.connection_timeout_ms);
    if (r < 0)
        return r == -EINVAL ? EXIT_COMMAND_LINE : EXIT_FAILURE;
    r = confine(o.connections + DESCRIPTORS_BESIDES);
    if (r < 0)
        servicelog_say(SERVICELOG_PRIVILEGES_KEPT, NULL, "it keeps privileges: %s", strerror(-r));
    servicelog_say(SERVICELOG_EXPORTER_STARTED, NULL, "%s/metrics", w.address);
    ready_tell("READY=1");
    serve(&w, &c, signals);
    ready_tell("STOPPING=1");
    web_stop(&w);
    cache_end(&c);
    return EXIT_SUCCESS;
}
