/*
 * Imageplan: what of a heap is to be saved.
 */
#ifndef GOALLOC_IMAGE_IMAGEPLAN_H
#define GOALLOC_IMAGE_IMAGEPLAN_H

#include "image/image.h"

/* A heap that nobody writes meanwhile. */
typedef struct image_source {
    const shm_map *map; /* all of it, the arena too */
    int arena_fd;
    bool ended; /* no session can write any more: a hold that stands is nobody's */
} image_source;

/* A block of pages: extents [from, to) of the plan, and the pages of content before it. */
typedef struct image_block {
    uint32_t from;
    uint32_t to;
    uint32_t ncontent;
    uint64_t content_at;
} image_block;

typedef struct image_plan {
    image_header header; /* all but what a file adds */
    image_spans spans;
    char *roots; /* image_root and names, one behind the other */
    size_t roots_bytes;
    image_extent *extents;
    uint32_t nextents;
    uint32_t extents_cap;
    image_block *blocks;
    uint32_t nblocks;
    uint32_t blocks_cap;
    char *copy; /* the content of all pages; NULL: it is read from the heap when it is written */
} image_plan;

/*
 * Find out what lives, and in which pages. 0; -ENOMEM; -EAGAIN: try again a little later; -EUCLEAN: the heap is
 * damaged; and why says where. The caller ends it with image_plan_free(), also after a failure.
 */
int image_plan_make(image_plan *plan, const image_source *heap, image_error *why) __attribute__((warn_unused_result));
void image_plan_free(image_plan *plan);

/*
 * Read the content of block i into to, which has room for its ncontent pages, from the heap or from the copy. Places
 * without a live object are not zero yet. 0, -errno. From any thread.
 */
int image_plan_read(const image_plan *plan, const image_source *heap, uint32_t i, char *to)
    __attribute__((warn_unused_result));

/*
 * Read all content into to, which has room for header.npages pages, in several threads (0: one a CPU, up to 8). From
 * then on the plan has it (plan->copy, borrowed), and the heap is not needed any more. 0, -errno.
 */
int image_plan_copy(image_plan *plan, const image_source *heap, char *to, unsigned nthreads)
    __attribute__((warn_unused_result));

/* Zero what does not live in the content of block i, at content. */
void image_plan_clear(const image_plan *plan, uint32_t i, char *content);

#endif
