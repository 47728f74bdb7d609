/*
 * Bits of a chunk's pages and their summaries: by tables, at the ends of words and of the chunk; and over random bits,
 * against loops that go bit by bit.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "daemon/heap/pagebits.h"
#include "tests/support/fixture.h"

#define ROWS(rows) (sizeof(rows) / sizeof((rows)[0]))
#define ALL UINT64_MAX
#define BIT(n) (UINT64_C(1) << (n))

/* Up to 4 runs of ones: from, to. The first with to 0 ends them. */
typedef unsigned run_list[4][2];

static void set_runs(uint64_t *words, const run_list runs)
{
    memset(words, 0, CHUNK_WORDS * sizeof(*words));
    for (int i = 0; i < 4 && runs[i][1] != 0; i++) {
        for (unsigned bit = runs[i][0]; bit < runs[i][1]; bit++)
            words[bit / 64] |= BIT(bit % 64);
    }
}

static void check(size_t row, uint64_t have, uint64_t want)
{
    if (have != want)
        print_error("row %zu:\n", row);
    assert_int_equal(have, want);
}

static void check_summary(size_t row, summary have, summary want)
{
    check(row, have.start, want.start);
    check(row, have.max, want.max);
    check(row, have.end, want.end);
}

static void next_finds_the_first_at_or_above(void **state)
{
    static const struct {
        run_list ones;
        unsigned from;
        bool value;
        unsigned expected;
    } rows[] = {
        /* nothing set */
        { { { 0, 0 } }, 0, true, 512 },
        { { { 0, 0 } }, 0, false, 0 },
        { { { 0, 0 } }, 63, false, 63 },
        { { { 0, 0 } }, 64, false, 64 },
        { { { 0, 0 } }, 511, false, 511 },
        { { { 0, 0 } }, 512, false, 512 },
        { { { 0, 0 } }, 512, true, 512 },
        /* everything set */
        { { { 0, 512 } }, 0, true, 0 },
        { { { 0, 512 } }, 63, true, 63 },
        { { { 0, 512 } }, 64, true, 64 },
        { { { 0, 512 } }, 511, true, 511 },
        { { { 0, 512 } }, 512, true, 512 },
        { { { 0, 512 } }, 0, false, 512 },
        { { { 0, 512 } }, 511, false, 512 },
        /* the first bit, the last bit, the bits at a word's border */
        { { { 0, 1 } }, 0, true, 0 },
        { { { 0, 1 } }, 1, true, 512 },
        { { { 0, 1 } }, 0, false, 1 },
        { { { 63, 64 } }, 0, true, 63 },
        { { { 63, 64 } }, 63, true, 63 },
        { { { 63, 64 } }, 64, true, 512 },
        { { { 63, 64 } }, 62, false, 62 },
        { { { 63, 64 } }, 63, false, 64 },
        { { { 64, 65 } }, 0, true, 64 },
        { { { 64, 65 } }, 63, true, 64 },
        { { { 64, 65 } }, 64, false, 65 },
        { { { 64, 65 } }, 65, true, 512 },
        { { { 511, 512 } }, 0, true, 511 },
        { { { 511, 512 } }, 511, true, 511 },
        { { { 511, 512 } }, 511, false, 512 },
        { { { 0, 511 } }, 0, false, 511 },
        { { { 0, 511 } }, 511, true, 512 },
        /* two runs */
        { { { 0, 100 }, { 128, 512 } }, 0, false, 100 },
        { { { 0, 100 }, { 128, 512 } }, 100, true, 128 },
        { { { 0, 100 }, { 128, 512 } }, 128, false, 512 },
    };

    (void)state;
    for (size_t i = 0; i < ROWS(rows); i++) {
        uint64_t words[CHUNK_WORDS];

        set_runs(words, rows[i].ones);
        check(i, pagebits_next(words, rows[i].from, rows[i].value), rows[i].expected);
    }
}

static void prev_finds_one_above_the_last_below(void **state)
{
    static const struct {
        run_list ones;
        unsigned to;
        bool value;
        unsigned expected;
    } rows[] = {
        { { { 0, 0 } }, 512, true, 0 },
        { { { 0, 0 } }, 512, false, 512 },
        { { { 0, 0 } }, 64, false, 64 },
        { { { 0, 0 } }, 63, false, 63 },
        { { { 0, 0 } }, 1, false, 1 },
        { { { 0, 0 } }, 0, false, 0 },
        { { { 0, 512 } }, 512, true, 512 },
        { { { 0, 512 } }, 512, false, 0 },
        { { { 0, 512 } }, 64, true, 64 },
        { { { 0, 512 } }, 1, true, 1 },
        { { { 0, 512 } }, 0, true, 0 },
        { { { 0, 1 } }, 512, true, 1 },
        { { { 0, 1 } }, 1, true, 1 },
        { { { 0, 1 } }, 1, false, 0 },
        { { { 0, 1 } }, 2, false, 2 },
        { { { 1, 512 } }, 512, false, 1 },
        { { { 63, 64 } }, 512, true, 64 },
        { { { 63, 64 } }, 64, true, 64 },
        { { { 63, 64 } }, 63, true, 0 },
        { { { 63, 64 } }, 64, false, 63 },
        { { { 64, 65 } }, 65, true, 65 },
        { { { 64, 65 } }, 64, true, 0 },
        { { { 64, 65 } }, 65, false, 64 },
        { { { 511, 512 } }, 512, true, 512 },
        { { { 511, 512 } }, 511, true, 0 },
        { { { 511, 512 } }, 512, false, 511 },
        { { { 0, 511 } }, 512, false, 512 },
        { { { 0, 511 } }, 511, false, 0 },
        { { { 0, 100 }, { 128, 512 } }, 512, false, 128 },
        { { { 0, 100 }, { 128, 512 } }, 128, true, 100 },
        { { { 0, 100 }, { 128, 512 } }, 100, false, 0 },
    };

    (void)state;
    for (size_t i = 0; i < ROWS(rows); i++) {
        uint64_t words[CHUNK_WORDS];

        set_runs(words, rows[i].ones);
        check(i, pagebits_prev(words, rows[i].to, rows[i].value), rows[i].expected);
    }
}

static void fill_sets_and_clears_exactly_the_range(void **state)
{
    static const struct {
        unsigned from;
        unsigned to;
        uint64_t expected[CHUNK_WORDS];
    } rows[] = {
        { 0, 0, { 0 } },
        { 64, 64, { 0 } },
        { 100, 100, { 0 } },
        { 512, 512, { 0 } },
        { 0, 1, { 1 } },
        { 0, 63, { ALL >> 1 } },
        { 0, 64, { ALL } },
        { 0, 65, { ALL, 1 } },
        { 1, 64, { ALL - 1 } },
        { 63, 64, { BIT(63) } },
        { 63, 65, { BIT(63), 1 } },
        { 64, 65, { 0, 1 } },
        { 64, 128, { 0, ALL } },
        { 130, 140, { 0, 0, 0xffc } },
        { 100, 300, { 0, 0xfffffff000000000, ALL, ALL, 0x00000fffffffffff } },
        { 448, 512, { 0, 0, 0, 0, 0, 0, 0, ALL } },
        { 447, 511, { 0, 0, 0, 0, 0, 0, BIT(63), ALL >> 1 } },
        { 511, 512, { 0, 0, 0, 0, 0, 0, 0, BIT(63) } },
        { 0, 511, { ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL >> 1 } },
        { 0, 512, { ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL } },
    };

    (void)state;
    for (size_t i = 0; i < ROWS(rows); i++) {
        uint64_t zeros[CHUNK_WORDS];
        uint64_t ones[CHUNK_WORDS];

        memset(zeros, 0, sizeof(zeros));
        memset(ones, 0xff, sizeof(ones));
        pagebits_fill(zeros, rows[i].from, rows[i].to, true);
        pagebits_fill(ones, rows[i].from, rows[i].to, false);
        for (unsigned w = 0; w < CHUNK_WORDS; w++) {
            check(i, zeros[w], rows[i].expected[w]);
            check(i, ones[w], ~rows[i].expected[w]);
        }
        /* Filling what is filled changes nothing. */
        pagebits_fill(zeros, rows[i].from, rows[i].to, true);
        check(i, pagebits_count(zeros, 0, 512), rows[i].to - rows[i].from);
    }
}

static void count_counts_the_ones_of_the_range(void **state)
{
    static const struct {
        run_list ones;
        unsigned from;
        unsigned to;
        unsigned expected;
    } rows[] = {
        { { { 0, 0 } }, 0, 512, 0 },
        { { { 0, 512 } }, 0, 512, 512 },
        { { { 0, 512 } }, 0, 0, 0 },
        { { { 0, 512 } }, 63, 63, 0 },
        { { { 0, 512 } }, 512, 512, 0 },
        { { { 0, 512 } }, 0, 63, 63 },
        { { { 0, 512 } }, 63, 65, 2 },
        { { { 0, 512 } }, 64, 512, 448 },
        { { { 0, 512 } }, 511, 512, 1 },
        { { { 63, 65 } }, 0, 64, 1 },
        { { { 63, 65 } }, 64, 512, 1 },
        { { { 63, 65 } }, 0, 63, 0 },
        { { { 63, 65 } }, 65, 512, 0 },
        { { { 10, 20 }, { 100, 300 }, { 500, 512 } }, 0, 512, 222 },
        { { { 10, 20 }, { 100, 300 }, { 500, 512 } }, 15, 110, 15 },
        { { { 10, 20 }, { 100, 300 }, { 500, 512 } }, 299, 501, 2 },
        { { { 10, 20 }, { 100, 300 }, { 500, 512 } }, 300, 500, 0 },
    };

    (void)state;
    for (size_t i = 0; i < ROWS(rows); i++) {
        uint64_t words[CHUNK_WORDS];

        set_runs(words, rows[i].ones);
        check(i, pagebits_count(words, rows[i].from, rows[i].to), rows[i].expected);
    }
}

static void find_takes_the_lowest_zeros_that_fit(void **state)
{
    static const struct {
        run_list ones;
        unsigned from;
        unsigned n;
        unsigned expected;
    } rows[] = {
        { { { 0, 0 } }, 0, 1, 0 },
        { { { 0, 0 } }, 0, 512, 0 },
        { { { 0, 0 } }, 0, 513, 512 },
        { { { 0, 0 } }, 1, 511, 1 },
        { { { 0, 0 } }, 1, 512, 512 },
        { { { 0, 0 } }, 63, 2, 63 },
        { { { 0, 0 } }, 64, 448, 64 },
        { { { 0, 0 } }, 65, 448, 512 },
        { { { 0, 0 } }, 511, 1, 511 },
        { { { 0, 0 } }, 511, 2, 512 },
        { { { 0, 0 } }, 512, 1, 512 },
        { { { 0, 512 } }, 0, 1, 512 },
        { { { 0, 511 } }, 0, 1, 511 },
        { { { 0, 511 } }, 0, 2, 512 },
        { { { 1, 512 } }, 0, 1, 0 },
        { { { 1, 512 } }, 1, 1, 512 },
        { { { 0, 63 }, { 65, 512 } }, 0, 2, 63 },
        { { { 0, 63 }, { 65, 512 } }, 0, 3, 512 },
        { { { 0, 63 }, { 65, 512 } }, 64, 1, 64 },
        { { { 0, 10 }, { 20, 30 }, { 45, 512 } }, 0, 10, 10 },
        { { { 0, 10 }, { 20, 30 }, { 45, 512 } }, 0, 11, 30 },
        { { { 0, 10 }, { 20, 30 }, { 45, 512 } }, 0, 15, 30 },
        { { { 0, 10 }, { 20, 30 }, { 45, 512 } }, 0, 16, 512 },
        { { { 0, 10 }, { 20, 30 }, { 45, 512 } }, 11, 9, 11 },
        { { { 0, 10 }, { 20, 30 }, { 45, 512 } }, 11, 10, 30 },
        { { { 64, 128 }, { 200, 512 } }, 0, 64, 0 },
        { { { 64, 128 }, { 200, 512 } }, 0, 65, 128 },
        { { { 64, 128 }, { 200, 512 } }, 0, 72, 128 },
        { { { 64, 128 }, { 200, 512 } }, 0, 73, 512 },
    };

    (void)state;
    for (size_t i = 0; i < ROWS(rows); i++) {
        uint64_t words[CHUNK_WORDS];

        set_runs(words, rows[i].ones);
        check(i, pagebits_find(words, rows[i].from, rows[i].n), rows[i].expected);
    }
}

static void find_in_word_takes_the_lowest_ones_that_fit(void **state)
{
    static const struct {
        uint64_t word;
        unsigned n;
        unsigned expected;
    } rows[] = {
        { 0, 1, 64 },
        { 0, 64, 64 },
        { ALL, 1, 0 },
        { ALL, 63, 0 },
        { ALL, 64, 0 },
        { 1, 1, 0 },
        { 1, 2, 64 },
        { BIT(63), 1, 63 },
        { BIT(63), 2, 64 },
        { BIT(63) | BIT(62), 2, 62 },
        { 0x5, 2, 64 },
        { 0xd, 2, 2 },
        { 0xf0f0, 4, 4 },
        { 0xf0f0, 5, 64 },
        { ALL - 1, 63, 1 },
        { ALL - 1, 64, 64 },
        { ALL >> 1, 63, 0 },
        { ALL >> 1, 64, 64 },
        { 0xffff0000ffffffff, 32, 0 },
        { 0xffff00007fffffff, 31, 0 },
        { 0xffff00007fffffff, 32, 64 },
        { 0xffff00000fff0000, 13, 48 },
        { 0xffffffff00000000, 32, 32 },
        { 0xffffffff00000000, 33, 64 },
        { 0x0001ffff00000000, 17, 32 },
        { 0x0001ffff00000000, 18, 64 },
        { 0xaaaaaaaaaaaaaaaa, 1, 1 },
        { 0xaaaaaaaaaaaaaaaa, 2, 64 },
        { 0x6666666666666666, 2, 1 },
        { 0xe000000000000007, 3, 0 },
        { 0xf000000000000007, 4, 60 },
        { 0x8000000000000001, 2, 64 }, /* the two ends are not neighbours */
    };

    (void)state;
    for (size_t i = 0; i < ROWS(rows); i++)
        check(i, pagebits_find_in_word(rows[i].word, rows[i].n), rows[i].expected);
}

static void find_last_takes_the_upper_end_of_the_highest_ones(void **state)
{
    static const struct {
        run_list ones;
        unsigned max;
        unsigned block;
        unsigned expected; /* 0: none */
        unsigned from;
    } rows[] = {
        { { { 0, 0 } }, 512, 1, 0, 0 },
        { { { 0, 512 } }, 0, 1, 0, 0 },
        { { { 0, 512 } }, 1, 1, 1, 511 },
        { { { 0, 512 } }, 63, 1, 63, 449 },
        { { { 0, 512 } }, 64, 1, 64, 448 },
        { { { 0, 512 } }, 65, 1, 65, 447 },
        { { { 0, 512 } }, 511, 1, 511, 1 },
        { { { 0, 512 } }, 512, 1, 512, 0 },
        { { { 0, 1 } }, 5, 1, 1, 0 },
        { { { 511, 512 } }, 5, 1, 1, 511 },
        { { { 0, 511 } }, 512, 1, 511, 0 },
        { { { 63, 65 } }, 1, 1, 1, 64 },
        { { { 63, 65 } }, 2, 1, 2, 63 },
        { { { 63, 65 } }, 512, 1, 2, 63 },
        { { { 64, 128 } }, 512, 1, 64, 64 },
        { { { 0, 10 }, { 100, 200 } }, 512, 1, 100, 100 },
        { { { 0, 10 }, { 100, 200 } }, 30, 1, 30, 170 },
        { { { 0, 300 } }, 300, 1, 300, 0 },
        { { { 0, 300 } }, 299, 1, 299, 1 },
        { { { 0, 500 }, { 511, 512 } }, 512, 1, 1, 511 },
        /* blocks: below the end of the ones, between others, at the top, everything, larger than there is room */
        { { { 0, 258 } }, 3, 256, 258, 0 },
        { { { 54, 138 } }, 12, 64, 74, 64 },
        { { { 256, 512 } }, 1, 256, 256, 256 },
        { { { 448, 512 } }, 1, 64, 64, 448 },
        { { { 0, 512 } }, 1, 512, 512, 0 },
        { { { 0, 512 } }, 1, 1024, 1, 511 },
        /* a block whose first or last bit is missing */
        { { { 1, 258 } }, 3, 256, 3, 255 },
        { { { 0, 255 } }, 3, 256, 3, 252 },
        { { { 257, 512 } }, 8, 256, 8, 504 },
        /* the upper end begins where a block does, or in a higher one that is not whole */
        { { { 0, 258 } }, 2, 256, 2, 256 },
        { { { 0, 300 } }, 44, 256, 44, 256 },
        { { { 0, 300 } }, 45, 256, 300, 0 },
        { { { 0, 512 } }, 8, 256, 256, 256 },
        { { { 0, 512 } }, 257, 256, 512, 0 },
        { { { 100, 512 } }, 300, 256, 300, 212 },
        { { { 0, 256 }, { 300, 400 } }, 8, 256, 8, 392 },
    };

    (void)state;
    for (size_t i = 0; i < ROWS(rows); i++) {
        uint64_t words[CHUNK_WORDS];
        unsigned from = 0;

        set_runs(words, rows[i].ones);
        check(i, pagebits_find_last(words, rows[i].max, rows[i].block, &from), rows[i].expected);
        check(i, from, rows[i].from);
    }
}

/* --- summaries --- */

static void pack_and_unpack_are_inverse(void **state)
{
    static const struct {
        summary s;
        uint64_t packed;
    } rows[] = {
        { { 0, 0, 0 }, 0 },
        { { 1, 1, 0 }, 0x200001 },
        { { 0, 1, 1 }, 0x40000200000 },
        { { 1, 2, 3 }, 0xc0000400001 },
        { { 0, 5, 0 }, 0xa00000 },
        { { 512, 512, 512 }, 0x8000040000200 },
        { { 0, SUMMARY_MAX - 1, SUMMARY_MAX - 1 }, 0x7fffffffffe00000 },
        { { SUMMARY_MAX - 1, SUMMARY_MAX - 1, 0 }, 0x3ffffffffff },
        { { SUMMARY_MAX - 1, SUMMARY_MAX - 1, SUMMARY_MAX - 1 }, 0x7fffffffffffffff },
        { { SUMMARY_MAX, SUMMARY_MAX, SUMMARY_MAX }, 0x8000000000000000 },
    };

    (void)state;
    assert_int_equal(SUMMARY_MAX, 2097152);
    for (size_t i = 0; i < ROWS(rows); i++) {
        check(i, summary_pack(rows[i].s), rows[i].packed);
        check_summary(i, summary_unpack(rows[i].packed), rows[i].s);
        check(i, summary_max(rows[i].packed), rows[i].s.max);
    }
}

/* A summary of n pages that are all free; with 0, of any number that are all taken. */
#define FREE(n) (n), (n), (n)
#define LEVEL1 (UINT64_C(1) << 18)

static void merge_joins_runs_of_neighbours(void **state)
{
    static const struct {
        summary entries[8];
        unsigned n;
        uint64_t pages_each;
        summary expected;
    } rows[] = {
        { { { FREE(512) } }, 1, 512, { 512, 512, 512 } },
        { { { FREE(0) } }, 1, 512, { 0, 0, 0 } },
        { { { 10, 20, 30 } }, 1, 512, { 10, 20, 30 } },
        { { { FREE(512) }, { FREE(512) } }, 2, 512, { 1024, 1024, 1024 } },
        { { { FREE(512) }, { FREE(0) } }, 2, 512, { 512, 512, 0 } },
        { { { FREE(0) }, { FREE(512) } }, 2, 512, { 0, 512, 512 } },
        { { { FREE(0) }, { FREE(0) } }, 2, 512, { 0, 0, 0 } },
        { { { 10, 20, 30 }, { 40, 50, 60 } }, 2, 512, { 10, 70, 60 } },
        { { { 10, 20, 30 }, { 0, 50, 60 } }, 2, 512, { 10, 50, 60 } },
        { { { 10, 20, 0 }, { 40, 50, 60 } }, 2, 512, { 10, 50, 60 } },
        { { { 10, 200, 0 }, { 40, 50, 60 } }, 2, 512, { 10, 200, 60 } },
        { { { 511, 511, 0 }, { 511, 511, 0 } }, 2, 512, { 511, 511, 0 } },
        { { { 0, 511, 511 }, { 511, 511, 0 } }, 2, 512, { 0, 1022, 0 } },
        { { { FREE(512) }, { 40, 50, 60 } }, 2, 512, { 552, 552, 60 } },
        { { { 10, 20, 30 }, { FREE(512) } }, 2, 512, { 10, 542, 542 } },
        { { { 10, 20, 30 }, { FREE(512) }, { FREE(512) }, { 40, 50, 60 } }, 4, 512, { 10, 1094, 60 } },
        { { { FREE(512) }, { FREE(512) }, { FREE(0) }, { FREE(512) } }, 4, 512, { 1024, 1024, 512 } },
        { { { FREE(0) }, { FREE(512) }, { FREE(512) }, { 7, 8, 9 } }, 4, 512, { 0, 1031, 9 } },
        { { { FREE(0) }, { FREE(0) }, { FREE(0) }, { FREE(0) }, { FREE(0) }, { FREE(0) }, { FREE(0) }, { FREE(512) } },
          8,
          512,
          { 0, 512, 512 } },
        { { { FREE(512) },
            { FREE(512) },
            { FREE(512) },
            { FREE(512) },
            { FREE(512) },
            { FREE(512) },
            { FREE(512) },
            { FREE(0) } },
          8,
          512,
          { 3584, 3584, 0 } },
        { { { FREE(512) },
            { FREE(512) },
            { FREE(512) },
            { FREE(512) },
            { FREE(512) },
            { FREE(512) },
            { FREE(512) },
            { FREE(512) } },
          8,
          512,
          { 4096, 4096, 4096 } },
        { { { 1, 1, 1 }, { 1, 1, 1 }, { 1, 1, 1 }, { 1, 1, 1 } }, 4, 512, { 1, 2, 1 } },
        { { { FREE(LEVEL1) }, { LEVEL1 - 1, LEVEL1 - 1, 0 } }, 2, LEVEL1, { 2 * LEVEL1 - 1, 2 * LEVEL1 - 1, 0 } },
        { { { FREE(LEVEL1) },
            { FREE(LEVEL1) },
            { FREE(LEVEL1) },
            { FREE(LEVEL1) },
            { FREE(LEVEL1) },
            { FREE(LEVEL1) },
            { FREE(LEVEL1) },
            { FREE(LEVEL1) } },
          8,
          LEVEL1,
          { FREE(SUMMARY_MAX) } },
    };

    (void)state;
    for (size_t i = 0; i < ROWS(rows); i++) {
        uint64_t packed[8] = { 0 };

        for (unsigned k = 0; k < rows[i].n; k++)
            packed[k] = summary_pack(rows[i].entries[k]);
        check_summary(i, summary_merge(packed, rows[i].n, rows[i].pages_each), rows[i].expected);
    }
}

/* Page by page. */
static summary naive_summary(const uint64_t *words)
{
    summary s = { 0, 0, 0 };
    bool taken_seen = false;

    for (unsigned page = 0; page < CHUNK_PAGES; page++) {
        if (words[page / 64] >> (page % 64) & 1) {
            taken_seen = true;
            s.end = 0;
            continue;
        }
        s.end++;
        if (!taken_seen)
            s.start++;
        if (s.end > s.max)
            s.max = s.end;
    }
    return s;
}

static void summarize_measures_the_three_runs(void **state)
{
    static const struct {
        run_list taken;
        summary expected;
    } rows[] = {
        { { { 0, 0 } }, { 512, 512, 512 } },
        { { { 0, 512 } }, { 0, 0, 0 } },
        { { { 0, 1 } }, { 0, 511, 511 } },
        { { { 511, 512 } }, { 511, 511, 0 } },
        { { { 0, 1 }, { 511, 512 } }, { 0, 510, 0 } },
        { { { 1, 2 } }, { 1, 510, 510 } },
        { { { 63, 64 } }, { 63, 448, 448 } },
        { { { 64, 65 } }, { 64, 447, 447 } },
        { { { 255, 256 } }, { 255, 256, 256 } },
        { { { 256, 257 } }, { 256, 256, 255 } },
        { { { 1, 511 } }, { 1, 1, 1 } },
        { { { 0, 511 } }, { 0, 1, 1 } },
        { { { 1, 512 } }, { 1, 1, 0 } },
        /* one hole: within a word, as long as one can be there; a whole word; over a border */
        { { { 0, 1 }, { 63, 512 } }, { 0, 62, 0 } },
        { { { 0, 449 }, { 511, 512 } }, { 0, 62, 0 } },
        { { { 0, 1 }, { 63, 100 }, { 161, 512 } }, { 0, 62, 0 } },
        { { { 0, 448 }, { 511, 512 } }, { 0, 63, 0 } },
        { { { 0, 449 } }, { 0, 63, 63 } },
        { { { 0, 64 }, { 128, 512 } }, { 0, 64, 0 } },
        { { { 0, 62 }, { 65, 512 } }, { 0, 3, 0 } },
        { { { 0, 127 }, { 129, 512 } }, { 0, 2, 0 } },
        { { { 0, 30 }, { 31, 512 } }, { 0, 1, 0 } },
        /* several */
        { { { 10, 100 }, { 110, 500 } }, { 10, 12, 12 } },
        { { { 30, 200 }, { 250, 480 } }, { 30, 50, 32 } },
        { { { 2, 250 }, { 254, 510 } }, { 2, 4, 2 } },
        { { { 0, 5 }, { 8, 128 }, { 131, 512 } }, { 0, 3, 0 } },
        { { { 0, 5 }, { 45, 50 }, { 60, 100 }, { 130, 512 } }, { 0, 40, 0 } },
    };

    (void)state;
    for (size_t i = 0; i < ROWS(rows); i++) {
        uint64_t words[CHUNK_WORDS];

        set_runs(words, rows[i].taken);
        check_summary(i, pagebits_summarize(words), rows[i].expected);
        check_summary(i, naive_summary(words), rows[i].expected);
    }
}

/* Random words: one in 2^sparse bits differs from the rest. */
static void random_words(uint64_t *words, uint64_t *seed)
{
    unsigned sparse = (unsigned)(test_random(seed) % 8);
    bool flip = test_random(seed) % 2 != 0;

    for (unsigned w = 0; w < CHUNK_WORDS; w++) {
        words[w] = ALL;
        for (unsigned k = 0; k <= sparse; k++)
            words[w] &= test_random(seed);
        if (test_random(seed) % 8 == 0)
            words[w] = 0;
        if (flip)
            words[w] = ~words[w];
    }
}

static void random_words_agree_with_loops_over_bits(void **state)
{
    uint64_t seed = test_seed();

    (void)state;
    for (size_t trial = 0; trial < 10000; trial++) {
        uint64_t words[CHUNK_WORDS];
        unsigned from = (unsigned)(test_random(&seed) % 513);
        unsigned to = from + (unsigned)(test_random(&seed) % (513 - from));
        unsigned n = 1 + (unsigned)(test_random(&seed) % 12);
        bool value = test_random(&seed) % 2 != 0;
        unsigned next = 512;
        unsigned prev = 0;
        unsigned count = 0;
        unsigned found = 512;
        unsigned run = 0;

        random_words(words, &seed);
        for (unsigned bit = 0; bit < 512; bit++) {
            bool one = (words[bit / 64] >> (bit % 64) & 1) != 0;

            if (bit >= from && one == value && next == 512)
                next = bit;
            if (bit < to && one == value)
                prev = bit + 1;
            count += bit >= from && bit < to && one;
            run = bit >= from && !one ? run + 1 : 0;
            if (run == n && found == 512)
                found = bit + 1 - n;
        }
        check(trial, pagebits_next(words, from, value), next);
        check(trial, pagebits_prev(words, to, value), prev);
        check(trial, pagebits_count(words, from, to), count);
        check(trial, pagebits_find(words, from, n), found);
        check_summary(trial, pagebits_summarize(words), naive_summary(words));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(next_finds_the_first_at_or_above),
        cmocka_unit_test(prev_finds_one_above_the_last_below),
        cmocka_unit_test(fill_sets_and_clears_exactly_the_range),
        cmocka_unit_test(count_counts_the_ones_of_the_range),
        cmocka_unit_test(find_takes_the_lowest_zeros_that_fit),
        cmocka_unit_test(find_in_word_takes_the_lowest_ones_that_fit),
        cmocka_unit_test(find_last_takes_the_upper_end_of_the_highest_ones),
        cmocka_unit_test(pack_and_unpack_are_inverse),
        cmocka_unit_test(merge_joins_runs_of_neighbours),
        cmocka_unit_test(summarize_measures_the_three_runs),
        cmocka_unit_test(random_words_agree_with_loops_over_bits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
