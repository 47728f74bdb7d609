/*
 * sizes: what is not plain malloc of something small:
 *
 *   realloc  64 vectors that grow by half, a random one at a time, from 16 bytes to their own last size (256 bytes to
 *            256 KiB, each power of two as likely), are freed then and begin again; what is new is written. An
 *            operation is one realloc
 *   calloc   log-normal sizes 16 to 4096, of which the last 1000 live; one word of each cache line is read (it
 *            must be zero) and written. An operation is one calloc and one free
 *   large    40 KiB to 4 MiB, each doubling as likely; random ones of 16 live objects are replaced; one word of each
 *            4 KiB page is written. An operation is one malloc and one free
 *   growth   objects of --size until they are 1 GiB (of all workers together), one word of each 4 KiB page written,
 *            nothing freed: memory that was never there before. An operation is one 4 KiB page; --ops: how many
 */
#include <string.h>

#include "tests/bench/workloads/bench.h"

#define PAGE 4096u
#define LINE 64u
#define VECTORS 64u
#define VECTOR_FIRST 16u
#define CALLOC_OBJECTS 1000u
#define CALLOC_SIZES 8192u
#define LARGE_OBJECTS 16u
#define LARGE_MIN (40u * 1024)
#define LARGE_MAX (4u * 1024 * 1024)

/* The first word, and one in each further page. */
static inline void touch(char *p, size_t size, uint64_t value)
{
    *(volatile uint64_t *)(void *)p = value;
    for (size_t at = PAGE; at < size; at += PAGE)
        *(volatile uint64_t *)(void *)(p + at) = value;
}

/* --- realloc --- */

typedef struct vector {
    char *p;
    size_t size;
    size_t last;
} vector;

static void realloc_prepare(bench_worker *w)
{
    w->state = bench_array(VECTORS * sizeof(vector));
}

static void realloc_some(bench_worker *w, uint64_t n)
{
    vector *vectors = w->state;

    for (uint64_t i = 0; i < n; i++) {
        vector *v = &vectors[bench_random_below(&w->random, VECTORS)];
        size_t size = v->p == NULL ? VECTOR_FIRST : v->size + v->size / 2;

        if (v->p == NULL) {
            v->size = 0;
            v->last = (size_t)256 << bench_random_below(&w->random, 11);
        } else if (size > v->last) {
            w->checksum += (unsigned char)v->p[v->size / 2];
            BENCH_FREE(v->p);
            v->p = NULL;
            continue;
        }
        v->p = bench_checked(BENCH_REALLOC(v->p, size));
        memset(v->p + v->size, (int)(i & 0xff), size - v->size);
        v->size = size;
    }
}

static void realloc_setup(bench_worker *w)
{
    realloc_some(w, w->ops / 4);
}

static void realloc_run(bench_worker *w)
{
    realloc_some(w, w->ops);
}

/* --- calloc --- */

typedef struct callocs {
    char *objects[CALLOC_OBJECTS];
    uint16_t *sizes;
    uint64_t n;
} callocs;

static void calloc_prepare(bench_worker *w)
{
    callocs *c = bench_array(sizeof(*c));

    c->sizes = bench_lognormal_sizes(54321, CALLOC_SIZES, 128, 16, 4096);
    w->state = c;
}

static void calloc_some(bench_worker *w, uint64_t n)
{
    callocs *c = w->state;

    for (uint64_t i = 0; i < n; i++, c->n++) {
        size_t size = c->sizes[c->n % CALLOC_SIZES];
        char **entry = &c->objects[c->n % CALLOC_OBJECTS];

        if (c->n >= CALLOC_OBJECTS)
            BENCH_FREE(*entry);
        *entry = bench_checked(BENCH_CALLOC(1, size));
        for (size_t at = 0; at + sizeof(uint64_t) <= size; at += LINE) {
            volatile uint64_t *word = (uint64_t *)(void *)(*entry + at);

            w->checksum += *word;
            *word = i | 1;
        }
    }
}

static void calloc_setup(bench_worker *w)
{
    calloc_some(w, w->ops / 4);
}

/* The sum of what should be zero, and the count. */
static void calloc_run(bench_worker *w)
{
    calloc_some(w, w->ops);
    if (w->checksum != 0)
        bench_die("calloc gave memory that is not zero");
}

/* --- large --- */

static void large_prepare(bench_worker *w)
{
    w->state = bench_array(LARGE_OBJECTS * sizeof(char *));
}

/* Log-uniform, roughly: a doubling, then a place in it. */
static size_t large_size(bench_worker *w)
{
    size_t low = (size_t)LARGE_MIN << bench_random_below(&w->random, 7);
    size_t size = low + bench_random_below(&w->random, (uint32_t)low);

    return size < LARGE_MAX ? size : LARGE_MAX;
}

static void large_some(bench_worker *w, uint64_t n)
{
    char **objects = w->state;

    for (uint64_t i = 0; i < n; i++) {
        char **entry = &objects[bench_random_below(&w->random, LARGE_OBJECTS)];
        size_t size = large_size(w);

        if (*entry != NULL) {
            w->checksum += *(uint64_t *)(void *)*entry;
            BENCH_FREE(*entry);
        }
        *entry = bench_checked(BENCH_MALLOC(size));
        touch(*entry, size, i);
    }
}

static void large_setup(bench_worker *w)
{
    large_some(w, 10 * LARGE_OBJECTS);
}

static void large_run(bench_worker *w)
{
    large_some(w, w->ops);
}

/* --- growth --- */

static void growth_prepare(bench_worker *w)
{
    w->ops /= w->nworkers;
}

static void growth_run(bench_worker *w)
{
    uint64_t nbytes = w->ops * PAGE;

    for (uint64_t done = 0; done < nbytes; done += w->size)
        touch(bench_checked(BENCH_MALLOC(w->size)), w->size, done);
    w->checksum = w->ops;
}

const bench_workload bench_sizes[] = {
    { .name = "realloc",
      .about = "vectors that grow by half up to 256 KiB",
      .ops = 100000,
      .prepare = realloc_prepare,
      .setup = realloc_setup,
      .run = realloc_run },
    { .name = "calloc",
      .about = "log-normal 16 to 4096, the last 1000 live",
      .ops = 500000,
      .prepare = calloc_prepare,
      .setup = calloc_setup,
      .run = calloc_run },
    { .name = "large",
      .about = "40 KiB to 4 MiB, 16 live, every page written",
      .ops = 2000,
      .prepare = large_prepare,
      .setup = large_setup,
      .run = large_run },
    { .name = "growth",
      .about = "1 GiB of objects, every page written, none freed",
      .ops = 262144,
      .size = 1024,
      .prepare = growth_prepare,
      .run = growth_run },
    { .name = NULL },
};
