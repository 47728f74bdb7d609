/*
 * The page allocator against an array of bytes: random operations, the same answers, validated.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "daemon/heap/pagealloc.h"
#include "tests/support/fixture.h"

#define PAGES 65536u
#define CHUNK 512u
#define CHUNKS (PAGES / CHUNK)
#define HUGE 256u
#define DENSE 496u
#define WINDOWS 8u
#define RELEASES 4u

enum { ABSENT, SCAVENGED, BACKED, TAKEN, RELEASING };

typedef struct window {
    page_no first;
    uint64_t pages; /* those that have not been given back yet */
} window;

/* What happens at least once in a run of the whole test. */
enum {
    GROWN,
    SKIPPED,
    ALLOCATED,
    EXHAUSTED,
    ALIGNED,
    TAKEN_AT,
    WINDOW,
    FREED,
    FORCED,
    BACKGROUND,
    LEFT_DENSE,
    WHOLE_HUGE,
    NOT_RELEASED,
    RELEASED_OVER_A_GENERATION,
    UNUSED,
    EVENTS
};

static uint8_t model[PAGES];
static bool used[CHUNKS];            /* pages of it have been taken since its metadata went */
static unsigned ninuse_then[CHUNKS]; /* when the last generation ended */
static page_range runs[PAGES];         /* taken */
static uint64_t nruns;
static window windows[WINDOWS];
static uint64_t nwindows;
static page_range releases[RELEASES]; /* taken only to be released */
static uint64_t nreleases;
static uint64_t end;
static uint64_t nevents[EVENTS];

static bool is_free(uint64_t page)
{
    return model[page] == SCAVENGED || model[page] == BACKED;
}

static uint64_t model_find(uint64_t n)
{
    uint64_t run = 0;

    for (uint64_t i = 0; i < end; i++) {
        run = is_free(i) ? run + 1 : 0;
        if (run == n)
            return i + 1 - n;
    }
    return PAGES;
}

static uint64_t model_count(uint64_t first, uint64_t npages, uint8_t kind)
{
    uint64_t n = 0;

    for (uint64_t i = first; i < first + npages; i++)
        n += model[i] == kind;
    return n;
}

static void model_take(uint64_t first, uint64_t npages)
{
    for (uint64_t i = first; i < first + npages; i++) {
        assert_true(is_free(i));
        used[i / CHUNK] = true;
    }
    memset(model + first, TAKEN, npages);
}

static uint64_t random_npages(uint64_t *seed)
{
    uint64_t r = test_random(seed);

    if (r % 256 == 0)
        return 1 + (r >> 8) % 40000;
    return r % 8 != 0 ? 1 + (r >> 8) % 10 : 1 + (r >> 8) % 1500;
}

/* --- operations, each with a random number of its own --- */

static void grow(pagealloc *a, uint64_t r)
{
    uint64_t gap = r % 4 == 0 ? CHUNK : 0;

    if (end + gap >= PAGES)
        return;
    end += gap;
    pagealloc_grow(a, page_at(end), CHUNK);
    memset(model + end, SCAVENGED, CHUNK);
    end += CHUNK;
    nevents[GROWN]++;
    nevents[SKIPPED] += gap != 0;
}

static void alloc(pagealloc *a, uint64_t npages, uint64_t align)
{
    uint64_t want = model_find(npages + align - 1);
    uint64_t nscavenged = PAGES + 1;
    page_no first = { PAGES + 1 };
    bool found = align == 1 ? pagealloc_alloc(a, npages, &first, &nscavenged)
                            : pagealloc_alloc_aligned(a, npages, align, &first, &nscavenged);

    assert_int_equal(found, want < PAGES);
    if (!found) {
        assert_int_equal(first.n, PAGES + 1);
        assert_int_equal(nscavenged, PAGES + 1);
        nevents[EXHAUSTED]++;
        return;
    }
    want = (want + align - 1) / align * align;
    assert_int_equal(first.n, want);
    assert_int_equal(nscavenged, model_count(want, npages, SCAVENGED));
    model_take(want, npages);
    runs[nruns++] = (page_range){ first, npages };
    nevents[align == 1 ? ALLOCATED : ALIGNED]++;
}

/* Take free pages from a given page on, as far as they go. */
static void alloc_at(pagealloc *a, uint64_t first, uint64_t max_pages)
{
    uint64_t npages = 0;

    while (npages < max_pages && first + npages < end && is_free(first + npages))
        npages++;
    if (npages == 0)
        return;
    assert_int_equal(pagealloc_alloc_at(a, page_at(first), npages), model_count(first, npages, SCAVENGED));
    model_take(first, npages);
    runs[nruns++] = (page_range){ page_at(first), npages };
    nevents[TAKEN_AT]++;
}

static void free_one(pagealloc *a, uint64_t r)
{
    if (nruns == 0)
        return;

    page_range *run = &runs[r % nruns];
    bool punched = (r >> 50) % 4 == 0;

    pagealloc_free_range(a, run->first, run->npages, punched);
    memset(model + run->first.n, punched ? SCAVENGED : BACKED, run->npages);
    *run = runs[--nruns];
    nevents[FREED]++;
}

static void take_window(pagealloc *a)
{
    uint64_t want = model_find(1);
    page_no first;
    uint64_t free;
    uint64_t scavenged;

    if (nwindows == WINDOWS)
        return;
    assert_int_equal(pagealloc_take_window(a, &first, &free, &scavenged), want < PAGES);
    if (want == PAGES) {
        nevents[EXHAUSTED]++;
        return;
    }
    assert_int_equal(first.n, want / 64 * 64);
    for (uint64_t bit = 0; bit < 64; bit++) {
        uint64_t page = first.n + bit;

        assert_int_equal(free >> bit & 1, is_free(page));
        assert_int_equal(scavenged >> bit & 1, model[page] == SCAVENGED);
        if (is_free(page))
            model_take(page, 1);
    }
    windows[nwindows++] = (window){ first, free };
    nevents[WINDOW]++;
}

/* Give back some of the pages of a window, or all; some of them without memory. */
static void free_window(pagealloc *a, uint64_t r, uint64_t some, uint64_t scavenged)
{
    if (nwindows == 0)
        return;

    window *w = &windows[r % nwindows];
    uint64_t free = (r >> 60) % 2 == 0 ? w->pages & some : w->pages;

    pagealloc_free_window(a, w->first, free, scavenged & free);
    for (uint64_t bit = 0; bit < 64; bit++) {
        if (free >> bit & 1)
            model[w->first.n + bit] = scavenged >> bit & 1 ? SCAVENGED : BACKED;
    }
    w->pages &= ~free;
    if (w->pages == 0)
        *w = windows[--nwindows];
}

/* One above the highest page that may be released; 0: there is none. */
static uint64_t model_scavenge_top(bool force)
{
    for (uint64_t c = CHUNKS; c-- > 0;) {
        bool dense = ninuse_then[c] >= DENSE || model_count(c * CHUNK, CHUNK, TAKEN) >= DENSE;

        if (dense && !force) {
            nevents[LEFT_DENSE] += model_count(c * CHUNK, CHUNK, BACKED) != 0;
            continue;
        }
        for (uint64_t page = (c + 1) * CHUNK; page > c * CHUNK; page--) {
            if (model[page - 1] == BACKED)
                return page;
        }
    }
    return 0;
}

static void scavenge(pagealloc *a, uint64_t max_pages, bool force)
{
    uint64_t top;
    uint64_t bottom;
    page_range run;

    if (nreleases == RELEASES)
        return;
    bottom = top = model_scavenge_top(force);
    run = pagealloc_take_unscavenged(a, max_pages, force);
    if (top == 0) {
        assert_int_equal(run.npages, 0);
        return;
    }
    while (bottom > (top - 1) / CHUNK * CHUNK && model[bottom - 1] == BACKED && top - bottom < max_pages)
        bottom--;
    if (model_count(bottom / HUGE * HUGE, HUGE, BACKED) == HUGE && bottom % HUGE != 0) {
        bottom -= bottom % HUGE;
        nevents[WHOLE_HUGE]++;
    }
    assert_int_equal(run.first.n, bottom);
    assert_int_equal(run.npages, top - bottom);
    memset(model + bottom, RELEASING, top - bottom);
    releases[nreleases++] = run;
    nevents[force ? FORCED : BACKGROUND]++;
}

static void put_back(pagealloc *a, uint64_t r)
{
    bool released = r >> 62 != 0;
    page_range *run = &releases[r % RELEASES];

    if (r % RELEASES >= nreleases)
        return;
    pagealloc_put_back(a, *run, released);
    memset(model + run->first.n, released ? SCAVENGED : BACKED, run->npages);
    *run = releases[--nreleases];
    nevents[NOT_RELEASED] += !released;
}

static void next_gen(pagealloc *a)
{
    pagealloc_next_gen(a);
    for (uint64_t c = 0; c < CHUNKS; c++)
        ninuse_then[c] = (unsigned)model_count(c * CHUNK, CHUNK, TAKEN);
    nevents[RELEASED_OVER_A_GENERATION] += nreleases != 0;
}

static void release_unused_chunk(pagealloc *a, uint64_t page, bool released)
{
    uint64_t c = page / CHUNK;
    bool want = used[c] && model_count(c * CHUNK, CHUNK, SCAVENGED) == CHUNK;
    page_no first;

    assert_int_equal(pagealloc_take_unused_chunk(a, page_at(page), &first), want);
    if (!want)
        return;
    assert_int_equal(first.n, c * CHUNK);
    assert_false(pagealloc_is_free(a, page_at(page), 1));
    pagealloc_free_unused_chunk(a, first, released);
    used[c] = !released;
    nevents[UNUSED]++;
}

static void look(const pagealloc *a, uint64_t first, uint64_t npages)
{
    uint64_t ntaken;
    uint64_t nbacked;
    uint64_t next = first;
    bool all_free;

    if (first + npages > PAGES)
        npages = PAGES - first;
    all_free = first + npages <= end;
    for (uint64_t i = first; i < first + npages; i++)
        all_free = all_free && is_free(i);
    assert_int_equal(pagealloc_is_free(a, page_at(first), npages), all_free);
    pagealloc_count(a, page_at(first), npages, &ntaken, &nbacked);
    assert_int_equal(ntaken, model_count(first, npages, TAKEN) + model_count(first, npages, RELEASING));
    assert_int_equal(nbacked, model_count(first, npages, BACKED));
    assert_int_equal(pagealloc_is_taken(a, page_at(first)), model[first] >= TAKEN);
    while (next < end && model[next] < TAKEN)
        next++;
    assert_int_equal(pagealloc_next_taken(a, page_at(first)).n, next < end ? next : end);
}

static void one_operation(pagealloc *a, uint64_t op, uint64_t *seed)
{
    static const unsigned fill_percent[] = { 60, 40, 55, 20 }; /* phases */
    uint64_t r = test_random(seed);
    uint64_t arg = test_random(seed);

    switch (r % 256) {
    case 0:
        if ((r >> 8) % 4 == 0)
            grow(a, arg);
        break;
    case 1:
    case 2:
        scavenge(a, 1 + arg % 600, r % 256 == 1);
        break;
    case 12:
    case 13:
        put_back(a, arg);
        break;
    case 3:
        if ((r >> 8) % 2 == 0)
            next_gen(a);
        break;
    case 4:
    case 5:
        take_window(a);
        break;
    case 6:
    case 7:
        free_window(a, arg, test_random(seed), test_random(seed));
        break;
    case 8:
        alloc(a, random_npages(seed), UINT64_C(2) << arg % 10);
        break;
    case 9:
        release_unused_chunk(a, arg % PAGES, r >> 63);
        break;
    case 10:
        look(a, arg % PAGES, (arg >> 32) % 2000);
        break;
    case 11:
        alloc_at(a, arg % PAGES, 1 + (arg >> 32) % 700);
        break;
    default:
        if (arg % 100 < fill_percent[op / 5000 % 4])
            alloc(a, random_npages(seed), 1);
        else
            free_one(a, r >> 8);
    }
}

/* All events come to pass in so many. The thread sanitizer, which sees one thread here, takes ten times as long. */
#define OPS_ALL 1000000u
#if defined(__SANITIZE_THREAD__)
#define OPS_DEFAULT (OPS_ALL / 10)
#else
#define OPS_DEFAULT OPS_ALL
#endif

static void random_operations_agree_with_the_model(void **state)
{
    const char *given = getenv("GOALLOC_TEST_OPS");
    uint64_t nops = given != NULL ? strtoull(given, NULL, 10) : OPS_DEFAULT;
    uint64_t seed = test_seed();
    pagealloc *a;

    (void)state;
    assert_int_equal(pagealloc_new(&a, PAGES), 0);
    for (uint64_t op = 0; op < nops; op++) {
        one_operation(a, op, &seed);
        if (op % 64 == 0)
            assert_int_equal(pagealloc_validate(a, stderr), 0);
    }
    assert_int_equal(pagealloc_validate(a, stderr), 0);
    assert_int_equal(pagealloc_npages_added(a), end - model_count(0, end, ABSENT));
    assert_int_equal(pagealloc_npages_scavenged(a), model_count(0, end, SCAVENGED));
    assert_int_equal(pagealloc_npages_free(a), model_count(0, end, SCAVENGED) + model_count(0, end, BACKED));
    for (unsigned e = 0; e < EVENTS && nops >= OPS_ALL; e++)
        assert_true(nevents[e] > 0);
    (void)pagealloc_free(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(random_operations_agree_with_the_model) };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
