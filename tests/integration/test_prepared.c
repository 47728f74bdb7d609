/*
 * Memory that is zeroed behind the clients' backs: while they write it, while it is punched, while the daemon dies.
 * Nothing that was written is lost, what should be zero is zero, and no page gets memory that the daemon does not
 * count.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "tests/support/objects.h"
#include "tests/support/waits.h"

#define STOCK_BYTES (SHM_STOCK_PAGES * PAGE_BYTES)
#define WORKERS     3
#define OBJECTS     256u
#define STEP        512u /* bytes of an object, one of whose words is written */

typedef struct work {
    uint64_t seed;
    int64_t end_ms;
} work;

typedef struct object {
    uint64_t *words;
    size_t bytes;
    uint64_t tag;
} object;

static void check_and_free(object *o)
{
    for (size_t at = 0; o->words != NULL && at < o->bytes / 8; at += STEP / 8)
        CHECK(o->words[at] == o->tag);
    goalloc_free(o->words);
    o->words = NULL;
}

/* Objects of 1 KiB to 1 MiB come and go; at times all go, and back to the daemon, so that they can be punched. */
static int churn(const fixture *f, void *arg)
{
    static object objects[OBJECTS];
    work *w = arg;

    must_attach(f, 0);
    for (uint64_t n = 1; waits_now_ms() < w->end_ms; n++) {
        object *o = &objects[test_random(&w->seed) % OBJECTS];

        check_and_free(o);
        o->bytes = (size_t)1024 << test_random(&w->seed) % 11;
        o->words = goalloc_calloc(1, o->bytes);
        o->tag = n;
        CHECK(o->words != NULL);
        for (size_t at = 0; at < o->bytes / 8; at += STEP / 8) {
            CHECK(o->words[at] == 0);
            o->words[at] = o->tag;
        }
        if (test_random(&w->seed) % 500 == 0) {
            for (size_t i = 0; i < OBJECTS; i++)
                check_and_free(&objects[i]);
            (void)goalloc_trim(); /* the daemon may be gone just now */
        }
    }
    for (size_t i = 0; i < OBJECTS; i++)
        check_and_free(&objects[i]);
    return 0;
}

static void start_workers(const fixture *f, pid_t *pids, int64_t end_ms)
{
    uint64_t seed = test_seed();

    for (int i = 0; i < WORKERS; i++) {
        work w = { .seed = seed + (uint64_t)i, .end_ms = end_ms };

        pids[i] = child_start(f, churn, &w);
    }
}

static int64_t end_of_test(void)
{
    const char *given = getenv("GOALLOC_TEST_SECONDS");

    return waits_now_ms() + (given != NULL ? atoi(given) * 1000 : 4000);
}

static void pages_that_are_zeroed_written_and_punched_at_once_lose_nothing(void **state)
{
    static const char *const scavenge[] = { "scavenge", NULL };
    const fixture *f = *state;
    int64_t end = end_of_test();
    pid_t pids[WORKERS];
    char out[4096];
    int nscavenges = 0;

    start_workers(f, pids, end);
    for (; waits_now_ms() < end; nscavenges++) {
        assert_int_equal(fixture_ctl(f, scavenge, out, sizeof(out)), 0);
        (void)usleep(2000);
    }
    for (int i = 0; i < WORKERS; i++)
        assert_int_equal(child_wait(pids[i]), 0);
    (void)printf("%d times all that was free was punched\n", nscavenges);
    assert_true(fixture_is_clean(f, 0));
    assert_true(fixture_is_settled(f));
    assert_true(fixture_is_whole(f));
}

static void daemon_that_dies_while_it_zeroes_leaves_a_sound_heap(void **state)
{
    static const char *const scavenge[] = { "scavenge", NULL };
    fixture *f = *state;
    int64_t end = end_of_test();
    uint64_t seed = test_seed();
    pid_t pids[WORKERS];
    char out[4096];

    start_workers(f, pids, end);
    while (waits_now_ms() < end) {
        (void)usleep((unsigned)(1000 + test_random(&seed) % 100000));
        fixture_kill(f);
        fixture_restart(f, NULL);
    }
    for (int i = 0; i < WORKERS; i++)
        assert_int_equal(child_wait(pids[i]), 0);
    assert_true(fixture_is_clean(f, 0));
    assert_true(fixture_is_whole(f));
    assert_int_equal(fixture_ctl(f, scavenge, out, sizeof(out)), 0);
    assert_true(fixture_is_settled(f));
}

/* Memory that is leased and not written. */
static int lease_before_and_after(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, GOALLOC_ATTACH_RECLAIM);
    CHECK(goalloc_malloc(1) != NULL);
    (void)raise(SIGSTOP);
    for (int i = 0; i < 16; i++)
        CHECK(goalloc_malloc(4 * MIB) != NULL);
    (void)raise(SIGSTOP);
    return 0;
}

static void process_that_comes_back_to_a_lazy_daemon_gives_nothing_memory(void **state)
{
    fixture *f = *state;
    pid_t pid = child_start_stopped(f, lease_before_and_after, NULL);
    uint64_t before;

    fixture_kill(f);
    fixture_restart(f, "--commit=lazy");
    before = fixture_memfd_bytes(f, "arena");
    (void)kill(pid, SIGCONT);
    assert_true(child_stops(pid));
    assert_true(fixture_memfd_bytes(f, "arena") <= before);
    (void)kill(pid, SIGCONT);
    assert_int_equal(child_wait(pid), 0);
    assert_true(fixture_is_clean(f, 0));
}

static void stock_is_there_before_anybody_comes_and_stays(void **state)
{
    const fixture *f = *state;
    uint64_t bytes = 0;

    for (int i = 0; i < 500 && bytes < STOCK_BYTES - PAGE_BYTES; i++) {
        (void)usleep(10000);
        bytes = fixture_memfd_bytes(f, "arena");
    }
    assert_int_equal(bytes, STOCK_BYTES - PAGE_BYTES); /* page 0 is nobody's */
    assert_true(fixture_is_settled(f));
    (void)sleep(3); /* the scavenger's goal is 0 by now */
    assert_int_equal(fixture_memfd_bytes(f, "arena"), STOCK_BYTES - PAGE_BYTES);
    assert_false(fixture_log_has(f, "KiB work (bg)"));
}

static void no_stock_where_memory_is_not_to_be_had(void **state)
{
    const fixture *f = *state;
    goalloc_stats_t stats;

    (void)usleep(300000);
    fixture_stats(f, &stats);
    assert_int_equal(stats.committed_bytes, 0);
    assert_int_equal(fixture_memfd_bytes(f, "arena"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(pages_that_are_zeroed_written_and_punched_at_once_lose_nothing),
        FIXTURE_TEST_KEPT(daemon_that_dies_while_it_zeroes_leaves_a_sound_heap),
        FIXTURE_TEST_KEPT(process_that_comes_back_to_a_lazy_daemon_gives_nothing_memory),
        FIXTURE_TEST_WITH(stock_is_there_before_anybody_comes_and_stays, "--scavtrace"),
        FIXTURE_TEST_WITH(no_stock_where_memory_is_not_to_be_had, "--commit", "lazy"),
        FIXTURE_TEST_WITH(no_stock_where_memory_is_not_to_be_had, "--memory-limit", "8M"),
    };

    return cmocka_run_group_tests_name("prepared", tests, NULL, NULL);
}
