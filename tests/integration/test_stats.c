/*
 * Stats: what goalloc_stats() fills in for programs of any age, and that goallocctl says the same by the same names.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "tests/support/waits.h"

#define ARENA_BYTES (256 * MIB)
#define LIMIT_BYTES (192 * MIB)
#define GROWN_BYTES (100 * MIB)
#define SLACK_BYTES (16 * MIB) /* what the daemon prepares ahead, and the spans of the test itself */

/* --- programs of any age --- */

static int ask_with_each_size(const fixture *f, void *arg)
{
    unsigned char bytes[sizeof(goalloc_stats_t) + 64];
    goalloc_stats_t *stats = (void *)bytes;

    (void)arg;
    must_attach(f, 0);
    CHECK(goalloc_malloc(100) != NULL);
    for (size_t size = 0; size < sizeof(bytes); size++) {
        size_t end = size < sizeof(*stats) ? size : sizeof(*stats);

        memset(bytes, 0xee, sizeof(bytes));
        stats->struct_size = size;
        if (size < sizeof(size_t)) {
            CHECK(goalloc_stats(stats) == -EINVAL && stats->struct_size == size);
            end = sizeof(size_t);
        } else {
            CHECK(goalloc_stats(stats) == 0 && stats->struct_size == size);
        }
        CHECK(all_are(bytes + end, sizeof(bytes) - end, 0xee));
        if (size >= offsetof(goalloc_stats_t, live_bytes))
            CHECK(stats->live_objects == 1);
        if (size >= offsetof(goalloc_stats_t, arena_bytes) && size < offsetof(goalloc_stats_t, memory_limit_bytes))
            CHECK(stats->free_bytes < ARENA_BYTES); /* the last one that an older program knows */
        if (size >= sizeof(*stats))
            CHECK(stats->arena_bytes == ARENA_BYTES && stats->group_live_bytes == 0);
    }
    return 0;
}

static void stats_of_any_size_write_no_more_than_that(void **state)
{
    assert_int_equal(child_run(*state, ask_with_each_size, NULL), 0);
    assert_true(fixture_is_clean(*state, 1));
}

/* --- the same by both --- */

static int compare_with_ctl(const fixture *f, void *arg)
{
    goalloc_stats_t stats;
    json_t *answer;

    (void)arg;
    must_attach(f, 0);
    CHECK(filled(10 * MIB, 1) != NULL);
    CHECK(fixture_is_settled(f));
    stats = stats_now();
    answer = json_by_ctl(f, "stats");
    CHECK(stats.arena_bytes == ARENA_BYTES && stats.memory_limit_bytes == LIMIT_BYTES);
    CHECK(stats.max_memory_bytes == 0 && stats.group_live_objects == 0 && stats.group_live_bytes == 0);
    CHECK(stats.peak_committed_bytes >= stats.committed_bytes && stats.peak_committed_bytes < 10 * MIB + SLACK_BYTES);
    CHECK(stats.live_objects == 1 && stats.live_bytes >= 10 * MIB);

    const struct {
        const char *name;
        uint64_t value;
    } fields[] = {
        { "live_objects", stats.live_objects },
        { "live_bytes", stats.live_bytes },
        { "committed_bytes", stats.committed_bytes },
        { "released_bytes", stats.released_bytes },
        { "sessions", stats.sessions },
        { "leased_spans", stats.leased_spans },
        { "roots", stats.roots },
        { "free_bytes", stats.free_bytes },
        { "arena_bytes", stats.arena_bytes },
        { "memory_limit_bytes", stats.memory_limit_bytes },
        { "max_memory_bytes", stats.max_memory_bytes },
        { "peak_committed_bytes", stats.peak_committed_bytes },
    };

    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        json_t *value = json_object_get(answer, fields[i].name);

        if (!json_is_integer(value) || (uint64_t)json_integer_value(value) != fields[i].value) {
            (void)fprintf(stderr, "%s: %lld, not %llu\n", fields[i].name, (long long)json_integer_value(value),
                          (unsigned long long)fields[i].value);
            return 1;
        }
    }
    CHECK(json_is_integer(json_object_get(answer, "metadata_bytes")));
    json_decref(answer);
    return 0;
}

static void stats_have_the_names_and_values_of_goallocctl(void **state)
{
    assert_int_equal(child_run(*state, compare_with_ctl, NULL), 0);
    assert_true(fixture_is_clean(*state, 1));
}

/* --- the peak --- */

static int grow_and_shrink(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    goalloc_free(filled(GROWN_BYTES, 1));
    return 0;
}

static void release_all(const fixture *f)
{
    static const char *const scavenge[] = { "scavenge", NULL };
    char out[1024];

    assert_int_equal(fixture_ctl(f, scavenge, out, sizeof(out)), 0);
}

static uint64_t peak_now(const fixture *f)
{
    Goallocd__Reply *reply = fixture_stats_reply(f);
    uint64_t peak = reply->stats->peak_committed_bytes;

    goallocd__reply__free_unpacked(reply, NULL);
    return peak;
}

static void peak_stays_over_releases_and_takeovers(void **state)
{
    fixture *f = *state;
    goalloc_stats_t stats;
    uint64_t peak;

    assert_true(peak_now(f) < SLACK_BYTES);
    assert_int_equal(child_run(f, grow_and_shrink, NULL), 0);
    peak = peak_now(f);
    assert_in_range(peak, GROWN_BYTES, GROWN_BYTES + SLACK_BYTES);
    release_all(f);
    fixture_stats(f, &stats);
    assert_true(stats.committed_bytes < SLACK_BYTES && peak_now(f) == peak);

    for (int i = 0; i < 3; i++) {
        fixture_kill(f);
        fixture_restart(f, NULL);
        assert_int_equal(peak_now(f), peak);
        assert_int_equal(child_run(f, grow_and_shrink, NULL), 0); /* into pages that only may have memory */
        assert_in_range(peak_now(f), peak, GROWN_BYTES + SLACK_BYTES);
        peak = peak_now(f);
    }
    assert_true(fixture_is_clean(f, 0));
}

/* Each object is longer than the place of the one before: 123 MiB are used, of which no more than 63 at once. */
static int wander(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    for (size_t mib = 20; mib <= 60; mib += 20) {
        unsigned char *p = filled(mib * MIB, 1);

        CHECK(filled(MIB, 2) != NULL); /* stays behind it */
        goalloc_free(p);
        CHECK(goalloc_trim() == 0);
        release_all(f);
    }
    return 0;
}

static int use_little(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    for (int i = 0; i < 10; i++)
        goalloc_free(filled(MIB, 1));
    return 0;
}

static void peak_after_a_takeover_is_not_what_was_ever_used(void **state)
{
    fixture *f = *state;
    uint64_t peak;

    assert_int_equal(child_run(f, wander, NULL), 0);
    peak = peak_now(f);
    assert_in_range(peak, 60 * MIB, 60 * MIB + SLACK_BYTES);
    fixture_kill(f);
    fixture_restart(f, NULL);
    assert_int_equal(child_run(f, use_little, NULL), 0);
    assert_int_equal(peak_now(f), peak);
    release_all(f);
    assert_int_equal(child_run(f, grow_and_shrink, NULL), 0);
    assert_in_range(peak_now(f), GROWN_BYTES, GROWN_BYTES + SLACK_BYTES);
    assert_true(fixture_is_clean(f, 3));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST_WITH(stats_of_any_size_write_no_more_than_that, "--reserve", "256M"),
        FIXTURE_TEST_WITH(stats_have_the_names_and_values_of_goallocctl, "--reserve", "256M", "--memory-limit",
                          "192M"),
        FIXTURE_TEST_KEPT(peak_stays_over_releases_and_takeovers),
        FIXTURE_TEST_KEPT(peak_after_a_takeover_is_not_what_was_ever_used),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
