/*
 * goalloc-replay: replays a recorded trace of allocations on a goalloc heap, and says what that takes.
 *
 * Reads the trace whole (trace.c), replays it in this process or in several (replay.c), prints (report.c). Compiled
 * once more for each peer of the benchmark, against the malloc that is linked (backend.h, REPLAY_PEER).
 *
 * Several processes: each is forked with the trace and opens a session of its own. They wait for each other twice, in
 * memory that they share: until all have attached, before the baselines are taken, and until all have these, before
 * they begin. If one fails before that, all end. Their results lie in the same memory.
 *
 * SIGINT and SIGTERM end the replay between two operations and free what there is. Nothing is freed after SIGKILL.
 */
#include <argp.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/replay/backend.h"
#include "client/replay/report.h"

#define PROCESSES_MAX 256u
#define TABLE_LIMIT_DEFAULT (UINT64_C(4) << 30)
#define WAIT_US 500u

typedef struct arguments {
    const char *file; /* "-": standard input */
    const char *socket_path;
    replay_options replay;
    uint32_t nprocesses;
    uint64_t table_limit;
    bool json;
} arguments;

/* What the processes share. */
typedef struct meeting {
    atomic_uint nattached;
    atomic_uint nmeasured;
    atomic_bool failed;
    replay_result results[];
} meeting;

static atomic_bool interrupted;

static void on_signal(int number)
{
    (void)number;
    atomic_store(&interrupted, true);
}

/* --- one process --- */

/* What fails here has said why. */
#if BACKEND_IS_GOALLOC
static int attach(const arguments *args)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;
    int r;

    options.socket_path = args->socket_path;
    options.timeout_ms = 60000; /* counting the objects of a large heap takes its time */
    r = goalloc_attach(&options);
    if (r < 0)
        (void)fprintf(stderr, "goalloc-replay: %s\n", goalloc_attach_error());
    return r;
}

static void detach(void)
{
    (void)goalloc_trim();
    (void)goalloc_detach();
}
#else
static int attach(const arguments *args)
{
    (void)args;
    return 0;
}

static void detach(void)
{
}
#endif

/* Wait until all processes are here. False: one has failed, or somebody wants an end. */
static bool meet(meeting *m, atomic_uint *count, uint32_t nprocesses)
{
    atomic_fetch_add(count, 1);
    while (atomic_load(count) < nprocesses) {
        if (atomic_load(&m->failed) || atomic_load(&interrupted))
            return false;
        (void)usleep(WAIT_US);
    }
    return true;
}

static void explain(const arguments *args, const trace *t, const replay_result *result)
{
    static const char *const kinds[TRACE_KINDS] = { "malloc", "calloc", "realloc", "aligned alloc", "free" };
    const trace_op *op = &t->ops[result->op];

    if (result->error == 0)
        (void)fprintf(stderr, "goalloc-replay: interrupted\n");
    else if (result->in_stats)
        (void)fprintf(stderr, "goalloc-replay: statistics: %s\n", backend_strerror(result->error));
    else
        (void)fprintf(stderr, "goalloc-replay: %s: operation %zu%s, %s of %" PRIu64 " bytes: %s\n", args->file,
                      result->op + 1, args->replay.threads ? " (counted thread by thread)" : "", kinds[op->kind],
                      (uint64_t)op->size, backend_strerror(result->error));
}

/* Attach, measure, replay, detach. The exit status. */
static int replay_here(const arguments *args, trace *t, meeting *m, replay_result *ret)
{
    void *table = replay_table_new(t);
    int r = -1;

    if (table == NULL) {
        (void)fprintf(stderr, "goalloc-replay: no memory for a table of %u objects: %s\n", t->nplaces,
                      errno == EFBIG ? "beyond --table-limit" : strerror(errno));
        goto out;
    }
    memory_begin_process(&ret->meter);
    r = attach(args);
    if (r < 0)
        goto out;
    r = -1;
    if (meet(m, &m->nattached, args->nprocesses)) {
        ret->error = -memory_begin_heap(&ret->meter);
        ret->in_stats = ret->error != 0;
        if (ret->error == 0 && meet(m, &m->nmeasured, args->nprocesses))
            r = replay_run(t, table, &args->replay, &interrupted, ret);
    }
    if (r < 0 && (ret->error != 0 || atomic_load(&interrupted))) /* else another process has failed */
        explain(args, t, ret);
    detach();
out:
    if (r < 0)
        atomic_store(&m->failed, true); /* those that wait for this process need not */
    return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* --- several --- */

static int replay_processes(const arguments *args, trace *t, meeting *m)
{
    pid_t pids[PROCESSES_MAX];
    uint32_t nstarted = 0;
    int status = EXIT_SUCCESS;

    for (; nstarted < args->nprocesses; nstarted++) {
        pid_t parent = getpid();
        pid_t pid = fork();

        if (pid == 0) {
            (void)prctl(PR_SET_PDEATHSIG, SIGTERM);
            _exit(getppid() == parent ? replay_here(args, t, m, &m->results[nstarted]) : EXIT_FAILURE);
        }
        if (pid < 0) {
            (void)fprintf(stderr, "goalloc-replay: fork: %s\n", strerror(errno));
            atomic_store(&m->failed, true);
            status = EXIT_FAILURE;
            break;
        }
        pids[nstarted] = pid;
    }
    for (uint32_t i = 0; i < nstarted; i++) {
        int one;

        while (waitpid(pids[i], &one, 0) < 0 && errno == EINTR) {
            for (uint32_t j = i; j < nstarted; j++)
                (void)kill(pids[j], SIGTERM);
        }
        if (!WIFEXITED(one) || WEXITSTATUS(one) != 0) {
            if (WIFSIGNALED(one))
                (void)fprintf(stderr, "goalloc-replay: process %u: %s\n", i + 1, strsignal(WTERMSIG(one)));
            atomic_store(&m->failed, true); /* those that wait for it need not */
            status = EXIT_FAILURE;
        }
    }
    return status;
}

static int run(const arguments *args, trace *t)
{
    meeting *m = mmap(NULL, sizeof(meeting) + args->nprocesses * sizeof(replay_result), PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct sigaction action = { .sa_handler = on_signal };
    report rep = { .file = args->file, .t = t, .options = &args->replay, .nprocesses = args->nprocesses };
    int status;

    if (m == MAP_FAILED) {
        (void)fprintf(stderr, "goalloc-replay: %s\n", strerror(errno));
        return EXIT_FAILURE;
    }
    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGTERM, &action, NULL);
    if (args->nprocesses == 1)
        status = replay_here(args, t, m, &m->results[0]);
    else
        status = replay_processes(args, t, m);
    rep.results = m->results;
    if (status == EXIT_SUCCESS && (args->json ? report_json(&rep) : report_text(&rep)) < 0)
        status = EXIT_FAILURE;
    return status;
}

/* --- command line --- */

__attribute__((visibility("default"))) const char *argp_program_version = "goalloc-replay " GOALLOC_VERSION;

enum { KEY_SERIAL = 256, KEY_NOSCAN, KEY_TABLE_LIMIT };

static const struct argp_option option_table[] = {
    { "socket", 's', "PATH", 0, "The daemon's socket (default: $GOALLOC_SOCKET, else /run/goallocd/goallocd.sock)", 0 },
    { "serial", KEY_SERIAL, NULL, 0, "All operations in one thread, in the order of the trace (default)", 1 },
    { "threads", 't', NULL, 0,
      "Each thread of the trace in one of its own. The order within a thread stays, and "
      "no object is freed before it is allocated",
      1 },
    { "processes", 'p', "N", 0, "N processes replay the trace at once on one heap", 1 },
    { "repeat", 'r', "N", 0, "Replay N times one after another; the time is the median", 1 },
    { "touch", 'w', "WHAT", OPTION_ARG_OPTIONAL,
      "Write to each object: all of it (all, or no WHAT), its first byte and "
      "each page (page, the default), or nothing (none)",
      1 },
    { "noscan", KEY_NOSCAN, NULL, 0, "Allocate with goalloc_malloc_noscan(), as for objects without pointers", 1 },
    { "sample", 'n', "N", 0,
      "Look at the memory every N operations (default: 256 times in all). The clock stands "
      "still meanwhile, except with --threads, which looks every 5 ms",
      1 },
    { "table-limit", KEY_TABLE_LIMIT, "MIB", 0,
      "Refuse traces that take more than this of this program's own memory "
      "(default 4096): 16 to 40 bytes an operation",
      1 },
    { "json", 'j', NULL, 0, "Print one line of JSON", 2 },
    { 0 },
};

static uint64_t parse_count(struct argp_state *state, const char *what, const char *text, uint64_t max)
{
    char *end;
    uint64_t n;

    errno = 0;
    n = strtoull(text, &end, 10);
    if (errno != 0 || *text < '0' || *text > '9' || *end != '\0' || n == 0 || n > max)
        argp_error(state, "--%s takes a number from 1 to %" PRIu64 ", not '%s'", what, max, text);
    return n;
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    arguments *args = state->input;

    switch (key) {
    case 's':
        args->socket_path = arg;
        return 0;
    case KEY_SERIAL:
        args->replay.threads = false;
        return 0;
    case 't':
        args->replay.threads = true;
        return 0;
    case 'p':
        args->nprocesses = (uint32_t)parse_count(state, "processes", arg, PROCESSES_MAX);
        return 0;
    case 'r':
        args->replay.repeat = (uint32_t)parse_count(state, "repeat", arg, REPLAY_REPEAT_MAX);
        return 0;
    case 'n':
        args->replay.sample_ops = parse_count(state, "sample", arg, UINT64_C(1) << 40);
        return 0;
    case 'w':
        if (arg == NULL || strcmp(arg, "all") == 0)
            args->replay.touch = REPLAY_TOUCH_ALL;
        else if (strcmp(arg, "page") == 0)
            args->replay.touch = REPLAY_TOUCH_PAGES;
        else if (strcmp(arg, "none") == 0)
            args->replay.touch = REPLAY_TOUCH_NONE;
        else
            argp_error(state, "--touch takes all, page or none, not '%s'", arg);
        return 0;
    case KEY_NOSCAN:
        args->replay.noscan = true;
        return 0;
    case KEY_TABLE_LIMIT:
        args->table_limit = parse_count(state, "table-limit", arg, UINT64_C(1) << 30) << 20;
        return 0;
    case 'j':
        args->json = true;
        return 0;
    case ARGP_KEY_ARG:
        if (args->file != NULL)
            argp_error(state, "'%s': one trace is enough", arg);
        args->file = arg;
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
        .args_doc = "[TRACE]",
        .doc =
            "Replays a recorded trace of allocations on the heap of a running goallocd, and says what that takes: to "
            "size a heap before a program is moved to it. Reads standard input if TRACE is - or missing.\v"
            "A trace is text. The first line is 'goalloc-trace 1'; of the others, those that begin with # are "
            "comments, and each other one is an operation:\n"
            "\n"
            "  THREAD m ID SIZE             malloc\n"
            "  THREAD c ID SIZE             calloc, of SIZE bytes in all\n"
            "  THREAD a ID SIZE ALIGNMENT   aligned_alloc, posix_memalign\n"
            "  THREAD r ID SIZE OLD-ID      realloc; ID may be OLD-ID\n"
            "  THREAD f ID                  free\n"
            "\n"
            "All are decimal numbers. An ID may be used again when its object has been freed. The recorder that "
            "writes such traces of real programs is tests/bench/trace/record.c of the sources.\n"
            "\n"
            "Printed are, of the replay:\n"
            "  time            of the operations alone, without reading the trace and\n"
            "                  looking at the memory\n"
            "  peak requested  the most bytes that are live at a time, as the program has\n"
            "                  asked for them\n"
            "  usable then     what the objects live at that moment really have, by their\n"
            "                  size classes\n"
            "  peak memory     of the heap (committed pages and metadata) above what it had\n"
            "                  before, and the library's own memory in this process. Other\n"
            "                  users of the heap are counted too, if there are any\n"
            "  fragmentation   peak memory / peak requested\n"
            "  requests        sent to the daemon\n"
            "\n"
            "At the end everything is freed: the heap is left as it was. A heap that has free memory seems "
            "to need less; 'goallocctl scavenge' before gives exact figures. Sizes are at most 128 TiB, IDs below "
            "268435456, THREADs below 4096.\n"
            "\n"
            "Exit status: 0; 1 if the trace is faulty (the message has the line), an allocation failed, or the "
            "daemon could not be reached; 2 for a wrong command line.",
    };
    arguments args = { .replay = { .repeat = 1 }, .nprocesses = 1, .table_limit = TABLE_LIMIT_DEFAULT };
    trace t = { 0 };
    char error[256];
    int fd = STDIN_FILENO;

    (void)setlocale(LC_CTYPE, "");
    argp_err_exit_status = 2;
    (void)argp_parse(&argp, argc, argv, 0, NULL, &args);
    if (args.file != NULL && strcmp(args.file, "-") != 0)
        fd = open(args.file, O_RDONLY | O_CLOEXEC);
    else
        args.file = "-";
    if (fd < 0) {
        (void)fprintf(stderr, "goalloc-replay: %s: %s\n", args.file, strerror(errno));
        return EXIT_FAILURE;
    }
    t.limit_bytes = args.table_limit;
    if (trace_read(&t, fd, args.replay.threads, error, sizeof(error)) < 0) {
        (void)fprintf(stderr, "goalloc-replay: %s: %s\n", args.file, error);
        return EXIT_FAILURE;
    }
    if (fd != STDIN_FILENO)
        (void)close(fd);
    return run(&args, &t);
}
