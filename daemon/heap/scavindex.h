/*
 * Scavindex: which chunks have free pages with memory behind them, and which of these are worth releasing. Go's
 * scavengeIndex (runtime/mgcscavenge.go).
 */
#ifndef GOALLOC_DAEMON_HEAP_SCAVINDEX_H
#define GOALLOC_DAEMON_HEAP_SCAVINDEX_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/heap/pagebits.h"

/* A chunk with this many pages in use is dense: its few free pages will soon be used again. Go's 96.875%. */
#define SCAV_DENSE_PAGES 496u

typedef struct chunk_use {
    uint16_t ntaken;        /* pages taken now */
    uint16_t nreleasing;    /* of these, taken only to be released, or to release what describes them; not in use */
    uint16_t ninuse_before; /* at the end of the last generation before gen in which the chunk changed */
    uint16_t nbacked;       /* free pages with memory */
    bool added;             /* false: in a gap, or above all that was added */
    bool plain;             /* its pages are all alike, and its bits were not written (pagealloc.c) */
    bool has_metadata;      /* pages of it have been taken since its metadata was last released */
    uint32_t gen;           /* in which it last changed */
} chunk_use;

typedef struct scavindex {
    chunk_use *chunks;        /* pagealloc's; all zero at first */
    uint32_t gen;             /* the current generation */
    uint64_t from;            /* no chunk at or above it has free pages with memory */
    uint64_t from_background; /* no chunk at or above it is a candidate of a search that isn't forced */
} scavindex;

/* ntaken pages of a chunk are taken, nbacked of which have memory; or nfreed are freed. Constant cost. */
void scavindex_alloc(scavindex *index, uint64_t chunk, unsigned ntaken, unsigned nbacked);
void scavindex_free(scavindex *index, uint64_t chunk, unsigned nfreed, unsigned nbacked);

/*
 * The next generation begins: chunks that were dense when the last one ended, and are not now, become candidates.
 * Constant cost; the next search that isn't forced begins at the top again.
 */
void scavindex_next_gen(scavindex *index);

/* True if the chunk has free pages with memory and is not dense by the density rule; or is, with force. */
bool scavindex_is_candidate(const scavindex *index, const chunk_use *use, bool force);

/*
 * Find the highest candidate: true, *ret_chunk. False: there is none. Cost: linear in the chunks that it skips, which
 * the next search does not look at again.
 */
bool scavindex_find(scavindex *index, bool force, uint64_t *ret_chunk);

#endif
