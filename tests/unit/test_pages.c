/*
 * The page allocator, by tables: where exactly a run is found, over borders of chunks and of summary levels.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>

#include "daemon/pagealloc.h"

#define NONE UINT64_MAX

static pagealloc *grown(uint64_t npages)
{
    pagealloc *a;

    assert_int_equal(pagealloc_new(&a, npages), 0);
    pagealloc_grow(a, page_at(0), npages);
    return a;
}

static uint64_t take(pagealloc *a, uint64_t npages)
{
    page_no first;
    uint64_t nscavenged;

    return pagealloc_alloc(a, npages, &first, &nscavenged) ? first.n : NONE;
}

static void alloc_with_holes_takes_the_lowest_that_fits(void **state)
{
    /* In 4 chunks that are all taken, holes are made; then n pages are asked for. */
    static const struct {
        uint64_t holes[3][2]; /* first, npages */
        uint64_t n;
        uint64_t expected;
    } rows[] = {
        { { { 0, 1 } }, 1, 0 },
        { { { 2047, 1 } }, 1, 2047 },
        { { { 5, 1 }, { 9, 2 } }, 2, 9 },
        { { { 5, 2 }, { 9, 2 } }, 2, 5 },
        { { { 63, 2 } }, 2, 63 },
        { { { 511, 2 } }, 2, 511 },
        { { { 510, 4 } }, 4, 510 },
        { { { 500, 12 }, { 600, 13 } }, 13, 600 },
        { { { 500, 13 }, { 600, 13 } }, 13, 500 },
        { { { 0, 512 } }, 512, 0 },
        { { { 256, 512 } }, 512, 256 },
        { { { 256, 512 } }, 513, NONE },
        { { { 100, 1500 } }, 1500, 100 },
        { { { 100, 1500 } }, 1501, NONE },
        { { { 100, 400 }, { 512, 1024 } }, 1024, 512 },
        { { { 100, 412 }, { 512, 1024 } }, 1024, 100 },
        { { { 0, 63 }, { 64, 64 }, { 129, 65 } }, 65, 129 },
        { { { 0, 63 }, { 64, 64 }, { 129, 65 } }, 64, 64 },
        { { { 2000, 48 } }, 48, 2000 },
        { { { 2000, 48 } }, 49, NONE },
        { { { 0, 2048 } }, 2048, 0 },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        pagealloc *a = grown(2048);

        assert_int_equal(take(a, 2048), 0);
        for (int h = 0; h < 3 && rows[i].holes[h][1] != 0; h++)
            pagealloc_free_run(a, page_at(rows[i].holes[h][0]), rows[i].holes[h][1], false);
        assert_int_equal(pagealloc_validate(a, stderr), 0);
        assert_int_equal(take(a, rows[i].n), rows[i].expected);
        assert_int_equal(pagealloc_validate(a, stderr), 0);
        assert_null(pagealloc_free(a));
    }
}

static void alloc_until_exhausted_goes_up_by_addresses(void **state)
{
    static const uint64_t sizes[] = { 1, 2, 3, 4, 5, 8, 16, 64, 1024, 1025, 2048, 2049 };

    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        uint64_t total = 16384;
        pagealloc *a = grown(total);
        uint64_t n = sizes[i];

        for (uint64_t at = 0; at + n <= total; at += n)
            assert_int_equal(take(a, n), at);
        assert_int_equal(take(a, n), NONE);
        assert_int_equal(pagealloc_npages_free(a), total % n);
        assert_int_equal(pagealloc_validate(a, stderr), 0);
        /* One run freed in the middle is found again. */
        pagealloc_free_run(a, page_at(n * 3), n, true);
        assert_int_equal(take(a, n), n * 3);
        assert_int_equal(pagealloc_validate(a, stderr), 0);
        (void)pagealloc_free(a);
    }
}

static void search_falls_with_frees_and_rises_with_single_pages(void **state)
{
    pagealloc *a = grown(1024);

    (void)state;
    for (uint64_t i = 0; i < 1024; i++)
        assert_int_equal(take(a, 1), i);
    pagealloc_free_run(a, page_at(700), 1, false);
    pagealloc_free_run(a, page_at(3), 1, false);
    pagealloc_free_run(a, page_at(900), 2, false);
    assert_int_equal(take(a, 2), 900);
    assert_int_equal(take(a, 1), 3);
    assert_int_equal(take(a, 1), 700);
    assert_int_equal(take(a, 1), NONE);
    pagealloc_free_run(a, page_at(0), 1, false);
    assert_int_equal(take(a, 1), 0);
    assert_int_equal(pagealloc_validate(a, stderr), 0);
    (void)pagealloc_free(a);
}

static void alloc_of_huge_runs_crosses_the_root(void **state)
{
    static const uint64_t sizes[] = { 5000000, 1 << 21, (1 << 21) + 1, 1 << 24 };

    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        pagealloc *a = grown(1 << 24);
        bool whole = sizes[i] == 1 << 24;

        if (!whole)
            assert_int_equal(take(a, 1), 0);
        assert_int_equal(take(a, sizes[i]), whole ? 0 : 1);
        assert_int_equal(take(a, (1 << 24) - sizes[i] + 1), NONE);
        pagealloc_free_run(a, page_at(whole ? 0 : 1), sizes[i], true);
        assert_int_equal(pagealloc_validate(a, stderr), 0);
        (void)pagealloc_free(a);
    }
}

static void scavenged_pages_are_counted_when_taken(void **state)
{
    pagealloc *a = grown(1024);
    page_no first;
    uint64_t n;

    (void)state;
    assert_int_equal(pagealloc_npages_scavenged(a), 1024);
    assert_true(pagealloc_alloc(a, 100, &first, &n));
    assert_int_equal(n, 100);
    pagealloc_free_run(a, page_at(0), 50, false);
    pagealloc_free_run(a, page_at(50), 50, true);
    assert_int_equal(pagealloc_npages_scavenged(a), 974);
    assert_true(pagealloc_alloc(a, 200, &first, &n));
    assert_int_equal(first.n, 0);
    assert_int_equal(n, 150);
    assert_int_equal(pagealloc_validate(a, stderr), 0);
    (void)pagealloc_free(a);
}

static void take_unscavenged_goes_down_from_the_top(void **state)
{
    static const uint64_t expected[][2] = { { 1500, 10 }, { 1100, 30 }, { 1050, 50 }, { 512, 10 }, { 500, 12 } };
    pagealloc *a = grown(2048);

    (void)state;
    assert_int_equal(take(a, 2048), 0);
    pagealloc_free_run(a, page_at(500), 22, false); /* over a chunk's border: two runs */
    pagealloc_free_run(a, page_at(1050), 80, false);
    pagealloc_free_run(a, page_at(1500), 10, false);
    pagealloc_free_run(a, page_at(1600), 10, true);
    for (size_t i = 0; i < 5; i++) {
        page_run run = pagealloc_take_unscavenged(a, i == 1 ? 30 : 1000, true);

        assert_int_equal(run.first.n, expected[i][0]);
        assert_int_equal(run.npages, expected[i][1]);
        pagealloc_free_run(a, run.first, run.npages, true);
        assert_int_equal(pagealloc_validate(a, stderr), 0);
    }
    assert_int_equal(pagealloc_take_unscavenged(a, 1000, true).npages, 0);
    assert_int_equal(pagealloc_npages_scavenged(a), pagealloc_npages_free(a));
    pagealloc_free_run(a, page_at(2040), 1, false);
    assert_int_equal(pagealloc_take_unscavenged(a, 1, true).first.n, 2040);
    (void)pagealloc_free(a);
}

static void alloc_aligned_takes_only_the_aligned_part(void **state)
{
    pagealloc *a = grown(65536);
    page_no first;
    uint64_t n;

    (void)state;
    assert_int_equal(take(a, 3), 0);
    for (uint64_t align = 2; align <= 8192; align *= 2) {
        assert_true(pagealloc_alloc_aligned(a, 5, align, &first, &n));
        assert_int_equal(first.n % align, 0);
    }
    assert_int_equal(take(a, 1), 3);
    assert_int_equal(pagealloc_npages_free(a), 65536 - 4 - 13 * 5);
    assert_int_equal(pagealloc_validate(a, stderr), 0);
    (void)pagealloc_free(a);
}

static void next_taken_skips_what_is_free(void **state)
{
    static const uint64_t pages[] = { 0, 511, 512, 5000, (1 << 18) - 1, 1 << 21, (1 << 22) - 1 };
    pagealloc *a = grown(1 << 22);
    page_no at = { 0 };

    (void)state;
    assert_int_equal(take(a, 1 << 22), 0);
    pagealloc_free_run(a, page_at(0), 1 << 22, true);
    for (size_t i = 0; i < sizeof(pages) / sizeof(pages[0]); i++)
        (void)pagealloc_alloc_at(a, page_at(pages[i]), 1);
    for (size_t i = 0; i < sizeof(pages) / sizeof(pages[0]); i++) {
        at = pagealloc_next_taken(a, at);
        assert_int_equal(at.n, pages[i]);
        assert_true(pagealloc_is_taken(a, at));
        at = page_at(at.n + 1);
    }
    assert_int_equal(pagealloc_next_taken(a, at).n, 1 << 22);
    assert_false(pagealloc_is_taken(a, page_at(1 << 22)));
    (void)pagealloc_free(a);
}

static void grow_twice_joins_what_is_free(void **state)
{
    pagealloc *a;

    (void)state;
    assert_int_equal(pagealloc_new(&a, 1 << 20), 0);
    assert_int_equal(take(a, 1), NONE);
    pagealloc_grow(a, page_at(0), 512);
    assert_int_equal(take(a, 500), 0);
    assert_int_equal(take(a, 100), NONE);
    pagealloc_grow(a, page_at(512), 512);
    assert_int_equal(take(a, 100), 500);
    pagealloc_grow(a, page_at(4096), 512); /* a gap, which is nobody's */
    assert_int_equal(take(a, 512), 4096);
    assert_int_equal(take(a, 424), 600);
    assert_int_equal(take(a, 1), NONE);
    assert_int_equal(pagealloc_npages_added(a), 1536);
    assert_int_equal(pagealloc_validate(a, stderr), 0);
    (void)pagealloc_free(a);
    assert_int_equal(pagealloc_new(&a, 0), -22);
    assert_int_equal(pagealloc_new(&a, (UINT64_C(1) << 32) + 1), -22);
    assert_int_equal(pagealloc_new(&a, UINT64_C(1) << 32), 0); /* costs address space alone */
    (void)pagealloc_free(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(alloc_with_holes_takes_the_lowest_that_fits),
        cmocka_unit_test(alloc_until_exhausted_goes_up_by_addresses),
        cmocka_unit_test(search_falls_with_frees_and_rises_with_single_pages),
        cmocka_unit_test(alloc_of_huge_runs_crosses_the_root),
        cmocka_unit_test(scavenged_pages_are_counted_when_taken),
        cmocka_unit_test(take_unscavenged_goes_down_from_the_top),
        cmocka_unit_test(alloc_aligned_takes_only_the_aligned_part),
        cmocka_unit_test(next_taken_skips_what_is_free),
        cmocka_unit_test(grow_twice_joins_what_is_free),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
