/*
 * fork() waits for no thread that waits for the daemon, and the child of a process that is in the middle of something
 * is as good as any other.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "tests/support/waits.h"

#define TIMEOUT_MS 8000

/* fork(), which must not wait. */
static pid_t fork_quickly(void)
{
    int64_t begin = waits_now_ms();
    pid_t pid = fork();

    CHECK(pid >= 0 && waits_now_ms() - begin < TIMEOUT_MS / 4);
    if (pid == 0)
        waits_not_for_ever();
    return pid;
}

/* --- while another thread waits --- */

static const fixture *the_fixture;

static void *ask_in_a_thread(void *arg)
{
    waits_check_served();
    return arg;
}

static void *attach_in_a_thread(void *arg)
{
    CHECK(waits_attach(the_fixture, TIMEOUT_MS) == 0);
    return arg;
}

/* In the child of a fork, and in its child. It has not attached if the parent had not by then. */
static void be_served_and_fork(const fixture *f, bool attach)
{
    pid_t pid;

    if (attach)
        CHECK(waits_attach(f, TIMEOUT_MS) == 0);
    waits_check_served();
    pid = fork_quickly();
    if (pid == 0) {
        waits_check_served();
        _exit(0);
    }
    waits_child_ends_well(pid);
}

/* Fork, twice, while a thread does fn and the daemon is stopped. The second child waits for the daemon, too. */
static void fork_while_a_thread_waits(const fixture *f, void *(*fn)(void *), bool attach)
{
    pthread_t thread;
    pid_t idle;
    pid_t pid;

    waits_stop_daemon(f);
    CHECK(pthread_create(&thread, NULL, fn, NULL) == 0);
    waits_sleep_ms(50);
    idle = fork_quickly();
    if (idle == 0)
        _exit(0);
    waits_child_ends_well(idle);
    pid = fork_quickly();
    if (pid == 0) {
        be_served_and_fork(f, attach);
        _exit(0);
    }
    waits_sleep_ms(50);
    waits_continue_daemon(f);
    waits_child_ends_well(pid);
    CHECK(pthread_join(thread, NULL) == 0);
    be_served_and_fork(f, false);
}

static int fork_during_a_request(const fixture *f, void *arg)
{
    (void)arg;
    waits_start(f, TIMEOUT_MS);
    fork_while_a_thread_waits(f, ask_in_a_thread, false);
    return 0;
}

static void fork_does_not_wait_for_a_request(void **state)
{
    fixture *f = *state;

    assert_int_equal(child_run(f, fork_during_a_request, NULL), 0);
    assert_true(fixture_is_clean(f, 0));
}

static int fork_during_the_first_attach(const fixture *f, void *arg)
{
    (void)arg;
    waits_not_for_ever();
    the_fixture = f;
    fork_while_a_thread_waits(f, attach_in_a_thread, true);
    return 0;
}

static void fork_does_not_wait_for_the_first_attach(void **state)
{
    fixture *f = *state;

    assert_int_equal(child_run(f, fork_during_the_first_attach, NULL), 0);
    assert_true(fixture_is_clean(f, 0));
}

/* --- a process that starts its daemon --- */

/* A thread finds the daemon gone and waits for another one, which only a fork() of this process brings. */
static int restart_the_daemon(const fixture *f, void *arg)
{
    fixture mine = *f;
    pthread_t thread;
    int64_t begin;

    (void)arg;
    waits_start(f, TIMEOUT_MS);
    waits_check_served();
    waits_kill_daemon(f);
    CHECK(pthread_create(&thread, NULL, ask_in_a_thread, NULL) == 0);
    waits_sleep_ms(50);
    begin = waits_now_ms();
    fixture_restart(&mine, NULL);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(waits_now_ms() - begin < TIMEOUT_MS / 2);
    waits_check_served();
    fixture_kill(&mine);
    return 0;
}

static void process_that_restarts_its_daemon_needs_no_time_out(void **state)
{
    fixture *f = *state;

    assert_int_equal(child_run(f, restart_the_daemon, NULL), 0);
    fixture_kill(f); /* it is dead; its parent waits for it */
    fixture_restart(f, NULL);
    assert_true(fixture_is_clean(f, 0));
}

/* --- in the middle of an attach --- */

#define ROUNDS 200

/* In memory that all processes share. */
typedef struct middle {
    uint64_t seed;
    int ready[2];             /* a pipe: the pids of children that have done what they do */
    atomic_bool parent_ready; /* it has attached, and holds no object */
    _Atomic int64_t took_ns;  /* by the last attach */
} middle;

static middle *the_middle;

static atomic_bool begin_attach;
static atomic_bool has_attached;

static int64_t now_ns(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static void *attach_on_a_sign(void *arg)
{
    int64_t begin;

    while (!atomic_load(&begin_attach))
        ;
    begin = now_ns();
    CHECK(waits_attach(the_fixture, TIMEOUT_MS) == 0);
    atomic_store(&the_middle->took_ns, now_ns() - begin);
    atomic_store(&has_attached, true);
    return arg;
}

/* The child: the heap is there, or it attaches by itself; or it never looks at it. Then it stays, without a session. */
static void use_heap_and_stay(const middle *m, bool idle)
{
    if (!idle) {
        void *p = goalloc_malloc(100);

        if (p == NULL)
            (void)fprintf(stderr, "malloc in the child: %s\n", goalloc_strerror(errno));
        CHECK(p != NULL);
        goalloc_free(p);
        CHECK(goalloc_detach() == 0);
    }
    CHECK(write(m->ready[1], &(pid_t){ getpid() }, sizeof(pid_t)) == sizeof(pid_t));
    (void)pause();
    _exit(1);
}

/* Not before there are the descriptors that come with the reply: the lowest that are free. */
static bool have_come(int lowest)
{
    return fcntl(lowest + 1, F_GETFD) >= 0;
}

static bool is_being_mapped(void)
{
    void *arena = (void *)(uintptr_t)strtoull(FIXTURE_BASE, NULL, 16);
    unsigned char in_core;

    return mincore(arena, 1, &in_core) == 0 || errno != ENOMEM;
}

/* Until an attach has gone as far as chance says. */
static void wait_for_the_moment(uint64_t *seed, int64_t about_ns, int lowest_fd)
{
    int64_t delay_ns = (int64_t)(test_random(seed) % (uint64_t)(2 * about_ns));
    uint64_t moment = test_random(seed) % 3;
    int64_t begin = now_ns();

    while (!atomic_load(&has_attached)) {
        if ((moment == 0 && now_ns() - begin >= delay_ns) || (moment == 1 && have_come(lowest_fd)) ||
            (moment == 2 && is_being_mapped()))
            break;
    }
}

static int fork_in_the_middle(const fixture *f, void *arg)
{
    middle *m = the_middle;
    pthread_t thread;
    bool idle = test_random(&m->seed) % 4 == 0;
    int lowest_fd = dup(STDERR_FILENO);

    (void)arg;
    waits_not_for_ever();
    the_fixture = f;
    CHECK(lowest_fd >= 0 && close(lowest_fd) == 0);
    CHECK(setenv("GOALLOC_SOCKET", f->socket, 1) == 0);
    CHECK(pthread_create(&thread, NULL, attach_on_a_sign, NULL) == 0);
    atomic_store(&begin_attach, true);
    wait_for_the_moment(&m->seed, atomic_load(&m->took_ns), lowest_fd);
    if (fork() == 0) {
        waits_not_for_ever();
        use_heap_and_stay(m, idle);
    }
    CHECK(pthread_join(thread, NULL) == 0);
    waits_check_served();
    atomic_store(&m->parent_ready, true);
    (void)pause(); /* until it is killed */
    return 1;
}

/* Wait until both have done what they do: the child's pid. 0: one of them has not within some seconds. */
static pid_t child_that_is_ready(middle *m, pid_t parent)
{
    pid_t ret = 0;

    for (int i = 0; i < 4000; i++) {
        if (ret == 0 && read(m->ready[0], &ret, sizeof(ret)) != sizeof(ret))
            ret = 0;
        if (ret != 0 && atomic_load(&m->parent_ready))
            return ret;
        if (waitpid(parent, NULL, WNOHANG) != 0)
            return 0;
        waits_sleep_ms(2);
    }
    return 0;
}

static void child_of_an_unfinished_attach_has_the_heap_and_keeps_no_session(void **state)
{
    fixture *f = *state;
    middle *m = mmap(NULL, sizeof(*m), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    assert_ptr_not_equal(m, MAP_FAILED);
    the_middle = m;
    m->seed = test_seed();
    atomic_store(&m->took_ns, 1000000);
    assert_int_equal(pipe2(m->ready, O_CLOEXEC | O_NONBLOCK), 0);
    for (int i = 0; i < ROUNDS; i++) {
        pid_t parent;
        pid_t child;

        atomic_store(&m->parent_ready, false);
        parent = child_start(f, fork_in_the_middle, NULL);
        child = child_that_is_ready(m, parent);
        (void)kill(parent, SIGKILL);
        (void)waitpid(parent, NULL, 0);
        assert_true(child > 0);
        assert_true(fixture_is_clean(f, 0));
        assert_int_equal(kill(child, SIGKILL), 0); /* it has lived until now */
    }
    (void)close(m->ready[0]);
    (void)close(m->ready[1]);
    (void)munmap(m, sizeof(*m));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST_KEPT(fork_does_not_wait_for_a_request),
        FIXTURE_TEST_KEPT(fork_does_not_wait_for_the_first_attach),
        FIXTURE_TEST_KEPT(process_that_restarts_its_daemon_needs_no_time_out),
        FIXTURE_TEST_KEPT(child_of_an_unfinished_attach_has_the_heap_and_keeps_no_session),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
