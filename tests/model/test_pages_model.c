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

#include "daemon/pagealloc.h"
#include "tests/support/fixture.h"

#define PAGES 16384u

enum { ABSENT, SCAVENGED, BACKED, TAKEN };

static uint8_t model[PAGES];
static page_run runs[PAGES]; /* taken */

static uint64_t model_find(uint64_t n)
{
    uint64_t run = 0;

    for (uint64_t i = 0; i < PAGES; i++) {
        run = model[i] == SCAVENGED || model[i] == BACKED ? run + 1 : 0;
        if (run == n)
            return i + 1 - n;
    }
    return PAGES;
}

static uint64_t random_npages(uint64_t *seed)
{
    uint64_t r = test_random(seed);

    return r % 8 != 0 ? 1 + (r >> 8) % 10 : 1 + (r >> 8) % 1500;
}

static void random_operations_agree_with_the_model(void **state)
{
    const char *given = getenv("GOALLOC_TEST_OPS");
    uint64_t nops = given != NULL ? strtoull(given, NULL, 10) : 50000;
    uint64_t seed = test_seed();
    uint64_t nruns = 0;
    uint64_t end = 0;
    pagealloc *a;

    (void)state;
    assert_int_equal(pagealloc_new(&a, PAGES), 0);
    for (uint64_t op = 0; op < nops; op++) {
        uint64_t r = test_random(&seed);
        /* Phases of filling and of emptying. */
        bool fill = r % 100 < (op / 5000 % 2 == 0 ? 60u : 40u);

        if (r % 1000 == 999 && end < PAGES) {
            pagealloc_grow(a, page_at(end), 512);
            memset(model + end, SCAVENGED, 512);
            end += 512;
        } else if (r % 97 == 0) {
            page_run run = pagealloc_take_unscavenged(a, 1 + (r >> 20) % 600, true);
            uint64_t top = PAGES;

            while (top > 0 && model[top - 1] != BACKED)
                top--;
            if (run.npages == 0) {
                assert_int_equal(top, 0);
            } else {
                assert_int_equal(run.first.n + run.npages, top);
                for (uint64_t i = 0; i < run.npages; i++)
                    assert_int_equal(model[run.first.n + i], BACKED);
                memset(model + run.first.n, SCAVENGED, run.npages);
                pagealloc_free_run(a, run.first, run.npages, true);
            }
        } else if (fill) {
            uint64_t n = random_npages(&seed);
            uint64_t want = model_find(n);
            uint64_t want_scavenged = 0;
            uint64_t nscavenged;
            page_no first;
            bool found = pagealloc_alloc(a, n, &first, &nscavenged);

            assert_int_equal(found, want < PAGES);
            if (found) {
                assert_int_equal(first.n, want);
                for (uint64_t i = 0; i < n; i++)
                    want_scavenged += model[want + i] == SCAVENGED;
                assert_int_equal(nscavenged, want_scavenged);
                memset(model + want, TAKEN, n);
                runs[nruns++] = (page_run){ first, n };
            }
        } else if (nruns > 0) {
            uint64_t at = (r >> 20) % nruns;
            bool punched = (r >> 50) % 4 == 0;

            pagealloc_free_run(a, runs[at].first, runs[at].npages, punched);
            memset(model + runs[at].first.n, punched ? SCAVENGED : BACKED, runs[at].npages);
            runs[at] = runs[--nruns];
        }
        if (op % 64 == 0)
            assert_int_equal(pagealloc_validate(a, stderr), 0);
    }
    (void)pagealloc_free(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(random_operations_agree_with_the_model) };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
