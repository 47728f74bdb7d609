/*
 * The memory limit and the metadata: what the daemon has caused counts, and nothing else does.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>

#include "tests/support/rawheap.h"
#include "tests/support/waits.h"

#define FILL_BYTES      (48 * MIB)
#define TOLERANCE_BYTES (32 * KIB) /* units on both ends of tables, and what is read just now */
/*
 * A process that finds its idle spans taken looks at their descriptions, which may have gone back with their chunk: a
 * look gives them memory that is in nobody's books.
 */
#define LOOKED_AT_BYTES (FILL_BYTES / PAGE_BYTES * sizeof(shm_span))

static int64_t difference(const fixture *f)
{
    Goallocd__Reply *reply = fixture_stats_reply(f);
    int64_t more = (int64_t)reply->stats->metadata_charged_bytes - (int64_t)reply->stats->metadata_bytes;

    goallocd__reply__free_unpacked(reply, NULL);
    return more;
}

/* Memory may be on its way, for a heap that grows; so much at most is in nobody's books, besides what is tolerated. */
static void must_agree(const fixture *f, const char *when, uint64_t unbooked_bytes)
{
    int64_t least = -(int64_t)(TOLERANCE_BYTES + unbooked_bytes);
    int64_t more = difference(f);

    for (int i = 0; i < 200 && (more > (int64_t)TOLERANCE_BYTES || more < least); i++) {
        (void)usleep(10000);
        more = difference(f);
    }
    (void)printf("%s: %lld KiB more in the books\n", when, (long long)(more / (int64_t)KIB));
    assert_true(more <= (int64_t)TOLERANCE_BYTES && more >= least);
}

/* --- when everybody behaves --- */

typedef struct filling {
    size_t size;
    uint32_t flags;
} filling;

static int fill_and_free(const fixture *f, void *arg)
{
    const filling *fill = arg;
    size_t n = FILL_BYTES / fill->size;
    void **objects = calloc(n, sizeof(*objects));

    CHECK(objects != NULL);
    must_attach(f, fill->flags);
    for (size_t i = 0; i < n; i++) {
        CHECK((objects[i] = goalloc_malloc(fill->size)) != NULL);
        if (fill->flags != 0 && i % 5000 == 0)
            CHECK(goalloc_publish(objects[i]) == 0);
    }
    (void)raise(SIGSTOP);
    for (size_t i = 0; i < n; i++) {
        if (i % (n / 3) != 0)
            goalloc_free(objects[i]);
    }
    CHECK(goalloc_trim() == 0);
    (void)raise(SIGSTOP);
    CHECK(goalloc_malloc(fill->size) != NULL);
    free(objects);
    return 0;
}

static void books_agree_with_the_kernel_when_nobody_misbehaves(void **state)
{
    static const filling fillings[] = {
        { 8, 0 }, { 64, 0 }, { 1024, 0 }, { 32768, 0 }, { 1 << 20, 0 }, { 8, GOALLOC_ATTACH_RECLAIM },
    };
    static const char *const scavenge[] = { "scavenge", NULL };
    char out[256];

    (void)state;
    for (size_t i = 0; i < sizeof(fillings) / sizeof(fillings[0]); i++) {
        filling fill = fillings[i];
        fixture f;
        pid_t pid;

        (void)printf("%zu bytes\n", fill.size);
        fixture_start_kept(&f, NULL);
        must_agree(&f, "empty", 0);
        pid = child_start(&f, fill_and_free, &fill);
        assert_true(child_stops(pid));
        must_agree(&f, "full", 0);
        (void)kill(pid, SIGCONT);
        assert_true(child_stops(pid));
        must_agree(&f, "freed", LOOKED_AT_BYTES);
        assert_int_equal(fixture_ctl(&f, scavenge, out, sizeof(out)), 0);
        must_agree(&f, "released", LOOKED_AT_BYTES);
        fixture_kill(&f);
        fixture_restart(&f, NULL);
        must_agree(&f, "taken over", LOOKED_AT_BYTES);
        (void)kill(pid, SIGCONT);
        assert_int_equal(child_wait(pid), 0);
        must_agree(&f, "gone", LOOKED_AT_BYTES);
        assert_true(fixture_is_whole(&f));
        assert_true(fixture_stop(&f));
    }
}

/* --- clients that give memory to what they can reach --- */

#define LIMIT_MIB 64

static int allocate_half_the_limit(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    for (uint64_t bytes = 0; bytes < LIMIT_MIB * MIB / 2; bytes += 4096)
        CHECK(goalloc_malloc(4096) != NULL);
    return 0;
}

/* A refill that does not insist: EAGAIN would mean that the limit is reached. */
static void refills_are_served(const fixture *f)
{
    rawheap heap;
    uint32_t spans[1024];

    rawheap_open(&heap, f, 0, "honest");
    for (int i = 0; i < 16; i++)
        assert_true(rawheap_refill(&heap, 2u * size_class_for(PAGE_BYTES).n, 0, 64, spans) > 0);
    rawheap_close(&heap);
}

static void memory_that_a_client_adds_does_not_count_towards_the_limit(void **state)
{
    static const char *const options[] = { "--memory-limit", "64M", NULL };
    fixture f;
    rawheap attacker;
    volatile unsigned char sum = 0;

    (void)state;
    fixture_start(&f, options);
    rawheap_open(&attacker, &f, 0, "attacker");
    /* Bits, objects that are nobody's, and by reading alone: descriptions. */
    assert_int_equal(fallocate(attacker.fds[ATTACH_FD_BITMAP], 0, (off_t)(16 * MIB), (off_t)(100 * MIB)), 0);
    assert_int_equal(fallocate(attacker.fds[ATTACH_FD_ARENA], 0, (off_t)(2048 * MIB), (off_t)(100 * MIB)), 0);
    for (uint64_t page = 0; page < 1024; page++)
        sum = (unsigned char)(sum + *((volatile unsigned char *)attacker.map.span_table + 32 * MIB + page * 4096));
    (void)usleep(1500000); /* the scavenger looks at the limit each second */
    refills_are_served(&f);
    assert_int_equal(child_run(&f, allocate_half_the_limit, NULL), 0);
    assert_false(fixture_log_has(&f, "the memory limit of"));

    Goallocd__Reply *reply = fixture_stats_reply(&f);
    const Goallocd__StatsReply *s = reply->stats;

    assert_int_equal(s->over_limit_bytes, 0);
    assert_int_equal(s->total_bytes,
                     s->live_bytes + s->unused_bytes + s->free_bytes + s->released_bytes + s->metadata_bytes);
    goallocd__reply__free_unpacked(reply, NULL);
    rawheap_close(&attacker);
    assert_true(fixture_is_whole(&f));
    assert_true(fixture_stop(&f));
}

static uint64_t excess_of(const fixture *f)
{
    Goallocd__Reply *reply = fixture_stats_reply(f);
    uint64_t bytes = reply->stats->excess_bytes;

    goallocd__reply__free_unpacked(reply, NULL);
    return bytes;
}

static int use_the_heap(const fixture *f, void *arg)
{
    static unsigned char *objects[4096];
    uint64_t seed = (uintptr_t)arg;

    must_attach(f, 0);
    for (int round = 0; round < 20; round++) {
        for (size_t i = 0; i < 4096; i++) {
            size_t bytes = 1 + test_random(&seed) % (i % 64 == 0 ? 300000 : 4000);

            CHECK((objects[i] = goalloc_malloc(bytes)) != NULL);
            objects[i][0] = objects[i][bytes - 1] = (unsigned char)i;
        }
        for (size_t i = 0; i < 4096; i++) {
            CHECK(objects[i][0] == (unsigned char)i);
            goalloc_free(objects[i]);
        }
        (void)goalloc_trim();
    }
    return 0;
}

/* Within the heap, beyond its end, bits and pages: it is shown, and goes, while others use the heap and let it grow. */
static void memory_that_a_client_leaves_is_shown_and_given_back(void **state)
{
    fixture *f = *state;
    rawheap attacker;
    pid_t pid;

    assert_int_equal(child_run(f, use_the_heap, (void *)(uintptr_t)1), 0);
    rawheap_open(&attacker, f, 0, "attacker");
    waits_stop_daemon(f); /* it would begin to give back what is there before all is */
    assert_int_equal(fallocate(attacker.fds[ATTACH_FD_ARENA], 0, 0, (off_t)(150 * MIB)), 0);
    assert_int_equal(fallocate(attacker.fds[ATTACH_FD_ARENA], 0, (off_t)(2048 * MIB), (off_t)(100 * MIB)), 0);
    assert_int_equal(fallocate(attacker.fds[ATTACH_FD_BITMAP], 0, (off_t)(16 * MIB), (off_t)(50 * MIB)), 0);
    waits_continue_daemon(f);
    assert_true(excess_of(f) > 150 * MIB);
    rawheap_close(&attacker);
    pid = child_start(f, use_the_heap, (void *)(uintptr_t)test_seed());
    for (int i = 0; i < 6000 && excess_of(f) >= MIB; i++)
        (void)usleep(10000);
    assert_true(excess_of(f) < MIB);
    assert_int_equal(child_wait(pid), 0);
    assert_true(fixture_log_has(f, "that nobody leases"));
    assert_true(fixture_is_whole(f));
    assert_int_equal(child_run(f, use_the_heap, (void *)(uintptr_t)2), 0);
    assert_true(fixture_is_whole(f));
}

/* The daemon looks each second; on a busy machine that is later. */
static bool comes_to_be_settled(const fixture *f)
{
    for (int i = 0; i < 10; i++) {
        if (fixture_is_settled(f))
            return true;
    }
    return false;
}

/* Single pages, as a write leaves one that is killed before its bytes come: in page 0, within the heap, beyond it. */
static void page_that_a_client_leaves_is_given_back(void **state)
{
    const off_t places[] = { 0, (off_t)MIB, (off_t)(100 * MIB + 4096), (off_t)(2048 * MIB), (off_t)(4096 * MIB) };
    fixture *f = *state;
    rawheap attacker;

    assert_int_equal(child_run(f, use_the_heap, (void *)(uintptr_t)1), 0);
    assert_int_equal(fixture_ctl(f, (const char *[]){ "scavenge", NULL }, (char[256]){ "" }, 256), 0);
    rawheap_open(&attacker, f, 0, "attacker");
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++)
        assert_int_equal(pwrite(attacker.fds[ATTACH_FD_ARENA], "x", 1, places[i]), 1);
    assert_true(comes_to_be_settled(f));
    rawheap_close(&attacker);
    assert_true(fixture_is_whole(f));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(books_agree_with_the_kernel_when_nobody_misbehaves),
        cmocka_unit_test(memory_that_a_client_adds_does_not_count_towards_the_limit),
        FIXTURE_TEST(memory_that_a_client_leaves_is_shown_and_given_back),
        FIXTURE_TEST(page_that_a_client_leaves_is_given_back),
    };

    return cmocka_run_group_tests_name("metadata and the limit", tests, NULL, NULL);
}
