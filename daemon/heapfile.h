/*
 * Heapfile: the three memfds of the heap, their seals and permissions, and the daemon's mapping of them.
 */
#ifndef GOALLOC_DAEMON_HEAPFILE_H
#define GOALLOC_DAEMON_HEAPFILE_H

#include "shm/layout.h"

typedef struct heapfile {
    int arena_fd; /* read-write */
    int spans_fd;
    int bitmap_fd;
    int arena_ro_fd; /* read-only reopens, for clients */
    int spans_ro_fd;
    int bitmap_ro_fd;
    shm_map map; /* all three, read-write; of the arena only the words of tiny blocks are looked at */
} heapfile;

/*
 * Make a new, empty heap of arena_bytes at base. Sparse: takes no memory in proportion to arena_bytes. 0 or -errno;
 * *ret is untouched on failure. The caller ends it with heapfile_close().
 */
int heapfile_create(heapfile *ret, uint64_t base, uint64_t arena_bytes) __attribute__((warn_unused_result));
void heapfile_close(heapfile *file);

/*
 * Put memory behind pages [first, first + npages), zeroed where there was none. May be called from any thread. 0, or
 * -ENOMEM or -ENOSPC when the system has none; then some of the pages may have got memory.
 */
int heapfile_commit(const heapfile *file, page_no first, uint64_t npages) __attribute__((warn_unused_result));

/* Give the memory behind the pages back to the OS; they read as zero afterwards. From any thread. 0 or -errno. */
int heapfile_punch(const heapfile *file, page_no first, uint64_t npages) __attribute__((warn_unused_result));

/*
 * Give back the memory of the bits and descriptions of pages [first, first + npages), multiples of 512, which are in no
 * span: they read as zero, which says the same. From any thread. 0 or -errno.
 */
int heapfile_punch_metadata(const heapfile *file, page_no first, uint64_t npages) __attribute__((warn_unused_result));

/* Physical memory of spans and bitmap, and of the arena, as the kernel counts it. */
uint64_t heapfile_metadata_bytes(const heapfile *file);
uint64_t heapfile_arena_bytes(const heapfile *file);

#endif
