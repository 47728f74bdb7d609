/*
 * Load: a heap out of an image.
 */
#ifndef GOALLOC_DAEMON_HEAP_LOAD_H
#define GOALLOC_DAEMON_HEAP_LOAD_H

#include "daemon/memory/heapfile.h"
#include "image/imagereader.h"

/*
 * Make the memfds of a new heap, with an arena of arena_bytes where the image says, and fill them with what is in it:
 * as another daemon would leave a heap in which no session lives, for mheap_recover(). eager: pages of spans get memory
 * that have no content. *ndone counts blocks of pages; NULL: nobody looks. 0; -ENOSPC: the arena is too small for it;
 * -EUCLEAN, -errno, and why: *ret is untouched, and nothing is left.
 */
int load_image(const image *im, uint64_t arena_bytes, bool eager, shm_u64 *ndone, heapfile *ret, image_error *why)
    __attribute__((warn_unused_result));

/* Memory that the heap will take, at most: its spans and what describes them. */
uint64_t load_bytes(const image *im);

#endif
