/*
 * bench_image: images of heaps (tests/bench/run --only image, or by hand). Prints a table and, as its last line, JSON;
 * asserts nothing. All files are on a tmpfs (/dev/shm, or --dir).
 *
 *   save     a heap of small objects (64 to 512 bytes, --bytes of them, 1 GiB by default), by goallocctl save, not
 *            compressed: live bytes by the time of copy and file. held: how long nobody could attach. Meanwhile another
 *            process, which has attached as soon as it could, allocates 32 KiB at a time: its longest malloc
 *   pause    the same while four processes are attached and allocate and free: how long they were stopped, for a GiB of
 *            live pages, and what was estimated before
 *   load     a daemon with --load, from its start to the first attach
 *   index    the words of a directory (--directory, by default this project's sources), by the example wordindex:
 *            zstd -1, bytes of the file by live bytes
 *
 * Wall-clock times; cpu is the processor time of goallocctl and its threads, or of the daemon until it served.
 */
#include <argp.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "shm/units.h"
#include "tests/support/attach.h"

#define REFILL_BYTES 32768u
#define HISTORY      1000u
#define CLIENTS      4

static struct {
    uint64_t bytes;
    const char *dir;
    const char *directory;
    const char *wordindex;
    unsigned repetitions;
} args = { GIB, "/dev/shm", GOALLOC_SOURCE_DIR, WORDINDEX_PATH, 3 };

static char path[160];

static double now_s(void)
{
    struct timespec ts = { 0, 0 };

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* Of all children that were waited for. */
static double children_cpu_s(void)
{
    struct rusage usage;

    (void)getrusage(RUSAGE_CHILDREN, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static int fill(const fixture *f, void *arg)
{
    uint64_t seed = 1;
    uint64_t live = 0;
    void *last = NULL;

    (void)arg;
    must_attach(f, 0);
    while (live < args.bytes) {
        uint64_t how = test_random(&seed);
        size_t size = 64 + how % 449;
        uint64_t *p = goalloc_malloc(size);

        CHECK(p != NULL);
        for (size_t i = 1; i < size / 8; i++)
            p[i] = how * i;
        p[0] = (uint64_t)(uintptr_t)last;
        last = p;
        live += goalloc_usable_size(p);
    }
    CHECK(goalloc_root_set("last", last) == 0);
    return 0;
}

/* Attach as soon as one can, and allocate until told to end: the longest malloc, in us, as the exit of a pipe. */
static int refill(const fixture *f, void *arg)
{
    const int *fds = arg;
    static void *blocks[HISTORY];
    double longest = 0;
    char byte;

    must_attach(f, 0);
    for (unsigned n = 0; read(fds[0], &byte, 1) < 0; n = (n + 1) % HISTORY) {
        double began;

        goalloc_free(blocks[n]);
        began = now_s();
        CHECK((blocks[n] = goalloc_malloc(REFILL_BYTES)) != NULL);
        longest = now_s() - began > longest ? now_s() - began : longest;
    }
    CHECK(write(fds[3], &longest, sizeof(longest)) == sizeof(longest));
    return 0;
}

static double number(const json_t *o, const char *name)
{
    return (double)json_integer_value(json_object_get(o, name));
}

/* goallocctl save, as JSON. Exits on failure. */
static json_t *save(const fixture *f, const char *level, double *ret_cpu_s)
{
    const char *const arguments[] = { "--json", "--timeout=60s", "save", level, path, NULL };
    double cpu = children_cpu_s();
    char out[2000];
    json_t *o;

    if (fixture_ctl(f, arguments, out, sizeof(out)) != 0 || (o = json_loads(out, 0, NULL)) == NULL) {
        (void)fprintf(stderr, "bench_image: goallocctl save: %s\n", out);
        exit(EXIT_FAILURE);
    }
    *ret_cpu_s = children_cpu_s() - cpu;
    return o;
}

static void bench_save(const fixture *f, json_t *ret)
{
    int down[2];
    int up[2];
    int fds[4];
    char part[200];
    double cpu_s;
    double longest = 0;
    pid_t child;
    json_t *o;
    double s;

    if (pipe2(down, O_NONBLOCK | O_CLOEXEC) < 0 || pipe2(up, O_CLOEXEC) < 0)
        exit(EXIT_FAILURE);
    memcpy(fds, (int[]){ down[0], down[1], up[0], up[1] }, sizeof(fds));
    o = save(f, "--level=0", &cpu_s); /* its file is there: as a service has it */
    s = (number(o, "held_us") + number(o, "write_us")) / 1e6;
    (void)printf("  save   %6.2f GiB/s (%.2f s, cpu %.2f s), held %.0f ms, %.0f ms a GiB of live pages\n",
                 number(o, "live_bytes") / (double)GIB / s, s, cpu_s, number(o, "held_us") / 1e3,
                 number(o, "held_us") / 1e3 / (number(o, "copied_bytes") / (double)GIB));
    json_object_set_new(ret, "save_gib_s", json_real(number(o, "live_bytes") / (double)GIB / s));
    json_object_set_new(ret, "held_ms_a_gib",
                        json_real(number(o, "held_us") / 1e3 / (number(o, "copied_bytes") / (double)GIB)));
    json_decref(o);
    /* Once more, with one who attaches when the copy has been made. */
    (void)snprintf(part, sizeof(part), "%s.part", path);
    child = fork();
    if (child == 0) {
        while (access(part, F_OK) < 0)
            usleep(1000);
        _exit(refill(f, fds));
    }
    json_decref(save(f, "--level=0", &cpu_s));
    if (write(down[1], "", 1) != 1 || read(up[0], &longest, sizeof(longest)) != sizeof(longest))
        exit(EXIT_FAILURE);
    (void)waitpid(child, NULL, 0);
    (void)printf("  refills of another process meanwhile: the longest malloc %.2f ms\n", longest * 1e3);
    json_object_set_new(ret, "longest_malloc_ms", json_real(longest * 1e3));
    for (int i = 0; i < 2; i++) {
        (void)close(down[i]);
        (void)close(up[i]);
    }
}

/* Allocate and free until it is killed. */
static int churn(const fixture *f, void *arg)
{
    static void *blocks[HISTORY];
    uint64_t seed = (uint64_t)getpid();
    const int *fds = arg;

    must_attach(f, 0);
    for (uint64_t n = 0;; n++) {
        unsigned i = (unsigned)(test_random(&seed) % HISTORY);

        goalloc_free(blocks[i]);
        CHECK((blocks[i] = goalloc_malloc(64 + test_random(&seed) % 449)) != NULL);
        if (n == 10 * HISTORY)
            CHECK(write(fds[1], "", 1) == 1);
        if (n % HISTORY == 0)
            usleep(1000);
    }
}

static void bench_pause(const fixture *f, json_t *ret)
{
    pid_t pids[CLIENTS];
    double cpu_s;
    double gib;
    char byte;
    int fds[2];
    json_t *o;

    if (pipe2(fds, O_CLOEXEC) < 0)
        exit(EXIT_FAILURE);
    for (int i = 0; i < CLIENTS; i++)
        pids[i] = child_start(f, churn, fds);
    for (int i = 0; i < CLIENTS; i++) {
        if (read(fds[0], &byte, 1) != 1)
            exit(EXIT_FAILURE);
    }
    o = save(f, "--level=0", &cpu_s);
    gib = number(o, "copied_bytes") / (double)GIB;
    (void)printf("  pause  %6.0f ms a GiB of live pages (%.0f ms), estimated %.0f ms: %.2f\n",
                 number(o, "pause_us") / 1e3 / gib, number(o, "pause_us") / 1e3, number(o, "estimate_us") / 1e3,
                 number(o, "pause_us") / number(o, "estimate_us"));
    json_object_set_new(ret, "pause_ms_a_gib", json_real(number(o, "pause_us") / 1e3 / gib));
    json_object_set_new(ret, "pause_by_estimate", json_real(number(o, "pause_us") / number(o, "estimate_us")));
    json_decref(o);
    for (int i = 0; i < CLIENTS; i++) {
        (void)kill(pids[i], SIGKILL);
        (void)child_wait(pids[i]);
    }
    (void)close(fds[0]);
    (void)close(fds[1]);
    (void)fixture_live_with(f, 0);
}

static int attach_once(const fixture *f, void *arg)
{
    void *p;

    (void)arg;
    must_attach(f, 0);
    CHECK(goalloc_root_get("last", &p) == 0);
    return 0;
}

static double live_bytes_of(const fixture *f)
{
    goalloc_stats_t stats;

    fixture_stats(f, &stats);
    return (double)stats.live_bytes;
}

static void bench_load(json_t *ret, double live_bytes)
{
    static const char *options[] = { "--load", path, NULL };
    fixture f;
    double began;
    double s;

    fixture_make_place(&f);
    f.options = options;
    began = now_s();
    fixture_launch(&f);
    if (child_run(&f, attach_once, NULL) != 0)
        exit(EXIT_FAILURE);
    s = now_s() - began;
    (void)printf("  load   %6.2f GiB/s (%.2f s to the first attach)\n", live_bytes / (double)GIB / s, s);
    json_object_set_new(ret, "load_gib_s", json_real(live_bytes / (double)GIB / s));
    (void)kill(f.daemon, SIGKILL);
    (void)waitpid(f.daemon, NULL, 0);
}

static int index_words(const fixture *f, void *arg)
{
    (void)arg;
    if (setenv("GOALLOC_SOCKET", f->socket, 1) == 0 && freopen("/dev/null", "w", stdout) != NULL)
        (void)execl(args.wordindex, "wordindex", "build", "--workers", "2", args.directory, (char *)NULL);
    return 1;
}

static void bench_index(json_t *ret)
{
    fixture f;
    double cpu_s;
    json_t *o;

    fixture_start(&f, NULL);
    if (child_run(&f, index_words, NULL) != 0)
        exit(EXIT_FAILURE);
    (void)fixture_live_with(&f, 0);
    o = save(&f, "--level=1", &cpu_s);
    (void)printf("  index  %6.1f%% of %.1f MiB live, zstd -1 (%.0f ms)\n",
                 number(o, "file_bytes") / number(o, "live_bytes") * 100, number(o, "live_bytes") / (double)MIB,
                 (number(o, "held_us") + number(o, "write_us")) / 1e3);
    json_object_set_new(ret, "index_percent", json_real(number(o, "file_bytes") / number(o, "live_bytes") * 100));
    json_decref(o);
    (void)fixture_stop(&f);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    switch (key) {
    case 'b':
        args.bytes = strtoull(arg, NULL, 10) * MIB;
        return 0;
    case 'd':
        args.dir = arg;
        return 0;
    case 'w':
        args.directory = arg;
        return 0;
    case 'n':
        args.repetitions = (unsigned)strtoul(arg, NULL, 10);
        return 0;
    case ARGP_KEY_ARG:
        argp_usage(state);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

int main(int argc, char **argv)
{
    static const struct argp_option options[] = {
        { "mib", 'b', "N", 0, "Live bytes of save and load, in MiB (default: 1024)", 0 },
        { "dir", 'd', "DIR", 0, "Where images are (default: /dev/shm)", 0 },
        { "directory", 'w', "DIR", 0, "Whose words the index has (default: this project's sources)", 0 },
        { "repetitions", 'n', "N", 0, "(default: 3)", 0 },
        { 0 },
    };
    const struct argp argp = { options, parse, NULL, "Measures images of heaps.", NULL, NULL, NULL };
    json_t *all = json_array();
    fixture f;

    if (argp_parse(&argp, argc, argv, 0, NULL, NULL) != 0 || args.bytes == 0)
        return EXIT_FAILURE;
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    (void)snprintf(path, sizeof(path), "%s/goalloc-bench-%d.img", args.dir, (int)getpid());
    fixture_start(&f, NULL);
    if (child_run(&f, fill, NULL) != 0)
        return EXIT_FAILURE;
    (void)fixture_live_with(&f, 0);
    for (unsigned i = 0; i < args.repetitions; i++) {
        json_t *row = json_object();

        (void)printf("%u:\n", i + 1);
        bench_save(&f, row);
        bench_pause(&f, row);
        bench_load(row, live_bytes_of(&f));
        bench_index(row);
        (void)json_array_append_new(all, row);
        (void)fflush(stdout);
    }
    (void)unlink(path);
    (void)json_dumpf(all, stdout, JSON_REAL_PRECISION(4));
    (void)putchar('\n');
    json_decref(all);
    return fixture_stop(&f) ? EXIT_SUCCESS : EXIT_FAILURE;
}
