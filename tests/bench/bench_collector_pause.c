/*
 * bench_collector_pause: how long a collector stops the processes of a heap, and where the time goes.
 *
 *     bench_collector_pause [PROCESSES [THREADS [KIB [CYCLES]]]]     default: 4 16 256 200
 *
 * So many processes with a session, each with so many threads (half of them wait for a condition, the others sleep for
 * short times), and so many KiB of private memory with pointers into the heap. Nothing is collected: only the world is
 * stopped, looked at, and let go. Printed are medians and 99th percentiles of each part.
 */
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "client/lib/process.h"
#include "tests/bench/pauseparts.h"
#include "tests/support/attach.h"

enum { PAUSE, PARTS, PREPARE = PARTS + PAUSE_NPARTS, NPARTS };

static const char *name_of(size_t part)
{
    return part == PAUSE ? "pause" : part == PREPARE ? "(prepare)" : pause_parts[part - PARTS].name;
}

static size_t nthreads = 16, bytes = 256 << 10;

static void *wait_for_ever(void *arg)
{
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t cond = PTHREAD_COND_INITIALIZER;

    (void)arg;
    (void)pthread_mutex_lock(&mutex);
    for (;;)
        (void)pthread_cond_wait(&cond, &mutex);
    return NULL;
}

static void *nap(void *arg)
{
    (void)arg;
    for (;;)
        (void)usleep(1000);
    return NULL;
}

static int client(const fixture *f, void *arg)
{
    void **slots = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int ready = *(int *)arg;

    must_attach(f, 0);
    for (size_t i = 0; i < bytes / sizeof(*slots); i++)
        slots[i] = i % 64 == 0 ? goalloc_malloc(64) : NULL;
    for (size_t i = 1; i < nthreads; i++) {
        pthread_t thread;

        CHECK(pthread_create(&thread, NULL, i % 2 == 0 ? wait_for_ever : nap, NULL) == 0);
    }
    CHECK(write(ready, "", 1) == 1);
    for (;;)
        (void)pause();
    return 0;
}

static int by_value(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;

    return left < right ? -1 : left > right;
}

static double now_us(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static bool cycle(double us[NPARTS], world *ret)
{
    world_options options = { 0 };
    world_trouble trouble;
    double began = now_us();
    int r = world_prepare(ret, &process.map, &options, &trouble);

    us[PREPARE] = now_us() - began;
    if (r == 0)
        r = world_stop(ret, &trouble);
    if (r == 0)
        r = world_copy(ret, &trouble);
    if (r == 0)
        r = world_validate(ret, &trouble);
    world_resume(ret);
    if (r < 0) {
        (void)fprintf(stderr, "cycle: %s\n", trouble.text);
        world_free(ret);
        return false;
    }
    us[PAUSE] = (double)(ret->pause_end_ns - ret->pause_begin_ns) / 1e3;
    for (size_t i = 0; i < PAUSE_NPARTS; i++)
        us[PARTS + i] = (double)pause_part_ns(&ret->times, i) / 1e3;
    return true;
}

/* A process without children of its own. */
static int collector(const fixture *f, void *arg)
{
    size_t ncycles = *(size_t *)arg;
    double *all = calloc(NPARTS * ncycles, sizeof(*all)), us[NPARTS] = { 0 };
    world w;

    CHECK(all != NULL);
    must_attach(f, 0);
    for (size_t i = 0; i < ncycles; i++) {
        if (!cycle(us, &w))
            return 1;
        for (size_t part = 0; part < NPARTS; part++)
            all[part * ncycles + i] = us[part];
        if (i + 1 == ncycles)
            (void)printf("%u processes, %u threads, %.1f MiB looked at, %llu hits; estimated %.0f us\n", w.nprocesses,
                         w.nthreads, (double)w.nwords / (1 << 17), (unsigned long long)w.nhits,
                         (double)w.estimate_ns / 1e3);
        world_free(&w);
        (void)usleep(2000);
    }
    (void)printf("%-20s %10s %10s us\n", "", "median", "99%");
    for (size_t part = 0; part < NPARTS; part++) {
        qsort(all + part * ncycles, ncycles, sizeof(*all), by_value);
        (void)printf("%-20s %10.0f %10.0f\n", name_of(part), all[part * ncycles + ncycles / 2],
                     all[part * ncycles + (ncycles - 1) * 99 / 100]);
    }
    free(all);
    (void)fflush(stdout);
    return 0;
}

int main(int argc, char **argv)
{
    size_t nprocesses = argc > 1 ? strtoul(argv[1], NULL, 10) : 4,
           ncycles = argc > 4 ? strtoul(argv[4], NULL, 10) : 200;
    fixture f;
    int ready[2];
    pid_t *pids = calloc(nprocesses + 1, sizeof(*pids));
    int status;

    if (argc > 2)
        nthreads = strtoul(argv[2], NULL, 10);
    if (argc > 3)
        bytes = strtoul(argv[3], NULL, 10) << 10;
    if (pids == NULL || ncycles == 0 || nthreads == 0 || bytes < 4096 || pipe(ready) < 0)
        return 2;
    fixture_start(&f, NULL);
    for (size_t i = 0; i < nprocesses; i++)
        pids[i] = child_start(&f, client, &ready[1]);
    (void)close(ready[1]); /* so that the end of all of them is noticed */
    for (size_t i = 0; i < nprocesses; i++) {
        char byte;

        if (read(ready[0], &byte, 1) != 1)
            return 1;
    }
    status = child_run(&f, collector, &ncycles);
    for (size_t i = 0; i < nprocesses; i++) {
        (void)kill(pids[i], SIGKILL);
        (void)child_wait(pids[i]);
    }
    free(pids);
    return fixture_stop(&f) ? status : 1;
}
