/*
 * Sysmem: how much memory the system would still give.
 */
#ifndef GOALLOC_DAEMON_MEMORY_SYSMEM_H
#define GOALLOC_DAEMON_MEMORY_SYSMEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SYSMEM_GROUPS_MAX 32u

/* The files of a cgroup that has a limit of memory. */
typedef struct sysmem_group {
    int max_fd;
    int current_fd;
    int stat_fd;
    unsigned version; /* index into cgroup_versions */
} sysmem_group;

/* What the system said when it was asked last, less what has been committed since; and the files that say it. */
typedef struct sysmem {
    uint64_t left_bytes;
    uint64_t asked_ms;
    uint64_t nasked; /* times that the files were read */
    const char *root;
    int meminfo_fd;
    int cgroup_fd;
    sysmem_group groups[SYSMEM_GROUPS_MAX];
    size_t ngroups;
    char cgroup[4096]; /* what cgroup_fd said when groups were opened */
    bool unreadable;   /* /proc/meminfo was, the last time, */
    bool told;         /* and the log says so */
    bool opened;       /* groups are those of cgroup */
} sysmem;

/*
 * Open the files, below root ("" but in tests). What can't be opened is tried again later; until then nothing is left.
 * The caller ends it with sysmem_end().
 */
void sysmem_start(sysmem *mem, const char *root);
void sysmem_end(sysmem *mem);

/*
 * True if the system, and each memory cgroup that the daemon is in, can spare so many bytes. It is asked again after a
 * second, and after 100 ms when what it had is used up: that costs a pread of some small files of /proc and /sys.
 * Between two readings what was said counts. coming_bytes are being committed, so that the system does not count all of
 * them yet.
 */
bool sysmem_has(sysmem *mem, uint64_t bytes, uint64_t coming_bytes, uint64_t now_ms)
    __attribute__((warn_unused_result));

/* The caller is about to commit so many bytes; so many have gone back to the system. */
void sysmem_spend(sysmem *mem, uint64_t bytes);
void sysmem_regain(sysmem *mem, uint64_t bytes);

#endif
