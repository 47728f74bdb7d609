/*
 * The scavenger's index, by tables: which chunks are candidates, and which runs the page allocator takes out of them.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>

#include "daemon/heap/pagealloc.h"
#include "daemon/heap/scavindex.h"

#define ROWS(rows) (sizeof(rows) / sizeof((rows)[0]))
#define NONE UINT64_MAX

static void check(size_t row, uint64_t have, uint64_t want)
{
    if (have != want)
        print_error("row %zu:\n", row);
    assert_int_equal(have, want);
}

static void candidates_have_memory_and_are_not_dense(void **state)
{
    static const struct {
        uint16_t ntaken;
        uint16_t nreleasing;
        uint16_t ninuse_before;
        bool same_gen; /* it has changed in this generation */
        uint16_t nbacked;
        bool force;
        bool expected;
    } rows[] = {
        /* nothing to release */
        { 0, 0, 0, true, 0, false, false },
        { 0, 0, 0, true, 0, true, false },
        { 512, 0, 512, true, 0, true, false },
        { 100, 0, 100, false, 0, true, false },
        /* dense now */
        { 0, 0, 0, true, 512, false, true },
        { 0, 0, 0, true, 1, false, true },
        { 494, 0, 0, true, 18, false, true },
        { 495, 0, 0, true, 17, false, true },
        { 496, 0, 0, true, 16, false, false },
        { 497, 0, 0, true, 15, false, false },
        { 511, 0, 0, true, 1, false, false },
        { 495, 0, 0, false, 1, false, true },
        { 496, 0, 0, false, 1, false, false },
        { 497, 0, 0, false, 1, false, false },
        /* dense when the last generation ended */
        { 495, 0, 495, true, 17, false, true },
        { 495, 0, 496, true, 17, false, false },
        { 495, 0, 497, true, 17, false, false },
        { 0, 0, 495, true, 512, false, true },
        { 0, 0, 496, true, 512, false, false },
        { 0, 0, 512, true, 1, false, false },
        /* not changed since: what was before that does not matter */
        { 495, 0, 495, false, 17, false, true },
        { 495, 0, 496, false, 17, false, true },
        { 495, 0, 497, false, 17, false, true },
        { 0, 0, 512, false, 512, false, true },
        { 496, 0, 495, false, 16, false, false },
        /* forced: dense or not */
        { 495, 0, 496, true, 17, true, true },
        { 496, 0, 0, true, 16, true, true },
        { 497, 0, 497, false, 15, true, true },
        { 511, 0, 512, true, 1, true, true },
        { 0, 0, 512, true, 1, true, true },
        /* pages that are being released are taken, but not in use */
        { 512, 17, 0, true, 1, false, true },
        { 512, 16, 0, true, 1, false, false },
        { 511, 16, 495, false, 1, false, true },
        { 511, 15, 495, false, 1, false, false },
        { 500, 100, 496, true, 1, false, false },
        { 511, 511, 0, true, 0, true, false },
        { 511, 511, 0, true, 1, false, true },
    };

    (void)state;
    assert_int_equal(SCAV_DENSE_PAGES, 496);
    for (size_t i = 0; i < ROWS(rows); i++) {
        const scavindex index = { .chunks = NULL, .gen = 7 };
        const chunk_use use = { .ntaken = rows[i].ntaken,
                                .ninuse_before = rows[i].ninuse_before,
                                .nreleasing = rows[i].nreleasing,
                                .nbacked = rows[i].nbacked,
                                .added = true,
                                .has_metadata = true,
                                .gen = rows[i].same_gen ? 7 : 6 };

        check(i, scavindex_is_candidate(&index, &use, rows[i].force), rows[i].expected);
    }
}

static void searches_go_down_and_rise_with_frees(void **state)
{
    enum { ALLOC, FREE, NEXT_GEN, FIND, FORCE };
    /* Eight chunks, nothing taken and nothing with memory at first. */
    static const struct {
        int op;
        uint64_t chunk; /* expected of FIND and FORCE */
        unsigned npages;
        unsigned nbacked;
        uint64_t from; /* both, afterwards */
        uint64_t from_background;
    } rows[] = {
        { FORCE, NONE, 0, 0, 0, 0 },
        { FIND, NONE, 0, 0, 0, 0 },
        { ALLOC, 2, 512, 0, 0, 0 },
        { ALLOC, 5, 512, 0, 0, 0 },
        { ALLOC, 6, 100, 0, 0, 0 },
        { FORCE, NONE, 0, 0, 0, 0 },
        /* 502 of chunk 2 in use: only a forced search finds it */
        { FREE, 2, 10, 10, 3, 3 },
        { FORCE, 2, 0, 0, 3, 3 },
        { FIND, NONE, 0, 0, 3, 0 },
        /* 495 of chunk 5 */
        { FREE, 5, 17, 17, 6, 6 },
        { FIND, 5, 0, 0, 6, 6 },
        { FORCE, 5, 0, 0, 6, 6 },
        /* these are released; frees without memory raise nothing */
        { ALLOC, 5, 17, 17, 6, 6 },
        { FREE, 5, 17, 0, 6, 6 },
        { FIND, NONE, 0, 0, 6, 0 },
        { FORCE, 2, 0, 0, 3, 0 },
        { FREE, 6, 50, 0, 3, 0 },
        { FIND, NONE, 0, 0, 3, 0 },
        /* chunk 2: 496 in use, then 495 by a free without memory: now its other free pages are candidates */
        { FREE, 2, 6, 6, 3, 3 },
        { FIND, NONE, 0, 0, 3, 0 },
        { FREE, 2, 1, 0, 3, 3 },
        { FIND, 2, 0, 0, 3, 3 },
        { NEXT_GEN, 0, 0, 0, 3, 3 },
        { FIND, 2, 0, 0, 3, 3 },
        /* 496 again, over the end of the generation */
        { ALLOC, 2, 1, 1, 3, 3 },
        { FIND, NONE, 0, 0, 3, 0 },
        { NEXT_GEN, 0, 0, 0, 3, 3 },
        { FIND, NONE, 0, 0, 3, 0 },
        /* 396 now, 496 when the generation began: a candidate in the next one */
        { FREE, 2, 100, 100, 3, 3 },
        { FIND, NONE, 0, 0, 3, 0 },
        { FORCE, 2, 0, 0, 3, 0 },
        { NEXT_GEN, 0, 0, 0, 3, 3 },
        { FIND, 2, 0, 0, 3, 3 },
        /* the top chunk and the bottom one */
        { ALLOC, 7, 300, 0, 3, 3 },
        { FREE, 7, 1, 1, 8, 8 },
        { FIND, 7, 0, 0, 8, 8 },
        { ALLOC, 7, 1, 1, 8, 8 },
        { FIND, 2, 0, 0, 8, 3 },
        { FORCE, 2, 0, 0, 3, 3 },
        { ALLOC, 2, 115, 115, 3, 3 },
        { ALLOC, 0, 10, 0, 3, 3 },
        { FREE, 0, 5, 5, 3, 3 },
        { FIND, 0, 0, 0, 3, 1 },
        { FORCE, 0, 0, 0, 1, 1 },
        { ALLOC, 0, 5, 5, 1, 1 },
        { FIND, NONE, 0, 0, 1, 0 },
        { FORCE, NONE, 0, 0, 0, 0 },
        { NEXT_GEN, 0, 0, 0, 0, 0 },
        { FIND, NONE, 0, 0, 0, 0 },
    };
    chunk_use chunks[8] = { { .ntaken = 0 } };
    scavindex index = { .chunks = chunks };

    (void)state;
    for (size_t i = 0; i < ROWS(rows); i++) {
        bool finding = rows[i].op == FIND || rows[i].op == FORCE;
        uint64_t chunk = NONE;

        if (rows[i].op == ALLOC)
            scavindex_alloc(&index, rows[i].chunk, rows[i].npages, rows[i].nbacked);
        else if (rows[i].op == FREE)
            scavindex_free(&index, rows[i].chunk, rows[i].npages, rows[i].nbacked);
        else if (rows[i].op == NEXT_GEN)
            scavindex_next_gen(&index);
        else
            check(i, scavindex_find(&index, rows[i].op == FORCE, &chunk), rows[i].chunk != NONE);
        if (finding)
            check(i, chunk, rows[i].chunk);
        check(i, index.from, rows[i].from);
        check(i, index.from_background, rows[i].from_background);
    }
}

static void counters_remember_the_end_of_the_last_generation(void **state)
{
    enum { ALLOC, FREE, NEXT_GEN };
    static const struct {
        int op;
        unsigned npages;
        unsigned nbacked;
        uint64_t ntaken; /* afterwards */
        uint64_t ninuse_before;
        uint64_t nbacked_now;
        bool has_metadata;
    } rows[] = {
        { NEXT_GEN, 0, 0, 0, 0, 0, false },
        { ALLOC, 300, 0, 300, 0, 0, true },
        { FREE, 100, 60, 200, 0, 60, true },
        { NEXT_GEN, 0, 0, 200, 0, 60, true },
        { ALLOC, 50, 50, 250, 200, 10, true },
        { ALLOC, 262, 10, 512, 200, 0, true },
        { NEXT_GEN, 0, 0, 512, 200, 0, true },
        { NEXT_GEN, 0, 0, 512, 200, 0, true },
        /* from everything in use to everything free, and back */
        { FREE, 512, 512, 0, 512, 512, true },
        { ALLOC, 1, 1, 1, 512, 511, true },
        { NEXT_GEN, 0, 0, 1, 512, 511, true },
        { FREE, 1, 0, 0, 1, 511, true },
        { ALLOC, 512, 511, 512, 1, 0, true },
    };
    chunk_use chunks[2] = { { .ntaken = 0 } };
    scavindex index = { .chunks = chunks };

    (void)state;
    for (size_t i = 0; i < ROWS(rows); i++) {
        if (rows[i].op == ALLOC)
            scavindex_alloc(&index, 1, rows[i].npages, rows[i].nbacked);
        else if (rows[i].op == FREE)
            scavindex_free(&index, 1, rows[i].npages, rows[i].nbacked);
        else
            scavindex_next_gen(&index);
        check(i, chunks[1].ntaken, rows[i].ntaken);
        check(i, chunks[1].ninuse_before, rows[i].ninuse_before);
        check(i, chunks[1].nbacked, rows[i].nbacked_now);
        check(i, chunks[1].has_metadata, rows[i].has_metadata);
        check(i, chunks[0].ntaken + chunks[0].nbacked, 0);
    }
}

/* --- through the page allocator --- */

/* One step on a page allocator. What an op does not name is 0. */
typedef struct step {
    enum {
        GROW,       /* first, n */
        TAKE,       /* n: expected first */
        TAKE_AT,    /* first, n: expected_n of them were scavenged */
        FREE,       /* first, n: with memory */
        PUNCH,      /* first, n: free, without memory */
        BACKGROUND, /* release a run, n pages are asked for: expected, expected_n */
        FORCED,
        NEXT_GEN,
        UNUSED,       /* take the chunk of page first, if unused: expected */
        RELEASED,     /* give the chunk at first back, its metadata is gone */
        NOT_RELEASED, /* or is not */
        NFREE,        /* expected_n free pages */
        NSCAVENGED,
    } op;
    uint64_t first;
    uint64_t n;
    uint64_t expected; /* NONE: nothing is found */
    uint64_t expected_n;
} step;

static void check_released(size_t i, pagealloc *a, const step *s)
{
    page_range run = pagealloc_take_unscavenged(a, s->n, s->op == FORCED);

    check(i, run.npages, s->expected_n);
    if (run.npages == 0) {
        check(i, NONE, s->expected);
        return;
    }
    check(i, run.first.n, s->expected);
    /* It is taken until it is put back. */
    assert_int_equal(pagealloc_validate(a, stderr), 0);
    check(i, pagealloc_next_taken(a, run.first).n, run.first.n);
    check(i, pagealloc_is_free(a, run.first, 1), false);
    pagealloc_put_back(a, run, true);
}

static void run_step(size_t i, pagealloc *a, const step *s)
{
    page_no first = { 0 };
    uint64_t nscavenged;
    bool found;

    switch (s->op) {
    case GROW:
        pagealloc_grow(a, page_at(s->first), s->n);
        break;
    case TAKE:
        found = pagealloc_alloc(a, s->n, &first, &nscavenged);
        check(i, found ? first.n : NONE, s->expected);
        break;
    case TAKE_AT:
        check(i, pagealloc_alloc_at(a, page_at(s->first), s->n), s->expected_n);
        break;
    case FREE:
    case PUNCH:
        pagealloc_free_range(a, page_at(s->first), s->n, s->op == PUNCH);
        break;
    case BACKGROUND:
    case FORCED:
        check_released(i, a, s);
        break;
    case NEXT_GEN:
        pagealloc_next_gen(a);
        break;
    case UNUSED:
        found = pagealloc_take_unused_chunk(a, page_at(s->first), &first);
        check(i, found ? first.n : NONE, s->expected);
        break;
    case RELEASED:
    case NOT_RELEASED:
        pagealloc_free_unused_chunk(a, page_at(s->first), s->op == RELEASED);
        break;
    case NFREE:
        check(i, pagealloc_npages_free(a), s->expected_n);
        break;
    case NSCAVENGED:
        check(i, pagealloc_npages_scavenged(a), s->expected_n);
        break;
    }
    assert_int_equal(pagealloc_validate(a, stderr), 0);
}

static void run_steps(const step *steps, size_t nsteps)
{
    pagealloc *a;

    assert_int_equal(pagealloc_new(&a, 4096), 0);
    for (size_t i = 0; i < nsteps; i++)
        run_step(i, a, &steps[i]);
    (void)pagealloc_free(a);
}

static void take_unscavenged_gives_the_highest_run_and_cuts_its_upper_end(void **state)
{
    static const step steps[] = {
        { FORCED, 0, 512, NONE, 0 },
        { GROW, 0, 2048, 0, 0 },
        { FORCED, 0, 512, NONE, 0 }, /* all free, without memory */
        { TAKE_AT, 0, 2048, 0, 2048 },
        { FORCED, 0, 512, NONE, 0 },
        /* runs end at the borders of chunks */
        { FREE, 400, 300, 0, 0 },
        { FREE, 1000, 10, 0, 0 },
        { FREE, 1535, 2, 0, 0 },
        { FREE, 2047, 1, 0, 0 },
        { NFREE, 0, 0, 0, 313 },
        { NSCAVENGED, 0, 0, 0, 0 },
        { FORCED, 0, 0, NONE, 0 },
        { FORCED, 0, 1000, 2047, 1 },
        { FORCED, 0, 1000, 1536, 1 },
        { FORCED, 0, 1000, 1535, 1 },
        { FORCED, 0, 4, 1006, 4 },
        { FORCED, 0, 1, 1005, 1 },
        { FORCED, 0, 5, 1000, 5 },
        { FORCED, 0, 512, 512, 188 },
        { FORCED, 0, 100, 412, 100 },
        { NSCAVENGED, 0, 0, 0, 301 },
        { FORCED, 0, 0, NONE, 0 },
        { FORCED, 0, 100, 400, 12 },
        { FORCED, 0, 100, NONE, 0 },
        { NSCAVENGED, 0, 0, 0, 313 },
        /* what has no memory separates runs */
        { FREE, 100, 10, 0, 0 },
        { PUNCH, 110, 5, 0, 0 },
        { FREE, 115, 10, 0, 0 },
        { FORCED, 0, 1000, 115, 10 },
        { FORCED, 0, 1000, 100, 10 },
        { FORCED, 0, 1000, NONE, 0 },
        /* a whole chunk */
        { TAKE_AT, 512, 188, 0, 188 },
        { FREE, 512, 488, 0, 0 },
        { TAKE_AT, 1000, 10, 0, 10 },
        { FREE, 1000, 24, 0, 0 },
        { FORCED, 0, 511, 512, 512 },
        { FORCED, 0, 513, NONE, 0 },
        { TAKE_AT, 512, 512, 0, 512 },
        { FREE, 512, 512, 0, 0 },
        { FORCED, 0, 1000000, 512, 512 },
        { FORCED, 0, 1, NONE, 0 },
    };

    (void)state;
    run_steps(steps, ROWS(steps));
}

static void take_unscavenged_splits_no_huge_page(void **state)
{
    static const step steps[] = {
        { GROW, 0, 2048, 0, 0 },
        { TAKE_AT, 0, 2048, 0, 2048 },
        /* a block and 2 pages more, which would do for 2 but not for 3 */
        { FREE, 1024, 258, 0, 0 },
        { FORCED, 0, 3, 1024, 258 },
        { TAKE_AT, 1024, 258, 0, 258 },
        { FREE, 1024, 258, 0, 0 },
        { BACKGROUND, 0, 2, 1280, 2 },
        { BACKGROUND, 0, 3, 1024, 256 },
        /* one page of the upper block of a chunk */
        { FREE, 1792, 256, 0, 0 },
        { BACKGROUND, 0, 1, 1792, 256 },
        /* a chunk that is free: block by block */
        { FREE, 512, 512, 0, 0 },
        { BACKGROUND, 0, 8, 768, 256 },
        { BACKGROUND, 0, 8, 512, 256 },
        { BACKGROUND, 0, 8, NONE, 0 },
        /* a block that has a page in use, or one without memory, has no huge page to split */
        { FREE, 0, 255, 0, 0 },
        { FREE, 257, 255, 0, 0 },
        { FORCED, 0, 8, 504, 8 },
        { PUNCH, 256, 1, 0, 0 },
        { FORCED, 0, 8, 496, 8 },
        { FORCED, 0, 512, 257, 239 },
        { FORCED, 0, 8, 247, 8 },
        { FORCED, 0, 512, 0, 247 },
        /* over the border of two chunks there is none either */
        { TAKE_AT, 256, 512, 0, 512 },
        { FREE, 384, 256, 0, 0 },
        { FORCED, 0, 8, 632, 8 },
        { FORCED, 0, 8, 624, 8 },
        { FORCED, 0, 512, 512, 112 },
        { FORCED, 0, 8, 504, 8 },
    };

    (void)state;
    run_steps(steps, ROWS(steps));
}

static void take_unscavenged_skips_dense_chunks_unless_forced(void **state)
{
    static const step steps[] = {
        { GROW, 0, 2048, 0, 0 },
        { TAKE_AT, 0, 2048, 0, 2048 },
        /* 495, 496 and 497 in use, none of it in the last generation */
        { FREE, 100, 17, 0, 0 },
        { FREE, 700, 16, 0, 0 },
        { FREE, 1100, 15, 0, 0 },
        { BACKGROUND, 0, 512, 100, 17 },
        { BACKGROUND, 0, 512, NONE, 0 },
        { FORCED, 0, 10, 1105, 10 },
        { BACKGROUND, 0, 512, NONE, 0 },
        /* one more page of chunk 1: its highest run first */
        { FREE, 900, 1, 0, 0 },
        { BACKGROUND, 0, 512, 900, 1 },
        { BACKGROUND, 0, 12, 704, 12 },
        { BACKGROUND, 0, 12, 700, 4 },
        { BACKGROUND, 0, 12, NONE, 0 },
        /* chunk 2: 496 in use by a free without memory, 495 by another: now its 5 other free pages are candidates */
        { PUNCH, 1200, 1, 0, 0 },
        { BACKGROUND, 0, 512, NONE, 0 },
        { PUNCH, 1300, 1, 0, 0 },
        { BACKGROUND, 0, 512, 1100, 5 },
        { BACKGROUND, 0, 512, NONE, 0 },
        { FORCED, 0, 512, NONE, 0 },
        /* a dense chunk above others that are not */
        { FREE, 1536, 10, 0, 0 },
        { FREE, 1030, 3, 0, 0 },
        { FREE, 10, 2, 0, 0 },
        { BACKGROUND, 0, 512, 1030, 3 },
        { BACKGROUND, 0, 512, 10, 2 },
        { BACKGROUND, 0, 512, NONE, 0 },
        { FORCED, 0, 512, 1536, 10 },
        { FORCED, 0, 512, NONE, 0 },
    };

    (void)state;
    run_steps(steps, ROWS(steps));
}

static void dense_chunks_become_of_interest_in_the_next_generation(void **state)
{
    static const step steps[] = {
        { GROW, 0, 2048, 0, 0 },
        { TAKE_AT, 0, 2048, 0, 2048 },
        { NEXT_GEN, 0, 0, 0, 0 },
        /* 412 of chunk 3 in use, 512 at the end of the last generation */
        { FREE, 1600, 100, 0, 0 },
        { BACKGROUND, 0, 1000, NONE, 0 },
        { FORCED, 0, 10, 1690, 10 },
        { BACKGROUND, 0, 1000, NONE, 0 },
        { NEXT_GEN, 0, 0, 0, 0 },
        { BACKGROUND, 0, 30, 1660, 30 },
        { BACKGROUND, 0, 1000, 1600, 60 },
        { BACKGROUND, 0, 1000, NONE, 0 },
        { FORCED, 0, 1000, NONE, 0 },
        /* chunk 1: 496, for two generations */
        { FREE, 600, 16, 0, 0 },
        { BACKGROUND, 0, 512, NONE, 0 },
        { NEXT_GEN, 0, 0, 0, 0 },
        { BACKGROUND, 0, 512, NONE, 0 },
        { NEXT_GEN, 0, 0, 0, 0 },
        { BACKGROUND, 0, 512, NONE, 0 },
        /* 495 now, 496 then */
        { FREE, 700, 1, 0, 0 },
        { BACKGROUND, 0, 512, NONE, 0 },
        { NEXT_GEN, 0, 0, 0, 0 },
        { BACKGROUND, 0, 512, 700, 1 },
        { BACKGROUND, 0, 512, 600, 16 },
        { BACKGROUND, 0, 512, NONE, 0 },
        /* used up and freed within a generation: as at its beginning, not dense */
        { TAKE_AT, 1600, 100, 0, 100 },
        { FREE, 1600, 100, 0, 0 },
        { BACKGROUND, 0, 512, 1600, 100 },
        /* dense when a generation ends, freed in the next one: a candidate in the one after that */
        { TAKE_AT, 1600, 100, 0, 100 },
        { NEXT_GEN, 0, 0, 0, 0 },
        { FREE, 1600, 100, 0, 0 },
        { FREE, 100, 200, 0, 0 },
        { BACKGROUND, 0, 512, NONE, 0 },
        { NEXT_GEN, 0, 0, 0, 0 },
        { NEXT_GEN, 0, 0, 0, 0 },
        { BACKGROUND, 0, 512, 1600, 100 },
        { BACKGROUND, 0, 512, 100, 200 },
        { BACKGROUND, 0, 512, NONE, 0 },
        { FORCED, 0, 512, NONE, 0 },
        /* taken over the end of a generation because it is unused: not dense in the next one */
        { TAKE_AT, 1600, 100, 0, 100 },
        { PUNCH, 1536, 512, 0, 0 },
        { UNUSED, 1536, 0, 1536, 0 },
        { NEXT_GEN, 0, 0, 0, 0 },
        { RELEASED, 1536, 0, 0, 0 },
        { TAKE_AT, 1600, 100, 0, 100 },
        { FREE, 1600, 100, 0, 0 },
        { BACKGROUND, 0, 512, 1600, 100 },
    };

    (void)state;
    run_steps(steps, ROWS(steps));
}

static void unused_chunks_are_taken_once_for_each_use(void **state)
{
    static const step steps[] = {
        { UNUSED, 0, 0, NONE, 0 }, /* nothing there */
        { GROW, 0, 1024, 0, 0 },
        { GROW, 2048, 512, 0, 0 },
        { UNUSED, 0, 0, NONE, 0 }, /* never used */
        { UNUSED, 1023, 0, NONE, 0 },
        { UNUSED, 1500, 0, NONE, 0 }, /* in the gap */
        { UNUSED, 2560, 0, NONE, 0 }, /* the end */
        { UNUSED, 4000, 0, NONE, 0 },
        { TAKE_AT, 0, 1, 0, 1 },
        { UNUSED, 0, 0, NONE, 0 }, /* used */
        { FREE, 0, 1, 0, 0 },
        { UNUSED, 0, 0, NONE, 0 }, /* free, with memory */
        { FORCED, 0, 512, 0, 1 },
        { UNUSED, 511, 0, 0, 0 },
        { NFREE, 0, 0, 0, 1024 },
        { NSCAVENGED, 0, 0, 0, 1024 },
        { UNUSED, 0, 0, NONE, 0 }, /* taken */
        { TAKE, 0, 1, 512, 0 },    /* by nobody else */
        { PUNCH, 512, 1, 0, 0 },
        { RELEASED, 0, 0, 0, 0 },
        { NFREE, 0, 0, 0, 1536 },
        { NSCAVENGED, 0, 0, 0, 1536 },
        { UNUSED, 0, 0, NONE, 0 },
        { UNUSED, 600, 0, 512, 0 }, /* its page 512 has been taken */
        { RELEASED, 512, 0, 0, 0 },
        { UNUSED, 600, 0, NONE, 0 },
        { TAKE_AT, 5, 3, 0, 3 },
        { PUNCH, 5, 3, 0, 0 },
        { UNUSED, 0, 0, 0, 0 },
        { NOT_RELEASED, 0, 0, 0, 0 },
        { UNUSED, 300, 0, 0, 0 },
        { RELEASED, 0, 0, 0, 0 },
        { UNUSED, 0, 0, NONE, 0 },
        /* a run over a border uses both chunks */
        { TAKE_AT, 500, 20, 0, 20 },
        { PUNCH, 500, 20, 0, 0 },
        { UNUSED, 512, 0, 512, 0 },
        { UNUSED, 499, 0, 0, 0 },
        { TAKE, 0, 1, 2048, 0 },
        { RELEASED, 0, 0, 0, 0 },
        { RELEASED, 512, 0, 0, 0 },
        { TAKE, 0, 1024, 0, 0 },
        /* the chunk above the gap, until its last page is free */
        { TAKE_AT, 2049, 511, 0, 511 },
        { PUNCH, 2048, 511, 0, 0 },
        { UNUSED, 2048, 0, NONE, 0 },
        { PUNCH, 2559, 1, 0, 0 },
        { UNUSED, 2559, 0, 2048, 0 },
        { NFREE, 0, 0, 0, 0 },
        { TAKE, 0, 1, NONE, 0 },
        { RELEASED, 2048, 0, 0, 0 },
        { NFREE, 0, 0, 0, 512 },
        { FORCED, 0, 512, NONE, 0 },
    };

    (void)state;
    run_steps(steps, ROWS(steps));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(candidates_have_memory_and_are_not_dense),
        cmocka_unit_test(searches_go_down_and_rise_with_frees),
        cmocka_unit_test(counters_remember_the_end_of_the_last_generation),
        cmocka_unit_test(take_unscavenged_gives_the_highest_run_and_cuts_its_upper_end),
        cmocka_unit_test(take_unscavenged_splits_no_huge_page),
        cmocka_unit_test(take_unscavenged_skips_dense_chunks_unless_forced),
        cmocka_unit_test(dense_chunks_become_of_interest_in_the_next_generation),
        cmocka_unit_test(unused_chunks_are_taken_once_for_each_use),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
