/*
 * Header: what goalloc.h says in figures: which objects stay where they are in goalloc_realloc(), and which functions
 * ask the daemon. Each row is a sentence of it.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <sys/resource.h>

#include "shm/limits.h"
#include "shm/units.h"
#include "tests/support/objects.h"

#define SMALL 32768u         /* the largest size class */
#define RUN   (SHM_RUN_PAGES_MAX * PAGE_BYTES) /* the longest run */

/* Requests that the process has sent, but for those that asked for the number. */
static uint64_t nrequests(void)
{
    static uint64_t nasked;

    return stats_now().session_rpcs - ++nasked;
}

/* --- goalloc_realloc --- */

static const struct {
    size_t from;
    size_t to;
    bool stays;
    unsigned nrequests; /* when it stays */
} resizes[] = {
    { 16, 1, true, 0 },
    { 112, 57, true, 0 },
    { 112, 56, false, 0 },
    { SMALL, SMALL / 2 + 1, true, 0 },
    { SMALL, SMALL / 2, false, 0 },
    { SMALL, SMALL + 1, false, 0 },
    { 120 * 1024, 120 * 1024, true, 0 },
    { 120 * 1024, 61 * 1024, true, 0 },
    { 120 * 1024, 36 * 1024, false, 0 },
    { 40 * 1024, SMALL, true, 0 },
    { RUN, RUN / 2 + 1, true, 0 },
    { RUN, RUN + 1, false, 0 },
    { 2 * RUN, SMALL + 1, true, 1 },
    { 2 * RUN, SMALL, false, 0 },
    { 2 * RUN, 2 * RUN - 8192, true, 0 },
    { 2 * RUN, RUN + RUN / 2 + 1, true, 0 },
    { 2 * RUN, RUN + RUN / 2, true, 1 },
    { 2 * RUN, 4 * RUN, true, 1 },
};

static int resize_each(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    for (size_t i = 0; i < sizeof(resizes) / sizeof(resizes[0]); i++) {
        char *p = goalloc_malloc(resizes[i].from);
        size_t least = resizes[i].from < resizes[i].to ? resizes[i].from : resizes[i].to;
        uint64_t before = nrequests();
        char *moved;

        CHECK(p != NULL);
        memset(p, 7, resizes[i].from);
        moved = goalloc_realloc(p, resizes[i].to);
        if ((moved == p) != resizes[i].stays || (moved == p && nrequests() - before != resizes[i].nrequests)) {
            (void)fprintf(stderr, "realloc of %zu to %zu: %s, %llu requests\n", resizes[i].from, resizes[i].to,
                          moved == p ? "stays" : "moves", (unsigned long long)(nrequests() - before));
            return 1;
        }
        for (size_t b = 0; b < least; b++)
            CHECK(moved[b] == 7);
        goalloc_free(moved);
        CHECK(goalloc_trim() == 0); /* what the next one grows into is free again */
    }
    return 0;
}

static void realloc_of_each_size_stays_or_moves_as_documented(void **state)
{
    assert_int_equal(child_run(*state, resize_each, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* --- requests --- */

/* What is allocated and freed again and again asks nobody, whatever its size. */
static int cycle_each(const fixture *f, void *arg)
{
    static const size_t sizes[] = { 1, 16, 1000, SMALL, SMALL + 1, 100000, RUN, RUN + 1, 4 * RUN };

    (void)arg;
    must_attach(f, 0);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        uint64_t before;

        goalloc_free(goalloc_malloc(sizes[i]));
        before = nrequests();
        for (int n = 0; n < 1000; n++)
            goalloc_free(goalloc_malloc(sizes[i]));
        /* Large ones: until the process has learnt how much of them to retain. */
        if (nrequests() - before > (sizes[i] > RUN ? 2 : 0)) {
            (void)fprintf(stderr, "%zu bytes: %llu requests\n", sizes[i], (unsigned long long)(nrequests() - before));
            return 1;
        }
    }
    return 0;
}

static void malloc_of_what_was_freed_asks_nobody(void **state)
{
    assert_int_equal(child_run(*state, cycle_each, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* With pages of its own an object begins at a page, and costs a request when none was freed before. */
static int align_each(const fixture *f, void *arg)
{
    static const struct {
        size_t alignment;
        size_t size;
        size_t usable;
        bool has_pages;
    } cases[] = {
        { 64, 100, 128, false },      { 4096, 100, 4096, false }, { 8192, 100, 8192, false },
        { 8192, SMALL, SMALL, false }, { 16384, 100, 8192, true }, { 16, SMALL + 1, 40960, true },
        { 1 << 20, 1, 8192, true },
    };

    (void)arg;
    must_attach(f, 0);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        void *first = goalloc_aligned_alloc(cases[i].alignment, cases[i].size);
        uint64_t before = nrequests();
        void *second = goalloc_aligned_alloc(cases[i].alignment, cases[i].size);

        CHECK(first != NULL && second != NULL && (uintptr_t)second % cases[i].alignment == 0);
        CHECK(goalloc_usable_size(second) == cases[i].usable);
        CHECK(!cases[i].has_pages || nrequests() == before + 1);
        goalloc_free(first);
        goalloc_free(second);
        CHECK(goalloc_trim() == 0);
    }
    return 0;
}

static void aligned_alloc_of_pages_asks_each_time(void **state)
{
    assert_int_equal(child_run(*state, align_each, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

static int publish_some(const fixture *f, void *arg)
{
    uint64_t before;

    (void)arg;
    must_attach(f, GOALLOC_ATTACH_RECLAIM);
    for (size_t size = 8; size <= 16; size += 8) {
        void *first = goalloc_malloc(size);
        void *second = goalloc_malloc(size);

        before = nrequests();
        CHECK(goalloc_publish(first) == 0 && nrequests() == before + (size == 8));
        CHECK(goalloc_publish(second) == 0 && nrequests() == before + (size == 8));
        CHECK(goalloc_adopt(first) == 0 && nrequests() == before + (size == 8));
        goalloc_free(first);
        goalloc_free(second);
    }
    before = nrequests();
    CHECK(goalloc_trim() == 0 && nrequests() >= before + 2);
    return 0;
}

static void publish_asks_for_the_first_object_of_8_bytes_alone(void **state)
{
    assert_int_equal(child_run(*state, publish_some, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* --- zeroed objects without pointers --- */

static void check_zeroed(size_t size)
{
    static unsigned char *objects[64];
    size_t usable = size < 16 && size > 0 ? size : 1;

    for (int round = 0; round < 3; round++) { /* fresh places, then those that the round before has written */
        for (size_t i = 0; i < 64; i++) {
            CHECK((objects[i] = goalloc_calloc_noscan(size, 1)) != NULL);
            CHECK(all_are(objects[i], size, 0) && goalloc_usable_size(objects[i]) >= usable);
            memset(objects[i], 0xff, size);
        }
        for (size_t i = 0; i < 64; i++)
            goalloc_free(objects[i]);
    }
}

static int zero_each(const fixture *f, void *arg)
{
    static const size_t sizes[] = { 16, 24, 1000, SMALL, SMALL + 1, RUN, RUN + 1 };
    uint32_t flags = *(uint32_t *)arg;
    volatile size_t half = SIZE_MAX / 2;

    must_attach(f, flags);
    for (size_t size = 0; size < 16; size++)
        check_zeroed(size);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
        check_zeroed(sizes[i]);
    for (size_t size = 1; size < 16 && flags == 0; size++) { /* they share blocks */
        char *p = goalloc_calloc_noscan(size, 1);
        size_t bytes = goalloc_usable_size(p);

        CHECK(bytes == size);
        goalloc_free(p);
    }
    errno = 0;
    CHECK(goalloc_calloc_noscan(half, 3) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK(goalloc_calloc_noscan(3, half) == NULL && errno == ENOMEM);
    return 0;
}

static void calloc_noscan_of_each_size_is_zero(void **state)
{
    uint32_t flags[] = { 0, GOALLOC_ATTACH_RECLAIM };

    for (size_t i = 0; i < 2; i++)
        assert_int_equal(child_run(*state, zero_each, &flags[i]), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* --- the version --- */

static void version_is_that_of_header_and_build(void **state)
{
    char text[32];

    (void)state;
    (void)snprintf(text, sizeof(text), "%d.%d.%d", GOALLOC_VERSION_MAJOR, GOALLOC_VERSION_MINOR, GOALLOC_VERSION_PATCH);
    assert_string_equal(goalloc_version(), text);
    assert_string_equal(GOALLOC_VERSION, text); /* of cmake: the daemon's and the tools' */
}

/* --- descriptors --- */

static int attach_without(const fixture *f, void *arg)
{
    int nfree = *(int *)arg;
    int last = dup(0);
    struct rlimit limit = { .rlim_cur = (rlim_t)(last + nfree), .rlim_max = (rlim_t)(last + nfree) };
    goalloc_options options = GOALLOC_OPTIONS_INIT;

    (void)close(last);
    options.socket_path = f->socket;
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    CHECK(goalloc_attach(&options) == (nfree == 0 ? -EMFILE : nfree < 6 ? -EPROTO : 0));
    return 0;
}

static void attach_without_descriptors_is_refused(void **state)
{
    for (int nfree = 0; nfree <= 6; nfree++)
        assert_int_equal(child_run(*state, attach_without, &nfree), 0);
    assert_true(fixture_is_clean(*state, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(realloc_of_each_size_stays_or_moves_as_documented),
        FIXTURE_TEST(malloc_of_what_was_freed_asks_nobody),
        FIXTURE_TEST(aligned_alloc_of_pages_asks_each_time),
        FIXTURE_TEST(publish_asks_for_the_first_object_of_8_bytes_alone),
        FIXTURE_TEST(calloc_noscan_of_each_size_is_zero),
        cmocka_unit_test(version_is_that_of_header_and_build),
        FIXTURE_TEST(attach_without_descriptors_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
