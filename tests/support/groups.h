/*
 * Groups: sessions of groups, for tests of what is whose.
 */
#ifndef GOALLOC_TESTS_GROUPS_H
#define GOALLOC_TESTS_GROUPS_H

#include <grp.h>
#include <signal.h>
#include <sys/stat.h>

#include "tests/support/objects.h"

#define NOBODY 65534

static inline int attach_as(const fixture *f, uint32_t flags, const char *group)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;

    options.socket_path = f->socket;
    options.flags = flags;
    options.group = group;
    return goalloc_attach(&options);
}

/* Wait until so many objects live. */
static inline void assert_comes_to(const fixture *f, uint64_t nobjects)
{
    goalloc_stats_t stats = { .live_objects = nobjects + 1 };

    for (int i = 0; i < 1000 && stats.live_objects != nobjects; i++, (void)usleep(5000))
        fixture_stats(f, &stats);
    assert_int_equal(stats.live_objects, nobjects);
    assert_true(fixture_is_whole(f));
}

static inline void process_kill(pid_t pid)
{
    (void)kill(pid, SIGKILL);
    assert_int_equal(child_wait(pid), 1000 + SIGKILL);
}

static inline int hold_group(const fixture *f, void *arg)
{
    CHECK(attach_as(f, GOALLOC_ATTACH_RECLAIM, arg) == 0);
    (void)raise(SIGSTOP);
    return 0;
}

static inline pid_t holder_start(const fixture *f, const char *group)
{
    return child_start_stopped(f, hold_group, (void *)(uintptr_t)group);
}

static inline void let_everybody_in(const fixture *f)
{
    CHECK(chmod(f->dir, 0755) == 0 && chmod(f->socket, 0666) == 0);
}

#endif
