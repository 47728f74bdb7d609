/*
 * What the heap occupies: freed memory goes back to the system, by itself and when asked; the memory limit holds; the
 * bookkeeping stays small, and its sums are exact. What the daemon says is compared with what the kernel says.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

#include <jansson.h>

#include "shm/limits.h"
#include "tests/support/attach.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

#define STOCK_BYTES (SHM_STOCK_PAGES * PAGE_BYTES)

static int64_t now_ms(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* A stopped child goes on holding what it has, and asks nobody for anything. */
static void wait_for_stop(pid_t pid)
{
    int status;

    assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
    assert_true(WIFSTOPPED(status));
}

static void end_child(pid_t pid)
{
    (void)kill(pid, SIGKILL);
    assert_int_equal(child_wait(pid), 1000 + SIGKILL);
}

/* --- back to the system --- */

static int use_and_free_64m(const fixture *f, void *arg)
{
    static void *objects[64 * 1024 + 8];

    (void)arg;
    must_attach(f, 0);
    for (int i = 0; i < 32 * 1024; i++)
        CHECK((objects[i] = goalloc_malloc(1024)) != NULL);
    for (int i = 0; i < 8; i++)
        CHECK((objects[32 * 1024 + i] = goalloc_malloc(4 << 20)) != NULL);
    for (int i = 0; i < 32 * 1024 + 8; i++)
        goalloc_free(objects[i]);
    CHECK(goalloc_trim() == 0);
    (void)raise(SIGSTOP);
    return 0;
}

static void freed_memory_goes_back_to_the_system_by_itself(void **state)
{
    const fixture *f = *state;
    pid_t pid = child_start(f, use_and_free_64m, NULL);
    uint64_t bytes = UINT64_MAX;
    goalloc_stats_t stats;

    wait_for_stop(pid);
    assert_true(fixture_memfd_bytes(f, "arena") > 8 * MIB);
    for (int i = 0; i < 1200 && bytes > STOCK_BYTES; i++) {
        (void)usleep(25000);
        bytes = fixture_memfd_bytes(f, "arena");
    }
    assert_true(bytes <= STOCK_BYTES);
    fixture_stats(f, &stats);
    assert_true(stats.committed_bytes <= STOCK_BYTES);
    assert_true(stats.released_bytes >= 56 * MIB);
    for (int i = 0; i < 300 && !fixture_log_has(f, "KiB work (bg), 0 KiB work (eager), "); i++) /* once a second */
        (void)usleep(10000);
    assert_true(fixture_log_has(f, "KiB work (bg), 0 KiB work (eager), "));
    end_child(pid);
    assert_true(fixture_is_clean(f, 0));
}

static void goallocctl_scavenge_releases_all_that_is_free_at_once(void **state)
{
    const fixture *f = *state;
    static const char *const scavenge[] = { "--json", "scavenge", NULL };
    pid_t pid = child_start(f, use_and_free_64m, NULL);
    char out[4096];
    json_t *answer;
    goalloc_stats_t stats;

    wait_for_stop(pid);
    assert_int_equal(fixture_ctl(f, scavenge, out, sizeof(out)), 0);
    assert_int_equal(fixture_memfd_bytes(f, "arena"), 0);
    answer = json_loads(out, 0, NULL);
    assert_non_null(answer);
    assert_true(json_integer_value(json_object_get(answer, "released_bytes")) > 0);
    assert_int_equal(json_integer_value(json_object_get(answer, "free_bytes")), 0);
    json_decref(answer);
    fixture_stats(f, &stats);
    assert_int_equal(stats.committed_bytes, 0);
    /* What described the pages has gone too: what is left belongs to the sessions, tables and the first chunk. */
    assert_true(stats.metadata_bytes < 1 * MIB);
    end_child(pid);
}

static int every_other_piece(const fixture *f, void *arg)
{
    static void *pieces[512];

    (void)arg;
    must_attach(f, 0);
    for (int i = 0; i < 512; i++)
        CHECK((pieces[i] = goalloc_malloc(64 * 1024)) != NULL);
    for (int i = 0; i < 512; i += 2)
        goalloc_free(pieces[i]);
    CHECK(goalloc_malloc(16 << 20) != NULL);
    (void)raise(SIGSTOP);
    return 0;
}

static void memory_beyond_what_is_live_stays_below_a_tenth_after_scavenging(void **state)
{
    const fixture *f = *state;
    static const char *const scavenge[] = { "scavenge", NULL };
    pid_t pid = child_start(f, every_other_piece, NULL);
    char out[4096];
    goalloc_stats_t stats;
    uint64_t bytes;

    wait_for_stop(pid);
    assert_int_equal(fixture_ctl(f, scavenge, out, sizeof(out)), 0);
    bytes = fixture_memfd_bytes(f, "arena");
    fixture_stats(f, &stats);
    assert_int_equal(stats.live_bytes, 32 * MIB);
    assert_int_equal(stats.committed_bytes, bytes);
    (void)printf("%.1f%% beyond what is live\n", 100.0 * (double)(bytes - stats.live_bytes) / (double)stats.live_bytes);
    assert_true(bytes * 10 < stats.live_bytes * 11);
    end_child(pid);
}

/* --- zero knowledge --- */

/* Memory that is known to be zero is not cleared: with lazy commit, it takes no memory at all. */
static int calloc_of_fresh_pages(const fixture *f, void *arg)
{
    static const char *const scavenge[] = { "scavenge", NULL };
    char out[4096];
    unsigned char *p;

    (void)arg;
    must_attach(f, 0);
    for (int round = 0; round < 3; round++) {
        p = goalloc_calloc(64, MIB);
        CHECK(p != NULL && fixture_memfd_bytes(f, "arena") < MIB);
        for (size_t i = 0; i < 64 * MIB; i += 4096) {
            CHECK(p[i] == 0);
            p[i] = 1;
        }
        goalloc_free(p);
        CHECK(goalloc_trim() == 0 && fixture_memfd_bytes(f, "arena") >= 64 * MIB);
        /* Released pages are zero again, and that is known too. */
        CHECK(fixture_ctl(f, scavenge, out, sizeof(out)) == 0 && fixture_memfd_bytes(f, "arena") == 0);
    }
    for (int i = 0; i < 1000; i++)
        CHECK(goalloc_calloc(1, 32768) != NULL);
    CHECK(fixture_memfd_bytes(f, "arena") < MIB);
    return 0;
}

static void calloc_of_fresh_and_of_released_memory_clears_nothing(void **state)
{
    assert_int_equal(child_run(*state, calloc_of_fresh_pages, NULL), 0);
}

/* --- freed remotely --- */

#define REMOTE_BYTES (SANITIZED ? 32 * MIB : 256 * MIB)
#define REMOTE_SIZE  64u

static int fill_and_return(const fixture *f, void *arg)
{
    uint64_t n = REMOTE_BYTES / REMOTE_SIZE;
    void **array;

    (void)arg;
    must_attach(f, 0);
    array = goalloc_malloc(n * sizeof(*array));
    CHECK(array != NULL);
    for (uint64_t i = 0; i < n; i++)
        CHECK((array[i] = goalloc_malloc(REMOTE_SIZE)) != NULL);
    CHECK(goalloc_root_set("array", array) == 0);
    CHECK(goalloc_trim() == 0);
    (void)raise(SIGSTOP);
    return 0;
}

static int free_all_and_sleep(const fixture *f, void *arg)
{
    void *p;

    (void)arg;
    must_attach(f, 0);
    CHECK(goalloc_root_get("array", &p) == 0);
    for (uint64_t i = 0; i < REMOTE_BYTES / REMOTE_SIZE; i++)
        goalloc_free(((void **)p)[i]);
    goalloc_free(p);
    (void)raise(SIGSTOP);
    return 0;
}

static void small_objects_freed_remotely_are_free_pages_and_then_the_systems(void **state)
{
    const fixture *f = *state;
    pid_t a = child_start(f, fill_and_return, NULL);
    pid_t b;
    int64_t since;
    uint64_t bytes = UINT64_MAX;
    Goallocd__Reply *reply;
    bool swept = false;

    wait_for_stop(a);
    b = child_start(f, free_all_and_sleep, NULL);
    wait_for_stop(b);
    since = now_ms();
    for (int i = 0; i < 1000 && !swept; i++) {
        reply = fixture_stats_reply(f);
        swept = reply->stats->inuse_spans == 0;
        assert_int_equal(reply->stats->live_objects, 0);
        goallocd__reply__free_unpacked(reply, NULL);
        (void)usleep(10000);
    }
    (void)printf("swept after %lld ms\n", (long long)(now_ms() - since));
    assert_true(swept);
    for (int i = 0; i < 2400 && bytes > STOCK_BYTES; i++) {
        (void)usleep(25000);
        bytes = fixture_memfd_bytes(f, "arena");
    }
    (void)printf("released after %lld ms\n", (long long)(now_ms() - since));
    assert_true(bytes <= STOCK_BYTES);
    end_child(a);
    end_child(b);
    assert_true(fixture_is_clean(f, 0));
}

/* --- memory limit --- */

#define LIMIT_ENTRIES 40000

typedef struct limit_run {
    uint64_t seed;
    int ms;
} limit_run;

/* Live data moves between 10% and 70% of 256 MiB, in objects of 16 bytes to 64 KiB of changing sizes. */
static int churn_below_the_limit(const fixture *f, void *arg)
{
    static void *entries[LIMIT_ENTRIES];
    static size_t sizes[LIMIT_ENTRIES];
    limit_run *run = arg;
    int64_t end = now_ms() + run->ms;
    size_t live = 0;
    size_t target = 0;
    size_t most = 0;

    must_attach(f, 0);
    for (uint64_t op = 0; now_ms() < end; op++) {
        if (op % 64 == 0) {
            target = 26 * MIB + (size_t)(test_random(&run->seed) % (153 * MIB));
            most = UINT64_C(1) << (6 + test_random(&run->seed) % 11);
        }
        for (int i = 0; i < 2000; i++) {
            uint64_t r = test_random(&run->seed);
            size_t at = r % LIMIT_ENTRIES;
            size_t size = 16 + (r >> 32) % most;

            if (entries[at] != NULL) {
                goalloc_free(entries[at]);
                live -= sizes[at];
                entries[at] = NULL;
            } else if (live + size < target) {
                entries[at] = goalloc_malloc(size);
                CHECK(entries[at] != NULL);
                memset(entries[at], 1, size);
                sizes[at] = size;
                live += size;
            }
        }
    }
    return 0;
}

static void memory_limit_holds_while_live_data_churns_below_it(void **state)
{
    const fixture *f = *state;
    limit_run run = { .seed = test_seed(), .ms = SANITIZED ? 4000 : 8000 };
    const char *given = getenv("GOALLOC_TEST_SECONDS");
    uint64_t most = 0;
    pid_t pid;
    int status;

    if (given != NULL)
        run.ms = atoi(given) * 1000;
    pid = child_start(f, churn_below_the_limit, &run);
    while (waitpid(pid, &status, WNOHANG) == 0) {
        uint64_t bytes = fixture_memfd_bytes(f, "arena");

        most = bytes > most ? bytes : most;
        (void)usleep(2000);
    }
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    (void)printf("at most %.1f MiB with a limit of 256 MiB\n", (double)most / (double)MIB);
    assert_true(most < 256 * MIB + 16 * MIB);
}

static int live_64m(const fixture *f, void *arg)
{
    static void *objects[1024];

    (void)arg;
    must_attach(f, 0);
    for (int i = 0; i < 1024; i++) {
        CHECK((objects[i] = goalloc_malloc(i % 2 ? 32768 : 98304)) != NULL);
        memset(objects[i], 1, 32768);
    }
    (void)raise(SIGSTOP);
    for (int i = 0; i < 1024; i++)
        goalloc_free(objects[i]);
    CHECK(goalloc_trim() == 0);
    return 0;
}

static void memory_limit_below_what_is_live_is_accepted_and_said(void **state)
{
    const fixture *f = *state;
    pid_t pid = child_start(f, live_64m, NULL);
    Goallocd__Reply *reply;
    uint64_t bytes = UINT64_MAX;

    wait_for_stop(pid);
    reply = fixture_stats_reply(f);
    assert_int_equal(reply->stats->limit_bytes, 8 * MIB);
    assert_true(reply->stats->over_limit_bytes >= 56 * MIB);
    assert_true(reply->stats->live_bytes >= 64 * MIB);
    goallocd__reply__free_unpacked(reply, NULL);
    assert_true(fixture_log_has(f, "below what is in use"));
    (void)kill(pid, SIGCONT);
    assert_int_equal(child_wait(pid), 0);
    for (int i = 0; i < 1200 && bytes > 8 * MIB; i++) {
        (void)usleep(25000);
        bytes = fixture_memfd_bytes(f, "arena");
    }
    assert_true(bytes <= 8 * MIB);
    assert_true(fixture_is_clean(f, 0));
}

/* --- metadata --- */

typedef struct filling {
    size_t size;
    bool noscan;
    uint32_t flags;
} filling;

static int fill_32m(const fixture *f, void *arg)
{
    const filling *fill = arg;

    must_attach(f, fill->flags);
    for (size_t bytes = 0; bytes < 32 * MIB; bytes += fill->size)
        CHECK((fill->noscan ? goalloc_malloc_noscan(fill->size) : goalloc_malloc(fill->size)) != NULL);
    (void)raise(SIGSTOP);
    return 0;
}

static void metadata_is_at_most_a_twentieth_of_the_memory_in_use(void **state)
{
    static const filling fillings[] = {
        { 8, false, 0 },     { 16, false, 0 },     { 24, true, 0 },       { 48, false, 0 },
        { 64, true, 0 },     { 1024, false, 0 },   { 3072, false, 0 },    { 8192, false, 0 },
        { 9472, false, 0 },  { 32768, false, 0 },  { 40000, false, 0 },   { 1 << 20, false, 0 },
        { 32 << 20, true, 0 }, { 3, true, 0 },     { 15, true, 0 },       { 8, false, GOALLOC_ATTACH_RECLAIM },
        { 3072, false, GOALLOC_ATTACH_RECLAIM },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(fillings) / sizeof(fillings[0]); i++) {
        fixture f;
        filling fill = fillings[i];
        goalloc_stats_t stats;
        uint64_t bytes = 0;
        pid_t pid;

        fixture_start(&f, NULL);
        pid = child_start(&f, fill_32m, &fill);
        wait_for_stop(pid);
        for (int tries = 0; tries < 100; tries++) { /* more may be on its way, for a heap that grows */
            fixture_stats(&f, &stats);
            bytes = fixture_memfd_bytes(&f, "spans") + fixture_memfd_bytes(&f, "bitmap");
            if (stats.metadata_bytes == bytes)
                break;
            (void)usleep(10000);
        }
        assert_int_equal(stats.metadata_bytes, bytes);
        (void)printf("%zu bytes%s: %.2f%%\n", fill.size, fill.noscan ? ", noscan" : "",
                     100.0 * (double)stats.metadata_bytes / (double)stats.committed_bytes);
        assert_true(stats.metadata_bytes * 20 <= stats.committed_bytes);
        end_child(pid);
        assert_true(fixture_stop(&f));
    }
}

#if !defined(__SANITIZE_THREAD__)
static void idle_daemon_with_a_reserve_of_16t_is_small(void **state)
{
    const fixture *f = *state;
    char path[64];
    char line[256];
    unsigned long kib = 0;
    FILE *file;

    (void)snprintf(path, sizeof(path), "/proc/%d/status", (int)f->daemon);
    file = fopen(path, "re");
    assert_non_null(file);
    while (fgets(line, sizeof(line), file) != NULL)
        (void)sscanf(line, "VmRSS: %lu kB", &kib);
    (void)fclose(file);
    (void)printf("%lu KiB resident\n", kib);
    assert_true(kib > 0 && (SANITIZED || kib < 16 * 1024));
    assert_true(fixture_memfd_bytes(f, "bitmap") + fixture_memfd_bytes(f, "spans") < MIB);
}
#endif

/* --- sums --- */

static int churn_for_sums(const fixture *f, void *arg)
{
    static void *entries[5000];
    uint64_t seed = *(uint64_t *)arg;

    must_attach(f, 0);
    for (;;) {
        uint64_t r = test_random(&seed);
        void **entry = &entries[r % 5000];
        size_t size = (r >> 20) % 10 == 0 ? (r >> 32) % 100000 : (r >> 32) % 600;

        goalloc_free(*entry);
        *entry = r >> 63 ? goalloc_malloc(size) : goalloc_malloc_noscan(size);
        if (r % 100000 == 0)
            (void)goalloc_trim();
    }
    return 0;
}

static void check_sums(const Goallocd__StatsReply *s)
{
    uint64_t objects = 0;

    assert_int_equal(s->total_bytes,
                     s->live_bytes + s->unused_bytes + s->free_bytes + s->released_bytes + s->metadata_bytes);
    assert_int_equal(s->inuse_bytes, s->live_bytes + s->unused_bytes);
    assert_int_equal(s->committed_bytes, s->inuse_bytes + s->free_bytes);
    for (size_t i = 0; i < s->n_classes; i++) {
        const Goallocd__ClassStats *c = s->classes[i];

        assert_int_equal(c->allocs - c->frees, c->live_objects);
        assert_true(c->allocs >= c->frees && c->live_bytes <= c->span_bytes);
        objects += c->live_objects;
    }
    assert_int_equal(objects, s->live_objects);
}

static void statistics_add_up_at_every_moment(void **state)
{
    const fixture *f = *state;
    uint64_t seed = test_seed();
    pid_t pids[2];

    for (int i = 0; i < 2; i++, seed++)
        pids[i] = child_start(f, churn_for_sums, &seed);
    for (int i = 0; i < 300; i++) {
        Goallocd__Reply *reply = fixture_stats_reply(f);

        check_sums(reply->stats);
        goallocd__reply__free_unpacked(reply, NULL);
    }
    end_child(pids[0]);
    end_child(pids[1]);
}

static int allocate_by_class(const fixture *f, void *arg)
{
    static void *objects[10000];

    (void)arg;
    must_attach(f, 0);
    for (int i = 0; i < 10000; i++) {
        CHECK((objects[i] = goalloc_malloc(100)) != NULL);
        CHECK(goalloc_malloc_noscan(3) != NULL);
    }
    for (int i = 0; i < 4000; i++)
        goalloc_free(objects[i]);
    CHECK(goalloc_malloc(100000) != NULL);
    CHECK(goalloc_detach() == 0); /* says what has been counted up to now */
    return 0;
}

static void allocs_and_frees_are_counted_by_class(void **state)
{
    const fixture *f = *state;
    static const char *const stats[] = { "--json", "stats", NULL };
    static char out[65536];
    json_t *answer;
    json_t *c;
    size_t i;
    unsigned seen = 0;

    assert_int_equal(child_run(f, allocate_by_class, NULL), 0);
    assert_true(fixture_is_clean(f, 6000 + 10000 + 1));
    assert_int_equal(fixture_ctl(f, stats, out, sizeof(out)), 0);
    answer = json_loads(out, 0, NULL);
    assert_non_null(answer);
    assert_int_equal(json_integer_value(json_object_get(answer, "live_objects")), 16001);
    assert_int_equal(json_integer_value(json_object_get(answer, "tiny_allocs")), 10000);
    json_array_foreach(json_object_get(answer, "classes"), i, c)
    {
        json_int_t class = json_integer_value(json_object_get(c, "class"));
        json_int_t want = class == 0 ? 1 : 10000;

        if (class != 0 && class != 68 && json_integer_value(json_object_get(c, "size")) != 112)
            continue;
        seen++;
        assert_int_equal(json_integer_value(json_object_get(c, "allocs")), want);
        assert_int_equal(json_integer_value(json_object_get(c, "frees")), want == 10000 && class != 68 ? 4000 : 0);
    }
    assert_int_equal(seen, 3);
    json_decref(answer);
}

static void heap_map_shows_what_is_in_use(void **state)
{
    const fixture *f = *state;
    static const char *const map[] = { "heap-map", NULL };
    static const char *const json[] = { "--json", "heap-map", NULL };
    static char out[1 << 18];
    filling fill = { 4096, false, 0 };
    pid_t pid = child_start(f, fill_32m, &fill);
    uint64_t inuse = 0;
    json_t *answer;
    json_t *c;
    size_t i;

    wait_for_stop(pid);
    assert_true(fixture_is_settled(f)); /* pages count as in use while the stock is being prepared */
    assert_int_equal(fixture_ctl(f, json, out, sizeof(out)), 0);
    answer = json_loads(out, 0, NULL);
    assert_non_null(answer);
    json_array_foreach(json_object_get(answer, "cells"), i, c)
    {
        inuse += (uint64_t)json_integer_value(json_object_get(c, "inuse_bytes"));
    }
    assert_true(inuse >= 32 * MIB && inuse < 36 * MIB);
    assert_true((uint64_t)json_integer_value(json_object_get(answer, "heap_bytes")) >= 32 * MIB);
    json_decref(answer);
    assert_int_equal(fixture_ctl(f, map, out, sizeof(out)), 0);
    assert_non_null(strstr(out, "a cell is 1.0 MiB, a line 64.0 MiB"));
    assert_non_null(strstr(out, "0000c000000000 ") != NULL ? out : strstr(out, &FIXTURE_BASE[2]));
    end_child(pid);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST_WITH(freed_memory_goes_back_to_the_system_by_itself, "--scavtrace"),
        FIXTURE_TEST(goallocctl_scavenge_releases_all_that_is_free_at_once),
        FIXTURE_TEST(memory_beyond_what_is_live_stays_below_a_tenth_after_scavenging),
        FIXTURE_TEST(small_objects_freed_remotely_are_free_pages_and_then_the_systems),
        FIXTURE_TEST_WITH(calloc_of_fresh_and_of_released_memory_clears_nothing, "--commit", "lazy"),
        FIXTURE_TEST_WITH(memory_limit_holds_while_live_data_churns_below_it, "--memory-limit", "256M"),
        FIXTURE_TEST_WITH(memory_limit_below_what_is_live_is_accepted_and_said, "--memory-limit", "8M"),
        cmocka_unit_test(metadata_is_at_most_a_twentieth_of_the_memory_in_use),
#if !defined(__SANITIZE_THREAD__)
        FIXTURE_TEST_WITH(idle_daemon_with_a_reserve_of_16t_is_small, "--reserve", "16T", "--base", "0x100000000000"),
#endif
        FIXTURE_TEST(statistics_add_up_at_every_moment),
        FIXTURE_TEST(allocs_and_frees_are_counted_by_class),
        FIXTURE_TEST(heap_map_shows_what_is_in_use),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
