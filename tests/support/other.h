/*
 * Other: a child process of another user than the daemon's, which only root can have; and what the daemon says of it.
 */
#ifndef GOALLOC_TESTS_OTHER_H
#define GOALLOC_TESTS_OTHER_H

#include <fcntl.h>
#include <grp.h>
#include <jansson.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/support/attach.h"

#define OTHER_UID 65534

/* How often text is in the daemon's log. */
static inline unsigned count_in_log(const fixture *f, const char *text)
{
    FILE *log = fopen(f->log, "re");
    char line[1200];
    unsigned n = 0;

    while (log != NULL && fgets(line, sizeof(line), log) != NULL)
        n += strstr(line, text) != NULL;
    if (log != NULL)
        (void)fclose(log);
    return n;
}

/* What goallocctl says of a limit of the other user's: "used", "refused". -1: it says nothing of it. */
static inline long long limit_of_other(const fixture *f, const char *limit, const char *field)
{
    static char text[1 << 16];
    json_t *all;
    json_t *row;
    size_t i;
    long long ret = -1;

    assert_int_equal(fixture_ctl(f, (const char *const[]){ "--json", "limits", NULL }, text, sizeof(text)), 0);
    all = json_loads(text, 0, NULL);
    json_array_foreach(json_object_get(all, "limits"), i, row)
    {
        const json_t *uid = json_object_get(row, "uid");

        if (uid != NULL && json_integer_value(uid) == OTHER_UID &&
            strcmp(json_string_value(json_object_get(row, "limit")), limit) == 0)
            ret = json_integer_value(json_object_get(row, field));
    }
    json_decref(all);
    return ret;
}

/* A child process: it says when it has done what it is for, and stays until it is told to end. */
typedef struct other {
    pid_t pid;
    int done;
    int leave;
} other;

static inline bool can_be_other(const fixture *f)
{
    return geteuid() == 0 && chmod(f->dir, 0755) == 0 && chmod(f->socket, 0666) == 0;
}

static inline void become_other(void)
{
    CHECK(setgroups(0, NULL) == 0 && setresgid(OTHER_UID, OTHER_UID, OTHER_UID) == 0 &&
          setresuid(OTHER_UID, OTHER_UID, OTHER_UID) == 0);
}

static inline other other_start(const fixture *f, void (*act)(const fixture *f))
{
    int done[2];
    int leave[2];
    char byte;
    other ret;

    assert_int_equal(pipe2(done, O_CLOEXEC) | pipe2(leave, O_CLOEXEC), 0);
    ret = (other){ fork(), done[0], leave[1] };
    if (ret.pid == 0) {
        (void)close(leave[1]);
        (void)alarm(120);
        become_other();
        act(f);
        CHECK(write(done[1], "x", 1) == 1);
        CHECK(read(leave[0], &byte, 1) == 0);
        _exit(0);
    }
    (void)close(done[1]);
    (void)close(leave[0]);
    if (read(ret.done, &byte, 1) != 1)
        fail_msg("the other user has failed");
    return ret;
}

/* One more user, who attaches, and leaves an object. */
static inline int attach_as_third(const fixture *f, void *arg)
{
    (void)arg;
    CHECK(setgroups(0, NULL) == 0 && setresuid(OTHER_UID - 1, OTHER_UID - 1, OTHER_UID - 1) == 0);
    must_attach(f, 0);
    CHECK(goalloc_malloc(10) != NULL);
    return goalloc_detach();
}

/* The other one does what it is for, and stays; the third one attaches all the same. Without root: skipped. */
static inline other other_start_beside_third(fixture *f, void (*act)(const fixture *f))
{
    other ret;

    if (!can_be_other(f)) {
        assert_true(fixture_stop(f));
        skip();
    }
    ret = other_start(f, act);
    assert_int_equal(child_run(f, attach_as_third, NULL), 0);
    return ret;
}

static inline void other_end(const other *o)
{
    (void)close(o->leave);
    (void)close(o->done);
    assert_int_equal(child_wait(o->pid), 0);
}

#endif
