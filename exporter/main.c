/*
 * main: one thread and one loop, which waits for HTTP, the daemon, signals and time, and never for one of them alone.
 * Exit status 0 after SIGTERM or SIGINT, 1 if it could not serve, 2 for a wrong command line.
 *
 * It starts whether the daemon is there or not: to say that it isn't is half of what it is for.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "exporter/confine.h"
#include "exporter/options.h"
#include "exporter/web.h"
#include "proto/ready.h"
#include "proto/servicelog.h"
#include "proto/serviceloop.h"

#define EXIT_COMMAND_LINE 2
#define DESCRIPTORS_BESIDES 64u /* that are no connections */

static void serve(web *w, cache *c, int signals)
{
    for (;;) {
        int64_t now_ms = serviceloop_clock_ms();
        int64_t web_ms = web_wakes_ms(w, now_ms);
        int64_t cache_ms = cache_wakes_ms(c, now_ms);
        struct pollfd fds[] = { { .fd = signals, .events = POLLIN },
                                { .fd = web_fd(w), .events = POLLIN },
                                { .fd = cache_fd(c), .events = POLLIN } };

        if (poll(fds, sizeof(fds) / sizeof(fds[0]),
                 serviceloop_wait_ms(web_ms < cache_ms ? web_ms : cache_ms, now_ms)) < 0 &&
            errno != EINTR)
            return;
        if (fds[0].revents != 0)
            return;
        now_ms = serviceloop_clock_ms();
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
    signals = serviceloop_open_signals();
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
