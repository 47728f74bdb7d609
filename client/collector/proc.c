/*
 * proc: files of /proc. See proc.h.
 *
 * Called by all of this directory. Data: buffers of the caller, used again and again, so that a pause allocates little.
 *
 * A directory of /proc is listed by large reads: the list of a process's threads ends early when the thread ends at
 * which the kernel would go on. So who has to know all counts them (proc_nthreads()).
 */
#include "client/collector/proc.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "client/collector/grow.h"

#define PATH_BYTES 96u
#define STACK_BYTES (UINT64_C(8) << 20)
#define CHUNK ((size_t)32 << 10)

void proc_text_free(proc_text *t)
{
    free(t->text);
    *t = (proc_text){ .deadline_ns = t->deadline_ns };
}

static void path_of(char path[PATH_BYTES], pid_t pid, const char *name)
{
    if (pid == 0)
        (void)snprintf(path, PATH_BYTES, "/proc/%s", name);
    else
        (void)snprintf(path, PATH_BYTES, "/proc/%d/%s", pid, name);
}

static int make_room(proc_text *t)
{
    char *text = grow(t->text, &t->room, t->bytes + CHUNK, 2 * CHUNK, 1);

    if (text == NULL)
        return -ENOMEM;
    t->text = text;
    return 0;
}

int proc_read(proc_text *t, pid_t pid, const char *name)
{
    char path[PATH_BYTES];
    ssize_t n = 0;
    int r, fd;

    t->bytes = 0;
    r = make_room(t);
    if (r < 0)
        return r;
    t->text[0] = '\0';
    path_of(path, pid, name);
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return -errno;
    do {
        r = make_room(t);
        if (r < 0)
            break;
        n = read(fd, t->text + t->bytes, t->room - t->bytes - 1);
        if (n > 0)
            t->bytes += (size_t)n;
        if (n > 0 && t->deadline_ns != 0 && proc_now_ns() > t->deadline_ns)
            r = -ETIMEDOUT;
    } while (r == 0 && (n > 0 || (n < 0 && errno == EINTR)));
    if (r == 0 && n < 0)
        r = -errno;
    t->text[t->bytes] = '\0';
    (void)close(fd);
    return r;
}

/* A short file, without a buffer of the caller. */
static ssize_t read_short(pid_t pid, const char *name, char *ret, size_t size)
{
    char path[PATH_BYTES];
    ssize_t n;
    int fd;

    path_of(path, pid, name);
    ret[0] = '\0';
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    n = read(fd, ret, size - 1);
    n = n < 0 ? -errno : n;
    ret[n < 0 ? 0 : n] = '\0';
    (void)close(fd);
    return n;
}

int proc_facts_in(const char *stat, proc_facts *ret)
{
    proc_facts facts = { 0 };
    const char *name_end = strrchr(stat, ')'); /* the name before it may have any character */
    char *at;

    if (name_end == NULL || name_end[1] != ' ' || name_end[2] == '\0')
        return -ESRCH;
    facts.state = name_end[2];
    (void)strtoull(name_end + 3, &at, 10); /* field 4 */
    for (int field = 5; field <= 22; field++) {
        unsigned long long value = strtoull(at, &at, 10);

        if (field == 9)
            facts.flags = (uint32_t)value;
        else if (field == 22)
            facts.started = value;
    }
    *ret = facts;
    return 0;
}

int proc_facts_of(pid_t tid, proc_facts *ret)
{
    char text[1024];
    ssize_t n = read_short(tid, "stat", text, sizeof(text));

    return n < 0 ? (int)n : proc_facts_in(text, ret);
}

int64_t proc_field(const char *status, const char *field)
{
    size_t bytes = strlen(field);

    for (const char *line = status; line != NULL; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, field, bytes) == 0 && line[bytes] == ':')
            return strtoll(line + bytes + 1, NULL, 10);
    }
    return -1;
}

int64_t proc_status(pid_t tid, const char *field)
{
    char text[4096];

    return read_short(tid, "status", text, sizeof(text)) < 0 ? -1 : proc_field(text, field);
}

static int list_add(proc_list *list, const char *name)
{
    char *end;
    long number = strtol(name, &end, 10);
    pid_t *more;

    if (*end != '\0' || end == name || number < 0)
        return 0;
    more = grow(list->at, &list->room, list->n + 1, 512, sizeof(*more));
    if (more == NULL)
        return -ENOMEM;
    list->at = more;
    list->at[list->n++] = (pid_t)number;
    return 0;
}

int proc_list_read(proc_list *list, pid_t pid, const char *directory)
{
    _Alignas(uint64_t) char buffer[CHUNK];
    char path[PATH_BYTES];
    ssize_t n = 1;
    int fd, r = 0;

    list->n = 0;
    path_of(path, pid, directory);
    fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    while (n > 0 && r == 0) {
        n = getdents64(fd, buffer, sizeof(buffer));
        if (n < 0)
            r = -errno;
        for (ssize_t at = 0; at < n && r == 0;) {
            const struct dirent64 *entry = (const struct dirent64 *)(const void *)(buffer + at);

            r = list_add(list, entry->d_name);
            at += entry->d_reclen;
        }
    }
    (void)close(fd);
    return r;
}

void proc_list_free(proc_list *list)
{
    free(list->at);
    *list = (proc_list){ 0 };
}

uint32_t proc_nthreads(pid_t pid)
{
    char path[PATH_BYTES];
    struct stat st;

    path_of(path, pid, "task");
    return stat(path, &st) == 0 && st.st_nlink > 2 ? (uint32_t)(st.st_nlink - 2) : 0;
}

uint64_t proc_stack_limit_in(const char *limits)
{
    static const char name[] = "Max stack size";
    const char *line = strstr(limits, name);
    uint64_t bytes = line != NULL ? strtoull(line + sizeof(name) - 1, NULL, 10) : 0; /* "unlimited": 0 */

    return bytes != 0 ? bytes : STACK_BYTES;
}

uint64_t proc_stack_limit(pid_t pid)
{
    char text[4096];

    (void)(read_short(pid, "limits", text, sizeof(text)) < 0); /* then it is empty */
    return proc_stack_limit_in(text);
}

int64_t proc_last_pid_in(const char *loadavg)
{
    const char *at = strrchr(loadavg, ' ');

    return at != NULL ? strtoll(at, NULL, 10) : -1;
}

int64_t proc_last_pid(void)
{
    char text[256];

    return read_short(0, "loadavg", text, sizeof(text)) <= 0 ? -1 : proc_last_pid_in(text);
}

uint64_t proc_now_ns(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
