/*
 * Signs of life: nobody else can make a dead process's session look alive, whatever he locks, and whatever descriptors
 * the dead process has passed on. Another client locks the byte of every session and group in spans, as it may.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "proto/fdpass.h"
#include "tests/support/rawheap.h"
#include "tests/support/waits.h"

#define WORKERS 8
#define LOCKS (SHM_SESSIONS_MAX + SHM_GROUPS_MAX)

/* A process that is told by a pipe what to do, and says by another one that it has. */
typedef struct worker {
    pid_t pid;
    int said;
} worker;

static void say_ready(int fd)
{
    CHECK(write(fd, "r", 1) == 1);
}

static worker worker_start(const fixture *f, void (*run)(const fixture *f, int say))
{
    worker w;
    int fds[2];
    char c;

    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    w.pid = fork();
    assert_true(w.pid >= 0);
    if (w.pid == 0) {
        waits_not_for_ever();
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        run(f, fds[1]);
        _exit(1);
    }
    (void)close(fds[1]);
    assert_int_equal(read(fds[0], &c, 1), 1);
    w.said = fds[0];
    return w;
}

static void worker_kill(worker *w)
{
    assert_int_equal(kill(w->pid, SIGKILL), 0);
    assert_int_equal(child_wait(w->pid), 1000 + SIGKILL);
    (void)close(w->said);
}

/* --- who does what --- */

/* A session that holds a lock on all bytes that sessions and groups have. */
static void lock_all(const fixture *f, int say)
{
    static rawheap heap;
    struct flock lock = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = LOCKS };

    rawheap_open(&heap, f, 0, "locks all");
    CHECK(fcntl(heap.fds[ATTACH_FD_SPANS], F_OFD_SETLK, &lock) == 0);
    say_ready(say);
    for (;;)
        (void)pause();
}

static void attach_and_hold(const fixture *f, int say)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;

    options.socket_path = f->socket;
    options.flags = GOALLOC_ATTACH_RECLAIM;
    options.group = "family";
    CHECK(goalloc_attach(&options) == 0);
    for (int i = 0; i < 1000; i++)
        CHECK(goalloc_malloc(100) != NULL);
    say_ready(say);
    for (;;)
        (void)pause();
}

static void attach_read_only(const fixture *f, int say)
{
    must_attach(f, GOALLOC_ATTACH_READONLY);
    say_ready(say);
    for (;;)
        (void)pause();
}

static void become_another_program(const fixture *f, int say)
{
    must_attach(f, 0);
    CHECK(goalloc_malloc(100) != NULL);
    say_ready(say);
    (void)execl("/bin/sleep", "sleep", "100", (char *)NULL);
}

/* --- one daemon --- */

static void dead_sessions_end_though_all_bytes_are_locked(void **state)
{
    const fixture *f = *state;
    worker locker = worker_start(f, lock_all);
    worker workers[WORKERS];

    for (size_t i = 0; i < WORKERS; i++)
        workers[i] = worker_start(f, i % 2 == 0 ? attach_and_hold : attach_read_only);
    for (size_t i = 0; i < WORKERS; i++)
        worker_kill(&workers[i]);
    (void)fixture_live_with(f, 1);
    worker_kill(&locker);
    assert_true(fixture_is_clean(f, 0)); /* the group has ended, too */
}

static void program_that_is_replaced_ends_its_session_though_all_bytes_are_locked(void **state)
{
    const fixture *f = *state;
    worker locker = worker_start(f, lock_all);
    worker other = worker_start(f, become_another_program);

    (void)fixture_live_with(f, 1);
    worker_kill(&other);
    worker_kill(&locker);
    assert_true(fixture_is_clean(f, 1));
}

/* Its connection is lost, and it lives: the session stays, however long. */
static void lose_connection(const fixture *f, int say)
{
    char *p;

    must_attach(f, 0);
    CHECK((p = goalloc_malloc(100)) != NULL);
    for (int fd = 3; fd < 1024; fd++) {
        if (fd != say)
            (void)close(fd);
    }
    say_ready(say);
    (void)sleep(1);
    CHECK(goalloc_free_checked(p) == 0 && waits_ask() != NULL && goalloc_detach() == 0);
    say_ready(say);
    for (;;)
        (void)pause();
}

static void process_that_lives_retains_its_session_without_descriptors(void **state)
{
    const fixture *f = *state;
    worker w = worker_start(f, lose_connection);
    goalloc_stats_t stats;
    char c;

    fixture_stats(f, &stats);
    assert_int_equal(stats.sessions, 1);
    assert_int_equal(read(w.said, &c, 1), 1);
    worker_kill(&w);
    assert_true(fixture_is_clean(f, 1));
}

/* --- descriptors that are passed on --- */

/* Attach, and send all that came to the other end of a socket. */
static int pass_on(const fixture *f, void *arg)
{
    static rawheap heap;

    rawheap_open(&heap, f, 0, "passes on");
    CHECK(fdpass_send(*(int *)arg, "x", 1, &heap.fds[ATTACH_FD_OWN], 1) == 1);
    return 0;
}

static void session_whose_signs_others_hold_ends_with_its_process(void **state)
{
    const fixture *f = *state;
    int sockets[2];
    int fds[FDPASS_MAX];
    int nfds = 0;
    char c;

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
    assert_int_equal(child_run(f, pass_on, &sockets[0]), 0);
    assert_int_equal(fdpass_recv(sockets[1], &c, 1, fds, &nfds), 1);
    assert_int_equal(nfds, 1);
    assert_true(fixture_is_clean(f, 0));
    (void)close(fds[0]);
    (void)close(sockets[0]);
    (void)close(sockets[1]);
}

/* --- the next daemon --- */

static void next_daemon_notices_deaths_though_all_bytes_are_locked(void **state)
{
    fixture *f = *state;
    worker locker = worker_start(f, lock_all);
    worker workers[WORKERS];

    for (size_t i = 0; i < WORKERS; i++)
        workers[i] = worker_start(f, i % 2 == 0 ? attach_and_hold : attach_read_only);
    fixture_kill(f);
    for (size_t i = 0; i < WORKERS / 2; i++) /* before there is another one, */
        worker_kill(&workers[i]);
    fixture_restart(f, NULL);
    (void)fixture_live_with(f, 1 + WORKERS / 2);
    for (size_t i = WORKERS / 2; i < WORKERS; i++) /* and after it, not having come back */
        worker_kill(&workers[i]);
    (void)fixture_live_with(f, 1);
    worker_kill(&locker);
    assert_true(fixture_is_clean(f, 0));
}

/* It comes back to the second daemon, and then becomes another program. */
static void come_back_and_go(const fixture *f, int say)
{
    must_attach(f, 0);
    CHECK(goalloc_malloc(100) != NULL);
    say_ready(say);
    (void)raise(SIGSTOP);
    CHECK(waits_ask() != NULL); /* a request: it comes back */
    (void)execl("/bin/sleep", "sleep", "100", (char *)NULL);
}

static void program_that_is_replaced_after_its_return_ends_its_session(void **state)
{
    fixture *f = *state;
    worker locker = worker_start(f, lock_all);
    worker w = worker_start(f, come_back_and_go);

    fixture_kill(f);
    fixture_restart(f, NULL);
    (void)fixture_live_with(f, 2);
    assert_int_equal(kill(w.pid, SIGCONT), 0);
    (void)fixture_live_with(f, 1);
    worker_kill(&w);
    worker_kill(&locker);
    (void)fixture_live_with(f, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(dead_sessions_end_though_all_bytes_are_locked),
        FIXTURE_TEST(program_that_is_replaced_ends_its_session_though_all_bytes_are_locked),
        FIXTURE_TEST(process_that_lives_retains_its_session_without_descriptors),
        FIXTURE_TEST(session_whose_signs_others_hold_ends_with_its_process),
        FIXTURE_TEST_KEPT(next_daemon_notices_deaths_though_all_bytes_are_locked),
        FIXTURE_TEST_KEPT(program_that_is_replaced_after_its_return_ends_its_session),
    };

    return cmocka_run_group_tests_name("signs of life", tests, NULL, NULL);
}
