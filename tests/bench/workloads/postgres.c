/*
 * postgres: the workloads for PostgreSQL's dynamic shared areas (DSA), as functions of an extension that a server
 * process runs. bench-dsa (dsa.py) starts the server, and calls
 *
 *   bench_create()                                     an area with a ring in it: 'HANDLE RING'
 *   bench_run(workload, worker, nworkers, handle, ring, size, ops)
 *                                                      'NANOSECONDS OPERATIONS CHECKSUM'
 *
 * Each worker is a server process of its own; objects are named by their dsa_pointer. The code is that of fixed.c and
 * threads.c, as in boost.cpp.
 */
#include <postgres.h>

#include <fmgr.h>
#include <storage/lwlock.h>
#include <utils/builtins.h>
#include <utils/dsa.h>
#include <utils/memutils.h>

#include <time.h>

#include "tests/bench/workloads/bench.h"
#include "tests/bench/workloads/ring.h"

#define BATCH 1000u

PG_MODULE_MAGIC;
PG_FUNCTION_INFO_V1(bench_create);
PG_FUNCTION_INFO_V1(bench_run);

/* In the area, for all workers. */
typedef struct bench_board {
    bench_ring ring;
    uint32_t narrived; /* at the barriers */
} bench_board;

typedef struct run {
    dsa_area *area;
    bench_board *board;
    size_t size;
    unsigned worker;
    unsigned nworkers;
    uint64_t checksum;
    dsa_pointer *batch;
} run;

static double now_ns(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

/* All workers have come to the barrier for the nth time. */
static void meet(const run *r, unsigned nth)
{
    uint32_t all = r->nworkers * nth;

    (void)__atomic_add_fetch(&r->board->narrived, 1, __ATOMIC_ACQ_REL);
    while (__atomic_load_n(&r->board->narrived, __ATOMIC_ACQUIRE) < all)
        (void)sched_yield();
}

static inline dsa_pointer allocate(const run *r, uint64_t value)
{
    dsa_pointer p = dsa_allocate(r->area, r->size);

    *(volatile uint64_t *)dsa_get_address(r->area, p) = value;
    return p;
}

static void pairs(run *r, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        dsa_free(r->area, allocate(r, i));
    r->checksum = n;
}

static void batches(run *r, uint64_t n)
{
    for (uint64_t done = 0; done < n; done += BATCH) {
        for (uint64_t i = 0; i < BATCH; i++)
            r->batch[i] = allocate(r, i);
        for (uint64_t i = 0; i < BATCH; i++)
            dsa_free(r->area, r->batch[i]);
    }
    r->checksum = n;
}

static void prodcons(run *r, uint64_t n)
{
    ring_side side;

    r->checksum = 0;
    if (r->worker % 2 == 0) {
        side = ring_producer(&r->board->ring);
        for (uint64_t i = 0; i < n; i++)
            ring_put(&side, allocate(r, i));
        ring_finish_producer(&side);
        return;
    }
    side = ring_consumer(&r->board->ring);
    for (uint64_t i = 0; i < n; i++) {
        dsa_pointer p = ring_get(&side);

        r->checksum += *(uint64_t *)dsa_get_address(r->area, p);
        dsa_free(r->area, p);
    }
    ring_finish_consumer(&side);
}

Datum bench_create(PG_FUNCTION_ARGS)
{
    MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
    dsa_area *area = dsa_create(LWLockNewTrancheId());
    dsa_pointer board;

    (void)fcinfo;
    dsa_pin(area); /* it stays when this process ends */
    dsa_pin_mapping(area);
    board = dsa_allocate_extended(area, sizeof(bench_board), DSA_ALLOC_ZERO);
    MemoryContextSwitchTo(old);
    PG_RETURN_TEXT_P(cstring_to_text(psprintf("%u %llu", dsa_get_handle(area), (unsigned long long)board)));
}

Datum bench_run(PG_FUNCTION_ARGS)
{
    const char *workload = text_to_cstring(PG_GETARG_TEXT_PP(0));
    run r = { .worker = (unsigned)PG_GETARG_INT32(1),
              .nworkers = (unsigned)PG_GETARG_INT32(2),
              .size = (size_t)PG_GETARG_INT64(5) };
    uint64_t ops = (uint64_t)PG_GETARG_INT64(6);
    void (*go)(run *, uint64_t) = strcmp(workload, "pairs") == 0     ? pairs
                                  : strcmp(workload, "batches") == 0 ? batches
                                                                     : prodcons;
    uint64_t warmup = go == prodcons ? ops / 4 : ops / 10 + (go == batches ? BATCH : 0);
    double start;
    double ns;

    if (go == batches) {
        ops -= ops % BATCH;
        warmup -= warmup % BATCH;
    }
    r.area = dsa_attach((dsa_handle)PG_GETARG_INT64(3));
    r.board = dsa_get_address(r.area, (dsa_pointer)PG_GETARG_INT64(4));
    r.batch = palloc(BATCH * sizeof(*r.batch));
    meet(&r, 1);
    go(&r, warmup);
    meet(&r, 2);
    start = now_ns();
    go(&r, ops);
    ns = now_ns() - start;
    meet(&r, 3);
    PG_RETURN_TEXT_P(cstring_to_text(
        psprintf("%.0f %llu %llu", ns, (unsigned long long)ops, (unsigned long long)r.checksum)));
}
