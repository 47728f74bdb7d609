/*
 * What the daemon tells systemd while it serves: that its loop turns, and how much lives.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#include "tests/support/attach.h"
#include "tests/support/systemd.h"

#define WATCHDOG_USEC "400000"
#define BEAT_MS       100 /* a quarter */
#define OBJECT_BYTES  (20u << 20)

static systemd sd;

/* The daemon is started by the test, so that it can say what systemd wants. */
static int setup(void **state)
{
    static fixture f;

    fixture_make_place(&f);
    systemd_start(&sd, &f);
    sd.watchdog_usec = WATCHDOG_USEC;
    *state = &f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    bool good = fixture_stop(f);

    systemd_end(&sd);
    return good ? 0 : -1;
}

static void start(fixture *f)
{
    fixture_launch(f);
    assert_true(systemd_await(&sd, "READY=1"));
}

static int hold_object(const fixture *f, void *arg)
{
    const int *fds = arg; /* a byte goes out when the object is there, and one comes in when it is to go */
    char *p;
    char c = 'x';

    must_attach(f, 0);
    CHECK((p = goalloc_malloc(OBJECT_BYTES)) != NULL);
    CHECK(write(fds[1], &c, 1) == 1 && read(fds[2], &c, 1) == 1);
    goalloc_free(p);
    CHECK(goalloc_detach() == 0);
    return 0;
}

static void status_tells_sessions_and_what_lives(void **state)
{
    fixture *f = *state;
    int fds[4];
    pid_t child;
    char c;

    assert_int_equal(pipe(fds) | pipe(fds + 2), 0);
    start(f);
    assert_true(systemd_await(&sd, "STATUS=0 sessions, 0 bytes live"));
    child = child_start(f, hold_object, fds);
    assert_int_equal(read(fds[0], &c, 1), 1);
    assert_true(systemd_await(&sd, "STATUS=1 session, 20 MiB live"));
    assert_int_equal(write(fds[3], "x", 1), 1);
    assert_int_equal(child_wait(child), 0);
    assert_true(systemd_await(&sd, "STATUS=0 sessions, 0 bytes live"));
    for (int i = 0; i < 4; i++)
        (void)close(fds[i]);
}

static void loop_that_nobody_needs_turns_all_the_same(void **state)
{
    start(*state);
    for (int i = 0; i < 3; i++)
        assert_true(systemd_await(&sd, "WATCHDOG=1"));
}

static int ask_without_end(const fixture *f, void *arg)
{
    goalloc_stats_t stats;

    (void)arg;
    while (getppid() != 1)
        fixture_stats(f, &stats);
    return 0;
}

/* There is always a connection and a request, and often a count: the loop comes round all the same. */
static void loop_that_is_never_idle_turns(void **state)
{
    fixture *f = *state;
    pid_t children[3];

    start(f);
    for (int i = 0; i < 3; i++)
        children[i] = child_start(f, ask_without_end, NULL);
    for (int i = 0; i < 6; i++)
        assert_true(systemd_await(&sd, "WATCHDOG=1"));
    for (int i = 0; i < 3; i++) {
        assert_int_equal(kill(children[i], SIGKILL), 0);
        assert_int_equal(child_wait(children[i]), 1000 + SIGKILL);
    }
}

/* The loop's thread stands still, as in a callback that does not come back; the others, and time, go on. */
static void loop_that_stands_still_says_nothing(void **state)
{
    fixture *f = *state;
    int status;

    start(f);
    assert_true(systemd_await(&sd, "WATCHDOG=1"));
    if (ptrace(PTRACE_SEIZE, f->daemon, NULL, NULL) < 0)
        skip(); /* the system does not allow it */
    assert_int_equal(ptrace(PTRACE_INTERRUPT, f->daemon, NULL, NULL), 0);
    assert_int_equal(waitpid(f->daemon, &status, __WALL), f->daemon);
    assert_true(WIFSTOPPED(status));
    (void)systemd_count(&sd, "");
    (void)usleep(6 * BEAT_MS * 1000);
    assert_int_equal(systemd_count(&sd, ""), 0);
    assert_int_equal(ptrace(PTRACE_DETACH, f->daemon, NULL, NULL), 0);
    assert_true(systemd_await(&sd, "WATCHDOG=1"));
}

static void watchdog_of_another_process_is_not_fed(void **state)
{
    fixture *f = *state;
    char said[256];

    sd.watches_somebody_else = true;
    start(f);
    while (systemd_hear(&sd, said, sizeof(said), NULL, NULL, 5 * BEAT_MS)) /* past the first status, and some beats */
        assert_null(strstr(said, "WATCHDOG=1"));
}

/* Nobody hears what the daemon says: clients don't notice. */
static void daemon_that_nobody_hears_serves(void **state)
{
    fixture *f = *state;
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    goalloc_stats_t stats;

    start(f);
    memcpy(addr.sun_path, sd.notify_path, sizeof(addr.sun_path));
    while (sendto(fd, "full", 4, 0, (const struct sockaddr *)&addr, sizeof(addr)) == 4)
        ;
    assert_int_equal(errno, EAGAIN);
    for (int i = 0; i < 8; i++) {
        fixture_stats(f, &stats); /* within its timeout, and it is news */
        (void)usleep(BEAT_MS * 1000);
    }
    (void)usleep(1500 * 1000); /* the last count is over, and nobody asks for another one */
    (void)systemd_count(&sd, "");
    (void)close(fd);
    assert_true(systemd_await(&sd, "WATCHDOG=1"));
    assert_true(systemd_await(&sd, "STATUS=")); /* what was not heard is said again */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(status_tells_sessions_and_what_lives, setup, teardown),
        cmocka_unit_test_setup_teardown(loop_that_nobody_needs_turns_all_the_same, setup, teardown),
        cmocka_unit_test_setup_teardown(loop_that_is_never_idle_turns, setup, teardown),
        cmocka_unit_test_setup_teardown(loop_that_stands_still_says_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(watchdog_of_another_process_is_not_fed, setup, teardown),
        cmocka_unit_test_setup_teardown(daemon_that_nobody_hears_serves, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
