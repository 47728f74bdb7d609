/*
 * The page cache, by tables: which window is taken, which pages come out of it, and that the rest comes back as it was.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>

#include "daemon/heap/pagecache.h"

#define ROWS(rows) (sizeof(rows) / sizeof((rows)[0]))
#define ALL UINT64_MAX
#define BIT(n) (UINT64_C(1) << (n))
#define HEAP_PAGES 2048u
#define NONE UINT64_MAX

/* A run that is free; with memory or without. npages 0: none. */
typedef struct hole {
    uint64_t first;
    uint64_t npages;
    bool scavenged;
} hole;

static void check(size_t row, uint64_t have, uint64_t want)
{
    if (have != want)
        print_error("row %zu:\n", row);
    assert_int_equal(have, want);
}

/* 4 chunks, all taken but for the holes. */
static pagealloc *heap_with_holes(const hole *holes, size_t nholes)
{
    pagealloc *pages;

    assert_int_equal(pagealloc_new(&pages, HEAP_PAGES), 0);
    pagealloc_grow(pages, page_at(0), HEAP_PAGES);
    assert_int_equal(pagealloc_alloc_at(pages, page_at(0), HEAP_PAGES), HEAP_PAGES);
    for (size_t i = 0; i < nholes && holes[i].npages != 0; i++)
        pagealloc_free_range(pages, page_at(holes[i].first), holes[i].npages, holes[i].scavenged);
    assert_int_equal(pagealloc_validate(pages, stderr), 0);
    return pages;
}

static void alloc_takes_the_lowest_run_of_the_window(void **state)
{
    static const struct {
        pagecache cache;
        uint64_t npages;
        uint64_t expected;
        uint64_t expected_nscavenged;
        pagecache after;
    } rows[] = {
        { { { 0 }, 0, 0 }, 1, NONE, 0, { { 0 }, 0, 0 } },
        { { { 64 }, 0, 0 }, 15, NONE, 0, { { 64 }, 0, 0 } },
        { { { 0 }, ALL, 0 }, 1, 0, 0, { { 0 }, ALL - 1, 0 } },
        { { { 64 }, ALL, ALL }, 15, 64, 15, { { 64 }, ALL << 15, ALL << 15 } },
        { { { 64 }, ALL, BIT(14) | BIT(15) }, 15, 64, 1, { { 64 }, ALL << 15, BIT(15) } },
        { { { 128 }, BIT(63), 0 }, 1, 191, 0, { { 128 }, 0, 0 } },
        { { { 128 }, BIT(63), BIT(63) }, 1, 191, 1, { { 128 }, 0, 0 } },
        { { { 128 }, BIT(63), BIT(63) }, 2, NONE, 0, { { 128 }, BIT(63), BIT(63) } },
        { { { 448 }, 0x5, 0x4 }, 1, 448, 0, { { 448 }, 0x4, 0x4 } },
        { { { 448 }, 0x4, 0x4 }, 1, 450, 1, { { 448 }, 0, 0 } },
        { { { 448 }, 0x5, 0x4 }, 2, NONE, 0, { { 448 }, 0x5, 0x4 } },
        { { { 512 }, 0xf0f, 0xf00 }, 4, 512, 0, { { 512 }, 0xf00, 0xf00 } },
        { { { 512 }, 0xf0f, 0xf00 }, 5, NONE, 0, { { 512 }, 0xf0f, 0xf00 } },
        { { { 512 }, 0x1f0f, 0x1f00 }, 5, 520, 5, { { 512 }, 0xf, 0 } },
        { { { 512 }, 0x1f0f, 0x0501 }, 5, 520, 2, { { 512 }, 0xf, 0x1 } },
        { { { 512 }, 0x1f0f, 0x0501 }, 3, 512, 1, { { 512 }, 0x1f08, 0x0500 } },
        { { { 0 }, ALL << 49, BIT(63) }, 15, 49, 1, { { 0 }, 0, 0 } },
        { { { 0 }, ALL << 50, BIT(63) }, 15, NONE, 0, { { 0 }, ALL << 50, BIT(63) } },
        { { { 0 }, ALL << 50, BIT(63) }, 14, 50, 1, { { 0 }, 0, 0 } },
        { { { 960 }, 0x7fff, 0x7fff }, 15, 960, 15, { { 960 }, 0, 0 } },
        { { { 960 }, 0xaaaaaaaaaaaaaaaa, 0 }, 1, 961, 0, { { 960 }, 0xaaaaaaaaaaaaaaa8, 0 } },
        { { { 960 }, 0xaaaaaaaaaaaaaaaa, 0 }, 2, NONE, 0, { { 960 }, 0xaaaaaaaaaaaaaaaa, 0 } },
        { { { 4294967232 }, ALL, 0x6 }, 3, 4294967232, 2, { { 4294967232 }, ALL << 3, 0 } },
    };

    (void)state;
    for (size_t i = 0; i < ROWS(rows); i++) {
        pagecache cache = rows[i].cache;
        page_no first = { 12345 };
        uint64_t nscavenged = 54321;
        bool found = pagecache_alloc(&cache, rows[i].npages, &first, &nscavenged);

        check(i, found, rows[i].expected != NONE);
        check(i, first.n, found ? rows[i].expected : 12345);
        check(i, nscavenged, found ? rows[i].expected_nscavenged : 54321);
        check(i, cache.first.n, rows[i].after.first.n);
        check(i, cache.free, rows[i].after.free);
        check(i, cache.scavenged, rows[i].after.scavenged);
    }
}

static void fill_takes_the_lowest_window_and_flush_gives_it_back(void **state)
{
    static const struct {
        hole holes[3];
        uint64_t window;
        uint64_t free; /* 0: no page is */
        uint64_t scavenged;
        uint64_t npages;
        uint64_t nscavenged;
    } rows[] = {
        { { { 0, 0, false } }, 0, 0, 0, 0, 0 },
        { { { 0, 1, false } }, 0, 1, 0, 1, 0 },
        { { { 0, 1, true } }, 0, 1, 1, 1, 1 },
        { { { 63, 1, false } }, 0, BIT(63), 0, 1, 0 },
        { { { 64, 1, true } }, 64, 1, 1, 1, 1 },
        { { { 63, 2, false } }, 0, BIT(63), 0, 1, 0 },
        { { { 63, 66, true } }, 0, BIT(63), BIT(63), 1, 1 },
        { { { 64, 64, false } }, 64, ALL, 0, 64, 0 },
        { { { 511, 2, true } }, 448, BIT(63), BIT(63), 1, 1 },
        { { { 512, 64, true } }, 512, ALL, ALL, 64, 64 },
        { { { 575, 2, false } }, 512, BIT(63), 0, 1, 0 },
        { { { 2047, 1, true } }, 1984, BIT(63), BIT(63), 1, 1 },
        { { { 1984, 1, false } }, 1984, 1, 0, 1, 0 },
        { { { 100, 200, true } }, 64, 0xfffffff000000000, 0xfffffff000000000, 28, 28 },
        { { { 0, 4, false }, { 8, 4, true }, { 16, 1, false } }, 0, 0x10f0f, 0xf00, 9, 4 },
        { { { 1000, 3, false }, { 2000, 10, true } }, 960, 0x0000070000000000, 0, 3, 0 },
        { { { 1530, 6, true }, { 1536, 60, false } }, 1472, 0xfc00000000000000, 0xfc00000000000000, 6, 6 },
        { { { 1530, 6, true }, { 1472, 1, false } }, 1472, 0xfc00000000000001, 0xfc00000000000000, 7, 6 },
        { { { 0, 2048, true } }, 0, ALL, ALL, 64, 64 },
        { { { 32, 16, true }, { 48, 1000, false } }, 0, 0xffffffff00000000, 0x0000ffff00000000, 32, 16 },
    };

    (void)state;
    for (size_t i = 0; i < ROWS(rows); i++) {
        pagealloc *pages = heap_with_holes(rows[i].holes, 3);
        uint64_t nfree = pagealloc_npages_free(pages);
        uint64_t nscavenged = pagealloc_npages_scavenged(pages);
        pagecache cache = { .free = 0 };

        /* Twice: what has been given back is found once more. */
        for (int round = 0; round < 2; round++) {
            uint64_t ntaken;
            uint64_t nbacked;

            check(i, pagecache_fill(&cache, pages), rows[i].free != 0);
            check(i, cache.first.n, rows[i].window);
            check(i, cache.free, rows[i].free);
            check(i, cache.scavenged, rows[i].scavenged);
            check(i, pagecache_npages(&cache), rows[i].npages);
            check(i, pagecache_nscavenged(&cache), rows[i].nscavenged);
            check(i, pagealloc_npages_free(pages), nfree - rows[i].npages);
            check(i, pagealloc_npages_scavenged(pages), nscavenged - rows[i].nscavenged);
            pagealloc_count(pages, page_at(rows[i].window), 64, &ntaken, &nbacked);
            check(i, ntaken, 64);
            check(i, nbacked, 0);
            assert_int_equal(pagealloc_validate(pages, stderr), 0);

            pagecache_flush(&cache, pages);
            check(i, pagecache_npages(&cache), 0);
            check(i, pagealloc_npages_free(pages), nfree);
            check(i, pagealloc_npages_scavenged(pages), nscavenged);
            pagealloc_count(pages, page_at(rows[i].window), 64, &ntaken, &nbacked);
            check(i, ntaken, 64 - rows[i].npages);
            check(i, nbacked, rows[i].npages - rows[i].nscavenged);
            for (uint64_t bit = 0; bit < 64; bit++) {
                check(i, pagealloc_is_taken(pages, page_at(rows[i].window + bit)), (rows[i].free >> bit & 1) == 0);
                pagealloc_count(pages, page_at(rows[i].window + bit), 1, &ntaken, &nbacked);
                check(i, nbacked, (rows[i].free & ~rows[i].scavenged) >> bit & 1);
            }
            assert_int_equal(pagealloc_validate(pages, stderr), 0);
        }
        assert_null(pagealloc_free(pages));
    }
}

static void flush_gives_back_what_has_not_been_handed_out(void **state)
{
    /* A cache is filled, some runs are taken out of it, the rest is given back. */
    static const struct {
        hole holes[3];
        uint64_t window;
        struct {
            uint64_t npages; /* 0: no more */
            uint64_t expected;
            uint64_t nscavenged;
        } allocs[5];
        uint64_t free; /* of the window, afterwards */
        uint64_t backed;
        uint64_t nfree; /* of the heap, afterwards */
        uint64_t nscavenged;
    } rows[] = {
        { { { 0, 512, true } }, 0, { { 0, 0, 0 } }, ALL, 0, 512, 512 },
        { { { 0, 512, true } }, 0, { { 1, 0, 1 }, { 2, 1, 2 }, { 3, 3, 3 } }, ALL << 6, 0, 506, 506 },
        { { { 0, 512, false } }, 0, { { 1, 0, 0 }, { 2, 1, 0 }, { 3, 3, 0 } }, ALL << 6, ALL << 6, 506, 0 },
        { { { 0, 20, true }, { 20, 44, false } },
          0,
          { { 15, 0, 15 }, { 15, 15, 5 }, { 15, 30, 0 }, { 15, 45, 0 }, { 5, NONE, 0 } },
          ALL << 60,
          ALL << 60,
          4,
          0 },
        { { { 64, 5, false }, { 70, 3, true }, { 80, 10, false } },
          64,
          { { 6, 80, 0 }, { 3, 64, 0 }, { 3, 70, 3 }, { 5, NONE, 0 }, { 4, 86, 0 } },
          0x18,
          0x18,
          2,
          0 },
        { { { 510, 4, true } }, 448, { { 3, NONE, 0 }, { 2, 510, 2 }, { 1, NONE, 0 } }, 0, 0, 2, 2 },
        { { { 510, 4, true } }, 448, { { 1, 510, 1 } }, BIT(63), 0, 3, 3 },
        { { { 2040, 8, false } }, 1984, { { 8, 2040, 0 }, { 1, NONE, 0 } }, 0, 0, 0, 0 },
        { { { 2040, 4, false }, { 2044, 4, true } }, 1984, { { 6, 2040, 2 } }, BIT(62) | BIT(63), 0, 2, 2 },
        { { { 0, 2, true }, { 3, 2, false }, { 63, 2, true } },
          0,
          { { 2, 0, 2 }, { 2, 3, 0 }, { 2, NONE, 0 } },
          BIT(63),
          0,
          2,
          2 },
    };

    (void)state;
    for (size_t i = 0; i < ROWS(rows); i++) {
        pagealloc *pages = heap_with_holes(rows[i].holes, 3);
        pagecache cache = { .free = 0 };

        assert_true(pagecache_fill(&cache, pages));
        check(i, cache.first.n, rows[i].window);
        for (size_t k = 0; k < 5 && rows[i].allocs[k].npages != 0; k++) {
            page_no first;
            uint64_t nscavenged;
            bool found = pagecache_alloc(&cache, rows[i].allocs[k].npages, &first, &nscavenged);

            check(i, found ? first.n : NONE, rows[i].allocs[k].expected);
            check(i, found ? nscavenged : 0, rows[i].allocs[k].nscavenged);
            assert_int_equal(pagealloc_validate(pages, stderr), 0);
        }
        pagecache_flush(&cache, pages);
        assert_int_equal(pagealloc_validate(pages, stderr), 0);
        check(i, cache.free, 0);
        check(i, cache.scavenged, 0);
        for (uint64_t bit = 0; bit < 64; bit++) {
            page_no page = page_at(rows[i].window + bit);
            uint64_t ntaken;
            uint64_t nbacked;

            pagealloc_count(pages, page, 1, &ntaken, &nbacked);
            check(i, ntaken, (rows[i].free >> bit & 1) == 0);
            check(i, nbacked, rows[i].backed >> bit & 1);
            check(i, pagealloc_is_free(pages, page, 1), rows[i].free >> bit & 1);
        }
        check(i, pagealloc_npages_free(pages), rows[i].nfree);
        check(i, pagealloc_npages_scavenged(pages), rows[i].nscavenged);
        (void)pagealloc_free(pages);
    }
}

static void caches_go_up_window_by_window_until_nothing_is_left(void **state)
{
    /* n pages at a time: as many as a window has, the rest of it is given away page by page. */
    static const struct {
        uint64_t n;
        uint64_t per_window;
    } rows[] = {
        { 1, 64 }, { 2, 32 }, { 3, 21 }, { 4, 16 }, { 5, 12 }, { 7, 9 }, { 8, 8 }, { 11, 5 }, { 13, 4 }, { 15, 4 },
    };

    (void)state;
    for (size_t i = 0; i < ROWS(rows); i++) {
        static const hole whole = { 0, HEAP_PAGES, true };
        pagealloc *pages = heap_with_holes(&whole, 1);
        pagecache cache = { .free = 0 };
        page_no first;
        uint64_t nscavenged;

        for (uint64_t window = 0; window < HEAP_PAGES; window += 64) {
            uint64_t at = window;

            assert_true(pagecache_fill(&cache, pages));
            check(i, cache.first.n, window);
            check(i, pagealloc_npages_free(pages), HEAP_PAGES - window - 64);
            for (uint64_t k = 0; k < rows[i].per_window; k++, at += rows[i].n) {
                assert_true(pagecache_alloc(&cache, rows[i].n, &first, &nscavenged));
                check(i, first.n, at);
                check(i, nscavenged, rows[i].n);
            }
            assert_false(pagecache_alloc(&cache, rows[i].n, &first, &nscavenged));
            check(i, pagecache_npages(&cache), 64 - rows[i].per_window * rows[i].n);
            for (; at < window + 64; at++) {
                assert_true(pagecache_alloc(&cache, 1, &first, &nscavenged));
                check(i, first.n, at);
            }
            assert_int_equal(pagealloc_validate(pages, stderr), 0);
        }
        assert_false(pagecache_fill(&cache, pages));
        assert_false(pagecache_fill(&cache, pages));
        check(i, pagealloc_npages_free(pages), 0);
        /* To flush an empty cache does nothing; one page that is freed is all of the next window. */
        pagecache_flush(&cache, pages);
        check(i, pagealloc_npages_free(pages), 0);
        pagealloc_free_range(pages, page_at(777), 1, false);
        assert_true(pagecache_fill(&cache, pages));
        check(i, cache.first.n, 768);
        check(i, cache.free, BIT(9));
        check(i, cache.scavenged, 0);
        assert_int_equal(pagealloc_validate(pages, stderr), 0);
        (void)pagealloc_free(pages);
    }
}

static void pages_in_a_cache_are_hidden_from_everybody_else(void **state)
{
    static const hole holes[] = { { 100, 10, false }, { 600, 30, false } };
    pagealloc *pages = heap_with_holes(holes, 2);
    pagecache cache = { .free = 0 };
    page_no first;
    uint64_t nscavenged;
    page_range run;

    (void)state;
    assert_true(pagecache_fill(&cache, pages));
    assert_int_equal(cache.first.n, 64);
    assert_true(pagealloc_alloc(pages, 1, &first, &nscavenged));
    assert_int_equal(first.n, 600);
    run = pagealloc_take_unscavenged(pages, 1000, true);
    assert_int_equal(run.first.n, 601);
    assert_int_equal(run.npages, 29);
    assert_int_equal(pagealloc_take_unscavenged(pages, 1000, true).npages, 0);
    pagealloc_put_back(pages, run, true);
    /* Freed below the cache's pages and in its window: the cache does not see it, a second one does. */
    pagealloc_free_range(pages, page_at(70), 1, false);
    assert_int_equal(cache.free, UINT64_C(0x3ff) << 36);

    pagecache second = { .free = 0 };

    assert_true(pagecache_fill(&second, pages));
    assert_int_equal(second.first.n, 64);
    assert_int_equal(second.free, BIT(6));
    pagecache_flush(&cache, pages);
    pagecache_flush(&second, pages);
    assert_int_equal(pagealloc_validate(pages, stderr), 0);
    assert_int_equal(pagealloc_npages_free(pages), 11 + 29);
    assert_int_equal(pagealloc_npages_scavenged(pages), 29);
    /* Scavenging finds them again, from the top. */
    run = pagealloc_take_unscavenged(pages, 1000, true);
    assert_int_equal(run.first.n, 100);
    assert_int_equal(run.npages, 10);
    (void)pagealloc_free(pages);
}

static void fill_goes_over_gaps(void **state)
{
    pagealloc *pages;
    pagecache cache = { .free = 0 };
    page_no first;
    uint64_t nscavenged;

    (void)state;
    assert_int_equal(pagealloc_new(&pages, 1 << 20), 0);
    assert_false(pagecache_fill(&cache, pages)); /* nothing there */
    pagealloc_grow(pages, page_at(1024), 512);
    pagealloc_grow(pages, page_at(40960), 512);
    assert_true(pagecache_fill(&cache, pages));
    assert_int_equal(cache.first.n, 1024);
    pagecache_flush(&cache, pages);
    assert_true(pagealloc_alloc(pages, 511, &first, &nscavenged));
    assert_int_equal(first.n, 1024);
    assert_true(pagecache_fill(&cache, pages));
    assert_int_equal(cache.first.n, 1472);
    assert_int_equal(cache.free, BIT(63));
    assert_int_equal(cache.scavenged, BIT(63));
    assert_true(pagecache_alloc(&cache, 1, &first, &nscavenged));
    assert_int_equal(first.n, 1535);
    assert_true(pagecache_fill(&cache, pages));
    assert_int_equal(cache.first.n, 40960);
    assert_int_equal(cache.free, ALL);
    assert_int_equal(pagealloc_validate(pages, stderr), 0);
    (void)pagealloc_free(pages);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(alloc_takes_the_lowest_run_of_the_window),
        cmocka_unit_test(fill_takes_the_lowest_window_and_flush_gives_it_back),
        cmocka_unit_test(flush_gives_back_what_has_not_been_handed_out),
        cmocka_unit_test(caches_go_up_window_by_window_until_nothing_is_left),
        cmocka_unit_test(pages_in_a_cache_are_hidden_from_everybody_else),
        cmocka_unit_test(fill_goes_over_gaps),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
