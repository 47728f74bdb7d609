/*
 * Meta: memory for the library's own structures. Not malloc: the library must be usable inside another allocator.
 */
#ifndef GOALLOC_LIB_META_H
#define GOALLOC_LIB_META_H

#include <stdbool.h>
#include <stddef.h>

/*
 * Zeroed private memory, aligned to 64 bytes; NULL when the system has none. It is never given back; callers have
 * free lists. One thread at a time: under the lock of the spans' structures (mspan.c).
 */
void *meta_alloc(size_t bytes);

/*
 * In the child of a fork: forget everything that was allocated. again: start over with the same pages; else they stay
 * as they are, zero.
 */
void meta_reset(bool again);

#endif
