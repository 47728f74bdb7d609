/*
 * Imageio: what readers and writers of images do to files: whole reads and writes, a heap's files mapped to be read.
 */
#ifndef GOALLOC_IMAGE_IMAGEIO_H
#define GOALLOC_IMAGE_IMAGEIO_H

#include "image/image.h"
#include "shm/version.h"

#define IMAGE_PATH_BYTES 4096

/* Read exactly that. 0; -EUCLEAN: the file ends before; -errno. */
int image_read_all(int fd, void *to, uint64_t nbytes, uint64_t off) __attribute__((warn_unused_result));

/* Write all of it. 0, -errno. */
int image_write_all(int fd, const void *from, uint64_t nbytes, uint64_t off) __attribute__((warn_unused_result));

/* The directory that the name lies in, cut to its room. */
void image_dir_of(const char *name, char ret[IMAGE_PATH_BYTES]);

/* The files of a heap, in the order in which a daemon hands them over to who saves. */
enum { IMAGE_FILE_ARENA, IMAGE_FILE_SPANS, IMAGE_FILE_BITMAP, IMAGE_FILES };

/* Zeroed: nothing is mapped. */
typedef struct image_heap {
    void *maps[IMAGE_FILES];
    uint64_t bytes[IMAGE_FILES];
    shm_map map;
} image_heap;

/*
 * Map them to be read, and look whether they are a heap that this build may use so. 0; -ENOMEM; -ENOEXEC, -EPROTO: it
 * may not, or they are none; and why. image_heap_unmap() is to be called in each case.
 */
int image_heap_map(image_heap *h, const int fds[IMAGE_FILES], enum version_use use, image_error *why)
    __attribute__((warn_unused_result));
void image_heap_unmap(image_heap *h);

#endif
