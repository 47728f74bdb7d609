/*
 * Programs that close all descriptors, those of the library too, and have their own at these numbers: the library comes
 * back to its session, waits for nothing, and leaves what is the program's alone.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include "tests/support/waits.h"

#define TIMEOUT_MS 8000
#define FDS_MAX 1024
#define FREE_FROM 500
#define FREE_TO 516

#ifdef __SANITIZE_THREAD__
/* To close what another thread uses is a race, and it is what a test here does. */
const char *__tsan_default_suppressions(void);
__attribute__((visibility("default"))) const char *__tsan_default_suppressions(void)
{
    return "race:close_all_while_another_waits\n";
}
#endif

static bool is_open(int fd)
{
    return fcntl(fd, F_GETFD) >= 0;
}

static void note_open(bool ret[FDS_MAX])
{
    for (int fd = 0; fd < FDS_MAX; fd++)
        ret[fd] = is_open(fd);
}

/* The one descriptor that is open now and was not then. */
static int new_fd(const bool before[FDS_MAX])
{
    int found = -1;

    for (int fd = 0; fd < FDS_MAX; fd++) {
        if (!is_open(fd) || before[fd])
            continue;
        CHECK(found < 0);
        found = fd;
    }
    CHECK(found >= 0);
    return found;
}

/* Soft limit of descriptors. */
static void limit_fds(rlim_t n)
{
    struct rlimit limit;

    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = n;
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
}

/* --- ways to close them all --- */

static void close_range_of_all(void)
{
    CHECK(syscall(SYS_close_range, 3u, ~0u, 0u) == 0 || errno == ENOSYS);
}

static void close_each(void)
{
    for (int fd = 3; fd < FDS_MAX; fd++)
        (void)close(fd);
}

/* --- what a program has at the library's number --- */

/* A descriptor of the program's, and what is connected with it. */
typedef struct impostor {
    int fd;
    int other;    /* -1: there is none, nor a descriptor */
    int nwaiting; /* bytes to be read from fd, which nobody does */
    struct stat st;
} impostor;

static int make_nothing(const fixture *f, int *ret_other)
{
    (void)f;
    *ret_other = -1;
    return -1;
}

static int make_socketpair(const fixture *f, int *ret_other)
{
    int fds[2];

    (void)f;
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    *ret_other = fds[1];
    return fds[0];
}

static int make_pipe_to_read(const fixture *f, int *ret_other)
{
    int fds[2];

    (void)f;
    CHECK(pipe(fds) == 0);
    *ret_other = fds[1];
    return fds[0];
}

static int make_pipe_to_write(const fixture *f, int *ret_other)
{
    int fds[2];

    (void)f;
    CHECK(pipe(fds) == 0);
    *ret_other = fds[0];
    return fds[1];
}

/* What the library's socket is, too: a connected stream, to another server. */
static int make_connection(const fixture *f, int *ret_other)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/another", f->dir);
    CHECK(listener >= 0 && bind(listener, (const struct sockaddr *)&addr, sizeof(addr)) == 0);
    CHECK(listen(listener, 1) == 0 && fd >= 0);
    CHECK(connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) == 0);
    *ret_other = accept(listener, NULL, NULL);
    CHECK(*ret_other >= 0 && unlink(addr.sun_path) == 0 && close(listener) == 0);
    return fd;
}

typedef struct row {
    void (*close_all)(void);
    int (*make)(const fixture *f, int *ret_other);
    bool readable; /* what is made */
} row;

static const row rows[] = {
    { close_range_of_all, make_nothing, false },       { close_each, make_nothing, false },
    { close_range_of_all, make_socketpair, true },     { close_each, make_socketpair, true },
    { close_range_of_all, make_pipe_to_read, true },   { close_each, make_pipe_to_read, true },
    { close_range_of_all, make_pipe_to_write, false }, { close_each, make_pipe_to_write, false },
    { close_range_of_all, make_connection, true },     { close_each, make_connection, true },
};

/* Put what the row says at number; if it can be read, a byte waits there. */
static impostor put_at(const fixture *f, const row *r, int number)
{
    impostor i = { .fd = number };
    int fd = r->make(f, &i.other);

    if (fd < 0)
        return i;
    CHECK(fd == number || (dup2(fd, number) == number && close(fd) == 0));
    CHECK(fstat(number, &i.st) == 0);
    i.nwaiting = r->readable;
    CHECK(!r->readable || write(i.other, "x", 1) == 1);
    return i;
}

/* It is open, nobody has read from it, and nobody has written to it. */
static void check_untouched(const impostor *i)
{
    struct pollfd other = { .fd = i->other, .events = POLLIN };
    struct stat st;
    int nwaiting;

    if (i->other < 0)
        return;
    CHECK(fstat(i->fd, &st) == 0 && st.st_ino == i->st.st_ino && st.st_dev == i->st.st_dev);
    CHECK(ioctl(i->fd, FIONREAD, &nwaiting) == 0 && nwaiting == i->nwaiting);
    CHECK(poll(&other, 1, 0) == 0);
}

/* Requests are answered, each long before its time-out. */
static void check_served(unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        int64_t begin = waits_now_ms();

        CHECK(waits_ask() != NULL);
        CHECK(waits_now_ms() - begin < TIMEOUT_MS / 4);
    }
}

/* A child of this process, which closes its copy of the library's socket, and no more. Allocates one object. */
static void check_child(const impostor *i)
{
    pid_t pid = fork();

    if (pid == 0) {
        waits_not_for_ever();
        check_untouched(i);
        check_served(1);
        check_untouched(i);
        CHECK(goalloc_detach() == 0);
        check_untouched(i);
        _exit(0);
    }
    waits_child_ends_well(pid);
    check_untouched(i);
}

/* --- tests --- */

/* Leaves 5 objects. */
static int close_all_and_go_on(const fixture *f, void *arg)
{
    const row *r = arg;
    bool before[FDS_MAX];
    goalloc_stats_t stats;
    uint64_t held;
    impostor i;
    int number;

    note_open(before);
    waits_start(f, TIMEOUT_MS);
    number = new_fd(before);
    (void)filled(1000, 7);
    held = stats_now().session_held_bytes;
    r->close_all();
    i = put_at(f, r, number);

    check_served(3);
    check_untouched(&i);
    stats = stats_now(); /* the session is the same, and has not lost what it held */
    CHECK(stats.sessions == 1 && stats.session_held_bytes == held + 3 * WAITS_ASKED_BYTES);
    check_child(&i);
    CHECK(goalloc_detach() == 0);
    check_untouched(&i);
    return 0;
}

static void program_that_closes_all_descriptors_comes_back_to_its_session(void **state)
{
    fixture *f = *state;

    for (size_t n = 0; n < sizeof(rows) / sizeof(rows[0]); n++) {
        assert_int_equal(child_run(f, close_all_and_go_on, (void *)(uintptr_t)&rows[n]), 0);
        assert_true(fixture_is_clean(f, 5 * (n + 1)));
    }
}

/* The first that could notice is the child of a fork, or the detach. */
static int close_all_and_fork(const fixture *f, void *arg)
{
    const row *r = arg;
    bool before[FDS_MAX];
    impostor i;
    int number;

    note_open(before);
    waits_start(f, TIMEOUT_MS);
    number = new_fd(before);
    r->close_all();
    i = put_at(f, r, number);
    check_child(&i);
    CHECK(goalloc_detach() == 0);
    check_untouched(&i);
    return 0;
}

static void fork_and_detach_leave_the_programs_descriptors_open(void **state)
{
    fixture *f = *state;

    for (size_t n = 0; n < sizeof(rows) / sizeof(rows[0]); n++) {
        assert_int_equal(child_run(f, close_all_and_fork, (void *)(uintptr_t)&rows[n]), 0);
        assert_true(fixture_is_clean(f, n + 1));
    }
}

static void *ask_once(void *arg)
{
    (void)arg;
    return waits_ask();
}

static int close_all_while_another_waits(const fixture *f, void *arg)
{
    const row *r = arg;
    bool before[FDS_MAX];
    pthread_t thread;
    impostor i;
    void *p;
    int number;

    note_open(before);
    waits_start(f, TIMEOUT_MS);
    number = new_fd(before);
    waits_stop_daemon(f);
    CHECK(pthread_create(&thread, NULL, ask_once, NULL) == 0);
    waits_sleep_ms(50);
    r->close_all();
    i = put_at(f, r, number);
    waits_continue_daemon(f);
    CHECK(pthread_join(thread, &p) == 0 && p != NULL);
    check_served(1);
    check_untouched(&i);
    return 0;
}

static void request_whose_descriptor_is_closed_is_answered(void **state)
{
    fixture *f = *state;

    for (size_t n = 0; n < sizeof(rows) / sizeof(rows[0]); n++) {
        assert_int_equal(child_run(f, close_all_while_another_waits, (void *)(uintptr_t)&rows[n]), 0);
        assert_true(fixture_is_clean(f, 2 * (n + 1)));
    }
}

/* Open pipes until there is no number left. */
static void take_all_numbers(struct stat ret[FDS_MAX])
{
    int fds[2];

    while (pipe(fds) == 0)
        ;
    CHECK(errno == EMFILE);
    (void)open("/dev/null", O_RDONLY | O_CLOEXEC); /* there may be one left */
    for (int fd = 0; fd < FDS_MAX; fd++)
        CHECK(fstat(fd, &ret[fd]) == 0);
}

/* Some numbers that it did not have before are all that there is for the library. Leaves 4 objects. */
static int take_all_and_go_on(const fixture *f, void *arg)
{
    static struct stat mine[FDS_MAX];
    pid_t pid;

    (void)arg;
    limit_fds(FDS_MAX);
    waits_start(f, TIMEOUT_MS);
    close_range_of_all();
    take_all_numbers(mine);
    for (int fd = FREE_FROM; fd < FREE_TO; fd++)
        CHECK(close(fd) == 0);
    check_served(3);
    pid = fork();
    if (pid == 0) {
        waits_not_for_ever();
        check_served(1);
        CHECK(goalloc_detach() == 0);
    }
    for (int fd = 0; fd < FDS_MAX; fd++) {
        struct stat st;

        CHECK((fd >= FREE_FROM && fd < FREE_TO) ||
              (fstat(fd, &st) == 0 && st.st_ino == mine[fd].st_ino && st.st_dev == mine[fd].st_dev));
    }
    if (pid == 0)
        _exit(0);
    waits_child_ends_well(pid);
    return goalloc_detach();
}

static void program_that_takes_all_numbers_keeps_them(void **state)
{
    fixture *f = *state;

    assert_int_equal(child_run(f, take_all_and_go_on, NULL), 0);
    assert_true(fixture_is_clean(f, 4));
}

/* In a program with room for *arg descriptors. Leaves 2 objects. */
static int see_where_the_descriptor_is(const fixture *f, void *arg)
{
    const int *limit = arg;
    bool before[FDS_MAX];

    close_range_of_all(); /* what the test program has inherited */
    note_open(before);
    limit_fds((rlim_t)*limit);
    waits_start(f, TIMEOUT_MS);
    CHECK(new_fd(before) >= *limit / 2);
    check_served(1);
    close_range_of_all();
    check_served(1);
    CHECK(new_fd(before) >= *limit / 2);
    return 0;
}

static void descriptor_of_the_library_is_out_of_the_way(void **state)
{
    fixture *f = *state;
    int limits[] = { 1024, 256, 20 };

    for (size_t n = 0; n < sizeof(limits) / sizeof(limits[0]); n++) {
        assert_int_equal(child_run(f, see_where_the_descriptor_is, &limits[n]), 0);
        assert_true(fixture_is_clean(f, 2 * (n + 1)));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(program_that_closes_all_descriptors_comes_back_to_its_session),
        FIXTURE_TEST(fork_and_detach_leave_the_programs_descriptors_open),
        FIXTURE_TEST(request_whose_descriptor_is_closed_is_answered),
        FIXTURE_TEST(program_that_takes_all_numbers_keeps_them),
        FIXTURE_TEST(descriptor_of_the_library_is_out_of_the_way),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
