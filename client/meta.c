/*
 * Meta: a bump allocator over private mappings of 256 KiB.
 *
 * Called by mcache under its structure lock. Data: private. In the child of a fork the structures of other threads
 * may be in the middle of a change, so none is walked: meta_reset() makes all of it free at once.
 */
#include "client/meta.h"

#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#define CHUNK_BYTES (256 * 1024)
#define ALIGN_BYTES 64

typedef struct chunk {
    struct chunk *next;
    size_t used_bytes;
} chunk;

static chunk *chunks;  /* all */
static chunk *current; /* the one being used; those behind it are unused */

static chunk *chunk_new(void)
{
    chunk *c = mmap(NULL, CHUNK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return c == MAP_FAILED ? NULL : c;
}

void *meta_alloc(size_t bytes)
{
    void *p;

    bytes = (bytes + ALIGN_BYTES - 1) & ~(size_t)(ALIGN_BYTES - 1);
    if (bytes > CHUNK_BYTES - ALIGN_BYTES)
        return NULL;
    if (current == NULL || current->used_bytes + bytes > CHUNK_BYTES) {
        chunk *next = current != NULL ? current->next : chunks;

        if (next == NULL) {
            next = chunk_new();
            if (next == NULL)
                return NULL;
            if (current != NULL)
                current->next = next;
            else
                chunks = next;
        }
        next->used_bytes = ALIGN_BYTES;
        current = next;
    }
    p = (char *)current + current->used_bytes;
    current->used_bytes += bytes;
    return memset(p, 0, bytes);
}

void meta_reset(void)
{
    current = NULL;
}
