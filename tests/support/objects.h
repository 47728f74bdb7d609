/*
 * Objects: what tests do with them over and over, and what the daemon says of them. For tests that use the library.
 */
#ifndef GOALLOC_TESTS_OBJECTS_H
#define GOALLOC_TESTS_OBJECTS_H

#include <jansson.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#include "shm/limits.h"
#include "tests/support/attach.h"

/* In a child process. One request. */
static inline goalloc_stats_t stats_now(void)
{
    goalloc_stats_t stats = { .struct_size = sizeof(stats) };

    CHECK(goalloc_stats(&stats) == 0);
    return stats;
}

/* In a child process: an object all of whose bytes are fill. */
static inline unsigned char *filled(size_t bytes, int fill)
{
    unsigned char *p = goalloc_malloc(bytes);

    CHECK(p != NULL);
    memset(p, fill, bytes);
    return p;
}

static inline bool all_are(const unsigned char *p, size_t bytes, int fill)
{
    return bytes == 0 || (p[0] == (unsigned char)fill && memcmp(p, p + 1, bytes - 1) == 0);
}

/* Wait until a child has stopped itself. False: it has ended instead. */
static inline bool child_stops(pid_t pid)
{
    int status;

    return waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status);
}

/* Run fn in a child process that stops itself. The child, stopped; ends the test program if it ends instead. */
static inline pid_t child_start_stopped(const fixture *f, child_fn fn, void *arg)
{
    pid_t pid = child_start(f, fn, arg);

    CHECK(child_stops(pid));
    return pid;
}

/* Put another daemon into the place of its own while a child is stopped, and let the child go on. */
static inline void child_meets_the_next_daemon(fixture *f, pid_t pid)
{
    fixture_kill(f);
    fixture_restart(f, NULL);
    (void)kill(pid, SIGCONT);
}

/* Run fn in a child process that stops itself once, when its daemon is replaced. Its exit status, or 1000 + signal. */
static inline int child_run_over_a_restart(fixture *f, child_fn fn, void *arg)
{
    pid_t pid = child_start_stopped(f, fn, arg);

    child_meets_the_next_daemon(f, pid);
    return child_wait(pid);
}

/* What `goallocctl --json COMMAND` says. The caller ends it with json_decref(). */
static inline json_t *json_by_ctl(const fixture *f, const char *command)
{
    const char *arguments[] = { "--json", command, NULL };
    static char out[1 << 18];
    json_t *answer = NULL;

    if (fixture_ctl(f, arguments, out, sizeof(out)) == 0)
        answer = json_loads(out, 0, NULL);
    CHECK(answer != NULL);
    return answer;
}

/* The row of that name in one of its lists, which lives as long as the answer. NULL: there is none. */
static inline json_t *json_row(json_t *answer, const char *list, const char *name)
{
    json_t *row;
    size_t i;

    json_array_foreach(json_object_get(answer, list), i, row)
    {
        if (strcmp(json_string_value(json_object_get(row, "name")), name) == 0)
            return row;
    }
    return NULL;
}

/* In a child process: hold a thousand small objects and a large one, and stop. */
static inline int hold_and_stop(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    for (int i = 0; i < 1000; i++)
        CHECK(goalloc_malloc(100) != NULL);
    CHECK(goalloc_malloc(100000) != NULL);
    (void)raise(SIGSTOP);
    return 0;
}

typedef struct class_figures {
    uint64_t spans, span_bytes, live_objects, live_bytes, allocs, frees;
} class_figures;

static inline uint64_t figure(json_t *object, const char *name)
{
    return (uint64_t)json_integer_value(json_object_get(object, name));
}

/* What `goallocctl --json classes` says of a size class (0: large). All 0: it is not named. */
static inline class_figures class_now(const fixture *f, uint32_t class)
{
    class_figures ret = { 0 };
    json_t *answer = json_by_ctl(f, "classes");
    json_t *row;
    size_t i;

    CHECK(json_is_array(json_object_get(answer, "classes")));
    json_array_foreach(json_object_get(answer, "classes"), i, row)
    {
        if (figure(row, "class") == class)
            ret = (class_figures){ figure(row, "spans"),      figure(row, "span_bytes"), figure(row, "live_objects"),
                                   figure(row, "live_bytes"), figure(row, "allocs"),     figure(row, "frees") };
    }
    json_decref(answer);
    return ret;
}

/*
 * True once no run is left, within 5 s. A process that dies between its free and its message to the daemon leaves an
 * empty run, which the daemon's next sweep finds.
 */
static inline bool runs_are_swept(const fixture *f)
{
    for (int i = 0; i < 500 && class_now(f, 0).spans != 0; i++)
        (void)usleep(10000);
    return class_now(f, 0).spans == 0;
}

#endif
