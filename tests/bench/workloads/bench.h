/*
 * bench: what the workloads are written against: the allocator's functions as macros, so that a call goes straight to
 * its library (through the PLT), and what bench.c offers: workers, random numbers, arrays that no allocator knows of.
 *
 * Each group of workloads is compiled once for every allocator, with BENCH_<ALLOCATOR> defined, into an executable
 * bench-<allocator> of its own.
 */
#ifndef BENCH_H
#define BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(BENCH_GOALLOC)
#include <goalloc.h>
#define BENCH_ALLOCATOR "goalloc"
#define BENCH_MALLOC(size) goalloc_malloc(size)
#define BENCH_CALLOC(count, size) goalloc_calloc(count, size)
#define BENCH_REALLOC(p, size) goalloc_realloc(p, size)
#define BENCH_FREE(p) goalloc_free(p)
#elif defined(BENCH_MIMALLOC)
#include <mimalloc.h>
#define BENCH_ALLOCATOR "mimalloc"
#define BENCH_MALLOC(size) mi_malloc(size)
#define BENCH_CALLOC(count, size) mi_calloc(count, size)
#define BENCH_REALLOC(p, size) mi_realloc(p, size)
#define BENCH_FREE(p) mi_free(p)
#elif defined(BENCH_SEGMENT) /* an allocator of a shared segment; boost.cpp and postgres.c call theirs by themselves */
#include <stdlib.h>
#define BENCH_ALLOCATOR BENCH_SEGMENT
#define BENCH_MALLOC(size) bench_segment_malloc(size)
#define BENCH_FREE(p) bench_segment_free(p)
#else /* libraries that replace malloc itself, and glibc; compiled with -fno-builtin */
#include <stdlib.h>
#if defined(BENCH_JEMALLOC)
#define BENCH_ALLOCATOR "jemalloc"
#elif defined(BENCH_TCMALLOC)
#define BENCH_ALLOCATOR "tcmalloc"
#elif defined(BENCH_GLIBC)
#define BENCH_ALLOCATOR "glibc"
#else
#error "no allocator: compile with BENCH_GOALLOC, BENCH_MIMALLOC, ..."
#endif
#define BENCH_MALLOC(size) malloc(size)
#define BENCH_CALLOC(count, size) calloc(count, size)
#define BENCH_REALLOC(p, size) realloc(p, size)
#define BENCH_FREE(p) free(p)
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define BENCH_RING_ENTRIES 4096u

/* A queue of one producer and one consumer, which may be processes; an entry holds an object's name, never 0. */
typedef struct bench_ring {
    __attribute__((aligned(128))) uint64_t head; /* entries taken, written by the consumer */
    __attribute__((aligned(128))) uint64_t tail; /* entries filled, written by the producer */
    __attribute__((aligned(128))) uint64_t entries[BENCH_RING_ENTRIES];
} bench_ring;

typedef struct bench_worker {
    unsigned index; /* 0 to nworkers - 1 */
    unsigned nworkers;
    bool processes;  /* workers are processes of one thread, else threads of one process */
    size_t size;     /* of --size, else the workload's default */
    uint64_t ops;    /* what to do: of --ops, else the workload's default; run() may change it to what it did */
    uint64_t random; /* state of bench_random(), the same for each allocator */
    uint64_t checksum;
    double ns; /* what run() took */
    void *state;
    bench_ring *ring; /* shared by all workers, even as processes; one for each pair of them */
    struct bench_worker *all;
} bench_worker;

/* Each is called in every worker, in this order, with a barrier before each. */
typedef struct bench_workload {
    const char *name;
    const char *about;
    uint64_t ops;
    size_t size;
    unsigned worker_multiple;         /* the number of workers must be a multiple */
    void (*prepare)(bench_worker *w); /* arrays; before the memory's baseline is taken; may be NULL */
    void (*setup)(bench_worker *w);   /* warm-up; not timed; may be NULL */
    void (*run)(bench_worker *w);     /* timed */
} bench_workload;

/* Ended by an entry without a name. */
extern const bench_workload bench_fixed[];
extern const bench_workload bench_churn[];
extern const bench_workload bench_threads[];
extern const bench_workload bench_sizes[];
extern const bench_workload bench_boost[];

/* Memory that is there already and belongs to no allocator. */
void *bench_array(size_t bytes);
/* n sizes, log-normal with this median and sigma 1, from min to max; the same ones for each allocator. */
uint16_t *bench_lognormal_sizes(uint64_t seed, size_t n, double median, double min, double max);
#ifdef __cplusplus
[[noreturn]]
#else
_Noreturn
#endif
void bench_die(const char *what);

/* A shared segment is created before the workers start, opened by each process, then loses its name, if it has one. */
void bench_segment_create(void);
void bench_segment_attach(void);
void bench_segment_remove(void);
void *bench_segment_malloc(size_t size);
void bench_segment_free(void *p);

/* xorshift64 (Marsaglia): cheap, so that it is not what is measured. */
static inline uint64_t bench_random(uint64_t *state)
{
    uint64_t x = *state;

    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    *state = x;
    return x;
}

/* Below limit, which is below 2^32. */
static inline uint32_t bench_random_below(uint64_t *state, uint32_t limit)
{
    return (uint32_t)((bench_random(state) >> 32) * limit >> 32);
}

#ifdef __cplusplus
}
#else
static inline void *bench_checked(void *p)
{
    if (__builtin_expect(p == NULL, 0))
        bench_die("out of memory");
    return p;
}
#endif

#endif
