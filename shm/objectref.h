/*
 * Objectref: what an address turned out to be, and where the object that it names has its bits.
 */
#ifndef GOALLOC_SHM_OBJECTREF_H
#define GOALLOC_SHM_OBJECTREF_H

#include "shm/layout.h"

enum object_verdict {
    OBJECT_LIVE = 0,
    OBJECT_FREE,     /* an object's address, and it is free: never handed out, or freed already */
    OBJECT_INTERIOR, /* within an object, not its beginning */
    OBJECT_NO_SPAN,  /* in the arena, in no span */
    OBJECT_FOREIGN,  /* not in the arena */
};

typedef struct object_ref {
    page_no first;   /* page of its span */
    uint32_t index;  /* of the object in its span; of a tiny object, that of its block */
    uint32_t word;   /* of the bits: index / 64 */
    uint64_t bit;    /* in that word */
    uint64_t offset; /* of the object's beginning, from the arena's base */
    uint64_t bytes;
} object_ref;

#endif
