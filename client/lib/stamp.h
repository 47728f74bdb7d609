/*
 * Stamp: what a process in debug mode leaves at the end of a place, and what all libraries read there.
 *
 *        | the object, as many bytes as were asked for | red zone, RED_BYTE ... | asked | check |
 *        p                                                                      the last 16 bytes of the place
 *
 * Processes in debug mode and others share objects. One of the others may resize an object that has a red zone behind
 * it, or ask how much of it may be used; it must not take the red zone for room, or its writes there would be reported
 * as an overflow later. So the length that was asked for lies with the object. Nothing else of the heap says it: the
 * stamp is memory of the object, no shared word more, and a process that dies at any instruction leaves a stamp or
 * some bytes.
 *
 * A stamp counts while the lease lasts during which it was made, and never longer: the check is a hash of the place,
 * the length, the span's lease word and its nleases (which no two leases of a heap have in common). During that lease
 * only the process that made the stamp allocates in the span, and it makes a new stamp for each object. So no stamp of
 * an earlier object in that place, or of a dead process, is ever taken for one; and bytes that a program has written
 * there look like one with a chance of 2^-64.
 */
#ifndef GOALLOC_LIB_STAMP_H
#define GOALLOC_LIB_STAMP_H

#include "client/lib/process.h"
#include "client/lib/shadow.h"

typedef struct stamp {
    shm_u64 asked; /* with STAMP_MASK: no byte of it is a zero that a string's end would write once more */
    shm_u64 check;
} stamp;

#define STAMP_MASK UINT64_C(0xa5a5a5a5a5a5a5a5)

_Static_assert(sizeof(stamp) == 16, "what malloc aligns to 16 stays so");

/* The stamp of a place of at least so many bytes. */
static inline stamp *stamp_of(const object_ref *object)
{
    return (stamp *)(void *)(process.map.arena + object->offset + object->bytes) - 1;
}

/* The check of a stamp, while the span is leased as it is now. The mixing is splitmix64's. */
static inline uint64_t stamp_check(const object_ref *object, uint64_t asked)
{
    const shm_span *span = shm_span_at(&process.map, object->first);
    uint64_t x = object->offset ^ asked << 32 ^ asked >> 32;

    x += u64_load_acquire(&span->lease) * UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x += u64_load_relaxed(&span->nleases);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

/* How many bytes of a live object may be used: what was asked for, if it has a stamp; else its place. A cache line. */
static inline uint64_t stamp_usable(const object_ref *object)
{
    uint64_t asked;
    uint64_t check;

    if (object->bytes <= sizeof(stamp))
        return object->bytes;
    shadow_quiet_begin();
    asked = u64_load_relaxed(&stamp_of(object)->asked) ^ STAMP_MASK;
    check = u64_load_relaxed(&stamp_of(object)->check);
    shadow_quiet_end();
    return asked <= object->bytes - sizeof(stamp) && check == stamp_check(object, asked) ? asked : object->bytes;
}

#endif
