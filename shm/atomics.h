/*
 * Atomics: the only way to touch a word that another thread or process may write. The order is in the name.
 *
 * Every recovery-critical store in shared memory is one aligned 64-bit word, so a process that dies between two of
 * these calls leaves nothing torn. Why an order was chosen stands where the call is.
 */
#ifndef GOALLOC_SHM_ATOMICS_H
#define GOALLOC_SHM_ATOMICS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef _Atomic uint64_t shm_u64;
typedef _Atomic uint32_t shm_u32;

_Static_assert(sizeof(shm_u64) == 8 && ATOMIC_LLONG_LOCK_FREE == 2, "64-bit atomics work across processes");
_Static_assert(sizeof(shm_u32) == 4 && ATOMIC_INT_LOCK_FREE == 2, "32-bit atomics work across processes");

/* The word is soon written: have its cache line, alone, where another core may have it now. */
static inline void prefetch_to_write(const shm_u64 *word)
{
#ifdef __x86_64__
    /* Compilers take a read's instead, for the sake of old processors. */
    __asm__ volatile("prefetchw %0" : : "m"(*word));
#else
    __builtin_prefetch((const void *)word, 1);
#endif
}

static inline uint64_t u64_load_relaxed(const shm_u64 *word)
{
    return atomic_load_explicit(word, memory_order_relaxed);
}

static inline uint64_t u64_load_acquire(const shm_u64 *word)
{
    return atomic_load_explicit(word, memory_order_acquire);
}

static inline void u64_store_relaxed(shm_u64 *word, uint64_t value)
{
    atomic_store_explicit(word, value, memory_order_relaxed);
}

static inline void u64_store_release(shm_u64 *word, uint64_t value)
{
    atomic_store_explicit(word, value, memory_order_release);
}

static inline uint64_t u64_fetch_or_acq_rel(shm_u64 *word, uint64_t bits)
{
    return atomic_fetch_or_explicit(word, bits, memory_order_acq_rel);
}

static inline uint64_t u64_fetch_and_acq_rel(shm_u64 *word, uint64_t bits)
{
    return atomic_fetch_and_explicit(word, bits, memory_order_acq_rel);
}

static inline uint32_t u32_load_relaxed(const shm_u32 *word)
{
    return atomic_load_explicit(word, memory_order_relaxed);
}

static inline uint32_t u32_load_acquire(const shm_u32 *word)
{
    return atomic_load_explicit(word, memory_order_acquire);
}

static inline void u32_store_relaxed(shm_u32 *word, uint32_t value)
{
    atomic_store_explicit(word, value, memory_order_relaxed);
}

static inline void u32_store_release(shm_u32 *word, uint32_t value)
{
    atomic_store_explicit(word, value, memory_order_release);
}

static inline uint32_t u32_fetch_or_acq_rel(shm_u32 *word, uint32_t bits)
{
    return atomic_fetch_or_explicit(word, bits, memory_order_acq_rel);
}

static inline uint32_t u32_fetch_and_acq_rel(shm_u32 *word, uint32_t bits)
{
    return atomic_fetch_and_explicit(word, bits, memory_order_acq_rel);
}

/*
 * Set bits of a word that has one writer at a time, by one store; release. Others see the word before or after, never
 * between. One instruction on x86-64, where compilers make three of an atomic load and store.
 */
static inline void u64_writer_set(shm_u64 *word, uint64_t bits)
{
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
    __asm__ volatile("orq %1, %0" : "+m"(*word) : "r"(bits) : "cc", "memory");
#else
    u64_store_release(word, u64_load_relaxed(word) | bits);
#endif
}

/* The same for bits that are known to be set. */
static inline void u64_writer_clear(shm_u64 *word, uint64_t bits)
{
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
    __asm__ volatile("xorq %1, %0" : "+m"(*word) : "r"(bits) : "cc", "memory");
#else
    u64_store_release(word, u64_load_relaxed(word) & ~bits);
#endif
}

/* True if any of these bits is set. Relaxed; one instruction less than the load that compilers make of it. */
static inline bool u64_any_relaxed(const shm_u64 *word, uint64_t bits)
{
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
    bool any;

    __asm__ volatile("testq %2, %1" : "=@ccnz"(any) : "m"(*word), "r"(bits));
    return any;
#else
    return (u64_load_relaxed(word) & bits) != 0;
#endif
}

/* value - *word, which wraps. Relaxed; as few instructions as u64_any_relaxed(). */
static inline uint64_t u64_above_relaxed(uint64_t value, const shm_u64 *word)
{
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
    __asm__ volatile("subq %1, %0" : "+r"(value) : "m"(*word) : "cc");
    return value;
#else
    return value - u64_load_relaxed(word);
#endif
}

/* True if the word is above value. Relaxed; as few instructions as u64_any_relaxed(). */
static inline bool u64_exceeds_relaxed(const shm_u64 *word, uint64_t value)
{
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
    bool exceeds;

    __asm__ volatile("cmpq %2, %1" : "=@cca"(exceeds) : "m"(*word), "r"(value));
    return exceeds;
#else
    return u64_load_relaxed(word) > value;
#endif
}

/* If the word is still *expected, store value: true. Else, or spuriously, false, and *expected is the word. */
static inline bool u32_exchange_if_acq_rel(shm_u32 *word, uint32_t *expected, uint32_t value)
{
    return atomic_compare_exchange_weak_explicit(word, expected, value, memory_order_acq_rel, memory_order_acquire);
}

/* The word becomes value; returns what it was. */
static inline uint64_t u64_exchange_acq_rel(shm_u64 *word, uint64_t value)
{
    return atomic_exchange_explicit(word, value, memory_order_acq_rel);
}

/* If the word is *expected, it becomes value: true. Else *expected is what it is. It never fails for another reason. */
static inline bool u64_exchange_if_acq_rel(shm_u64 *word, uint64_t *expected, uint64_t value)
{
    return atomic_compare_exchange_strong_explicit(word, expected, value, memory_order_acq_rel, memory_order_acquire);
}

/*
 * Of two threads that store one word each, pass this fence and load the other's word, at least one sees the other's
 * store. The thread sanitizer knows no fences; under it this is an atomic addition of 0 to a word of its own.
 */
static inline void fence_seq_cst(void)
{
#if defined(__SANITIZE_THREAD__)
    static shm_u32 word;

    (void)atomic_fetch_add_explicit(&word, 0, memory_order_seq_cst);
#else
    atomic_thread_fence(memory_order_seq_cst);
#endif
}

/*
 * What was stored before is seen no later than what is stored after, plain stores too. (A release store alone orders
 * what comes before it: on arm64 a plain store that follows may be seen first.)
 */
static inline void fence_release(void)
{
#if defined(__SANITIZE_THREAD__)
    fence_seq_cst();
#else
    atomic_thread_fence(memory_order_release);
#endif
}

/* For counters, whose order to anything else does not matter. */
static inline void u64_add_relaxed(shm_u64 *word, uint64_t n)
{
    (void)atomic_fetch_add_explicit(word, n, memory_order_relaxed);
}

#endif
