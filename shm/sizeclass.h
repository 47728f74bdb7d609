/*
 * Size classes: Go's 68 (class 0: runs and large objects), with both lookup tables and the division magic. A 69th is
 * that of tiny blocks, which have 16 bytes but lie in spans of their own (see tiny.h).
 *
 * A class has spans of two lengths: Go's, which are short, and up to 4 KiB those that are as many of Go's as 32 KiB
 * have room for. A slot begins with short ones. Sizes and rounding are Go's.
 *
 * The tables are in sizeclass_table.c, which mksizeclasses.c writes from Go's rules; a test regenerates and compares.
 */
#ifndef GOALLOC_SHM_SIZECLASS_H
#define GOALLOC_SHM_SIZECLASS_H

#include "shm/units.h"

#define SIZE_CLASS_COUNT  68
#define SIZE_CLASS_TINY   SIZE_CLASS_COUNT
#define SPAN_CLASS_TINY   (2 * SIZE_CLASS_TINY + 1) /* noscan; there is no scan twin */
#define SMALL_BYTES_MAX   32768u /* larger ones are whole pages */
#define SIZE_TABLE8_MAX   1016u  /* sizes up to here are looked up by 8 bytes, above by 128 */
#define TINY_BLOCK_BYTES  16u
#define TINY_NBLOCKS      409u   /* of a page: 409 * (16 + 4) bytes */
#define SPAN_NELEMS_MAX   1024u
#define SPAN_NPAGES_MAX   10u    /* of a small span */

enum { SPAN_CLASS_COUNT = 2 * (SIZE_CLASS_COUNT + 1) };

#pragma GCC visibility push(hidden) /* looked up on the fast paths: no way round by the linker's tables */
extern const uint16_t size_class_bytes[SIZE_CLASS_COUNT + 1];
extern const uint8_t size_class_npages[SIZE_CLASS_COUNT + 1];
extern const uint16_t size_class_nelems[SIZE_CLASS_COUNT + 1];
extern const uint8_t size_class_short_npages[SIZE_CLASS_COUNT + 1];
extern const uint16_t size_class_short_nelems[SIZE_CLASS_COUNT + 1];
extern const uint32_t size_class_magic[SIZE_CLASS_COUNT + 1]; /* 0 for class 0: every offset gives index 0 */
extern const uint8_t size_table8[129];
extern const uint8_t size_table128[249];
#pragma GCC visibility pop

/* The smallest class that holds size bytes, which is at most SMALL_BYTES_MAX; size 0 gives class 1. */
static inline size_class size_class_for(size_t size)
{
    if (size <= SIZE_TABLE8_MAX)
        return (size_class){ size_table8[(size + 7) >> 3] };
    return (size_class){ size_table128[(size - 1024 + 127) >> 7] };
}

/* Objects of a span of npages; 0: the class has no such span. */
static inline uint32_t size_class_span_nelems(uint8_t class, uint64_t npages)
{
    if (npages == size_class_npages[class])
        return size_class_nelems[class];
    return npages == size_class_short_npages[class] ? size_class_short_nelems[class] : 0;
}

/* The index of the object that offset, within a span of that magic, falls into; exact for every offset in the span. */
static inline uint32_t object_index(uint64_t offset, uint32_t magic)
{
    return (uint32_t)((offset * magic) >> 32);
}

/*
 * True if the object that object_index() finds begins at that offset: product is offset * magic. With magic = (2^32 +
 * e) / size, 0 <= e < size, the lower half of the product is index * e + (offset - index * size) * magic; and index * e
 * is less than the span's bytes, which are less than magic.
 */
static inline bool object_begins(uint64_t product, uint32_t magic)
{
    return (uint32_t)product < magic;
}

#endif
