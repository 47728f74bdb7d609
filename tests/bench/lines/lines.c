/*
 * bench_lines: which cache lines do two threads write that have nothing to do with each other?
 *
 * By hand: starts a goallocd of its own; the library in it tells each of its accesses to memory (record.c). Threads
 * that allocate and free for themselves alone warm up, and then go on while it is counted who writes and reads which
 * line. So the answer does not depend on how many processors there are: a line that two threads write in steady state,
 * or that one writes and others read, would go to and fro on a machine that has one for each.
 *
 *   --pairs N   of malloc and free at once, after the warm-up; then
 *   --churn N   times that a random one of a thread's 512 objects is replaced. Sizes are log-uniform from 16 B to
 *               --most, so there are small objects and runs. As many as warm-up, and at least 20,000.
 *
 * Prints the lines that two threads write, those that are written by one and read by others, and requests to the daemon
 * in the counted part. A line of libgoalloc's data or of the shared regions is named by the mapping that it lies in and
 * the functions that write it. The exit status is 1 if there is a line that two threads write.
 */
#include <argp.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bench/lines/record.h"
#include "tests/support/fixture.h"

#define LIVE       512u
#define WARM_UP    20000u
#define SHOWN      20u
#define LINE_BYTES 64u
#define SIZE_MIN   16u

typedef struct arguments {
    unsigned threads;
    unsigned pairs;
    unsigned churn;
    size_t most;
} arguments;

static arguments args = { .threads = 16, .pairs = 20000, .churn = 100000, .most = 32768 };
static pthread_barrier_t barrier;
static uint64_t nrequests;

__attribute__((noreturn)) static void give_up(const char *what)
{
    (void)fprintf(stderr, "bench_lines: %s\n", what);
    exit(EXIT_FAILURE);
}

/* --- threads --- */

static void *take(uint64_t *random)
{
    double u = (double)(test_random(random) >> 11) / 9007199254740992.0;
    uint64_t *p = goalloc_malloc((size_t)(SIZE_MIN * pow((double)args.most / SIZE_MIN, u)));

    if (p == NULL)
        give_up("out of memory");
    *p = 1;
    return p;
}

static void run_pairs(unsigned n, uint64_t *random)
{
    for (unsigned i = 0; i < n; i++)
        goalloc_free(take(random));
}

static void run_churn(unsigned n, void **live, uint64_t *random)
{
    for (unsigned i = 0; i < n; i++) {
        void **p = &live[test_random(random) % LIVE];

        goalloc_free(*p);
        *p = take(random);
    }
}

static uint64_t count_requests(void)
{
    goalloc_stats_t stats = { .struct_size = sizeof(stats) };

    if (goalloc_stats(&stats) < 0)
        give_up("goalloc_stats");
    return stats.session_rpcs;
}

static void *work(void *arg)
{
    unsigned thread = (unsigned)(uintptr_t)arg;
    uint64_t random = thread + 1;
    void *live[LIVE] = { NULL };

    run_churn(args.churn > WARM_UP ? args.churn : WARM_UP, live, &random);
    run_pairs(args.pairs, &random);
    (void)pthread_barrier_wait(&barrier);
    if (thread == 0)
        nrequests = count_requests();
    (void)pthread_barrier_wait(&barrier);
    record_begin(thread);
    run_churn(args.churn, live, &random);
    run_pairs(args.pairs, &random);
    record_end();
    (void)pthread_barrier_wait(&barrier);
    if (thread == 0)
        nrequests = count_requests() - nrequests - 1;
    (void)pthread_barrier_wait(&barrier);
    for (unsigned i = 0; i < LIVE; i++)
        goalloc_free(live[i]);
    return NULL;
}

static void run_threads(void)
{
    pthread_t threads[RECORD_THREADS_MAX];

    if (pthread_barrier_init(&barrier, NULL, args.threads) != 0)
        give_up("pthread_barrier_init");
    for (unsigned i = 0; i < args.threads; i++) {
        if (pthread_create(&threads[i], NULL, work, (void *)(uintptr_t)i) != 0)
            give_up("pthread_create");
    }
    for (unsigned i = 0; i < args.threads; i++)
        (void)pthread_join(threads[i], NULL);
}

/* --- names --- */

/* The mapping that the address lies in, and how far from its beginning. */
static void print_place(uint64_t address)
{
    FILE *maps = fopen("/proc/self/maps", "re");
    char text[512];
    bool found = false;

    while (maps != NULL && !found && fgets(text, sizeof(text), maps) != NULL) {
        uint64_t from;
        uint64_t to;
        int at = 0;

        if (sscanf(text, "%" SCNx64 "-%" SCNx64 " %*s %*s %*s %*s %n", &from, &to, &at) < 2 || address < from ||
            address >= to)
            continue;
        text[strcspn(text, "\n")] = '\0';
        (void)printf("%s + 0x%" PRIx64, at > 0 && text[at] != '\0' ? text + at : "private memory", address - from);
        found = true;
    }
    if (!found)
        (void)printf("0x%" PRIx64, address);
    if (maps != NULL)
        (void)fclose(maps);
}

/* The function of the code and, if it is inlined, those around it, by addr2line. */
static void print_code(const void *code)
{
    extern const char __executable_start;
    char command[256];
    char text[256] = "?";
    FILE *out;

    (void)snprintf(command, sizeof(command), "addr2line -s -f -i -e /proc/%d/exe 0x%" PRIxPTR " 2>&1",
                   (int)getpid(), (uintptr_t)code - 1 - (uintptr_t)&__executable_start);
    (void)fflush(stdout);
    out = popen(command, "re");
    for (unsigned n = 0; out != NULL && fgets(text, sizeof(text), out) != NULL; n++) {
        text[strcspn(text, "\n")] = '\0';
        if (n % 2 == 0) /* a function, then its file and line */
            (void)printf("%s%s", n == 0 ? "" : " in ", text);
    }
    if (out != NULL)
        (void)pclose(out);
}

static void print_line(const record_line *line)
{
    (void)printf("  %2u write, %2u only read, %8" PRIu64 " writes: ", line->nwriters, line->nreaders, line->nwrites);
    print_place(line->line * LINE_BYTES);
    (void)printf("\n      by ");
    print_code(line->writes_at[0]);
    if (line->nwriters > 1 && line->writes_at[1] != line->writes_at[0]) {
        (void)printf(", ");
        print_code(line->writes_at[1]);
    }
    (void)printf("\n");
}

/* Returns how many lines two threads write. */
static size_t report(void)
{
    record_line *lines;
    size_t n = record_lines(&lines);
    size_t nshared = 0;
    size_t nread = 0;

    for (size_t i = 0; i < n; i++) {
        nshared += lines[i].nwriters > 1;
        nread += lines[i].nwriters == 1 && lines[i].nreaders > 0;
    }
    (void)printf("%u threads, %u replacements and %u pairs each, %u B to %zu B: %zu lines written, %" PRIu64
                 " requests\n",
                 args.threads, args.churn, args.pairs, SIZE_MIN, args.most, n, nrequests);
    (void)printf("written by two threads or more: %zu\n", nshared);
    for (size_t i = 0, shown = 0; i < n && shown < SHOWN; i++) {
        if (lines[i].nwriters > 1 && ++shown)
            print_line(&lines[i]);
    }
    (void)printf("written by one thread and read by others: %zu\n", nread);
    for (size_t i = 0, shown = 0; i < n && shown < SHOWN; i++) {
        if (lines[i].nwriters == 1 && lines[i].nreaders > 0 && ++shown)
            print_line(&lines[i]);
    }
    free(lines);
    return nshared;
}

/* --- command line --- */

static const struct argp_option option_table[] = {
    { "threads", 't', "N", 0, "Threads (default 16)", 0 },
    { "pairs", 'p', "N", 0, "Pairs that count, of each thread (default 20000)", 0 },
    { "churn", 'c', "N", 0, "Replacements that count, of each thread (default 100000)", 0 },
    { "most", 'm', "BYTES", 0, "Longest object (default 32768)", 0 },
    { 0 },
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    switch (key) {
    case 't':
        args.threads = (unsigned)strtoul(arg, NULL, 10);
        if (args.threads == 0 || args.threads > RECORD_THREADS_MAX)
            argp_error(state, "--threads takes a number from 1 to %u, not '%s'", RECORD_THREADS_MAX, arg);
        return 0;
    case 'p':
        args.pairs = (unsigned)strtoul(arg, NULL, 10);
        return 0;
    case 'c':
        args.churn = (unsigned)strtoul(arg, NULL, 10);
        return 0;
    case 'm':
        args.most = strtoull(arg, NULL, 10);
        if (args.most < SIZE_MIN)
            argp_error(state, "--most takes %u bytes at least, not '%s'", SIZE_MIN, arg);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

int main(int argc, char **argv)
{
    static const struct argp argp = {
        .options = option_table,
        .parser = parse_option,
        .doc = "Counts the cache lines that several threads write which allocate for themselves alone.",
    };
    static const char *const options[] = { "--reserve", "16G", "--log-level", "warn", NULL };
    fixture f;
    size_t nshared;

    (void)argp_parse(&argp, argc, argv, 0, NULL, NULL);
    fixture_start(&f, options);
    (void)setenv("GOALLOC_SOCKET", f.socket, 1);
    if (goalloc_attach(NULL) < 0)
        give_up("goalloc_attach");
    run_threads();
    nshared = report();
    if (goalloc_detach() < 0 || !fixture_stop(&f))
        give_up("the daemon has not ended cleanly");
    return nshared > 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
