/*
 * Meta: memory for the library's own structures. Not malloc: the library must be usable inside another allocator.
 */
#ifndef GOALLOC_CLIENT_META_H
#define GOALLOC_CLIENT_META_H

#include <stddef.h>

/*
 * Zeroed private memory, aligned to 64 bytes; NULL when the system has none. It is never given back; callers keep
 * free lists. One thread at a time: under the lock of the spans' structures (mspan.c).
 */
void *meta_alloc(size_t bytes);

/* Forget everything that was allocated and start over with the same pages: in the child of a fork. */
void meta_reset(void);

#endif
