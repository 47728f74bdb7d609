/*
 * bench_collector_cycle: pauses of whole cycles, with a daemon and clients that are stopped. Prints a table; asserts
 * nothing.
 *
 *     bench_collector_cycle [--cycles N] [--json]
 *
 *   after a death     CLIENTS processes of THREADS threads, each with 64 MiB of private memory of which 1 MiB is
 *                     declared (goalloc_private_roots()); a heap of 1 GiB of which 8 MiB may hold pointers. A worker is
 *                     killed with 100 objects of its own; then a cycle looks for what the dead have left
 *   in vain, 5 ms     a heap of which 1 GiB may hold pointers, as below, with a longest pause of 5 ms: how long until
 *                     it gives up
 *   1 GiB of pointers the same clients; 1 GiB of the heap may hold pointers, all of it live: a cycle over all of it
 *
 * The pause is what the collector measures: from the first interrupt until all go on. "estimate" is what it expected.
 * Below the first row stand its parts (pauseparts.h), and the time for the heap's copy, beside which the tracer looks
 * at processes; the parts of "processes" are sums over all threads, also of that time.
 */
#include <argp.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "client/collector/collect.h"
#include "tests/bench/pauseparts.h"
#include "tests/support/attach.h"

#define CLIENTS      4
#define THREADS      16
#define PRIVATE      (64 * MIB)
#define DECLARED     (1 * MIB)
#define CYCLES_MAX   1000
#define LEFT         100

static int cycles = 31;
static bool json;

typedef struct shared {
    uint64_t pause_ns;
    uint64_t copy_ns;
    uint64_t estimate_ns;
    uint64_t freed;
    uint64_t walk_ns;
    world_times times;
    uint64_t elapsed_ns;
    int error;
    unsigned flags;
    uint64_t max_pause_ns;
    uint64_t scan_bytes;
    uint64_t noscan_bytes;
    char text[WORLD_TEXT_BYTES];
} shared;

static shared *board;

/* --- clients --- */

static void *nap(void *arg)
{
    (void)arg;
    for (;;)
        (void)usleep(1000);
    return NULL;
}

static int client(const fixture *f, void *arg)
{
    void **memory = mmap(NULL, PRIVATE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    (void)arg;
    must_attach(f, 0);
    CHECK(memory != MAP_FAILED);
    memset(memory, 0x11, PRIVATE);
    CHECK(goalloc_private_roots(memory, DECLARED) == 0);
    for (size_t i = 0; i < DECLARED / sizeof(*memory); i += 64)
        memory[i] = goalloc_malloc_noscan(64);
    for (int i = 1; i < THREADS; i++) {
        pthread_t thread;

        CHECK(pthread_create(&thread, NULL, nap, NULL) == 0);
    }
    (void)raise(SIGSTOP);
    for (;;)
        (void)usleep(1000);
}

/* So much of the heap, reached from a root. */
static int fill(const fixture *f, void *arg)
{
    const uint64_t object = 1024;
    uint64_t noscan = 0;
    void **last = NULL;

    (void)arg;
    must_attach(f, 0);
    for (uint64_t n = 0; n < board->scan_bytes; n += object) {
        void **p = goalloc_calloc(1, object);

        CHECK(p != NULL);
        p[0] = last;
        for (uint64_t i = 1; i < object / sizeof(*p); i++) {
            p[i] = i % 2 == 0 ? p : (void *)(uintptr_t)i;
            if (noscan < board->noscan_bytes) {
                p[i] = goalloc_malloc_noscan(object);
                CHECK(p[i] != NULL);
                memset(p[i], 1, object);
                noscan += object;
            }
        }
        last = p;
    }
    CHECK(noscan == board->noscan_bytes);
    CHECK(goalloc_root_set("heap", last) == 0);
    return 0;
}

static int leave(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    for (int i = 0; i < LEFT; i++)
        CHECK(goalloc_malloc(100) != NULL);
    (void)kill(getpid(), SIGKILL);
    return 0;
}

/* --- the collector --- */

static int collect(const fixture *f, void *arg)
{
    collect_options options = { .socket_path = f->socket, .flags = board->flags, .max_pause_ns = board->max_pause_ns };
    collect_result result;
    uint64_t begin = heapcopy_now_ns();

    (void)arg;
    board->error = collect_run(&options, &result);
    board->elapsed_ns = heapcopy_now_ns() - begin;
    board->pause_ns = result.pause_ns;
    board->copy_ns = result.copy_ns;
    board->walk_ns = result.walk_ns;
    board->times = result.times;
    board->estimate_ns = result.estimate_ns;
    board->freed = result.garbage.freed.objects;
    (void)snprintf(board->text, sizeof(board->text), "%s", result.trouble.text);
    collect_end(&result);
    return 0;
}

static int by_value(const void *a, const void *b)
{
    double one = *(const double *)a;
    double other = *(const double *)b;

    return (one > other) - (one < other);
}

static void show(const char *name, double *values, int n, const char *more)
{
    qsort(values, (size_t)n, sizeof(values[0]), by_value);
    if (json)
        printf("{\"row\": \"%s\", \"median_ms\": %.3f, \"max_ms\": %.3f, \"cycles\": %d}\n", name, values[n / 2],
               values[n - 1], n);
    else
        printf("%-28s median %8.2f ms, max %8.2f ms, %4d cycles; %s\n", name, values[n / 2], values[n - 1], n, more);
    (void)fflush(stdout);
}

typedef struct crew {
    fixture f;
    pid_t pids[CLIENTS];
} crew;

static void crew_start(crew *c, uint64_t scan_bytes, uint64_t noscan_bytes)
{
    static const char *const options[] = { "--reserve", "8G", NULL };

    fixture_start(&c->f, options);
    board->scan_bytes = scan_bytes;
    board->noscan_bytes = noscan_bytes;
    CHECK(child_run(&c->f, fill, NULL) == 0);
    for (int i = 0; i < CLIENTS; i++) {
        int status;

        c->pids[i] = child_start(&c->f, client, NULL);
        CHECK(waitpid(c->pids[i], &status, WUNTRACED) == c->pids[i] && WIFSTOPPED(status));
        (void)kill(c->pids[i], SIGCONT);
    }
}

static void crew_end(crew *c)
{
    for (int i = 0; i < CLIENTS; i++) {
        (void)kill(c->pids[i], SIGKILL);
        (void)child_wait(c->pids[i]);
    }
    (void)fixture_stop(&c->f);
}

/* --- parts of a pause --- */

enum { HEAP = PAUSE_NPARTS, WALK, NPARTS };

static double parts[NPARTS][CYCLES_MAX];

static void note_parts(int n)
{
    for (size_t i = 0; i < PAUSE_NPARTS; i++)
        parts[i][n] = (double)pause_part_ns(&board->times, i) / 1e6;
    parts[HEAP][n] = (double)board->copy_ns / 1e6;
    parts[WALK][n] = (double)board->walk_ns / 1e6;
}

static void show_parts(int n)
{
    for (size_t i = 0; i < NPARTS && !json; i++) {
        const char *name = i == HEAP ? "heap" : i == WALK ? "  walk" : pause_parts[i].name;

        qsort(parts[i], (size_t)n, sizeof(parts[i][0]), by_value);
        printf("    %-24s median %8.3f ms, max %8.3f ms\n", name, parts[i][n / 2], parts[i][n - 1]);
    }
    (void)fflush(stdout);
}

static void row_after_death(void)
{
    double values[CYCLES_MAX];
    uint64_t freed = 0;
    char more[128];
    crew c = { .pids = { 0 } };
    int n = 0;

    crew_start(&c, 8 * MIB, 1016 * MIB);
    board->flags = COLLECT_SUSPECTS | COLLECT_FREE;
    board->max_pause_ns = 0;
    for (int i = 0; i < cycles; i++) {
        CHECK(child_run(&c.f, leave, NULL) == 1000 + SIGKILL);
        CHECK(child_run(&c.f, collect, NULL) == 0);
        if (board->error != 0) {
            (void)fprintf(stderr, "%s\n", board->text);
            continue;
        }
        note_parts(n);
        values[n++] = (double)board->pause_ns / 1e6;
        freed += board->freed;
    }
    (void)snprintf(more, sizeof(more), "of the last: heap %.2f ms, estimate %.2f ms; %llu of %d freed",
                   (double)board->copy_ns / 1e6, (double)board->estimate_ns / 1e6, (unsigned long long)freed,
                   cycles * LEFT);
    if (n > 0)
        show("after a death", values, n, more);
    show_parts(n);
    crew_end(&c);
}

static void row_whole_heap(void)
{
    double values[CYCLES_MAX];
    double vain[CYCLES_MAX];
    char more[128];
    char why[WORLD_TEXT_BYTES] = "";
    crew c = { .pids = { 0 } };
    int n = 0;

    crew_start(&c, 1024 * MIB, 0);
    board->flags = COLLECT_FREE;
    for (int i = 0; i < (cycles + 5) / 6; i++) {
        board->max_pause_ns = 5000000;
        CHECK(child_run(&c.f, collect, NULL) == 0);
        CHECK(board->error == -ETIMEDOUT);
        vain[i] = (double)board->pause_ns / 1e6;
        (void)snprintf(why, sizeof(why), "%s", board->text);
        board->max_pause_ns = 0;
        CHECK(child_run(&c.f, collect, NULL) == 0);
        if (board->error != 0) {
            (void)fprintf(stderr, "%s\n", board->text);
            continue;
        }
        values[n++] = (double)board->pause_ns / 1e6;
    }
    show("in vain, 5 ms", vain, (cycles + 5) / 6, why);
    (void)snprintf(more, sizeof(more), "of the last: heap %.2f ms, estimate %.2f ms, cycle %.2f s",
                   (double)board->copy_ns / 1e6, (double)board->estimate_ns / 1e6, (double)board->elapsed_ns / 1e9);
    if (n > 0)
        show("1 GiB of pointers", values, n, more);
    crew_end(&c);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    switch (key) {
    case 'c':
        cycles = (int)strtol(arg, NULL, 10);
        if (cycles < 1 || cycles > CYCLES_MAX)
            argp_error(state, "--cycles: a number from 1 to %d", CYCLES_MAX);
        return 0;
    case 'j':
        json = true;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

int main(int argc, char **argv)
{
    static const struct argp_option options[] = {
        { .name = "cycles", .key = 'c', .arg = "N",
          .doc = "Cycles of the first row; a sixth of the others (default: 31)" },
        { .name = "json", .key = 'j', .doc = "An object each row" },
        { 0 },
    };
    static const struct argp argp = { .options = options, .parser = parse };

    (void)argp_parse(&argp, argc, argv, 0, NULL, NULL);
    board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(board != MAP_FAILED);
    row_after_death();
    row_whole_heap();
    return 0;
}
