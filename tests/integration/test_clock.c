/*
 * A date that is wrong: this program has the clock that tells the date run an hour ahead or behind. How long the
 * library waits for another thread does not depend on it.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <time.h>

#include "tests/support/waits.h"

#define TIMEOUT_MS 2000
#define HOUR_S 3600

static time_t ahead_s;
static atomic_uint ncalls;

/* In place of libc's, for the library too. */
__attribute__((visibility("default"))) int clock_gettime(clockid_t clock, struct timespec *ret)
{
    int r = (int)syscall(SYS_clock_gettime, clock, ret);

    atomic_fetch_add(&ncalls, 1);
    if (r == 0 && clock == CLOCK_REALTIME)
        ret->tv_sec += ahead_s;
    return r;
}

static const time_t dates_s[] = { HOUR_S, -HOUR_S };

static const fixture *the_fixture;

static atomic_bool has_begun;

/* The result of a request: 0, or -errno. */
static int ask(void)
{
    void *p = waits_ask();
    int r = p == NULL ? -errno : 0;

    goalloc_free(p);
    return r;
}

static int attach(void)
{
    return waits_attach(the_fixture, TIMEOUT_MS);
}

typedef struct waiter {
    int (*fn)(void);
} waiter;

static void *wait_in_a_thread(void *arg)
{
    const waiter *w = arg;

    atomic_store(&has_begun, true);
    (void)w->fn();
    return NULL;
}

/* Two threads do fn while the daemon is stopped: the second waits for the first, and each for its own time-out. */
static void wait_behind_another(const fixture *f, int (*fn)(void))
{
    waiter w = { fn };
    pthread_t thread;
    int64_t begin;
    int64_t took;

    waits_stop_daemon(f);
    CHECK(pthread_create(&thread, NULL, wait_in_a_thread, &w) == 0);
    while (!atomic_load(&has_begun))
        waits_sleep_ms(1);
    waits_sleep_ms(100);
    begin = waits_now_ms();
    CHECK(fn() == -ETIMEDOUT);
    took = waits_now_ms() - begin;
    waits_continue_daemon(f);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(took >= TIMEOUT_MS / 2 && took < TIMEOUT_MS + TIMEOUT_MS / 2);
}

/* arg: by how much the date is wrong. */
static int wait_behind_a_request(const fixture *f, void *arg)
{
    unsigned before;
    void *p;

    ahead_s = *(const time_t *)arg;
    waits_not_for_ever();
    before = atomic_load(&ncalls);
    CHECK(waits_attach(f, TIMEOUT_MS) == 0);
    CHECK(atomic_load(&ncalls) > before); /* the library has asked this program's clock */
    wait_behind_another(f, ask);
    CHECK(waits_served_within(TIMEOUT_MS, &p));
    goalloc_free(p);
    return 0;
}

static void request_waits_for_another_by_no_date(void **state)
{
    fixture *f = *state;

    for (size_t i = 0; i < sizeof(dates_s) / sizeof(dates_s[0]); i++) {
        assert_int_equal(child_run(f, wait_behind_a_request, (void *)(uintptr_t)&dates_s[i]), 0);
        assert_true(fixture_is_clean(f, 0));
    }
}

static int wait_behind_the_first_attach(const fixture *f, void *arg)
{
    void *p;
    int r;

    ahead_s = *(const time_t *)arg;
    the_fixture = f;
    waits_not_for_ever();
    wait_behind_another(f, attach);
    r = attach();
    CHECK(r == 0 || r == -EALREADY);
    CHECK(waits_served_within(TIMEOUT_MS, &p));
    goalloc_free(p);
    return 0;
}

static void first_attach_waits_for_another_by_no_date(void **state)
{
    fixture *f = *state;

    for (size_t i = 0; i < sizeof(dates_s) / sizeof(dates_s[0]); i++) {
        assert_int_equal(child_run(f, wait_behind_the_first_attach, (void *)(uintptr_t)&dates_s[i]), 0);
        assert_true(fixture_is_clean(f, 0));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(request_waits_for_another_by_no_date),
        FIXTURE_TEST(first_attach_waits_for_another_by_no_date),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
