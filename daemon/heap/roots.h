/*
 * Roots: names of objects, in a table of the spans region.
 */
#ifndef GOALLOC_DAEMON_HEAP_ROOTS_H
#define GOALLOC_DAEMON_HEAP_ROOTS_H

#include <stdio.h>

#include "shm/layout.h"

typedef struct roots roots;

/* What a caller handles itself. */
enum {
    ROOTS_E_EMPTY = 1,
    ROOTS_E_TOO_LONG,
    ROOTS_E_NOT_UTF8,
    ROOTS_E_NO_SUCH,
    ROOTS_E_FULL,
    ROOTS_E_NOT_LIVE, /* the offset is not within a live object */
};

/* Set up over the root table of map, reading what stands there. -ENOMEM; -EUCLEAN: it is damaged. */
int roots_new(shm_map *map, roots **ret) __attribute__((warn_unused_result));
roots *roots_free(roots *r); /* returns NULL */

/* Set name to offset, or remove it when offset is 0. 0 or ROOTS_E_*. */
int roots_set(roots *r, const uint8_t *name, size_t name_bytes, uint64_t offset) __attribute__((warn_unused_result));
int roots_get(const roots *r, const uint8_t *name, size_t name_bytes, uint64_t *ret_offset)
    __attribute__((warn_unused_result));

uint32_t roots_count(const roots *r);

/* The first root at entry start or above: its entry, or SHM_ROOTS_MAX if there is none. */
uint32_t roots_next(const roots *r, uint32_t start);

/* Check table, hash and counters against each other. 0, -EUCLEAN after printing what differs. Linear. */
int roots_validate(const roots *r, FILE *err) __attribute__((warn_unused_result));

/* Print a line for each root. */
void roots_dump(const roots *r, FILE *out);

#endif
