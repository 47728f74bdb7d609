/*
 * Imagefile: the image that a heap is loaded from, and its mark.
 */
#ifndef GOALLOC_DAEMON_IMAGEFILE_H
#define GOALLOC_DAEMON_IMAGEFILE_H

#include "daemon/antechamber.h"
#include "daemon/heap/mheap.h"
#include "daemon/options.h"

/*
 * Load the heap out of --load, else out of --image, and say in progress how far it is. 0; 1: there is no image, and that
 * is no mistake; -errno: logged, and nothing is left of it.
 */
int imagefile_load(const options *o, antechamber *progress, heapfile *ret_file, mheap *ret_heap)
    __attribute__((warn_unused_result));

/*
 * A heap will be served beside the --image: open what is there, to be marked as older by imagefile_mark() before the
 * first client is served, when the daemon may open no files any more. *ret_fd -1: nothing is there that could be
 * loaded. 0, -errno: logged.
 */
int imagefile_open_mark(const options *o, int *ret_fd) __attribute__((warn_unused_result));

/* Mark it, and close fd. 0, -errno: logged. */
int imagefile_mark(int fd) __attribute__((warn_unused_result));

#endif
