/*
 * main: puts the daemon together: options, socket, heap, server. Exit status 0 after a clean stop, 1 if it could not
 * serve, 2 for a wrong command line.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "daemon/listen.h"
#include "daemon/log.h"
#include "daemon/options.h"
#include "daemon/server.h"

/* Two descriptors a client: take what the system allows. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
            log_warn("descriptor limit: %s", strerror(errno));
    }
}

int main(int argc, char **argv)
{
    static server srv;
    options o;
    listen_place place;
    heapfile file;
    mheap heap;
    int r;

    options_parse(&o, argc, argv);
    log_set_level(o.log_level);
    (void)signal(SIGPIPE, SIG_IGN);
    raise_descriptor_limit();

    r = listen_open(&place, o.socket_path);
    if (r < 0)
        return EXIT_FAILURE;
    r = heapfile_create(&file, o.base, o.reserve_bytes);
    if (r < 0) {
        log_error("cannot make the heap: %s", strerror(-r));
        goto out_listen;
    }
    r = mheap_init(&heap, &file, o.memory_limit_bytes);
    if (r < 0) {
        log_error("cannot set up the page heap: %s", strerror(-r));
        goto out_file;
    }
    r = server_run(&srv, place.fd, &heap,
                   &(server_options){ .eager_commit = o.eager_commit, .scavtrace = o.scavtrace });
    if (r < 0)
        log_error("cannot serve: %s", strerror(-r));
    mheap_end(&heap);
out_file:
    heapfile_close(&file);
out_listen:
    listen_close(&place);
    return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
