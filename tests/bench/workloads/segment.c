/*
 * segment: the workloads for allocators of a shared segment that is there before the processes are forked, so that all
 * have it at the same address: APR's relocatable memory (apr_rmm) and the three managers of Kamailio's shared memory.
 *
 * Compiled with bench.c for each. The code is that of fixed.c and threads.c, as in boost.cpp.
 *
 *   rmm        apr_rmm on an anonymous apr_shm, with APR's process mutex.
 *   kamailio   Debian has no headers for it, but its program gives its functions to its modules, and so to anything
 *              that is loaded into it. bench-kamailio.so is preloaded; its constructor gets the command line, does what
 *              the main program of bench.c does, and ends the process before Kamailio's own main begins. $BENCH_MANAGER
 *              is fm, qm or tlsf: f_malloc, q_malloc (Debian's default) and TLSF.
 */
#include "tests/bench/workloads/bench.h"

#include "tests/bench/workloads/ring.h"

#define BATCH         1000u
#define SEGMENT_BYTES (UINT64_C(256) << 20)

#if defined(SEGMENT_RMM)

#include <apr_general.h>
#include <apr_rmm.h>
#include <apr_shm.h>

static apr_rmm_t *rmm;
static apr_anylock_t rmm_lock;
static apr_pool_t *rmm_pool;

void bench_segment_create(void)
{
    apr_shm_t *shm;

    rmm_lock.type = apr_anylock_procmutex;
    if (apr_initialize() != APR_SUCCESS || apr_pool_create(&rmm_pool, NULL) != APR_SUCCESS ||
        apr_shm_create(&shm, SEGMENT_BYTES, NULL, rmm_pool) != APR_SUCCESS ||
        apr_proc_mutex_create(&rmm_lock.lock.pm, NULL, APR_LOCK_PROC_PTHREAD, rmm_pool) != APR_SUCCESS ||
        apr_rmm_init(&rmm, &rmm_lock, apr_shm_baseaddr_get(shm), SEGMENT_BYTES, rmm_pool) != APR_SUCCESS)
        bench_die("apr_rmm");
}

void bench_segment_attach(void)
{
    if (apr_proc_mutex_child_init(&rmm_lock.lock.pm, NULL, rmm_pool) != APR_SUCCESS)
        bench_die("apr_proc_mutex_child_init");
}

static inline void *allocate(size_t size)
{
    apr_rmm_off_t offset = apr_rmm_malloc(rmm, size);

    if (offset == 0)
        bench_die("out of memory");
    return apr_rmm_addr_get(rmm, offset);
}

static inline void deallocate(void *p)
{
    if (apr_rmm_free(rmm, apr_rmm_offset_get(rmm, p)) != APR_SUCCESS)
        bench_die("apr_rmm_free");
}

#else /* Kamailio */

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

/* The beginning of what its manager fills in. */
typedef struct shm_api {
    const char *name;
    void *pool;
    void *block;
} shm_api;

/* Each function is also told who calls. */
typedef void *(*manager_malloc)(void *block, size_t size, const char *file, const char *func, unsigned line,
                                const char *module);
typedef void (*manager_free)(void *block, void *p, const char *file, const char *func, unsigned line,
                             const char *module);

static void *manager_block;
static manager_malloc shm_malloc;
static manager_free shm_free;

static void *symbol(const char *manager, const char *name)
{
    char text[64];
    void *found;

    (void)snprintf(text, sizeof(text), "%s%s", manager, name);
    found = dlsym(RTLD_DEFAULT, text);
    if (found == NULL)
        bench_die(text);
    return found;
}

void bench_segment_create(void)
{
    const char *manager = getenv("BENCH_MANAGER");
    char functions[16];
    int (*init)(void);
    void *found;

    if (manager == NULL)
        bench_die("BENCH_MANAGER is not set");
    *(unsigned long *)symbol("", "shm_mem_size") = SEGMENT_BYTES;
    found = symbol(strcmp(manager, "tlsf") == 0 ? "tlsf" : manager, "_malloc_init_shm_manager");
    memcpy(&init, &found, sizeof(init));
    if (init() != 0)
        bench_die("its memory manager does not start");
    manager_block = ((const shm_api *)symbol("", "_shm_root"))->block;
    (void)snprintf(functions, sizeof(functions), "%s_shm", manager);
    found = symbol(functions, "_malloc");
    memcpy(&shm_malloc, &found, sizeof(shm_malloc));
    found = symbol(functions, "_free");
    memcpy(&shm_free, &found, sizeof(shm_free));
}

void bench_segment_attach(void)
{
}

static inline void *allocate(size_t size)
{
    void *p = shm_malloc(manager_block, size, __FILE__, __func__, __LINE__, "bench");

    if (p == NULL)
        bench_die("out of memory");
    return p;
}

static inline void deallocate(void *p)
{
    shm_free(manager_block, p, __FILE__, __func__, __LINE__, "bench");
}

int bench_main(int argc, char **argv); /* that of bench.c */

__attribute__((constructor)) static void instead_of_main(int argc, char **argv)
{
    exit(bench_main(argc, argv));
}

#endif

void bench_segment_remove(void)
{
}

static inline void write_word(void *p, uint64_t value)
{
    *(volatile uint64_t *)p = value;
}

static void do_pairs(size_t size, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        void *p = allocate(size);

        write_word(p, i);
        deallocate(p);
    }
}

static void do_batches(void **batch, size_t size, uint64_t n)
{
    for (uint64_t done = 0; done < n; done += BATCH) {
        for (uint64_t i = 0; i < BATCH; i++) {
            batch[i] = allocate(size);
            write_word(batch[i], i);
        }
        for (uint64_t i = 0; i < BATCH; i++)
            deallocate(batch[i]);
    }
}

static void produce(const bench_worker *w, uint64_t n)
{
    ring_side side = ring_producer(w->ring);

    for (uint64_t i = 0; i < n; i++) {
        void *p = allocate(w->size);

        write_word(p, i);
        ring_put(&side, (uint64_t)(uintptr_t)p);
    }
    ring_finish_producer(&side);
}

static void consume(bench_worker *w, uint64_t n)
{
    ring_side side = ring_consumer(w->ring);
    uint64_t checksum = 0;

    for (uint64_t i = 0; i < n; i++) {
        void *p = (void *)(uintptr_t)ring_get(&side);

        checksum += *(uint64_t *)p;
        deallocate(p);
    }
    ring_finish_consumer(&side);
    w->checksum = checksum;
}

static void prodcons(bench_worker *w, uint64_t n)
{
    if (w->index % 2 == 0)
        produce(w, n);
    else
        consume(w, n);
}

static void batches_prepare(bench_worker *w)
{
    w->ops -= w->ops % BATCH;
    w->state = bench_array(BATCH * sizeof(void *));
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

static void batches_setup(bench_worker *w)
{
    do_batches(w->state, w->size, w->ops / 10 + BATCH);
}

static void batches_run(bench_worker *w)
{
    do_batches(w->state, w->size, w->ops);
    w->checksum = w->ops;
}

static void prodcons_setup(bench_worker *w)
{
    prodcons(w, w->ops / 4);
}

static void prodcons_run(bench_worker *w)
{
    prodcons(w, w->ops);
}

const bench_workload bench_segment[] = {
    { "pairs", "malloc and free at once", 200000, 64, 0, NULL, pairs_setup, pairs_run },
    { "batches", "1000 mallocs, 1000 frees in the same order", 200000, 64, 0, batches_prepare, batches_setup,
      batches_run },
    { "prodcons", "one worker of two allocates, the other one frees", 200000, 64, 2, NULL, prodcons_setup,
      prodcons_run },
    { NULL, NULL, 0, 0, 0, NULL, NULL, NULL },
};
