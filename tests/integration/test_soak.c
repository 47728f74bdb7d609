/*
 * Soak: clients attach, churn, are killed and detach, for a time. Then the daemon has as much memory and as many
 * descriptors as after the first quarter of it: what one client costs, its end gives back.
 *
 * The memory is what malloc has given out (mallinfo2(), asked by the library of support/fail_calls.c), so a few bytes a
 * session are noticed. GOALLOC_TEST_SECONDS makes it longer.
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

#include "tests/support/attach.h"
#include "tests/support/fail_calls.h"
#include "tests/support/waits.h"

#define DEFAULT_SECONDS 4
#define CLIENTS         3u
#define OBJECTS         300u
#define SLACK_BYTES     (48 * KIB) /* what malloc keeps for its threads, and counts as given out */
#define SLACK_RSS_KIB   4096

/* How a client ends. */
enum end { END_DETACH, END_EXIT, END_KILLED, END_CUT, ENDS };

static fail_plan *plan;

/* --- clients --- */

static void churn(uint64_t *random, void **objects, unsigned operations)
{
    for (unsigned i = 0; i < operations; i++) {
        void **o = &objects[test_random(random) % OBJECTS];
        uint64_t r = test_random(random);

        goalloc_free(*o);
        *o = goalloc_malloc(r % 64 == 0 ? r % 400000 : 16 + r % 3000);
        CHECK(*o != NULL);
        memset(*o, (int)i, 16);
    }
}

/* A half frame, on a connection with a session; then the connection ends. */
static void cut(const fixture *f)
{
    static const uint8_t half[] = { 200, 0, 0, 0, 8, 1 };
    int fd = raw_attach(f);

    CHECK(write(fd, half, sizeof(half)) == (ssize_t)sizeof(half));
    (void)close(fd);
}

static int run_client(const fixture *f, void *arg)
{
    uint64_t random = *(const uint64_t *)arg;
    enum end end = (enum end)(test_random(&random) % ENDS);
    static void *objects[OBJECTS];

    waits_not_for_ever();
    if (end == END_CUT) {
        cut(f);
        return 0;
    }
    must_attach(f, GOALLOC_ATTACH_RECLAIM); /* what it has goes with it, whenever it is killed */
    churn(&random, objects, (unsigned)(test_random(&random) % 400));
    if (test_random(&random) % 4 == 0)
        CHECK(goalloc_trim() == 0);
    for (; end == END_KILLED; churn(&random, objects, 100))
        continue;
    if (end == END_EXIT)
        _exit(0);
    for (unsigned i = 0; i < OBJECTS; i++)
        goalloc_free(objects[i]);
    return goalloc_detach() < 0;
}

typedef struct client {
    pid_t pid;
    int64_t kill_at_ms;
} client;

/* A client that has ended makes room for another one. */
static void turn_client(const fixture *f, client *c, uint64_t *random)
{
    int status = 0;
    uint64_t seed = test_random(random);

    if (c->pid != 0 && waits_now_ms() > c->kill_at_ms)
        (void)kill(c->pid, SIGKILL);
    if (c->pid != 0 && waitpid(c->pid, &status, WNOHANG) == 0)
        return;
    assert_true(status == 0 || (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));
    c->pid = child_start(f, run_client, &seed);
    c->kill_at_ms = waits_now_ms() + (int64_t)(test_random(random) % 40);
}

/* How many there were. */
static unsigned run_clients(const fixture *f, uint64_t *random, int64_t ms)
{
    client clients[CLIENTS] = { { 0 } };
    int64_t until = waits_now_ms() + ms;
    unsigned n = 0;

    while (waits_now_ms() < until) {
        for (unsigned i = 0; i < CLIENTS; i++) {
            pid_t before = clients[i].pid;

            turn_client(f, &clients[i], random);
            n += clients[i].pid != before;
        }
        waits_sleep_ms(1);
    }
    for (unsigned i = 0; i < CLIENTS; i++) {
        (void)kill(clients[i].pid, SIGKILL);
        (void)waitpid(clients[i].pid, NULL, 0);
    }
    return n;
}

/* --- what the daemon has --- */

/* What its malloc has given out. 0: its malloc is a sanitizer's. */
static uint64_t heap_bytes(const fixture *f)
{
    goalloc_stats_t stats;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return 0;
#endif
    u32_store_release(&plan->ask_heap, 1);
    for (int i = 0; i < 1000 && u32_load_acquire(&plan->ask_heap) != 0; i++)
        fixture_stats(f, &stats); /* a connection is an allocation */
    return u64_load_acquire(&plan->heap_bytes);
}

static long rss_kib(const fixture *f)
{
    char path[64];
    char line[256];
    long kib = -1;
    FILE *file;

    (void)snprintf(path, sizeof(path), "/proc/%d/status", (int)f->daemon);
    file = fopen(path, "re");
    assert_non_null(file);
    while (kib < 0 && fgets(line, sizeof(line), file) != NULL)
        (void)sscanf(line, "RssAnon: %ld", &kib);
    (void)fclose(file);
    return kib;
}

static void clients_that_come_and_go_leave_the_daemon_as_it_was(void **state)
{
    const fixture *f = *state;
    const char *seconds = getenv("GOALLOC_TEST_SECONDS");
    int64_t ms = (seconds != NULL ? atoll(seconds) : DEFAULT_SECONDS) * 1000;
    uint64_t random = test_seed();
    uint64_t heap;
    long rss;
    unsigned n;

    n = run_clients(f, &random, ms / 4);
    assert_true(fixture_is_clean(f, 0));
    heap = heap_bytes(f);
    rss = rss_kib(f);
    n += run_clients(f, &random, ms - ms / 4);
    assert_true(fixture_is_clean(f, 0)); /* and has no descriptor more */
    assert_true(fixture_is_settled(f));
    (void)printf("%u clients; heap %llu -> %llu bytes, RssAnon %ld -> %ld KiB\n", n, (unsigned long long)heap,
                 (unsigned long long)heap_bytes(f), rss, rss_kib(f));
    assert_true(heap_bytes(f) <= heap + SLACK_BYTES);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    assert_true(rss_kib(f) <= rss + SLACK_RSS_KIB);
#endif
}

static int setup(void **state)
{
    fixture *f;

    (void)fixture_setup(state);
    f = *state;
    fixture_kill(f);
    plan = fail_plan_open(f->dir);
    fail_plan_preload(true);
    fixture_restart(f, NULL);
    fail_plan_preload(false);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(clients_that_come_and_go_leave_the_daemon_as_it_was, setup, fixture_teardown),
    };

    return cmocka_run_group_tests_name("soak", tests, NULL, NULL);
}
