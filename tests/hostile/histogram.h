/*
 * Histogram: latencies, in buckets of 1/64 of their value. One process writes, others read.
 */
#ifndef GOALLOC_TESTS_HOSTILE_HISTOGRAM_H
#define GOALLOC_TESTS_HOSTILE_HISTOGRAM_H

#include <string.h>

#include "shm/atomics.h"

#define HISTOGRAM_STEPS 64u                       /* in each power of two */
#define HISTOGRAM_BUCKETS (40u * HISTOGRAM_STEPS) /* up to 18 minutes, in ns */

typedef struct histogram {
    shm_u64 counts[HISTOGRAM_BUCKETS];
    shm_u64 max_ns;
} histogram;

/* Steps of 1 below 64, then 64 of each power of two. */
static inline unsigned histogram_bucket(uint64_t ns)
{
    unsigned shift = ns < HISTOGRAM_STEPS ? 0 : 58u - (unsigned)__builtin_clzll(ns);
    unsigned at =
        ns < HISTOGRAM_STEPS ? (unsigned)ns : HISTOGRAM_STEPS * shift + (unsigned)(ns >> (shift - 1)) - HISTOGRAM_STEPS;

    return at < HISTOGRAM_BUCKETS ? at : HISTOGRAM_BUCKETS - 1;
}

/* The least value that falls into the bucket. */
static inline uint64_t histogram_value(unsigned bucket)
{
    unsigned shift = bucket / HISTOGRAM_STEPS;

    return shift == 0 ? bucket : (uint64_t)(HISTOGRAM_STEPS + bucket % HISTOGRAM_STEPS) << (shift - 1);
}

static inline void histogram_add(histogram *h, uint64_t ns)
{
    u64_add_relaxed(&h->counts[histogram_bucket(ns)], 1);
    if (ns > u64_load_relaxed(&h->max_ns))
        u64_store_relaxed(&h->max_ns, ns);
}

/* One is due every interval_ns: who waits so long for one that others would have begun meanwhile counts for them, too.
 */
static inline void histogram_add_due(histogram *h, uint64_t ns, uint64_t interval_ns)
{
    histogram_add(h, ns);
    while (ns > interval_ns) {
        ns -= interval_ns;
        histogram_add(h, ns);
    }
}

static inline void histogram_merge(histogram *into, const histogram *from)
{
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
        u64_add_relaxed(&into->counts[i], u64_load_relaxed(&from->counts[i]));
    if (u64_load_relaxed(&from->max_ns) > u64_load_relaxed(&into->max_ns))
        u64_store_relaxed(&into->max_ns, u64_load_relaxed(&from->max_ns));
}

static inline uint64_t histogram_count(const histogram *h)
{
    uint64_t n = 0;

    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
        n += u64_load_relaxed(&h->counts[i]);
    return n;
}

/* The value below which so many in a million are. 0: there are none. */
static inline uint64_t histogram_quantile(const histogram *h, uint64_t per_million)
{
    uint64_t want = (histogram_count(h) * per_million + 999999) / 1000000;
    uint64_t n = 0;

    for (unsigned i = 0; i < HISTOGRAM_BUCKETS && want > 0; i++) {
        n += u64_load_relaxed(&h->counts[i]);
        if (n >= want)
            return histogram_value(i);
    }
    return 0;
}

#endif
