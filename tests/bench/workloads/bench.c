/*
 * bench: the main program of every bench-<allocator>: runs one workload once and prints one line of JSON.
 *
 *   bench-goalloc WORKLOAD [--threads N | --processes N] [--size BYTES] [--ops N]
 *   bench-goalloc --list
 *
 * Called by tests/bench/suite.py. A run, in every worker, with a barrier between any two steps:
 *   1. prepare   arrays, made of mmap'ed memory that is touched already
 *   2.           memory_use_begin: the baseline of the memory
 *   3.           goalloc: attach, once a process
 *   4. setup     warm-up
 *   5. run       timed, by each worker for itself
 *   6.           memory_use_sample; requests to the daemon that were sent in 5
 * ns_per_op is the sum of the workers' times divided by the sum of their operations: what an operation takes a worker.
 *
 * Workers are threads of this process (the first one is its first thread, so one worker means a program without
 * threads) or forked processes of one thread each. All that they share is one anonymous shared mapping. Several workers
 * have a CPU each, if there are enough: else the scheduler sometimes leaves two on one for a while, and contention
 * comes and goes. The same seed for each allocator: each does exactly the same, which the checksum shows.
 */
#include "tests/bench/workloads/bench.h"

#include <argp.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/bench/workloads/memory_use.h"

#define WORKERS_MAX 64u

typedef struct shared {
    pthread_barrier_t barrier;
    bench_worker workers[WORKERS_MAX];
    memory_use memory[WORKERS_MAX]; /* of each process; of the first worker's if all are threads */
    uint64_t nrpcs[WORKERS_MAX];
    double daemon_ns; /* CPU time of the daemon in the timed part */
    bench_ring rings[WORKERS_MAX / 2];
} shared;

static const bench_workload *workload;
static shared *common;

void bench_die(const char *what)
{
    (void)fprintf(stderr, "bench-" BENCH_ALLOCATOR ": %s: %s\n", workload != NULL ? workload->name : "", what);
    exit(EXIT_FAILURE);
}

void *bench_array(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

    if (p == MAP_FAILED)
        bench_die("mmap");
    return p;
}

/* Box and Muller. */
uint16_t *bench_lognormal_sizes(uint64_t seed, size_t n, double median, double min, double max)
{
    uint16_t *sizes = bench_array(n * sizeof(*sizes));

    for (size_t i = 0; i < n; i++) {
        double u = ((double)(bench_random(&seed) >> 11) + 0.5) / 9007199254740992.0;
        double v = ((double)(bench_random(&seed) >> 11) + 0.5) / 9007199254740992.0;
        double size = median * exp(sqrt(-2 * log(u)) * cos(2 * 3.14159265358979323846 * v));

        sizes[i] = (uint16_t)fmax(min, fmin(max, size));
    }
    return sizes;
}

static double now_ns(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

static void attach(void)
{
#if defined(BENCH_GOALLOC)
    int r = goalloc_attach(NULL);

    if (r < 0)
        bench_die(goalloc_strerror(r));
#elif defined(BENCH_SEGMENT)
    bench_segment_attach();
#endif
}

/* CPU time of the daemon so far, all its threads; 0: it is not known ($GOALLOC_BENCH_DAEMON, its pid, is not set). */
static double daemon_ns(void)
{
    const char *pid = getenv("GOALLOC_BENCH_DAEMON");
    struct timespec ts = { 0, 0 };
    clockid_t id;

    if (pid != NULL && clock_getcpuclockid((pid_t)atoi(pid), &id) == 0)
        (void)clock_gettime(id, &ts);
    return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

/* Requests to the daemon so far, without those of this function. One worker of a process calls it. */
static uint64_t count_rpcs(void)
{
#if defined(BENCH_GOALLOC)
    static uint64_t nown;
    goalloc_stats_t stats = { .struct_size = sizeof(stats) };

    if (goalloc_stats(&stats) < 0)
        bench_die("goalloc_stats");
    return stats.session_rpcs - ++nown;
#else
    return 0;
#endif
}

/* The CPU of that worker's number, of those that this process may use. */
static void settle(const bench_worker *w)
{
    cpu_set_t usable;
    cpu_set_t mine;
    unsigned n = 0;

    if (w->nworkers < 2 || sched_getaffinity(0, sizeof(usable), &usable) < 0)
        return;
    if ((unsigned)CPU_COUNT(&usable) < w->nworkers)
        return;
    CPU_ZERO(&mine);
    for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (CPU_ISSET(cpu, &usable) && n++ == w->index)
            CPU_SET(cpu, &mine);
    }
    (void)sched_setaffinity(0, sizeof(mine), &mine);
}

static void meet(void)
{
    (void)pthread_barrier_wait(&common->barrier);
}

static void *work(void *arg)
{
    bench_worker *w = arg;
    bool leads = w->processes || w->index == 0; /* speaks for its process */
    uint64_t nrpcs = 0;
    double start;

    settle(w);
    if (workload->prepare != NULL)
        workload->prepare(w);
    meet();
    if (leads)
        memory_use_begin(&common->memory[w->index], w->index == 0);
    meet();
    if (leads)
        attach();
    meet();
#if defined(BENCH_SEGMENT)
    if (w->index == 0)
        bench_segment_remove(); /* all have it open: nothing is left over, however this ends */
#endif
    if (workload->setup != NULL)
        workload->setup(w);
    meet();
    if (leads) {
        memory_use_sample(&common->memory[w->index]);
        nrpcs = count_rpcs();
    }
    if (w->index == 0)
        common->daemon_ns = -daemon_ns();
    meet();
    start = now_ns();
    workload->run(w);
    w->ns = now_ns() - start;
    meet();
    if (w->index == 0)
        common->daemon_ns += daemon_ns();
    if (leads) {
        common->nrpcs[w->index] = count_rpcs() - nrpcs;
        memory_use_sample(&common->memory[w->index]);
    }
    meet(); /* nobody's end disturbs another one's sample */
    return NULL;
}

static void run_threads(unsigned n)
{
    pthread_t threads[WORKERS_MAX];

    for (unsigned i = 1; i < n; i++) {
        if (pthread_create(&threads[i], NULL, work, &common->workers[i]) != 0)
            bench_die("pthread_create");
    }
    (void)work(&common->workers[0]);
    for (unsigned i = 1; i < n; i++)
        (void)pthread_join(threads[i], NULL);
}

/* A worker that fails leaves the others in a barrier: they are ended. */
static void run_processes(unsigned n)
{
    pid_t pids[WORKERS_MAX];
    unsigned nfailed = 0;

    for (unsigned i = 0; i < n; i++) {
        pids[i] = fork();
        if (pids[i] < 0)
            bench_die("fork");
        if (pids[i] == 0) {
            (void)work(&common->workers[i]);
            _exit(EXIT_SUCCESS);
        }
    }
    for (unsigned i = 0; i < n; i++) {
        int status;

        if (wait(&status) < 0 || status != 0) {
            for (unsigned j = 0; nfailed == 0 && j < n; j++)
                (void)kill(pids[j], SIGKILL);
            nfailed++;
        }
    }
    if (nfailed > 0)
        bench_die("a process failed");
}

static void print(unsigned n, bool processes)
{
    double ns = 0;
    uint64_t ops = 0;
    uint64_t nrpcs = 0;
    uint64_t checksum = 0;
    uint64_t bytes = 0;

    for (unsigned i = 0; i < n; i++) {
        const bench_worker *w = &common->workers[i];

        ns += w->ns;
        ops += w->ops;
        nrpcs += common->nrpcs[i];
        checksum += w->checksum;
        bytes += memory_use_peak(&common->memory[i]);
    }
    (void)printf("{\"allocator\": \"" BENCH_ALLOCATOR "\", \"workload\": \"%s\", \"threads\": %u, \"processes\": %u, "
                 "\"size\": %zu, \"ops\": %" PRIu64 ", \"ns_per_op\": %.4f, \"peak_bytes\": %" PRIu64
                 ", \"rpcs\": %" PRIu64 ", \"daemon_ns_per_op\": %.4f, \"checksum\": \"%016" PRIx64 "\"}\n",
                 workload->name, processes ? 1 : n, processes ? n : 1, common->workers[0].size, ops, ns / (double)ops,
                 bytes, nrpcs, common->daemon_ns / (double)ops, checksum);
}

/* --- command line --- */

static const bench_workload *const groups[] = {
#if defined(BENCH_BOOST)
    bench_boost,
#elif defined(BENCH_SEGMENT)
    bench_fixed,
    bench_threads,
#else
    bench_fixed,
    bench_churn,
    bench_threads,
    bench_sizes,
#endif
};

typedef struct arguments {
    const char *name;
    unsigned threads;
    unsigned processes;
    size_t size;
    uint64_t ops;
    bool list;
} arguments;

static const struct argp_option option_table[] = {
    { "threads", 't', "N", 0, "Workers are N threads (default 1)", 0 },
    { "processes", 'p', "N", 0, "Workers are N processes", 0 },
    { "size", 's', "BYTES", 0, "Size of objects, where the workload has one", 0 },
    { "ops", 'n', "N", 0, "Operations of each worker", 0 },
    { "list", 'l', NULL, 0, "Print the workloads", 0 },
    { 0 },
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    arguments *args = state->input;

    switch (key) {
    case 't':
        args->threads = (unsigned)strtoul(arg, NULL, 10);
        return 0;
    case 'p':
        args->processes = (unsigned)strtoul(arg, NULL, 10);
        return 0;
    case 's':
        args->size = strtoull(arg, NULL, 10);
        return 0;
    case 'n':
        args->ops = strtoull(arg, NULL, 10);
        return 0;
    case 'l':
        args->list = true;
        return 0;
    case ARGP_KEY_ARG:
        if (args->name != NULL)
            argp_usage(state);
        args->name = arg;
        return 0;
    case ARGP_KEY_END:
        if (args->name == NULL && !args->list)
            argp_usage(state);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* The workload of that name, or NULL; without a name, all are printed. */
static const bench_workload *find(const char *name)
{
    for (size_t g = 0; g < sizeof(groups) / sizeof(groups[0]); g++) {
        for (const bench_workload *b = groups[g]; b->name != NULL; b++) {
            if (name == NULL)
                (void)printf("%-14s %s\n", b->name, b->about);
            else if (strcmp(b->name, name) == 0)
                return b;
        }
    }
    return NULL;
}

static void prepare_common(const arguments *args, unsigned n)
{
    pthread_barrierattr_t attributes;

    common = mmap(NULL, sizeof(*common), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (common == MAP_FAILED)
        bench_die("mmap");
    (void)pthread_barrierattr_init(&attributes);
    (void)pthread_barrierattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    if (pthread_barrier_init(&common->barrier, &attributes, n) != 0)
        bench_die("pthread_barrier_init");
    for (unsigned i = 0; i < n; i++) {
        common->workers[i] = (bench_worker){
            .index = i,
            .nworkers = n,
            .processes = args->processes > 0,
            .size = args->size > 0 ? args->size : workload->size,
            .ops = args->ops > 0 ? args->ops : workload->ops,
            .random = UINT64_C(0x9e3779b97f4a7c15) * (i + 1),
            .ring = &common->rings[i / 2],
            .all = common->workers,
        };
    }
}

int main(int argc, char **argv)
{
    static const struct argp argp = {
        .options = option_table,
        .parser = parse_option,
        .args_doc = "WORKLOAD",
        .doc = "Runs one workload of the benchmark suite with " BENCH_ALLOCATOR " and prints a line of JSON.",
    };
    arguments args = { .threads = 1 };
    unsigned n;

    (void)argp_parse(&argp, argc, argv, 0, NULL, &args);
    if (args.list) {
        (void)find(NULL);
        return EXIT_SUCCESS;
    }
    workload = find(args.name);
    if (workload == NULL)
        bench_die("no such workload");
    n = args.processes > 0 ? args.processes : args.threads;
    if (n == 0 || n > WORKERS_MAX || (workload->worker_multiple > 0 && n % workload->worker_multiple != 0))
        bench_die("not with that many workers");
    prepare_common(&args, n);
#if defined(BENCH_SEGMENT)
    bench_segment_create();
#endif
    if (args.processes > 0)
        run_processes(n);
    else
        run_threads(n);
    print(n, args.processes > 0);
    return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
