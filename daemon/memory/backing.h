/*
 * Backing: memory behind pages of the arena, and behind what describes them.
 */
#ifndef GOALLOC_DAEMON_MEMORY_BACKING_H
#define GOALLOC_DAEMON_MEMORY_BACKING_H

#include "daemon/memory/heapfile.h"

/*
 * Put memory behind pages [first, first + npages), zeroed where there was none; whole 2 MiB blocks get huge pages where
 * the system has them. In the thread pool: it waits for a client that punches just these pages. 0, or -ENOMEM or
 * -ENOSPC when the system has no memory; then some of the pages may have got some. *ret_zeroed (untouched on failure):
 * all of them are zeroed by now.
 */
int backing_commit(heapfile *file, page_no first, uint64_t npages, bool *ret_zeroed)
    __attribute__((warn_unused_result));

/*
 * Put memory behind the bits and descriptions of the pages, and into the daemon's page tables, so that its loop does
 * not wait for each of their pages. In the thread pool. What the system does not give comes with the first touch.
 */
void backing_commit_metadata(const heapfile *file, page_no first, uint64_t npages);

#endif
