/*
 * threads: workloads about several threads, or processes, at once:
 *
 *   threadtest     after Hoard's (Berger, 2000): each worker allocates 10,000 objects of 8 bytes and frees them, again
 *                  and again; nothing is shared, so workers should not be in each other's way
 *   prodcons       after xmalloc-test (Lever and Boreham, 2000): one worker of two allocates, the other one frees
 *                  what it gets through a queue; --size 0: random sizes 16 to 512. Across threads for all allocators;
 *                  across processes for those whose objects other processes can free
 *   cache-scratch  after Hoard's: passive false sharing. One worker allocates an object for each, next to each other;
 *                  each worker frees its own, then allocates one, writes it 1000 times and frees it
 *   cache-thrash   after Hoard's: active false sharing: the same without the objects from the first worker
 *
 * An operation is one malloc and one free (and the 1000 writes).
 */
#include "tests/bench/workloads/bench.h"
#include "tests/bench/workloads/ring.h"

#define THREADTEST_OBJECTS 10000u
#define CACHE_WRITES 1000u
#define PRODCONS_MIN 16u
#define PRODCONS_MAX 512u

/* --- threadtest --- */

static void threadtest_prepare(bench_worker *w)
{
    w->state = bench_array(THREADTEST_OBJECTS * sizeof(void *));
    w->ops -= w->ops % THREADTEST_OBJECTS;
}

static void threadtest_round(bench_worker *w)
{
    void **objects = w->state;

    for (uint64_t i = 0; i < THREADTEST_OBJECTS; i++) {
        objects[i] = bench_checked(BENCH_MALLOC(w->size));
        *(volatile char *)objects[i] = 1;
    }
    for (uint64_t i = 0; i < THREADTEST_OBJECTS; i++)
        BENCH_FREE(objects[i]);
}

static void threadtest_run(bench_worker *w)
{
    for (uint64_t done = 0; done < w->ops; done += THREADTEST_OBJECTS)
        threadtest_round(w);
    w->checksum = w->ops;
}

/* --- prodcons --- */

static void produce(bench_worker *w, uint64_t n)
{
    ring_side side = ring_producer(w->ring);

    for (uint64_t i = 0; i < n; i++) {
        size_t size = w->size;
        uint64_t *p;

        if (size == 0)
            size = PRODCONS_MIN + bench_random_below(&w->random, PRODCONS_MAX - PRODCONS_MIN + 1);
        p = bench_checked(BENCH_MALLOC(size));
        *p = i;
        ring_put(&side, (uint64_t)(uintptr_t)p);
    }
    ring_finish_producer(&side);
}

static uint64_t consume(bench_worker *w, uint64_t n)
{
    ring_side side = ring_consumer(w->ring);
    uint64_t checksum = 0;

    for (uint64_t i = 0; i < n; i++) {
        uint64_t *p = (uint64_t *)(uintptr_t)ring_get(&side);

        checksum += *p;
        BENCH_FREE(p);
    }
    ring_finish_consumer(&side);
    return checksum;
}

static void prodcons(bench_worker *w, uint64_t n)
{
    if (w->index % 2 == 0)
        produce(w, n);
    else
        w->checksum = consume(w, n);
}

static void prodcons_setup(bench_worker *w)
{
    prodcons(w, w->ops / 4);
}

static void prodcons_run(bench_worker *w)
{
    prodcons(w, w->ops);
}

/* --- cache-scratch, cache-thrash --- */

static void scratch_setup(bench_worker *w)
{
    for (unsigned i = 0; w->index == 0 && !w->processes && i < w->nworkers; i++)
        w->all[i].state = bench_checked(BENCH_MALLOC(w->size));
    if (w->processes)
        w->state = bench_checked(BENCH_MALLOC(w->size));
}

static void thrash_run(bench_worker *w)
{
    for (uint64_t i = 0; i < w->ops; i++) {
        volatile char *p = bench_checked(BENCH_MALLOC(w->size));

        for (size_t k = 0; k < w->size; k++)
            p[k] = (char)k;
        for (unsigned k = 0; k < CACHE_WRITES; k++)
            p[k % 8]++;
        w->checksum += (unsigned char)p[0];
        BENCH_FREE((void *)(uintptr_t)p);
    }
}

static void scratch_run(bench_worker *w)
{
    BENCH_FREE(w->state);
    thrash_run(w);
}

const bench_workload bench_threads[] = {
    { .name = "threadtest",
      .about = "10,000 objects of 8 bytes allocated and freed in turn",
      .ops = 2000000,
      .size = 8,
      .prepare = threadtest_prepare,
      .setup = threadtest_round,
      .run = threadtest_run },
    { .name = "prodcons",
      .about = "one worker of two allocates, the other one frees",
      .ops = 1000000,
      .size = 0,
      .worker_multiple = 2,
      .setup = prodcons_setup,
      .run = prodcons_run },
    { .name = "cache-scratch",
      .about = "passive false sharing",
      .ops = 60000,
      .size = 8,
      .setup = scratch_setup,
      .run = scratch_run },
    { .name = "cache-thrash", .about = "active false sharing", .ops = 60000, .size = 8, .run = thrash_run },
    { .name = NULL },
};
