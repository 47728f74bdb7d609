/* segment: names of blocks; segment.c says what a death leaves. No Python here. */
#ifndef GOALLOC_SEGMENT_H
#define GOALLOC_SEGMENT_H

#include "block.h"

/* Name the block that `maker` has shared. 1; 0: there is one of that name; or a negative errno. */
int segment_name(table *names, table *blocks, const char *name, size_t len, const block *b, holder maker, int wait_ms);

/* The block of that name, held by `who`. 1; 0: there is none; or a negative errno. */
int segment_find(table *names, table *blocks, const char *name, size_t len, holder who, int wait_ms, block **ret);

/* Take the name away. 1; 0: there was none; or a negative errno. */
int segment_unname(table *names, table *blocks, const char *name, size_t len, int wait_ms);

#endif
