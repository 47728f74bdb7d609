/*
 * The daemon as others see it once it serves: without privileges, in all its threads, as keeper and helper; no heap in
 * its core dumps; and a log whose reader does not read holds up nobody.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "proto/frame.h"
#include "tests/support/objects.h"

/* --- privileges --- */

/* Lines of a status file that say what a confined thread's has to say. */
static bool is_confined(const char *path)
{
    FILE *file = fopen(path, "re");
    char line[256];
    unsigned nfound = 0;

    assert_non_null(file);
    while (fgets(line, sizeof(line), file) != NULL) {
        unsigned long long caps;

        if (sscanf(line, "CapPrm: %llx", &caps) == 1 || sscanf(line, "CapEff: %llx", &caps) == 1 ||
            sscanf(line, "CapInh: %llx", &caps) == 1)
            nfound += caps == 0;
        nfound += strcmp(line, "NoNewPrivs:\t1\n") == 0;
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
        nfound += strcmp(line, "Seccomp:\t2\n") == 0;
#else
        nfound += strncmp(line, "Seccomp:", 8) == 0;
#endif
    }
    (void)fclose(file);
    return nfound == 5;
}

/* Of all threads of the process; *ret_n: how many these are. */
static bool are_threads_confined(pid_t pid, unsigned *ret_n)
{
    char path[512];
    bool confined = true;
    DIR *dir;

    *ret_n = 0;
    (void)snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
    dir = opendir(path);
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        if (entry->d_name[0] == '.')
            continue;
        (*ret_n)++;
#if defined(__SANITIZE_THREAD__)
        if (atoi(entry->d_name) != pid) /* the sanitizer has a thread of its own */
            continue;
#endif
        (void)snprintf(path, sizeof(path), "/proc/%d/task/%s/status", (int)pid, entry->d_name);
        confined = is_confined(path) && confined;
    }
    (void)closedir(dir);
    return confined;
}

/* A process that has just been forked can be seen before it has confined itself. */
static void assert_comes_to_be_confined(pid_t pid)
{
    unsigned n = 0;

    for (int i = 0; i < 2000 && !are_threads_confined(pid, &n); i++)
        (void)usleep(5000);
    assert_true(are_threads_confined(pid, &n));
    assert_true(n >= 1);
}

/* The process that punches holes; 0: there is none just now. */
static pid_t helper_of(pid_t daemon)
{
    char path[64];
    FILE *file;
    int pid = 0;

    (void)snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)daemon, (int)daemon);
    file = fopen(path, "re");
    if (file == NULL)
        skip(); /* this kernel does not say */
    if (fscanf(file, "%d", &pid) != 1)
        pid = 0;
    (void)fclose(file);
    return pid;
}

static void daemons_helper_has_no_privileges(void **state)
{
    const fixture *f = *state;
    pid_t helper = 0;

    for (int i = 0; i < 2000 && (helper = helper_of(f->daemon)) == 0; i++)
        (void)usleep(5000);
    assert_true(helper != 0);
    assert_comes_to_be_confined(helper);
    (void)kill(helper, SIGKILL);
    for (int i = 0; i < 2000 && (helper_of(f->daemon) == 0 || helper_of(f->daemon) == helper); i++)
        (void)usleep(5000);
    assert_comes_to_be_confined(helper_of(f->daemon)); /* made by a confined daemon */
}

static int grow_and_go(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    for (int i = 0; i < 50; i++)
        goalloc_free(filled(1 << 20, 1));
    return 0;
}

static void daemon_and_keeper_have_no_privileges(void **state)
{
    fixture *f = *state;
    unsigned nthreads;

    assert_int_equal(child_run(f, grow_and_go, NULL), 0); /* the thread pool works */
    assert_true(are_threads_confined(f->daemon, &nthreads));
    assert_true(nthreads >= 2);
    assert_comes_to_be_confined(fixture_keeper(f));
    assert_true(fixture_kill_keeper(f));
    for (int i = 0; i < 2000 && !fixture_log_has(f, "starting another one"); i++)
        (void)usleep(5000);
    for (int i = 0; i < 2000 && fixture_keeper(f) == 0; i++)
        (void)usleep(5000);
    assert_comes_to_be_confined(fixture_keeper(f)); /* made by a confined daemon */
    fixture_kill(f);
    fixture_restart(f, NULL);
}

/* --- core dumps --- */

/* Mappings of the heap's files that a core dump would contain; *ret_nmapped: all of them. */
static unsigned count_dumped(pid_t pid, unsigned *ret_nmapped)
{
    char line[512];
    FILE *file;
    unsigned n = 0;
    bool inside = false;

    (void)snprintf(line, sizeof(line), "/proc/%d/smaps", (int)pid);
    file = fopen(line, "re");
    assert_non_null(file);
    *ret_nmapped = 0;
    while (fgets(line, sizeof(line), file) != NULL) {
        unsigned long long begin;
        unsigned long long end;

        if (sscanf(line, "%llx-%llx ", &begin, &end) == 2) {
            inside = strstr(line, "/memfd:goalloc-") != NULL;
            *ret_nmapped += inside;
        } else if (inside && strncmp(line, "VmFlags:", 8) == 0) {
            n += strstr(line, " dd") == NULL;
        }
    }
    (void)fclose(file);
    return n;
}

static int stay(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    CHECK(filled(1 << 20, 1) != NULL);
    (void)raise(SIGSTOP);
    return 0;
}

static void core_dumps_of_daemon_and_keeper_leave_the_heap_out(void **state)
{
    fixture *f = *state;
    pid_t pid = child_start(f, stay, NULL);
    unsigned nmapped;

    assert_true(child_stops(pid));
    assert_int_equal(count_dumped(f->daemon, &nmapped), 0);
    assert_true(nmapped >= 4);
    assert_int_equal(count_dumped(fixture_keeper(f), &nmapped), 0);
    assert_int_equal(nmapped, 0);
    (void)kill(pid, SIGCONT);
    assert_int_equal(child_wait(pid), 0);
}

/* --- a log that nobody reads --- */

#define NVIOLATIONS 400u

/* Each costs its connection, and is a line of the log. */
static void violate(const fixture *f)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Ping body = GOALLOCD__PING__INIT;
    int fd = raw_connect(f);

    request.op_case = GOALLOCD__REQUEST__OP_PING; /* without an id */
    request.ping = &body;
    assert_null(raw_call(fd, &request));
    (void)close(fd);
}

static void log_that_nobody_reads_stops_neither_daemon_nor_clients(void **state)
{
    static const char *const quiet[] = { "--log-level", "warn", NULL };
    static const char *const noisy[] = { NULL };
    static const char filler[4096];
    fixture f;

    (void)state;
    for (int i = 0; i < 2; i++) {
        int fds[2];

        fixture_make_place(&f);
        assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
        assert_true(fcntl(fds[1], F_SETPIPE_SZ, 4096) >= 4096);
        if (i == 0) /* full before the daemon starts */
            assert_int_equal(write(fds[1], filler, sizeof(filler)), sizeof(filler));
        f.log_fd = fds[1];
        f.options = i == 0 ? quiet : noisy;
        fixture_restart(&f, NULL);
        for (unsigned n = 0; n < NVIOLATIONS; n++)
            violate(&f);
        assert_int_equal(child_run(&f, grow_and_go, NULL), 0);
        assert_true(fixture_is_whole(&f));
        assert_true(fixture_stop(&f)); /* its writer still stands in write(2) */
        (void)close(fds[0]);
        (void)close(fds[1]);
    }
}

static void lines_that_a_client_causes_are_limited(void **state)
{
    fixture *f = *state;
    FILE *log;
    char line[1024];
    unsigned nsaid = 0;
    unsigned long long nleft_out = 0;

    for (unsigned n = 0; n < NVIOLATIONS; n++)
        violate(f);
    assert_int_equal(kill(f->daemon, SIGTERM), 0);
    assert_int_equal(child_wait(f->daemon), 0);
    log = fopen(f->log, "re");
    assert_non_null(log);
    while (fgets(line, sizeof(line), log) != NULL) {
        unsigned long long n;

        nsaid += strstr(line, "disconnected: a request without an id") != NULL;
        if (strstr(line, "lines about clients of this user were left out") != NULL &&
            sscanf(strstr(line, "uid "), "uid %*u: %llu", &n) == 1)
            nleft_out += n;
    }
    (void)fclose(log);
    assert_int_equal(nsaid + nleft_out, NVIOLATIONS);
    assert_true(nleft_out > 0);
    fixture_restart(f, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST_KEPT(daemon_and_keeper_have_no_privileges),
        FIXTURE_TEST(daemons_helper_has_no_privileges),
        FIXTURE_TEST_KEPT(core_dumps_of_daemon_and_keeper_leave_the_heap_out),
        cmocka_unit_test(log_that_nobody_reads_stops_neither_daemon_nor_clients),
        FIXTURE_TEST(lines_that_a_client_causes_are_limited),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
