/*
 * Imagewriter: saves a heap into a file, whole or not at all.
 */
#ifndef GOALLOC_IMAGE_IMAGEWRITER_H
#define GOALLOC_IMAGE_IMAGEWRITER_H

#include "image/imageplan.h"

#define IMAGE_LEVEL     1 /* of zstd: what shrinks an index of words to a quarter, at some 400 MB/s and thread */
#define IMAGE_LEVEL_MAX 19u

typedef struct image_writing {
    uint64_t mark;     /* IMAGE_CLEAN or IMAGE_COPY */
    bool waits;        /* until another one that saves there is through, instead of -EBUSY */
    int level;         /* of zstd; 0: content is stored as it is */
    unsigned nthreads; /* 0: one for each CPU, up to 8 */
    shm_u64 *ndone;    /* blocks of pages that are written, of plan->nblocks; NULL: nobody looks */
    shm_u32 *stop;     /* not 0: it is given up, and seen by that within a block; NULL: it is not */
} image_writing;

typedef struct image_written {
    uint64_t file_bytes;
    uint64_t took_ns;
    bool in_place; /* NAME is the new image, whole: also when its directory could not be synced after that */
} image_written;

/*
 * Whether an image may come to that place: a regular file is there, or nothing, in a directory that may be written to.
 * What is there is replaced by a rename, which a device, a fifo or a link to somewhere would not outlive. 0, -errno,
 * and why. For who wants to know before it begins; image_save() looks at the file itself, too.
 */
int image_check_place(int dir_fd, const char *name, image_error *why) __attribute__((warn_unused_result));

/*
 * Save what the plan says into the file of that name in the directory dir_fd (AT_FDCWD: a path), mode 0600: written as
 * NAME.part, synced, renamed, the directory synced. 0; -EBUSY: another one is saving there; -ESTALE: a copy, and NAME
 * is what the heap was at its end; -ECANCELED: it was given up (how->stop); -errno, and why. Nothing is left beside
 * it, and what was there is as it was, unless ret->in_place: then the system's end may bring it back.
 */
int image_save(int dir_fd, const char *name, const image_plan *plan, const image_source *heap,
               const image_writing *how, image_written *ret, image_error *why) __attribute__((warn_unused_result));

/* Store another mark into an image that is there. 0, -errno. */
int image_set_mark(int fd, uint64_t mark) __attribute__((warn_unused_result));

#endif
