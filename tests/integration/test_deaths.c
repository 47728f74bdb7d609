/*
 * Every way in which a worker can go, stop or multiply: killed, aborted, exec'd, exited, stopped, forked, vforked,
 * spawned. Its leases end, others notice nothing, and what it left behind is shown.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

#include <jansson.h>

#include "tests/support/attach.h"

extern char **environ;

static double now_ms(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

static void wait_for_stop(pid_t pid)
{
    int status;

    assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
    assert_true(WIFSTOPPED(status));
}

/* --- ways to go --- */

enum way { WAY_KILL, WAY_ABORT, WAY_EXEC, WAY_EXIT, WAY_UNDERSCORE_EXIT, WAY_SEGV, WAY_COUNT };

static const char *const way_names[WAY_COUNT] = { "kill -9", "abort", "exec", "exit", "_exit", "segmentation fault" };

#define OBJECTS_EACH 500

static int go(const fixture *f, void *arg)
{
    enum way way = *(enum way *)arg;
    struct rlimit no_core = { 0, 0 };

    (void)setrlimit(RLIMIT_CORE, &no_core);
    must_attach(f, 0);
    for (int i = 0; i < OBJECTS_EACH; i++)
        CHECK(goalloc_malloc(100) != NULL);
    (void)raise(SIGSTOP);
    switch (way) {
    case WAY_KILL:
        (void)raise(SIGKILL);
        break;
    case WAY_ABORT:
        abort();
    case WAY_EXEC:
        (void)execl("/bin/sleep", "sleep", "30", (char *)NULL);
        break;
    case WAY_EXIT:
        exit(0);
    case WAY_UNDERSCORE_EXIT:
        _exit(0);
    default:
        (void)signal(SIGSEGV, SIG_DFL);
        (void)raise(SIGSEGV);
    }
    return 1;
}

/* Milliseconds from now until no lease is left. */
static double time_to_end(const fixture *f)
{
    double start = now_ms();
    goalloc_stats_t stats = { .leased_spans = 1 };

    while (stats.sessions + stats.leased_spans != 0 && now_ms() - start < 5000)
        fixture_stats(f, &stats);
    assert_int_equal(stats.sessions + stats.leased_spans, 0);
    return now_ms() - start;
}

static void leases_end_whichever_way_a_worker_goes(void **state)
{
    const fixture *f = *state;

    for (enum way way = 0; way < WAY_COUNT; way++) {
        pid_t pid = child_start(f, go, &way);

        wait_for_stop(pid);
        (void)kill(pid, SIGCONT);
        if (way != WAY_EXEC)
            (void)child_wait(pid);
        (void)printf("%s: leases over after %.1f ms\n", way_names[way], time_to_end(f));
        if (way == WAY_EXEC) {
            assert_int_equal(kill(pid, SIGKILL), 0);
            (void)child_wait(pid);
        }
    }
    assert_true(fixture_is_clean(f, (uint64_t)WAY_COUNT * OBJECTS_EACH));
}

static int detach_properly(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    CHECK(goalloc_malloc(100) != NULL);
    return goalloc_detach();
}

static void what_a_dead_worker_left_behind_is_shown(void **state)
{
    const fixture *f = *state;
    static const char *const sessions[] = { "--json", "sessions", NULL };
    static char out[65536];
    enum way way = WAY_UNDERSCORE_EXIT;
    json_t *answer;
    json_t *s;
    size_t i;
    pid_t pid = child_start(f, go, &way);
    unsigned nseen = 0;

    wait_for_stop(pid);
    (void)kill(pid, SIGKILL);
    (void)child_wait(pid);
    assert_int_equal(child_run(f, detach_properly, NULL), 0);
    assert_true(fixture_is_clean(f, OBJECTS_EACH + 1));
    assert_int_equal(fixture_ctl(f, sessions, out, sizeof(out)), 0);
    answer = json_loads(out, 0, NULL);
    assert_non_null(answer);
    json_array_foreach(json_object_get(answer, "sessions"), i, s)
    {
        bool died = json_integer_value(json_object_get(s, "pid")) == pid;

        assert_string_equal(json_string_value(json_object_get(s, "state")), died ? "died" : "detached");
        assert_int_equal(json_integer_value(json_object_get(s, "left_objects")), died ? OBJECTS_EACH : 1);
        assert_int_equal(json_integer_value(json_object_get(s, "left_bytes")), died ? OBJECTS_EACH * 112 : 112);
        nseen++;
    }
    assert_int_equal(nseen, 2);
    json_decref(answer);
}

/* --- reclaim --- */

#define RECLAIMED 100000

static int own_many(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, GOALLOC_ATTACH_RECLAIM);
    for (int i = 0; i < RECLAIMED; i++)
        CHECK(goalloc_malloc(64) != NULL);
    (void)raise(SIGSTOP);
    return 0;
}

static void objects_of_a_dead_reclaim_session_are_freed_without_delaying_others(void **state)
{
    const fixture *f = *state;
    pid_t pid = child_start(f, own_many, NULL);
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Ping ping = GOALLOCD__PING__INIT;
    int fd = raw_connect(f);
    double start;
    double worst = 0;
    goalloc_stats_t stats = { .live_objects = 1 };

    wait_for_stop(pid);
    fixture_stats(f, &stats);
    assert_int_equal(stats.live_objects, RECLAIMED);
    request.id = 1;
    request.op_case = GOALLOCD__REQUEST__OP_PING;
    request.ping = &ping;
    (void)kill(pid, SIGKILL);
    start = now_ms();
    while (now_ms() - start < 100) {
        double before = now_ms();
        Goallocd__Reply *reply = raw_call(fd, &request);

        assert_non_null(reply);
        goallocd__reply__free_unpacked(reply, NULL);
        worst = now_ms() - before > worst ? now_ms() - before : worst;
    }
    (void)close(fd);
    (void)child_wait(pid);
    (void)printf("worst round trip of another client meanwhile: %.2f ms\n", worst);
    assert_true(fixture_is_clean(f, 0));
}

/* --- stopped --- */

static int hold_much(const fixture *f, void *arg)
{
    void **array;

    (void)arg;
    must_attach(f, 0);
    array = goalloc_malloc(2000 * sizeof(*array));
    for (int i = 0; i < 2000; i++)
        CHECK((array[i] = goalloc_malloc((size_t)i * 20)) != NULL);
    CHECK(goalloc_root_set("array", array) == 0);
    (void)raise(SIGSTOP);
    for (int i = 0; i < 2000; i++) /* the others have freed them all */
        CHECK(goalloc_usable_size(array[i]) == 0);
    for (int i = 0; i < 2000; i++)
        CHECK(goalloc_malloc((size_t)i * 20) != NULL);
    return goalloc_trim();
}

static int work_beside_a_stopped_one(const fixture *f, void *arg)
{
    goalloc_stats_t stats = { .struct_size = sizeof(stats) };
    void *p;
    void **array;

    (void)arg;
    must_attach(f, 0);
    CHECK(goalloc_root_get("array", &p) == 0);
    array = p;
    for (int i = 0; i < 2000; i++) {
        CHECK(goalloc_free_checked(array[i]) == 0);
        CHECK((p = goalloc_malloc((size_t)i * 20)) != NULL);
        goalloc_free(p);
    }
    CHECK(goalloc_trim() == 0 && goalloc_stats(&stats) == 0);
    return goalloc_detach();
}

static void stopped_worker_holds_up_nobody(void **state)
{
    const fixture *f = *state;
    static const char *const trim[] = { "trim", NULL };
    static const char *const scavenge[] = { "scavenge", NULL };
    char out[4096];
    pid_t pid = child_start(f, hold_much, NULL);

    wait_for_stop(pid);
    for (int i = 0; i < 4; i++) { /* notices that it does not read; the daemon answers one a second */
        assert_int_equal(fixture_ctl(f, trim, out, sizeof(out)), 0);
        assert_int_equal(fixture_ctl(f, scavenge, out, sizeof(out)), 0);
    }
    assert_int_equal(child_run(f, work_beside_a_stopped_one, NULL), 0);
    (void)kill(pid, SIGCONT);
    assert_int_equal(child_wait(pid), 0);
    assert_true(fixture_is_clean(f, 2001));
}

/* --- fork and its kin --- */

static void use_both(void **mine, void **others, int n)
{
    for (int i = 0; i < n; i++) {
        CHECK((mine[i] = goalloc_malloc(50 + (size_t)i)) != NULL);
        memset(mine[i], i, 50);
    }
    for (int i = 0; others != NULL && i < n; i++) {
        CHECK(*(unsigned char *)others[i] == (unsigned char)i);
        CHECK(goalloc_free_checked(others[i]) == 0);
    }
}

/* Parent and child allocate and free each other's; then one of them dies first. */
static int fork_and_die(const fixture *f, void *arg)
{
    bool parent_first = *(int *)arg != 0;
    void ***shared;
    int fds[2];
    char c;
    pid_t parent = getpid();
    pid_t pid;

    must_attach(f, 0);
    shared = goalloc_calloc(2, sizeof(*shared));
    for (int i = 0; i < 2; i++)
        CHECK((shared[i] = goalloc_calloc(1000, sizeof(void *))) != NULL);
    use_both(shared[0], NULL, 1000); /* the parent's, before the fork */
    CHECK(pipe(fds) == 0);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        use_both(shared[1], shared[0], 1000);
        CHECK(write(fds[1], "x", 1) == 1);
        while (parent_first && getppid() == parent) /* until it is gone */
            (void)usleep(1000);
        use_both(shared[0], NULL, 1000);
        for (int i = 0; i < 1000; i++)
            CHECK(goalloc_free_checked(shared[0][i]) == 0);
        if (parent_first) {
            for (int i = 0; i < 2; i++)
                goalloc_free(shared[i]);
            goalloc_free(shared);
        }
        _exit(0);
    }
    CHECK(read(fds[0], &c, 1) == 1);
    for (int i = 0; i < 1000; i++)
        CHECK(goalloc_free_checked(shared[1][i]) == 0);
    if (parent_first)
        (void)raise(SIGKILL);
    CHECK(child_wait(pid) == 0);
    CHECK(goalloc_malloc(10) != NULL);
    for (int i = 0; i < 2; i++)
        goalloc_free(shared[i]);
    goalloc_free(shared);
    return 0;
}

static void parent_and_child_free_each_others_and_die_in_either_order(void **state)
{
    const fixture *f = *state;
    int parent_first = 0;

    assert_int_equal(child_run(f, fork_and_die, &parent_first), 0);
    assert_true(fixture_is_clean(f, 1));
    parent_first = 1;
    assert_int_equal(child_run(f, fork_and_die, &parent_first), 1000 + SIGKILL);
    assert_true(fixture_is_clean(f, 1));
}

/* Start programs in all ways while holding the heap; it goes on as if nothing had happened. */
static int spawn_things(const fixture *f, void *arg)
{
    char *const argv[] = { (char *)(uintptr_t)"true", NULL };
    void *objects[3000];

    (void)arg;
    must_attach(f, 0);
    for (int i = 0; i < 3000; i++) {
        pid_t pid = -1;

        CHECK((objects[i] = goalloc_malloc(100)) != NULL);
        if (i % 100 == 0) {
            CHECK(posix_spawn(&pid, "/bin/true", NULL, NULL, argv, environ) == 0);
            CHECK(child_wait(pid) == 0);
        } else if (i % 100 == 33) {
            pid = vfork();
            if (pid == 0) {
                (void)execv("/bin/true", argv);
                _exit(1);
            }
            CHECK(child_wait(pid) == 0);
        } else if (i % 100 == 66) {
            pid = fork();
            if (pid == 0) {
                (void)execv("/bin/true", argv);
                _exit(1);
            }
            CHECK(child_wait(pid) == 0);
        }
    }
    for (int i = 0; i < 3000; i++)
        CHECK(goalloc_free_checked(objects[i]) == 0);
    return goalloc_detach();
}

static void process_that_starts_others_keeps_its_heap(void **state)
{
    const fixture *f = *state;

    assert_int_equal(child_run(f, spawn_things, NULL), 0);
    assert_true(fixture_is_clean(f, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(leases_end_whichever_way_a_worker_goes),
        FIXTURE_TEST(what_a_dead_worker_left_behind_is_shown),
        FIXTURE_TEST(objects_of_a_dead_reclaim_session_are_freed_without_delaying_others),
        FIXTURE_TEST(stopped_worker_holds_up_nobody),
        FIXTURE_TEST(parent_and_child_free_each_others_and_die_in_either_order),
        FIXTURE_TEST(process_that_starts_others_keeps_its_heap),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
