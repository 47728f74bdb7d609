/*
 * main: goallocd-collector, the process that looks at others so that the library and the daemon need not. As a service
 * (service.c), or for one cycle: for people, who get a line, and for goalloc_collect(), which has started it and gets
 * the result as a record (client/lib/collectanswer.h).
 *
 * Exit status 0 if it has done what it was to do, 1 if not, and it says why, 2 for a wrong command line.
 *
 * Started by goalloc_collect(): it waits for a byte before it looks at anybody, since until then the process that has
 * started it may not have allowed it to (Yama). If that process dies before, it ends; afterwards it goes on to its end,
 * since what it frees nobody could reach.
 */
#include <errno.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "client/collector/collect.h"
#include "client/collector/options.h"
#include "client/collector/service.h"
#include "client/include/goalloc.h"
#include "client/lib/collectanswer.h"
#include "proto/servicelog.h"

#define BEGIN_WAIT_MS 60000

/*
 * What is given up before anything is looked at: all capabilities but those to trace, to read what others have mapped,
 * and as root to connect to the daemon's socket, whose mode does not name root.
 */
static int confine(void)
{
    struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
    const unsigned low = 1u << CAP_SYS_PTRACE | 1u << CAP_DAC_OVERRIDE | 1u << CAP_DAC_READ_SEARCH;
    const unsigned high = 1u << (CAP_CHECKPOINT_RESTORE - 32);

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || syscall(SYS_capget, &header, data) < 0)
        return -errno;
    if ((data[0].permitted & ~low) == 0 && (data[1].permitted & ~high) == 0) /* the unit's filter lacks the next one */
        return 0;
    data[0].permitted &= low;
    data[1].permitted &= high;
    data[0].effective = data[0].permitted;
    data[1].effective = data[1].permitted;
    data[0].inheritable = data[1].inheritable = 0;
    return syscall(SYS_capset, &header, data) < 0 ? -errno : 0;
}

/* Who has started this process has let it begin. */
static bool may_begin(void)
{
    struct pollfd p = { .fd = COLLECT_ANSWER_FD, .events = POLLIN };
    char byte;

    return poll(&p, 1, BEGIN_WAIT_MS) == 1 && recv(COLLECT_ANSWER_FD, &byte, 1, MSG_DONTWAIT) == 1;
}

static void answer(int error, const collect_result *result)
{
    const garbage *g = &result->garbage;
    collect_answer a = { .magic = COLLECT_ANSWER_MAGIC, .error = error, .pid = error < 0 ? result->trouble.pid : 0 };

    if (error == 0) {
        a.pause_us = (uint32_t)(result->pause_ns / 1000);
        a.garbage_objects = g->total.objects;
        a.garbage_bytes = g->total.bytes;
        a.freed_objects = g->freed.objects;
        a.freed_bytes = g->freed.bytes;
    }
    (void)send(COLLECT_ANSWER_FD, &a, sizeof(a), MSG_NOSIGNAL); /* who does not wait any more needs none */
}

static void print(int error, const collect_result *result)
{
    const garbage *g = &result->garbage;

    if (error < 0 && result->trouble.pid != 0)
        (void)fprintf(stderr, "goallocd-collector: pid %d: %s\n", (int)result->trouble.pid, result->trouble.text);
    else if (error < 0)
        (void)fprintf(stderr, "goallocd-collector: %s\n", result->trouble.text);
    else
        (void)printf(
            "%llu objects (%llu bytes) nobody can reach, freed %llu (%llu bytes); %u processes with %u threads "
            "stopped for %llu us\n",
            (unsigned long long)g->total.objects, (unsigned long long)g->total.bytes,
            (unsigned long long)g->freed.objects, (unsigned long long)g->freed.bytes, result->nprocesses,
            result->nthreads, (unsigned long long)result->pause_ns / 1000);
}

static int attach_to(const options *o, collect_result *ret)
{
    int r = collect_attach(o->socket_path, COLLECT_WAIT_MS);
    const char *why = goalloc_attach_error();

    if (r == 0 && o->heap_id != 0 && goalloc_heap_id() != o->heap_id) {
        r = -ESTALE;
        why = goalloc_strerror(r);
    }
    if (r < 0)
        (void)snprintf(ret->trouble.text, sizeof(ret->trouble.text), "%s", why);
    return r;
}

static int run_once(const options *o)
{
    const collect_options collecting = { .socket_path = o->socket_path,
                                         .flags = o->flags,
                                         .max_pause_ns = o->max_pause_ns,
                                         .waiter = o->waiter };
    collect_result result = { .nattempts = 0 };
    int r;

    if (o->answers && !may_begin())
        return EXIT_FAILURE;
    r = attach_to(o, &result);
    if (r == 0)
        r = collect_run(&collecting, &result);
    if (goalloc_heap_id() != 0)
        (void)goalloc_detach();
    if (o->answers)
        answer(r, &result);
    else
        print(r, &result);
    collect_end(&result);
    return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* A thread that is left in the kernel would be waited for by what runs at an exit, such as a look for leaks. */
static int end(int status)
{
    if (world_nstuck() == 0)
        return status;
    (void)fflush(NULL);
    _exit(status);
}

int main(int argc, char **argv)
{
    options o;
    int r;

    options_parse(&o, argc, argv);
    (void)setenv("GOALLOC_PROFILE", "off", 1); /* it allocates nothing, and a region of profiles would be in the way */
    r = confine();
    if (r < 0)
        servicelog_say(SERVICELOG_PRIVILEGES_KEPT, NULL, "it keeps privileges: %s", strerror(-r));
    if (o.once)
        return end(run_once(&o));
    r = service_run(&o);
    if (r < 0)
        servicelog_say(SERVICELOG_SERVICE_FAILED, NULL, "%s", strerror(-r));
    return end(r < 0 ? EXIT_FAILURE : EXIT_SUCCESS);
}
