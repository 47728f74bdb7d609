/*
 * mcache: the spans that a thread allocates from without asking anybody. Go's runtime/mcache.go.
 */
#ifndef GOALLOC_CLIENT_MCACHE_H
#define GOALLOC_CLIENT_MCACHE_H

#include "client/process.h"
#include "shm/crash.h"

struct mcache;

/* Which list of its mcache a span is in. */
enum mspan_place {
    MSPAN_CURRENT = 0, /* none: it is being allocated from */
    MSPAN_PARTIAL,
    MSPAN_EMPTY,
    MSPAN_FULL,
};

/*
 * A leased span, as the thread that holds it sees it. Private to the process. All fields but owner and holder belong to
 * the holding thread (or, while holder is NULL, to who holds the pool's lock). Structures are never unmapped, so a
 * thread that looks at the owner of a span that has just gone reads an owner that is not itself.
 */
typedef struct mspan {
    uint64_t cache;   /* free objects of the current word, not handed out yet */
    shm_u64 *word;    /* the current word of alloc bits */
    char *word_base;  /* address of the object of its bit 0 */
    uint32_t elem_bytes;
    uint32_t magic;
    struct mcache *_Atomic owner;  /* the holder, if its frees may take the fast path: NULL for tiny spans */
    struct mcache *_Atomic holder; /* NULL: the process's pool */
    char *base;
    shm_u64 *alloc;   /* alloc words; the remote words follow at SHM_BITS_WORDS */
    int32_t nused;    /* alloc bits that are set */
    int32_t slow_at; /* a free that brings nused down to this needs the slow path: -1 current, 0 partial, nelems full */
    uint32_t cur;     /* number of the current word */
    uint32_t fresh_from; /* words from here on have never been handed out and are zero */
    uint64_t fresh;   /* objects in cache that have never been handed out and are zero */
    uint32_t nloaded; /* objects that have come into cache with the current word, */
    uint32_t nback;   /* and by frees: what is no longer in it was handed out */
    uint32_t nelems;
    uint32_t npages;
    page_no first;
    span_class spc;
    bool needzero;
    enum mspan_place place;
    struct mspan *next;
    struct mspan *prev;
} mspan;

typedef struct mspan_list {
    mspan *head;
    mspan *tail;
    uint64_t count;
} mspan_list;

typedef struct mcache_class {
    mspan_list partial; /* some objects free */
    mspan_list empty;   /* all free: what may go back */
    mspan_list full;    /* none free when last looked at; oldest first */
    uint32_t nbatch;    /* spans to ask for next: slow start */
    uint32_t nkeep;     /* empty spans to keep */
    uint32_t nspans;    /* all of this class */
} mcache_class;

/* The block of 16 bytes that the thread puts tiny objects into. */
typedef struct tiny_block {
    shm_u32 *word;
    char *base;
    uint32_t used; /* bytes; TINY_BLOCK_BYTES when no block is open */
    uint32_t block; /* its index */
    mspan *span;    /* NULL: no block is open */
    uint64_t nallocs; /* objects not yet counted */
} tiny_block;

typedef struct mcache {
    tiny_block tiny;
    mspan *alloc[SPAN_CLASS_COUNT]; /* current spans; &mspan_none where there is none */
    mcache_class classes[SPAN_CLASS_COUNT];
    uint32_t process_trim_seen;
    uint32_t session_trim_seen;
    struct mcache *next; /* all mcaches of the process, or the free ones */
} mcache;

extern mspan mspan_none;  /* no current span */

/* In mspan_of, instead of a span's structure. None of them has an owner, so frees take the slow path. */
extern mspan mspan_held;  /* a span that is being described or returned, a run without object: held in any case */
extern mspan mspan_large; /* a large object: held while its alloc bit is set, since others may free it */
extern mspan mspan_doubt; /* the same, and its length is in doubt (large.c) */
extern mcache mcache_none;

/* The thread's mcache; &mcache_none until it first needs one. The TLS model saves a call on every malloc and free. */
extern _Thread_local mcache *mcache_tls __attribute__((tls_model("initial-exec")));

/*
 * Find a current span with a free object for class spc: in the thread's lists, in the pool, from the daemon. NULL
 * with errno set: there is none. Attaches if need be.
 */
mspan *mcache_refill(span_class spc);

/* Allocate an object of class spc by the slow path. NULL with errno. */
void *mcache_alloc(span_class spc);

/* Count n objects of class spc as allocated, in the session's shared counters. */
void mcache_count(const mcache *mc, span_class spc, uint64_t n);

/* Tell the counters what this thread has allocated up to now: they lag by a word of 64 objects for each class. */
void mcache_count_all(mcache *mc);

/*
 * The owner has freed an object and nused has come down to slow_at: the span changes lists, and may go back. Keeps
 * errno.
 */
void mcache_note_free(mcache *mc, mspan *s);

/* Give all of the thread's and the pool's spans back (RECLAIM: the empty ones). Sent, not awaited. */
void mcache_return_all(void);

/* Give back the empty spans only: to make room after ENOMEM, or because the daemon asks. */
void mcache_return_empty(mcache *mc);

/* Detach: forget every span of every thread. The daemon ends the leases. */
void mcache_forget_all(void);

/* Fork: locks around it, and the child's clean start. */
void mcache_fork_prepare(void);
void mcache_fork_parent(void);
void mcache_fork_child(void);

/* The body of free: a bit of the thread's own span, set in word w, which is alloc, may be handed out again. */
static inline void mspan_clear_bit(mcache *mc, mspan *s, uint32_t w, uint64_t alloc, uint64_t bit)
{
    CRASH_POINT(own_free_before_bit);
    u64_store_release(&s->alloc[w], alloc & ~bit);
    CRASH_POINT(own_free_after_bit);
    if (w == s->cur) {
        s->cache |= bit;
        s->nback++;
        s->fresh &= ~bit;
    }
    s->nused--;
    if (UNLIKELY(s->nused <= s->slow_at))
        mcache_note_free(mc, s);
}

/*
 * Take an object out of the thread's own span: the body of malloc. s is current and cache is not 0. Sets the alloc
 * bit: dying before it leaves the slot free, dying after it costs that one object.
 */
static inline void *mspan_take(mspan *s, uint64_t cache)
{
    uint32_t i = (uint32_t)__builtin_ctzll(cache);

    CRASH_POINT(malloc_before_bit);
    s->cache = cache & (cache - 1);
    s->nused++;
    /*
     * Only the owner writes alloc words while it holds the lease, so a load and a store do. Release: pairs with who
     * looks the object up.
     */
    u64_store_release(s->word, u64_load_relaxed(s->word) | (cache & -cache));
    CRASH_POINT(malloc_after_bit);
    return s->word_base + (uint64_t)i * s->elem_bytes;
}

#endif
