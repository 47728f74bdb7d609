/*
 * kernelheld: what the kernel keeps for a process and will give back: words that stand in no memory of its. See
 * kernelheld.h.
 *
 * Called by looker.c. Data: buffers of the caller.
 *
 *   epoll      the data of each entry, from /proc/PID/fdinfo. One instance may be found in several processes.
 *   timers     the value that comes with the signal, from /proc/PID/timers.
 *   signals    on their way: registers.c asks for these.
 *   io_uring   user data of requests under way can't be seen: the process is opaque. (Its rings, and those of AIO, are
 *              found as mappings, too: ranges.c.)
 *
 * Not looked at: what was sent to a socket, pipe or queue and not received yet, futexes, and values of mq_notify().
 */
#include "client/collector/kernelheld.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CLOCK_EACH 64u /* descriptors between two looks at the clock, unless one is of many epoll entries */

void kernelheld_free(kernelheld *k)
{
    proc_text_free(&k->text);
    proc_list_free(&k->fds);
}

/* The value behind each name in the lines of a text: "data: 1f", "signal: 10/00001f". */
static void look_at_lines(words_found *w, const words_range *what, const char *text, const char *name, char before)
{
    for (const char *at = w != NULL ? strstr(text, name) : NULL; at != NULL; at = strstr(at, name)) {
        uint64_t value;

        at += strlen(name);
        if (before != '\0') {
            const char *slash = at + strcspn(at, "/\n");

            if (*slash != before)
                continue;
            at = slash + 1;
        }
        value = strtoull(at, NULL, 16);
        words_put(w, what, &value, 1);
    }
}

void kernelheld_look_at_fdinfo(words_found *w, const words_range *what, const char *text)
{
    look_at_lines(w, what, text, "data:", '\0');
}

void kernelheld_look_at_timers(words_found *w, const words_range *what, const char *text)
{
    look_at_lines(w, what, text, "signal:", '/');
}

static int look_at_epoll(kernelheld *k, words_found *w, pid_t pid, pid_t tid, pid_t fd)
{
    words_range what = { .address = (uint64_t)fd, .pid = pid, .kind = WORDS_EPOLL, .mapping = "epoll" };
    char name[48];
    int r;

    (void)snprintf(name, sizeof(name), "fdinfo/%d", fd);
    r = proc_read(&k->text, tid, name);
    k->text_bytes += k->text.bytes;
    if (r == 0)
        kernelheld_look_at_fdinfo(w, &what, k->text.text);
    return r == -ENOENT ? 0 : r; /* closed meanwhile */
}

static int look_at_timers(kernelheld *k, words_found *w, pid_t pid, pid_t tid)
{
    words_range what = { .pid = pid, .kind = WORDS_TIMER, .mapping = "timer" };
    int r = proc_read(&k->text, tid, "timers");

    k->text_bytes += k->text.bytes;
    if (r == 0)
        kernelheld_look_at_timers(w, &what, k->text.text);
    return r;
}

/* A kernel that was built without support for checkpoints does not. */
static bool kernel_tells_of_timers(kernelheld *k)
{
    return proc_read(&k->text, getpid(), "timers") != -ENOENT;
}

/* 0 or -errno; *ret_epoll. */
static int look_at_descriptor(int directory, pid_t fd, bool trust_kernel, bool *ret_epoll, pid_t pid,
                              world_trouble *ret)
{
    char name[16], link[64];
    ssize_t n;

    *ret_epoll = false;
    (void)snprintf(name, sizeof(name), "%d", fd);
    n = readlinkat(directory, name, link, sizeof(link) - 1);
    if (n < 0)
        return 0;
    link[n] = '\0';
    *ret_epoll = strcmp(link, "anon_inode:[eventpoll]") == 0;
    if (!trust_kernel && strcmp(link, "anon_inode:[io_uring]") == 0)
        return trouble_is(ret, -EOPNOTSUPP, pid, "process %d has an io_uring, where the kernel may keep pointers", pid);
    return 0;
}

static int look_at_descriptors(kernelheld *k, words_found *w, pid_t pid, pid_t tid, bool trust_kernel,
                               uint64_t deadline_ns, world_trouble *ret)
{
    char path[32];
    int directory, r;

    r = proc_list_read(&k->fds, tid, "fd");
    if (r < 0)
        return r == -ENOMEM ? r : trouble_is(ret, r, pid, "the descriptors of process %d can't be seen", pid);
    (void)snprintf(path, sizeof(path), "/proc/%d/fd", tid);
    directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0)
        return trouble_is(ret, -errno, pid, "the descriptors of process %d can't be seen", pid);
    for (size_t i = 0; i < k->fds.n && r == 0; i++) {
        bool epoll;

        r = look_at_descriptor(directory, k->fds.at[i], trust_kernel, &epoll, pid, ret);
        if (r == 0 && epoll)
            r = look_at_epoll(k, w, pid, tid, k->fds.at[i]);
        if (r == 0 && (epoll || i % CLOCK_EACH == CLOCK_EACH - 1) && proc_now_ns() > deadline_ns)
            r = trouble_is(ret, -ETIMEDOUT, pid, "process %d has very many descriptors", pid);
    }
    (void)close(directory);
    k->nfds += k->fds.n;
    return r;
}

int kernelheld_look(kernelheld *k, words_found *w, pid_t pid, pid_t tid, bool trust_kernel, uint64_t deadline_ns,
                    world_trouble *ret)
{
    int r;

    k->text.deadline_ns = deadline_ns;
    r = look_at_descriptors(k, w, pid, tid, trust_kernel, deadline_ns, ret);

    if (r == 0) {
        r = look_at_timers(k, w, pid, tid);
        if (r == -ENOENT && w == NULL)
            return 0; /* whether that matters is a question of the pause */
    }
    if (r == -ETIMEDOUT)
        return trouble_is(ret, r, pid, "process %d has very many descriptors, epoll entries or timers", pid);
    if (r == -ENOENT && !kernel_tells_of_timers(k))
        r = trust_kernel ? 0
                         : trouble_is(ret, -EOPNOTSUPP, pid,
                                      "this kernel does not tell of POSIX timers, such as "
                                      "process %d may have",
                                      pid);
    return r == -ENOMEM ? trouble_is(ret, r, 0, "no memory") : r;
}
