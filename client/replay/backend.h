/*
 * Backend: the allocator that a trace is replayed on: goalloc, or, in the benchmark's peers, the malloc that is linked.
 */
#ifndef GOALLOC_REPLAY_BACKEND_H
#define GOALLOC_REPLAY_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#if defined(REPLAY_PEER) /* its name */
#include <malloc.h>

#define BACKEND_NAME REPLAY_PEER
#define BACKEND_IS_GOALLOC 0
#define backend_free free
#define backend_usable malloc_usable_size
#define backend_strerror strerror

static inline void *backend_malloc(size_t size, bool noscan)
{
    (void)noscan;
    return malloc(size);
}

static inline void *backend_calloc(size_t size, bool noscan)
{
    (void)noscan;
    return calloc(1, size);
}

static inline void *backend_realloc(void *p, size_t size)
{
    return realloc(p, size > 0 ? size : 1); /* of some, 0 frees */
}

static inline void *backend_aligned(size_t alignment, size_t size)
{
    void *p;

    return posix_memalign(&p, alignment, size) == 0 ? p : NULL;
}
#else
#include <goalloc.h>

#define BACKEND_NAME "goalloc"
#define BACKEND_IS_GOALLOC 1
#define backend_realloc goalloc_realloc
#define backend_aligned goalloc_aligned_alloc
#define backend_free goalloc_free
#define backend_usable goalloc_usable_size
#define backend_strerror goalloc_strerror

static inline void *backend_malloc(size_t size, bool noscan)
{
    return noscan ? goalloc_malloc_noscan(size) : goalloc_malloc(size);
}

static inline void *backend_calloc(size_t size, bool noscan)
{
    return noscan ? goalloc_calloc_noscan(1, size) : goalloc_calloc(1, size);
}

#endif

#endif
