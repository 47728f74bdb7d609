/*
 * A hard limit: the kernel never counts more than --max-memory says, who would pass it gets ENOMEM, also while what is
 * free can't be released; and when one session has filled all there is, others still get a little.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#include "tests/support/attach.h"
#include "tests/support/rawheap.h"
#include "tests/support/stall.h"
#include "tests/support/waits.h"

#define MAX_MIB 64

/* Memory of all files of the heap. */
static uint64_t heap_bytes(const fixture *f)
{
    return fixture_memfd_bytes(f, "arena") + fixture_memfd_bytes(f, "spans") + fixture_memfd_bytes(f, "bitmap");
}

/* Allocate until there is no more; the error must be that one. */
static void fill(size_t object_bytes, int error)
{
    size_t n = 0;

    waits_not_for_ever();
    errno = 0;
    while (goalloc_malloc(object_bytes) != NULL)
        n++;
    if (errno != error || n == 0)
        (void)fprintf(stderr, "after %zu of %zu bytes: %s\n", n, object_bytes, strerror(errno));
    CHECK(errno == error && n > 0);
}

static int fill_and_stop(const fixture *f, void *arg)
{
    const int *error = arg;

    must_attach(f, 0);
    fill(200000, *error);
    fill(1000, *error);
    (void)raise(SIGSTOP);
    return 0;
}

static int use_little(const fixture *f, void *arg)
{
    unsigned char *objects[100];

    (void)arg;
    waits_not_for_ever();
    must_attach(f, 0);
    for (int i = 0; i < 100; i++) {
        objects[i] = goalloc_malloc(500);
        CHECK(objects[i] != NULL);
        memset(objects[i], i, 500);
    }
    for (int i = 0; i < 100; i++)
        goalloc_free(objects[i]);
    return 0;
}

static pid_t start_hog(const fixture *f, int *error)
{
    pid_t pid = child_start(f, fill_and_stop, error);
    int status;

    assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
    assert_true(WIFSTOPPED(status));
    return pid;
}

static void end_hog(pid_t pid)
{
    (void)kill(pid, SIGCONT);
    assert_int_equal(child_wait(pid), 0);
}

static void heap_never_has_more_than_the_maximum(void **state)
{
    fixture *f = *state;
    int error = ENOMEM;
    rawheap other;
    pid_t hog;
    Goallocd__Reply *reply;

    rawheap_open(&other, f, 0, "somebody else");
    hog = start_hog(f, &error);
    reply = fixture_stats_reply(f);
    assert_int_equal(reply->stats->max_memory_bytes, MAX_MIB * MIB);
    assert_true(reply->stats->committed_bytes > MAX_MIB * MIB * 3 / 4);
    goallocd__reply__free_unpacked(reply, NULL);
    assert_true(heap_bytes(f) <= MAX_MIB * MIB);
    for (int i = 0; i < 4; i++)
        assert_int_equal(child_run(f, use_little, NULL), 0);
    assert_true(heap_bytes(f) <= MAX_MIB * MIB);
    assert_true(fixture_log_has(f, "--max-memory"));
    end_hog(hog);
    rawheap_close(&other);
    assert_true(fixture_is_whole(f));
    assert_true(heap_bytes(f) <= MAX_MIB * MIB);
}

static void full_arena_has_a_reserve_for_others(void **state)
{
    fixture *f = *state;
    int error = ENOSPC;
    rawheap other;
    pid_t hog;

    rawheap_open(&other, f, 0, "somebody else"); /* who is alone gets all of so small a heap */
    hog = start_hog(f, &error);
    for (int i = 0; i < 4; i++)
        assert_int_equal(child_run(f, use_little, NULL), 0);
    assert_true(fixture_log_has(f, "asks for"));
    end_hog(hog);
    rawheap_close(&other);
    assert_true(fixture_is_whole(f));
}

/* All that is free has memory, and lies below what is asked for; it can't be released. */
static int ask_for_much(const fixture *f, void *arg)
{
    void *p;

    (void)arg;
    waits_not_for_ever();
    must_attach(f, 0);
    errno = 0;
    p = goalloc_malloc((MAX_MIB - 16) * MIB);
    CHECK(p == NULL && errno == ENOMEM);
    return 0;
}

/* Until the pages are there. */
static int ask_for_much_and_get_it(const fixture *f, void *arg)
{
    void *p;

    (void)arg;
    waits_not_for_ever();
    must_attach(f, 0);
    while ((p = goalloc_malloc((MAX_MIB - 16) * MIB)) == NULL)
        waits_sleep_ms(10);
    goalloc_free(p);
    return 0;
}

/* Leaves an object in the middle of much free memory. */
static int leave_a_rest(const fixture *f, void *arg)
{
    static char *objects[MAX_MIB - 16];
    size_t n = 0;

    (void)arg;
    must_attach(f, 0);
    for (; n < sizeof(objects) / sizeof(objects[0]); n++)
        CHECK((objects[n] = goalloc_malloc(MIB)) != NULL);
    for (size_t i = 0; i < n; i++) {
        if (i != n / 2)
            goalloc_free(objects[i]);
    }
    return 0;
}

static void maximum_holds_while_nothing_can_be_released(void **state)
{
    fixture *f = *state;
    rawheap attacker;
    stall held;

    waits_not_for_ever();
    rawheap_open(&attacker, f, 0, "attacker");
    if (!stall_begin(&held, attacker.fds[ATTACH_FD_ARENA], (off_t)(4096 * MIB))) {
        rawheap_close(&attacker);
        skip();
    }
    assert_int_equal(child_run(f, leave_a_rest, NULL), 0);
    assert_int_equal(child_run(f, ask_for_much, NULL), 0);
    assert_true(heap_bytes(f) <= MAX_MIB * MIB);
    stall_end(&held);
    rawheap_close(&attacker);
    assert_int_equal(child_run(f, ask_for_much_and_get_it, NULL), 0);
    assert_true(heap_bytes(f) <= MAX_MIB * MIB);
    assert_true(fixture_is_whole(f));
    (void)alarm(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST_WITH(heap_never_has_more_than_the_maximum, "--max-memory", "64M"),
        FIXTURE_TEST_WITH(heap_never_has_more_than_the_maximum, "--max-memory", "64M", "--memory-limit", "32M"),
        FIXTURE_TEST_WITH(full_arena_has_a_reserve_for_others, "--reserve", "64M"),
        FIXTURE_TEST_WITH(maximum_holds_while_nothing_can_be_released, "--max-memory", "64M"),
    };

    return cmocka_run_group_tests_name("a hard limit", tests, NULL, NULL);
}
