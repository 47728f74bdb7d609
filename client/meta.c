/*
 * Meta: a bump allocator over private mappings.
 *
 * Called by mspan.c under its lock. Data: private. Mappings begin at 256 KiB and become larger, two of each size, so
 * that a small table holds them all.
 *
 * The child of a fork finds the memory zero (mapping_private), however it came about: so the spans' structures of its
 * parent are none to it. The table of mappings it finds as it was, and meta_reset() makes all of them free at once, or
 * passes over those in use; none is walked, since other threads of the parent may have been in the middle of a change.
 */
#include "client/meta.h"

#include <stdint.h>

#include "client/mapping.h"

#define CHUNK_BYTES (256 * KIB)
#define CHUNKS_MAX  48u
#define ALIGN_BYTES 64u

static void *chunks[CHUNKS_MAX];
static unsigned current; /* those behind it are unused */
static size_t used_bytes; /* of the current one */

static size_t chunk_bytes(unsigned i)
{
    return CHUNK_BYTES << i / 2;
}

void *meta_alloc(size_t bytes)
{
    void *p;

    bytes = (bytes + ALIGN_BYTES - 1) & ~(size_t)(ALIGN_BYTES - 1);
    if (bytes > CHUNK_BYTES)
        return NULL;
    if (used_bytes + bytes > chunk_bytes(current)) {
        if (current + 1 == CHUNKS_MAX)
            return NULL;
        current++;
        used_bytes = 0;
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
    used_bytes = 0;
}
