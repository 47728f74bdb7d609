/*
 * Pagebits: a chunk's 512 pages as bits, and the three numbers that summarise them. Go's pallocBits and pallocSum.
 *
 * In words of alloc bits 1 means taken, 0 free. Pure functions, no state, no allocation.
 */
#ifndef GOALLOC_DAEMON_HEAP_PAGEBITS_H
#define GOALLOC_DAEMON_HEAP_PAGEBITS_H

#include <stdbool.h>
#include <stdint.h>

#define CHUNK_PAGES 512u
#define CHUNK_WORDS (CHUNK_PAGES / 64)

/* The first bit of that value at or above from; 512 if there is none. */
unsigned pagebits_next(const uint64_t *words, unsigned from, bool value);

/* One above the last bit of that value below to; 0 if there is none. */
unsigned pagebits_prev(const uint64_t *words, unsigned to, bool value);

/* Of the bits [from, to), from <= to <= 512: set them to value; true if all of them are value; count the ones. */
void pagebits_fill(uint64_t *words, unsigned from, unsigned to, bool value);
bool pagebits_all(const uint64_t *words, unsigned from, unsigned to, bool value);
unsigned pagebits_count(const uint64_t *words, unsigned from, unsigned to);

/* Where the lowest n zeros in a row at or above from begin; 512 if there are none. n > 0. */
unsigned pagebits_find(const uint64_t *words, unsigned from, unsigned n);

/* Where the lowest n ones in a row in one word begin; 64 if there are none. 0 < n <= 64. */
unsigned pagebits_find_in_word(uint64_t word, unsigned n);

/*
 * The highest ones in a row: returns how many, from *ret_from on; 0 if there are no ones, or max is 0. Of more than max
 * it is the upper end; if that begins within an aligned block of `block` bits that are all ones, it is extended down to
 * the beginning of the block, beyond max (Go's findScavengeCandidate). block 1: never.
 */
unsigned pagebits_find_last(const uint64_t *words, unsigned max, unsigned block, unsigned *ret_from);

/* --- summaries --- */

#define SUMMARY_BITS  21u
#define SUMMARY_MAX   (UINT64_C(1) << SUMMARY_BITS) /* pages that one entry covers at most */
#define SUMMARY_WHOLE (UINT64_C(1) << 63)

/* Free pages at the beginning of what is covered, in the longest range, at the end. */
typedef struct summary {
    uint64_t start;
    uint64_t max;
    uint64_t end;
} summary;

/* start | max << 21 | end << 42; SUMMARY_WHOLE alone when all of 2^21 pages are free, which 21 bits can't say. */
static inline uint64_t summary_pack(summary s)
{
    return s.max == SUMMARY_MAX ? SUMMARY_WHOLE : s.start | s.max << SUMMARY_BITS | s.end << (2 * SUMMARY_BITS);
}

static inline summary summary_unpack(uint64_t packed)
{
    if (packed & SUMMARY_WHOLE)
        return (summary){ SUMMARY_MAX, SUMMARY_MAX, SUMMARY_MAX };
    return (summary){ packed & (SUMMARY_MAX - 1), packed >> SUMMARY_BITS & (SUMMARY_MAX - 1),
                      packed >> (2 * SUMMARY_BITS) & (SUMMARY_MAX - 1) };
}

static inline uint64_t summary_max(uint64_t packed)
{
    return packed & SUMMARY_WHOLE ? SUMMARY_MAX : packed >> SUMMARY_BITS & (SUMMARY_MAX - 1);
}

/* The summary of n neighbours, each covering pages_each, fewer than SUMMARY_MAX. Inline, since n is a constant. */
static inline summary summary_merge(const uint64_t *entries, unsigned n, uint64_t pages_each)
{
    summary all = { entries[0] & (SUMMARY_MAX - 1), 0, 0 };

    for (unsigned i = 1; i < n && all.start == i * pages_each; i++)
        all.start += entries[i] & (SUMMARY_MAX - 1);
#pragma GCC unroll 8
    for (unsigned i = 0; i < n; i++) {
        /* 0 is most of what lies below the search address. No other branches: nobody could predict them. */
        if (entries[i] == 0) {
            all.end = 0;
            continue;
        }

        uint64_t start = entries[i] & (SUMMARY_MAX - 1);
        uint64_t max = entries[i] >> SUMMARY_BITS & (SUMMARY_MAX - 1);
        uint64_t end = entries[i] >> (2 * SUMMARY_BITS);

        start += all.end;
        max = start > max ? start : max;
        all.max = max > all.max ? max : all.max;
        all.end = end + (end == pages_each ? all.end : 0);
    }
    return all;
}

/* The summary of a chunk, from scratch. */
summary pagebits_summarize(const uint64_t *words);

#endif
