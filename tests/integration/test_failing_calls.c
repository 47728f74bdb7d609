/*
 * Failing system calls and allocations: each call of a daemon fails, one at a time, while it starts, serves and takes a
 * heap over. It may refuse what was asked for, or refuse to start; it does not crash, and nothing is lost or left.
 *
 * A library that is preloaded into the daemon counts its calls and has the nth one fail (support/fail_calls.c). So each
 * of these tests counts first, and then goes through the calls. By default some of them, which a seed chooses; all with
 * GOALLOC_TEST_ALL_CALLS=1.
 *
 * One failure a daemon does not survive: libuv ends the process if it can't watch a descriptor (epoll_ctl: no memory,
 * or fs.epoll.max_user_watches are used up). Then the heap has to survive its daemon, as after any other crash.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "tests/support/attach.h"
#include "tests/support/fail_calls.h"
#include "tests/support/waits.h"

#define POINTS 25u /* of a test, by default */
#define TRIES 5    /* one fails, the next ones can't */
#define OBJECTS 120u

static fail_plan *plan;

/* --- the plan --- */

/* From now on calls are counted, and the nth one of that kind fails; 0: none. */
static void arm(unsigned call, uint64_t nth)
{
    for (unsigned i = 0; i < FAIL_CALLS; i++)
        u64_store_relaxed(&plan->counts[i], 0);
    u64_store_relaxed(&plan->nfailed, 0);
    u32_store_relaxed(&plan->call, call);
    u64_store_relaxed(&plan->nth, nth);
    u32_store_release(&plan->armed, 1);
}

static void disarm(void)
{
    u32_store_release(&plan->armed, 0);
}

/* Start a daemon whose calls are counted: -1 if it serves, else as it has ended. */
static int launch_counted(fixture *f)
{
    int status;

    fail_plan_preload(true);
    status = fixture_try_restart(f);
    fail_plan_preload(false);
    return status;
}

/* --- which calls --- */

typedef struct walk {
    uint64_t counts[FAIL_CALLS];
    uint64_t total;
    uint64_t at;
    uint64_t step;
} walk;

/* Through the calls that were counted since arm(). */
static walk walk_begin(void)
{
    uint64_t random = test_seed();
    walk w = { .step = 1 };

    disarm();
    for (unsigned i = 0; i < FAIL_CALLS; i++) {
        w.counts[i] = u64_load_relaxed(&plan->counts[i]);
        w.total += w.counts[i];
    }
    if (getenv("GOALLOC_TEST_ALL_CALLS") == NULL && w.total > POINTS)
        w.step = w.total / POINTS;
    w.at = test_random(&random) % w.step;
    return w;
}

/* The next one. False: there are no more. */
static bool walk_next(walk *w, unsigned *ret_call, uint64_t *ret_nth)
{
    uint64_t at = w->at;

    w->at += w->step;
    for (unsigned i = 0; i < FAIL_CALLS; i++) {
        if (at < w->counts[i]) {
            *ret_call = i;
            *ret_nth = at + 1;
            return true;
        }
        at -= w->counts[i];
    }
    return false;
}

static bool says(bool good, unsigned call, uint64_t nth, const char *what)
{
    if (!good)
        (void)fprintf(stderr, "%s number %llu fails: %s\n", fail_calls_names[call], (unsigned long long)nth, what);
    return good;
}

/*
 * True if the daemon has ended as libraries end a process that they can't go on with: libuv can't watch a descriptor
 * (epoll_ctl, or memory for its table), or start a thread; glibc has no memory for a thread, or for the first look-up
 * of a name.
 */
static bool is_a_librarys_end(const fixture *f, int status)
{
    if (status == 127)
        return fixture_log_has(f, "cannot allocate memory for thread-local data");
    if (status == 1000 + SIGABRT && fixture_log_has(f, "nss_database.c"))
        return true;
    return status == 1000 + SIGABRT && !fixture_log_has(f, "Assertion");
}

/* What the daemon has said last, for a failure's message. */
static void show_end_of_log(const fixture *f)
{
    char last[4][256] = { "" };
    FILE *log = fopen(f->log, "re");
    unsigned n = 0;

    while (log != NULL && fgets(last[n % 4], sizeof(last[0]), log) != NULL)
        n++;
    for (unsigned i = n < 4 ? 0 : n - 4; i < n; i++)
        (void)fprintf(stderr, "    %s", last[i % 4]);
    if (log != NULL)
        (void)fclose(log);
}

/* A daemon that has not come up has said why, or libuv has ended it. */
static bool has_refused(const fixture *f, int status, unsigned call, uint64_t nth)
{
    if (status <= 1 || is_a_librarys_end(f, status))
        return true;
    if (call == FAIL_MALLOC && status == 1000 + SIGSEGV)
        return true; /* glibc's, at the first look-up of a name (its 2.36 reads what it has no memory for) */
    (void)fprintf(stderr, "%s number %llu fails: the daemon ends with status %d\n", fail_calls_names[call],
                  (unsigned long long)nth, status);
    show_end_of_log(f);
    return false;
}

/* --- a client --- */

static void *try_malloc(size_t size)
{
    void *p = NULL;

    for (int i = 0; i < TRIES && p == NULL; i++)
        p = goalloc_malloc(size);
    CHECK(p != NULL);
    memset(p, (int)size, size);
    return p;
}

/* Repeat what may fail once. */
#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        int try_result = -1;                                                                                           \
        for (int tries = 0; tries < TRIES && try_result < 0; tries++) {                                                \
            try_result = (call);                                                                                       \
            if (try_result < 0)                                                                                        \
                waits_sleep_ms(5);                                                                                     \
        }                                                                                                              \
        if (try_result < 0)                                                                                            \
            (void)fprintf(stderr, "%s\n", goalloc_strerror(try_result));                                               \
        CHECK(try_result >= 0);                                                                                        \
    } while (0)

static int try_attach(const fixture *f, uint32_t flags)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;

    options.socket_path = f->socket;
    options.flags = flags;
    return goalloc_attach(&options);
}

/* Attaches, allocates, and goes without a word: what it has is freed with it. */
static int die_attached(const fixture *f, void *arg)
{
    (void)arg;
    waits_not_for_ever();
    TRY(try_attach(f, GOALLOC_ATTACH_RECLAIM));
    for (unsigned i = 0; i < 10; i++)
        (void)try_malloc(100 * (i + 1));
    _exit(0);
}

/* Does something of each kind. A failure may be its errno once; then all goes on, and in the end nothing is left. */
static int use_all(const fixture *f, void *arg)
{
    static void *objects[OBJECTS];
    goalloc_stats_t stats = { .struct_size = sizeof(stats) };
    void *p;

    (void)arg;
    waits_not_for_ever();
    TRY(try_attach(f, 0));
    for (unsigned i = 0; i < OBJECTS; i++)
        objects[i] = try_malloc(i % 40 == 39 ? 300000 + i : 16 + i * 90);
    TRY(goalloc_root_set("failing", objects[0]));
    TRY(goalloc_root_get("failing", &p));
    CHECK(p == objects[0]);
    TRY(goalloc_root_set("failing", NULL));
    TRY(goalloc_publish(objects[1]));
    TRY(goalloc_stats(&stats));
    for (unsigned i = 0; i < OBJECTS; i++)
        CHECK(*(unsigned char *)objects[i] == (unsigned char)(i % 40 == 39 ? 300000 + i : 16 + i * 90));
    for (unsigned i = 0; i < OBJECTS; i++)
        goalloc_free(objects[i]);
    TRY(goalloc_trim());
    TRY(goalloc_detach());
    return 0;
}

static int use_heap(const fixture *f)
{
    int status = child_run(f, use_all, NULL);

    return status != 0 ? status : child_run(f, die_attached, NULL);
}

/* --- a daemon that serves --- */

/* The daemon's status, if it has ended; -1: it lives. */
static int status_of(fixture *f)
{
    int status;

    if (waitpid(f->daemon, &status, WNOHANG) != f->daemon)
        return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

/* What libuv makes of a failure: the next daemon has the heap. */
static void succeed_daemon(fixture *f)
{
    disarm();
    assert_int_equal(launch_counted(f), -1);
}

/* Serve clients while the nth call fails. */
static bool serve_failing(fixture *f, unsigned call, uint64_t nth)
{
    bool good;
    int status;

    arm(call, nth);
    good = use_heap(f) == 0;
    disarm();
    status = status_of(f);
    if (status != -1) {
        good = says(is_a_librarys_end(f, status), call, nth, "the daemon has ended");
        succeed_daemon(f);
        return good;
    }
    good = says(good, call, nth, "a client has failed");
    return says(fixture_is_clean(f, 0), call, nth, "something is left") && good &&
           says(fixture_is_whole(f), call, nth, "the tables differ");
}

/* Have the calls of the walk fail one after the other. */
static void fail_each(fixture *f, walk w, bool (*is_survived)(fixture *f, unsigned call, uint64_t nth))
{
    unsigned nbad = 0;
    unsigned n = 0;
    unsigned call;
    uint64_t nth;

    for (; walk_next(&w, &call, &nth); n++)
        nbad += !is_survived(f, call, nth);
    (void)printf("%u of %llu calls have failed\n", n, (unsigned long long)w.total);
    assert_int_equal(nbad, 0);
}

static void calls_that_fail_while_a_daemon_serves_cost_a_request_at_most(void **state)
{
    fixture *f = *state;

    (void)use_heap(f); /* what is made once is there */
    arm(0, 0);
    assert_int_equal(use_heap(f), 0);
    assert_true(fixture_is_clean(f, 0));
    u64_store_relaxed(&plan->counts[FAIL_EPOLL_CTL], 0); /* that is the daemon's end, and no client's of these tests */
    fail_each(f, walk_begin(), serve_failing);
}

/* --- a daemon that starts --- */

static int leave_objects(const fixture *f, void *arg)
{
    (void)arg;
    TRY(try_attach(f, 0));
    for (unsigned i = 0; i < OBJECTS; i++)
        TRY(goalloc_root_set("left", try_malloc(16 + 500 * (size_t)i)));
    return 0;
}

/* The next daemon's nth call fails: it serves, or refuses and says why; then the one after it serves. */
static bool take_over_failing(fixture *f, unsigned call, uint64_t nth)
{
    goalloc_stats_t stats;
    int status;
    bool good;

    fixture_kill(f);
    arm(call, nth);
    status = launch_counted(f);
    disarm();
    good = has_refused(f, status, call, nth);
    if (status == -1 && status_of(f) != -1)
        status = 1;
    if (status != -1)
        succeed_daemon(f);
    fixture_stats(f, &stats);
    return says(stats.live_objects == OBJECTS && stats.roots == 1, call, nth, "objects are lost") && good &&
           says(fixture_is_whole(f), call, nth, "the tables differ");
}

static void calls_that_fail_while_a_daemon_takes_over_lose_nothing(void **state)
{
    fixture *f = *state;

    assert_int_equal(child_run(f, leave_objects, NULL), 0);
    fixture_kill(f);
    arm(0, 0);
    assert_int_equal(launch_counted(f), -1);
    fail_each(f, walk_begin(), take_over_failing);
}

/* A daemon without a heap to take over: it serves an empty one, or refuses; then nothing of it is in the way. */
static bool start_failing(fixture *f, unsigned call, uint64_t nth)
{
    int status;
    bool good;

    arm(call, nth);
    status = launch_counted(f);
    disarm();
    good = has_refused(f, status, call, nth);
    if (status != -1)
        succeed_daemon(f);
    return says(fixture_stop(f), call, nth, "the daemon does not end well") && good;
}

static void calls_that_fail_while_a_daemon_starts_are_in_no_later_daemons_way(void **state)
{
    fixture *f = *state;
    walk w;

    assert_true(fixture_stop(f));
    arm(0, 0);
    assert_int_equal(launch_counted(f), -1);
    w = walk_begin();
    assert_true(fixture_stop(f));
    fail_each(f, w, start_failing);
    assert_int_equal(launch_counted(f), -1);
}

/*
 * libseccomp does not notice every allocation that fails: then the daemon would have a filter that lacks calls. And
 * glibc ends the process, in ways of several kinds, if it has no memory to look for a group: so the daemon is told a
 * number.
 */
static int setup(void **state)
{
    static const char *const options[] = { "--no-seccomp", "--control-group", "0", NULL };
    fixture *f;

    (void)fixture_setup_kept(state);
    f = *state;
    f->options = options;
    fixture_kill(f);
    plan = fail_plan_open(f->dir);
    return launch_counted(f) == -1 ? 0 : -1;
}

static int teardown(void **state)
{
    disarm();
    return fixture_teardown(state);
}

#define FAILING_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        FAILING_TEST(calls_that_fail_while_a_daemon_serves_cost_a_request_at_most),
        FAILING_TEST(calls_that_fail_while_a_daemon_takes_over_lose_nothing),
        FAILING_TEST(calls_that_fail_while_a_daemon_starts_are_in_no_later_daemons_way),
    };

    return cmocka_run_group_tests_name("failing calls", tests, NULL, NULL);
}
