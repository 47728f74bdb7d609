/*
 * alloc: malloc and free, and what is made of them.
 *
 * The fast paths stand here whole. Everything they read is private to the process, but for the alloc word, the remote
 * word and nspecial.
 *
 *   malloc: size -> class (two tables) -> the thread's current span -> its next free bit -> set the alloc bit ->
 *   address.
 *           Below 16 bytes and noscan: a place in the thread's open block (tiny.c).
 *   free:   address -> page -> mspan_of: is it this thread's span? -> index by multiplication -> check both bits ->
 *           clear the alloc bit. Anything else takes the slow path: another thread's or process's span (one fetch_or
 *           on the remote word), a large object, a pointer that is none.
 *
 * Checks, always: alloc bit clear or remote bit set is a double free; an address that is not a multiple of the
 * element size is an interior pointer; an address outside the arena is foreign.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/large.h"
#include "client/mcache.h"
#include "client/tiny.h"

#define ALIGNMENT_MAX (64 * MIB)

/* Out of line, so that the fast path needs no stack frame. */
__attribute__((noinline)) static void *small_alloc_slow(span_class spc)
{
    return mcache_alloc(spc);
}

static inline void *small_alloc(size_t size, bool noscan)
{
    span_class spc = span_class_of(size_class_for(size), noscan);
    mspan *s = mcache_tls->alloc[spc.n];
    uint64_t cache = s->cache;

    if (UNLIKELY(cache == 0))
        return small_alloc_slow(spc);
    return mspan_take(s, cache);
}

void *goalloc_malloc(size_t size)
{
    if (LIKELY(size <= SMALL_BYTES_MAX))
        return small_alloc(size, false);
    return large_alloc(size, 1, false, NULL);
}

void *goalloc_malloc_noscan(size_t size)
{
    if (size < TINY_BLOCK_BYTES)
        return tiny_alloc(size);
    if (LIKELY(size <= SMALL_BYTES_MAX))
        return small_alloc(size, true);
    return large_alloc(size, 1, true, NULL);
}

void *goalloc_calloc(size_t count, size_t size)
{
    bool zeroed = false;
    size_t bytes;
    void *p;

    if (__builtin_mul_overflow(count, size, &bytes)) {
        errno = ENOMEM;
        return NULL;
    }
    if (bytes > SMALL_BYTES_MAX) {
        p = large_alloc(bytes, 1, false, &zeroed);
    } else {
        span_class spc = span_class_of(size_class_for(bytes), false);
        mspan *s = mcache_tls->alloc[spc.n];

        if (s->cache == 0)
            s = mcache_refill(spc);
        if (s == NULL)
            return NULL;
        zeroed = (s->fresh & s->cache & -s->cache) != 0;
        p = mspan_take(s, s->cache);
    }
    if (p != NULL && !zeroed)
        memset(p, 0, bytes);
    return p;
}

void *goalloc_aligned_alloc(size_t alignment, size_t size)
{
    if (alignment == 0 || (alignment & (alignment - 1)) != 0 || alignment > ALIGNMENT_MAX) {
        errno = EINVAL;
        return NULL;
    }
    if (alignment <= PAGE_BYTES && size <= SMALL_BYTES_MAX) {
        /* A span begins at a page, so objects of a class whose size is a multiple of the alignment are aligned. */
        for (unsigned c = size_class_for(size < alignment ? alignment : size).n; c < SIZE_CLASS_COUNT; c++) {
            if (size_class_bytes[c] % alignment == 0)
                return small_alloc(size_class_bytes[c], false);
        }
    }
    return large_alloc(size, alignment > PAGE_BYTES ? alignment / PAGE_BYTES : 1, false, NULL);
}

/* The body of free for a span that this thread owns. LIVE: done. special: the object may have a kept bit. */
__attribute__((always_inline)) static inline enum object_verdict own_free_body(mspan *s, uint64_t offset, bool special)
{
    uint32_t index = object_index(offset, s->magic);
    uint32_t w = index / 64;
    uint64_t bit = UINT64_C(1) << (index % 64);

    if (UNLIKELY((uint64_t)index * s->elem_bytes != offset))
        return index < s->nelems ? OBJECT_INTERIOR : OBJECT_NO_SPAN;

    uint64_t alloc = u64_load_relaxed(&s->alloc[w]);
    uint64_t remote = u64_load_relaxed(&s->alloc[SHM_BITS_WORDS + w]);

    if (UNLIKELY((alloc & ~remote & bit) == 0))
        return index < s->nelems ? OBJECT_FREE : OBJECT_NO_SPAN;
    /*
     * The kept bit goes before the alloc bit: whoever dies in between leaves an object that is its session's to free.
     */
    if (special && span_has_kept(shm_span_at(&process.map, s->first))) {
        (void)u64_fetch_and_acq_rel(&shm_kept_bits(&process.map, s->first)[w], ~bit);
        CRASH_POINT(own_free_after_kept);
    }
    mspan_clear_bit(mcache_tls, s, w, alloc, bit);
    return OBJECT_LIVE;
}

__attribute__((noinline)) static enum object_verdict own_free_special(mspan *s, uint64_t offset)
{
    return own_free_body(s, offset, true);
}

__attribute__((always_inline)) static inline enum object_verdict own_free(mspan *s, uint64_t offset)
{
    if (UNLIKELY(u32_load_relaxed(atomic_load_explicit(&process.special, memory_order_relaxed)) != 0))
        return own_free_special(s, offset);
    return own_free_body(s, offset, false);
}

/* Free anything that is not in a span of this thread. LIVE: done. */
__attribute__((noinline)) static enum object_verdict free_slow(void *p)
{
    object_ref object;
    enum object_verdict verdict = OBJECT_FOREIGN;

    if (process_state_now() != PROCESS_DETACHED)
        verdict = object_find(&process.map, (uintptr_t)p, &object);

    if (verdict != OBJECT_LIVE)
        return verdict;
    if (span_class_size(shm_span_at(&process.map, object.first)->spc).n == 0)
        return large_free(&object);
    if (span_is_tiny(shm_span_at(&process.map, object.first)))
        return tiny_object_free(&object);
    return object_free_remote(&process.map, &object);
}

/* The thread's own span that p lies in; NULL: another's, or none, or p is foreign or NULL. */
static inline mspan *own_span(const void *p)
{
    uint64_t offset = (uintptr_t)p - u64_load_relaxed(&process.base);
    mspan *s;

    if (UNLIKELY(offset >= u64_load_relaxed(&process.arena_bytes)))
        return NULL;
    s = atomic_load_explicit(&process.mspan_of[offset >> PAGE_SHIFT], memory_order_relaxed);
    if (UNLIKELY(s == NULL || atomic_load_explicit(&s->owner, memory_order_relaxed) != mcache_tls))
        return NULL;
    return s;
}

/* Say what is wrong with p, and abort, as glibc does. No stdio: the heap of the process may be what is broken. */
__attribute__((noinline, noreturn)) static void die(const char *function, const void *p, const char *what)
{
    char line[160];
    int n = snprintf(line, sizeof(line), "%s(): %p: %s\n", function, p, what);

    if (n > 0 && write(STDERR_FILENO, line, (size_t)n) < 0)
        abort();
    abort();
}

__attribute__((noinline, noreturn)) static void die_of(const char *function, const void *p, enum object_verdict verdict)
{
    switch (verdict) {
    case OBJECT_FREE:
        die(function, p, "double free: the object is free already, or was never allocated");
    case OBJECT_INTERIOR:
        die(function, p, "invalid pointer: inside an object, not its beginning");
    case OBJECT_NO_SPAN:
        die(function, p, "invalid pointer: in the heap, but there is no object");
    default:
        die(function, p, process_state_now() == PROCESS_DETACHED ? "invalid pointer: not attached to a heap"
                                                                 : "invalid pointer: not in the heap");
    }
}

/* Everything that the fast path of goalloc_free() is not for. */
__attribute__((noinline)) static void free_cold(void *p, enum object_verdict verdict)
{
    if (p == NULL)
        return;
    if (process.readonly)
        die("goalloc_free", p, "the heap is attached read-only");
    if (verdict == OBJECT_FOREIGN)
        verdict = free_slow(p);
    if (verdict != OBJECT_LIVE)
        die_of("goalloc_free", p, verdict);
}

void goalloc_free(void *p)
{
    mspan *s = own_span(p);
    enum object_verdict verdict = OBJECT_FOREIGN;

    if (LIKELY(s != NULL)) {
        verdict = own_free(s, (uint64_t)((char *)p - s->base));
        if (LIKELY(verdict == OBJECT_LIVE))
            return;
    }
    free_cold(p, verdict);
}

int goalloc_free_checked(void *p)
{
    mspan *s;
    int r;

    if (p == NULL)
        return 0;
    r = process_mapped(true);
    if (r < 0)
        return r;
    s = own_span(p);
    switch (s != NULL ? own_free(s, (uint64_t)((char *)p - s->base)) : free_slow(p)) {
    case OBJECT_LIVE:
        return 0;
    case OBJECT_FREE:
        return -EALREADY;
    default:
        return -EINVAL;
    }
}

void *goalloc_realloc(void *p, size_t size)
{
    object_ref object;
    enum object_verdict verdict;
    bool noscan;
    void *moved;

    if (p == NULL)
        return goalloc_malloc(size);
    if (process_mapped(false) < 0)
        die_of("goalloc_realloc", p, OBJECT_FOREIGN);
    if (process.readonly) {
        errno = EROFS;
        return NULL;
    }
    verdict = object_find(&process.map, (uintptr_t)p, &object);
    if (verdict != OBJECT_LIVE)
        die_of("goalloc_realloc", p, verdict);
    if (object.bytes > SMALL_BYTES_MAX && size > SMALL_BYTES_MAX) {
        if (large_resize(&object, size))
            return p;
    } else if (size <= object.bytes && (size > object.bytes / 2 || object.bytes <= 16)) {
        return p; /* it stays while it fits and uses at least half of its place */
    }

    noscan = span_class_noscan(shm_span_at(&process.map, object.first)->spc);
    moved = noscan ? goalloc_malloc_noscan(size) : goalloc_malloc(size);
    if (moved == NULL)
        return size <= object.bytes ? p : NULL;
    memcpy(moved, p, size < object.bytes ? size : object.bytes);
    goalloc_free(p);
    return moved;
}

size_t goalloc_usable_size(const void *p)
{
    object_ref object;

    if (p == NULL || process_mapped(false) < 0 || object_find(&process.map, (uintptr_t)p, &object) != OBJECT_LIVE)
        return 0;
    return object.bytes;
}

int goalloc_contains(const void *p)
{
    return (uintptr_t)p - u64_load_relaxed(&process.base) < u64_load_relaxed(&process.arena_bytes);
}

uint64_t goalloc_offset(const void *p)
{
    if (p == NULL)
        return 0;
    return goalloc_contains(p) ? (uintptr_t)p - u64_load_relaxed(&process.base) : UINT64_MAX;
}

void *goalloc_pointer(uint64_t offset)
{
    if (offset == 0 || offset >= u64_load_relaxed(&process.arena_bytes))
        return NULL;
    return (void *)(uintptr_t)(u64_load_relaxed(&process.base) + offset);
}
