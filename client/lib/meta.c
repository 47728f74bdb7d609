/*
 * Meta: a bump allocator over private mappings.
 *
 * Called by mspan.c under its lock. Data: private. Mappings begin at 256 KiB and become larger, two of each size, so
 * that a small table holds them all.
 *
 * Nothing lies at the beginning of a page, and in each mapping nothing in the first half of the first one. A processor
 * takes a load for dependent on a store before it if their addresses have the same lower 12 bits. Objects often begin
 * where a page does, and the first half of a page is where each thread has the slots of its smaller objects (mcache.h,
 * fronts): a structure there made malloc and free in turn take 10.4 ns instead of 8.5.
 *
 * The child of a fork finds the memory zero (mapping_private), however it came about: so the spans' structures of its
 * parent are none to it. The table of mappings it finds as it was, and meta_reset() makes all of them free at once, or
 * passes over those in use; none is walked, since other threads of the parent may have been in the middle of a change.
 */
#include "client/lib/meta.h"

#include <stdint.h>

#include "client/lib/mapping.h"

#define CHUNK_BYTES (256 * KIB)
#define CHUNKS_MAX  48u
#define ALIGN_BYTES 64u
#define PAGE_SPAN   4096u /* addresses that are so far apart look the same to the processor */
#define FIRST_BYTES (PAGE_SPAN / 2)

static void *chunks[CHUNKS_MAX];
static unsigned current; /* those behind it are unused */
static size_t used_bytes = FIRST_BYTES; /* of the current one */

static size_t chunk_bytes(unsigned i)
{
    return CHUNK_BYTES << i / 2;
}

void *meta_alloc(size_t bytes)
{
    void *p;

    bytes = (bytes + ALIGN_BYTES - 1) & ~(size_t)(ALIGN_BYTES - 1);
    if (bytes > CHUNK_BYTES / 2)
        return NULL;
    if (used_bytes % PAGE_SPAN == 0)
        used_bytes += bytes;
    if (used_bytes + bytes > chunk_bytes(current)) {
        if (current + 1 == CHUNKS_MAX)
            return NULL;
        current++;
        used_bytes = FIRST_BYTES;
    }
    if (chunks[current] == NULL && mapping_private(chunk_bytes(current), 0, &chunks[current]) < 0)
        return NULL;
    p = (char *)chunks[current] + used_bytes;
    used_bytes += bytes;
    return p;
}

void meta_reset(bool again)
{
    if (again)
        current = 0;
    else if (current + 1 < CHUNKS_MAX)
        current++;
    used_bytes = FIRST_BYTES;
}
