/*
 * Sampling: a process that samples, through all that may happen to it and its daemon: what the region and the bits say
 * of its objects then, and that none of it costs more than samples.
 *
 * Bounds of estimates are six times the standard deviation.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <dlfcn.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "tests/support/objects.h"
#include "tests/support/picture.h"
#include "tests/support/waits.h"

#define RATE     4096u
#define NOBJECTS 20000
#define SIZE     100
#define SLOT     112.0

static void attach_sampling(const fixture *f, const char *rate, uint32_t flags)
{
    CHECK(setenv("GOALLOC_PROFILE", rate, 1) == 0);
    must_attach(f, flags);
}

/* So many objects of SIZE live. */
static void check_live(const fixture *f, double nobjects)
{
    picture seen = picture_take(f, RATE);
    double chance = -expm1(-SLOT / RATE);
    double sigma = sqrt(nobjects * (1 - chance) / chance);

    if (fabs(seen.objects - nobjects) > 6 * sigma + 1)
        (void)fprintf(stderr, "%.0f live by the profile, not %.0f +- %.0f; %llu samples are lost\n", seen.objects,
                      nobjects, sigma, (unsigned long long)seen.nlost);
    CHECK(fabs(seen.objects - nobjects) <= 6 * sigma + 1);
    CHECK(seen.nlive_small == seen.nmarked);
    CHECK(fabs(seen.bytes - seen.objects * SLOT) < 1);
}

static void allocate(void **objects, int n, int step)
{
    for (int i = 0; i < n; i += step) {
        objects[i] = goalloc_malloc(SIZE);
        CHECK(objects[i] != NULL);
        memset(objects[i], i, SIZE);
    }
}

static void free_some(void **objects, int n, int step)
{
    for (int i = 0; i < n; i += step) {
        goalloc_free(objects[i]);
        objects[i] = NULL;
    }
}

static void *objects[NOBJECTS];

/* --- stacks --- */

#define CALLER_BYTES 512

#define CALLER(name, call)                                                                                             \
    __attribute__((noinline, aligned(CALLER_BYTES))) static void *name(void)                                           \
    {                                                                                                                  \
        void *p = call;                                                                                                \
                                                                                                                       \
        CHECK(p != NULL);                                                                                              \
        return memset(p, 1, 1);                                                                                        \
    }

CALLER(by_malloc, goalloc_malloc(100))
CALLER(by_noscan, goalloc_malloc_noscan(100))
CALLER(by_tiny, goalloc_malloc_noscan(5))
CALLER(by_calloc, goalloc_calloc(10, 10))
CALLER(by_tiny_calloc, goalloc_calloc_noscan(1, 5))
CALLER(by_run, goalloc_malloc(60000))
CALLER(by_large, goalloc_malloc(1000000))
CALLER(by_large_calloc, goalloc_calloc(1, 1000000))
CALLER(by_aligned, goalloc_aligned_alloc(64, 100))
CALLER(by_pages, goalloc_aligned_alloc(65536, 100))
CALLER(by_realloc, goalloc_realloc(goalloc_malloc(50), 5000))

static void *(*const callers[])(void) = { by_malloc, by_noscan,       by_tiny,    by_calloc, by_tiny_calloc, by_run,
                                          by_large,  by_large_calloc, by_aligned, by_pages,  by_realloc };

/* The innermost frame of some stack lies in the function. */
static bool is_innermost(const profile_region *region, void *(*function)(void))
{
    Dl_info where;
    uint64_t begin;

    CHECK(dladdr((void *)(uintptr_t)function, &where) != 0);
    begin = (uintptr_t)function - (uintptr_t)where.dli_fbase;
    for (uint32_t i = 1; i < PROFILE_STACKS; i++) {
        uint64_t at = region->stacks[i].frames[0] & ((UINT64_C(1) << 48) - 1);

        if (region->stacks[i].nframes > 1 && at > begin && at < begin + CALLER_BYTES)
            return true;
    }
    return false;
}

static int call_each(const fixture *f, void *arg)
{
    const profile_region *region;
    size_t bytes;
    uint32_t seq;
    int fds[3];

    (void)arg;
    attach_sampling(f, "1", 0);
    for (size_t i = 0; i < sizeof(callers) / sizeof(callers[0]); i++)
        goalloc_free(callers[i]());
    CHECK(rawprofile_read(raw_connect(f), &seq, fds) == 0);
    region = picture_map(fds[2], &bytes);
    CHECK(bytes == sizeof(*region));
    for (size_t i = 0; i < sizeof(callers) / sizeof(callers[0]); i++) {
        if (!is_innermost(region, callers[i]))
            (void)fprintf(stderr, "caller %zu is in no stack\n", i);
        CHECK(is_innermost(region, callers[i]));
    }
    return 0;
}

static void the_innermost_frame_is_who_called_the_library(void **state)
{
    assert_int_equal(child_run(*state, call_each, NULL), 0);
}

/* --- the dead --- */

static int allocate_and_die(const fixture *f, void *arg)
{
    uint32_t flags = *(uint32_t *)arg;

    attach_sampling(f, "4K", flags);
    allocate(objects, NOBJECTS, 1);
    free_some(objects, NOBJECTS, 2);
    for (int i = 1; flags != 0 && i < NOBJECTS; i += 4)
        CHECK(goalloc_publish(objects[i]) == 0);
    (void)raise(SIGKILL);
    return 0;
}

static int look_for(const fixture *f, void *arg)
{
    check_live(f, *(double *)arg);
    return 0;
}

/* In a child, since a failed check ends the process. */
static void assert_live(const fixture *f, double n)
{
    assert_int_equal(child_run(f, look_for, &n), 0);
}

static void what_a_dead_process_left_stays_in_the_profile(void **state)
{
    fixture *f = *state;
    uint32_t flags = 0;

    assert_int_equal(child_run(f, allocate_and_die, &flags), 1000 + SIGKILL);
    assert_true(fixture_is_clean(f, NOBJECTS / 2));
    assert_live(f, NOBJECTS / 2);
    fixture_kill(f);
    fixture_restart(f, NULL);
    assert_live(f, NOBJECTS / 2);
}

static void what_a_dead_process_has_published_stays_and_the_rest_goes(void **state)
{
    fixture *f = *state;
    uint32_t flags = GOALLOC_ATTACH_RECLAIM;

    assert_int_equal(child_run(f, allocate_and_die, &flags), 1000 + SIGKILL);
    assert_true(fixture_is_clean(f, NOBJECTS / 4));
    assert_live(f, NOBJECTS / 4);
}

/* --- forks --- */

typedef pid_t (*fork_fn)(void);

static pid_t bare_fork(void)
{
    return (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
}

/* The child frees some of the parent's objects, and has as many of its own. */
static int fork_and_sample(const fixture *f, void *arg)
{
    fork_fn do_fork = *(fork_fn *)arg;
    pid_t pid;
    int status;

    attach_sampling(f, "4K", 0);
    allocate(objects, NOBJECTS, 1);
    pid = do_fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        free_some(objects, NOBJECTS, 2);
        allocate(objects, NOBJECTS, 4);
        _exit(0);
    }
    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    check_live(f, NOBJECTS / 2 + NOBJECTS / 4);
    free_some(objects + 1, NOBJECTS - 1, 2);
    CHECK(stats_now().live_objects == NOBJECTS / 4);
    return 0;
}

static void a_forked_child_samples_for_itself(void **state)
{
    fork_fn ways[] = { fork, bare_fork };

    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        fixture f;

        (void)state;
        fixture_start(&f, NULL);
        assert_int_equal(child_run(&f, fork_and_sample, &ways[i]), 0);
        assert_true(fixture_stop(&f));
    }
}

/* --- the daemon comes and goes --- */

static int live_over_a_restart(const fixture *f, void *arg)
{
    static void *more[NOBJECTS];

    (void)arg;
    attach_sampling(f, "4K", 0);
    allocate(objects, NOBJECTS, 1);
    free_some(objects, NOBJECTS, 2);
    (void)raise(SIGSTOP);
    allocate(more, NOBJECTS, 1);
    for (size_t size = 16; size < 32768; size += size / 4) /* of which marked spans are still to be had */
        for (int i = 0; i < 200; i++)
            goalloc_free(goalloc_malloc(size));
    CHECK(goalloc_trim() == 0); /* a request: it has come back */
    check_live(f, NOBJECTS / 2 + NOBJECTS);
    for (int i = 1; i < NOBJECTS; i += 2)
        CHECK(all_are(objects[i], SIZE, i & 0xff));
    free_some(objects + 1, NOBJECTS - 1, 2);
    free_some(more, NOBJECTS, 1);
    CHECK(goalloc_trim() == 0);
    CHECK(stats_now().live_objects == 0 && stats_now().session_held_bytes == 0);
    return 0;
}

static void a_session_that_comes_back_samples_on(void **state)
{
    assert_int_equal(child_run_over_a_restart(*state, live_over_a_restart, NULL), 0);
}

static int live_without_a_daemon(const fixture *f, void *arg)
{
    uint64_t n = 0;

    (void)arg;
    attach_sampling(f, "4K", 0);
    allocate(objects, NOBJECTS, 1);
    (void)raise(SIGSTOP);
    for (int i = 0; i < 2000000; i++) { /* all from what is held, so that none of it may fail */
        void *p = goalloc_malloc(SIZE);

        n += p != NULL;
        goalloc_free(p);
    }
    CHECK(n == 2000000);
    return 0;
}

static void a_process_whose_daemon_is_gone_goes_on(void **state)
{
    fixture *f = *state;
    pid_t pid = child_start_stopped(f, live_without_a_daemon, NULL);

    fixture_kill(f);
    (void)kill(pid, SIGCONT);
    assert_int_equal(child_wait(pid), 0);
    fixture_restart(f, NULL);
}

/* All sessions sample from now on. */
static void turn_on(const fixture *f)
{
    Goallocd__ProfileSet ask = GOALLOCD__PROFILE_SET__INIT;
    uint32_t nsessions;
    int fd = raw_connect(f);

    ask.rate_bytes = RATE;
    ask.all = true;
    CHECK(rawprofile_set(fd, &ask, &nsessions) == 0);
    (void)close(fd);
}

static void *allocate_one(void *ret)
{
    void **object = ret;

    *object = goalloc_malloc(SIZE);
    return NULL;
}

/* In a thread that ends: what it holds is then the process's, and the next one needs no request. */
static void *object_of_a_thread(void)
{
    pthread_t thread;
    void *object = NULL;

    CHECK(pthread_create(&thread, NULL, allocate_one, &object) == 0 && pthread_join(thread, NULL) == 0);
    CHECK(object != NULL);
    return object;
}

#define NTHREADS 6 /* more than a connection is sent descriptors of one region */

/*
 * The daemon does not answer who asks for the region, and may: a thread would wait for ten minutes. Each goes on
 * without samples, and when the daemon goes on the process samples.
 */
static int allocate_while_the_daemon_sleeps(const fixture *f, void *arg)
{
    void *held[1 + NTHREADS];

    (void)arg;
    (void)unsetenv("GOALLOC_PROFILE");
    waits_start(f, 600000);
    held[0] = object_of_a_thread();
    turn_on(f);
    waits_stop_daemon(f);
    for (int i = 1; i <= NTHREADS; i++)
        held[i] = object_of_a_thread();
    waits_continue_daemon(f);
    while (picture_take(f, RATE).nrecords == 0) { /* or it is ended */
        allocate(objects, NOBJECTS, 1);
        free_some(objects, NOBJECTS, 1);
        waits_sleep_ms(20);
    }
    free_some(held, 1 + NTHREADS, 1);
    CHECK(goalloc_trim() == 0);
    return 0;
}

static void a_daemon_that_sleeps_costs_samples_and_no_wait(void **state)
{
    assert_int_equal(child_run(*state, allocate_while_the_daemon_sleeps, NULL), 0);
}

/* --- bounds --- */

static int up_to_a_limit(const fixture *f, void *arg)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;
    uint64_t n[3];

    (void)arg;
    CHECK(setenv("GOALLOC_PROFILE", "4K", 1) == 0);
    options.socket_path = f->socket;
    options.limit_bytes = 8 << 20;
    CHECK(goalloc_attach(&options) == 0);
    for (int round = 0; round < 3; round++) {
        void *list = NULL;
        void *p;

        for (n[round] = 0; (p = goalloc_malloc(1000)) != NULL; n[round]++) {
            *(void **)p = list;
            list = p;
        }
        CHECK(errno == EDQUOT && n[round] > 7000);
        while (list != NULL) {
            p = *(void **)list;
            goalloc_free(list);
            list = p;
        }
    }
    CHECK(goalloc_trim() == 0 && stats_now().session_held_bytes == 0);
    return 0;
}

static void a_session_at_its_limit_loses_samples_and_no_objects(void **state)
{
    assert_int_equal(child_run(*state, up_to_a_limit, NULL), 0);
}

/* Sampled runs take a span each: those that are freed are used again, or go back. */
static int many_runs(const fixture *f, void *arg)
{
    static void *runs[300];
    uint64_t held_bytes;

    (void)arg;
    attach_sampling(f, "4K", 0);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 300; i++)
            CHECK((runs[i] = goalloc_malloc(40960 + (size_t)(i % 20) * 8192)) != NULL); /* nearly each is sampled */
        for (int i = 0; i < 300; i++)
            goalloc_free(runs[i]);
    }
    held_bytes = stats_now().session_held_bytes;
    if (held_bytes > 6 << 20)
        (void)fprintf(stderr, "%llu KiB are held\n", (unsigned long long)held_bytes >> 10);
    CHECK(held_bytes <= 6 << 20); /* a MiB, or four if they were wanted again; and of all others */
    CHECK(goalloc_trim() == 0 && stats_now().session_held_bytes == 0);
    return 0;
}

static void empty_marked_spans_go_back(void **state)
{
    assert_int_equal(child_run(*state, many_runs, NULL), 0);
}

/* --- attach --- */

static int attach_again(const fixture *f, void *arg)
{
    (void)arg;
    for (int i = 0; i < 3; i++) {
        attach_sampling(f, "4K", 0);
        allocate(objects, NOBJECTS, 1);
        CHECK(goalloc_detach() == 0);
    }
    check_live(f, 3 * NOBJECTS);
    attach_sampling(f, "off", 0);
    allocate(objects, NOBJECTS, 1);
    check_live(f, 3 * NOBJECTS);
    CHECK(goalloc_detach() == 0);
    attach_sampling(f, "4K", GOALLOC_ATTACH_READONLY);
    CHECK(goalloc_malloc(SIZE) == NULL && errno == EROFS);
    CHECK(goalloc_malloc(1 << 20) == NULL && errno == EROFS);
    CHECK(goalloc_malloc_noscan(5) == NULL && errno == EROFS);
    return 0;
}

static void each_session_samples_for_itself(void **state)
{
    assert_int_equal(child_run(*state, attach_again, NULL), 0);
}

static int attach_with(const fixture *f, void *arg)
{
    const char *rate = arg;
    char *line = NULL;
    size_t cap = 0;
    FILE *said = tmpfile();
    uint64_t held;

    CHECK(said != NULL && dup2(fileno(said), STDERR_FILENO) >= 0);
    attach_sampling(f, rate, 0);
    allocate(objects, NOBJECTS, 1);
    CHECK(goalloc_detach() == 0);
    must_attach(f, 0);
    allocate(objects, NOBJECTS, 1);
    rewind(said);
    held = (uint64_t)getline(&line, &cap, said);
    CHECK((int64_t)held > 0 && strstr(line, rate) != NULL && strstr(line, "GOALLOC_PROFILE") != NULL);
    CHECK(getline(&line, &cap, said) < 0); /* once */
    free(line);
    return 0;
}

static void a_rate_that_is_no_size_is_said_once_and_samples_nothing(void **state)
{
    static const char *const rates[] = { "12X", "K", "-1", "1.5M", "99999999999999999999", "2000G", "512KB " };

    for (size_t i = 0; i < sizeof(rates) / sizeof(rates[0]); i++)
        assert_int_equal(child_run(*state, attach_with, (void *)(uintptr_t)rates[i]), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(the_innermost_frame_is_who_called_the_library),
        FIXTURE_TEST_KEPT(what_a_dead_process_left_stays_in_the_profile),
        FIXTURE_TEST(what_a_dead_process_has_published_stays_and_the_rest_goes),
        cmocka_unit_test(a_forked_child_samples_for_itself),
        FIXTURE_TEST_KEPT(a_session_that_comes_back_samples_on),
        FIXTURE_TEST(a_process_whose_daemon_is_gone_goes_on),
        FIXTURE_TEST(a_daemon_that_sleeps_costs_samples_and_no_wait),
        FIXTURE_TEST(a_session_at_its_limit_loses_samples_and_no_objects),
        FIXTURE_TEST(empty_marked_spans_go_back),
        FIXTURE_TEST(each_session_samples_for_itself),
        FIXTURE_TEST(a_rate_that_is_no_size_is_said_once_and_samples_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
