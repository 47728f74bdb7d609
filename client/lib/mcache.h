/*
 * mcache: the spans that a thread allocates from without asking anybody. Go's runtime/mcache.go.
 */
#ifndef GOALLOC_LIB_MCACHE_H
#define GOALLOC_LIB_MCACHE_H

#include "client/lib/mapping.h"
#include "client/lib/mspan.h"

/* The spans of one slot. */
typedef struct mcache_slot {
    mspan_list partial; /* some objects free; the first has waited longest */
    mspan_list empty;   /* what may go back: nempty of them */
    mspan *all;
    mspan *scan_at;     /* where in all the search for frees by others goes on; NULL: at its beginning */
    uint32_t nempty;
    uint32_t nspans;    /* all, with the current one */
    uint32_t nbatch;    /* spans to ask for next: slow start */
    uint32_t nkeep;     /* empty spans to keep */
    uint32_t nuncounted; /* objects that have been allocated and not yet counted for all to see */
} mcache_slot;

/* The block of 16 bytes that the thread puts tiny objects into. */
typedef struct tiny_block {
    shm_u32 *word;
    char *base;
    uint32_t used;  /* bytes; TINY_BLOCK_BYTES when no block is open */
    uint32_t limit; /* TINY_BLOCK_BYTES; 0 when no block is open, also as a forked child finds it */
    uint32_t block; /* its index */
    mspan *span;    /* NULL: no block is open */
    uint64_t nallocs; /* objects not yet counted */
} tiny_block;

typedef struct mcache {
    /* The child of a fork finds this as it was, for malloc must find structures here; and all that follows zero. */
    union {
        struct {
            mspan *current[SLOT_COUNT]; /* &mspan_none where there is none */
            uint8_t slot8[2][SIZE_TABLE8_MAX / 8 + 1]; /* slots by size, in units of 8 bytes, rounded up; [1]: noscan */
            struct mcache *next_made; /* all that were ever made, by this process and those that it was forked from */
        };
        char kept[MAPPING_UNWIPED_UNIT];
    };
    tiny_block tiny;
    void *thread; /* thread_self() of its thread */
    uint64_t nempty_pages; /* in the lists of empty spans */
    uint64_t nheld_pages;
    uint32_t exchange_at; /* the slot to give back from next */
    mcache_slot slots[SLOT_COUNT];
    uint32_t trim_seen;
    struct mcache *next; /* all mcaches of the process, or the free ones */
} mcache;

_Static_assert(offsetof(mcache, tiny) == MAPPING_UNWIPED_UNIT, "what is kept has pages of its own");

extern mcache mcache_none;

/* The thread's mcache; &mcache_none until it first needs one. The TLS model saves a call on every malloc and free. */
extern _Thread_local mcache *mcache_tls __attribute__((tls_model("initial-exec"), visibility("hidden")));

/*
 * Find a current span with a free object for a slot: in the thread's lists, in the pool, from the daemon. NULL with
 * errno set: there is none. Attaches if need be.
 */
mspan *mcache_refill(uint32_t slot);

/* Allocate an object of a slot by the slow path. NULL with errno. */
void *mcache_alloc(uint32_t slot);

/* Count n objects of class spc as allocated, in the session's shared counters. */
void mcache_count(const mcache *mc, span_class spc, uint64_t n);

/* Tell the counters what this thread has allocated up to now: they lag by what its current spans have handed out. */
void mcache_count_all(mcache *mc);

/* Give all of the thread's and the pool's spans back (RECLAIM: the empty ones). Sent, not awaited. */
void mcache_return_all(void);

/* Give back the empty spans only: to make room after ENOMEM, or because the daemon asks. */
void mcache_return_empty(mcache *mc);

/* Take the span that begins at first over from the pool. NULL: it is not there. */
mspan *mcache_adopt(page_no first);

/*
 * The thread is about to ask the daemon for npages, in a slot or (SLOT_COUNT) for a large object: give as many back
 * that other slots hold empty, if they are more than a small part.
 */
void mcache_exchange(mcache *mc, uint32_t slot, uint64_t npages);

/*
 * Detach: forget every span of every thread, after what they have allocated was counted and close_gate was called. The
 * daemon ends the leases. Threads that exit meanwhile, which is all that other threads may do, come before it or after.
 */
void mcache_forget_all(void (*close_gate)(void));

/* In the child of a fork: no thread has anything. is_forker: the calling thread is that which has forked. */
void mcache_reset(bool is_forker);

#endif
