/*
 * The mcache against a naive model: random mallocs and frees of all sizes, through the library and a real daemon. No
 * two live objects overlap, contents stay, alignment and size hold, and the count by the bits is the model's.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "shm/limits.h"
#include "tests/support/attach.h"

#define ENTRIES 20000

typedef struct entry {
    unsigned char *p;
    size_t size;
    unsigned char fill;
} entry;

static int compare_addresses(const void *a, const void *b)
{
    const entry *x = a;
    const entry *y = b;

    return (x->p > y->p) - (x->p < y->p);
}

static uint64_t check_all(const entry *entries)
{
    static entry sorted[ENTRIES];
    uint64_t n = 0;

    for (int i = 0; i < ENTRIES; i++) {
        if (entries[i].p == NULL)
            continue;
        CHECK(entries[i].size == 0 || (entries[i].p[0] == entries[i].fill &&
                                       entries[i].p[entries[i].size - 1] == entries[i].fill));
        sorted[n++] = entries[i];
    }
    if (n > 0)
        qsort(sorted, n, sizeof(*sorted), compare_addresses);
    for (uint64_t i = 1; i < n; i++)
        CHECK(sorted[i - 1].p + goalloc_usable_size(sorted[i - 1].p) <= sorted[i].p);
    return n;
}

static size_t random_size(uint64_t r)
{
    if (r % 100 == 0)
        return (r >> 8) % (SHM_RUN_BYTES_MAX + 5 * PAGE_BYTES);
    if (r % 10 == 0)
        return (r >> 8) % 33000;
    if (r % 10 == 1)
        return (r >> 8) % 16;
    return (r >> 8) % 600;
}

static void allocate(entry *s, uint64_t r)
{
    bool zeroed = false;
    bool tiny = false;

    s->size = random_size(r);
    s->fill = (unsigned char)(r >> 40);
    switch (r >> 50 & 3) {
    case 0:
        s->p = goalloc_malloc_noscan(s->size);
        tiny = s->size < 16;
        break;
    case 1:
        s->p = goalloc_calloc(1, s->size);
        zeroed = true;
        break;
    default:
        s->p = goalloc_malloc(s->size);
    }
    /* The place of an object that was sampled may be longer. */
    CHECK(s->p != NULL && goalloc_usable_size(s->p) >= s->size);
    if (tiny) {
        size_t size = s->size == 0 ? 1 : s->size;

        CHECK(goalloc_usable_size(s->p) == size || getenv("GOALLOC_PROFILE") != NULL);
        CHECK((uintptr_t)s->p % (size % 8 == 0 ? 8 : size % 4 == 0 ? 4 : size % 2 == 0 ? 2 : 1) == 0);
    } else {
        if (s->size <= SMALL_BYTES_MAX && getenv("GOALLOC_PROFILE") == NULL)
            CHECK(goalloc_usable_size(s->p) == size_class_bytes[size_class_for(s->size).n]);
        CHECK((uintptr_t)s->p % (s->size < 16 || (s->size > 16 && s->size <= 24) ? 8 : 16) == 0);
    }
    for (size_t i = 0; zeroed && i < s->size; i++)
        CHECK(s->p[i] == 0);
    memset(s->p, s->fill, s->size);
}

static int random_process(const fixture *f, void *arg)
{
    static entry entries[ENTRIES];
    const char *given = getenv("GOALLOC_TEST_OPS");
    uint64_t nops = given != NULL ? strtoull(given, NULL, 10) : 400000;
    uint64_t seed = *(uint64_t *)arg;
    goalloc_stats_t stats = { .struct_size = sizeof(stats) };

    must_attach(f, 0);
    for (uint64_t op = 0; op < nops; op++) {
        uint64_t r = test_random(&seed);
        bool shrinking = op / (nops / 8 + 1) % 2; /* phases */
        entry *s = &entries[test_random(&seed) % ENTRIES];

        if (s->p == NULL && (!shrinking || r % 4 == 0)) {
            allocate(s, r);
        } else if (s->p != NULL && r >> 60 == 0) {
            size_t old = s->size;

            s->size = random_size(test_random(&seed));
            s->p = goalloc_realloc(s->p, s->size);
            CHECK(s->p != NULL);
            for (size_t i = 0; i < old && i < s->size; i++)
                CHECK(s->p[i] == s->fill);
            memset(s->p, s->fill, s->size);
        } else if (s->p != NULL) {
            CHECK(s->size == 0 || (s->p[0] == s->fill && s->p[s->size - 1] == s->fill));
            CHECK(goalloc_free_checked(s->p) == 0);
            CHECK(goalloc_free_checked(s->p) < 0);
            s->p = NULL;
        }
        if (r % 50000 == 0)
            CHECK(goalloc_trim() == 0);
        if (op % 20000 == 0) {
            uint64_t n = check_all(entries);

            CHECK(goalloc_stats(&stats) == 0 && stats.live_objects == n);
        }
    }
    for (int i = 0; i < ENTRIES; i++)
        goalloc_free(entries[i].p);
    CHECK(goalloc_stats(&stats) == 0 && stats.live_objects == 0 && stats.live_bytes == 0);
    return 0;
}

static int random_sampled_process(const fixture *f, void *arg)
{
    CHECK(setenv("GOALLOC_PROFILE", "8K", 1) == 0);
    return random_process(f, arg);
}

static void run(child_fn fn)
{
    uint64_t seed = test_seed();
    fixture f;

    fixture_start(&f, NULL);
    assert_int_equal(child_run(&f, fn, &seed), 0);
    assert_true(fixture_is_clean(&f, 0));
    assert_true(fixture_stop(&f));
}

static void random_mallocs_and_frees_agree_with_the_model(void **state)
{
    (void)state;
    run(random_process);
}

static void random_mallocs_and_frees_agree_with_the_model_when_they_are_sampled(void **state)
{
    (void)state;
    run(random_sampled_process);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_mallocs_and_frees_agree_with_the_model),
        cmocka_unit_test(random_mallocs_and_frees_agree_with_the_model_when_they_are_sampled),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
