/*
 * Threads that are cancelled while the library waits for the daemon: they end, at a cancellation point of their own
 * program, and hold nobody up.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>

#include "tests/support/waits.h"

#define TIMEOUT_MS 8000

static void *check_served_by_thread(void *arg)
{
    waits_check_served();
    return arg;
}

/* This process and its children are served, in the calling thread and in others. A fork waits for nobody. */
static void check_everybody_is_served(void)
{
    pthread_t thread;
    pid_t pid;

    waits_check_served();
    CHECK(pthread_create(&thread, NULL, check_served_by_thread, NULL) == 0 && pthread_join(thread, NULL) == 0);
    pid = fork();
    if (pid == 0) {
        waits_not_for_ever();
        waits_check_served();
        _exit(0);
    }
    waits_child_ends_well(pid);
}

static void check_fork_is_quick(void)
{
    int64_t begin = waits_now_ms();
    pid_t pid = fork();

    if (pid == 0)
        _exit(0);
    CHECK(waits_now_ms() - begin < TIMEOUT_MS / 4);
    waits_child_ends_well(pid);
}

/* --- one thread --- */

static const fixture *the_fixture;
static atomic_bool has_come_back; /* the thread, from the library */

static void until_cancelled(void)
{
    for (;;) {
        atomic_store(&has_come_back, true);
        pthread_testcancel();
        (void)usleep(1000);
    }
}

static void *ask_and_go_on(void *arg)
{
    (void)arg;
    goalloc_free(waits_ask());
    until_cancelled();
    return NULL;
}

static void *attach_and_go_on(void *arg)
{
    (void)arg;
    (void)waits_attach(the_fixture, TIMEOUT_MS);
    until_cancelled();
    return NULL;
}

/* Cancel a thread that does so while the daemon is stopped. */
static void cancel_while_it_waits(const fixture *f, void *(*fn)(void *))
{
    pthread_t thread;
    void *ended;

    waits_stop_daemon(f);
    CHECK(pthread_create(&thread, NULL, fn, NULL) == 0);
    waits_sleep_ms(50);
    CHECK(pthread_cancel(thread) == 0);
    waits_sleep_ms(10);
    CHECK(!atomic_load(&has_come_back));
    check_fork_is_quick();
    waits_continue_daemon(f);
    CHECK(pthread_join(thread, &ended) == 0 && ended == PTHREAD_CANCELED);
    CHECK(atomic_load(&has_come_back)); /* it did not end within the library */
}

static int cancel_a_request(const fixture *f, void *arg)
{
    (void)arg;
    waits_start(f, TIMEOUT_MS);
    cancel_while_it_waits(f, ask_and_go_on);
    check_everybody_is_served();
    return 0;
}

static void thread_cancelled_in_a_request_holds_nobody_up(void **state)
{
    fixture *f = *state;

    assert_int_equal(child_run(f, cancel_a_request, NULL), 0);
    assert_true(fixture_is_clean(f, 0));
}

static int cancel_the_first_attach(const fixture *f, void *arg)
{
    (void)arg;
    waits_not_for_ever();
    the_fixture = f;
    cancel_while_it_waits(f, attach_and_go_on);
    CHECK(waits_attach(f, TIMEOUT_MS) == -EALREADY);
    check_everybody_is_served();
    return 0;
}

static void thread_cancelled_in_the_first_attach_holds_nobody_up(void **state)
{
    fixture *f = *state;

    assert_int_equal(child_run(f, cancel_the_first_attach, NULL), 0);
    assert_true(fixture_is_clean(f, 0));
}

/* --- many --- */

#define THREADS 4
#define OBJECTS 64
#define CANCELS 150

typedef struct churner {
    pthread_t thread;
    uint64_t seed;
    void *objects[OBJECTS]; /* what it has allocated: a thread that ends leaves them to whoever waits for it */
} churner;

static size_t random_size(uint64_t r)
{
    return r % 16 == 0 ? WAITS_ASKED_BYTES + r % 100000 : 1 + r % 60000;
}

/* All kinds of requests. Nothing here is a cancellation point but the one that says so. */
static void *churn(void *arg)
{
    churner *c = arg;

    for (;;) {
        uint64_t r = test_random(&c->seed);
        void **place = &c->objects[r % OBJECTS];
        void *p = *place;

        if (p == NULL) {
            *place = goalloc_malloc(random_size(r >> 16));
            CHECK(*place != NULL);
        } else {
            *place = NULL;
            goalloc_free(p);
        }
        if (r >> 60 == 0)
            CHECK(goalloc_trim() == 0);
        pthread_testcancel();
    }
    return NULL;
}

static void start_churner(churner *c, uint64_t seed)
{
    c->seed = seed;
    CHECK(pthread_create(&c->thread, NULL, churn, c) == 0);
}

static void end_churner(churner *c)
{
    void *ended;

    CHECK(pthread_join(c->thread, &ended) == 0 && ended == PTHREAD_CANCELED);
    for (size_t i = 0; i < OBJECTS; i++) {
        goalloc_free(c->objects[i]);
        c->objects[i] = NULL;
    }
}

static int cancel_at_random(const fixture *f, void *arg)
{
    static churner churners[THREADS];
    uint64_t seed = *(uint64_t *)arg;

    waits_start(f, TIMEOUT_MS);
    for (size_t i = 0; i < THREADS; i++)
        start_churner(&churners[i], test_random(&seed));
    for (size_t n = 0; n < CANCELS; n++) {
        churner *c = &churners[test_random(&seed) % THREADS];
        bool stopped = test_random(&seed) % 8 == 0;

        (void)usleep((useconds_t)(test_random(&seed) % 2000));
        if (stopped)
            waits_stop_daemon(f);
        CHECK(pthread_cancel(c->thread) == 0);
        if (stopped)
            waits_continue_daemon(f);
        end_churner(c);
        start_churner(c, test_random(&seed));
    }
    check_fork_is_quick();
    for (size_t i = 0; i < THREADS; i++) {
        CHECK(pthread_cancel(churners[i].thread) == 0);
        end_churner(&churners[i]);
    }
    check_everybody_is_served();
    return 0;
}

static void threads_cancelled_at_random_hold_nobody_up_and_lose_nothing(void **state)
{
    fixture *f = *state;
    uint64_t seed = test_seed();

    assert_int_equal(child_run(f, cancel_at_random, &seed), 0);
    assert_true(fixture_is_clean(f, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(thread_cancelled_in_a_request_holds_nobody_up),
        FIXTURE_TEST(thread_cancelled_in_the_first_attach_holds_nobody_up),
        FIXTURE_TEST(threads_cancelled_at_random_hold_nobody_up_and_lose_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
