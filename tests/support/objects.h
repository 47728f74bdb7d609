/*
 * Objects: what tests do with them over and over, and what the daemon says of them. For tests that use the library.
 */
#ifndef GOALLOC_TESTS_OBJECTS_H
#define GOALLOC_TESTS_OBJECTS_H

#include <jansson.h>
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
    static const char *const arguments[] = { "--json", "classes", NULL };
    static char out[65536];
    class_figures ret = { 0 };
    json_t *answer = NULL;
    json_t *row;
    size_t i;

    if (fixture_ctl(f, arguments, out, sizeof(out)) == 0)
        answer = json_loads(out, 0, NULL);
    CHECK(answer != NULL && json_is_array(json_object_get(answer, "classes")));
    json_array_foreach(json_object_get(answer, "classes"), i, row)
    {
        if (figure(row, "class") == class)
            ret = (class_figures){ figure(row, "spans"),      figure(row, "span_bytes"), figure(row, "live_objects"),
                                   figure(row, "live_bytes"), figure(row, "allocs"),     figure(row, "frees") };
    }
    json_decref(answer);
    return ret;
}

#endif
