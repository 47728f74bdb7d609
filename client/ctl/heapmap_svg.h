/*
 * Heapmap, drawn: how much of each part of the arena is in use, and for objects of which sizes; and a picture of it.
 */
#ifndef GOALLOC_CLIENT_CTL_HEAPMAP_SVG_H
#define GOALLOC_CLIENT_CTL_HEAPMAP_SVG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "shm/sizeclass.h"

#define HEAPMAP_LINE_CELLS 64u
#define HEAPMAP_LINES_MAX  40u
#define HEAPMAP_CELLS_MAX  (HEAPMAP_LINE_CELLS * HEAPMAP_LINES_MAX)

/* Of its pages; what is neither in use nor free with memory is released. */
typedef struct heapmap_cell {
    uint64_t inuse;
    uint64_t backed; /* free, with memory */
    uint64_t npages; /* that exist */
    uint64_t nspan;  /* of those in use, in spans: the sum of by_class */
    uint64_t by_class[SIZE_CLASS_COUNT + 1];
} heapmap_cell;

typedef struct heapmap {
    uint64_t base;
    uint64_t arena_pages;
    uint64_t end;        /* one above the highest page of the page heap */
    uint64_t cell_pages; /* a power of two */
    bool has_classes;    /* false: the daemon does not tell them, or was not asked */
    size_t ncells;
    heapmap_cell cells[HEAPMAP_CELLS_MAX];
} heapmap;

/* Draw it. The socket's path is in the title. Errors stay in out. */
void heapmap_draw(const heapmap *map, const char *socket_path, FILE *out);

#endif
