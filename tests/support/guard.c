/*
 * Guard: a process that cleans up after a test program, however that ends.
 *
 * Called by the fixture when it needs a directory. A test program may be killed at any moment, by hand or by ctest's
 * time-out, both with SIGKILL. Then nothing may stay: neither the daemon, nor its keeper, which is made to outlive it,
 * nor processes that the test has forked, nor files.
 *
 *   1. The guard is forked, makes a process group of its own and the directory, and opens a pidfd of the test program.
 *   2. Each child that the test program forks from then on joins the guard's group. Its own children are born there.
 *   3. When the test program has ended, the guard kills every process that is in its group or has the directory in its
 *      command line. A keeper is in another session, but has the daemon's command line.
 *   4. When it finds none any more, the guard removes the directory.
 *
 * The guard is nobody's child: so it isn't among the children that ctest kills with a program, or that a test waits
 * for. It isn't in the test program's group either, and it ignores what a terminal sends. A child that is forked too
 * late for step 3 finds no group to join, and ends.
 *
 * Limits: a child that the test program itself makes by posix_spawn() or _Fork(), or in another pid namespace, stays in
 * the test program's group, and a process may make a session of its own. These are found only if the directory is in
 * their command line.
 */
#include "tests/support/guard.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define LOOK_MS     20
#define LOOKS_QUIET 3   /* in a row without anybody: a child may be between its fork and the group */
#define LOOKS_MAX   500 /* somebody can't be killed */

static struct {
    pid_t pid;
    char dir[64];
} guard;

static pid_t session; /* of the test program */

/*
 * In each forked child. One that has made a session of its own goes its own way. In another pid namespace than that of
 * its parent there is no guard; and if the test program's session began outside of its own one, both are 0.
 */
static void join(void)
{
    if (getppid() != 0 && getsid(0) == session && setpgid(0, guard.pid) < 0)
        _exit(126); /* the guard has gone, so the test program has been killed */
}

/* --- the guard's side --- */

/* Read a file of a process in /proc. Returns how many bytes there are: 0 if there is no such process any more. */
static size_t read_proc(const char *pid, const char *name, char *ret, size_t size)
{
    char path[64];
    ssize_t n = 0;
    int fd;

    (void)snprintf(path, sizeof(path), "/proc/%s/%s", pid, name);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        n = read(fd, ret, size - 1);
        (void)close(fd);
    }
    ret[n > 0 ? n : 0] = '\0';
    return n > 0 ? (size_t)n : 0;
}

/* True if a living process is in the guard's group or has the directory in its command line. */
static bool belongs_to_test(const char *pid)
{
    char text[4096];
    const char *end;
    size_t n;
    char state;
    int parent;
    int group;

    n = read_proc(pid, "stat", text, sizeof(text));
    end = n > 0 ? strrchr(text, ')') : NULL;
    if (end == NULL || sscanf(end + 1, " %c %d %d", &state, &parent, &group) != 3 || state == 'Z' || state == 'X')
        return false;
    if (group == guard.pid)
        return true;
    n = read_proc(pid, "cmdline", text, sizeof(text));
    return memmem(text, n, guard.dir, strlen(guard.dir)) != NULL;
}

/* Kill all processes of the test. True if there were any. */
static bool kill_all(void)
{
    DIR *proc = opendir("/proc");
    bool any = false;

    for (struct dirent *entry; proc != NULL && (entry = readdir(proc)) != NULL;) {
        pid_t pid = (pid_t)atoi(entry->d_name);

        if (pid > 0 && pid != guard.pid && belongs_to_test(entry->d_name)) {
            (void)kill(pid, SIGKILL);
            any = true;
        }
    }
    if (proc != NULL)
        (void)closedir(proc);
    return any;
}

__attribute__((noreturn)) static void watch(pid_t program, int report)
{
    struct pollfd end = { .fd = (int)syscall(SYS_pidfd_open, program, 0), .events = POLLIN };
    const char *where = getenv("GOALLOC_TEST_DIR");
    int quiet = 0;

    for (int number = 1; number < NSIG; number++)
        (void)signal(number, SIG_IGN);
    guard.pid = getpid();
    (void)snprintf(guard.dir, sizeof(guard.dir), "%s/goalloc-test.XXXXXX", where != NULL ? where : "/tmp");
    if (end.fd < 0 || setpgid(0, 0) < 0 || mkdtemp(guard.dir) == NULL)
        _exit(EXIT_FAILURE);
    (void)chmod(guard.dir, 0711); /* tests open their own directories in it to other users */
    if (write(report, &guard, sizeof(guard)) < 0) /* the test program has been killed already */
        quiet = 0;
    if (dup2(end.fd, STDIN_FILENO) == STDIN_FILENO && syscall(SYS_close_range, STDIN_FILENO + 1, ~0U, 0) == 0)
        end.fd = STDIN_FILENO; /* else ctest waits for the guard, too */
    if (chdir("/") < 0)
        _exit(EXIT_FAILURE);
    while (poll(&end, 1, -1) < 0)
        continue;
    for (int i = 0; i < LOOKS_MAX && quiet < LOOKS_QUIET; i++) {
        quiet = kill_all() ? 0 : quiet + 1;
        (void)poll(NULL, 0, LOOK_MS);
    }
    (void)execlp("rm", "rm", "-rf", guard.dir, (char *)NULL);
    _exit(EXIT_FAILURE);
}

/* --- the test program's side --- */

const char *guard_dir(void)
{
    pid_t program = getpid();
    int report[2];
    pid_t pid;

    if (guard.dir[0] != '\0')
        return guard.dir;
    if (pipe2(report, O_CLOEXEC) < 0 || (pid = fork()) < 0) {
        perror("guard");
        exit(EXIT_FAILURE);
    }
    if (pid == 0) {
        if (fork() == 0)
            watch(program, report[1]);
        _exit(EXIT_SUCCESS);
    }
    (void)waitpid(pid, NULL, 0);
    (void)close(report[1]);
    session = getsid(0);
    if (read(report[0], &guard, sizeof(guard)) != (ssize_t)sizeof(guard) || pthread_atfork(NULL, NULL, join) != 0) {
        (void)fprintf(stderr, "guard: it has not come up\n");
        exit(EXIT_FAILURE);
    }
    (void)close(report[0]);
    return guard.dir;
}
