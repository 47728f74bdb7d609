/*
 * goalloc_collect(), what processes declare for it, and goallocd-collector as a service, with a real daemon and workers
 * that are killed.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "tests/support/datagrams.h"
#include "tests/support/waits.h"

#define NODES 100  /* that a worker leaves and a root reaches */
#define GARBAGE 57 /* and that nobody does */

typedef struct node {
    struct node *next;
    uint64_t number;
} node;

/* A chain of new objects; the first one. */
static node *make_chain(unsigned n)
{
    node *first = NULL;

    for (unsigned i = 0; i < n; i++) {
        node *new = goalloc_malloc(sizeof(*new));

        CHECK(new != NULL);
        new->next = first;
        new->number = i;
        first = new;
    }
    return first;
}

/* A worker: a root with a chain, a chain that nobody has, and then it is killed. */
static int leave_garbage(const fixture *f, void *arg)
{
    must_attach(f, 0);
    CHECK(goalloc_root_set(arg, make_chain(NODES)) == 0);
    CHECK(make_chain(GARBAGE) != NULL);
    (void)raise(SIGKILL);
    return 1;
}

static void kill_a_worker(const fixture *f, char *root)
{
    assert_int_equal(child_run(f, leave_garbage, root), 1000 + SIGKILL);
}

static bool chain_is_whole(const char *root)
{
    void *p;
    unsigned n = 0;

    if (goalloc_root_get(root, &p) != 0)
        return false;
    for (const node *at = p; at != NULL; at = at->next, n++) {
        if (at->number != NODES - 1 - n)
            return false;
    }
    return n == NODES;
}

/* As goalloc_collect(), with time enough for a machine that is busy. */
static int collect(uint32_t flags, goalloc_collect_result *ret)
{
    goalloc_collect_options options = GOALLOC_COLLECT_OPTIONS_INIT;
    int r;

    options.flags = flags;
    options.max_pause_us = 10000000;
    *ret = (goalloc_collect_result){ .struct_size = sizeof(*ret) };
    r = goalloc_collect(&options, ret);
    if (r < 0)
        print_message("collect: %d (%s), pid %d\n", r, goalloc_strerror(r), ret->blocking_pid);
    return r;
}

/* --- goalloc_collect --- */

static int collect_after_a_death(const fixture *f, void *arg)
{
    goalloc_collect_result result;

    (void)arg;
    must_attach(f, 0);
    CHECK(collect(GOALLOC_COLLECT_REPORT, &result) == 0);
    CHECK(result.garbage_objects == GARBAGE && result.freed_objects == 0 && result.garbage_bytes == GARBAGE * 16);
    CHECK(collect(0, &result) == 0);
    CHECK(result.garbage_objects == GARBAGE && result.freed_objects == GARBAGE && result.blocking_pid == 0);
    CHECK(result.pause_us > 0); /* this process was stopped */
    CHECK(chain_is_whole("kept"));
    CHECK(collect(0, &result) == 0 && result.garbage_objects == 0);
    CHECK(goalloc_collect(NULL, NULL) <= 0);
    return 0;
}

static void collect_frees_exactly_what_a_dead_worker_has_left(void **state)
{
    const fixture *f = *state;

    kill_a_worker(f, (char[]){ "kept" });
    assert_int_equal(child_run(f, collect_after_a_death, NULL), 0);
    assert_true(fixture_is_clean(f, NODES));
}

static int collect_what_this_holds(const fixture *f, void *arg)
{
    goalloc_collect_result result;
    node *volatile held;
    node *volatile gone;

    (void)arg;
    must_attach(f, 0);
    held = make_chain(3);
    gone = make_chain(5);
    gone = (node *)(uintptr_t) ~(uintptr_t)gone; /* as who hides a pointer */
    CHECK(collect(0, &result) == 0);
    CHECK(result.garbage_objects <= 5 && result.freed_objects == 0); /* this session leases their span */
    CHECK(held->next->next->number == 0);
    CHECK(collect(GOALLOC_COLLECT_ALL, &result) == 0); /* no thread is in the library but the one that waits for it */
    CHECK(result.freed_objects == result.garbage_objects && result.freed_objects <= 5);
    CHECK(held->next->next->number == 0 && held->next->next->next == NULL);
    (void)gone;
    return 0;
}

static void collect_keeps_what_the_caller_holds(void **state)
{
    const fixture *f = *state;

    assert_int_equal(child_run(f, collect_what_this_holds, NULL), 0);
}

static int collect_badly(const fixture *f, void *arg)
{
    goalloc_collect_options options = GOALLOC_COLLECT_OPTIONS_INIT;
    goalloc_collect_result result = { .struct_size = 0 };
    char script[128];
    int fd;

    (void)arg;
    CHECK(goalloc_collect(&options, &result) == -EINVAL);
    options.flags = 0x80000000u;
    CHECK(goalloc_collect(&options, NULL) == -EINVAL);
    options = (goalloc_collect_options){ .struct_size = 3 };
    CHECK(goalloc_collect(&options, NULL) == -EINVAL);
    must_attach(f, 0);
    CHECK(setenv("GOALLOC_COLLECTOR", "/nonexistent/collector", 1) == 0);
    CHECK(collect(0, &result) == -ENOSYS);
    CHECK(setenv("GOALLOC_COLLECTOR", "/bin/true", 1) == 0); /* it ends without an answer */
    CHECK(collect(0, &result) == -EIO && result.freed_objects == 0);
    (void)snprintf(script, sizeof(script), "%s/no-program", f->dir);
    fd = open(script, O_WRONLY | O_CREAT | O_CLOEXEC, 0755);
    CHECK(fd >= 0 &&
          write(fd,
                "\x7f"
                "ELF",
                4) == 4 &&
          close(fd) == 0);
    CHECK(setenv("GOALLOC_COLLECTOR", script, 1) == 0);
    CHECK(collect(0, &result) < 0);
    CHECK(unlink(script) == 0 && unsetenv("GOALLOC_COLLECTOR") == 0);
    (void)signal(SIGCHLD, SIG_IGN); /* nobody is there to be waited for */
    CHECK(collect(0, &result) == 0);
    CHECK(goalloc_detach() == 0);
    CHECK(collect(0, &result) == -ENOTCONN);
    return 0;
}

static void collect_without_options_or_collector_says_so(void **state)
{
    const fixture *f = *state;

    assert_int_equal(child_run(f, collect_badly, NULL), 0);
    assert_true(fixture_is_clean(f, 0));
}

/* --- what processes declare --- */

/* A process that says by a pipe that it is ready, and lives until it is killed. */
typedef struct worker {
    pid_t pid;
    int said;
} worker;

static worker start_worker(const fixture *f, void (*run)(const fixture *f))
{
    int fds[2];
    worker w;
    char c;

    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    w = (worker){ fork(), fds[0] };
    if (w.pid == 0) {
        waits_not_for_ever();
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        run(f);
        CHECK(write(fds[1], "r", 1) == 1);
        for (;;)
            (void)pause();
    }
    (void)close(fds[1]);
    assert_int_equal(read(w.said, &c, 1), 1);
    return w;
}

static void kill_worker(const worker *w)
{
    assert_int_equal(kill(w->pid, SIGKILL), 0);
    assert_int_equal(child_wait(w->pid), 1000 + SIGKILL);
    (void)close(w->said);
}

static void attach_opaque(const fixture *f)
{
    must_attach(f, GOALLOC_ATTACH_OPAQUE);
}

/* Its child has not called the library: its memory is its parent's. */
static void fork_opaque(const fixture *f)
{
    pid_t pid;

    must_attach(f, GOALLOC_ATTACH_OPAQUE);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)pause();
        _exit(0);
    }
}

static int collect_beside_opaque(const fixture *f, void *arg)
{
    const worker *w = arg;
    goalloc_collect_result result;

    must_attach(f, 0);
    CHECK(collect(0, &result) == -EOPNOTSUPP);
    CHECK(result.blocking_pid == w->pid || w->said < 0);
    CHECK(result.garbage_objects == 0 && result.freed_objects == 0);
    return 0;
}

static void collect_beside_an_opaque_process_frees_nothing_and_names_it(void **state)
{
    const fixture *f = *state;
    worker w;

    kill_a_worker(f, (char[]){ "kept" });
    w = start_worker(f, attach_opaque);
    assert_int_equal(child_run(f, collect_beside_opaque, &w), 0);
    kill_worker(&w);
    w = start_worker(f, fork_opaque);
    assert_int_equal(child_run(f, collect_beside_opaque, &(worker){ w.pid, -1 }), 0);
    kill_worker(&w);
    (void)fixture_live_with(f, 0);
    assert_int_equal(child_run(f, collect_after_a_death, NULL), 0);
    assert_true(fixture_is_clean(f, NODES));
}

static void lose_objects(const fixture *f)
{
    must_attach(f, 0);
    for (int i = 0; i < GARBAGE; i++)
        CHECK(goalloc_malloc(16) != NULL);
}

static int collect_leased(const fixture *f, void *arg)
{
    goalloc_collect_result result;

    (void)arg;
    must_attach(f, 0);
    CHECK(collect(0, &result) == 0);
    CHECK(result.garbage_objects >= GARBAGE - 5 && result.freed_objects == 0); /* a stale word may hold some */
    CHECK(collect(GOALLOC_COLLECT_ALL, &result) == 0);
    CHECK(result.freed_objects >= GARBAGE - 5 && result.freed_objects <= GARBAGE);
    return 0;
}

static void collect_of_all_frees_what_others_lease_and_nobody_reaches(void **state)
{
    const fixture *f = *state;
    worker w = start_worker(f, lose_objects);

    assert_int_equal(child_run(f, collect_leased, NULL), 0);
    kill_worker(&w);
}

/* Three pointers in memory of malloc(): in what is declared, in what was declared and is not, in neither. */
static void hold_in_declared(const fixture *f)
{
    void **declared = calloc(1000, sizeof(void *));
    void **removed = calloc(1000, sizeof(void *));
    void **neither = calloc(1000, sizeof(void *));

    CHECK(declared != NULL && removed != NULL && neither != NULL);
    CHECK(goalloc_private_roots(removed, 8000) == 0); /* before the attach, too */
    must_attach(f, 0);
    CHECK(goalloc_private_roots(declared, 8) == 0 && goalloc_private_roots(declared, 8000) == 0);
    CHECK(goalloc_private_roots_remove(removed) == 0 && goalloc_private_roots_remove(removed) == -ENOENT);
    declared[500] = make_chain(10);
    removed[500] = make_chain(20);
    neither[500] = make_chain(40);
    CHECK(goalloc_trim() == 0); /* so that the registers and the stack have had something else since */
}

static int collect_beside_declared(const fixture *f, void *arg)
{
    goalloc_collect_result result;

    (void)arg;
    must_attach(f, 0);
    CHECK(collect(GOALLOC_COLLECT_REPORT, &result) == 0);
    (void)fprintf(stderr, "garbage: %llu\n", (unsigned long long)result.garbage_objects);
    CHECK(result.garbage_objects >= 50 && result.garbage_objects <= 60); /* stale words of a stack may hold the rest */
    return 0;
}

static void collect_beside_declared_roots_looks_there_alone(void **state)
{
    const fixture *f = *state;
    worker w = start_worker(f, hold_in_declared);

    assert_int_equal(child_run(f, collect_beside_declared, NULL), 0);
    kill_worker(&w);
}

static int declare_much(const fixture *f, void *arg)
{
    static char memory[3000];
    pid_t pid;

    (void)arg;
    CHECK(goalloc_private_roots(NULL, 8) == -EINVAL && goalloc_private_roots(memory, 0) == -EINVAL);
    CHECK(goalloc_private_roots(memory, SIZE_MAX) == -EINVAL);
    CHECK(goalloc_private_roots_remove(memory) == -ENOENT);
    for (size_t i = 0; i < 2048; i++)
        CHECK(goalloc_private_roots(memory + i, 8) == 0);
    CHECK(goalloc_private_roots(memory + 2048, 8) == -ENOSPC);
    CHECK(goalloc_private_roots(memory + 7, 16) == 0);
    must_attach(f, 0);
    CHECK(goalloc_detach() == 0);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        CHECK(goalloc_private_roots_remove(memory + 7) == 0);
        CHECK(goalloc_private_roots(memory + 2048, 8) == 0);
        _exit(0);
    }
    CHECK(child_wait(pid) == 0);
    CHECK(goalloc_private_roots(memory + 2048, 8) == -ENOSPC); /* the child's list is its own */
    for (size_t i = 0; i < 2048; i++)
        CHECK(goalloc_private_roots_remove(memory + i) == 0);
    return 0;
}

static void private_roots_are_as_many_as_promised_and_forked(void **state)
{
    assert_int_equal(child_run(*state, declare_much, NULL), 0);
}

/* --- the service --- */

/* Of the child that becomes the service: its stderr is the journal's, as far as it can tell. */
static void speak_to_journal(const char *path)
{
    char stream[64];
    struct stat st;

    if (fstat(STDERR_FILENO, &st) == 0)
        (void)snprintf(stream, sizeof(stream), "%llu:%llu", (unsigned long long)st.st_dev,
                       (unsigned long long)st.st_ino);
    (void)setenv("JOURNAL_STREAM", stream, 1);
    (void)setenv("GOALLOC_JOURNAL_SOCKET", path, 1);
}

/* journal: the socket that its lines go to; NULL: stderr. */
static pid_t start_service_with(const fixture *f, const char *journal)
{
    pid_t pid = fork();

    if (pid == 0) {
        if (journal != NULL)
            speak_to_journal(journal);
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)execl(GOALLOCD_COLLECTOR_PATH, GOALLOCD_COLLECTOR_PATH, "--socket", f->socket, "--delay", "50ms",
                    "--interval", "100ms", "--max-pause", "10s", NULL);
        _exit(127);
    }
    assert_true(pid > 0);
    return pid;
}

static pid_t start_service(const fixture *f)
{
    return start_service_with(f, NULL);
}

static void stop_service(pid_t pid)
{
    assert_int_equal(kill(pid, SIGTERM), 0);
    assert_int_equal(child_wait(pid), 0);
}

static void await_live(const fixture *f, uint64_t nobjects)
{
    goalloc_stats_t stats = { .struct_size = sizeof(stats) };

    for (int i = 0; i < 1000; i++) {
        fixture_stats(f, &stats);
        if (stats.live_objects == nobjects)
            return;
        waits_sleep_ms(20);
    }
    fail_msg("%llu objects live, not %llu", (unsigned long long)stats.live_objects, (unsigned long long)nobjects);
}

static int check_chain(const fixture *f, void *arg)
{
    must_attach(f, 0);
    CHECK(chain_is_whole(arg));
    return 0;
}

static void service_frees_what_the_dead_leave_over_daemons(void **state)
{
    fixture *f = *state;
    pid_t service;

    kill_a_worker(f, (char[]){ "before" }); /* nobody has told the service of it */
    service = start_service(f);
    await_live(f, NODES);
    kill_a_worker(f, (char[]){ "while" });
    await_live(f, 2 * NODES);
    fixture_kill(f);
    fixture_restart(f, NULL);
    kill_a_worker(f, (char[]){ "after" });
    await_live(f, 3 * NODES);
    assert_int_equal(child_run(f, check_chain, (char[]){ "before" }), 0);
    assert_int_equal(child_run(f, check_chain, (char[]){ "while" }), 0);
    assert_int_equal(child_run(f, check_chain, (char[]){ "after" }), 0);
    stop_service(service);
    assert_true(fixture_is_clean(f, 3 * NODES));
}

static void *look_at_chain(void *arg)
{
    for (;;) {
        unsigned n = 0;

        for (const node *at = arg; at != NULL; at = at->next, n++)
            CHECK(at->number == NODES - 1 - n);
        CHECK(n == NODES);
        waits_sleep_ms(1);
    }
    return NULL;
}

/* One that lives on and works while others die. */
static void work_on(const fixture *f)
{
    pthread_t thread;
    node *held;

    must_attach(f, 0);
    held = make_chain(NODES);
    CHECK(goalloc_trim() == 0); /* its spans are nobody's now, and it holds what is there */
    CHECK(pthread_create(&thread, NULL, look_at_chain, held) == 0);
}

static void service_leaves_survivors_what_they_hold(void **state)
{
    const fixture *f = *state;
    worker w = start_worker(f, work_on);
    pid_t service = start_service(f);

    for (int i = 0; i < 3; i++) {
        char root[16];

        (void)snprintf(root, sizeof(root), "root%d", i);
        kill_a_worker(f, root);
    }
    await_live(f, 4 * NODES);
    kill_worker(&w); /* what it held is garbage now, in spans where others have died before */
    await_live(f, 3 * NODES);
    stop_service(service);
    assert_true(fixture_is_clean(f, 3 * NODES));
}

static void service_without_a_daemon_waits_for_one(void **state)
{
    fixture f;
    pid_t service;

    (void)state;
    fixture_make_place(&f);
    service = start_service(&f);
    waits_sleep_ms(100);
    stop_service(service);
}

/* A line of that event comes, with its number. */
static void await_line(int journal, const char *event, const char *message_id)
{
    static datagram d;

    do {
        assert_int_equal(journal_next(journal, 20000, &d), 1);
        assert_true(datagram_has(&d, "SYSLOG_IDENTIFIER", "goallocd-collector"));
    } while (!datagram_has(&d, "GOALLOC_EVENT", event));
    assert_string_equal(datagram_value(&d, "MESSAGE_ID"), message_id);
}

static void service_says_to_the_journal_what_it_does(void **state)
{
    char path[96];
    fixture f;
    pid_t service;
    int journal;

    (void)state;
    fixture_make_place(&f);
    (void)snprintf(path, sizeof(path), "%s/journal", f.dir);
    journal = journal_make(path);
    assert_true(journal >= 0);
    service = start_service_with(&f, path);
    await_line(journal, "collector-unattached", "4fea9b0179314e17b99e4c6e3cd3d33d");
    fixture_restart(&f, NULL);
    await_line(journal, "collector-attached", "c3ed222448334cf9b67f727a9d1270ad");
    kill_a_worker(&f, (char[]){ "root" });
    await_line(journal, "collected", "c5e685e116ed456da7bd8858d743e403");
    assert_true(fixture_stop(&f));
    await_line(journal, "collector-heap-gone", "2ee844769d93464a9abfe0a7c14a5a1b");
    stop_service(service);
    (void)close(journal);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(collect_frees_exactly_what_a_dead_worker_has_left),
        FIXTURE_TEST(collect_keeps_what_the_caller_holds),
        FIXTURE_TEST(collect_without_options_or_collector_says_so),
        FIXTURE_TEST(collect_beside_an_opaque_process_frees_nothing_and_names_it),
        FIXTURE_TEST(collect_of_all_frees_what_others_lease_and_nobody_reaches),
        FIXTURE_TEST(collect_beside_declared_roots_looks_there_alone),
        FIXTURE_TEST(private_roots_are_as_many_as_promised_and_forked),
        FIXTURE_TEST_KEPT(service_frees_what_the_dead_leave_over_daemons),
        FIXTURE_TEST(service_leaves_survivors_what_they_hold),
        cmocka_unit_test(service_without_a_daemon_waits_for_one),
        cmocka_unit_test(service_says_to_the_journal_what_it_does),
    };

    return cmocka_run_group_tests_name("the collector as others meet it", tests, NULL, NULL);
}
