/*
 * Attaches that meet a daemon which is on its way down or up, and who attaches by himself: a process that never was
 * attached, and a forked child; not one that has left.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "tests/support/waits.h"

#define TIMEOUT_MS 10000

/* --- a daemon that dies between connect and reply --- */

#define ACCEPTED 5

static int attach_and_allocate(const fixture *f, void *arg)
{
    void *p;

    (void)arg;
    waits_start(f, TIMEOUT_MS);
    CHECK((p = waits_ask()) != NULL);
    goalloc_free(p);
    return 0;
}

/* Stops before it forks. */
static int fork_and_allocate(const fixture *f, void *arg)
{
    pid_t pid;

    (void)arg;
    waits_start(f, TIMEOUT_MS);
    (void)raise(SIGSTOP);
    pid = fork();
    if (pid == 0) {
        void *p;

        waits_not_for_ever();
        CHECK((p = waits_ask()) != NULL);
        goalloc_free(p);
        _exit(0);
    }
    waits_child_ends_well(pid);
    return 0;
}

static int listen_as_the_daemon(const fixture *f)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", f->socket);
    (void)unlink(f->socket);
    assert_true(fd >= 0 && bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) == 0 && listen(fd, 8) == 0);
    return fd;
}

/* Accept, and end: some connections at once, some when they have asked, the last with the listener. */
static void lose_those_who_come(const fixture *f, int listener)
{
    for (int i = 0; i < ACCEPTED; i++) {
        struct pollfd come = { .fd = listener, .events = POLLIN };
        char request[64];
        int fd;

        assert_int_equal(poll(&come, 1, TIMEOUT_MS), 1);
        fd = accept(listener, NULL, NULL);
        assert_true(fd >= 0);
        if (i % 2 == 0)
            assert_true(read(fd, request, sizeof(request)) > 0);
        if (i == ACCEPTED - 1)
            (void)unlink(f->socket);
        (void)close(fd);
    }
    (void)close(listener);
}

/* A listener in a child would stay one. */
typedef struct other_process {
    child_fn fn;
    int listener;
} other_process;

static int without_listener(const fixture *f, void *arg)
{
    const other_process *other = arg;

    (void)close(other->listener);
    return other->fn(f, NULL);
}

static void attach_that_loses_its_daemon_asks_the_next_one(void **state)
{
    fixture *f = *state;
    other_process other = { attach_and_allocate, -1 };
    pid_t pid;

    fixture_kill(f);
    other.listener = listen_as_the_daemon(f);
    pid = child_start(f, without_listener, &other);
    lose_those_who_come(f, other.listener);
    (void)usleep(50000);
    fixture_restart(f, NULL);
    assert_int_equal(child_wait(pid), 0);
    assert_true(fixture_is_clean(f, 0));
}

static void forked_child_that_loses_its_daemon_asks_the_next_one(void **state)
{
    fixture *f = *state;
    pid_t pid = child_start_stopped(f, fork_and_allocate, NULL);
    int listener;

    fixture_kill(f);
    listener = listen_as_the_daemon(f);
    (void)kill(pid, SIGCONT);
    lose_those_who_come(f, listener);
    (void)usleep(50000);
    fixture_restart(f, NULL);
    assert_int_equal(child_wait(pid), 0);
    assert_true(fixture_is_clean(f, 0));
}

/* --- a storm --- */

#define SERVERS 3
#define AT_ONCE 4 /* children of each */
#define STORM_MS 4000

/* Stop when attached; then fork children that allocate once, as fast as they end. */
static int serve_by_forking(const fixture *f, void *arg)
{
    int64_t end;
    pid_t pids[AT_ONCE] = { 0 };
    unsigned nforks = 0;

    (void)arg;
    waits_start(f, TIMEOUT_MS);
    (void)raise(SIGSTOP);
    end = waits_now_ms() + STORM_MS;
    for (; waits_now_ms() < end; nforks++) {
        pid_t *pid = &pids[nforks % AT_ONCE];

        if (*pid != 0)
            waits_child_ends_well(*pid);
        *pid = fork();
        if (*pid == 0) {
            void *p = goalloc_malloc(100);

            if (p == NULL)
                (void)fprintf(stderr, "malloc in a child: %s\n", goalloc_strerror(errno));
            CHECK(p != NULL);
            goalloc_free(p);
            _exit(0);
        }
    }
    for (size_t i = 0; i < AT_ONCE; i++)
        waits_child_ends_well(pids[i]);
    (void)printf("%u children\n", nforks);
    (void)fflush(stdout);
    return 0;
}

static void child_that_allocates_once_never_fails_while_daemons_are_killed(void **state)
{
    fixture *f = *state;
    uint64_t seed = test_seed();
    pid_t pids[SERVERS];
    int64_t end;
    int nkills = 0;

    for (size_t i = 0; i < SERVERS; i++)
        pids[i] = child_start(f, serve_by_forking, NULL);
    for (size_t i = 0; i < SERVERS; i++) {
        assert_true(child_stops(pids[i]));
        (void)kill(pids[i], SIGCONT);
    }
    end = waits_now_ms() + STORM_MS;
    for (; waits_now_ms() < end; nkills++) {
        (void)usleep(10000 + (useconds_t)(test_random(&seed) % 60000));
        fixture_kill(f);
        (void)usleep((useconds_t)(test_random(&seed) % 5000));
        fixture_restart(f, NULL);
    }
    for (size_t i = 0; i < SERVERS; i++)
        assert_int_equal(child_wait(pids[i]), 0);
    (void)printf("%d daemons\n", nkills);
    f->nfds += 8;
    assert_true(fixture_is_clean(f, 0));
}

/* --- who attaches by himself --- */

static void check_not_attached(void)
{
    goalloc_stats_t stats = { .struct_size = sizeof(stats) };
    void *p;

    CHECK(goalloc_malloc(100) == NULL && errno == ENOTCONN);
    CHECK(waits_ask() == NULL && errno == ENOTCONN);
    CHECK(goalloc_malloc_noscan(1) == NULL && errno == ENOTCONN);
    CHECK(goalloc_root_get("root", &p) == -ENOTCONN);
    CHECK(goalloc_stats(&stats) == -ENOTCONN);
    CHECK(goalloc_trim() == -ENOTCONN);
    CHECK(goalloc_detach() == -ENOTCONN);
}

static void check_attached(void)
{
    void *p = goalloc_malloc(100);

    CHECK(p != NULL && goalloc_contains(p));
    goalloc_free(p);
}

static int leave_and_come_again(const fixture *f, void *arg)
{
    pid_t pid;

    (void)arg;
    CHECK(setenv("GOALLOC_SOCKET", f->socket, 1) == 0);
    waits_start(f, TIMEOUT_MS);
    check_attached();
    CHECK(goalloc_detach() == 0);
    check_not_attached();
    pid = fork();
    if (pid == 0) {
        waits_not_for_ever();
        check_not_attached();
        CHECK(waits_attach(f, TIMEOUT_MS) == 0);
        check_attached();
        _exit(0);
    }
    waits_child_ends_well(pid);
    check_not_attached();
    CHECK(goalloc_attach(NULL) == 0);
    check_attached();
    CHECK(goalloc_detach() == 0);
    check_not_attached();
    return 0;
}

static void process_that_has_left_stays_away_until_it_attaches(void **state)
{
    fixture *f = *state;

    assert_int_equal(child_run(f, leave_and_come_again, NULL), 0);
    assert_true(fixture_is_clean(f, 0));
}

/* A child that leaves does so for itself; its child has left, too. */
static int leave_in_a_child(const fixture *f, void *arg)
{
    pid_t pid;

    (void)arg;
    CHECK(setenv("GOALLOC_SOCKET", f->socket, 1) == 0);
    waits_not_for_ever();
    pid = fork(); /* before anything was attached */
    if (pid == 0) {
        waits_not_for_ever();
        check_attached();
        CHECK(goalloc_detach() == 0);
        pid = fork();
        if (pid == 0) {
            waits_not_for_ever();
            check_not_attached();
            _exit(0);
        }
        waits_child_ends_well(pid);
        _exit(0);
    }
    waits_child_ends_well(pid);
    check_attached(); /* by itself */
    pid = fork();
    if (pid == 0) {
        waits_not_for_ever();
        CHECK(goalloc_detach() == 0); /* before it has a session of its own */
        check_not_attached();
        _exit(0);
    }
    waits_child_ends_well(pid);
    check_attached();
    return 0;
}

static void process_that_never_was_attached_attaches_by_itself(void **state)
{
    fixture *f = *state;

    assert_int_equal(child_run(f, leave_in_a_child, NULL), 0);
    assert_true(fixture_is_clean(f, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST_KEPT(attach_that_loses_its_daemon_asks_the_next_one),
        FIXTURE_TEST_KEPT(forked_child_that_loses_its_daemon_asks_the_next_one),
        FIXTURE_TEST_KEPT(child_that_allocates_once_never_fails_while_daemons_are_killed),
        FIXTURE_TEST_KEPT(process_that_has_left_stays_away_until_it_attaches),
        FIXTURE_TEST_KEPT(process_that_never_was_attached_attaches_by_itself),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
