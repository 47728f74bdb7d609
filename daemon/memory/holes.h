/*
 * Holes: fallocate on the heap's files: memory for ranges of the arena, and holes where pages and what describes them
 * need none.
 */
#ifndef GOALLOC_DAEMON_MEMORY_HOLES_H
#define GOALLOC_DAEMON_MEMORY_HOLES_H

#include "shm/layout.h"

/* The three files, and where in them what describes a page lies. The descriptors are borrowed. */
typedef struct holes {
    int arena_fd;
    int spans_fd;
    int bitmap_fd;
    uint64_t npages;
    uint64_t page_map_off;
    uint64_t span_table_off;
} holes;

/* What is punched of a range of pages. */
enum holes_kind {
    HOLES_PAGES = 1, /* the pages */
    HOLES_METADATA,  /* their bits and descriptions; the range is a multiple of 512 pages */
    HOLES_ALL,       /* all of that and their part of the page map; the range is a multiple of 1024 pages */
};

/*
 * Punch them; they read as zero afterwards. This waits for who holds the inode lock of a file, which any client can: no
 * thread of the daemon calls it. 0 or -errno.
 */
int holes_punch(const holes *h, enum holes_kind kind, page_range range) __attribute__((warn_unused_result));

/*
 * Put memory behind the pages, or zero those that have some and were never written. It waits as well, and the kernel
 * gives up half-way when a signal ends the process. 0 or -errno.
 */
int holes_fill(const holes *h, page_range range) __attribute__((warn_unused_result));

#endif
