/*
 * process: what the kernel says of a process, by /proc/PID/stat.
 *
 * Called by block.c and by _numpy_holders.c, which decide by it whether a holder lives; it is in both modules. It has no
 * data. Without /proc, or of a process that is gone, all facts are 0: the caller asks kill() first.
 *
 * A process whose first thread has ended is in state Z while its other threads live on, and holds what it held. So
 * state Z alone says nothing: only when no other thread is left (field 20 is 1, or 0 while it is taken apart) the process
 * has ended.
 */
#include "process.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Fields of /proc/PID/stat, as the manual numbers them; the name is 2. */
#define STAT_STATE 3
#define STAT_THREADS 20
#define STAT_START 22
#define STAT_STACK 28

/* What follows the name, which may hold anything: " S ppid ...". NULL: the process is gone, or there is no /proc. */
static const char *read_stat(pid_t pid, char *text, size_t size)
{
    char path[32];
    const char *p;
    ssize_t n;
    int fd;

    (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return NULL;
    n = read(fd, text, size - 1);
    (void)close(fd);
    text[n > 0 ? n : 0] = '\0';
    p = strrchr(text, ')');
    return p != NULL && p[1] != '\0' && p[2] != '\0' ? p + 1 : NULL;
}

process_facts process_look(pid_t pid)
{
    process_facts facts = { 0 };
    uint64_t nthreads = 0;
    char text[1024], *rest;
    const char *p = read_stat(pid, text, sizeof(text));

    if (p == NULL)
        return facts;
    const char state = p[1];
    p += 2;
    for (int field = STAT_STATE + 1; field <= STAT_STACK; field++, p = rest) {
        uint64_t value = strtoull(p, &rest, 10); /* some are negative, none of ours */

        if (rest == p)
            return (process_facts){ 0 };
        if (field == STAT_THREADS)
            nthreads = value;
        else if (field == STAT_START)
            facts.start = value;
        else if (field == STAT_STACK)
            facts.stack = value;
    }
    facts.has_ended = (state == 'Z' || state == 'X') && nthreads <= 1;
    return facts;
}
