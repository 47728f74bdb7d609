/*
 * The page allocator, by tables: where exactly a run is found, over borders of chunks and of summary levels.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/heap/pagealloc.h"

#define ROWS(rows) (sizeof(rows) / sizeof((rows)[0]))
#define NONE UINT64_MAX

static void check(size_t row, uint64_t have, uint64_t want)
{
    if (have != want)
        print_error("row %zu:\n", row);
    assert_int_equal(have, want);
}

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
            pagealloc_free_range(a, page_at(rows[i].holes[h][0]), rows[i].holes[h][1], false);
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
        pagealloc_free_range(a, page_at(n * 3), n, true);
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
    pagealloc_free_range(a, page_at(700), 1, false);
    pagealloc_free_range(a, page_at(3), 1, false);
    pagealloc_free_range(a, page_at(900), 2, false);
    assert_int_equal(take(a, 2), 900);
    assert_int_equal(take(a, 1), 3);
    assert_int_equal(take(a, 1), 700);
    assert_int_equal(take(a, 1), NONE);
    pagealloc_free_range(a, page_at(0), 1, false);
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
        pagealloc_free_range(a, page_at(whole ? 0 : 1), sizes[i], true);
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
    pagealloc_free_range(a, page_at(0), 50, false);
    pagealloc_free_range(a, page_at(50), 50, true);
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
    pagealloc_free_range(a, page_at(500), 22, false); /* over a chunk's border: two runs */
    pagealloc_free_range(a, page_at(1050), 80, false);
    pagealloc_free_range(a, page_at(1500), 10, false);
    pagealloc_free_range(a, page_at(1600), 10, true);
    for (size_t i = 0; i < 5; i++) {
        page_range run = pagealloc_take_unscavenged(a, i == 1 ? 30 : 1000, true);

        assert_int_equal(run.first.n, expected[i][0]);
        assert_int_equal(run.npages, expected[i][1]);
        pagealloc_put_back(a, run, true);
        assert_int_equal(pagealloc_validate(a, stderr), 0);
    }
    assert_int_equal(pagealloc_take_unscavenged(a, 1000, true).npages, 0);
    assert_int_equal(pagealloc_npages_scavenged(a), pagealloc_npages_free(a));
    pagealloc_free_range(a, page_at(2040), 1, false);
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
    pagealloc_free_range(a, page_at(0), 1 << 22, true);
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
    pagealloc_grow(a, page_at(4096), 512); /* behind a gap */
    assert_int_equal(take(a, 512), 4096);
    assert_int_equal(take(a, 424), 600);
    assert_int_equal(take(a, 1), NONE);
    assert_int_equal(pagealloc_npages_added(a), 1536);
    assert_int_equal(pagealloc_validate(a, stderr), 0);
    (void)pagealloc_free(a);
    assert_int_equal(pagealloc_new(&a, 0), -22);
    assert_int_equal(pagealloc_new(&a, (UINT64_C(1) << 32) + 1), -22);
    assert_int_equal(pagealloc_new(&a, UINT64_C(1) << 32), 0); /* costs only address space */
    (void)pagealloc_free(a);
}

/* --- steps on one page allocator, with what each must answer --- */

typedef struct step {
    enum {
        GROW,     /* add [first, first + n) */
        TAKE,     /* n pages: the first of them, or NONE */
        TAKE_AT,  /* [first, first + n): how many were scavenged */
        WINDOW,   /* the lowest window of 64 pages with a free one: its first page, or NONE */
        FREE,     /* [first, first + n), with memory */
        PUNCH,    /* [first, first + n), without memory */
        IS_TAKEN, /* first: 0 or 1 */
        IS_FREE,  /* [first, first + n): 0 or 1 */
        NEXT,     /* the first taken page at or above first */
        NTAKEN,   /* of [first, first + n) */
        NBACKED,  /* of [first, first + n): free pages with memory */
        NADDED,   /* of all */
        NFREE,
        NSCAVENGED,
        END,
        SEARCH, /* no page below it is free; allocation begins there */
    } op;
    uint64_t first;
    uint64_t n;
    uint64_t expected;
} step;

/* The dump alone shows the search address. */
static uint64_t search_address(const pagealloc *a)
{
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    const char *at;
    uint64_t search;

    assert_non_null(out);
    pagealloc_dump(a, out);
    (void)fclose(out);
    at = strstr(text, "search ");
    assert_non_null(at);
    search = strtoull(at + strlen("search "), NULL, 10);
    free(text);
    return search;
}

static uint64_t answer(pagealloc *a, const step *s)
{
    uint64_t ntaken;
    uint64_t nbacked;
    uint64_t free;
    uint64_t scavenged;
    page_no first;

    switch (s->op) {
    case GROW:
        pagealloc_grow(a, page_at(s->first), s->n);
        return 0;
    case TAKE:
        return take(a, s->n);
    case TAKE_AT:
        return pagealloc_alloc_at(a, page_at(s->first), s->n);
    case WINDOW:
        return pagealloc_take_window(a, &first, &free, &scavenged) ? first.n : NONE;
    case FREE:
    case PUNCH:
        pagealloc_free_range(a, page_at(s->first), s->n, s->op == PUNCH);
        return 0;
    case IS_TAKEN:
        return pagealloc_is_taken(a, page_at(s->first));
    case IS_FREE:
        return pagealloc_is_free(a, page_at(s->first), s->n);
    case NEXT:
        return pagealloc_next_taken(a, page_at(s->first)).n;
    case NTAKEN:
    case NBACKED:
        pagealloc_count(a, page_at(s->first), s->n, &ntaken, &nbacked);
        return s->op == NTAKEN ? ntaken : nbacked;
    case NADDED:
        return pagealloc_npages_added(a);
    case NFREE:
        return pagealloc_npages_free(a);
    case NSCAVENGED:
        return pagealloc_npages_scavenged(a);
    case END:
        return pagealloc_end(a).n;
    case SEARCH:
        return search_address(a);
    }
    return NONE;
}

static void run_steps(const step *steps, size_t nsteps)
{
    pagealloc *a;

    assert_int_equal(pagealloc_new(&a, UINT64_C(1) << 23), 0);
    for (size_t i = 0; i < nsteps; i++) {
        check(i, answer(a, &steps[i]), steps[i].expected);
        assert_int_equal(pagealloc_validate(a, stderr), 0);
    }
    (void)pagealloc_free(a);
}

static void gaps_are_neither_free_nor_taken(void **state)
{
    static const step steps[] = {
        /* nothing at all */
        { END, 0, 0, 0 },
        { TAKE, 0, 1, NONE },
        { IS_TAKEN, 0, 0, 0 },
        { IS_FREE, 0, 1, 0 },
        { NEXT, 0, 0, 0 },
        { NTAKEN, 0, 4096, 0 },
        /* a gap of one chunk at the bottom */
        { GROW, 512, 512, 0 },
        { END, 0, 0, 1024 },
        { NADDED, 0, 0, 512 },
        { NFREE, 0, 0, 512 },
        { NSCAVENGED, 0, 0, 512 },
        { IS_TAKEN, 0, 0, 0 },
        { IS_TAKEN, 511, 0, 0 },
        { IS_FREE, 0, 1, 0 },
        { IS_FREE, 511, 1, 0 },
        { IS_FREE, 511, 2, 0 },
        { IS_FREE, 512, 512, 1 },
        { IS_FREE, 512, 513, 0 },
        { NEXT, 0, 0, 1024 },
        { NTAKEN, 0, 1024, 0 },
        { NBACKED, 0, 1024, 0 },
        { TAKE, 0, 513, NONE },
        { TAKE, 0, 1, 512 },
        { IS_TAKEN, 511, 0, 0 },
        { IS_TAKEN, 512, 0, 1 },
        { IS_FREE, 512, 1, 0 },
        { IS_FREE, 513, 511, 1 },
        { NEXT, 0, 0, 512 },
        { NEXT, 512, 0, 512 },
        { NEXT, 513, 0, 1024 },
        { TAKE, 0, 512, NONE },
        { TAKE, 0, 511, 513 },
        { TAKE, 0, 1, NONE },
        /* and one of six chunks above it: [1024, 4096) */
        { GROW, 4096, 1024, 0 },
        { END, 0, 0, 5120 },
        { NADDED, 0, 0, 1536 },
        { NFREE, 0, 0, 1024 },
        { IS_FREE, 1024, 1, 0 },
        { IS_FREE, 4095, 1, 0 },
        { IS_FREE, 4095, 2, 0 },
        { IS_FREE, 1024, 4096, 0 },
        { IS_FREE, 4096, 1024, 1 },
        { IS_FREE, 4600, 100, 1 },
        { IS_FREE, 5119, 2, 0 },
        { IS_FREE, 5120, 1, 0 },
        { IS_TAKEN, 1024, 0, 0 },
        { NEXT, 1023, 0, 1023 },
        { NEXT, 1024, 0, 5120 },
        { TAKE, 0, 1025, NONE },
        { TAKE, 0, 1024, 4096 },
        { NEXT, 1024, 0, 4096 },
        { NEXT, 3000, 0, 4096 },
        { NTAKEN, 0, 5120, 1536 },
        { NTAKEN, 0, 1000000, 1536 },
        { NTAKEN, 1023, 3074, 2 },
        { NTAKEN, 1024, 3072, 0 },
        /* free on both sides: no run goes over it */
        { FREE, 1000, 24, 0 },
        { FREE, 4096, 10, 0 },
        { NBACKED, 0, 5120, 34 },
        { NBACKED, 1023, 3074, 2 },
        { NTAKEN, 990, 3200, 94 },
        { TAKE, 0, 25, NONE },
        { TAKE, 0, 24, 1000 },
        { TAKE, 0, 11, NONE },
        { TAKE, 0, 10, 4096 },
        { TAKE, 0, 1, NONE },
        /* the lowest fit lies behind it */
        { FREE, 1020, 4, 0 },
        { PUNCH, 4500, 300, 0 },
        { TAKE, 0, 5, 4500 },
        { TAKE, 0, 4, 1020 },
        { TAKE, 0, 2, 4505 },
        { IS_FREE, 4507, 293, 1 },
        { NSCAVENGED, 0, 0, 293 },
    };

    (void)state;
    run_steps(steps, ROWS(steps));
}

static void a_gap_as_wide_as_the_root_is_searched_over(void **state)
{
    static const step steps[] = {
        { GROW, 0, 512, 0 },
        /* from 3 << 21 on */
        { GROW, 6291456, 1024, 0 },
        { END, 0, 0, 6292480 },
        { NADDED, 0, 0, 1536 },
        { IS_FREE, 0, 6292480, 0 },
        { NEXT, 0, 0, 6292480 },
        { TAKE, 0, 513, 6291456 },
        { TAKE, 0, 512, 0 },
        { SEARCH, 0, 0, 512 },
        { NEXT, 512, 0, 6291456 },
        { TAKE, 0, 2, 6291969 },
        { IS_TAKEN, 6291970, 0, 1 },
        { IS_TAKEN, 6291971, 0, 0 },
        { IS_TAKEN, 2097152, 0, 0 },
        { NTAKEN, 0, 8388608, 1027 },
        /* until nothing is left, and once more from the bottom */
        { TAKE, 0, 509, 6291971 },
        { TAKE, 0, 1, NONE },
        { SEARCH, 0, 0, 6292480 },
        { FREE, 511, 1, 0 },
        { SEARCH, 0, 0, 511 },
        { TAKE, 0, 1, 511 },
        { NFREE, 0, 0, 0 },
    };

    (void)state;
    run_steps(steps, ROWS(steps));
}

static void pieces_that_follow_each_other_are_one_heap(void **state)
{
    static const step steps[] = {
        { GROW, 0, 512, 0 },
        { TAKE, 0, 513, NONE },
        { GROW, 512, 1024, 0 },
        { TAKE, 0, 1537, NONE },
        { TAKE, 0, 1536, 0 },
        { GROW, 1536, 512, 0 },
        { TAKE, 0, 512, 1536 },
        { TAKE, 0, 1, NONE },
        { PUNCH, 0, 2048, 0 },
        { GROW, 2048, 2048, 0 },
        /* over the border of an entry of 4096 pages */
        { GROW, 4096, 512, 0 },
        { TAKE, 0, 4609, NONE },
        { TAKE, 0, 4608, 0 },
        { FREE, 4000, 100, 0 },
        { TAKE, 0, 101, NONE },
        { TAKE, 0, 100, 4000 },
        { GROW, 4608, 28160, 0 },
        { END, 0, 0, 32768 },
        /* of 32768 */
        { GROW, 32768, 512, 0 },
        { TAKE, 0, 28672, 4608 },
        { TAKE, 0, 1, NONE },
        { FREE, 32767, 2, 0 },
        { TAKE, 0, 3, NONE },
        { TAKE, 0, 2, 32767 },
        { PUNCH, 0, 33280, 0 },
        { GROW, 33280, 228864, 0 },
        /* of 2^18 */
        { GROW, 262144, 512, 0 },
        { TAKE, 0, 262656, 0 },
        { FREE, 262143, 2, 0 },
        { TAKE, 0, 2, 262143 },
        { PUNCH, 0, 262656, 0 },
        { GROW, 262656, 1834496, 0 },
        /* of 2^21, the root's: all of the first one is free */
        { GROW, 2097152, 1024, 0 },
        { END, 0, 0, 2098176 },
        { NADDED, 0, 0, 2098176 },
        { TAKE, 0, 2098177, NONE },
        { IS_FREE, 0, 2098176, 1 },
        { NEXT, 0, 0, 2098176 },
        { TAKE, 0, 2098176, 0 },
        { FREE, 2097151, 2, 0 },
        { TAKE, 0, 3, NONE },
        { TAKE, 0, 2, 2097151 },
        { NFREE, 0, 0, 0 },
    };

    (void)state;
    run_steps(steps, ROWS(steps));
}

static void search_address_rises_with_what_searches_see(void **state)
{
    static const step steps[] = {
        { GROW, 0, 4194304, 0 }, /* two entries of the root */
        { SEARCH, 0, 0, 0 },
        { TAKE, 0, 5, 0 },
        { SEARCH, 0, 0, 5 },
        { TAKE, 0, 4194299, 5 },
        { SEARCH, 0, 0, 4194304 },
        /* falls with a free; stays when the page is taken by its number */
        { FREE, 100, 1, 0 },
        { SEARCH, 0, 0, 100 },
        { TAKE_AT, 100, 1, 0 },
        { SEARCH, 0, 0, 100 },
        { FREE, 19990, 1, 0 },
        { FREE, 20000, 10, 0 },
        { SEARCH, 0, 0, 100 },
        /* rises to the chunk that the first free page lies in, if the run is another one */
        { TAKE, 0, 10, 20000 },
        { SEARCH, 0, 0, 19968 },
        { TAKE, 0, 1, 19990 },
        { SEARCH, 0, 0, 19991 },
        /* stays where the first entry with free pages of a level has no such run */
        { FREE, 30000, 1, 0 },
        { FREE, 40000, 20, 0 },
        { TAKE, 0, 20, 40000 },
        { SEARCH, 0, 0, 19991 },
        { TAKE, 0, 1, 30000 },
        { SEARCH, 0, 0, 30001 },
        /* over an entry of the root, down through all levels */
        { FREE, 2999900, 1, 0 },
        { FREE, 3000000, 5, 0 },
        { TAKE, 0, 5, 3000000 },
        { SEARCH, 0, 0, 2999808 },
        { TAKE, 0, 1, 2999900 },
        { SEARCH, 0, 0, 2999901 },
        /* a search that fails rises too: to the root's entry */
        { FREE, 4000000, 1, 0 },
        { FREE, 4000002, 1, 0 },
        { TAKE, 0, 2, NONE },
        { SEARCH, 0, 0, 2999901 },
        { FREE, 50, 1, 0 },
        { TAKE_AT, 50, 1, 0 },
        { SEARCH, 0, 0, 50 },
        { TAKE, 0, 2, NONE },
        { SEARCH, 0, 0, 2097152 },
        { TAKE, 0, 1, 4000000 },
        { SEARCH, 0, 0, 4000001 },
        { TAKE, 0, 1, 4000002 },
        { TAKE, 0, 1, NONE },
        { SEARCH, 0, 0, 4194304 },
        /* what is added is found */
        { GROW, 4194304, 512, 0 },
        { TAKE, 0, 3, 4194304 },
        { SEARCH, 0, 0, 4194307 },
        { FREE, 4194300, 1, 0 },
        { SEARCH, 0, 0, 4194300 },
        { TAKE, 0, 2, 4194307 },
        { SEARCH, 0, 0, 4194300 },
        { TAKE, 0, 1, 4194300 },
        { SEARCH, 0, 0, 4194301 },
        { TAKE, 0, 1, 4194309 },
        { SEARCH, 0, 0, 4194310 },
        { NFREE, 0, 0, 506 },
    };

    (void)state;
    run_steps(steps, ROWS(steps));
}

static void search_address_rises_by_windows(void **state)
{
    static const step steps[] = {
        { GROW, 0, 1024, 0 },
        { TAKE_AT, 0, 70, 70 },
        { SEARCH, 0, 0, 0 },
        { WINDOW, 0, 0, 64 },
        { SEARCH, 0, 0, 128 },
        { WINDOW, 0, 0, 128 },
        { SEARCH, 0, 0, 192 },
        { NFREE, 0, 0, 832 },
        /* freed below: a window from its middle on, the one below it */
        { PUNCH, 64, 128, 0 },
        { SEARCH, 0, 0, 64 },
        { TAKE, 0, 1, 64 },
        { WINDOW, 0, 0, 64 },
        { SEARCH, 0, 0, 128 },
        { FREE, 10, 1, 0 },
        { WINDOW, 0, 0, 0 },
        { SEARCH, 0, 0, 64 },
        { WINDOW, 0, 0, 128 },
        { SEARCH, 0, 0, 192 },
        /* over the chunk's border, to the end */
        { TAKE, 0, 319, 192 },
        { WINDOW, 0, 0, 448 },
        { SEARCH, 0, 0, 512 },
        { WINDOW, 0, 0, 512 },
        { TAKE_AT, 576, 448, 448 },
        { WINDOW, 0, 0, NONE },
        { SEARCH, 0, 0, 1024 },
        { NTAKEN, 0, 1024, 1024 },
    };

    (void)state;
    run_steps(steps, ROWS(steps));
}

static void count_and_is_free_are_exact_at_borders(void **state)
{
    static const step steps[] = {
        { GROW, 0, 2048, 0 },
        { IS_FREE, 0, 2048, 1 },
        { IS_FREE, 0, 2049, 0 },
        { IS_FREE, 2047, 1, 1 },
        { IS_FREE, 2048, 1, 0 },
        /* the end overflows */
        { IS_FREE, 1, UINT64_MAX, 0 },
        /* over a word's border, over a chunk's, a whole chunk */
        { TAKE_AT, 63, 2, 2 },
        { TAKE_AT, 511, 2, 2 },
        { TAKE_AT, 1024, 512, 512 },
        { IS_FREE, 0, 63, 1 },
        { IS_FREE, 0, 64, 0 },
        { IS_FREE, 64, 1, 0 },
        { IS_FREE, 65, 446, 1 },
        { IS_FREE, 65, 447, 0 },
        { IS_FREE, 513, 511, 1 },
        { IS_FREE, 513, 512, 0 },
        { IS_FREE, 1535, 2, 0 },
        { IS_FREE, 1536, 512, 1 },
        { NTAKEN, 0, 2048, 516 },
        { NTAKEN, 0, 0, 0 },
        { NTAKEN, 0, 63, 0 },
        { NTAKEN, 0, 64, 1 },
        { NTAKEN, 64, 1, 1 },
        { NTAKEN, 65, 446, 0 },
        { NTAKEN, 0, 512, 3 },
        { NTAKEN, 512, 512, 1 },
        { NTAKEN, 511, 514, 3 },
        { NTAKEN, 512, 1024, 513 },
        { NTAKEN, 2048, 512, 0 },
        { NBACKED, 0, 2048, 0 },
        { NEXT, 0, 0, 63 },
        { NEXT, 64, 0, 64 },
        { NEXT, 65, 0, 511 },
        { NEXT, 513, 0, 1024 },
        { NEXT, 1536, 0, 2048 },
        { NEXT, 3000, 0, 2048 },
        /* some with memory, some without */
        { FREE, 511, 1, 0 },
        { FREE, 1100, 200, 0 },
        { PUNCH, 1300, 100, 0 },
        { NBACKED, 0, 2048, 201 },
        { NBACKED, 511, 1, 1 },
        { NBACKED, 0, 511, 0 },
        { NBACKED, 1024, 512, 200 },
        { NBACKED, 1099, 2, 1 },
        { NBACKED, 1299, 2, 1 },
        { NBACKED, 1300, 100, 0 },
        { NTAKEN, 1024, 512, 212 },
        { NSCAVENGED, 0, 0, 1632 },
        { NFREE, 0, 0, 1833 },
        { TAKE_AT, 1290, 20, 10 },
        { NSCAVENGED, 0, 0, 1622 },
    };

    (void)state;
    run_steps(steps, ROWS(steps));
}

static void alloc_aligned_is_exact(void **state)
{
    /* In 8 chunks that are all taken, two holes are made. */
    static const struct {
        uint64_t holes[2][2]; /* first, npages */
        uint64_t n;
        uint64_t align;
        uint64_t expected;
    } rows[] = {
        { { { 0, 4096 } }, 1, 1, 0 },
        { { { 0, 4096 } }, 4096, 1, 0 },
        { { { 0, 4096 } }, 1, 4096, 0 },
        { { { 0, 4096 } }, 2, 4096, NONE },
        { { { 4, 1 }, { 2, 1 } }, 1, 1, 2 },
        { { { 1, 100 } }, 1, 64, 64 },
        { { { 1, 64 } }, 1, 64, 64 },
        { { { 1, 63 } }, 1, 64, NONE },
        { { { 64, 64 } }, 1, 64, 64 },
        { { { 64, 63 } }, 1, 64, NONE }, /* page 64 would do; n + align - 1 are searched */
        { { { 65, 64 } }, 1, 64, 128 },
        { { { 511, 2 } }, 1, 2, 512 },
        { { { 510, 2 } }, 1, 2, 510 },
        { { { 509, 3 } }, 2, 2, 510 },
        { { { 510, 3 } }, 2, 2, 510 },
        { { { 511, 3 } }, 2, 2, 512 },
        { { { 511, 2 } }, 2, 2, NONE },
        { { { 100, 137 } }, 10, 128, 128 },
        { { { 100, 136 } }, 10, 128, NONE },
        { { { 513, 515 } }, 4, 512, 1024 },
        { { { 513, 514 } }, 4, 512, NONE },
        { { { 1000, 1000 } }, 4, 512, 1024 },
        { { { 1025, 1000 } }, 4, 512, 1536 },
        { { { 1025, 2000 } }, 4, 1024, 2048 },
        { { { 1024, 2000 } }, 500, 1024, 1024 },
        { { { 100, 22 }, { 200, 40 } }, 8, 16, 208 },
        { { { 96, 23 }, { 200, 40 } }, 8, 16, 96 },
        { { { 97, 23 }, { 200, 40 } }, 8, 16, 112 },
        { { { 4000, 96 } }, 33, 64, 4032 },
        { { { 4000, 96 } }, 34, 64, NONE },
    };

    (void)state;
    for (size_t i = 0; i < ROWS(rows); i++) {
        pagealloc *a = grown(4096);
        page_no first = { 9999 };
        uint64_t nscavenged = 8888;
        uint64_t nfree;
        bool found;

        assert_int_equal(take(a, 4096), 0);
        for (int h = 0; h < 2 && rows[i].holes[h][1] != 0; h++)
            pagealloc_free_range(a, page_at(rows[i].holes[h][0]), rows[i].holes[h][1], h == 0);
        nfree = pagealloc_npages_free(a);
        found = pagealloc_alloc_aligned(a, rows[i].n, rows[i].align, &first, &nscavenged);
        check(i, found ? first.n : NONE, rows[i].expected);
        if (found) {
            uint64_t ntaken;
            uint64_t nbacked;

            pagealloc_count(a, first, rows[i].n, &ntaken, &nbacked);
            check(i, ntaken, rows[i].n);
            check(i, nfree - pagealloc_npages_free(a), rows[i].n);
            /* The first hole has no memory. */
            check(i, nscavenged, first.n - rows[i].holes[0][0] < rows[i].holes[0][1] ? rows[i].n : 0);
        } else {
            check(i, first.n, 9999);
            check(i, nscavenged, 8888);
            check(i, pagealloc_npages_free(a), nfree);
        }
        assert_int_equal(pagealloc_validate(a, stderr), 0);
        (void)pagealloc_free(a);
    }
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
        cmocka_unit_test(gaps_are_neither_free_nor_taken),
        cmocka_unit_test(a_gap_as_wide_as_the_root_is_searched_over),
        cmocka_unit_test(pieces_that_follow_each_other_are_one_heap),
        cmocka_unit_test(search_address_rises_with_what_searches_see),
        cmocka_unit_test(search_address_rises_by_windows),
        cmocka_unit_test(count_and_is_free_are_exact_at_borders),
        cmocka_unit_test(alloc_aligned_is_exact),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
