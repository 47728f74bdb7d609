/*
 * The background scavenger without a daemon: its share of the CPU on a simulated clock, and how much it wants to
 * release, by a table.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>

#include "daemon/serve/scavenge.h"
#include "tests/support/fixture.h"
#include "tests/support/release.h"

/* --- pace --- */

typedef struct pace_row {
    const char *what;
    uint64_t page_ns;    /* cost of a page */
    uint64_t jitter_ns;  /* cost of a page varies by up to this */
    uint64_t late_ns;    /* the timer fires up to this late */
    uint64_t fixed_ns;   /* cost of a piece of work whatever its length */
} pace_row;

static void background_scavenger_takes_one_percent_of_a_simulated_cpu(void **state)
{
    static const pace_row rows[] = {
        { "cheap pages", 200, 0, 0, 0 },
        { "usual pages", 1600, 0, 0, 0 },
        { "usual pages, inexact timers", 1600, 800, 2000000, 20000 },
        { "slow pages", 50000, 10000, 1000000, 0 },
        { "very slow pages", 2000000, 1500000, 1000000, 0 },
        { "coarse timers", 1600, 0, 20000000, 0 },
        { "costly calls", 1600, 0, 0, 500000 },
    };
    uint64_t seed = test_seed();

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        scavpace pace = { 0 };
        uint64_t now_ns = 0;
        uint64_t worked_ns = 0;
        uint64_t slept_ns = 0;
        uint64_t npages_all = 0;
        double percent;

        while (now_ns < UINT64_C(60000000000)) { /* a minute */
            uint64_t npages = scavpace_npages(&pace, 1 << 20);
            uint64_t work_ns = rows[i].fixed_ns;

            assert_true(npages >= 8 && npages % 8 == 0);
            for (uint64_t n = 0; n < npages; n++)
                work_ns += rows[i].page_ns + (rows[i].jitter_ns ? test_random(&seed) % rows[i].jitter_ns : 0);
            now_ns += work_ns;
            worked_ns += work_ns;
            npages_all += npages;
            slept_ns = scavpace_worked(&pace, npages, work_ns, slept_ns);
            slept_ns += rows[i].late_ns ? test_random(&seed) % rows[i].late_ns : 0;
            now_ns += slept_ns;
        }
        percent = 100.0 * (double)worked_ns / (double)now_ns;
        (void)printf("%-28s %.3f%% of a CPU, %.1f MiB/s\n", rows[i].what, percent,
                     (double)npages_all * PAGE_BYTES / (double)MIB / 60);
        assert_true(percent > 0.5 && percent < 1.5);
    }
}

static void scavenger_that_has_slept_long_does_not_work_in_a_burst(void **state)
{
    scavpace pace = { 0 };
    uint64_t sleep_ns;

    (void)state;
    (void)scavpace_worked(&pace, 8, 1000000, 0);
    (void)scavpace_worked(&pace, 8, 1000000, UINT64_C(3600000000000)); /* an hour later */
    sleep_ns = scavpace_worked(&pace, 8, 1000000, 0);
    assert_true(sleep_ns >= 150000000); /* two pieces of work owe 198 ms, 10 ms of which the hour has paid */
    /* A clock that jumps is no reason to sleep for ever. */
    assert_true(scavpace_worked(&pace, 8, UINT64_MAX, 0) <= UINT64_C(1000000000000));
    assert_true(scavpace_worked(&pace, 0, 0, UINT64_MAX) >= 1000000);
    assert_int_equal(scavpace_npages(&pace, 5), 5);
}

/* --- goal --- */

typedef struct goal_row {
    uint64_t inuse;    /* pages in spans */
    uint64_t free;     /* free pages with memory */
    uint64_t recorded; /* peak of the last generation */
    uint64_t peak;     /* of this one so far */
    unsigned nquiet;
    uint64_t limit; /* in pages; 0: none */
    bool keeps_stock;
    uint64_t surplus;
} goal_row;

static void scavenger_wants_what_is_above_its_goals(void **state)
{
    static const goal_row rows[] = {
        /* 10% above the recorded peak stay. */
        { 1000, 0, 1000, 1000, 0, 0, false, 0 },
        { 1000, 100, 1000, 1000, 0, 0, false, 0 },
        { 1000, 101, 1000, 1000, 0, 0, false, 1 },
        { 1000, 1000, 1000, 1000, 0, 0, false, 900 },
        { 1000, 1000, 2000, 1000, 0, 0, false, 0 },
        { 1000, 1300, 2000, 1000, 0, 0, false, 100 },
        { 1000, 1300, 1000, 2000, 0, 0, false, 100 },
        { 1, 2000, 1000, 1, 0, 0, false, 901 },
        /* They halve while nothing is put into use. */
        { 1000, 1000, 1000, 1000, 1, 0, false, 950 },
        { 1000, 1000, 1000, 1000, 2, 0, false, 975 },
        { 1000, 1000, 1000, 1000, 16, 0, false, 1000 },
        { 1, 1000, 1, 1, 16, 0, false, 1000 },
        /* 95% of a limit. */
        { 1000, 100, 1000, 1000, 0, 2000, false, 0 },
        { 1000, 100, 1000, 1000, 0, 1100, false, 55 },
        { 1000, 100, 1000, 1000, 0, 1000, false, 100 },
        { 1000, 100, 1000, 1000, 0, 100, false, 100 },
        { 1000, 1000, 3000, 1000, 0, 1000, false, 1000 },
        { 1000, 1000, 3000, 1000, 0, 2000, false, 100 },
        /* A stock of 1024 pages stays on top of the peak, within the limit. */
        { 1, 1024, 1, 1, 16, 0, true, 0 },
        { 1, 1025, 1, 1, 16, 0, true, 1 },
        { 1, 1524, 501, 1, 0, 0, true, 0 },
        { 1, 1525, 501, 1, 0, 0, true, 1 },
        { 501, 500, 501, 501, 0, 0, true, 0 },
        { 12000, 1300, 12000, 12000, 0, 0, true, 100 },
        { 12000, 1300, 12000, 12000, 1, 0, true, 276 },
        { 1000, 1000, 1000, 1000, 0, 2000, true, 100 },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        static scavenger s;
        heapfile file;
        mheap heap;
        page_no inuse;
        page_no free;
        uint64_t nscavenged;
        span_class large = { 0 };

        assert_int_equal(heapfile_create(&file, SHM_BASE_DEFAULT, 128 * MIB), 0);
        assert_int_equal(mheap_init(&heap, &file, rows[i].limit * PAGE_BYTES), 0);
        assert_int_equal(mheap_alloc_span(&heap, rows[i].inuse, 1, large, &inuse, &nscavenged), 0);
        if (rows[i].free != 0) {
            assert_int_equal(mheap_alloc_span(&heap, rows[i].free, 1, large, &free, &nscavenged), 0);
            mheap_free_span(&heap, free, false);
        }
        heap.npeak_pages = rows[i].peak;
        heap.book.nunits = heap.book.nfixed = 0;
        s = (scavenger){ .heap = &heap, .keeps_stock = rows[i].keeps_stock };
        s.recorded_pages = rows[i].recorded;
        s.nquiet = rows[i].nquiet;
        assert_int_equal(mheap_committed_pages(&heap), rows[i].inuse + rows[i].free);
        assert_int_equal(scavenge_surplus_pages(&s), rows[i].surplus);
        mheap_end(&heap);
        heapfile_close(&file);
    }
}

static page_range take_to_release(mheap *heap, uint64_t npages)
{
    return mheap_take_aside(heap, ASIDE_RELEASE, (page_range){ .npages = npages }, NULL);
}

static void background_release_skips_dense_chunks_until_a_generation_has_passed(void **state)
{
    heapfile file;
    mheap heap;
    page_no spans[512];
    uint64_t nscavenged;

    (void)state;
    assert_int_equal(heapfile_create(&file, SHM_BASE_DEFAULT, 128 * MIB), 0);
    assert_int_equal(mheap_init(&heap, &file, 0), 0);
    for (int i = 0; i < 511; i++) /* the first chunk, but for page 0 */
        assert_int_equal(mheap_alloc_span(&heap, 1, 1, (span_class){ 0 }, &spans[i], &nscavenged), 0);
    pagealloc_next_gen(heap.pages);
    for (int i = 0; i < 100; i++)
        mheap_free_span(&heap, spans[i], false);
    /* It was full when the generation ended. */
    assert_int_equal(take_to_release(&heap, 8).npages, 0);
    pagealloc_next_gen(heap.pages);

    page_range run = take_to_release(&heap, 8);

    assert_int_equal(run.first.n, 93); /* pages 1 to 100 are free, and the highest of them go first */
    assert_int_equal(run.npages, 8);
    mheap_put_back(&heap, ASIDE_RELEASE, run, true);
    assert_int_equal(pagealloc_validate(heap.pages, stderr), 0);
    mheap_end(&heap);
    heapfile_close(&file);
}

static void runs_that_are_being_released_make_no_chunk_dense(void **state)
{
    heapfile file;
    mheap heap;
    page_no spans[512];
    uint64_t nscavenged;
    page_range first;
    page_range second;
    page_range third;

    (void)state;
    assert_int_equal(heapfile_create(&file, SHM_BASE_DEFAULT, 128 * MIB), 0);
    assert_int_equal(mheap_init(&heap, &file, 0), 0);
    for (int i = 1; i < 512; i++) /* the first chunk, but for page 0: spans[i] is page i */
        assert_int_equal(mheap_alloc_span(&heap, 1, 1, (span_class){ 0 }, &spans[i], &nscavenged), 0);
    for (int i = 0; i < 32; i++) /* three free runs of 12, 12 and 8 pages; 480 pages are in use */
        mheap_free_span(&heap, spans[100 + i + i / 12], false);
    pagealloc_next_gen(heap.pages);
    pagealloc_next_gen(heap.pages);
    first = take_to_release(&heap, 512);
    assert_int_equal(first.first.n, 126);
    assert_int_equal(first.npages, 8);
    second = take_to_release(&heap, 512);
    assert_int_equal(second.first.n, 113);
    assert_int_equal(second.npages, 12);
    /* 500 pages are taken now, and a generation ends; still 480 of them are in use. */
    pagealloc_next_gen(heap.pages);
    third = take_to_release(&heap, 6);
    assert_int_equal(third.first.n, 106);
    assert_int_equal(third.npages, 6);
    mheap_put_back(&heap, ASIDE_RELEASE, first, true);
    mheap_put_back(&heap, ASIDE_RELEASE, second, true);
    mheap_put_back(&heap, ASIDE_RELEASE, third, true);
    third = take_to_release(&heap, 512);
    assert_int_equal(third.first.n, 100);
    assert_int_equal(third.npages, 6);
    mheap_put_back(&heap, ASIDE_RELEASE, third, false); /* the system didn't take it */
    assert_int_equal(pagealloc_validate(heap.pages, stderr), 0);
    third = take_to_release(&heap, 512);
    assert_int_equal(third.npages, 6);
    mheap_put_back(&heap, ASIDE_RELEASE, third, true);
    assert_int_equal(take_to_release(&heap, 512).npages, 0);
    assert_int_equal(pagealloc_validate(heap.pages, stderr), 0);
    mheap_end(&heap);
    heapfile_close(&file);
}

static page_range take_unused(mheap *heap, uint64_t page)
{
    return mheap_take_aside(heap, ASIDE_UNUSED, (page_range){ .first = page_at(page) }, NULL);
}

static void chunk_with_nothing_in_it_gives_up_its_metadata(void **state)
{
    heapfile file;
    mheap heap;
    page_no span;
    page_range chunk;
    uint64_t nscavenged;
    uint64_t before;
    holes files;

    (void)state;
    assert_int_equal(heapfile_create(&file, SHM_BASE_DEFAULT, 128 * MIB), 0);
    assert_int_equal(mheap_init(&heap, &file, 0), 0);
    assert_int_equal(mheap_alloc_span(&heap, 600, 1, (span_class){ 0 }, &span, &nscavenged), 0);
    for (int i = 0; i < 500; i++)
        assert_int_equal(mheap_alloc_span(&heap, size_class_npages[1], 1, (span_class){ 2 }, &span, &nscavenged), 0);
    assert_int_equal(take_unused(&heap, 512).npages, 0); /* it is in use */
    for (page_no pos = { 0 }; pos.n < 1536; pos.n++) {
        if (u32_load_relaxed(&heap.map->page_map[pos.n]) == pos.n && pos.n != 0)
            mheap_free_span(&heap, pos, false);
    }
    mheap_flush_cache(&heap);
    assert_int_equal(take_unused(&heap, 512).npages, 0); /* it has memory */
    heap_release(&heap, UINT64_MAX);
    before = heapfile_metadata_bytes(&file);
    chunk = take_unused(&heap, 700);
    assert_int_equal(chunk.first.n, 512);
    assert_int_equal(chunk.npages, 512);
    assert_int_equal(mheap_committed_pages(&heap), 0);
    assert_int_equal(mheap_validate(&heap, stderr), 0);
    files = heapfile_holes(&file);
    assert_int_equal(holes_punch(&files, HOLES_METADATA, chunk), 0);
    mheap_put_back(&heap, ASIDE_UNUSED, chunk, true);
    assert_true(heapfile_metadata_bytes(&file) < before);
    assert_int_equal(take_unused(&heap, 512).npages, 0); /* once is enough */
    assert_int_equal(take_unused(&heap, 0).npages, 0); /* page 0 is there */
    assert_int_equal(mheap_validate(&heap, stderr), 0);
    assert_int_equal(mheap_alloc_span(&heap, 1000, 1, (span_class){ 0 }, &span, &nscavenged), 0);
    assert_int_equal(nscavenged, 1000);
    mheap_end(&heap);
    heapfile_close(&file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(background_scavenger_takes_one_percent_of_a_simulated_cpu),
        cmocka_unit_test(scavenger_that_has_slept_long_does_not_work_in_a_burst),
        cmocka_unit_test(scavenger_wants_what_is_above_its_goals),
        cmocka_unit_test(background_release_skips_dense_chunks_until_a_generation_has_passed),
        cmocka_unit_test(runs_that_are_being_released_make_no_chunk_dense),
        cmocka_unit_test(chunk_with_nothing_in_it_gives_up_its_metadata),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
