/*
 * Live: which objects of a span live, by its bits.
 */
#ifndef GOALLOC_DAEMON_HEAP_LIVE_H
#define GOALLOC_DAEMON_HEAP_LIVE_H

#include "shm/layout.h"

typedef struct live_sum {
    uint64_t objects;
    uint64_t bytes;
} live_sum;

/* The objects of word w of the span's bits that live; of a tiny span, the blocks with any. */
uint64_t live_word(const shm_map *map, page_no first, uint32_t w);

/* Add the objects that bits, some of live_word(), stand for. */
void live_add(const shm_map *map, page_no first, uint32_t w, uint64_t bits, live_sum *sum);

#endif
