/*
 * fixed: objects of one size, in the two orders that bound what a program does: an object is freed at once, or 1000 are
 * allocated before the first is freed. Nothing is done with an object but that its first word is written, as a program
 * would. Data: batches has its pointers in an array that no allocator knows of.
 */
#include "tests/bench/workloads/bench.h"

#define BATCH 1000u

static inline void write_word(void *p, uint64_t value)
{
    *(volatile uint64_t *)bench_checked(p) = value;
}

static void do_pairs(size_t size, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        void *p = BENCH_MALLOC(size);

        write_word(p, i);
        BENCH_FREE(p);
    }
}

static void do_batches(void **batch, size_t size, uint64_t n)
{
    for (uint64_t done = 0; done < n; done += BATCH) {
        for (uint64_t i = 0; i < BATCH; i++) {
            batch[i] = BENCH_MALLOC(size);
            write_word(batch[i], i);
        }
        for (uint64_t i = 0; i < BATCH; i++)
            BENCH_FREE(batch[i]);
    }
}

/* What is large costs more; the timed part shall not. */
static void pairs_prepare(bench_worker *w)
{
    if (w->size > 4096)
        w->ops /= 4;
}

static void pairs_setup(bench_worker *w)
{
    do_pairs(w->size, w->ops / 10);
}

static void pairs_run(bench_worker *w)
{
    do_pairs(w->size, w->ops);
    w->checksum = w->ops;
}

static void batches_prepare(bench_worker *w)
{
    if (w->size > 32768)
        w->ops /= 100;
    else if (w->size == 32768)
        w->ops /= 20;
    else if (w->size > 4096)
        w->ops /= 4;
    w->ops -= w->ops % BATCH;
    w->state = bench_array(BATCH * sizeof(void *));
}

static void batches_setup(bench_worker *w)
{
    do_batches(w->state, w->size, w->ops / 10 + BATCH);
}

static void batches_run(bench_worker *w)
{
    do_batches(w->state, w->size, w->ops);
    w->checksum = w->ops;
}

const bench_workload bench_fixed[] = {
    { .name = "pairs",
      .about = "malloc and free at once",
      .ops = 4000000,
      .size = 64,
      .prepare = pairs_prepare,
      .setup = pairs_setup,
      .run = pairs_run },
    { .name = "batches",
      .about = "1000 mallocs, 1000 frees in the same order",
      .ops = 2000000,
      .size = 64,
      .prepare = batches_prepare,
      .setup = batches_setup,
      .run = batches_run },
    { .name = NULL },
};
