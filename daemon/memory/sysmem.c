/*
 * Sysmem: MemAvailable of /proc/meminfo, and limit minus use of the cgroups that the daemon is in, of either version.
 *
 * Called by serve/ before it has pages committed. fallocate on a memfd does not fail when memory runs short: the kernel
 * kills somebody, and by what it counts that is the daemon. So the daemon asks first. Pages of files that a cgroup
 * caches can be dropped, so they count as free, as they do in MemAvailable.
 *
 * What can't be read is nothing: a daemon that has no descriptors left must not commit without end. So the files are
 * opened at the start and kept, and read by pread: clients that use up the descriptors change nothing. A file that is
 * not there is no limit (a system without cgroups, the root cgroup); one that is there and can't be read allows
 * nothing. If the daemon is moved to another cgroup, that one's files are opened at the next reading.
 *
 * A client can have the daemon ask by requests that are refused. So the files are read ten times a second at most, and
 * in between what was said counts, less what was committed and more what was given back. A lack of memory that has
 * ended is noticed 100 ms later.
 *
 * Not all of what is left may be committed:
 *   - a 64th of the whole (of the system's memory, or the cgroup's limit), at most 64 MiB, stays for everybody else and
 *     for the daemon itself. A 64th of what is left would be nothing just when it matters: a daemon in a cgroup of
 *     96 MiB was killed when its client had grown to that.
 *   - what is being committed just now is not in the system's figures yet.
 *   - pages cost more than themselves: what describes them.
 *
 * Known limit: of cgroups that are nested deeper than SYSMEM_GROUPS_MAX, the outermost are not looked at.
 */
#include "daemon/memory/sysmem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/log.h"
#include "shm/units.h"

#define ASK_AGAIN_MS 1000u
#define ASK_SOON_MS  100u
#define RESERVE_MAX  (64 * MIB)
#define RESERVE_PART 64u
#define DESCRIBED_BY 16u /* of the pages, at most: bits, descriptions, page map (daemon/heap/README.md: 4%) */
#define TEXT_BYTES   (16 * KIB)

/* The two versions of cgroups, and the names of their files. */
typedef struct cgroup_files {
    const char *line; /* in /proc/self/cgroup, before the path */
    const char *root;
    const char *max;
    const char *current;
    const char *inactive;
    const char *active;
} cgroup_files;

static const cgroup_files cgroup_versions[] = {
    { "0::", "/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file", "active_file" },
    { ":memory:", "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file",
      "total_active_file" },
};

/* What may be committed of left bytes, of a whole. */
static uint64_t without_reserve(uint64_t left, uint64_t whole)
{
    uint64_t reserve = whole / RESERVE_PART < RESERVE_MAX ? whole / RESERVE_PART : RESERVE_MAX;

    return left > reserve ? left - reserve : 0;
}

/* --- files --- */

static void close_fd(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
    *fd = -1;
}

/* The descriptor; -1: there is no such file; -errno below that: it can't be opened. */
static int open_file(const sysmem *mem, const char *dir, const char *group, const char *name)
{
    char path[4096 + 512];
    int fd;

    if (snprintf(path, sizeof(path), "%s%s%s/%s", mem->root, dir, group, name) >= (int)sizeof(path))
        return -ENAMETOOLONG;
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0)
        return fd;
    return errno == ENOENT || errno == ENOTDIR ? -1 : errno == EPERM ? -EACCES : -errno; /* EPERM is 1 */
}

/* The whole file as a string. False: it can't be read. */
static bool read_text(int fd, char *text, size_t cap_bytes)
{
    size_t n = 0;
    ssize_t got = 1;

    while (fd >= 0 && got > 0 && n < cap_bytes - 1) {
        got = pread(fd, text + n, cap_bytes - 1 - n, (off_t)n);
        n += got > 0 ? (size_t)got : 0;
    }
    text[n] = '\0';
    return fd >= 0 && got >= 0;
}

/* The number behind key at the beginning of a line. False: no such line. */
static bool find_field(const char *text, const char *key, uint64_t *ret)
{
    size_t len = strlen(key);
    char *end;

    for (const char *line = text; line != NULL; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, key, len) != 0)
            continue;
        *ret = strtoull(line + len, &end, 10);
        return end != line + len;
    }
    return false;
}

/* --- cgroups --- */

static void close_groups(sysmem *mem)
{
    for (; mem->ngroups > 0; mem->ngroups--) {
        close_fd(&mem->groups[mem->ngroups - 1].max_fd);
        close_fd(&mem->groups[mem->ngroups - 1].current_fd);
        close_fd(&mem->groups[mem->ngroups - 1].stat_fd);
    }
    mem->opened = false;
}

/* Open the files of one cgroup, if it has a limit. False: there is one, and it can't be read. */
static bool open_group(sysmem *mem, unsigned version, const char *path)
{
    const cgroup_files *files = &cgroup_versions[version];
    sysmem_group group = { .version = version };

    if (mem->ngroups == SYSMEM_GROUPS_MAX)
        return true;
    group.max_fd = open_file(mem, files->root, path, files->max);
    if (group.max_fd == -1)
        return true;
    group.current_fd = open_file(mem, files->root, path, files->current);
    group.stat_fd = open_file(mem, files->root, path, "memory.stat");
    mem->groups[mem->ngroups++] = group;
    return group.max_fd >= 0 && group.current_fd >= 0 && group.stat_fd >= 0;
}

/* The cgroup at path and all above it. The path is overwritten. */
static bool open_groups(sysmem *mem, unsigned version, char *path)
{
    for (;;) {
        char *slash = strrchr(path, '/');

        if (!open_group(mem, version, strcmp(path, "/") == 0 ? "" : path))
            return false;
        if (slash == NULL || path[1] == '\0')
            return true;
        slash[slash == path] = '\0'; /* the one above it; "/" last */
    }
}

/* Open the files of all cgroups that the text of /proc/self/cgroup names. False: some can't be read. */
static bool open_all_groups(sysmem *mem, const char *text)
{
    char lines[sizeof(mem->cgroup)];
    char *rest = NULL;

    close_groups(mem);
    (void)snprintf(mem->cgroup, sizeof(mem->cgroup), "%s", text);
    (void)snprintf(lines, sizeof(lines), "%s", text);
    for (char *line = strtok_r(lines, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest)) {
        for (unsigned i = 0; i < sizeof(cgroup_versions) / sizeof(cgroup_versions[0]); i++) {
            char *at = strstr(line, cgroup_versions[i].line);

            if (at != NULL && (i == 1 || at == line) &&
                !open_groups(mem, i, at + strlen(cgroup_versions[i].line))) {
                close_groups(mem);
                return false;
            }
        }
    }
    mem->opened = true;
    return true;
}

/* Bytes that the cgroup can spare; UINT64_MAX: it has no limit now; 0: it has gone, or can't be read. */
static uint64_t group_left(const sysmem_group *group, char *text)
{
    const cgroup_files *files = &cgroup_versions[group->version];
    uint64_t max;
    uint64_t current;
    uint64_t inactive = 0;
    uint64_t active = 0;

    if (!read_text(group->max_fd, text, TEXT_BYTES))
        return 0;
    if (!find_field(text, "", &max))
        return UINT64_MAX;
    if (!read_text(group->current_fd, text, TEXT_BYTES) || !find_field(text, "", &current) ||
        !read_text(group->stat_fd, text, TEXT_BYTES))
        return 0;
    (void)find_field(text, files->inactive, &inactive);
    (void)find_field(text, files->active, &active);
    current = current > inactive + active ? current - inactive - active : 0;
    return without_reserve(max > current ? max - current : 0, max);
}

static uint64_t all_groups_left(sysmem *mem, char *text)
{
    uint64_t left = UINT64_MAX;

    if (mem->cgroup_fd == -1)
        return UINT64_MAX; /* a system without cgroups */
    if (!read_text(mem->cgroup_fd, text, sizeof(mem->cgroup)))
        return 0;
    if ((!mem->opened || strcmp(text, mem->cgroup) != 0) && !open_all_groups(mem, text))
        return 0;
    for (size_t i = 0; i < mem->ngroups; i++) {
        uint64_t here = group_left(&mem->groups[i], text);

        left = here < left ? here : left;
    }
    return left;
}

/* --- asking --- */

static void open_files(sysmem *mem)
{
    if (mem->meminfo_fd < 0)
        mem->meminfo_fd = open_file(mem, "/proc", "", "meminfo");
    if (mem->cgroup_fd < -1)
        mem->cgroup_fd = open_file(mem, "/proc/self", "", "cgroup");
}

static uint64_t ask_system(sysmem *mem)
{
    static char text[TEXT_BYTES]; /* the loop's thread alone asks */
    uint64_t left;
    uint64_t kib;
    uint64_t whole_kib;
    uint64_t here;

    open_files(mem);
    left = all_groups_left(mem, text);
    mem->unreadable = false;
    if (!read_text(mem->meminfo_fd, text, sizeof(text)) || !find_field(text, "MemAvailable:", &kib) ||
        !find_field(text, "MemTotal:", &whole_kib)) {
        mem->unreadable = true;
        return 0;
    }
    here = without_reserve(kib * KIB, whole_kib * KIB);
    return here < left ? here : left;
}

static void tell(sysmem *mem)
{
    if (mem->unreadable && !mem->told)
        log_warn("/proc/meminfo can't be read: nothing is committed");
    mem->told = mem->unreadable;
}

void sysmem_start(sysmem *mem, const char *root)
{
    static char text[sizeof(mem->cgroup)];

    *mem = (sysmem){ .root = root, .meminfo_fd = -1, .cgroup_fd = -EAGAIN };
    open_files(mem);
    if (read_text(mem->cgroup_fd, text, sizeof(text)))
        (void)open_all_groups(mem, text);
}

void sysmem_end(sysmem *mem)
{
    close_groups(mem);
    close_fd(&mem->meminfo_fd);
    close_fd(&mem->cgroup_fd);
}

bool sysmem_has(sysmem *mem, uint64_t bytes, uint64_t coming_bytes, uint64_t now_ms)
{
    uint64_t ago_ms = now_ms - mem->asked_ms;

    if (mem->nasked == 0 || ago_ms >= ASK_AGAIN_MS || (bytes > mem->left_bytes && ago_ms >= ASK_SOON_MS)) {
        mem->left_bytes = ask_system(mem);
        tell(mem);
        mem->asked_ms = now_ms;
        mem->nasked++;
        sysmem_spend(mem, coming_bytes);
    }
    return bytes <= mem->left_bytes;
}

void sysmem_spend(sysmem *mem, uint64_t bytes)
{
    bytes += bytes / DESCRIBED_BY;
    mem->left_bytes -= bytes < mem->left_bytes ? bytes : mem->left_bytes;
}

void sysmem_regain(sysmem *mem, uint64_t bytes)
{
    mem->left_bytes += bytes < UINT64_MAX - mem->left_bytes ? bytes : 0;
}
