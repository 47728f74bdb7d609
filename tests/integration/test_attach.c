/*
 * Attach: what a failed one says, one that waits for a daemon which is just starting, and the label of its session.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "tests/support/waits.h"

#define WAIT_MS   30000
#define NOBODY_MS 300
#define NOBODY_UID 65534

/* Not inlined: what is left of a frame that a cancellation ends would look wrong to the address sanitizer. */
__attribute__((noinline)) static int attach_at(const char *socket, uint32_t flags, int timeout_ms)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;

    options.socket_path = socket;
    options.flags = flags;
    options.timeout_ms = timeout_ms;
    return goalloc_attach(&options);
}

/* A socket that nobody listens at. */
static void leave_socket(const char *path)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
    (void)unlink(path);
    CHECK(fd >= 0 && bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) == 0);
    (void)close(fd);
}

/* --- what it says --- */

static void check_says(const char *path, const char *reason)
{
    if (strstr(goalloc_attach_error(), path) == NULL || strstr(goalloc_attach_error(), reason) == NULL) {
        (void)fprintf(stderr, "'%s' instead of '%s: %s'\n", goalloc_attach_error(), path, reason);
        _exit(1);
    }
}

static void *fail_elsewhere(void *arg)
{
    CHECK(goalloc_attach_error()[0] == '\0');
    CHECK(attach_at(arg, 0, 0) == -EALREADY);
    check_says(arg, "attached already");
    return NULL;
}

static int fail_in_each_way(const fixture *f, void *arg)
{
    char missing[128];
    char elsewhere[128];
    char dead[128];
    char long_path[200];
    goalloc_options options = GOALLOC_OPTIONS_INIT;
    pthread_t thread;

    (void)arg;
    (void)snprintf(missing, sizeof(missing), "%s/missing", f->dir);
    (void)snprintf(elsewhere, sizeof(elsewhere), "%s/no/such/socket", f->dir);
    (void)snprintf(dead, sizeof(dead), "%s/dead", f->dir);
    memset(long_path, 'x', sizeof(long_path));
    long_path[sizeof(long_path) - 1] = '\0';
    leave_socket(dead);

    CHECK(goalloc_attach_error()[0] == '\0');
    CHECK(attach_at(missing, 0, 0) == -ENOENT);
    check_says(missing, "no such socket");
    CHECK(attach_at(elsewhere, 0, 0) == -ENOENT);
    check_says(elsewhere, "no such socket");
    CHECK(attach_at(dead, 0, 0) == -ECONNREFUSED);
    check_says(dead, "no daemon serves this socket");
    CHECK(attach_at("", 0, 0) == -EINVAL);
    check_says(": ", "empty");
    CHECK(attach_at(long_path, 0, 0) == -ENAMETOOLONG);
    check_says("...xxx", "too long");
    CHECK(attach_at(dead, 1u << 30, 0) == -EINVAL);
    check_says(dead, "unknown flag");
    options.struct_size = 1;
    CHECK(goalloc_attach(&options) == -EINVAL);
    check_says(SHM_SOCKET_PATH, "struct_size");
    CHECK(setenv("GOALLOC_SOCKET", missing, 1) == 0);
    CHECK(goalloc_malloc(1) == NULL && errno == ENOENT); /* attaches by itself */
    check_says(missing, "no such socket");

    CHECK(attach_at(f->socket, 0, 0) == 0 && goalloc_attach_error()[0] == '\0');
    CHECK(pthread_create(&thread, NULL, fail_elsewhere, dead) == 0 && pthread_join(thread, NULL) == 0);
    CHECK(goalloc_attach_error()[0] == '\0'); /* of this thread */
    return 0;
}

static void failed_attach_names_path_and_reason(void **state)
{
    assert_int_equal(child_run(*state, fail_in_each_way, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

static int attach_to_one_that_sleeps(const fixture *f, void *arg)
{
    (void)arg;
    waits_not_for_ever();
    waits_stop_daemon(f);
    CHECK(attach_at(f->socket, GOALLOC_ATTACH_WAIT, NOBODY_MS) == -ETIMEDOUT);
    check_says(f->socket, "has not answered within 300 ms");
    waits_continue_daemon(f);
    CHECK(attach_at(f->socket, GOALLOC_ATTACH_WAIT, WAIT_MS) == 0);
    return 0;
}

static void attach_to_a_stopped_daemon_says_that_it_does_not_answer(void **state)
{
    assert_int_equal(child_run(*state, attach_to_one_that_sleeps, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* --- waiting --- */

static int wait_for_daemon(const fixture *f, void *arg)
{
    void *p;

    (void)f;
    waits_not_for_ever();
    CHECK(attach_at(arg, GOALLOC_ATTACH_WAIT, WAIT_MS) == 0 && goalloc_attach_error()[0] == '\0');
    CHECK((p = goalloc_malloc(100)) != NULL);
    goalloc_free(p);
    return 0;
}

/* It still waits after some time. */
static void check_waits(pid_t pid)
{
    int status;

    (void)usleep(100000);
    assert_int_equal(waitpid(pid, &status, WNOHANG), 0);
}

/* The daemon has another path by which it is asked for, whose directory comes after it. */
static void attach_that_waits_comes_when_the_directory_is_there(void **state)
{
    fixture *f = *state;
    char dir[96];
    char path[128];
    pid_t pid;

    (void)snprintf(dir, sizeof(dir), "%s/later", f->dir);
    (void)snprintf(path, sizeof(path), "%s/socket", dir);
    pid = child_start(f, wait_for_daemon, path);
    check_waits(pid);
    assert_int_equal(symlink(f->dir, dir), 0);
    assert_int_equal(child_wait(pid), 0);
    (void)unlink(dir);
    assert_true(fixture_is_clean(f, 0));
}

static void attach_that_waits_comes_when_the_socket_is_there(void **state)
{
    fixture *f = *state;
    pid_t pid;

    fixture_kill(f);
    assert_int_equal(unlink(f->socket), 0);
    pid = child_start(f, wait_for_daemon, f->socket);
    check_waits(pid);
    fixture_restart(f, NULL);
    assert_int_equal(child_wait(pid), 0);
    assert_true(fixture_is_clean(f, 0));
}

static void attach_that_waits_comes_when_somebody_listens(void **state)
{
    fixture *f = *state;
    pid_t pids[8];

    fixture_kill(f);
    leave_socket(f->socket);
    for (size_t i = 0; i < 8; i++)
        pids[i] = child_start(f, wait_for_daemon, f->socket);
    check_waits(pids[0]);
    fixture_restart(f, NULL);
    for (size_t i = 0; i < 8; i++)
        assert_int_equal(child_wait(pids[i]), 0);
    f->nfds += 8;
    assert_true(fixture_is_clean(f, 0));
}

/* As another user. */
static int wait_for_permission(const fixture *f, void *arg)
{
    CHECK(setgid(NOBODY_UID) == 0 && setuid(NOBODY_UID) == 0);
    CHECK(attach_at(f->socket, 0, 0) == -EACCES);
    check_says(f->socket, "no permission");
    CHECK(attach_at(f->socket, GOALLOC_ATTACH_WAIT, NOBODY_MS) == -EACCES);
    check_says(f->socket, "no permission");
    (void)raise(SIGSTOP);
    return wait_for_daemon(f, arg);
}

static void attach_that_waits_comes_when_it_may(void **state)
{
    fixture *f = *state;
    pid_t pid;

    if (getuid() != 0)
        skip();
    assert_int_equal(chmod(f->dir, 0755), 0);
    pid = child_start_stopped(f, wait_for_permission, f->socket); /* it has been refused */
    (void)kill(pid, SIGCONT);
    check_waits(pid);
    assert_int_equal(chmod(f->socket, 0666), 0);
    assert_int_equal(child_wait(pid), 0);
    assert_true(fixture_is_clean(f, 0));
}

/* It sleeps between its looks, and leaves no descriptor. */
static int wait_in_vain(const fixture *f, void *arg)
{
    static const char *const names[] = { "missing", "no/such/socket", "dead" };
    char dead[128];
    int lowest = dup(0);

    (void)arg;
    waits_not_for_ever();
    (void)close(lowest);
    (void)snprintf(dead, sizeof(dead), "%s/dead", f->dir);
    leave_socket(dead);
    for (size_t i = 0; i < 3; i++) {
        char path[128];
        struct rusage before;
        struct rusage after;
        int64_t start = waits_now_ms();
        int fd;

        (void)snprintf(path, sizeof(path), "%s/%s", f->dir, names[i]);
        CHECK(getrusage(RUSAGE_SELF, &before) == 0);
        CHECK(attach_at(path, GOALLOC_ATTACH_WAIT, NOBODY_MS) == -ETIMEDOUT && waits_now_ms() - start >= NOBODY_MS);
        CHECK(getrusage(RUSAGE_SELF, &after) == 0);
        check_says(path, "waited for 300 ms");
        CHECK(after.ru_nvcsw - before.ru_nvcsw <= NOBODY_MS / 10 + 20); /* sleeps of 10 ms, after some shorter ones */
        CHECK((fd = dup(0)) == lowest && close(fd) == 0);
    }
    CHECK(attach_at(f->socket, GOALLOC_ATTACH_WAIT, WAIT_MS) == 0);
    return 0;
}

static void attach_that_waits_in_vain_sleeps_until_its_timeout(void **state)
{
    assert_int_equal(child_run(*state, wait_in_vain, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

static void *wait_in_a_thread(void *arg)
{
    CHECK(attach_at(arg, GOALLOC_ATTACH_WAIT, WAIT_MS) == 0);
    for (;;) {
        pthread_testcancel();
        (void)usleep(1000);
    }
    return NULL;
}

/* A thread waits and is cancelled, another one of the process forks meanwhile, and a third one attaches as well. */
static int wait_with_threads(const fixture *f, void *arg)
{
    char path[96];
    pthread_t thread;
    void *result;
    pid_t pid;
    int r;

    (void)arg;
    (void)snprintf(path, sizeof(path), "%s", f->socket);
    waits_not_for_ever();
    CHECK(pthread_create(&thread, NULL, wait_in_a_thread, path) == 0);
    (void)usleep(50000);
    CHECK(pthread_cancel(thread) == 0);
    pid = fork();
    if (pid == 0)
        _exit(wait_for_daemon(f, path));
    (void)raise(SIGSTOP);
    r = attach_at(path, GOALLOC_ATTACH_WAIT, WAIT_MS);
    CHECK(r == 0 || r == -EALREADY);
    CHECK(pthread_join(thread, &result) == 0 && result == PTHREAD_CANCELED);
    waits_check_served();
    waits_child_ends_well(pid);
    return 0;
}

static void waiting_attach_of_a_thread_stands_fork_and_cancellation(void **state)
{
    fixture *f = *state;
    pid_t pid;

    fixture_kill(f);
    pid = child_start(f, wait_with_threads, NULL);
    assert_true(child_stops(pid));
    (void)kill(pid, SIGCONT);
    (void)usleep(50000);
    fixture_restart(f, NULL);
    assert_int_equal(child_wait(pid), 0);
    f->nfds += 8;
    assert_true(fixture_is_clean(f, 0));
}

/* --- labels --- */

/* The label of the process's session as goallocctl shows it; "": it has none. */
static const char *label_of(const fixture *f, pid_t pid)
{
    static char label[256];
    json_t *answer = json_by_ctl(f, "sessions");
    json_t *s;
    size_t i;

    label[0] = '\0';
    json_array_foreach(json_object_get(answer, "sessions"), i, s)
    {
        if (figure(s, "pid") == (uint64_t)pid && strcmp(json_string_value(json_object_get(s, "state")), "open") == 0)
            (void)snprintf(label, sizeof(label), "%s", json_string_value(json_object_get(s, "label")));
    }
    json_decref(answer);
    return label;
}

static void check_label(const fixture *f, const char *label)
{
    if (strcmp(label_of(f, getpid()), label) != 0) {
        (void)fprintf(stderr, "'%s' instead of '%s'\n", label_of(f, getpid()), label);
        _exit(1);
    }
}

static int set_labels(const fixture *f, void *arg)
{
    static const char *const rows[][2] = {
        { "cache", "cache" },
        { "", "" },
        { NULL, "test_attach" },
        { "worker 1: \xc3\xa4\xe2\x82\xac", "worker 1: \xc3\xa4\xe2\x82\xac" },
        { "a\x1b[2Jb\n", "a?[2Jb?" },
        { "0123456789012345678901234567890123456789012345678901234567890123456789",
          "012345678901234567890123456789012345678901234567890123456789012" },
    };

    CHECK(attach_at(f->socket, *(uint32_t *)arg, 0) == 0);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        goalloc_stats_t before = stats_now();

        CHECK(goalloc_set_label(rows[i][0]) == 0);
        CHECK(stats_now().session_rpcs == before.session_rpcs + 2); /* one besides that of the statistics */
        check_label(f, rows[i][1]);
    }
    CHECK(goalloc_detach() == 0 && goalloc_set_label("nobody's") == -ENOTCONN);
    return 0;
}

static void set_label_shows_the_session_under_it(void **state)
{
    uint32_t flags[] = { 0, GOALLOC_ATTACH_RECLAIM, GOALLOC_ATTACH_READONLY };

    for (size_t i = 0; i < 3; i++)
        assert_int_equal(child_run(*state, set_labels, &flags[i]), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* Each process has its own; a child begins with that of its parent. */
static int label_children(const fixture *f, void *arg)
{
    pid_t pid;

    (void)arg;
    waits_not_for_ever();
    CHECK(setenv("GOALLOC_SOCKET", f->socket, 1) == 0);
    CHECK(goalloc_set_label("parent") == 0); /* attaches by itself */
    for (int i = 0; i < 2; i++) {
        pid = fork();
        if (pid == 0) {
            waits_not_for_ever();
            if (i == 0)
                goalloc_free(waits_ask());
            else
                CHECK(goalloc_set_label("child") == 0);
            check_label(f, i == 0 ? "parent" : "child");
            CHECK(strcmp(label_of(f, getppid()), "parent") == 0);
            _exit(0);
        }
        waits_child_ends_well(pid);
        check_label(f, "parent");
    }
    return 0;
}

static void set_label_of_a_child_is_its_own(void **state)
{
    assert_int_equal(child_run(*state, label_children, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* Stops when it has a label, and when the daemon is another one. */
static int label_over_takeovers(const fixture *f, void *arg)
{
    (void)arg;
    waits_start(f, WAIT_MS);
    CHECK(goalloc_set_label("first") == 0);
    (void)raise(SIGSTOP);
    goalloc_free(waits_ask());
    check_label(f, "first");
    (void)raise(SIGSTOP);
    CHECK(goalloc_set_label("second") == 0); /* comes back for it */
    check_label(f, "second");
    return 0;
}

static void label_survives_takeover_and_return(void **state)
{
    fixture *f = *state;
    pid_t pid = child_start(f, label_over_takeovers, NULL);

    for (int i = 0; i < 2; i++) {
        assert_true(child_stops(pid));
        child_meets_the_next_daemon(f, pid);
    }
    assert_int_equal(child_wait(pid), 0);
    assert_true(fixture_is_clean(f, 0));
}

static int label_while_it_sleeps(const fixture *f, void *arg)
{
    (void)arg;
    waits_start(f, NOBODY_MS);
    waits_stop_daemon(f);
    CHECK(goalloc_set_label("asleep") == -ETIMEDOUT);
    waits_continue_daemon(f);
    while (goalloc_set_label("awake") < 0)
        waits_sleep_ms(2);
    check_label(f, "awake");
    return 0;
}

static void set_label_waits_for_its_timeout_at_most(void **state)
{
    assert_int_equal(child_run(*state, label_while_it_sleeps, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* What a client sends that is none of ours: without a session; as long as a frame; no text. */
static int set_label_raw(int fd, const char *label)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__SetLabel body = GOALLOCD__SET_LABEL__INIT;
    Goallocd__Reply *reply;
    int error;

    body.label = (char *)(uintptr_t)label;
    request.id = 1;
    request.op_case = GOALLOCD__REQUEST__OP_SET_LABEL;
    request.set_label = &body;
    reply = raw_call(fd, &request);
    assert_non_null(reply);
    error = reply->error;
    goallocd__reply__free_unpacked(reply, NULL);
    return error;
}

static void set_label_of_a_liar_is_bounded(void **state)
{
    static char much[60001];
    fixture *f = *state;
    int nobody = raw_connect(f);
    int fd = raw_attach(f);

    assert_int_equal(set_label_raw(nobody, "x"), ENOTCONN);
    memset(much, '\xf0', sizeof(much) - 1);
    assert_int_equal(set_label_raw(fd, much), 0);
    assert_int_equal(strlen(label_of(f, getpid())), SHM_LABEL_MAX);
    assert_int_equal(label_of(f, getpid())[0], '?');
    for (int i = 0; i < 1000; i++)
        assert_int_equal(set_label_raw(fd, i % 2 ? much : "\xff\xfe\x80"), 0);
    (void)close(nobody);
    (void)close(fd);
    assert_true(fixture_is_clean(f, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(failed_attach_names_path_and_reason),
        FIXTURE_TEST(attach_to_a_stopped_daemon_says_that_it_does_not_answer),
        FIXTURE_TEST(attach_that_waits_comes_when_the_directory_is_there),
        FIXTURE_TEST_KEPT(attach_that_waits_comes_when_the_socket_is_there),
        FIXTURE_TEST_KEPT(attach_that_waits_comes_when_somebody_listens),
        FIXTURE_TEST(attach_that_waits_comes_when_it_may),
        FIXTURE_TEST(attach_that_waits_in_vain_sleeps_until_its_timeout),
        FIXTURE_TEST_KEPT(waiting_attach_of_a_thread_stands_fork_and_cancellation),
        FIXTURE_TEST(set_label_shows_the_session_under_it),
        FIXTURE_TEST(set_label_of_a_child_is_its_own),
        FIXTURE_TEST_KEPT(label_survives_takeover_and_return),
        FIXTURE_TEST(set_label_waits_for_its_timeout_at_most),
        FIXTURE_TEST(set_label_of_a_liar_is_bounded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
