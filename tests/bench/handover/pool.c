/*
 * The peers without a daemon of their own: goalloc, whose daemon main has started, and the pool that one writes
 * oneself: blocks of one size in a mapping of fixed length that processes inherit, and a stack of the free ones.
 *
 * The stack's word is the number of the top block, and a tag that each change makes another one (else a pop that is
 * interrupted might find its top again with another next). It is all that an own pool needs for one size, and all that
 * it can do: a block that a process had when it was killed is lost, and the mapping neither grows nor shrinks.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <goalloc.h>

#include "tests/bench/handover/handover.h"

/* --- goalloc --- */

static void goalloc_open(size_t size)
{
    (void)size;
    if (goalloc_attach(NULL) < 0)
        exit(EXIT_FAILURE);
}

static void *goalloc_take(size_t size, uint64_t *ret_name)
{
    void *p = goalloc_malloc(size);

    *ret_name = (uint64_t)(uintptr_t)p;
    return p;
}

static void *goalloc_see(uint64_t name)
{
    return (void *)(uintptr_t)name;
}

static void goalloc_drop(uint64_t name)
{
    goalloc_free((void *)(uintptr_t)name);
}

static void goalloc_close(void)
{
    (void)goalloc_detach();
}

const handover_peer handover_goalloc = {
    "goalloc", goalloc_open, goalloc_take, goalloc_see, goalloc_drop, goalloc_close
};

/* --- the pool --- */

#define TAG_SHIFT 32

typedef struct pool_header {
    _Atomic uint64_t top; /* number of the first free block + 1, 0: none; above TAG_SHIFT the tag */
    size_t stride;
    char padding[48];
} pool_header;

static pool_header *pool;

static _Atomic uint64_t *pool_block(uint64_t number)
{
    return (_Atomic uint64_t *)((char *)(pool + 1) + (number - 1) * pool->stride);
}

static void pool_drop(uint64_t name)
{
    uint64_t old = atomic_load_explicit(&pool->top, memory_order_relaxed), now;

    do {
        atomic_store_explicit(pool_block(name), old & UINT32_MAX, memory_order_relaxed);
        now = ((old >> TAG_SHIFT) + 1) << TAG_SHIFT | name;
    } while (!atomic_compare_exchange_weak_explicit(&pool->top, &old, now, memory_order_release, memory_order_relaxed));
}

static void *pool_take(size_t size, uint64_t *ret_name)
{
    uint64_t old = atomic_load_explicit(&pool->top, memory_order_acquire), now;

    (void)size;
    do {
        if ((old & UINT32_MAX) == 0)
            return NULL;
        now = ((old >> TAG_SHIFT) + 1) << TAG_SHIFT |
              (atomic_load_explicit(pool_block(old & UINT32_MAX), memory_order_relaxed) & UINT32_MAX);
    } while (!atomic_compare_exchange_weak_explicit(&pool->top, &old, now, memory_order_acquire, memory_order_acquire));
    *ret_name = old & UINT32_MAX;
    return pool_block(*ret_name);
}

static void *pool_see(uint64_t name)
{
    return pool_block(name);
}

static void pool_open(size_t size)
{
    pool =
        mmap(NULL, sizeof(*pool) + size * HANDOVER_OBJECTS, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (pool == MAP_FAILED)
        exit(EXIT_FAILURE);
    pool->stride = size;
    for (uint64_t number = HANDOVER_OBJECTS; number > 0; number--)
        pool_drop(number);
}

static void pool_close(void)
{
    (void)munmap(pool, sizeof(*pool) + pool->stride * HANDOVER_OBJECTS);
}

const handover_peer handover_pool = { "own pool", pool_open, pool_take, pool_see, pool_drop, pool_close };
