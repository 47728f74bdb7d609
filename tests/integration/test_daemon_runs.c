/*
 * Large runs, as the daemon sees them: who may end their leases, and when; by sessions without the library.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "tests/support/rawheap.h"

#define RUN_PAGES 40u

static int setup(void **state)
{
    fixture *f = malloc(sizeof(*f));

    fixture_start(f, NULL);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    bool whole = fixture_is_whole(f);
    bool clean = fixture_stop(f);

    free(f);
    return clean && whole ? 0 : -1;
}

static uint64_t live_objects(const fixture *f)
{
    goalloc_stats_t stats;

    fixture_stats(f, &stats);
    return stats.live_objects;
}

/* A run with a live object in it. */
static page_no run_with_object(const rawheap *heap)
{
    page_no run = rawheap_alloc_large(heap, RUN_PAGES);

    assert_int_not_equal(run.n, 0);
    u64_store_release(shm_alloc_bits(&heap->map, run), 1);
    return run;
}

static void free_by_another(const rawheap *other, page_no run)
{
    (void)u64_fetch_or_acq_rel(shm_remote_bits(&other->map, run), 1);
    assert_int_equal(rawheap_free_large(other, run), 0);
}

/* --- returns of runs that the session may not lease any more --- */

static void return_of_a_run_that_another_has_freed_is_passed_over(void **state)
{
    const fixture *f = *state;
    rawheap owner;
    rawheap other;
    uint32_t runs[3];

    rawheap_open(&owner, f, 0, "owner");
    rawheap_open(&other, f, 0, "other");
    for (int i = 0; i < 3; i++)
        runs[i] = run_with_object(&owner).n;
    rawheap_disconnect(&owner);
    free_by_another(&other, page_at(runs[0])); /* free pages by now, */
    free_by_another(&other, page_at(runs[1])); /* or the other's: it is as long, and first fit */
    assert_int_equal(rawheap_alloc_large(&other, RUN_PAGES).n, runs[0] < runs[1] ? runs[0] : runs[1]);

    assert_int_equal(rawheap_come_back(&owner, f), 0);
    assert_int_equal(rawheap_return(&owner, NULL, 0, runs, 3), 0);
    assert_false(rawheap_leases(&owner, page_at(runs[2])));
    assert_int_equal(live_objects(f), 1); /* the third one's: the heap's now */
    assert_int_equal(rawheap_return(&owner, NULL, 0, runs, 3), 0);

    free_by_another(&other, page_at(runs[2]));
    assert_int_equal(live_objects(f), 0);
    rawheap_close(&owner);
    rawheap_close(&other);
    assert_true(fixture_is_clean(f, 0));
}

static void return_of_a_run_without_object_frees_its_pages(void **state)
{
    const fixture *f = *state;
    rawheap owner;
    uint32_t run;

    rawheap_open(&owner, f, GOALLOC_ATTACH_RECLAIM, "owner");
    run = rawheap_alloc_large(&owner, RUN_PAGES).n;
    assert_int_equal(rawheap_return(&owner, NULL, 0, &run, 1), 0);
    assert_int_equal(u64_load_acquire(&shm_span_at(&owner.map, page_at(run))->lease), 0);
    rawheap_close(&owner);
}

/* It is the session's own, so the end of the lease would free it under whoever has a pointer to it. */
static void return_of_a_reclaiming_sessions_run_keeps_a_live_object(void **state)
{
    const fixture *f = *state;
    rawheap owner;
    uint32_t run;

    rawheap_open(&owner, f, GOALLOC_ATTACH_RECLAIM, "owner");
    run = run_with_object(&owner).n;
    assert_int_equal(rawheap_return(&owner, NULL, 0, &run, 1), 0);
    assert_int_equal(live_objects(f), 1);
    assert_true(rawheap_leases(&owner, page_at(run)));
    (void)u64_fetch_or_acq_rel(shm_remote_bits(&owner.map, page_at(run)), 1);
    assert_int_equal(rawheap_return(&owner, NULL, 0, &run, 1), 0);
    assert_int_equal(live_objects(f), 0);
    assert_false(rawheap_leases(&owner, page_at(run)));
    rawheap_close(&owner);
}

static void return_of_a_run_that_is_none_disconnects(void **state)
{
    const fixture *f = *state;
    rawheap owner;
    uint32_t named[6] = { 0, 0, 0, 0, UINT32_MAX, 0 };

    for (int i = 0; i < 5; i++) {
        rawheap_open(&owner, f, 0, "owner");
        named[0] = 0;
        assert_int_equal(rawheap_refill(&owner, 20, 0, 1, &named[1]), 1); /* of small objects */
        assert_int_equal(rawheap_refill(&owner, 0, 9, 1, &named[2]), 1);  /* a run that came by a refill */
        named[3] = (uint32_t)owner.map.npages;
        assert_int_equal(rawheap_return(&owner, NULL, 0, &named[i], 1), -1);
        rawheap_close(&owner);
    }
    /* And spans are as they were: what is named there must be leased. */
    rawheap_open(&owner, f, 0, "owner");
    named[5] = rawheap_alloc_large(&owner, RUN_PAGES).n;
    assert_int_equal(rawheap_return(&owner, &named[5], 1, NULL, 0), 0);
    assert_int_equal(rawheap_return(&owner, &named[5], 1, NULL, 0), -1);
    rawheap_close(&owner);
    assert_true(fixture_is_clean(f, 0));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(return_of_a_run_that_another_has_freed_is_passed_over),
        TEST(return_of_a_run_without_object_frees_its_pages),
        TEST(return_of_a_reclaiming_sessions_run_keeps_a_live_object),
        TEST(return_of_a_run_that_is_none_disconnects),
    };

    return cmocka_run_group_tests_name("runs in the daemon", tests, NULL, NULL);
}
