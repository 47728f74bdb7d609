/*
 * segment: allocators of a shared segment that is there before the processes are forked, so that all have it at the
 * same address: APR's relocatable memory (apr_rmm) and the three managers of Kamailio's shared memory.
 *
 * Compiled with bench.c, fixed.c and threads.c for each, which call it as they call any library.
 *
 *   rmm        apr_rmm on an anonymous apr_shm, with APR's process mutex.
 *   kamailio   Debian has no headers for it, but its program gives its functions to its modules, and so to anything
 *              that is loaded into it. bench-kamailio.so is preloaded; its constructor gets the command line, does what
 *              the main program of bench.c does, and ends the process before Kamailio's own main begins. $BENCH_MANAGER
 *              is fm, qm or tlsf: f_malloc, q_malloc (Debian's default) and TLSF.
 */
#include "tests/bench/workloads/bench.h"

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

void *bench_segment_malloc(size_t size)
{
    apr_rmm_off_t offset = apr_rmm_malloc(rmm, size);

    return offset != 0 ? apr_rmm_addr_get(rmm, offset) : NULL;
}

void bench_segment_free(void *p)
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
    found = symbol(manager, "_malloc_init_shm_manager");
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

void *bench_segment_malloc(size_t size)
{
    return shm_malloc(manager_block, size, __FILE__, __func__, __LINE__, "bench");
}

void bench_segment_free(void *p)
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
