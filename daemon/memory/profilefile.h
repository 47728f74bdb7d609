/*
 * Profilefile: the memfd in which processes record what they sample (shm/profile.h).
 */
#ifndef GOALLOC_DAEMON_MEMORY_PROFILEFILE_H
#define GOALLOC_DAEMON_MEMORY_PROFILEFILE_H

#include "daemon/memory/shelf.h"
#include "shm/profile.h"

#define PROFILEFILE_BYTES sizeof(profile_region)

typedef struct profilefile {
    int fd;       /* of those that sample; -1: there is no region */
    int ro_fd;    /* of those that read it */
    uint32_t seq; /* tells it from those before it; not 0 if there is one */
} profilefile;

#define PROFILEFILE_NONE ((profilefile){ .fd = -1, .ro_fd = -1 })

/* The number behind seq, and before the first one: never 0. */
uint32_t profilefile_next_seq(uint32_t seq);

/*
 * Make a region of that heap, all of which has memory. Takes milliseconds: not in the loop. 0; -errno: the system has
 * no memory, or no descriptors. The caller ends it with profilefile_close(), or puts it on the shelf first.
 */
int profilefile_make(profilefile *ret, uint64_t generation, uint32_t seq) __attribute__((warn_unused_result));

/* Have it on the shelf for the next daemon, instead of the one before. 0, -errno: that one is there still. */
int profilefile_shelve(const profilefile *file, shelf *s) __attribute__((warn_unused_result));

/* Nobody is to find it there any more. */
void profilefile_unshelve(const profilefile *file, shelf *s);

/* Take what was replaced, or has gone, out of the shelf. False: it is there still, with its memory. */
bool profilefile_is_tidy(shelf *s) __attribute__((warn_unused_result));

/*
 * After another daemon: what is on the shelf, if it is the region of seq or the one that was to follow it.
 * PROFILEFILE_NONE: there is none.
 */
profilefile profilefile_find(shelf *s, uint32_t seq);

/* Who closes it last frees its memory: 1 ms, and not in the loop. */
void profilefile_close(profilefile *file);

/* What it takes of the system's memory, as the kernel counts it. */
uint64_t profilefile_bytes(const profilefile *file);

#endif
