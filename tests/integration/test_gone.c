/*
 * Daemons that are gone or asleep: one request waits for its time-out, those after it are told at once, and when a
 * daemon is back all goes on by itself, with nothing lost. Frees never wait.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>

#include "tests/support/waits.h"

/* --- requests --- */

#define TIMEOUT_MS 1000
#define AGAIN_MS 2000 /* from when a daemon serves again until everybody is served by it; 100 are enough as a rule */
#define REQUESTS 200
#define THREADS 4

/* Large objects, and small ones of all classes, of which this process holds no span. */
static void *fail_often(void *arg)
{
    for (size_t i = 0; i < REQUESTS; i++) {
        void *p = i % 2 == 0 ? waits_ask() : goalloc_malloc(1 + i * 160);

        CHECK(p == NULL && errno == ETIMEDOUT);
    }
    return arg;
}

/* The first request waits for its time-out; then no thread waits, nor does the child of a fork. */
static void check_only_the_first_waits(void)
{
    int64_t begin = waits_now_ms();
    int64_t took;
    pthread_t threads[THREADS];
    pid_t pid;

    CHECK(waits_ask() == NULL && errno == ETIMEDOUT);
    took = waits_now_ms() - begin;
    CHECK(took >= TIMEOUT_MS - 10 && took < 3 * TIMEOUT_MS);

    begin = waits_now_ms();
    (void)fail_often(NULL);
    CHECK(waits_now_ms() - begin < TIMEOUT_MS / 2);

    begin = waits_now_ms();
    for (size_t i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, fail_often, NULL) == 0);
    for (size_t i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(waits_now_ms() - begin < TIMEOUT_MS / 2);

    pid = fork();
    if (pid == 0) {
        waits_not_for_ever();
        begin = waits_now_ms();
        (void)fail_often(NULL);
        CHECK(waits_now_ms() - begin < TIMEOUT_MS / 2);
        _exit(0);
    }
    waits_child_ends_well(pid);
}

/* The daemon serves: so it does this process and a child of it. What came too late has gone back. */
static void check_all_goes_on(void *first)
{
    void *p;
    pid_t pid;

    CHECK(waits_served_within(AGAIN_MS, &p));
    pid = fork();
    if (pid == 0) {
        void *mine;

        waits_not_for_ever();
        CHECK(waits_served_within(AGAIN_MS, &mine));
        goalloc_free(mine);
        _exit(0);
    }
    waits_child_ends_well(pid);
    CHECK(goalloc_trim() == 0);
    CHECK(stats_now().session_held_bytes == 2 * WAITS_ASKED_BYTES);
    goalloc_free(p);
    goalloc_free(first);
    CHECK(goalloc_trim() == 0); /* nothing is left in the cache */
}

static int worker_of_a_killed_daemon(const fixture *f, void *arg)
{
    void *first;

    (void)arg;
    waits_start(f, TIMEOUT_MS);
    CHECK((first = waits_ask()) != NULL);
    waits_kill_daemon(f);
    check_only_the_first_waits();
    (void)raise(SIGSTOP); /* another one is started */
    check_all_goes_on(first);
    return 0;
}

static void daemon_that_is_gone_is_waited_for_once(void **state)
{
    assert_int_equal(child_run_over_a_restart(*state, worker_of_a_killed_daemon, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* The connection stays. */
static int worker_of_a_stopped_daemon(const fixture *f, void *arg)
{
    void *first;

    (void)arg;
    waits_start(f, TIMEOUT_MS);
    CHECK((first = waits_ask()) != NULL);
    for (int i = 0; i < 2; i++) { /* the second time it has not forgotten what it has learned */
        waits_stop_daemon(f);
        check_only_the_first_waits();
        waits_continue_daemon(f);
        check_all_goes_on(first);
        CHECK((first = waits_ask()) != NULL);
    }
    goalloc_free(first);
    return 0;
}

static void daemon_that_is_stopped_is_waited_for_once(void **state)
{
    fixture *f = *state;

    assert_int_equal(child_run(f, worker_of_a_stopped_daemon, NULL), 0);
    assert_true(fixture_is_clean(f, 0));
}

/* --- frees --- */

#define FREE_TIMEOUT_MS 4000
#define FREE_MS_MAX (FREE_TIMEOUT_MS / 4)
#define LARGE 300   /* each is a message, and so many do not fit into the socket */
#define SMALL 20000 /* of a thread that lives */
#define LEFT 30000  /* of one that has ended: a thread that frees takes its spans over, soon too many */
#define LEFT_BYTES 1024

typedef struct free_row {
    bool killed; /* else stopped */
    bool waiter; /* another thread waits for an answer meanwhile */
} free_row;

static const free_row free_rows[] = { { false, true }, { true, true }, { false, false }, { true, false } };

static void *small_ones[SMALL];
static void *left_ones[LEFT];
static void *large_ones[LARGE];
static pthread_barrier_t made;
static pthread_barrier_t freed;

static void *make_left_ones(void *arg)
{
    for (size_t i = 0; i < LEFT; i++)
        CHECK((left_ones[i] = goalloc_malloc(LEFT_BYTES)) != NULL);
    return arg;
}

static void *make_small_ones(void *arg)
{
    for (size_t i = 0; i < SMALL; i++)
        CHECK((small_ones[i] = goalloc_malloc(64)) != NULL);
    (void)pthread_barrier_wait(&made);
    (void)pthread_barrier_wait(&freed);
    return arg;
}

static void *wait_for_an_answer(void *arg)
{
    CHECK(waits_ask() != NULL);
    return arg;
}

/* The longest that one of them took. */
static int64_t free_all(void **objects, size_t n)
{
    int64_t longest = 0;

    for (size_t i = 0; i < n; i++) {
        int64_t begin = waits_now_ms();
        int64_t took;

        CHECK(goalloc_free_checked(objects[i]) == 0);
        took = waits_now_ms() - begin;
        longest = took > longest ? took : longest;
    }
    return longest;
}

/* In the child of the process that has allocated large_ones. */
static void free_while_nobody_answers(const fixture *f, const free_row *row)
{
    pthread_t left;
    pthread_t small;
    pthread_t waiter;

    waits_not_for_ever();
    CHECK(goalloc_malloc(LEFT_BYTES) != NULL && goalloc_malloc(200000) != NULL);
    CHECK(pthread_barrier_init(&made, NULL, 2) == 0 && pthread_barrier_init(&freed, NULL, 2) == 0);
    CHECK(pthread_create(&left, NULL, make_left_ones, NULL) == 0 && pthread_join(left, NULL) == 0);
    CHECK(pthread_create(&small, NULL, make_small_ones, NULL) == 0);
    (void)pthread_barrier_wait(&made);
    if (row->killed)
        waits_kill_daemon(f);
    else
        waits_stop_daemon(f);
    if (row->waiter) {
        CHECK(pthread_create(&waiter, NULL, wait_for_an_answer, NULL) == 0);
        waits_sleep_ms(50);
    }
    CHECK(free_all(small_ones, SMALL) < FREE_MS_MAX);
    CHECK(free_all(large_ones, LARGE) < FREE_MS_MAX);
    CHECK(free_all(left_ones, LEFT) < FREE_MS_MAX);
    if (!row->killed)
        waits_continue_daemon(f);
    if (row->waiter)
        CHECK(pthread_join(waiter, NULL) == 0);
    (void)pthread_barrier_wait(&freed);
    CHECK(pthread_join(small, NULL) == 0);
}

/* Leaves 2 objects, and one of the waiter's. */
static int allocate_for_a_child(const fixture *f, void *arg)
{
    const free_row *row = arg;
    pid_t pid;

    waits_start(f, FREE_TIMEOUT_MS);
    for (size_t i = 0; i < LARGE; i++)
        CHECK((large_ones[i] = goalloc_malloc(SHM_RUN_BYTES_MAX + 1)) != NULL);
    pid = fork();
    if (pid == 0) {
        free_while_nobody_answers(f, row);
        _exit(0);
    }
    waits_child_ends_well(pid);
    return 0;
}

static void free_does_not_wait_for_the_daemon(void **state)
{
    fixture *f = *state;
    uint64_t nleft = 0;

    for (size_t i = 0; i < sizeof(free_rows) / sizeof(free_rows[0]); i++) {
        const free_row *row = &free_rows[i];
        pid_t pid = child_start(f, allocate_for_a_child, (void *)(uintptr_t)row);

        if (row->killed) {
            (void)child_wait(f->daemon); /* the process that frees has killed it */
            (void)usleep(FREE_MS_MAX * 1000);
            fixture_restart(f, NULL);
        }
        assert_int_equal(child_wait(pid), 0);
        nleft += row->waiter ? 3 : 2;
        assert_true(fixture_is_clean(f, nleft));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST_KEPT(daemon_that_is_gone_is_waited_for_once),
        FIXTURE_TEST_KEPT(daemon_that_is_stopped_is_waited_for_once),
        FIXTURE_TEST_KEPT(free_does_not_wait_for_the_daemon),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
