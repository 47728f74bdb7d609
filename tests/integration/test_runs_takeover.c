/*
 * Runs over a kill of the daemon: a process that holds live and free ones has all of them afterwards and goes on.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <signal.h>

#include "tests/support/waits.h"

#define PATIENCE_MS 120000 /* of a request, while daemons die */

#define RUNS 96

static size_t size_at(int i)
{
    return 33000 + (size_t)(i % 24) * 9500; /* up to 251500 */
}

typedef struct shared_runs {
    unsigned char *p[RUNS];
} shared_runs;

/* Runs of which every third is free; stops; woken, looks at them and makes what it has freed anew. */
static int holder(const fixture *f, void *arg)
{
    uint32_t flags = *(uint32_t *)arg;
    shared_runs *shared;
    shared_runs r;
    goalloc_stats_t before;

    must_attach(f, flags);
    shared = goalloc_malloc(sizeof(*shared));
    CHECK(shared != NULL && goalloc_publish(shared) == 0);
    for (int i = 0; i < RUNS; i++) {
        r.p[i] = filled(size_at(i), i);
        CHECK(flags == 0 || i % 3 != 1 || goalloc_publish(r.p[i]) == 0);
    }
    *shared = r;
    CHECK(goalloc_root_set("runs", shared) == 0);
    for (int i = 0; i < RUNS; i += 3)
        goalloc_free(r.p[i]);
    (void)raise(SIGSTOP);
    /* Without the daemon, or with the next one: what it holds serves. */
    for (int i = 0; i < RUNS; i += 3)
        r.p[i] = filled(size_at(i), i);
    for (int i = 0; i < RUNS; i++)
        CHECK(all_are(r.p[i], size_at(i), i) && goalloc_usable_size(r.p[i]) >= size_at(i));
    (void)raise(SIGSTOP);
    before = stats_now(); /* it comes back */
    CHECK(before.live_objects == RUNS + 1);
    for (int i = 0; i < RUNS; i += 2)
        goalloc_free(r.p[i]);
    for (int i = 0; i < RUNS; i += 2) {
        r.p[i] = goalloc_calloc(1, size_at(i));
        CHECK(r.p[i] != NULL && all_are(r.p[i], size_at(i), 0));
    }
    CHECK(stats_now().session_rpcs == before.session_rpcs + 1);
    for (int i = 0; i < RUNS; i++) /* and asks for more */
        CHECK(all_are(filled(size_at(i) / 2 + 20000, 1), 1, 1));
    CHECK(stats_now().live_objects == 2 * RUNS + 1);
    return 0;
}

static int free_all_named(const fixture *f, void *arg)
{
    void *p;

    (void)arg;
    must_attach(f, 0);
    CHECK(goalloc_root_get("runs", &p) == 0);
    for (int i = 0; i < RUNS; i++) {
        CHECK(i % 3 == 0 || all_are(((shared_runs *)p)->p[i], size_at(i), i));
        CHECK((goalloc_free_checked(((shared_runs *)p)->p[i]) == 0) == (i % 3 != 0));
    }
    return 0;
}

static void check_holder(fixture *f, uint32_t flags, bool without_daemon, uint64_t nleft)
{
    pid_t pid = child_start(f, holder, &flags);
    class_figures before;
    class_figures after;

    assert_true(child_stops(pid));
    before = class_now(f, 0);
    assert_int_equal(before.live_objects, RUNS - RUNS / 3);
    fixture_kill(f);
    if (without_daemon) {
        (void)kill(pid, SIGCONT);
        assert_true(child_stops(pid));
        fixture_restart(f, NULL);
    } else {
        fixture_restart(f, NULL);
        assert_true(fixture_is_whole(f));
        after = class_now(f, 0);
        assert_int_equal(after.live_objects, before.live_objects);
        assert_int_equal(after.spans, before.spans);
        assert_int_equal(after.span_bytes, before.span_bytes);
        (void)kill(pid, SIGCONT);
        assert_true(child_stops(pid));
    }
    (void)kill(pid, SIGCONT);
    assert_int_equal(child_wait(pid), 0);
    assert_true(fixture_is_clean(f, nleft));
}

static void holder_of_runs_goes_on_with_the_next_daemon(void **state)
{
    check_holder(*state, 0, false, 2 * RUNS + 1);
}

static void holder_of_runs_goes_on_without_a_daemon(void **state)
{
    check_holder(*state, 0, true, 2 * RUNS + 1);
}

static void holder_of_runs_that_reclaims_leaves_what_it_published(void **state)
{
    /* Of the published, every third, those at even places were freed and are not published any more. */
    check_holder(*state, GOALLOC_ATTACH_RECLAIM, false, RUNS / 3 / 2 + 1);
    assert_int_equal(class_now(*state, 0).spans, RUNS / 3 / 2);
}

/* Others free the runs, before and after the takeover; then the holder ends, and nothing of them is left. */
static void runs_are_freed_by_others_over_a_takeover(void **state)
{
    fixture *f = *state;
    uint32_t flags = 0;

    for (uint64_t i = 0; i < 4; i++) {
        pid_t pid = child_start(f, holder, &flags);

        assert_true(child_stops(pid));
        if (i % 2)
            assert_int_equal(child_run(f, free_all_named, NULL), 0);
        fixture_kill(f);
        if (i / 2) {
            (void)kill(pid, SIGKILL);
            (void)child_wait(pid);
        }
        fixture_restart(f, NULL);
        if (i % 2 == 0)
            assert_int_equal(child_run(f, free_all_named, NULL), 0);
        if (i / 2 == 0) {
            (void)kill(pid, SIGKILL);
            (void)child_wait(pid);
        }
        assert_true(fixture_is_clean(f, i + 1));
        assert_true(runs_are_swept(f));
        assert_true(fixture_is_whole(f));
    }
}

/*
 * The daemon dies over and over while a process makes, frees and resizes runs. It lives for some milliseconds each time:
 * on a slow machine that may be too short to come back to it and to ask, until no more of them die.
 */
static int churn_runs(const fixture *f, void *arg)
{
    static unsigned char *objects[200];
    static size_t sizes[200];
    uint64_t seed = *(uint64_t *)arg;
    int r;

    while ((r = waits_attach(f, PATIENCE_MS)) == -ECONNREFUSED || r == -ENOENT) /* between two daemons */
        waits_sleep_ms(5);
    CHECK(r == 0);
    for (int i = 0; i < 20000; i++) {
        size_t at = test_random(&seed) % 200;

        CHECK(objects[at] == NULL || (objects[at][0] == at && objects[at][sizes[at] - 1] == at));
        if (objects[at] == NULL || test_random(&seed) % 8 == 0) {
            sizes[at] = 30000 + test_random(&seed) % 240000;
            objects[at] = goalloc_realloc(objects[at], sizes[at]);
            CHECK(objects[at] != NULL);
            objects[at][0] = objects[at][sizes[at] - 1] = (unsigned char)at;
        } else {
            goalloc_free(objects[at]);
            objects[at] = NULL;
        }
        if (i % 500 == 0)
            CHECK(goalloc_trim() == 0);
    }
    for (int i = 0; i < 200; i++)
        goalloc_free(objects[i]);
    CHECK(stats_now().live_objects == 0);
    return 0;
}

static void daemon_may_die_while_runs_come_and_go(void **state)
{
    fixture *f = *state;
    uint64_t seed = test_seed();
    pid_t pid = child_start(f, churn_runs, &seed);
    int status = -1;

    for (int i = 0; i < 40 && waitpid(pid, &status, WNOHANG) == 0; i++) {
        (void)usleep((unsigned)(2000 + test_random(&seed) % 20000));
        fixture_kill(f);
        fixture_restart(f, NULL);
    }
    if (status == -1)
        status = child_wait(pid);
    assert_int_equal(status, 0);
    assert_true(fixture_is_clean(f, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST_KEPT(holder_of_runs_goes_on_with_the_next_daemon),
        FIXTURE_TEST_KEPT(holder_of_runs_goes_on_without_a_daemon),
        FIXTURE_TEST_KEPT(holder_of_runs_that_reclaims_leaves_what_it_published),
        FIXTURE_TEST_KEPT(runs_are_freed_by_others_over_a_takeover),
        FIXTURE_TEST_KEPT(daemon_may_die_while_runs_come_and_go),
    };

    return cmocka_run_group_tests_name("runs over a takeover", tests, NULL, NULL);
}
