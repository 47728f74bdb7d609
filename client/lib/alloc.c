/*
 * alloc: malloc and free, and what is made of them. (resize.c has realloc.)
 *
 * The fast paths stand here whole; what they do to a span's bits is in mspan.h. Everything they read is private to the
 * process, but for the alloc word, the remote word and free_limit.
 *
 *   malloc: size -> slot (two tables) -> the slot's magazine: the object freed last, if there is one; else the slot's
 *           current span -> its next free bit -> set the alloc bit -> address.
 *           Below 16 bytes and noscan: a place in the thread's open block (tiny.h).
 *           Where nothing is at hand: the next word of a span (refill.c), or what sample.c makes of it.
 *   free:   address -> page -> mspan_of: is it this thread's span? -> index by multiplication -> check both bits ->
 *           put it into the magazine -> clear the alloc bit. In a session that reclaims, or while an object of the heap
 *           is adopted, the kept bit is looked at, too. Anything else takes the slow path: another thread's or process's
 *           span (one fetch_or on the remote word), a large object, a pointer that is none.
 *
 * Checks, always: alloc bit clear or remote bit set is a double free; an address that is not a multiple of the
 * element size is an interior pointer; an address outside the arena is foreign.
 */
#include <errno.h>
#include <string.h>

#include "client/include/goalloc.h"
#include "client/lib/attach.h"
#include "client/lib/fault.h"
#include "client/lib/large.h"
#include "client/lib/marked.h"
#include "client/lib/mcache.h"
#include "client/lib/refill.h"
#include "client/lib/sample.h"
#include "client/lib/tiny.h"

#define RUN_WASTE 2u /* a run may be longer than is needed by half */

/*
 * The function keeps a frame pointer, whatever the file is compiled with: it has a frame of its own while it allocates,
 * and stacks of sampled allocations are walked by frame pointers (recorder.h).
 */
#define KEEP_FRAME_POINTER() __asm__ volatile("" : : "r"(__builtin_frame_address(0)))

/* Out of line, so that the fast path needs no stack frame. */
__attribute__((noinline)) static void *alloc_slow(uint32_t slot)
{
    mspan *s;

    if (UNLIKELY(sample_is_wanted(slot)))
        return sample_alloc(slot, NULL);
    s = refill_near(slot);
    return LIKELY(s != NULL) ? slot_take(s->front) : sample_alloc(slot, NULL);
}

/* The body of malloc. */
static inline void *slot_alloc(uint32_t slot)
{
    slot_front *f = &mcache_tls->fronts[slot];
    void *p;

    if (magazine_pop(&f->magazine, &p))
        return p;
    return LIKELY(f->cache != 0) ? slot_take(f) : alloc_slow(slot);
}

/* The same for sizes up to SIZE_TABLE8_MAX, which the thread's own table has; but if it has no mcache yet. */
static inline void *slot8_alloc(size_t size, bool noscan)
{
    size_t i = (size + 7) >> 3;
    slot_front *f = mcache_tls->front8[noscan][i];
    void *p;

    if (magazine_pop(&f->magazine, &p))
        return p;
    return LIKELY(f->cache != 0) ? slot_take(f) : alloc_slow(slot_of_class((size_class){ size_table8[i] }, noscan));
}

/* True if the thread has a free object of the slot at hand. */
static inline bool slot_is_ready(const mcache *mc, uint32_t slot)
{
    const slot_front *f = &mc->fronts[slot];

    return !magazine_is_empty(&f->magazine) || f->cache != 0 || mc->slots[slot].empty.head != NULL ||
           mc->slots[slot].offered.head != NULL;
}

/*
 * The slot for a run: if the thread has none of that length, it takes one that is longer by up to a half. That one is
 * there anyway, and a request costs more than the pages that are not used. So a buffer that grows by half at a time
 * can grow without moving.
 */
static uint32_t ready_run_slot(size_t size, bool noscan)
{
    const mcache *mc = mcache_tls;
    uint64_t npages = (size + PAGE_BYTES - 1) / PAGE_BYTES;
    uint64_t most = npages + npages / RUN_WASTE;

    for (uint64_t n = npages; n <= most && n <= SHM_RUN_PAGES_MAX; n++) {
        if (slot_is_ready(mc, slot_of_run(n, noscan)))
            return slot_of_run(n, noscan);
    }
    return slot_of_run(npages, noscan);
}

/* What the size classes do not hold, and no magazine has. */
__attribute__((noinline)) static void *alloc_bigger(size_t size, bool noscan)
{
    return size > SHM_RUN_BYTES_MAX ? large_alloc(size, 1, noscan, NULL) : slot_alloc(ready_run_slot(size, noscan));
}

static inline void *alloc(size_t size, bool noscan)
{
    if (LIKELY(size <= SIZE_TABLE8_MAX))
        return slot8_alloc(size, noscan);
    if (LIKELY(size <= SMALL_BYTES_MAX))
        return slot_alloc(slot_of_class(size_class_for(size), noscan));
    if (LIKELY(size <= SHM_RUN_BYTES_MAX)) {
        magazine *m = &mcache_tls->fronts[slot_of_run((size + PAGE_BYTES - 1) / PAGE_BYTES, noscan)].magazine;

        void *p;

        if (magazine_pop(m, &p))
            return p;
    }
    return alloc_bigger(size, noscan);
}

void *goalloc_malloc(size_t size)
{
    return alloc(size, false);
}

/* The same as alloc_slow(), for a tiny object that the open block has no room for. */
__attribute__((noinline)) static void *alloc_tiny(size_t size)
{
    mspan *s = mcache_tls->current[SLOT_TINY];
    void *p;

    if (UNLIKELY(mcache_tls->rate != 0 || mcache_tls->fronts[SLOT_TINY].cache == 0)) {
        if (sample_tiny(tiny_bytes(size), &p))
            return p;
        if (process.reclaim)
            return slot_alloc(slot_of_class(size_class_for(size), true));
        s = mcache_tls->current[SLOT_TINY]; /* the mcache may be new to this thread, and have been another one's */
        if (mcache_tls->fronts[SLOT_TINY].cache == 0 && (s = refill_near(SLOT_TINY)) == NULL &&
            (s = refill_far(SLOT_TINY)) == NULL)
            return NULL;
    }
    return mcache_open_tiny(mcache_tls, s, tiny_bytes(size));
}

void *goalloc_malloc_noscan(size_t size)
{
    if (size < TINY_BLOCK_BYTES) {
        void *p;

        return LIKELY(tiny_alloc(&mcache_tls->tiny, size, &p)) ? p : alloc_tiny(size);
    }
    return alloc(size, true);
}

/* calloc, where the slot has nothing at hand. */
__attribute__((noinline)) static void *calloc_slow(uint32_t slot, size_t bytes)
{
    bool zeroed = false;
    void *p;

    KEEP_FRAME_POINTER();
    p = sample_alloc(slot, &zeroed);
    return p != NULL && !zeroed ? memset(p, 0, bytes) : p;
}

__attribute__((noinline)) static void *calloc_large(size_t bytes, bool noscan)
{
    bool zeroed = false;
    void *p;

    KEEP_FRAME_POINTER();
    p = large_alloc(bytes, 1, noscan, &zeroed);
    return p != NULL && !zeroed ? memset(p, 0, bytes) : p;
}

/* The body of calloc, but for tiny objects. */
static inline void *alloc_zeroed(size_t count, size_t size, bool noscan)
{
    const mcache *mc = mcache_tls;
    size_t bytes;
    uint32_t slot;
    void *p;

    if (__builtin_mul_overflow(count, size, &bytes)) {
        errno = ENOMEM;
        return NULL;
    }
    if (bytes > SHM_RUN_BYTES_MAX)
        return calloc_large(bytes, noscan);
    slot = bytes <= SMALL_BYTES_MAX ? slot_of_class(size_class_for(bytes), noscan) : ready_run_slot(bytes, noscan);
    if (magazine_pop(&mcache_tls->fronts[slot].magazine, &p))
        return memset(p, 0, bytes);
    if (UNLIKELY(mc->fronts[slot].cache == 0))
        return calloc_slow(slot, bytes);
    p = slot_take(&mcache_tls->fronts[slot]);
    return mspan_is_zero(mc->current[slot]) ? p : memset(p, 0, bytes);
}

void *goalloc_calloc(size_t count, size_t size)
{
    return alloc_zeroed(count, size, false);
}

void *goalloc_calloc_noscan(size_t count, size_t size)
{
    size_t bytes;
    void *p;

    KEEP_FRAME_POINTER();
    if (__builtin_mul_overflow(count, size, &bytes) || bytes >= TINY_BLOCK_BYTES)
        return alloc_zeroed(count, size, true);
    p = goalloc_malloc_noscan(bytes);
    return p != NULL ? memset(p, 0, bytes) : NULL;
}

void *goalloc_aligned_alloc(size_t alignment, size_t size)
{
    if (alignment == 0 || (alignment & (alignment - 1)) != 0 || alignment > SHM_ALIGN_BYTES_MAX) {
        errno = EINVAL;
        return NULL;
    }
    if (alignment <= PAGE_BYTES && size <= SMALL_BYTES_MAX) {
        /* A span begins at a page, so objects of a class whose size is a multiple of the alignment are aligned. */
        for (unsigned c = size_class_for(size < alignment ? alignment : size).n; c < SIZE_CLASS_COUNT; c++) {
            if (size_class_bytes[c] % alignment == 0)
                return slot_alloc(slot_of_class((size_class){ (uint8_t)c }, false));
        }
    }
    return large_alloc(size, alignment > PAGE_BYTES ? alignment / PAGE_BYTES : 1, false, NULL);
}

/* The end of a free, of a live object. True: it changes the place of s, which refill_note_free() sees to. */
static inline bool own_free_end(mspan *s, void *p, shm_u64 *word, uint64_t bit)
{
    if (magazine_push(&s->front->magazine, p, word, bit)) {
        alloc_bit_clear(word, bit);
        return false;
    }
    alloc_bit_clear(word, bit);
    return mspan_count_free(s);
}

/*
 * True if the object's kept bit is 0, whatever the span's has_kept says: then a free has nothing to clear. A bit that is
 * set may mean nothing. Nobody sets it meanwhile: who publishes or adopts an object has it, and nobody frees it then.
 */
static inline bool own_is_not_kept(const mspan *s, const shm_u64 *word, uint64_t bit)
{
    return s->nelems <= SPAN_NELEMS_MAX / 2 && !u64_any_relaxed(word + SHM_KEPT_AT, bit);
}

/*
 * The body of free: an object of the thread's own span; `may_be_kept`: look for its kept bit. False: it is none, or
 * there is more to do; nothing happened.
 */
__attribute__((always_inline)) static inline bool own_free(mspan *s, void *p, bool may_be_kept)
{
    uint64_t product = (uint64_t)((char *)p - s->base) * s->magic;

    /* The lower half is the remainder, so to say: see object_begins(). */
    if (UNLIKELY(!object_begins(product, s->magic)))
        return false;

    uint32_t index = (uint32_t)(product >> 32);
    shm_u64 *word = mspan_word(s, index / 64);
    uint64_t bit = UINT64_C(1) << (index % 64);

    if (UNLIKELY(!u64_any_relaxed(word, bit) || u64_any_relaxed(shm_remote_of(word), bit)))
        return false;
    if (may_be_kept && UNLIKELY(!own_is_not_kept(s, word, bit)))
        return false;
    if (own_free_end(s, p, word, bit))
        refill_note_free(p, s);
    return true;
}

/* The same in full: with the verdict, and kept bits. */
static enum object_verdict own_free_slow(mspan *s, uint64_t offset)
{
    uint32_t index = object_index(offset, s->magic);
    shm_u64 *word = mspan_word(s, index / 64);
    uint64_t bit = UINT64_C(1) << (index % 64);

    if (index >= s->nelems)
        return OBJECT_NO_SPAN;
    if ((uint64_t)index * s->elem_bytes != offset)
        return OBJECT_INTERIOR;

    if ((u64_load_relaxed(word) & ~u64_load_relaxed(shm_remote_of(word)) & bit) == 0)
        return OBJECT_FREE;
    /*
     * The kept bit goes before the alloc bit: a process that dies in between leaves an object of its session's.
     */
    if (span_has_kept(shm_span_at(&process.map, mspan_first(s)))) {
        (void)u64_fetch_and_acq_rel(shm_kept_word(&process.map, mspan_first(s), index / 64), ~bit);
        CRASH_POINT(own_free_after_kept);
    }
    if (own_free_end(s, s->base + offset, word, bit))
        refill_note_free(NULL, s);
    return OBJECT_LIVE;
}

/*
 * The thread's own span that offset, within the arena, lies in; NULL: another's, or none. Acquire, pairs with
 * mspan_new(): the structure that another thread has made is seen with its owner, who is not this one.
 */
static inline mspan *own_span(uint64_t offset)
{
    mspan *s = atomic_load_explicit(&process.mspan_of[offset >> PAGE_SHIFT], memory_order_acquire);

    if (UNLIKELY(s == NULL || !mspan_is_own(s)))
        return NULL;
    return s;
}

/* Free a tiny object of the thread's own span. The open block does not end by it. */
__attribute__((noinline)) static enum object_verdict free_tiny(mspan *s, void *p)
{
    object_ref object;
    bool last = false;
    enum object_verdict verdict = object_find_to_free(&process.map, (uintptr_t)p, &object);

    if (verdict != OBJECT_LIVE)
        return verdict;
    verdict = tiny_free(&process.map, &object, &last);
    if (last && s->open_block != object.index + 1 && tiny_block_end(s, object.index))
        refill_note_free(NULL, s);
    return verdict;
}

/* Free a tiny object of another's span, or a large one. free_slow() has no name of it in memory: it looks again. */
__attribute__((noinline)) static enum object_verdict free_found_again(void *p)
{
    object_ref object;
    enum object_verdict verdict = object_find_to_free(&process.map, (uintptr_t)p, &object);

    if (verdict != OBJECT_LIVE)
        return verdict;
    return span_is_tiny(shm_span_at(&process.map, object.first)) ? object_free_remote(&process.map, &object)
                                                                  : large_free(&object);
}

/* Free whatever p is, all cases, with the verdict. LIVE: done. */
__attribute__((noinline)) static enum object_verdict free_slow(void *p)
{
    uint64_t arena_bytes = u64_load_acquire(&process.arena_bytes); /* before base: pairs with process_open_gate() */
    uint64_t offset = u64_above_relaxed((uintptr_t)p, &process.base);
    object_ref object;
    enum object_verdict verdict;
    mspan *s;

    if (offset >= arena_bytes) /* 0 if there is no heap */
        return OBJECT_FOREIGN;
    s = own_span(offset);
    if (s == NULL && !process_is_mapped()) /* a child may not know yet that it is one, whose spans are its parent's */
        return OBJECT_FOREIGN;
    if (s != NULL)
        return s->slot == SLOT_TINY ? free_tiny(s, p) : own_free_slow(s, (uint64_t)((char *)p - s->base));
    verdict = object_look(&process.map, (uintptr_t)p, &object, true);
    if (verdict != OBJECT_LIVE)
        return verdict;

    const shm_span *span = shm_span_at(&process.map, object.first);

    if (UNLIKELY(span_is_tiny(span) ||
                 (span_class_size(span->spc).n == 0 && !(span->lessee_folds && span_is_leased(span)))))
        return free_found_again(p);
    s = refill_inherit(object.first);
    if (s != NULL)
        return own_free_slow(s, (uint64_t)((char *)p - s->base));
    verdict = object_free_found(&process.map, &object);
    if (UNLIKELY(span->marked) && verdict == OBJECT_LIVE && process_leases(span))
        marked_note_free(object.first);
    return verdict;
}

/* Everything that the fast path of goalloc_free() is not for. */
__attribute__((noinline)) static void free_cold(void *p)
{
    enum object_verdict verdict;

    if (p == NULL)
        return;
    if (process.readonly)
        fault_die("goalloc_free", p, "the heap is attached read-only");
    verdict = free_slow(p);
    KEEP_POINTER(p);
    if (verdict != OBJECT_LIVE)
        fault_die_of("goalloc_free", p, verdict);
}

/* How far a free has come on its fast path. */
enum free_way {
    FREE_DONE,
    FREE_KEPT, /* nothing happened: kept bits may matter, or there is no heap */
    FREE_SLOW, /* nothing happened: it is a case for free_slow() */
};

/* The fast path. */
__attribute__((always_inline)) static inline enum free_way free_fast(void *p)
{
    /* The limit first: it brings the base and the table of its attach with it. Pairs with process_open_gate(). */
    const shm_u64 *limit = atomic_load_explicit(&process.free_limit, memory_order_acquire);
    uint64_t offset = u64_above_relaxed((uintptr_t)p, &process.base);
    mspan *s;

    if (UNLIKELY(!u64_exceeds_relaxed(limit, offset)))
        return FREE_KEPT;
    s = own_span(offset);
    return LIKELY(s != NULL) && own_free(s, p, false) ? FREE_DONE : FREE_SLOW;
}

/*
 * The same where kept bits may matter, which free_limit says. Without a session the arena has 0 bytes; a read-only
 * attach and a forked child have no span of their own.
 */
__attribute__((always_inline)) static inline bool free_fast_kept(void *p)
{
    uint64_t arena_bytes = u64_load_acquire(&process.arena_bytes); /* before base: pairs with process_open_gate() */
    uint64_t offset = u64_above_relaxed((uintptr_t)p, &process.base);
    mspan *s;

    if (UNLIKELY(offset >= arena_bytes))
        return false;
    s = own_span(offset);
    return s != NULL && own_free(s, p, true);
}

/* Out of line, as free_cold(): so each is a jump, and needs a stack frame only from there on. */
__attribute__((noinline)) static void free_kept(void *p)
{
    if (UNLIKELY(!free_fast_kept(p)))
        free_cold(p);
}

void goalloc_free(void *p)
{
    enum free_way way = free_fast(p);

    if (UNLIKELY(way == FREE_KEPT))
        free_kept(p);
    else if (UNLIKELY(way == FREE_SLOW))
        free_cold(p);
}

/* The same for goalloc_free_checked(); out of line, so that the fast path saves no register for the pointer. */
__attribute__((noinline)) static int free_checked_cold(void *p)
{
    int r = process_mapped_writable();

    if (r == 0)
        r = process_verdict_error(free_slow(p));
    KEEP_POINTER(p);
    return r;
}

__attribute__((noinline)) static int free_checked_kept(void *p)
{
    return free_fast_kept(p) ? 0 : free_checked_cold(p);
}

int goalloc_free_checked(void *p)
{
    enum free_way way = p == NULL ? FREE_DONE : free_fast(p);

    if (LIKELY(way == FREE_DONE))
        return 0;
    return way == FREE_KEPT ? free_checked_kept(p) : free_checked_cold(p);
}

int goalloc_contains(const void *p)
{
    uint64_t arena_bytes = u64_load_acquire(&process.arena_bytes); /* before base: pairs with process_open_gate() */

    return (uintptr_t)p - u64_load_relaxed(&process.base) < arena_bytes;
}

uint64_t goalloc_offset(const void *p)
{
    if (p == NULL)
        return 0;
    return goalloc_contains(p) ? (uintptr_t)p - u64_load_relaxed(&process.base) : UINT64_MAX;
}

void *goalloc_pointer(uint64_t offset)
{
    if (offset == 0 || offset >= u64_load_acquire(&process.arena_bytes))
        return NULL;
    return (void *)(uintptr_t)(u64_load_relaxed(&process.base) + offset);
}
