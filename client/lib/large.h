/*
 * Large: objects longer than any run: pages of their own, asked for one by one.
 */
#ifndef GOALLOC_LIB_LARGE_H
#define GOALLOC_LIB_LARGE_H

#include "client/lib/process.h"

/*
 * Allocate size bytes at a multiple of align_pages pages (a power of two). NULL with errno. *ret_zeroed (NULL: don't
 * care) says whether the memory is known to be zero.
 */
void *large_alloc(size_t size, uint64_t align_pages, bool noscan, bool *ret_zeroed);

/* Free a large object. LIVE: done; FREE: it was free already. Leaves errno alone. */
enum object_verdict large_free(const object_ref *object);

/*
 * Make a large object size bytes long where it is: pages are given back if they are a good part of it, or added, some
 * more than are needed, if those behind it are free. True: done, or nothing was to do. False: it has to move.
 */
bool large_resize(const object_ref *object, size_t size);

/* How many bytes to allocate for an object that has to move because it grows to size. */
size_t large_grown_bytes(size_t size);

#endif
