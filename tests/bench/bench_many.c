/*
 * bench_many: what many processes on one heap cost each other: how long requests wait, and which memory the idle keep.
 *
 * Called by hand; starts a goallocd of its own for each part, with processes that link libgoalloc. Prints figures,
 * --json: one object a part. Asserts nothing. The parts:
 *
 *   crowd   1000 processes attach at the same moment, and each does 20,000 operations: a random one of its 32 objects
 *           is replaced by one of 16 B to 200 KB (log-uniform). Figures: times that the daemon handled a request
 *           divided by requests answered; how often one waited; and the longest malloc of each process.
 *   idle    nine processes allocate 100 MiB each in objects of one size (64 B, 1 KiB, 5 KiB, 40 KiB by turns), free
 *           them in random order and do nothing any more. Figures: bytes that their sessions hold together after 5 s,
 *           and what is committed; both again after a Trim, which no process takes part in but by itself.
 *   turns   three processes by turns, under a memory limit: each allocates 100 MiB, frees them in random order and
 *           waits for its next turn; sizes as above. Figure: the most that was retained (committed, with and without
 *           the metadata that counts), looked at before and after each process frees.
 *
 * The processes wait for each other and for the parent at a shared word each (steps below), so nothing is timed.
 */
#include <argp.h>
#include <inttypes.h>
#include <linux/futex.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "shm/units.h"
#include "tests/support/fixture.h"

#define PROCESSES_MAX  4000u
#define CROWD_LIVE     32u
#define CROWD_SIZE_MIN 16u
#define CROWD_SIZE_MAX 200000u
#define IDLE_PROCESSES 9u
#define IDLE_BYTES     (100 * MIB)
#define TURN_PROCESSES 3u
#define TURN_ROUNDS    4u
#define SIZES          4u

static const size_t sizes[SIZES] = { 64, 1024, 5 * KIB, 40 * KIB };

typedef struct arguments {
    const char *only;
    bool json;
    unsigned processes;
    unsigned operations;
    unsigned seconds;
    const char *limit; /* of the crowd's heap; NULL: none */
    const char *turns_limit;
} arguments;

/* What parent and children share. */
typedef struct board {
    uint32_t step;                   /* the parent's: who has done so much goes on */
    uint32_t done[PROCESSES_MAX];    /* each child's */
    double slowest[PROCESSES_MAX];   /* crowd: each child's longest malloc, in ns */
} board;

static board *common;
static pid_t pids[PROCESSES_MAX];
static unsigned nchildren;
static arguments args = { .processes = 1000, .operations = 20000, .seconds = 5, .turns_limit = "256M" };

__attribute__((noreturn)) static void give_up(const char *what)
{
    (void)fprintf(stderr, "bench_many: %s\n", what);
    exit(EXIT_FAILURE);
}

static double now_ns(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

/* --- parent and children --- */

static void sleep_ms(int ms)
{
    (void)poll(NULL, 0, ms);
}

/* A child: done so far; wait until the parent says so. */
static void child_done(unsigned i, uint32_t ndone)
{
    __atomic_store_n(&common->done[i], ndone, __ATOMIC_RELEASE);
}

static void child_await(uint32_t step)
{
    uint32_t now;

    while ((now = __atomic_load_n(&common->step, __ATOMIC_ACQUIRE)) < step)
        (void)syscall(SYS_futex, &common->step, FUTEX_WAIT, now, NULL, NULL, 0);
}

/* The parent: a child that ends before that has failed. */
static void await_child(unsigned i, uint32_t ndone)
{
    while (__atomic_load_n(&common->done[i], __ATOMIC_ACQUIRE) < ndone) {
        int status;

        if (waitpid(pids[i], &status, WNOHANG) != 0)
            give_up("a process has failed");
        sleep_ms(1);
    }
}

static void say_step(uint32_t step)
{
    __atomic_store_n(&common->step, step, __ATOMIC_RELEASE);
    (void)syscall(SYS_futex, &common->step, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

/* The children run child(i), then wait for the parent's last step, UINT32_MAX. */
static void start_children(const fixture *f, unsigned n, void (*child)(unsigned i))
{
    memset(common, 0, sizeof(*common));
    (void)setenv("GOALLOC_SOCKET", f->socket, 1);
    for (unsigned i = 0; i < n; i++) {
        pids[i] = fork();
        if (pids[i] < 0)
            give_up("fork");
        if (pids[i] == 0) {
            child_await(1);
            if (goalloc_attach(NULL) < 0)
                _exit(1);
            child(i);
            child_await(UINT32_MAX);
            _exit(0);
        }
    }
    nchildren = n;
    sleep_ms(200); /* all of them wait for step 1 */
}

static void end_children(void)
{
    say_step(UINT32_MAX);
    for (unsigned i = 0; i < nchildren; i++) {
        int status;

        if (waitpid(pids[i], &status, 0) < 0 || status != 0)
            give_up("a process has failed");
    }
}

/* --- the daemon's figures --- */

typedef struct memory {
    uint64_t held;      /* by all sessions */
    uint64_t committed;
    uint64_t charged;   /* and what metadata counts towards the limit */
} memory;

static uint64_t held_bytes(const fixture *f)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__SessionList body = GOALLOCD__SESSION_LIST__INIT;
    Goallocd__Reply *reply;
    int fd = raw_connect(f);
    uint64_t held = 0;

    request.id = 1;
    request.op_case = GOALLOCD__REQUEST__OP_SESSION_LIST;
    request.session_list = &body;
    reply = raw_call(fd, &request);
    if (reply == NULL || reply->result_case != GOALLOCD__REPLY__RESULT_SESSION_LIST)
        give_up("the list of sessions");
    for (size_t i = 0; i < reply->session_list->n_sessions; i++)
        held += reply->session_list->sessions[i]->held_bytes;
    goallocd__reply__free_unpacked(reply, NULL);
    (void)close(fd);
    return held;
}

static memory memory_now(const fixture *f)
{
    Goallocd__Reply *reply = fixture_stats_reply(f);
    memory ret = { .held = held_bytes(f), .committed = reply->stats->committed_bytes };

    ret.charged = ret.committed + reply->stats->metadata_charged_bytes;
    goallocd__reply__free_unpacked(reply, NULL);
    return ret;
}

static double mib(uint64_t bytes)
{
    return (double)bytes / (double)MIB;
}

/* --- crowd --- */

static size_t crowd_size(uint64_t *random)
{
    double u = (double)(test_random(random) >> 11) / 9007199254740992.0;

    return (size_t)(CROWD_SIZE_MIN * pow((double)CROWD_SIZE_MAX / CROWD_SIZE_MIN, u));
}

static void crowd_child(unsigned i)
{
    void *live[CROWD_LIVE] = { NULL };
    uint64_t random = i + 1;
    double slowest = 0;

    for (unsigned op = 0; op < args.operations; op++) {
        void **p = &live[test_random(&random) % CROWD_LIVE];
        size_t size = crowd_size(&random);
        double start;

        goalloc_free(*p);
        start = now_ns();
        *p = goalloc_malloc(size);
        if (*p == NULL)
            _exit(1);
        slowest = fmax(slowest, now_ns() - start);
        *(volatile uint64_t *)*p = op;
    }
    for (unsigned at = 0; at < CROWD_LIVE; at++)
        goalloc_free(live[at]);
    common->slowest[i] = slowest;
    child_done(i, 1);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;

    return (x > y) - (x < y);
}

static void crowd(void)
{
    const char *options[] = { "--reserve", "64G", "--log-level", "warn", "--memory-limit", args.limit, NULL };
    fixture f;
    Goallocd__Reply *reply;
    double start;
    double ms;

    if (args.limit == NULL)
        options[4] = NULL;
    fixture_start(&f, options);
    start_children(&f, args.processes, crowd_child);
    start = now_ns();
    say_step(1);
    for (unsigned i = 0; i < args.processes; i++)
        await_child(i, 1);
    ms = (now_ns() - start) / 1e6;
    end_children();
    reply = fixture_stats_reply(&f);
    qsort(common->slowest, args.processes, sizeof(double), compare);

    const Goallocd__StatsReply *s = reply->stats;
    double tries = (double)s->tries / (double)s->rpcs;
    double median_ms = common->slowest[args.processes / 2] / 1e6;
    double last_ms = common->slowest[args.processes - 1] / 1e6;

    if (args.json)
        (void)printf("{\"part\": \"crowd\", \"processes\": %u, \"operations\": %u, \"limit\": \"%s\", "
                     "\"requests\": %" PRIu64 ", \"tries\": %" PRIu64 ", \"waits\": %" PRIu64
                     ", \"tries_per_request\": %.3f, \"ms\": %.0f, \"slowest_malloc_ms\": [%.1f, %.1f]}\n",
                     args.processes, args.operations, args.limit != NULL ? args.limit : "none", s->rpcs, s->tries,
                     s->waits, tries, ms, median_ms, last_ms);
    else
        (void)printf("crowd: %u processes of %u operations, memory limit %s: %.0f ms\n"
                     "  %" PRIu64 " requests, %" PRIu64 " tries: %.3f a request; %" PRIu64 " waits\n"
                     "  longest malloc of a process: %.1f ms (median), %.1f ms (the longest of all)\n",
                     args.processes, args.operations, args.limit != NULL ? args.limit : "none", ms, s->rpcs, s->tries,
                     tries, s->waits, median_ms, last_ms);
    goallocd__reply__free_unpacked(reply, NULL);
    if (!fixture_stop(&f))
        give_up("the daemon has not ended cleanly");
}

/* --- idle and turns --- */

/* Objects of one size, allocated and then freed in random order. */
typedef struct heap_load {
    void **objects;
    size_t n;
    size_t size;
    uint64_t random;
} heap_load;

static void load_init(heap_load *load, unsigned i)
{
    load->size = sizes[i % SIZES];
    load->n = IDLE_BYTES / load->size;
    load->random = i + 1;
    load->objects = calloc(load->n, sizeof(void *));
    if (load->objects == NULL)
        _exit(1);
}

static void load_fill(heap_load *load)
{
    for (size_t at = 0; at < load->n; at++) {
        load->objects[at] = goalloc_malloc(load->size);
        if (load->objects[at] == NULL)
            _exit(1);
        memset(load->objects[at], 1, load->size);
    }
}

static void load_drain(heap_load *load)
{
    for (size_t at = load->n; at > 1; at--) {
        size_t other = test_random(&load->random) % at;
        void *p = load->objects[other];

        load->objects[other] = load->objects[at - 1];
        load->objects[at - 1] = p;
    }
    for (size_t at = 0; at < load->n; at++)
        goalloc_free(load->objects[at]);
}

static void idle_child(unsigned i)
{
    heap_load load;

    load_init(&load, i);
    load_fill(&load);
    child_done(i, 1);
    child_await(2);
    load_drain(&load);
    child_done(i, 2);
}

static void ask_trim(const fixture *f)
{
    char out[256];

    if (fixture_ctl(f, (const char *const[]){ "trim", NULL }, out, sizeof(out)) != 0)
        give_up("goallocctl trim");
}

static void idle(void)
{
    static const char *const options[] = { "--reserve", "16G", "--log-level", "warn", NULL };
    fixture f;
    memory full;
    memory later;
    memory trimmed;

    fixture_start(&f, options);
    start_children(&f, IDLE_PROCESSES, idle_child);
    say_step(1);
    for (unsigned i = 0; i < IDLE_PROCESSES; i++)
        await_child(i, 1);
    full = memory_now(&f);
    say_step(2);
    for (unsigned i = 0; i < IDLE_PROCESSES; i++)
        await_child(i, 2);
    sleep_ms((int)args.seconds * 1000);
    later = memory_now(&f);
    ask_trim(&f);
    sleep_ms(100);
    trimmed = memory_now(&f);
    end_children();
    if (args.json)
        (void)printf("{\"part\": \"idle\", \"full_held\": %" PRIu64 ", \"seconds\": %u, \"held\": %" PRIu64
                     ", \"committed\": %" PRIu64 ", \"trimmed_held\": %" PRIu64 ", \"trimmed_committed\": %" PRIu64
                     "}\n",
                     full.held, args.seconds, later.held, later.committed, trimmed.held, trimmed.committed);
    else
        (void)printf("idle: %u processes that have freed %.0f MiB each\n"
                     "  held before they free:   %8.1f MiB\n"
                     "  held after %3u s:        %8.1f MiB, committed %.1f MiB\n"
                     "  held after a trim:       %8.1f MiB, committed %.1f MiB\n",
                     IDLE_PROCESSES, mib(IDLE_BYTES), mib(full.held), args.seconds, mib(later.held),
                     mib(later.committed), mib(trimmed.held), mib(trimmed.committed));
    if (!fixture_stop(&f))
        give_up("the daemon has not ended cleanly");
}

/* Process i has its turns at steps 2 + 2 i, filling, and 3 + 2 i, freeing; a round has so many for each. */
static uint32_t turn_step(unsigned round, unsigned i)
{
    return 2 + 2 * (round * TURN_PROCESSES + i);
}

static void turns_child(unsigned i)
{
    for (unsigned round = 0; round < TURN_ROUNDS; round++) {
        heap_load load;

        load_init(&load, round * TURN_PROCESSES + i);
        child_await(turn_step(round, i));
        load_fill(&load);
        child_done(i, 2 * round + 1);
        child_await(turn_step(round, i) + 1);
        load_drain(&load);
        child_done(i, 2 * round + 2);
        free(load.objects);
    }
}

static void note_most(const fixture *f, memory *most)
{
    memory now = memory_now(f);

    most->held = now.held > most->held ? now.held : most->held;
    most->committed = now.committed > most->committed ? now.committed : most->committed;
    most->charged = now.charged > most->charged ? now.charged : most->charged;
}

static void turns(void)
{
    const char *options[] = { "--reserve", "16G", "--log-level", "error", "--memory-limit", args.turns_limit, NULL };
    fixture f;
    memory most = { .held = 0 };

    fixture_start(&f, options);
    start_children(&f, TURN_PROCESSES, turns_child);
    say_step(1);
    for (unsigned round = 0; round < TURN_ROUNDS; round++) {
        for (unsigned i = 0; i < TURN_PROCESSES; i++) {
            for (uint32_t half = 0; half < 2; half++) {
                say_step(turn_step(round, i) + half);
                await_child(i, 2 * round + half + 1);
                note_most(&f, &most);
            }
        }
    }
    end_children();
    if (args.json)
        (void)printf("{\"part\": \"turns\", \"limit\": \"%s\", \"held\": %" PRIu64 ", \"committed\": %" PRIu64
                     ", \"charged\": %" PRIu64 "}\n",
                     args.turns_limit, most.held, most.committed, most.charged);
    else
        (void)printf("turns: %u processes by turns, %.0f MiB each, memory limit %s\n"
                     "  held, at most:           %8.1f MiB\n"
                     "  retained, at most:       %8.1f MiB, with metadata %.1f MiB\n",
                     TURN_PROCESSES, mib(IDLE_BYTES), args.turns_limit, mib(most.held), mib(most.committed),
                     mib(most.charged));
    if (!fixture_stop(&f))
        give_up("the daemon has not ended cleanly");
}

/* --- command line --- */

static const struct argp_option option_table[] = {
    { "only", 'o', "PART", 0, "crowd, idle or turns (default: all of them)", 0 },
    { "json", 'j', NULL, 0, "Print an object for each part", 0 },
    { "processes", 'p', "N", 0, "Of the crowd (default 1000)", 0 },
    { "operations", 'n', "N", 0, "Of each process of the crowd (default 20000)", 0 },
    { "limit", 'l', "BYTES", 0, "Memory limit of the crowd's heap (default: none)", 0 },
    { "turns-limit", 'L', "BYTES", 0, "Memory limit of those by turns (default 256M)", 0 },
    { "seconds", 's', "N", 0, "That the nine are idle before they are looked at (default 5)", 0 },
    { 0 },
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    switch (key) {
    case 'o':
        args.only = arg;
        return 0;
    case 'j':
        args.json = true;
        return 0;
    case 'p':
        args.processes = (unsigned)strtoul(arg, NULL, 10);
        if (args.processes == 0 || args.processes > PROCESSES_MAX)
            argp_error(state, "--processes takes a number from 1 to %u, not '%s'", PROCESSES_MAX, arg);
        return 0;
    case 'n':
        args.operations = (unsigned)strtoul(arg, NULL, 10);
        return 0;
    case 'l':
        args.limit = arg;
        return 0;
    case 'L':
        args.turns_limit = arg;
        return 0;
    case 's':
        args.seconds = (unsigned)strtoul(arg, NULL, 10);
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
        .doc = "What many processes on one heap cost each other: waiting, and memory that the idle keep.",
    };
    static const struct {
        const char *name;
        void (*run)(void);
    } parts[] = { { "crowd", crowd }, { "idle", idle }, { "turns", turns } };
    struct rlimit limit;
    bool any = false;

    (void)argp_parse(&argp, argc, argv, 0, NULL, NULL);
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) { /* the daemon inherits it: three descriptors a session */
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
    common = mmap(NULL, sizeof(*common), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (common == MAP_FAILED)
        give_up("mmap");
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        if (args.only != NULL && strcmp(args.only, parts[i].name) != 0)
            continue;
        any = true;
        parts[i].run();
        (void)fflush(stdout);
    }
    if (!any)
        give_up("no such part: crowd, idle or turns");
    return EXIT_SUCCESS;
}
