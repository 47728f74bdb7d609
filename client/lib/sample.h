/*
 * Sample: which allocations are sampled, and the slow paths of those that are.
 */
#ifndef GOALLOC_LIB_SAMPLE_H
#define GOALLOC_LIB_SAMPLE_H

#include "client/lib/mcache.h"

/*
 * True if a malloc of the slot that finds nothing at hand, or no credit, is sample_alloc()'s: the thread samples, it
 * has not seen that this has changed, or it is time for a look.
 */
static inline bool sample_is_wanted(uint32_t slot)
{
    const mcache *mc = mcache_tls;

    return process_profile_word() != mc->profile_seen || mc->rate != 0 ||
           !magazine_is_empty(&mc->fronts[slot].magazine);
}

/*
 * An object of the slot, sampled or not. NULL with errno set. ret_zeroed may be NULL; *ret_zeroed: it is known to be
 * zero. Attaches if need be.
 */
void *sample_alloc(uint32_t slot, bool *ret_zeroed);

/*
 * The same for a tiny object of bytes that the open block has no room for. False: the thread does not sample, or has no
 * such blocks, and nothing was done but what attaches.
 */
bool sample_tiny(uint32_t bytes, void **ret) __attribute__((warn_unused_result));

/* --- large objects --- */

/* What a large object that is about to be allocated is sampled by. */
typedef struct sample_large {
    uint64_t rate;     /* 0: it is not sampled */
    double below;      /* an object longer than so many bytes is sampled */
} sample_large;

sample_large sample_begin_large(void);

/* True if a span of so many bytes has to be marked: its object is sampled. */
static inline bool sample_takes_large(const sample_large *s, uint64_t bytes)
{
    return s->rate != 0 && (double)bytes > s->below;
}

/* The object gets this span, before its alloc bit is set: write its record, or see to it that there is none. */
void sample_end_large(const sample_large *s, page_no first);

#endif
