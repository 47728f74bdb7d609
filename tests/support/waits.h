/*
 * Waits: for tests of who waits for the daemon, and how long. For tests that use the library.
 */
#ifndef GOALLOC_TESTS_WAITS_H
#define GOALLOC_TESTS_WAITS_H

#include <errno.h>
#include <signal.h>
#include <time.h>

#include "tests/support/objects.h"

#define WAITS_HANG_S 60u /* what takes longer hangs */

#define WAITS_ASKED_BYTES (SHM_RUN_BYTES_MAX + 6 * PAGE_BYTES) /* of waits_ask(): a large object */

static inline int64_t waits_now_ms(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static inline void waits_sleep_ms(int64_t ms)
{
    struct timespec ts = { (time_t)(ms / 1000), (long)(ms % 1000) * 1000000L };

    (void)nanosleep(&ts, NULL);
}

/* In a child process: if it hangs, it is ended by SIGALRM. */
static inline void waits_not_for_ever(void)
{
    (void)alarm(WAITS_HANG_S);
}

/* Attach, with that time-out for each request. */
static inline int waits_attach(const fixture *f, int timeout_ms)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;

    options.socket_path = f->socket;
    options.timeout_ms = timeout_ms;
    return goalloc_attach(&options);
}

/*
 * In a child process: attach, and end instead of hanging. The time-out is for the requests that a test makes while the
 * daemon is away; on a busy machine an attach to one that serves may take longer.
 */
static inline void waits_start(const fixture *f, int timeout_ms)
{
    int r;

    waits_not_for_ever();
    while ((r = waits_attach(f, timeout_ms)) == -ETIMEDOUT)
        ;
    CHECK(r == 0);
}

/* Allocate an object that costs a request. Once it is freed its pages are cached, and the next one costs none. */
static inline void *waits_ask(void)
{
    return goalloc_malloc(WAITS_ASKED_BYTES);
}

/* In a child process: requests are answered. Leaves nothing, in the cache neither. */
static inline void waits_check_served(void)
{
    void *p = waits_ask();

    CHECK(p != NULL);
    goalloc_free(p);
    CHECK(goalloc_trim() == 0);
}

/* True if the daemon serves this process by then. The object is *ret's. */
static inline bool waits_served_within(int64_t ms, void **ret)
{
    int64_t end = waits_now_ms() + ms;

    while ((*ret = waits_ask()) == NULL && waits_now_ms() < end)
        waits_sleep_ms(2);
    return *ret != NULL;
}

/* The letter of a process's state in /proc; 0: there is no such process. */
static inline char waits_process_state(pid_t pid)
{
    char path[64];
    char line[512] = "";
    const char *end;
    FILE *file;

    (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    file = fopen(path, "re");
    if (file == NULL)
        return 0;
    end = fgets(line, sizeof(line), file) != NULL ? strrchr(line, ')') : NULL;
    (void)fclose(file);
    return end != NULL && end[1] == ' ' ? end[2] : '?';
}

/* Stop the daemon, from any process. It still listens: its kernel queue takes connections and requests. */
static inline void waits_stop_daemon(const fixture *f)
{
    (void)kill(f->daemon, SIGSTOP);
    while (waits_process_state(f->daemon) != 'T')
        waits_sleep_ms(1);
}

static inline void waits_continue_daemon(const fixture *f)
{
    (void)kill(f->daemon, SIGCONT);
}

/* Kill the daemon from a process that is not its parent, which is left to wait for it. */
static inline void waits_kill_daemon(const fixture *f)
{
    char state;

    (void)kill(f->daemon, SIGKILL);
    while ((state = waits_process_state(f->daemon)) != 'Z' && state != 0)
        waits_sleep_ms(1);
    fixture_await_gone(f); /* its first thread may be over before the others, which have its sockets */
}

/* In a child process: wait for a child of it, which must end well. */
static inline void waits_child_ends_well(pid_t pid)
{
    int status = -1;

    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
    if (status != 0)
        (void)fprintf(stderr, "the child has ended with status 0x%x\n", (unsigned)status);
    CHECK(status == 0);
}

#endif
