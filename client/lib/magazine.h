/*
 * Magazine: the objects of a slot that their thread has freed last, for its next mallocs.
 *
 * A free clears the object's alloc bit, as any free does, and puts down where the object and its bit are. A malloc of
 * the slot takes the newest of these and sets the bit. So objects that come and go cost no look at their span's
 * structure, its words or its lists; and a thread that dies loses a hint, since the bits are the truth.
 *
 * One rule makes entries need no check: a span's word is loaded into the span's cache only while the magazine of its
 * slot is empty (refill.c). An object in the magazine was freed after that, so it was allocated when its word was
 * loaded: no object is both in a magazine and in a cache. (That of a current span which has one object is put into the
 * cache by a free that goes past the magazine, and by a flush, which has taken it out: mspan_count_free.)
 *
 * An object in the magazine counts as used in its span's structure (mspan.nfrees). So its span never looks empty, and
 * is not returned, pooled or given to another thread before the magazine is flushed: a flush does for each entry what
 * a free without a magazine does at once. Whoever looks at the bits of a slot's spans to say what is used flushes
 * first.
 *
 * A magazine that is full spills: frees go past it. If such a free leaves its span empty, the slot needs less than it
 * has: the magazine is flushed and closed, so that it pins no other span, and opened when a malloc of its slot next has
 * to look for free objects. It is closed at the thread's beginning, too.
 *
 * A pop uses up credit, which the slow path gives (sample.c). So what a thread has to see from time to time it sees
 * without a word that each malloc reads. Without credit a magazine hands out nothing.
 *
 * Where a span is one object, an entry pins what would be an empty span of the slot else. So there a magazine grows by
 * what the slot has taken back of its offers, and retains it (mcache_note_wanted).
 *
 * Called by alloc.c; mcache.c opens, flushes and closes. Data: private to the thread. The child of a fork finds it
 * wiped, which looks empty to malloc. The idea is Bonwick's (Magazines and Vmem, 2001), without its depot.
 */
#ifndef GOALLOC_LIB_MAGAZINE_H
#define GOALLOC_LIB_MAGAZINE_H

#include "client/lib/process.h"
#include "shm/crash.h"

/* Allocate bit of an alloc word: dying before it leaves the place free, dying after it costs that one object. */
static inline void alloc_bit_set(shm_u64 *word, uint64_t bit)
{
    CRASH_POINT(malloc_before_bit);
    u64_writer_set(word, bit); /* only the owner writes alloc words while it holds the lease */
    CRASH_POINT(malloc_after_bit);
}

/* Clear the bit of a live object in a word of the thread's own span: the end of a free. */
static inline void alloc_bit_clear(shm_u64 *word, uint64_t bit)
{
    CRASH_POINT(own_free_before_bit);
    u64_writer_clear(word, bit);
    CRASH_POINT(own_free_after_bit);
}

typedef struct magazine_entry {
    void *p;
    shm_u64 *word; /* the alloc word of its bit */
    uint64_t bit;
} magazine_entry;

/* An array of entries that is filled from floor upwards. limit == floor: it is closed. */
typedef struct magazine {
    magazine_entry *top; /* the next one is put here */
    magazine_entry *floor;
    magazine_entry *limit;
    int64_t credit; /* objects that may be taken before the next look (sample.c); below 0: none */
} magazine;

static inline bool magazine_is_empty(const magazine *m)
{
    return m->top == m->floor;
}

/* Use up one credit. False: there was none. clang tests the old value and not the sign, with two instructions more. */
static inline bool magazine_use_credit(magazine *m)
{
#if defined(__clang__) && defined(__x86_64__)
    bool below_0;

    __asm__("subq $1, %0" : "+m"(m->credit), "=@ccs"(below_0));
    return LIKELY(!below_0);
#else
    return LIKELY(--m->credit >= 0);
#endif
}

/*
 * Take the object that was freed last. What is in it is what its last user has left. False: there is none, or no
 * credit.
 */
__attribute__((always_inline)) static inline bool magazine_pop(magazine *m, void **ret)
{
    magazine_entry *e = m->top;

    if (e == m->floor || UNLIKELY(!magazine_use_credit(m)))
        return false;
    __asm__("" : "+m"(m->top)); /* as if it changed here: so it is moved in memory, which saves an instruction */
    m->top--;
    CRASH_POINT(magazine_pop);
    *ret = e[-1].p; /* before the store, whose address is known later */
    alloc_bit_set(e[-1].word, e[-1].bit);
    return true;
}

/* Put down an object whose bit the caller clears next. False: it is full, or closed. */
static inline bool magazine_push(magazine *m, void *p, shm_u64 *word, uint64_t bit)
{
    magazine_entry *e = m->top;

    if (UNLIKELY(e == m->limit))
        return false;
    *e = (magazine_entry){ p, word, bit };
    m->top = e + 1;
    CRASH_POINT(magazine_push);
    return true;
}

#endif
