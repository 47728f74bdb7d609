/*
 * The socket's path: relative ones, long ones, and processes that change their directory, root or user and have to come
 * back to the daemon afterwards.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "tests/support/waits.h"

#define TIMEOUT_MS 8000

static int attach_at(const char *path)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;

    options.socket_path = path;
    options.timeout_ms = TIMEOUT_MS;
    return goalloc_attach(&options);
}

/* A child that was forked before, this process, and a child that was forked after it. */
static void check_all_come_back(void)
{
    pid_t early = fork();
    pid_t late;

    if (early == 0) {
        waits_not_for_ever();
        waits_check_served();
        _exit(0);
    }
    waits_child_ends_well(early);
    waits_check_served();
    late = fork();
    if (late == 0) {
        waits_not_for_ever();
        waits_check_served();
        _exit(0);
    }
    waits_child_ends_well(late);
}

/* Run fn, which stops when it has attached; replace the daemon, and let it go on. */
static void run_over_a_restart(fixture *f, child_fn fn, void *arg)
{
    assert_int_equal(child_run_over_a_restart(f, fn, arg), 0);
    assert_true(fixture_is_clean(f, 0));
}

/* --- relative paths --- */

static int attach_relative_and_leave(const fixture *f, void *arg)
{
    const char *path = arg;

    waits_not_for_ever();
    CHECK(chdir(f->dir) == 0);
    CHECK(attach_at(path) == 0);
    waits_check_served();
    CHECK(chdir("/") == 0);
    (void)raise(SIGSTOP);
    check_all_come_back();
    return 0;
}

static void relative_path_survives_a_change_of_the_directory(void **state)
{
    static const char *const paths[] = { "socket", "./socket", "state/../socket" };
    fixture *f = *state;

    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++)
        run_over_a_restart(f, attach_relative_and_leave, (void *)(uintptr_t)paths[i]);
}

/* By the first malloc. */
static int attach_by_environment_and_leave(const fixture *f, void *arg)
{
    (void)arg;
    waits_not_for_ever();
    CHECK(setenv("GOALLOC_SOCKET", "socket", 1) == 0 && chdir(f->dir) == 0);
    waits_check_served();
    CHECK(chdir("/") == 0);
    (void)raise(SIGSTOP);
    check_all_come_back();
    return 0;
}

static void relative_path_of_the_environment_survives_too(void **state)
{
    run_over_a_restart(*state, attach_by_environment_and_leave, NULL);
}

/* --- long paths --- */

#define SUN_PATH_MAX (sizeof(((struct sockaddr_un *)0)->sun_path) - 1)

/* A directory whose name is so long that no address has room for what lies in it; in it a link to the socket. */
static void make_deep(const fixture *f, char dir[256])
{
    char link[300];

    (void)snprintf(dir, 256, "%s/%0*d", f->dir, (int)SUN_PATH_MAX, 0);
    (void)snprintf(link, sizeof(link), "%s/link", dir);
    assert_int_equal(mkdir(dir, 0700), 0);
    assert_int_equal(symlink(f->socket, link), 0);
}

static void remove_deep(const char *dir)
{
    char link[300];

    (void)snprintf(link, sizeof(link), "%s/link", dir);
    assert_int_equal(unlink(link), 0);
    assert_int_equal(rmdir(dir), 0);
}

static int attach_from_deep_and_leave(const fixture *f, void *arg)
{
    const char *dir = arg;
    char path[SUN_PATH_MAX + 2];

    (void)f;
    waits_not_for_ever();
    CHECK(chdir(dir) == 0);
    memset(path, 'x', sizeof(path));
    path[0] = '/';
    path[sizeof(path) - 1] = '\0';
    CHECK(attach_at(path) == -ENAMETOOLONG); /* given so, it is too long */
    path[SUN_PATH_MAX] = '\0';
    CHECK(attach_at(path) == -ENOENT); /* the longest that is not */
    CHECK(attach_at("link") == 0);
    waits_check_served();
    CHECK(chdir("/") == 0);
    (void)raise(SIGSTOP);
    check_all_come_back();
    return 0;
}

static void relative_path_may_be_of_a_deep_directory(void **state)
{
    fixture *f = *state;
    char dir[256];

    make_deep(f, dir);
    run_over_a_restart(f, attach_from_deep_and_leave, dir);
    remove_deep(dir);
}

/* --- sockets that are not there --- */

/*
 * In another root, which is empty: not even the socket's directory is there, so no daemon will come. What is held stays
 * usable.
 */
static int attach_and_change_root(const fixture *f, void *arg)
{
    const char *root = arg;
    int64_t begin;
    pid_t pid;
    char *p;

    waits_start(f, TIMEOUT_MS);
    CHECK((p = goalloc_malloc(100)) != NULL);
    waits_kill_daemon(f);
    CHECK(chroot(root) == 0 && chdir("/") == 0);
    begin = waits_now_ms();
    for (int i = 0; i < 3; i++)
        CHECK(waits_ask() == NULL && errno == ENOENT);
    pid = fork();
    if (pid == 0) {
        waits_not_for_ever();
        CHECK(waits_ask() == NULL && errno == ENOENT);
        _exit(0);
    }
    waits_child_ends_well(pid);
    CHECK(waits_now_ms() - begin < TIMEOUT_MS / 4);
    memset(p, 1, 100);
    goalloc_free(p);
    return 0;
}

static void missing_directory_is_not_waited_for(void **state)
{
    fixture *f = *state;
    char root[128];

    if (geteuid() != 0)
        skip();
    (void)snprintf(root, sizeof(root), "%s/empty", f->dir);
    assert_int_equal(mkdir(root, 0700), 0);
    assert_int_equal(child_run(f, attach_and_change_root, root), 0);
    assert_int_equal(rmdir(root), 0);
    fixture_kill(f); /* it is dead; its parent waits for it */
    fixture_restart(f, NULL);
    assert_true(fixture_is_clean(f, 0));
}

static int attach_and_wait_for_the_socket(const fixture *f, void *arg)
{
    (void)arg;
    waits_start(f, TIMEOUT_MS);
    waits_check_served();
    (void)raise(SIGSTOP);
    check_all_come_back();
    return 0;
}

static void missing_socket_is_waited_for(void **state)
{
    fixture *f = *state;
    pid_t pid = child_start(f, attach_and_wait_for_the_socket, NULL);

    assert_true(child_stops(pid));
    fixture_kill(f);
    assert_int_equal(unlink(f->socket), 0);
    (void)kill(pid, SIGCONT);
    (void)usleep(300000);
    fixture_restart(f, NULL);
    assert_int_equal(child_wait(pid), 0);
    assert_true(fixture_is_clean(f, 0));
}

/* --- another user --- */

static int attach_and_become_nobody(const fixture *f, void *arg)
{
    (void)arg;
    waits_start(f, TIMEOUT_MS);
    waits_check_served();
    CHECK(setgid(65534) == 0 && setuid(65534) == 0);
    (void)raise(SIGSTOP);
    check_all_come_back();
    return 0;
}

/* The socket of a new daemon is not everybody's before somebody says so: that is waited for. */
static void process_that_becomes_another_user_comes_back(void **state)
{
    fixture *f = *state;
    pid_t pid;

    if (geteuid() != 0)
        skip();
    pid = child_start(f, attach_and_become_nobody, NULL);
    assert_true(child_stops(pid));
    fixture_kill(f);
    (void)kill(pid, SIGCONT);
    (void)usleep(50000);
    fixture_restart(f, NULL);
    (void)usleep(50000);
    assert_int_equal(chmod(f->dir, 0777), 0);
    assert_int_equal(chmod(f->socket, 0777), 0);
    assert_int_equal(child_wait(pid), 0);
    assert_true(fixture_is_clean(f, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST_KEPT(relative_path_survives_a_change_of_the_directory),
        FIXTURE_TEST_KEPT(relative_path_of_the_environment_survives_too),
        FIXTURE_TEST_KEPT(relative_path_may_be_of_a_deep_directory),
        FIXTURE_TEST_KEPT(missing_directory_is_not_waited_for),
        FIXTURE_TEST_KEPT(missing_socket_is_waited_for),
        FIXTURE_TEST_KEPT(process_that_becomes_another_user_comes_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
