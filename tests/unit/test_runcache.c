/*
 * The cache of freed runs: which run an object gets, how much is kept, and random operations against a naive model of
 * what is kept and what is lent.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client/lib/runcache.h"

#define RUNS 2000u
#define STEPS 200000u

typedef struct world {
    runcache rc;
    runcache_out out;
} world;

static int setup(void **state)
{
    *state = calloc(1, sizeof(world));
    return *state == NULL;
}

static int teardown(void **state)
{
    assert_true(runcache_validate(&((world *)*state)->rc));
    free(*state);
    return 0;
}

static void put(world *w, uint64_t run, uint64_t npages)
{
    w->out.n = 0;
    runcache_put(&w->rc, page_at(run), npages, false, &w->out);
    assert_true(runcache_validate(&w->rc));
}

static uint32_t take(world *w, uint64_t npages)
{
    return runcache_take(&w->rc, npages, 0, 1, false).n;
}

static void take_gives_the_closest_bin_that_fits(void **state)
{
    world *w = *state;

    put(w, 100, 50);
    put(w, 200, 40);
    put(w, 300, 34);
    assert_int_equal(take(w, 51), 0);
    assert_int_equal(take(w, 35), 200);
    assert_int_equal(take(w, 34), 300);
    assert_int_equal(take(w, 12), 0); /* more than 4 times too long */
    assert_int_equal(take(w, 13), 100);
    assert_int_equal(w->rc.nslack_pages, 5 + 37);
    put(w, 100, 50); /* the object is freed: nothing is lent any more */
    assert_int_equal(w->rc.nslack_pages, 5);
    runcache_forget(&w->rc, page_at(200));
    assert_int_equal(w->rc.nslack_pages, 0);
}

static void take_keeps_noscan_and_alignment_apart(void **state)
{
    world *w = *state;

    put(w, 101, 40);
    assert_int_equal(runcache_take(&w->rc, 40, 0, 1, true).n, 0);
    assert_int_equal(runcache_take(&w->rc, 40, 0, 4, false).n, 0);
    assert_int_equal(runcache_take(&w->rc, 40, 3, 4, false).n, 101); /* counted from the arena's first page */
}

static void take_at_finds_only_what_is_kept(void **state)
{
    world *w = *state;
    uint64_t npages = 0;

    put(w, 100, 40);
    assert_int_equal(runcache_take_at(&w->rc, page_at(101), &npages).n, 0);
    assert_int_equal(take(w, 20), 100);
    assert_int_equal(runcache_take_at(&w->rc, page_at(100), &npages).n, 0); /* lent */
    put(w, 100, 40);
    assert_int_equal(runcache_take_at(&w->rc, page_at(100), &npages).n, 100);
    assert_int_equal(npages, 40);
}

static void the_budget_rises_when_what_went_back_is_missed_and_sinks_with_growth(void **state)
{
    world *w = *state;

    put(w, 1000, RUNCACHE_MIN_PAGES + 1);
    assert_int_equal(w->out.n, 1); /* too long to be kept */
    runcache_note_miss(&w->rc, RUNCACHE_MIN_PAGES, &w->out);
    assert_int_equal(w->rc.budget, RUNCACHE_MIN_PAGES + 8 * (RUNCACHE_MIN_PAGES + 1));
    put(w, 1000, RUNCACHE_MIN_PAGES + 1);
    assert_int_equal(w->out.n, 0);
    assert_int_equal(take(w, RUNCACHE_MIN_PAGES), 1000);
    put(w, 1000, RUNCACHE_MIN_PAGES + 1);
    w->out.n = 0;
    for (uint64_t npages = 1; npages < 10 * RUNCACHE_MIN_PAGES; npages *= 2) /* nothing like that was ever there */
        runcache_note_miss(&w->rc, npages * 100, &w->out);
    assert_int_equal(w->rc.budget, RUNCACHE_MIN_PAGES);
    assert_int_equal(w->out.n, 1);
    assert_int_equal(w->out.runs[0], 1000);
}

static void the_oldest_go_back_first(void **state)
{
    world *w = *state;

    for (uint64_t i = 1; i <= RUNCACHE_MIN_PAGES / 32; i++)
        put(w, i * 100, 32);
    assert_int_equal(w->out.n, 0);
    put(w, 9000, 32);
    assert_true(w->out.n >= 1);
    assert_int_equal(w->out.runs[0], 100);
    w->out.n = 0;
    runcache_empty(&w->rc, &w->out);
    assert_int_equal(w->rc.nkept_pages, 0);
    assert_int_equal(w->out.runs[w->out.n - 1], 9000);
}

/* Each run is an object's ('o'), kept ('k'), or the daemon's (0). */
static void random_operations_agree_with_the_model(void **state)
{
    world *w = *state;
    unsigned seed = (unsigned)time(NULL);
    static char where[RUNS];
    static uint64_t npages[RUNS];
    uint64_t nkept = 0;

    print_message("seed %u\n", seed);
    srand(seed);
    memset(where, 0, sizeof(where));
    for (unsigned step = 0; step < STEPS; step++) {
        uint32_t i = 1 + (uint32_t)rand() % (RUNS - 1);
        uint64_t want = 1 + (uint64_t)rand() % (UINT64_C(1) << rand() % 10);
        uint64_t length = 0;

        w->out.n = 0;
        switch (where[i]) {
        case 0: /* an object is allocated */
            i = take(w, want);
            if (i == 0) {
                runcache_note_miss(&w->rc, want, &w->out);
                break;
            }
            assert_int_equal(where[i], 'k');
            assert_true(npages[i] >= want && npages[i] <= want * 4);
            where[i] = 'o';
            nkept -= npages[i];
            break;
        case 'k':
            assert_int_equal(runcache_take_at(&w->rc, page_at(i), &length).n, i);
            assert_int_equal(length, npages[i]);
            where[i] = 0;
            nkept -= npages[i];
            break;
        default: /* it is freed by this process, or by another one */
            if (rand() % 4 == 0) {
                runcache_forget(&w->rc, page_at(i));
                where[i] = 0;
                break;
            }
            runcache_put(&w->rc, page_at(i), npages[i], false, &w->out);
            where[i] = 'k';
            nkept += npages[i];
        }
        for (uint32_t n = 0; n < w->out.n; n++) {
            assert_int_equal(where[w->out.runs[n]], 'k');
            where[w->out.runs[n]] = 0;
            nkept -= npages[w->out.runs[n]];
        }
        if (i == 0 || where[i] == 0) { /* the daemon gives one */
            for (i = 1; i < RUNS && where[i] != 0; i++)
                ;
            if (i < RUNS) {
                where[i] = 'o';
                npages[i] = want;
            }
        }
        assert_int_equal(w->rc.nkept_pages, nkept);
        if (step % 64 == 0)
            assert_true(runcache_validate(&w->rc));
    }
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(take_gives_the_closest_bin_that_fits),
        TEST(take_keeps_noscan_and_alignment_apart),
        TEST(take_at_finds_only_what_is_kept),
        TEST(the_budget_rises_when_what_went_back_is_missed_and_sinks_with_growth),
        TEST(the_oldest_go_back_first),
        TEST(random_operations_agree_with_the_model),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
