/*
 * Large runs, as the daemon sees them: who may end their leases, and when; by sessions without the library.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>

#include "tests/support/rawheap.h"

#define RUN_PAGES 40u

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
    rawheap_fill(heap, run);
    return run;
}

static void free_by_another(const rawheap *other, page_no run)
{
    (void)u64_fetch_or_acq_rel(shm_remote_word(&other->map, run, 0), 1);
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
    (void)u64_fetch_or_acq_rel(shm_remote_word(&owner.map, page_at(run), 0), 1);
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
    /* And spans are as they were: what is named there and not leased is passed over. */
    rawheap_open(&owner, f, 0, "owner");
    named[5] = rawheap_alloc_large(&owner, RUN_PAGES).n;
    assert_int_equal(rawheap_return(&owner, &named[5], 1, NULL, 0), 0);
    assert_int_equal(rawheap_return(&owner, &named[5], 1, NULL, 0), 0); /* ignored */
    rawheap_close(&owner);
    assert_true(fixture_is_clean(f, 0));
}

/* --- two that free one object at the same time --- */

#define CLAIM_ROUNDS 4000
#define CLAIM_SPINS 256u /* the lessee comes so much later when it has won, else earlier: so the two meet often */

typedef struct claimer {
    const rawheap *heap;
    shm_u32 run;  /* to be freed; 0: it has been */
    shm_u32 won;  /* the lessee saw the object's bit go */
    shm_u32 over; /* there is no other run */
    uint64_t seed;
    uint64_t nspins;
} claimer;

/* The lessee's free: who sees the alloc bit go has the run. */
static void *free_as_the_lessee(void *data)
{
    claimer *c = data;

    while (u32_load_acquire(&c->over) == 0) {
        uint32_t run = u32_load_acquire(&c->run);

        if (run == 0)
            continue;
        for (uint64_t i = c->nspins + test_random(&c->seed) % CLAIM_SPINS; i > 0; i--)
            (void)u32_load_acquire(&c->over);
        u32_store_release(&c->won,
                          u64_fetch_and_acq_rel(shm_alloc_word(&c->heap->map, page_at(run), 0), ~UINT64_C(1)) & 1);
        u32_store_release(&c->run, 0);
    }
    return NULL;
}

static void free_by_lessee_and_by_another_has_one_winner(void **state)
{
    const fixture *f = *state;
    claimer c = { .seed = test_seed() };
    rawheap owner;
    rawheap other;
    pthread_t thread;
    unsigned nwon = 0;

    rawheap_open(&owner, f, 0, "owner");
    rawheap_open(&other, f, 0, "other");
    c.heap = &owner;
    assert_int_equal(pthread_create(&thread, NULL, free_as_the_lessee, &c), 0);
    for (int i = 0; i < CLAIM_ROUNDS; i++) {
        page_no run = run_with_object(&owner);
        uint32_t name = run.n;

        (void)u64_fetch_or_acq_rel(shm_remote_word(&other.map, run, 0), 1);
        u32_store_release(&c.run, run.n);
        assert_int_equal(rawheap_free_large(&other, run), 0);
        while (u32_load_acquire(&c.run) != 0)
            ;
        if (u32_load_acquire(&c.won) != 0) { /* then it is the lessee's, and no sweep may end the lease */
            nwon++;
            c.nspins += test_random(&c.seed) % CLAIM_SPINS;
            assert_true(rawheap_leases(&owner, run));
            assert_int_equal(rawheap_return(&owner, &name, 1, NULL, 0), 0);
        } else {
            c.nspins -= c.nspins < CLAIM_SPINS ? c.nspins : test_random(&c.seed) % CLAIM_SPINS;
            assert_false(rawheap_leases(&owner, run));
        }
    }
    u32_store_release(&c.over, 1);
    assert_int_equal(pthread_join(thread, NULL), 0);
    (void)printf("the lessee won %u times of %d\n", nwon, CLAIM_ROUNDS);
    rawheap_close(&owner);
    rawheap_close(&other);
    assert_true(fixture_is_clean(f, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(return_of_a_run_that_another_has_freed_is_passed_over),
        FIXTURE_TEST(return_of_a_run_without_object_frees_its_pages),
        FIXTURE_TEST(return_of_a_reclaiming_sessions_run_keeps_a_live_object),
        FIXTURE_TEST(return_of_a_run_that_is_none_disconnects),
        FIXTURE_TEST(free_by_lessee_and_by_another_has_one_winner),
    };

    return cmocka_run_group_tests_name("runs in the daemon", tests, NULL, NULL);
}
