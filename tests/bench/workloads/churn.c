/*
 * churn: a population of live objects of which random ones die and are replaced, in three shapes:
 *
 *   churn   100,000 objects a worker, log-normal sizes 16 to 4096 (median 128): a long-lived program's steady state
 *   larson  after Larson and Krishnan, "Memory allocation for long-running server applications" (1998): 5000 objects a
 *           thread, uniform 8 to 1000; each thread hands its objects to an heir, a new thread, and ends. The first
 *           objects come from one thread, which deals them out, so that neighbours belong to different threads
 *   sh6bench  after MicroQuill's benchmark of that name: many sizes up to 1000 in ascending order, small ones more
 *           often, freed in the same or in reverse order or every other first; some batches stay for a while
 *
 * An operation is one malloc and one free. Each object holds its index, which is looked at when it is freed.
 */
#include <pthread.h>

#include "tests/bench/workloads/bench.h"

#define CHURN_OBJECTS 100000u
#define CHURN_SIZES 8192u
#define LARSON_OBJECTS 5000u
#define LARSON_ROUNDS 10u
#define LARSON_MIN 8u
#define LARSON_MAX 1000u
#define SH6_MAX 1000u
#define SH6_BATCH_MAX 4096u
#define SH6_KEPT 4u

static inline void *new_object(size_t size, uint64_t index)
{
    uint64_t *p = bench_checked(BENCH_MALLOC(size));

    *p = index;
    return p;
}

static inline uint64_t end_object(void *p)
{
    uint64_t index = *(uint64_t *)p;

    BENCH_FREE(p);
    return index;
}

/* --- churn --- */

typedef struct churn {
    void **objects;
    uint16_t *sizes;
} churn;

static void churn_prepare(bench_worker *w)
{
    churn *c = bench_array(sizeof(*c));

    c->objects = bench_array(CHURN_OBJECTS * sizeof(void *));
    c->sizes = bench_lognormal_sizes(12345, CHURN_SIZES, 128, 16, 4096);
    w->state = c;
}

static uint64_t churn_some(bench_worker *w, uint64_t n)
{
    churn *c = w->state;
    uint64_t checksum = 0;

    for (uint64_t i = 0; i < n; i++) {
        uint64_t r = bench_random(&w->random);
        uint32_t at = (uint32_t)((r >> 32) * CHURN_OBJECTS >> 32);

        checksum += end_object(c->objects[at]);
        c->objects[at] = new_object(c->sizes[r % CHURN_SIZES], at + i);
    }
    return checksum;
}

/* Each object is replaced some four times before the steady state is measured. */
static void churn_setup(bench_worker *w)
{
    churn *c = w->state;

    for (uint32_t i = 0; i < CHURN_OBJECTS; i++)
        c->objects[i] = new_object(c->sizes[i % CHURN_SIZES], i);
    (void)churn_some(w, 10 * CHURN_OBJECTS); /* until the heap is as large as it will be */
}

static void churn_run(bench_worker *w)
{
    w->checksum = churn_some(w, w->ops);
}

/* --- larson --- */

static size_t larson_size(bench_worker *w)
{
    return LARSON_MIN + bench_random_below(&w->random, LARSON_MAX - LARSON_MIN + 1);
}

static void larson_prepare(bench_worker *w)
{
    w->state = bench_array(LARSON_OBJECTS * sizeof(void *));
}

/* The first worker allocates for all; a process does so for itself. */
static void larson_setup(bench_worker *w)
{
    unsigned n = w->processes ? 1 : w->nworkers;
    bench_worker *first = w->processes ? w : w->all;

    if (w != first)
        return;
    for (uint32_t i = 0; i < LARSON_OBJECTS; i++) {
        for (unsigned k = 0; k < n; k++)
            ((void **)first[k].state)[i] = new_object(larson_size(w), i);
    }
}

static void *larson_heir(void *arg)
{
    bench_worker *w = arg;
    void **objects = w->state;
    uint64_t n = w->ops / LARSON_ROUNDS;

    for (uint64_t i = 0; i < n; i++) {
        uint32_t at = bench_random_below(&w->random, LARSON_OBJECTS);

        w->checksum += end_object(objects[at]);
        objects[at] = new_object(larson_size(w), i);
    }
    return NULL;
}

static void larson_run(bench_worker *w)
{
    pthread_t heir;

    for (unsigned round = 0; round < LARSON_ROUNDS; round++) {
        if (pthread_create(&heir, NULL, larson_heir, w) != 0)
            bench_die("pthread_create");
        (void)pthread_join(heir, NULL);
    }
}

/* --- sh6bench --- */

typedef struct sh6 {
    uint32_t nsizes;
    uint32_t next_kept;
    uint16_t sizes[SH6_BATCH_MAX];
    void *batch[SH6_BATCH_MAX];
    void *kept[SH6_KEPT][SH6_BATCH_MAX];
} sh6;

static void sh6_prepare(bench_worker *w)
{
    sh6 *s = bench_array(sizeof(*s));

    for (uint32_t size = 8; size <= SH6_MAX && s->nsizes < SH6_BATCH_MAX; size += 1 + size / 16) {
        for (uint32_t i = 0; i < SH6_MAX / size && s->nsizes < SH6_BATCH_MAX; i++)
            s->sizes[s->nsizes++] = (uint16_t)size;
    }
    w->state = s;
}

/* One batch in, one batch out: n operations. */
static uint64_t sh6_batch(sh6 *s, uint64_t turn)
{
    uint32_t n = s->nsizes;
    void **batch = turn % 4 == 0 ? s->kept[s->next_kept++ % SH6_KEPT] : s->batch;
    uint64_t checksum = 0;

    if (turn % 4 == 0 && batch[0] != NULL) { /* the oldest kept batch ends; another one takes its place */
        for (uint32_t i = 0; i < n; i++)
            checksum += end_object(batch[i]);
    }
    for (uint32_t i = 0; i < n; i++)
        batch[i] = new_object(s->sizes[i], i);
    switch (turn % 4) {
    case 0:
        break;
    case 1:
        for (uint32_t i = 0; i < n; i++)
            checksum += end_object(batch[i]);
        break;
    case 2:
        for (uint32_t i = n; i-- > 0;)
            checksum += end_object(batch[i]);
        break;
    default:
        for (uint32_t i = 0; i < n; i += 2)
            checksum += end_object(batch[i]);
        for (uint32_t i = n - n % 2; i > 0; i -= 2)
            checksum += end_object(batch[i - 1]);
        break;
    }
    return checksum;
}

static void sh6_setup(bench_worker *w)
{
    for (uint64_t turn = 0; turn < 4 * SH6_KEPT; turn++)
        (void)sh6_batch(w->state, turn);
}

static void sh6_run(bench_worker *w)
{
    sh6 *s = w->state;
    uint64_t nturns = w->ops / s->nsizes;

    for (uint64_t turn = 0; turn < nturns; turn++)
        w->checksum += sh6_batch(s, turn);
    w->ops = nturns * s->nsizes;
}

const bench_workload bench_churn[] = {
    { .name = "churn",
      .about = "100,000 live objects, log-normal 16 to 4096, random ones replaced",
      .ops = 500000,
      .prepare = churn_prepare,
      .setup = churn_setup,
      .run = churn_run },
    { .name = "larson",
      .about = "5000 objects of 8 to 1000 a thread, handed to new threads",
      .ops = 1000000,
      .prepare = larson_prepare,
      .setup = larson_setup,
      .run = larson_run },
    { .name = "sh6bench",
      .about = "batches of all sizes up to 1000, freed in several orders",
      .ops = 2000000,
      .prepare = sh6_prepare,
      .setup = sh6_setup,
      .run = sh6_run },
    { .name = NULL },
};
