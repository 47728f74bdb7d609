/*
 * A worker of the pool (tests/examples/pool.c) is killed after each instruction of a request, and another one goes on
 * under its number: the table must be what the requests make it.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

int pool_main(int argc, char **argv);
#define main pool_main
#include "tests/examples/pool.c"
#undef main
#include "tests/support/kill_steps.h"

#define NAFTER 20 /* requests of the one who comes after: some in other stripes, before the repair */

static uint64_t request_under_test;

static void do_requests(table *t, uint64_t n)
{
    entry *spare = NULL;

    while (n-- > 0)
        assert_int_equal(worker_turn(t, 0, &spare), 0);
    goalloc_free(spare);
}

static void *prepare(void)
{
    table *t = NULL;

    assert_int_equal(table_get(1, &t), 0);
    do_requests(t, request_under_test - 1);
    return t;
}

static void check(void *arg, uint64_t nsteps)
{
    table *t = arg;
    uint64_t ndone;

    do_requests(t, NAFTER);
    if (!table_check(t, &ndone) || ndone < request_under_test + NAFTER || ndone > request_under_test + 1 + NAFTER)
        fail_msg("after %llu instructions of request %llu the table is wrong", (unsigned long long)nsteps,
                 (unsigned long long)request_under_test);
    assert_int_equal(goalloc_root_set(ROOT, NULL), 0);
    table_free(t);
}

static int request_in_steps(const fixture *f, void *arg)
{
    table *t = arg;
    entry *spare = NULL;
    void *first = goalloc_malloc(1);

    (void)f;
    CHECK(first != NULL && goalloc_publish(first) == 0 && steps_begin());
    goalloc_free(first);
    CHECK(worker_turn(t, 0, &spare) == 0); /* what is bound at the first call is bound */
    if (spare == NULL)
        spare = goalloc_malloc(sizeof(*spare));
    steps_mark();
    (void)worker_turn(t, 0, &spare);
    steps_mark();
    return 0;
}

/* The first request from `from` on that finds its key in the table, or does not. */
static uint64_t find_request(uint64_t from, bool finds)
{
    static int64_t values[NKEYS];

    memset(values, 0, sizeof(values));
    for (uint64_t n = 0;; n++) {
        request q = request_of(0, n);

        if (n >= from && n % 2 == from % 2 && q.delta != 0 && (values[q.key] > 0) == finds)
            return n;
        values[q.key] += q.delta;
    }
}

static void request_of_a_killed_worker_is_done_once(void **state)
{
    const uint64_t requests[] = { find_request(2, false), find_request(2, true), find_request(2 * LAG + 1, true) };
    const kill_steps k = { request_in_steps, prepare, check };
    const fixture *f = *state;

    must_attach(f, GOALLOC_ATTACH_RECLAIM);
    for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
        request_under_test = requests[i];
        (void)kill_steps_run(f, &k);
    }
    assert_int_equal(goalloc_detach(), 0);
    assert_true(fixture_is_clean(f, 0)); /* no death has lost an entry */
}

int main(void)
{
    const struct CMUnitTest tests[] = { FIXTURE_TEST(request_of_a_killed_worker_is_done_once) };

    return cmocka_run_group_tests_name("pool_steps", tests, NULL, NULL);
}
