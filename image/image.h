/*
 * Image: a heap as a file. What a reader finds of one, and how it says what is wrong with it.
 *
 * The file, all numbers little-endian:
 *
 *   0              image_header, then mark (IMAGE_MARK_OFF), then zeroes
 *   IMAGE_BLOCKS_OFF  blocks, in no order, without a gap
 *   index_off      image_entry of each block: roots, spans, then pages, each kind in the order of its content
 *   file_bytes     the end
 *
 * A block is its content, as it is or compressed (zstd) if that is shorter; its entry has the checksum (XXH3) of the
 * bytes as they are stored. The header has the checksum of the index and of itself. So each byte of the file is covered
 * by a checksum, but for the mark, which is one of three words, and the zeroes, which are looked at.
 *
 *   roots   image_root and name, of each named root
 *   spans   image_span and words of bits, of each span in which an object lives, by address
 *   pages   image_extents, then the content of their pages: each page in which an object lives, by address. Places
 *           of objects that do not live are zero. An extent may say that its pages are zero; then it has no content
 *
 * Sessions, leases, groups, adoptions and what free pages had are not in it: a heap is saved when nobody writes it, and
 * what the end of its sessions would free is not there. So a loaded heap is like one from which all sessions have
 * gone: each object is the heap's, and is found by a root.
 *
 * Cut anywhere: file_bytes is that of the file, or it is refused. It is written beside its place and renamed when it is
 * on the disk (imagewriter.c), so a crash leaves the image of before, and perhaps a file NAME.part.
 *
 * The mark says how the image stands to the heap, and is the one word that is ever written in place:
 *
 *   IMAGE_CLEAN   the heap has ended with this image: to load it is to go on
 *   IMAGE_LOADED  a heap has been served since, from this image or another: what that one has written is not in it
 *   IMAGE_COPY    it was saved while the heap was served: the same
 *
 * A daemon with --image stores IMAGE_LOADED, and has it synced, before it serves. If it dies before the store, nothing
 * has been served; after it, the image counts as older than the heap until the next clean stop replaces it. If the
 * system goes down between store and sync, either mark is there, and nothing has been served.
 */
#ifndef GOALLOC_IMAGE_IMAGE_H
#define GOALLOC_IMAGE_IMAGE_H

#include "shm/layout.h"

#define IMAGE_MAGIC        "goalloc image\r\n\x1a" /* 16 bytes; a transfer as text breaks it */
#define IMAGE_FORMAT       1u
#define IMAGE_MARK_OFF     2048u
#define IMAGE_BLOCKS_OFF   4096u
#define IMAGE_BLOCK_PAGES  128u /* at most in a block, with content */
#define IMAGE_EXTENTS_MAX  4096u
#define IMAGE_RAW_MAX      (IMAGE_BLOCK_PAGES * PAGE_BYTES + IMAGE_EXTENTS_MAX * UINT64_C(8) + 64)
#define IMAGE_SPAN_WORDS   ((size_t)SPAN_NELEMS_MAX / 64)
#define IMAGE_VERSION_MAX  32u

/* The marks: no two differ in fewer than four bytes, so a damaged one is none of them. */
#define IMAGE_CLEAN  UINT64_C(0x6e61656c632d2d2d) /* ---clean */
#define IMAGE_LOADED UINT64_C(0x646564616f6c2d2d) /* --loaded */
#define IMAGE_COPY   UINT64_C(0x79706f632d2d2d2d) /* ----copy */

enum image_kind { IMAGE_ROOTS, IMAGE_SPANS, IMAGE_PAGES, IMAGE_KINDS };

typedef struct image_header {
    char magic[16];
    uint32_t format;
    uint32_t major; /* of the heap's layout, and what a build has to know of it: shm/version.h */
    uint32_t minor;
    uint32_t needed;
    uint32_t writing;
    uint32_t nblocks;
    uint64_t base;
    uint64_t arena_bytes;
    uint64_t generation; /* of the heap that was saved */
    uint64_t saved_ms;   /* since 1970 */
    uint64_t nspans;
    uint64_t nroots;
    uint64_t npages;      /* with content */
    uint64_t nzero_pages; /* without */
    uint64_t live_objects;
    uint64_t live_bytes;
    uint64_t index_off;
    uint64_t file_bytes;
    uint64_t index_checksum;
    char version[IMAGE_VERSION_MAX]; /* of who has saved it */
    uint64_t reserved[4];
    uint64_t checksum; /* of all before it */
} image_header;

typedef struct image_entry {
    uint64_t off;
    uint64_t checksum;
    uint32_t stored_bytes;
    uint32_t raw_bytes; /* the same: it is not compressed */
    uint32_t kind;
    uint32_t reserved;
} image_entry;

typedef struct image_root {
    uint64_t offset;
    uint64_t size;
    uint64_t type_tag;
    uint64_t generation; /* of the heap in which it was set: another one's, so GOALLOC_ROOT_REINIT runs init again */
    uint32_t owner;      /* root_owner() of a user; 0: nobody knows */
    uint32_t name_bytes; /* that follow, and zeroes up to a multiple of 8 */
} image_root;

/* Followed by a word of bits for each 64 objects: those that live; of a tiny span, blocks with any. */
typedef struct image_span {
    uint32_t first;
    uint32_t npages;
    uint16_t nelems;
    uint8_t spc;
    uint8_t lessee_folds;
    uint32_t reserved;
} image_span;

#define IMAGE_EXTENT_ZERO 0x80000000u /* in npages: it has no content */

/* Pages of one span. */
typedef struct image_extent {
    uint32_t first;
    uint32_t npages;
} image_extent;

/* The beginning of a block of pages. */
typedef struct image_extents {
    uint32_t n;
    uint32_t ncontent; /* pages of content that follow the extents, which are padded to a multiple of 64 bytes */
    image_extent extents[];
} image_extents;

_Static_assert(sizeof(image_header) == 216 && sizeof(image_entry) == 32 && sizeof(image_root) == 40 &&
                   sizeof(image_span) == 16 && sizeof(image_extent) == 8 && sizeof(image_extents) == 8,
               "the format");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are as they are in memory");

/* What is wrong, as a sentence without an end, and where: "at byte 8192: ...". */
typedef struct image_error {
    char text[320];
} image_error;

/* Fill in why; returns r. */
int image_fail(image_error *why, int r, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Threads for so much work: nthreads; 0: one for each CPU. At most IMAGE_THREADS_MAX, and no more than nblocks. */
#define IMAGE_THREADS_MAX 8u
unsigned image_threads(unsigned nthreads, uint32_t nblocks);

/* Of a block of pages with n extents: where its content begins. */
static inline uint32_t image_content_off(uint32_t n)
{
    return (uint32_t)((sizeof(image_extents) + n * sizeof(image_extent) + 63) / 64 * 64);
}

/* Bytes of a root's name in the file. */
static inline uint64_t image_name_room(uint32_t name_bytes)
{
    return (name_bytes + UINT64_C(7)) / 8 * 8;
}

/* --- spans of an image, in memory: made by a writer of the heap, by a reader of the file --- */

typedef struct image_spans {
    image_span *spans;
    uint32_t *word_at; /* of each span, its first word of bits; and of one more, the end */
    uint64_t *words;
    uint32_t n;
    uint32_t nwords;
    uint32_t spans_cap;
    uint32_t word_at_cap;
    uint32_t words_cap;
} image_spans;

/* The array, of elements of that size, with room for one more than n. NULL: no memory, and it is as it was. */
void *image_grow(void *array, size_t bytes, uint32_t n, uint32_t *cap) __attribute__((warn_unused_result));

/* Add a span with its bits, of which there are bits_nwords(nelems). 0, -ENOMEM. */
int image_spans_add(image_spans *s, const image_span *span, const uint64_t *bits) __attribute__((warn_unused_result));
void image_spans_free(image_spans *s);

static inline const uint64_t *image_span_bits(const image_spans *s, uint32_t i)
{
    return &s->words[s->word_at[i]];
}

/* Bytes of an object of the span. */
uint64_t image_span_elem_bytes(const image_span *span);

/* True if an object that lives has bytes in page i of the span. */
bool image_span_page_lives(const image_spans *s, uint32_t at, uint32_t i);

/*
 * A place in the pages that live: which span, which page of it. image_pos_at() finds the one of a page, image_pos_first
 * and image_pos_next go on from page to page; at the end span is s->n.
 */
typedef struct image_pos {
    uint32_t span;
    uint32_t page;
} image_pos;

image_pos image_pos_first(const image_spans *s);
image_pos image_pos_next(const image_spans *s, image_pos pos);
bool image_pos_at(const image_spans *s, uint32_t page, image_pos *ret);

#endif
