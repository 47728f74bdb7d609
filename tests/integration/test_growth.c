/*
 * A heap that grows fast: memory is prepared ahead, in huge pages where that can be, and yet little more than what is
 * in use; the sums are the kernel's; and what was prepared and never used comes back, after a takeover too.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "shm/limits.h"
#include "tests/support/attach.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1 /* and so slow that growth may not be taken for it */
#else
#define SANITIZED 0
#endif

#define STOCK_BYTES (SHM_STOCK_PAGES * PAGE_BYTES)
#define OBJECTS_MAX ((size_t)(300 * MIB / 4096))


static void wait_for_stop(pid_t pid)
{
    int status;

    assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
    assert_true(WIFSTOPPED(status));
}

/* --- the growing process --- */

typedef struct growth {
    uint64_t total_bytes;
    size_t object_bytes;
    uint64_t most_bytes; /* of the arena, at any time; 0: not looked at */
    bool small_pages;    /* no huge page may be seen */
} growth;

/* Bytes that this process has mapped in huge pages of shared memory. */
static uint64_t huge_bytes(void)
{
    FILE *file = fopen("/proc/self/smaps_rollup", "re");
    char line[256];
    unsigned long long kib = 0;

    CHECK(file != NULL);
    while (fgets(line, sizeof(line), file) != NULL && sscanf(line, "ShmemPmdMapped: %llu", &kib) != 1)
        ;
    (void)fclose(file);
    return kib * KIB;
}

/* Allocate and write, all zero before; stop; free all when continued. */
static int grow(const fixture *f, void *arg)
{
    static unsigned char *objects[OBJECTS_MAX];
    const growth *g = arg;
    size_t n = g->total_bytes / g->object_bytes;

    CHECK(n <= OBJECTS_MAX);
    must_attach(f, 0);
    for (size_t i = 0; i < n; i++) {
        objects[i] = goalloc_calloc(1, g->object_bytes);
        CHECK(objects[i] != NULL);
        for (size_t at = 0; at < g->object_bytes; at += 512) {
            CHECK(objects[i][at] == 0);
            objects[i][at] = (unsigned char)(i + 1);
        }
        if (g->most_bytes != 0 && i % 1024 == 0)
            CHECK(fixture_memfd_bytes(f, "arena") <= g->most_bytes);
    }
    CHECK(!g->small_pages || huge_bytes() == 0);
    (void)fprintf(stderr, "%llu MiB in huge pages\n", (unsigned long long)(huge_bytes() / MIB));
    (void)raise(SIGSTOP);
    for (size_t i = 0; i < n; i++) {
        for (size_t at = 0; at < g->object_bytes; at += 512)
            CHECK(objects[i][at] == (unsigned char)(i + 1));
        goalloc_free(objects[i]);
    }
    return 0;
}

/* The daemon's sums, when nothing of the arena is on its way: what is committed is what the kernel says. */
static Goallocd__Reply *settled_stats(const fixture *f)
{
    for (int i = 0; i < 200; i++) {
        Goallocd__Reply *reply = fixture_stats_reply(f);

        if (reply->stats->committed_bytes == fixture_memfd_bytes(f, "arena"))
            return reply;
        goallocd__reply__free_unpacked(reply, NULL);
        (void)usleep(10000);
    }
    fail_msg("what is committed is not what the kernel says");
    return NULL;
}

/* Once freed, and scavenged, nothing is left. */
static void check_comes_back(const fixture *f, pid_t pid)
{
    static const char *const scavenge[] = { "scavenge", NULL };
    char out[4096];
    Goallocd__Reply *reply;

    (void)kill(pid, SIGCONT);
    assert_int_equal(child_wait(pid), 0);
    assert_true(fixture_is_clean(f, 0));
    assert_int_equal(fixture_ctl(f, scavenge, out, sizeof(out)), 0);
    reply = settled_stats(f);
    assert_int_equal(reply->stats->committed_bytes, 0);
    assert_true(reply->stats->metadata_bytes < 1 * MIB);
    goallocd__reply__free_unpacked(reply, NULL);
    assert_true(fixture_is_whole(f));
}

static uint64_t most(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* Grow, look at the sums, free all, look again. */
static void check_growth(const char *const *options, growth g)
{
    fixture f;
    pid_t pid;
    Goallocd__Reply *reply;
    const Goallocd__StatsReply *s;

    fixture_start(&f, options);
    pid = child_start(&f, grow, &g);
    wait_for_stop(pid);
    reply = settled_stats(&f);
    s = reply->stats;
    assert_true(s->live_bytes >= g.total_bytes);
    assert_int_equal(s->committed_bytes, s->inuse_bytes + s->free_bytes);
    /* A 32nd ahead, or the stock, and what is left over of the last window of pages. */
    assert_true(s->free_bytes <= most(s->inuse_bytes / 32, STOCK_BYTES) + 512 * KIB);
    (void)printf("%llu MiB in use, %.1f MiB ready\n", (unsigned long long)(s->inuse_bytes / MIB),
                 (double)s->free_bytes / (double)MIB);
    if (s->limit_bytes != 0)
        assert_true(s->committed_bytes + s->metadata_bytes <= s->limit_bytes);
    goallocd__reply__free_unpacked(reply, NULL);
    assert_true(fixture_is_whole(&f));
    check_comes_back(&f, pid);
    assert_true(fixture_stop(&f));
}

/* --- tests --- */

static void growth_to_300m_prepares_a_small_part_at_most(void **state)
{
    (void)state;
    check_growth(NULL, (growth){ .total_bytes = 300 * MIB, .object_bytes = 4096 });
    check_growth(NULL, (growth){ .total_bytes = 300 * MIB, .object_bytes = 65536 });
}

static void growth_to_40m_prepares_the_stock_at_most_at_any_time(void **state)
{
    (void)state;
    check_growth(NULL,
                 (growth){ .total_bytes = 40 * MIB, .object_bytes = 4096, .most_bytes = 44 * MIB + STOCK_BYTES });
}

static void large_objects_grow_the_heap_too(void **state)
{
    (void)state;
    check_growth(NULL, (growth){ .total_bytes = 300 * MIB, .object_bytes = 5 * MIB });
}

static void huge_pages_never_means_never(void **state)
{
    static const char *const never[] = { "--huge-pages", "never", NULL };

    (void)state;
    check_growth(never, (growth){ .total_bytes = 200 * MIB, .object_bytes = 4096, .small_pages = true });
}

/* The kernel refuses (EINVAL) what a parent has forbidden: all is as without huge pages. */
static void huge_pages_that_are_refused_are_small_ones(void **state)
{
    (void)state;
    if (prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) != 0)
        skip();
    check_growth(NULL, (growth){ .total_bytes = 200 * MIB, .object_bytes = 4096, .small_pages = true });
    assert_int_equal(prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0), 0);
}

static void memory_limit_is_not_passed_by_what_is_prepared(void **state)
{
    static const char *const limit[] = { "--memory-limit", "100M", NULL };

    (void)state;
    check_growth(limit, (growth){ .total_bytes = 90 * MIB, .object_bytes = 4096 });
}

static void lazy_commit_prepares_nothing(void **state)
{
    static const char *const lazy[] = { "--commit", "lazy", NULL };
    growth g = { .total_bytes = 100 * MIB, .object_bytes = 4096, .most_bytes = 101 * MIB };
    fixture f;
    pid_t pid;

    (void)state;
    fixture_start(&f, lazy);
    pid = child_start(&f, grow, &g);
    wait_for_stop(pid);
    check_comes_back(&f, pid);
    assert_true(fixture_stop(&f));
}

/* What was prepared and not used yet when the daemon died is known to the next one, and comes back. */
static void prepared_pages_come_back_after_a_takeover(void **state)
{
    growth g = { .total_bytes = 200 * MIB, .object_bytes = 4096 };
    fixture f;
    pid_t pid;
    Goallocd__Reply *reply;

    (void)state;
    fixture_start_kept(&f, NULL);
    pid = child_start(&f, grow, &g);
    wait_for_stop(pid);
    reply = settled_stats(&f);
    assert_true(SANITIZED || reply->stats->free_bytes >= 2 * MIB);
    goallocd__reply__free_unpacked(reply, NULL);
    fixture_kill(&f);
    fixture_restart(&f, NULL);
    assert_true(fixture_is_whole(&f));
    reply = fixture_stats_reply(&f);
    assert_true(reply->stats->committed_bytes >= fixture_memfd_bytes(&f, "arena"));
    goallocd__reply__free_unpacked(reply, NULL);
    check_comes_back(&f, pid);
    assert_true(fixture_stop(&f));
}

/* The daemon dies while it prepares, over and over, and the heap grows on. */
static void daemon_may_die_while_memory_is_prepared(void **state)
{
    growth g = { .total_bytes = 300 * MIB, .object_bytes = 4096 };
    uint64_t seed = test_seed();
    fixture f;
    pid_t pid;
    int status;

    (void)state;
    fixture_start_kept(&f, NULL);
    pid = child_start(&f, grow, &g);
    while (waitpid(pid, &status, WUNTRACED | WNOHANG) == 0) {
        (void)usleep((unsigned)(5000 + test_random(&seed) % 50000));
        fixture_kill(&f);
        fixture_restart(&f, NULL);
    }
    assert_true(WIFSTOPPED(status));
    check_comes_back(&f, pid);
    assert_true(fixture_stop(&f));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(growth_to_300m_prepares_a_small_part_at_most),
        cmocka_unit_test(growth_to_40m_prepares_the_stock_at_most_at_any_time),
        cmocka_unit_test(large_objects_grow_the_heap_too),
        cmocka_unit_test(huge_pages_never_means_never),
        cmocka_unit_test(huge_pages_that_are_refused_are_small_ones),
        cmocka_unit_test(memory_limit_is_not_passed_by_what_is_prepared),
        cmocka_unit_test(lazy_commit_prepares_nothing),
        cmocka_unit_test(prepared_pages_come_back_after_a_takeover),
        cmocka_unit_test(daemon_may_die_while_memory_is_prepared),
    };

    return cmocka_run_group_tests_name("growth", tests, NULL, NULL);
}
