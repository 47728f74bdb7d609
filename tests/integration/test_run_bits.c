/*
 * A remote bit that a second, faulty free by another process has left on a run without object: the run is not handed
 * out again, since the next object in it would count as freed, and be taken from who has it.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>

#include "tests/support/objects.h"
#include "tests/support/rawheap.h"

#define RUN_BYTES (SHM_RUN_BYTES_MAX + 1)
#define RUNS 3 /* as many as stay in the cache */

static page_no run_of(const unsigned char *p)
{
    return page_at(goalloc_offset(p) >> PAGE_SHIFT);
}

/* What the faulty free does between its look at the bits and its fetch_or, while the lessee frees. */
static void leave_remote_bit(const rawheap *heap, page_no run)
{
    CHECK((u64_load_acquire(shm_alloc_word(&heap->map, run, 0)) & 1) == 0);
    (void)u64_fetch_or_acq_rel(shm_remote_word(&heap->map, run, 0), 1);
}

/* All that has the daemon sweep. */
static void sweep(const fixture *f)
{
    static const char *const trim[] = { "trim", NULL };
    char out[4096];

    CHECK(fixture_ctl(f, trim, out, sizeof(out)) == 0);
    CHECK(fixture_is_whole(f));
    (void)usleep(20000);
}

/* The lessee frees RUNS objects into its cache, some get a remote bit, and it allocates again. */
static int allocate_after_faulty_frees(const fixture *f, void *arg)
{
    const uint32_t tainted = *(uint32_t *)arg; /* by number, a bit each */
    unsigned char *p[RUNS];
    page_no runs[RUNS];
    uint64_t nrpcs;
    rawheap heap;

    rawheap_open(&heap, f, 0, "faulty");
    must_attach(f, 0);
    for (size_t i = 0; i < RUNS; i++) {
        p[i] = filled(RUN_BYTES, 1);
        runs[i] = run_of(p[i]);
    }
    for (size_t i = 0; i < RUNS; i++)
        goalloc_free(p[i]);
    for (size_t i = 0; i < RUNS; i++) {
        if (tainted & 1u << i)
            leave_remote_bit(&heap, runs[i]);
    }
    nrpcs = stats_now().session_rpcs;
    for (int i = 0; i < RUNS; i++) {
        p[i] = filled(RUN_BYTES, 0x30 + i);
        /* What goes back may come again at once, and then its bits are clear. */
        CHECK(goalloc_usable_size(p[i]) >= RUN_BYTES);
        CHECK((u64_load_acquire(shm_remote_word(&heap.map, run_of(p[i]), 0)) & 1) == 0);
    }
    CHECK((stats_now().session_rpcs - nrpcs > 1) == (tainted != 0)); /* the daemon has had them in between */
    CHECK(stats_now().live_objects == RUNS);
    for (int round = 0; round < 3; round++) {
        sweep(f);
        for (int i = 0; i < RUNS; i++) {
            CHECK(goalloc_usable_size(p[i]) >= RUN_BYTES);
            CHECK(all_are(p[i], RUN_BYTES, 0x30 + i));
        }
        CHECK(stats_now().live_objects == RUNS);
    }
    for (size_t i = 0; i < RUNS; i++)
        CHECK(goalloc_free_checked(p[i]) == 0);
    CHECK(goalloc_trim() == 0 && stats_now().live_objects == 0);
    CHECK(stats_now().session_held_bytes == 0);
    rawheap_close(&heap);
    return 0;
}

static void malloc_after_a_faulty_free_gets_a_run_without_remote_bit(void **state)
{
    static uint32_t tainted[] = { 0, 1, 2, 4, 5, 7 };

    for (size_t i = 0; i < sizeof(tainted) / sizeof(tainted[0]); i++)
        assert_int_equal(child_run(*state, allocate_after_faulty_frees, &tainted[i]), 0);
    assert_false(fixture_log_has(*state, "disconnected"));
    assert_true(fixture_is_clean(*state, 0));
}

/* The run itself goes back: as long as the daemon has not seen it, nobody gets it. */
static int allocate_while_the_daemon_sleeps(const fixture *f, void *arg)
{
    unsigned char *p[3];
    page_no runs[3];
    rawheap heap;

    (void)arg;
    rawheap_open(&heap, f, 0, "faulty");
    must_attach(f, 0);
    for (int i = 0; i < 3; i++) {
        p[i] = filled(RUN_BYTES, i);
        runs[i] = run_of(p[i]);
    }
    for (int i = 0; i < 3; i++)
        goalloc_free(p[i]);
    leave_remote_bit(&heap, runs[0]);
    leave_remote_bit(&heap, runs[2]);
    CHECK(kill(f->daemon, SIGSTOP) == 0);
    p[1] = filled(RUN_BYTES, 7); /* the one that is good comes from the cache */
    CHECK(kill(f->daemon, SIGCONT) == 0);
    CHECK(run_of(p[1]).n == runs[1].n);
    sweep(f);
    CHECK(goalloc_usable_size(p[1]) >= RUN_BYTES && all_are(p[1], RUN_BYTES, 7));
    CHECK(rawheap_free_large(&heap, runs[0]) == 0); /* what the faulty process says then */
    CHECK(rawheap_free_large(&heap, runs[1]) == 0);
    CHECK(rawheap_free_large(&heap, runs[2]) == 0);
    CHECK(goalloc_usable_size(p[1]) >= RUN_BYTES && stats_now().live_objects == 1);
    goalloc_free(p[1]);
    CHECK(goalloc_trim() == 0 && stats_now().session_held_bytes == 0);
    rawheap_close(&heap);
    return 0;
}

static void malloc_while_the_daemon_sleeps_passes_over_a_tainted_run(void **state)
{
    assert_int_equal(child_run(*state, allocate_while_the_daemon_sleeps, NULL), 0);
    assert_false(fixture_log_has(*state, "disconnected"));
    assert_true(fixture_is_clean(*state, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(malloc_after_a_faulty_free_gets_a_run_without_remote_bit),
        FIXTURE_TEST(malloc_while_the_daemon_sleeps_passes_over_a_tainted_run),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
