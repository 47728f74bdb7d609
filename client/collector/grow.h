/*
 * Grow: arrays that grow as things are found. Used by all of this directory. Data: the caller's: an array of malloc(),
 * and how many units it has room for.
 */
#ifndef GOALLOC_COLLECTOR_GROW_H
#define GOALLOC_COLLECTOR_GROW_H

#include <stdint.h>
#include <stdlib.h>

/*
 * The array with room for `wanted` units, at least 1: as it is if it has that, else moved, with twice the room and
 * `step` more, so that growing takes few moves. NULL: no memory, and the array and *room are as they were.
 */
static inline void *grow(void *array, uint64_t *room, uint64_t wanted, uint64_t step, size_t unit_bytes)
{
    uint64_t more = *room * 2 + step;
    void *ret;

    if (wanted <= *room)
        return array;
    more = more > wanted ? more : wanted;
    ret = reallocarray(array, more, unit_bytes);
    if (ret != NULL)
        *room = more;
    return ret;
}

#endif
