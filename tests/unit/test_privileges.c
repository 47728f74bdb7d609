/*
 * Tests of privileges.h: what a confined process can't do any more, and what it still can. Each test has processes of
 * its own, since nobody gets privileges back.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/privileges.h"

typedef struct attempt {
    enum privileges_process process;
    enum privileges_filter filter;
    int (*what)(void); /* in the confined process; its exit status */
} attempt;

/* The exit status, or 1000 + the signal. */
static int run(const attempt *a)
{
    int status;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        privileges_prepare(a->filter);
        _exit(privileges_confine(a->process, (const char *const[]){ NULL }) < 0 ? 99 : a->what());
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static int run_program(void)
{
    (void)execl("/bin/true", "true", NULL);
    return 1;
}

static int become_nobody(void)
{
    (void)syscall(SYS_setuid, 65534);
    return 1;
}

static int make_internet_socket(void)
{
    return socket(AF_INET, SOCK_STREAM, 0) < 0 && errno == ENOSYS ? 0 : 1;
}

static int make_named_files(void)
{
    static const int flags[] = { O_RDWR | O_TMPFILE, O_RDWR | O_CREAT, O_WRONLY | O_TRUNC };

    for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
        if (open("/tmp", flags[i], 0600) >= 0 || errno != ENOSYS)
            return 1;
    }
    return 0;
}

/* Where there is Landlock. A file without a name, as those of the heap, is reopened. */
static int write_to_files(void)
{
    bool has_landlock = syscall(SYS_landlock_create_ruleset, NULL, 0, 1) > 0;
    char path[64];
    int fd = memfd_create("test", MFD_CLOEXEC);

    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    if (fd < 0 || open(path, O_RDWR | O_CLOEXEC) < 0 || open("/proc/meminfo", O_RDONLY | O_CLOEXEC) < 0)
        return 1;
    return has_landlock && (open("/dev/null", O_WRONLY) >= 0 || errno != EACCES) ? 2 : 0;
}

static int make_code(void)
{
    void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return p == MAP_FAILED && errno == ENOSYS ? 0 : 1;
}

static int make_namespace(void)
{
    return syscall(SYS_clone, 0x10000000 | SIGCHLD, 0, 0, 0, 0) < 0 && errno == ENOSYS ? 0 : 1; /* CLONE_NEWUSER */
}

static int kill_parent(void)
{
    return kill(getppid(), 0) < 0 && errno == ENOSYS ? 0 : 1;
}

static void *nothing(void *arg)
{
    return arg;
}

/* What the C library and libuv do. */
static int do_the_daemons_work(void)
{
    int fds[2];
    pthread_t thread;
    FILE *file = fopen("/proc/meminfo", "re");
    char line[128];
    int fd = memfd_create("test", MFD_CLOEXEC);
    pid_t child;

    if (file == NULL || fgets(line, sizeof(line), file) == NULL || fclose(file) != 0)
        return 1;
    if (fd < 0 || ftruncate(fd, 1 << 20) < 0 || fallocate(fd, 0, 0, 4096) < 0)
        return 2;
    if (pthread_create(&thread, NULL, nothing, NULL) != 0 || pthread_join(thread, NULL) != 0)
        return 3;
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) < 0 || send(fds[0], "x", 1, 0) != 1 || recv(fds[1], line, 1, 0) != 1)
        return 4;
    child = fork();
    if (child == 0)
        _exit(0);
    if (child < 0 || waitpid(child, NULL, 0) != child)
        return 5;
    free(malloc(100 << 20));
    return 0;
}

static int do_the_keepers_work(void)
{
    char path[] = "/tmp/goalloc-test-no-such-file";

    return unlink(path) < 0 && errno == ENOENT ? 0 : 1;
}

static int make_file(void)
{
    return memfd_create("test", 0) < 0 && errno == ENOSYS ? 0 : 1;
}

/* No capability is left, and an execve() would bring none back. */
static int have_nothing(void)
{
    char line[256];
    FILE *file = fopen("/proc/self/status", "re");
    unsigned nfound = 0;

    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        unsigned long long value;

        if (sscanf(line, "CapPrm: %llx", &value) == 1 || sscanf(line, "CapEff: %llx", &value) == 1 ||
            sscanf(line, "CapInh: %llx", &value) == 1 || sscanf(line, "CapAmb: %llx", &value) == 1)
            nfound += value == 0;
        nfound += strcmp(line, "NoNewPrivs:\t1\n") == 0 || strcmp(line, "Seccomp:\t2\n") == 0;
    }
    return nfound == 6 ? 0 : 1;
}

static void confined_process_does_what_its_lists_say(void **state)
{
    static const struct {
        attempt attempt;
        int result;
    } cases[] = {
        { { PRIVILEGES_DAEMON, PRIVILEGES_FILTER, do_the_daemons_work }, 0 },
        { { PRIVILEGES_DAEMON, PRIVILEGES_FILTER_KILL, do_the_daemons_work }, 0 },
        { { PRIVILEGES_DAEMON, PRIVILEGES_FILTER, have_nothing }, 0 },
        { { PRIVILEGES_DAEMON, PRIVILEGES_FILTER, run_program }, 1000 + SIGSYS },
        { { PRIVILEGES_DAEMON, PRIVILEGES_FILTER, become_nobody }, 1000 + SIGSYS },
        { { PRIVILEGES_DAEMON, PRIVILEGES_FILTER, make_internet_socket }, 0 },
        { { PRIVILEGES_DAEMON, PRIVILEGES_FILTER, make_named_files }, 0 },
        { { PRIVILEGES_DAEMON, PRIVILEGES_FILTER, write_to_files }, 0 },
        { { PRIVILEGES_DAEMON, PRIVILEGES_FILTER, make_code }, 0 },
        { { PRIVILEGES_DAEMON, PRIVILEGES_FILTER, make_namespace }, 0 },
        { { PRIVILEGES_DAEMON, PRIVILEGES_FILTER_KILL, make_internet_socket }, 1000 + SIGSYS },
        { { PRIVILEGES_KEEPER, PRIVILEGES_FILTER, do_the_keepers_work }, 0 },
        { { PRIVILEGES_KEEPER, PRIVILEGES_FILTER, make_file }, 0 },
        { { PRIVILEGES_KEEPER, PRIVILEGES_FILTER, make_internet_socket }, 0 },
        { { PRIVILEGES_KEEPER, PRIVILEGES_FILTER, kill_parent }, 0 },
        { { PRIVILEGES_KEEPER, PRIVILEGES_FILTER, run_program }, 1000 + SIGSYS },
        { { PRIVILEGES_HELPER, PRIVILEGES_FILTER, make_file }, 0 },
        { { PRIVILEGES_HELPER, PRIVILEGES_FILTER, make_internet_socket }, 0 },
        { { PRIVILEGES_HELPER, PRIVILEGES_FILTER, run_program }, 1000 + SIGSYS },
    };

    (void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    skip(); /* which make calls of their own */
#endif
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int result = run(&cases[i].attempt);

        if (result != cases[i].result)
            fail_msg("case %zu: %d, not %d", i, result, cases[i].result);
    }
}

static void process_without_a_filter_has_no_capabilities_either(void **state)
{
    (void)state;
    assert_int_equal(run(&(attempt){ PRIVILEGES_DAEMON, PRIVILEGES_NO_FILTER, make_internet_socket }), 1);
    assert_int_equal(run(&(attempt){ PRIVILEGES_DAEMON, PRIVILEGES_NO_FILTER, have_nothing }), 1); /* no filter */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(confined_process_does_what_its_lists_say),
        cmocka_unit_test(process_without_a_filter_has_no_capabilities_either),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
