/*
 * Shared: files that targets have mapped shared: each part is looked at once, for all who have it mapped.
 */
#ifndef GOALLOC_COLLECTOR_SHARED_H
#define GOALLOC_COLLECTOR_SHARED_H

#include <pthread.h>

#include "client/collector/maps.h"
#include "client/collector/pages.h"
#include "client/collector/trouble.h"

#define SHARED_NAME_BYTES 96u

typedef struct shared_file {
    maps_file file;
    int fd; /* open to read; -1: it can't be opened */
} shared_file;

typedef struct shared_part {
    maps_file file;
    uint64_t offset, bytes; /* of the file */
    uint64_t address;       /* where this process has it */
    pid_t pid;
    char name[SHARED_NAME_BYTES];
} shared_part;

/* Files stay open from the estimate to the pause. */
typedef struct shared {
    pthread_mutex_t lock; /* held while a part is added: several threads look at processes */
    shared_file *files;
    uint32_t nfiles;
    uint64_t files_room;
    shared_part *parts;
    uint32_t nparts;
    uint64_t parts_room;
    uint64_t bytes; /* of data, once shared_measure() has run */
    bool closed;    /* no file is opened any more: who serves it may be stopped */
} shared;

void shared_init(shared *s);
void shared_free(shared *s);

/* All are stopped: no part is known any more. Files stay open, and no other one is opened. */
void shared_clear(shared *s);

/*
 * The process (pid, or a thread of it that lives) has that part mapped. 0; -EOPNOTSUPP:
 * it can't be opened, or is of a kind that may keep readers waiting. -EAGAIN: it was mapped after the estimate.
 */
int shared_add(shared *s, pid_t pid, pid_t tid, const maps_entry *entry, world_trouble *ret)
    __attribute__((warn_unused_result));

void shared_measure(shared *s);

/* -ETIMEDOUT; -ECANCELED; -EIO and the like: a file can't be read. *ret_at: a process that has it mapped, meanwhile. */
int shared_look(shared *s, pages *p, words_found *w, _Atomic pid_t *ret_at) __attribute__((warn_unused_result));

#endif
