/*
 * Suspects: roots of a marking that looks for the objects of some spans alone: all words of all others.
 */
#ifndef GOALLOC_COLLECTOR_SUSPECTS_H
#define GOALLOC_COLLECTOR_SUSPECTS_H

#include "client/collector/mark.h"

/* What is looked for: offsets in spans that are targets. */
typedef struct suspects {
    const heapcopy *heap;
    uint64_t low; /* all of them are from low on, and below high */
    uint64_t high;
} suspects;

void suspects_init(suspects *s, const heapcopy *heap);

/*
 * Those of n words that point into a target, as offsets, with the words' indexes. At most SUSPECTS_BLOCK words at once.
 * Returns how many.
 */
#define SUSPECTS_BLOCK 512u

typedef struct suspects_hit {
    uint64_t offset;
    uint32_t index;
} suspects_hit;

uint32_t suspects_look(const suspects *s, const uint64_t *data, uint32_t n, suspects_hit ret[SUSPECTS_BLOCK]);

/* Mark from all words of live objects in spans that are no targets. Returns how many bytes were looked at. */
uint64_t suspects_mark(marker *m);

#endif
