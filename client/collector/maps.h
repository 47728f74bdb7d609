/*
 * Maps: what /proc/PID/maps says.
 */
#ifndef GOALLOC_COLLECTOR_MAPS_H
#define GOALLOC_COLLECTOR_MAPS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "client/collector/proc.h"

/* A file as the kernel names it in maps. inode 0: none. */
typedef struct maps_file {
    uint64_t device; /* major << 32 | minor */
    uint64_t inode;
} maps_file;

typedef struct maps_entry {
    uint64_t start, end;
    uint64_t offset; /* in the file */
    maps_file file;
    bool readable, writable, shared;
    bool accessible;  /* any of read, write, execute */
    const char *name; /* "": none */
} maps_entry;

typedef struct maps {
    proc_text text;
    maps_entry *entries;
    uint32_t n;
    uint64_t room;
} maps;

/* Read and parse; names live until the next call. 0, -errno; -EPROTO: it is not as expected. n 0: it has no memory. */
int maps_read(maps *m, pid_t pid) __attribute__((warn_unused_result));
void maps_free(maps *m);

/* Parse the text, which is changed: names end in it. Part of maps_read(). */
int maps_parse(maps *m) __attribute__((warn_unused_result));

/* The entry that holds that address; NULL: none. */
const maps_entry *maps_at(const maps *m, uint64_t address);

static inline bool maps_same_file(maps_file a, maps_file b)
{
    return a.device == b.device && a.inode == b.inode;
}

/*
 * Whether the process has the file mapped. text is used again. 0: no; 1: yes; -errno: it can't be seen
 * (-ENOENT, -ESRCH: it is gone).
 */
int maps_has_file(proc_text *text, pid_t pid, maps_file file);

/* The same of a text that was read. True of some texts that don't name the file: names in them may look like it. */
bool maps_text_has_file(const char *text, maps_file file);

#endif
