/*
 * Plain: the names under which the debug variant of the library has malloc, free and all that debug.c stands before.
 * alloc.c, linking.c and graph.c are compiled for it with GOALLOC_PLAIN and this header before everything else, so
 * that they define these, and debug.c defines the public ones. In the normal library the public names are theirs.
 */
#ifndef GOALLOC_LIB_PLAIN_H
#define GOALLOC_LIB_PLAIN_H

#include <stddef.h>

void *plain_malloc(size_t size);
void *plain_malloc_noscan(size_t size);
void *plain_calloc(size_t count, size_t size);
void *plain_calloc_noscan(size_t count, size_t size);
void *plain_aligned_alloc(size_t alignment, size_t size);
void plain_free(void *p);
int plain_free_checked(void *p);
int plain_unlink_free(void **slot, void *next);
int plain_publish_graph(void *p, size_t *ret_n);

#ifdef GOALLOC_PLAIN
#define goalloc_malloc plain_malloc
#define goalloc_malloc_noscan plain_malloc_noscan
#define goalloc_calloc plain_calloc
#define goalloc_calloc_noscan plain_calloc_noscan
#define goalloc_aligned_alloc plain_aligned_alloc
#define goalloc_free plain_free
#define goalloc_free_checked plain_free_checked
#define goalloc_unlink_free plain_unlink_free
#define goalloc_publish_graph plain_publish_graph
#endif

#endif
