/*
 * Watch: see watch.h. Called by storm.c, in the process that waits for the supervisor, and by round.c, in the
 * supervisor. Both are subreapers, so all descendants are found by their parents' numbers, whoever has died in between.
 */
#include "tests/storm/watch.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/storm/board.h"

#define DESCENDANTS_MAX 1024

/* "state" and parent of a process. False: there is none. */
static bool read_stat(pid_t pid, pid_t *ret_parent, char *ret_state)
{
    char path[64];
    char line[512];
    FILE *file;
    char *after;
    bool good;

    (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    file = fopen(path, "re");
    if (file == NULL)
        return false;
    good = fgets(line, sizeof(line), file) != NULL;
    (void)fclose(file);
    after = good ? strrchr(line, ')') : NULL;
    return after != NULL && sscanf(after, ") %c %d", ret_state, ret_parent) == 2;
}

static bool is_descendant(pid_t pid, pid_t *const ret_pids, unsigned n)
{
    pid_t parent;
    char state;

    if (!read_stat(pid, &parent, &state) || state == 'Z')
        return false;
    if (parent == getpid())
        return true;
    for (unsigned i = 0; i < n; i++) {
        if (ret_pids[i] == parent)
            return true;
    }
    return false;
}

static bool contains(const pid_t *pids, unsigned n, pid_t pid)
{
    for (unsigned i = 0; i < n; i++) {
        if (pids[i] == pid)
            return true;
    }
    return false;
}

/* All descendants, parents before children. A child may have a lower number than its parent: so again until none comes.
 */
static unsigned find_descendants(pid_t *ret_pids)
{
    unsigned n = 0;

    for (unsigned before = 1; before != n;) {
        DIR *proc = opendir("/proc");

        before = n;
        for (struct dirent *entry; proc != NULL && (entry = readdir(proc)) != NULL;) {
            pid_t pid = (pid_t)atoi(entry->d_name);

            if (pid > 0 && n < DESCENDANTS_MAX && !contains(ret_pids, n, pid) && is_descendant(pid, ret_pids, n))
                ret_pids[n++] = pid;
        }
        if (proc != NULL)
            (void)closedir(proc);
        if (n == 0)
            break;
    }
    return n;
}

/* State, what the kernel waits for, and the stacks if gdb is there. */
static void describe(pid_t pid)
{
    char command[1024];

    (void)snprintf(
        command, sizeof(command),
        "exec >&2; echo '--- process %d'; tr '\\0' ' ' < /proc/%d/cmdline; echo; grep -E 'State|PPid|Threads' "
        "/proc/%d/status; "
        "for t in /proc/%d/task/*; do echo \"thread ${t##*/}: $(cut -d' ' -f3 $t/stat) $(cat $t/wchan)\"; "
        "cat $t/stack; done 2>/dev/null; "
        "if command -v gdb >/dev/null; then timeout 20 gdb -p %d -batch -ex 'thread apply all bt' 2>/dev/null "
        "| grep -E '^(#|Thread)'; fi",
        (int)pid, (int)pid, (int)pid, (int)pid, (int)pid);
    (void)fflush(stderr);
    (void)fprintf(stderr, "\n");
    if (system(command) < 0)
        (void)fprintf(stderr, "process %d cannot be described\n", (int)pid);
}

void watch_describe_all(void)
{
    pid_t pids[DESCENDANTS_MAX];
    unsigned n = find_descendants(pids);

    for (unsigned i = 0; i < n; i++) {
        describe(pids[i]);
        board_dump(pids[i]);
    }
}

bool watch_child(pid_t pid, int64_t seconds, int *ret_status)
{
    for (int64_t ms = 0; ms < seconds * 1000; ms += 20) {
        int status;
        pid_t ended = waitpid(-1, &status, WNOHANG);

        if (ended == pid) {
            *ret_status = status;
            return true;
        }
        if (ended <= 0)
            (void)poll(NULL, 0, 20);
    }
    watch_describe_all();
    return false;
}

unsigned watch_kill_all(void)
{
    pid_t pids[DESCENDANTS_MAX];
    unsigned all = 0;
    unsigned n;

    for (int i = 0; i < 100 && (n = find_descendants(pids)) > 0; i++) {
        for (unsigned k = 0; k < n; k++)
            (void)kill(pids[k], SIGKILL);
        all = n > all ? n : all;
        while (waitpid(-1, NULL, WNOHANG) > 0)
            continue;
        (void)poll(NULL, 0, 10);
    }
    return all;
}
