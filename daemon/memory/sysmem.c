/*
 * Sysmem: MemAvailable of /proc/meminfo, and limit minus use of the cgroups that the daemon is in, of either version.
 *
 * Called by serve/ before it has pages committed. fallocate on a memfd does not fail when memory runs short: the kernel
 * kills somebody, and by what it counts that is the daemon. So the daemon asks first. Pages of files that a cgroup
 * caches can be dropped, so they count as free, as they do in MemAvailable. What can't be read is no limit: without
 * /proc and /sys nothing is refused.
 *
 * Not all of what is left may be committed:
 *   - a 64th of the whole (of the system's memory, or the cgroup's limit), at most 64 MiB, stays for everybody else and
 *     for the daemon itself. A 64th of what is left would be nothing just when it matters: a daemon in a cgroup of
 *     96 MiB was killed when its client had grown to that.
 *   - what is being committed just now is not in the system's figures yet.
 *   - pages cost more than themselves: what describes them.
 */
#include "daemon/memory/sysmem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shm/units.h"

#define ASK_AGAIN_MS 1000u
#define RESERVE_MAX  (64 * MIB)
#define RESERVE_PART 64u
#define DESCRIBED_BY 16u /* of the pages, at most: bits, descriptions, page map (daemon/heap/README.md: 4%) */

/* What may be committed of left bytes, of a whole. */
static uint64_t without_reserve(uint64_t left, uint64_t whole)
{
    uint64_t reserve = whole / RESERVE_PART < RESERVE_MAX ? whole / RESERVE_PART : RESERVE_MAX;

    return left > reserve ? left - reserve : 0;
}

/* The number behind key in a file of lines "key number". False: no such line. */
static bool read_field(const char *path, const char *key, uint64_t *ret)
{
    FILE *file = fopen(path, "re");
    size_t key_bytes = strlen(key);
    char line[256];
    char *end;
    bool found = false;

    while (file != NULL && !found && fgets(line, sizeof(line), file) != NULL) {
        if (strncmp(line, key, key_bytes) != 0)
            continue;
        *ret = strtoull(line + key_bytes, &end, 10);
        found = end != line + key_bytes;
    }
    if (file != NULL)
        (void)fclose(file);
    return found;
}

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

/* The number behind key in a file of the cgroup. False: there is none, or it is "max". */
static bool read_cgroup(const cgroup_files *files, const char *cgroup, const char *name, const char *key, uint64_t *ret)
{
    char path[4096 + 64];

    (void)snprintf(path, sizeof(path), "%s%s/%s", files->root, cgroup, name);
    return read_field(path, key, ret);
}

/* Bytes that the cgroup can spare; UINT64_MAX: it has no limit. */
static uint64_t cgroup_left(const cgroup_files *files, const char *cgroup)
{
    uint64_t max;
    uint64_t current;
    uint64_t inactive = 0;
    uint64_t active = 0;

    if (!read_cgroup(files, cgroup, files->max, "", &max) || !read_cgroup(files, cgroup, files->current, "", &current))
        return UINT64_MAX;
    (void)read_cgroup(files, cgroup, "memory.stat", files->inactive, &inactive);
    (void)read_cgroup(files, cgroup, "memory.stat", files->active, &active);
    current = current > inactive + active ? current - inactive - active : 0;
    return without_reserve(max > current ? max - current : 0, max);
}

/* The least that the cgroup, or one above it, can spare. The path in cgroup is overwritten. */
static uint64_t cgroups_left(const cgroup_files *files, char *cgroup)
{
    uint64_t left = UINT64_MAX;

    for (;;) {
        uint64_t here = cgroup_left(files, strcmp(cgroup, "/") == 0 ? "" : cgroup);
        char *slash = strrchr(cgroup, '/');

        left = here < left ? here : left;
        if (slash == NULL || cgroup[1] == '\0')
            return left;
        slash[slash == cgroup] = '\0'; /* the one above it; "/" last */
    }
}

static uint64_t all_cgroups_left(void)
{
    FILE *file = fopen("/proc/self/cgroup", "re");
    char line[4096];
    uint64_t left = UINT64_MAX;

    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        for (size_t i = 0; i < sizeof(cgroup_versions) / sizeof(cgroup_versions[0]); i++) {
            char *at = strstr(line, cgroup_versions[i].line);
            uint64_t here = UINT64_MAX;

            if (at != NULL && (i == 1 || at == line))
                here = cgroups_left(&cgroup_versions[i], at + strlen(cgroup_versions[i].line));
            left = here < left ? here : left;
        }
    }
    if (file != NULL)
        (void)fclose(file);
    return left;
}

static uint64_t ask_system(void)
{
    uint64_t left = all_cgroups_left();
    uint64_t kib;
    uint64_t whole_kib;
    uint64_t here;

    if (!read_field("/proc/meminfo", "MemAvailable:", &kib) || !read_field("/proc/meminfo", "MemTotal:", &whole_kib))
        return left;
    here = without_reserve(kib * KIB, whole_kib * KIB);
    return here < left ? here : left;
}

bool sysmem_has(sysmem *mem, uint64_t bytes, uint64_t coming_bytes, uint64_t now_ms)
{
    if (bytes > mem->left_bytes || mem->asked_ms == 0 || now_ms - mem->asked_ms >= ASK_AGAIN_MS) {
        mem->left_bytes = ask_system();
        mem->asked_ms = now_ms;
        sysmem_spend(mem, coming_bytes);
    }
    return bytes <= mem->left_bytes;
}

void sysmem_spend(sysmem *mem, uint64_t bytes)
{
    bytes += bytes / DESCRIBED_BY;
    if (mem->left_bytes != UINT64_MAX)
        mem->left_bytes -= bytes < mem->left_bytes ? bytes : mem->left_bytes;
}
