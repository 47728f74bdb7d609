/*
 * ring: the queue between one producer and one consumer, threads or processes. Both work in batches: they look at the
 * other's word only when the part that they know of is used up, and publish each RING_BATCH entries, so that the queue
 * costs about a nanosecond an object and what is measured is the allocator.
 */
#ifndef BENCH_RING_H
#define BENCH_RING_H

#include <sched.h>

#include "tests/bench/workloads/bench.h"

#define RING_BATCH 64u
#define RING_SPINS 2000u

/* A side's own view of the queue. */
typedef struct ring_side {
    bench_ring *ring;
    uint64_t mine;  /* head of the consumer, tail of the producer */
    uint64_t limit; /* up to where it may go without looking */
} ring_side;

static inline uint64_t ring_wait(const uint64_t *word, uint64_t known)
{
    uint64_t now;

    for (unsigned spins = 0; (now = __atomic_load_n(word, __ATOMIC_ACQUIRE)) == known; spins++) {
        if (spins < RING_SPINS)
            __builtin_ia32_pause();
        else
            (void)sched_yield();
    }
    return now;
}

static inline void ring_put(ring_side *side, uint64_t name)
{
    bench_ring *r = side->ring;

    if (side->mine == side->limit) { /* all full as far as known: known head = limit - entries */
        __atomic_store_n(&r->tail, side->mine, __ATOMIC_RELEASE);
        side->limit = ring_wait(&r->head, side->limit - BENCH_RING_ENTRIES) + BENCH_RING_ENTRIES;
    }
    r->entries[side->mine++ % BENCH_RING_ENTRIES] = name;
    if (side->mine % RING_BATCH == 0)
        __atomic_store_n(&r->tail, side->mine, __ATOMIC_RELEASE);
}

static inline uint64_t ring_get(ring_side *side)
{
    bench_ring *r = side->ring;
    uint64_t name;

    if (side->mine == side->limit) {
        __atomic_store_n(&r->head, side->mine, __ATOMIC_RELEASE);
        side->limit = ring_wait(&r->tail, side->limit);
    }
    name = r->entries[side->mine++ % BENCH_RING_ENTRIES];
    if (side->mine % RING_BATCH == 0)
        __atomic_store_n(&r->head, side->mine, __ATOMIC_RELEASE);
    return name;
}

/* At the end of a side's run. */
static inline ring_side ring_producer(bench_ring *ring)
{
    uint64_t tail = __atomic_load_n(&ring->tail, __ATOMIC_RELAXED);

    return (ring_side){ ring, tail, __atomic_load_n(&ring->head, __ATOMIC_ACQUIRE) + BENCH_RING_ENTRIES };
}

static inline ring_side ring_consumer(bench_ring *ring)
{
    uint64_t head = __atomic_load_n(&ring->head, __ATOMIC_RELAXED);

    return (ring_side){ ring, head, head };
}

static inline void ring_finish_producer(ring_side *side)
{
    __atomic_store_n(&side->ring->tail, side->mine, __ATOMIC_RELEASE);
}

static inline void ring_finish_consumer(ring_side *side)
{
    __atomic_store_n(&side->ring->head, side->mine, __ATOMIC_RELEASE);
}

#endif
