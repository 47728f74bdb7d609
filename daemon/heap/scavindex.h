/*
 * Scavindex: which chunks have free pages with memory behind them, and which of these are worth releasing. Go's
 * scavengeIndex (runtime/mgcscavenge.go).
 */
#ifndef GOALLOC_DAEMON_HEAP_SCAVINDEX_H
#define GOALLOC_DAEMON_HEAP_SCAVINDEX_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/heap/pagebits.h"

/* A chunk with this many pages in use is dense: its few free pages are about to be used again. Go's 96.875%. */
#define SCAV_DENSE_PAGES 496u

typedef struct chunk_use {
    uint16_t ntaken;        /* pages taken now */
    uint16_t nreleasing;    /* of these, taken only to be released, or to release what describes them; not in use */
    uint16_t ninuse_before; /* at the end of the last generation before gen in which the chunk changed */
    uint16_t nbacked;       /* free pages with memory */
    bool added;
    bool has_metadata; /* since its metadata was last released, pages of it have been taken */
    uint32_t gen;
} chunk_use;

typedef struct scavindex {
    chunk_use *chunks; /* all zero at first; the owner's */
    uint32_t gen;
    uint64_t from;            /* no chunk at or above has backed free pages */
    uint64_t from_background; /* none at or above is of interest to the background scavenger */
} scavindex;

/* ntaken pages of a chunk are taken, nbacked of which have memory; or freed. Constant cost. */
void scavindex_alloc(scavindex *index, uint64_t chunk, unsigned ntaken, unsigned nbacked);
void scavindex_free(scavindex *index, uint64_t chunk, unsigned nfreed, unsigned nbacked);

/*
 * The next generation begins: chunks that were dense and have not been since become of interest. Constant cost, and
 * the next background search begins at the top again.
 */
void scavindex_next_gen(scavindex *index);

/* True if free pages of the chunk may be released now: it has some with memory, and is not dense (force: or is). */
bool scavindex_is_candidate(const scavindex *index, const chunk_use *use, bool force);

/* The highest candidate: true, *ret_chunk. Cost: the chunks skipped, which the next search does not see again. */
bool scavindex_find(scavindex *index, bool force, uint64_t *ret_chunk);

#endif
