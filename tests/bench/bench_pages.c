/*
 * bench_pages: the daemon's page allocator, nanoseconds for an alloc and a free, over heaps of 1 GiB, 64 GiB and 1 TiB
 * (no memory behind them: only page numbers and bits). Needs no daemon. Prints a table; asserts nothing. The
 * nanoseconds are the thread's CPU time: it never waits, so what else runs on the machine matters little.
 *
 * A row is a heap, a length n of runs and an occupancy. Its heap is made anew, in four steps, from a seed that is the
 * same in each row:
 *   1. pagealloc_grow, then all pages are taken in address order by runs next to each other: with equal chance a run of
 *      n pages, or one of random 1 to 64 pages.
 *   2. One run of n pages is freed, then random runs, each as probable as the other, until the occupancy is reached.
 *      So holes of n pages exist, beside smaller and, where neighbours were freed, larger ones. Freed pages have
 *      memory.
 *   3. The runs of n pages that are still taken are the ones that "spread" and "churn" free: the column "runs".
 *   4. After the columns "same" and "spread", pairs as in "churn", unmeasured, until each of these runs has been
 *      replaced WARM_TURNS times on average, WARM_PAIRS_MAX pairs at most.
 * Nothing of this is cut short for 1 TiB, where it is some 8 million runs if n is 1; "set-up" is what 1 to 3 took.
 *
 * Pairs:
 *   same    n pages are allocated and freed at once: the lowest hole, everything in the CPU's caches
 *   spread  a random one of the taken runs is freed and n pages are allocated, right after step 2: the runs lie all
 *           over the heap, so a free touches memory that has not been touched for long. One round, at most as many
 *           pairs as there are runs.
 *   churn   the same after step 4, the steady state: first fit has gathered the runs at the low end
 *
 * Allocations are what mheap does: n below PAGECACHE_NPAGES_BELOW come out of a page cache, which is filled when it is
 * empty; if it has no run of n, and for longer ones, pagealloc_alloc. Frees go to pagealloc_free_range. "same" and
 * "churn" are medians of ROUNDS rounds of PAIRS pairs; a round that takes ROUND_NS_MAX ends there.
 */
#include <argp.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "daemon/options.h"
#include "daemon/heap/pagealloc.h"
#include "daemon/heap/pagecache.h"

#define ROUNDS         9
#define PAIRS          200000u
#define BATCH          1000u /* pairs between two looks at the clock */
#define ROUND_NS_MAX   5e8
#define WARM_TURNS     4u
#define WARM_PAIRS_MAX 20000000u
#define FILLER_PAGES   64u

typedef struct bench {
    pagealloc *pages;
    pagecache cache;
    uint64_t n;     /* pages of a run of this row */
    page_range *runs; /* all taken ones, during set-up */
    size_t nruns;
    size_t capacity;
    page_no *taken; /* then the ones of n pages, as small as can be: misses here would be measured */
    size_t ntaken;
    uint64_t random;
} bench;

static double now_ns(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

static _Noreturn void die(const char *what)
{
    (void)fprintf(stderr, "bench_pages: %s\n", what);
    exit(EXIT_FAILURE);
}

/* splitmix64, scaled: a number below limit, which is below 2^32. */
static uint64_t random_below(bench *b, uint64_t limit)
{
    uint64_t z = b->random += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    z ^= z >> 31;
    return (z >> 32) * limit >> 32;
}

/* --- set-up --- */

static void add_run(bench *b, page_range run)
{
    if (b->nruns == b->capacity) {
        b->capacity = b->capacity == 0 ? 4096 : 2 * b->capacity;
        b->runs = realloc(b->runs, b->capacity * sizeof(*b->runs));
        if (b->runs == NULL)
            die("out of memory");
    }
    b->runs[b->nruns++] = run;
}

/* Step 1. */
static void fill(bench *b, uint64_t npages)
{
    if (pagealloc_new(&b->pages, npages) < 0)
        die("out of memory");
    pagealloc_grow(b->pages, page_at(0), npages);
    for (uint64_t page = 0; page < npages;) {
        uint64_t n = random_below(b, 2) == 0 ? b->n : 1 + random_below(b, FILLER_PAGES);

        if (n > npages - page)
            n = npages - page;
        (void)pagealloc_alloc_at(b->pages, page_at(page), n);
        add_run(b, (page_range){ page_at(page), n });
        page += n;
    }
}

static void free_run_at(bench *b, size_t i)
{
    pagealloc_free_range(b->pages, b->runs[i].first, b->runs[i].npages, false);
    b->runs[i] = b->runs[--b->nruns];
}

/* Steps 2 and 3. */
static void thin_out(bench *b, uint64_t nfree)
{
    size_t i;

    do
        i = random_below(b, b->nruns);
    while (b->runs[i].npages != b->n);
    free_run_at(b, i);
    while (pagealloc_npages_free(b->pages) < nfree)
        free_run_at(b, random_below(b, b->nruns));
    b->taken = malloc(b->nruns * sizeof(*b->taken));
    if (b->taken == NULL)
        die("out of memory");
    for (i = 0; i < b->nruns; i++) {
        if (b->runs[i].npages == b->n)
            b->taken[b->ntaken++] = b->runs[i].first;
    }
    if (b->ntaken == 0)
        die("no run of that length is left");
    free(b->runs);
    b->runs = NULL;
}

/* --- pairs --- */

static page_no take(bench *b)
{
    page_no first;
    uint64_t nscavenged;

    if (b->n < PAGECACHE_NPAGES_BELOW) {
        if (b->cache.free == 0 && !pagecache_fill(&b->cache, b->pages))
            die("no page is free");
        if (pagecache_alloc(&b->cache, b->n, &first, &nscavenged))
            return first;
    }
    if (!pagealloc_alloc(b->pages, b->n, &first, &nscavenged))
        die("no run of that length is free");
    return first;
}

static void run_same(bench *b, size_t npairs)
{
    for (size_t i = 0; i < npairs; i++)
        pagealloc_free_range(b->pages, take(b), b->n, false);
}

static void run_churn(bench *b, size_t npairs)
{
    size_t next = random_below(b, b->ntaken);

    for (size_t i = 0; i < npairs; i++) {
        size_t at = next;

        next = random_below(b, b->ntaken);
        __builtin_prefetch(&b->taken[next]);
        pagealloc_free_range(b->pages, b->taken[at], b->n, false);
        b->taken[at] = take(b);
    }
}

/* Nanoseconds a pair, of npairs or as many as there is time for. */
static double one_round(bench *b, void (*run)(bench *b, size_t npairs), size_t npairs)
{
    double start = now_ns();
    double end = start;
    size_t done = 0;

    while (done < npairs && end - start < ROUND_NS_MAX) {
        size_t n = npairs - done < BATCH ? npairs - done : BATCH;

        run(b, n);
        done += n;
        end = now_ns();
    }
    return (end - start) / (double)done;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(bench *b, void (*run)(bench *b, size_t npairs))
{
    double rounds[ROUNDS];

    run(b, BATCH);
    for (int i = 0; i < ROUNDS; i++)
        rounds[i] = one_round(b, run, PAIRS);
    qsort(rounds, ROUNDS, sizeof(double), compare);
    return rounds[ROUNDS / 2];
}

static void row(uint64_t heap_bytes, uint64_t n, unsigned percent, uint64_t seed)
{
    bench b = { .n = n, .random = seed };
    uint64_t npages = heap_bytes / PAGE_BYTES;
    double start = now_ns();
    double setup;
    double same;
    double spread;
    size_t nwarm;

    fill(&b, npages);
    thin_out(&b, npages - npages * percent / 100);
    setup = now_ns() - start;
    same = median(&b, run_same);
    spread = one_round(&b, run_churn, b.ntaken < PAIRS ? b.ntaken : PAIRS);
    nwarm = b.ntaken < WARM_PAIRS_MAX / WARM_TURNS ? b.ntaken * WARM_TURNS : WARM_PAIRS_MAX;
    run_churn(&b, nwarm);
    (void)printf("%5" PRIu64 " GiB  %5" PRIu64 "  %8u%%  %9.1f  %9.1f  %9.1f  %8zu  %8.2f\n", heap_bytes / GIB, n,
                 percent, same, spread, median(&b, run_churn), b.ntaken, setup / 1e9);
    (void)fflush(stdout);
    b.pages = pagealloc_free(b.pages);
    free(b.taken);
}

/* --- command line --- */

typedef struct arguments {
    uint64_t max_bytes;
    uint64_t min_bytes;
    uint64_t npages; /* 0: all lengths */
    uint64_t seed;
} arguments;

static const struct argp_option option_table[] = {
    { "max", 'm', "SIZE", 0, "No heap larger than this (default 1T)", 0 },
    { "min", 'l', "SIZE", 0, "None smaller (default 1G)", 0 },
    { "pages", 'n', "N", 0, "Only runs of N pages", 0 },
    { "seed", 's', "N", 0, "Another pattern", 0 },
    { 0 },
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    arguments *args = state->input;

    switch (key) {
    case 'm':
    case 'l':
        if (!limits_parse_size(arg, key == 'm' ? &args->max_bytes : &args->min_bytes))
            argp_error(state, "'%s' is not a size such as 512M or 64G", arg);
        return 0;
    case 'n':
        args->npages = strtoull(arg, NULL, 10);
        return 0;
    case 's':
        args->seed = strtoull(arg, NULL, 0);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

int main(int argc, char **argv)
{
    static const struct argp argp = {
        .options = option_table,
        .parser = parse_option,
        .doc = "Measures the daemon's page allocator: nanoseconds for an alloc and a free of runs of pages.",
    };
    static const uint64_t heaps[] = { 1 * GIB, 64 * GIB, 1 * TIB };
    static const uint64_t lengths[] = { 1, 4, 64, 1000 };
    static const unsigned percents[] = { 50, 95 };
    arguments args = { .max_bytes = UINT64_MAX, .seed = 1 };

    (void)argp_parse(&argp, argc, argv, 0, NULL, &args);
    (void)printf("%9s  %5s  %9s  %9s  %9s  %9s  %8s  %8s\n", "heap", "pages", "occupancy", "same ns", "spread ns",
                 "churn ns", "runs", "set-up s");
    for (size_t h = 0; h < sizeof(heaps) / sizeof(heaps[0]); h++) {
        if (heaps[h] > args.max_bytes || heaps[h] < args.min_bytes)
            continue;
        for (size_t l = 0; l < sizeof(lengths) / sizeof(lengths[0]); l++) {
            if (args.npages != 0 && args.npages != lengths[l])
                continue;
            for (size_t p = 0; p < sizeof(percents) / sizeof(percents[0]); p++)
                row(heaps[h], lengths[l], percents[p], args.seed);
        }
    }
    return EXIT_SUCCESS;
}
