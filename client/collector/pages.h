/*
 * Pages: which pages of another process have content, and what they hold, without giving any of them memory.
 */
#ifndef GOALLOC_COLLECTOR_PAGES_H
#define GOALLOC_COLLECTOR_PAGES_H

#include "client/collector/words.h"

typedef struct pages_region {
    uint64_t start, end;
} pages_region;

/* How memory of one process is read. */
typedef struct pages {
    pid_t pid;        /* a thread of it that lives */
    int map_fd;       /* of /proc/PID/pagemap; -1: not open */
    int memory_fd;    /* of /proc/PID/mem, for what may not be read otherwise; -1: not open yet */
    uint64_t *buffer; /* PAGES_BUFFER bytes */
    pages_region *regions;
    uint32_t nregions;
    uint64_t regions_room;
    uint64_t deadline_ns;
    const _Atomic bool *given_up; /* NULL; or true: what is found is for nobody any more */
    uint64_t unreadable; /* pages with content that could not be read */
} pages;

uint64_t pages_bytes_each(void);

#define PAGES_BUFFER (UINT64_C(256) << 10)

/* Room, used for one process after another. -ENOMEM. */
int pages_init(pages *p) __attribute__((warn_unused_result));
void pages_deinit(pages *p);

/* 0; -ETIMEDOUT: the deadline has passed; -ECANCELED: it was given up. All that follow ask it, and may return these. */
int pages_go_on(const pages *p) __attribute__((warn_unused_result));

/* From now on it is about that process. -errno: it is gone, or may not be read. */
int pages_open(pages *p, pid_t pid, uint64_t deadline_ns) __attribute__((warn_unused_result));
void pages_close(pages *p);

/* Add to p->regions what has content of its own within [start, end), in order. private pages only: not those of a file.
 */
int pages_find(pages *p, uint64_t start, uint64_t end) __attribute__((warn_unused_result));

/* Read bytes of the process itself: how many; less if the rest is not there. */
uint64_t pages_read(const pages *p, uint64_t from, void *to, uint64_t bytes);

/* Look at the words of [start, end), which has content. */
int pages_look(pages *p, words_found *w, const words_range *what, uint64_t start, uint64_t end)
    __attribute__((warn_unused_result));

/* The same for data of a file between two offsets, which lies at address: holes are left alone. -EIO, -ESTALE, ...: it
 * can't be read. */
int pages_look_at_file(pages *p, words_found *w, const words_range *what, int fd, uint64_t offset, uint64_t bytes)
    __attribute__((warn_unused_result));

#endif
