/*
 * test_collector_stop: whom a collector can stop, what it says if it can't, and that nobody stays stopped, however it
 * ends.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <linux/capability.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "tests/support/collecting.h"

/* True if no thread of the process is traced, or stopped for a tracer. */
static bool goes_on(pid_t pid)
{
    proc_list list = { 0 };
    bool ret = proc_list_read(&list, pid, "task") == 0 && list.n > 0;

    for (size_t i = 0; i < list.n; i++)
        ret = ret && state_of(list.at[i]) != 't' && proc_status(list.at[i], "TracerPid") <= 0;
    proc_list_free(&list);
    return ret;
}

static bool soon_goes_on(pid_t pid)
{
    for (int i = 0; i < 5000 && !goes_on(pid); i++)
        (void)usleep(1000);
    return goes_on(pid);
}

/* The look must fail with that error and name the process; then it goes on. */
static void must_be_refused(const fixture *f, pid_t pid, world_options options, int error)
{
    int r = look(f, options);
    bool on = goes_on(the_board->trouble_pid);
    pid_t named = the_board->trouble_pid;

    target_kill(pid);
    assert_int_equal(r, error);
    assert_int_equal(named, pid);
    assert_true(strlen(the_board->text) > 10);
    assert_true(on);
}

static void nobody_attached_needs_nobody_stopped(void **state)
{
    board_clear();
    assert_int_equal(look(*state, (world_options){ .max_pause_ns = 1 }), 0);
    assert_int_equal(the_board->nprocesses, 0);
}

static void who_is_let_go_is_not_traced_any_more(void **state)
{
    pid_t pid = target_start(*state, attach_and_wait, NULL);
    int r = look(*state, (world_options){ 0 });
    bool on = goes_on(pid);

    target_kill(pid);
    assert_int_equal(r, 0);
    assert_int_equal(the_board->nprocesses, 1);
    assert_true(on);
}

static void a_process_that_a_signal_has_stopped_stays_so_until_its_continued(void **state)
{
    pid_t pid = target_start(*state, attach_and_wait, NULL);
    int r, status;
    char after;

    assert_int_equal(kill(pid, SIGSTOP), 0);
    assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
    r = look(*state, (world_options){ 0 });
    (void)usleep(20000);
    after = state_of(pid);
    (void)kill(pid, SIGCONT);
    for (int i = 0; i < 5000 && state_of(pid) != 'S'; i++)
        (void)usleep(1000);
    status = state_of(pid);
    target_kill(pid);
    assert_int_equal(r, 0);
    assert_true(the_board->nthreads >= 1); /* a sanitizer may have one */
    assert_int_equal(after, 'T');
    assert_int_equal(status, 'S');
}

static void a_process_that_another_one_traces_is_named(void **state)
{
    pid_t pid = target_start(*state, attach_and_wait, NULL);

    assert_int_equal(ptrace(PTRACE_SEIZE, pid, NULL, NULL), 0);
    {
        int r = look(*state, (world_options){ 0 });
        bool by_us = strstr(the_board->text, "is traced by process") != NULL;

        target_kill(pid);
        assert_int_equal(r, -EPERM);
        assert_int_equal(the_board->trouble_pid, pid);
        assert_true(by_us);
    }
}

static int look_as_nobody(const fixture *f, void *arg)
{
    must_attach(f, 0);
    CHECK(setresgid(65534, 65534, 65534) == 0 && setresuid(65534, 65534, 65534) == 0);
    (void)look_once(arg);
    return 0;
}

static void who_may_not_trace_is_told_so(void **state)
{
    world_options options = { 0 };
    pid_t pid = target_start(*state, attach_and_wait, NULL);
    int r = child_run(*state, look_as_nobody, &options);
    bool on = goes_on(pid);

    target_kill(pid);
    if (getuid() != 0)
        skip();
    assert_int_equal(r, 0);
    (void)printf("          %s\n", the_board->text);
    assert_int_equal(the_board->error, -EPERM);
    assert_int_equal(the_board->trouble_pid, pid);
    assert_true(on);
}

#define TRACE_AND_READ (UINT64_C(1) << CAP_SYS_PTRACE | UINT64_C(1) << CAP_DAC_READ_SEARCH)
#define AND_OPEN (UINT64_C(1) << CAP_CHECKPOINT_RESTORE)

static uint64_t capabilities;

/* As the service runs: another user, with some capabilities. */
static int look_with_capabilities(const fixture *f, void *arg)
{
    struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
    struct __user_cap_data_struct data[2] = {
        { .effective = (uint32_t)capabilities, .permitted = (uint32_t)capabilities },
        { .effective = (uint32_t)(capabilities >> 32), .permitted = (uint32_t)(capabilities >> 32) }
    };
    int r = -EAGAIN;

    must_attach(f, 0);
    CHECK(prctl(PR_SET_KEEPCAPS, 1) == 0);
    CHECK(setresgid(65534, 65534, 65534) == 0 && setresuid(65534, 65534, 65534) == 0);
    CHECK(syscall(SYS_capset, &header, data) == 0);
    for (int i = 0; i < COLLECTING_TRIES && r == -EAGAIN; i++, (void)usleep(5000))
        r = look_once(arg);
    return 0;
}

static int have_anonymous_shared_memory(const fixture *f, void *arg)
{
    void **slot = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    (void)arg;
    CHECK(slot != MAP_FAILED);
    must_attach(f, 0);
    return keep_in(slot);
}

/* The error, and what was found. */
static int look_with(const fixture *f, child_fn fn, uint64_t with, world_options options)
{
    pid_t pid = target_start(f, fn, NULL);
    int r;

    capabilities = with;
    r = child_run(f, look_with_capabilities, &options);
    target_kill(pid);
    if (getuid() != 0)
        skip();
    (void)printf("          %s\n", the_board->text);
    assert_int_equal(r, 0);
    assert_true(the_board->error == 0 || the_board->trouble_pid == pid);
    return the_board->error;
}

static int look_as_the_service(const fixture *f, child_fn fn, uint64_t with)
{
    return look_with(f, fn, with, (world_options){ 0 });
}

static void who_may_trace_and_not_read_proc_is_told_so(void **state)
{
    assert_int_equal(look_as_the_service(*state, attach_and_wait, UINT64_C(1) << CAP_SYS_PTRACE), -EPERM);
    assert_non_null(strstr(the_board->text, "CAP_DAC_READ_SEARCH"));
}

static void who_may_trace_and_read_can_stop_others(void **state)
{
    assert_int_equal(look_as_the_service(*state, attach_and_wait, TRACE_AND_READ), 0);
    assert_int_equal(the_board->nprocesses, 1);
}

static void shared_memory_that_he_cannot_open_makes_a_process_opaque(void **state)
{
    assert_int_equal(look_as_the_service(*state, have_anonymous_shared_memory, TRACE_AND_READ), -EOPNOTSUPP);
}

/* The words there are the process's own, not the kernel's. */
static void also_if_the_kernel_is_trusted(void **state)
{
    assert_int_equal(
        look_with(*state, have_anonymous_shared_memory, TRACE_AND_READ, (world_options){ .trust_kernel = true }),
        -EOPNOTSUPP);
}

static void who_only_stops_needs_not_open_it(void **state)
{
    assert_int_equal(
        look_with(*state, have_anonymous_shared_memory, TRACE_AND_READ, (world_options){ .only_stop = true }), 0);
    assert_int_equal(the_board->nprocesses, 1);
}

static void with_one_capability_more_he_sees_it(void **state)
{
    assert_int_equal(look_as_the_service(*state, have_anonymous_shared_memory, TRACE_AND_READ | AND_OPEN), 0);
    assert_true(the_board->found);
}

#ifndef __SANITIZE_THREAD__
/* In vfork() the parent waits in the kernel until the child execs. */
static int wait_for_vfork_child(const fixture *f, void *arg)
{
    must_attach(f, 0);
    (void)arg;
    if (vfork() == 0) {
        board_say((void *)(uintptr_t)process.map.base, NULL);
        for (;;)
            (void)pause();
    }
    wait_to_be_killed();
    return 0;
}

static void a_process_that_waits_for_its_vforked_child_is_late(void **state)
{
    pid_t pid = target_start(*state, wait_for_vfork_child, NULL), child = the_board->pid;
    int r = look(*state, (world_options){ .max_pause_ns = 50000000 });
    bool on = goes_on(pid) && goes_on(child);

    (void)kill(child, SIGKILL);
    target_kill(pid);
    assert_int_equal(r, -ETIMEDOUT);
    assert_int_equal(the_board->trouble_pid, pid);
    assert_true(on);
}

#endif

/* What the kernel may hold. */
static int have_io_uring(const fixture *f, void *arg)
{
    static char parameters[120];
    long fd = syscall(SYS_io_uring_setup, 4, parameters);

    if (fd < 0)
        atomic_store(&the_board->step, 1);
    return attach_and_wait(f, arg);
}

static int have_aio(const fixture *f, void *arg)
{
    unsigned long context = 0;

    if (syscall(SYS_io_setup, 4, &context) < 0)
        atomic_store(&the_board->step, 1);
    return attach_and_wait(f, arg);
}

static int have_secret_memory(const fixture *f, void *arg)
{
    int fd = (int)syscall(447 /* memfd_secret */, 0);

    if (fd < 0 || ftruncate(fd, 4096) < 0 || mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED)
        atomic_store(&the_board->step, 1);
    return attach_and_wait(f, arg);
}

static int be_opaque(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, GOALLOC_ATTACH_OPAQUE);
    board_say(goalloc_malloc(100), NULL);
    wait_to_be_killed();
    return 0;
}

static void must_be_opaque(const fixture *f, child_fn fn, bool trusted_helps)
{
    pid_t pid = target_start(f, fn, NULL);
    int r;

    if (atomic_load(&the_board->step) != 0) {
        (void)printf("          the system does not have it\n");
        target_kill(pid);
        return;
    }
    r = look(f, (world_options){ .trust_kernel = true });
    if (trusted_helps != (r == 0))
        target_kill(pid);
    assert_int_equal(r, trusted_helps ? 0 : -EOPNOTSUPP);
    must_be_refused(f, pid, (world_options){ 0 }, -EOPNOTSUPP);
}

static void a_process_with_an_io_uring_is_opaque_unless_the_kernel_is_trusted(void **state)
{
    must_be_opaque(*state, have_io_uring, true);
}

static void a_process_with_an_aio_context_is_opaque_unless_the_kernel_is_trusted(void **state)
{
    must_be_opaque(*state, have_aio, true);
}

static void a_process_with_secret_memory_is_opaque(void **state)
{
    must_be_opaque(*state, have_secret_memory, false);
}

static void a_process_that_says_that_it_is_opaque_is(void **state)
{
    must_be_opaque(*state, be_opaque, false);
}

/* Time. */
static int have_much_memory(const fixture *f, void *arg)
{
    size_t bytes = (size_t)192 << 20;
    char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    CHECK(p != MAP_FAILED);
    memset(p, 1, bytes);
    return attach_and_wait(f, arg);
}

static void a_pause_that_would_be_too_long_is_not_begun(void **state)
{
    pid_t pid = target_start(*state, have_much_memory, NULL);
    int r = look(*state, (world_options){ .max_pause_ns = 5000000 });

    target_kill(pid);
    assert_int_equal(r, -ETIMEDOUT);
    assert_false(the_board->stopped);
}

/* 100,000 entries of epoll, by few descriptors: an entry stays when its number is closed and the file is not. */
static int have_many_epoll_entries(const fixture *f, void *arg)
{
    struct rlimit limit;
    int file = eventfd(0, EFD_CLOEXEC), number = 300;
    int instance = epoll_create1(EPOLL_CLOEXEC);

    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0 && file >= 0);
    limit.rlim_cur = limit.rlim_max < 20000 ? limit.rlim_max : 20000;
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    for (int i = 0; i < 100000; i++, number++) {
        struct epoll_event event = { .events = EPOLLIN };

        if (number >= (int)limit.rlim_cur) {
            number = 300;
            instance = epoll_create1(EPOLL_CLOEXEC);
        }
        CHECK(instance >= 0 && instance < 300 && dup2(file, number) == number);
        CHECK(epoll_ctl(instance, EPOLL_CTL_ADD, number, &event) == 0 && close(number) == 0);
    }
    return attach_and_wait(f, arg);
}

static void a_pause_that_would_be_too_long_for_epoll_is_not_begun(void **state)
{
    pid_t pid = target_start(*state, have_many_epoll_entries, NULL);
    int r = look(*state, (world_options){ .max_pause_ns = 2000000 });

    target_kill(pid);
    assert_int_equal(r, -ETIMEDOUT);
    assert_false(the_board->stopped);
}

static void a_pause_that_becomes_too_long_is_broken_off(void **state)
{
    pid_t pid = target_start(*state, have_much_memory, NULL);
    int r = look(*state, (world_options){ .max_pause_ns = 5000000, .no_estimate = true });
    bool on = goes_on(pid);

    target_kill(pid);
    assert_int_equal(r, -ETIMEDOUT);
    assert_true(the_board->stopped);
    assert_true(on);
}

/* A collector that is killed. */
static int look_for_ever(const fixture *f, void *arg)
{
    world_options options = { 0 };

    (void)arg;
    must_attach(f, 0);
    atomic_store(&the_board->step, 1);
    for (;;)
        (void)look_once(&options);
    return 0;
}

#define SIGNALS 400

static atomic_int nsignals;

static void count_signal(int signal)
{
    (void)signal;
    (void)atomic_fetch_add(&nsignals, 1);
}

static void *spin(void *arg)
{
    for (;;)
        (void)sched_yield();
    return arg;
}

static void *end_at_once(void *arg)
{
    return arg;
}

static int count_signals(const fixture *f, void *arg)
{
    struct sigaction action = { .sa_handler = count_signal };

    (void)arg;
    must_attach(f, 0);
    CHECK(sigaction(SIGRTMIN, &action, NULL) == 0);
    for (int i = 0; i < 6; i++) {
        pthread_t thread;

        CHECK(pthread_create(&thread, NULL, i < 2 ? spin : end_at_once, NULL) == 0 && pthread_detach(thread) == 0);
    }
    board_say(goalloc_malloc(100), NULL);
    while (atomic_load(&the_board->step) < 2) {
        (void)usleep(500);
        the_board->count = (unsigned long)atomic_load(&nsignals);
    }
    return 0;
}

static void a_collector_that_is_killed_leaves_nobody_stopped_and_no_signal_lost(void **state)
{
    const fixture *f = *state;
    pid_t pid = target_start(f, count_signals, NULL);
    uint64_t seed = test_seed();
    bool all = true;
    int status;

    for (int i = 0; i < 40; i++) {
        pid_t looking;

        atomic_store(&the_board->step, 0);
        looking = child_start(f, look_for_ever, NULL);
        board_await(&the_board->step, 1);
        for (int k = 0; k < SIGNALS / 40; k++) {
            (void)usleep((useconds_t)(test_random(&seed) % 700));
            (void)sigqueue(pid, SIGRTMIN, (union sigval){ 0 });
        }
        (void)kill(looking, SIGKILL);
        (void)child_wait(looking);
        all = all && soon_goes_on(pid);
    }
    for (int i = 0; i < 5000 && the_board->count < SIGNALS; i++)
        (void)usleep(1000);
    atomic_store(&the_board->step, 2);
    status = child_wait(pid);
    assert_true(all);
    assert_int_equal(status, 0);
    assert_int_equal(the_board->count, SIGNALS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(nobody_attached_needs_nobody_stopped),
        FIXTURE_TEST(who_is_let_go_is_not_traced_any_more),
        FIXTURE_TEST(a_process_that_a_signal_has_stopped_stays_so_until_its_continued),
        FIXTURE_TEST(a_process_that_another_one_traces_is_named),
        FIXTURE_TEST(who_may_not_trace_is_told_so),
        FIXTURE_TEST(who_may_trace_and_not_read_proc_is_told_so),
        FIXTURE_TEST(who_may_trace_and_read_can_stop_others),
        FIXTURE_TEST(shared_memory_that_he_cannot_open_makes_a_process_opaque),
        FIXTURE_TEST(also_if_the_kernel_is_trusted),
        FIXTURE_TEST(who_only_stops_needs_not_open_it),
        FIXTURE_TEST(with_one_capability_more_he_sees_it),
#ifndef __SANITIZE_THREAD__ /* which makes a fork() of it */
        FIXTURE_TEST(a_process_that_waits_for_its_vforked_child_is_late),
#endif
        FIXTURE_TEST(a_process_with_an_io_uring_is_opaque_unless_the_kernel_is_trusted),
        FIXTURE_TEST(a_process_with_an_aio_context_is_opaque_unless_the_kernel_is_trusted),
        FIXTURE_TEST(a_process_with_secret_memory_is_opaque),
        FIXTURE_TEST(a_process_that_says_that_it_is_opaque_is),
        FIXTURE_TEST(a_pause_that_would_be_too_long_is_not_begun),
        FIXTURE_TEST(a_pause_that_would_be_too_long_for_epoll_is_not_begun),
        FIXTURE_TEST(a_pause_that_becomes_too_long_is_broken_off),
        FIXTURE_TEST(a_collector_that_is_killed_leaves_nobody_stopped_and_no_signal_lost),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
