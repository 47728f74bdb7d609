/*
 * Imagereader: opens an image and checks all of it: nothing in it is trusted.
 */
#ifndef GOALLOC_IMAGE_IMAGEREADER_H
#define GOALLOC_IMAGE_IMAGEREADER_H

#include "image/image.h"

typedef struct image {
    int fd;
    image_header header;
    uint64_t mark;
    image_entry *entries;
    uint32_t nroot_blocks; /* the first entries; then those of spans, then those of pages */
    uint32_t nspan_blocks;
    image_spans spans;
    char *roots; /* image_root and name, one behind the other; all of them whole */
    size_t roots_bytes;
} image;

/*
 * Open the image of that name. Its header, its index, its roots and its spans are there and whole; of its pages it is
 * known where they are. 0; -ENOENT: there is no such file; -ENOEXEC: another format or layout; -EUCLEAN: it is damaged;
 * -errno; and why says what is wrong, and where. for_writing: its mark is to be set. The caller ends it with
 * image_close(), after a success.
 */
int image_open(image *ret, const char *path, bool for_writing, image_error *why) __attribute__((warn_unused_result));
void image_close(image *im);

/* The root at that place of im->roots; *ret_next: where the next one is. NULL: there is no more. */
const image_root *image_root_at(const image *im, size_t at, const char **ret_name, size_t *ret_next);

static inline uint32_t image_npage_blocks(const image *im)
{
    return im->header.nblocks - im->nroot_blocks - im->nspan_blocks;
}

/* What a thread reads blocks with. */
typedef struct image_bench {
    char *stored;
    char *raw;
    struct ZSTD_DCtx_s *zstd;
} image_bench;

int image_bench_make(image_bench *b) __attribute__((warn_unused_result)); /* 0, -ENOMEM */
void image_bench_free(image_bench *b);

/* A block of pages as it was read; borrowed from the bench. */
typedef struct image_pages {
    const image_extents *extents;
    const char *content;
    image_pos first; /* of its first page, and of the one that must come after its last */
    image_pos next;
} image_pages;

/*
 * Read block i of pages, and check it: its extents are pages that live, in a row. That blocks follow on each other is
 * the caller's to check (image_for_all_pages()). 0, -EUCLEAN, -errno, and why. From any thread.
 */
int image_read_pages(const image *im, image_bench *b, uint32_t i, image_pages *ret, image_error *why)
    __attribute__((warn_unused_result));

/*
 * Do f for each block of pages, in several threads (0: one a CPU, up to 8), until it fails; and check that all pages
 * are there. Progress is counted in *ndone if that is not NULL. 0, what f returns, or as above.
 */
typedef int image_each(void *data, const image_pages *pages, image_error *why);
int image_for_all_pages(const image *im, unsigned nthreads, image_each *f, void *data, shm_u64 *ndone,
                        image_error *why) __attribute__((warn_unused_result));

#endif
