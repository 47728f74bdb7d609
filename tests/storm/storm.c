/*
 * Storm: a stress program. README.md says what it does; --help, how to call it.
 *
 * Three kinds of processes: this one, which waits for the supervisor with a watchdog's patience and kills what is left
 * of it; the supervisor (round.c), which starts the daemon and the workers; workers (worker.c) and what they fork. All
 * share the board (board.h).
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "tests/storm/board.h"
#include "tests/storm/options.h"
#include "tests/storm/round.h"
#include "tests/storm/watch.h"
#include "tests/support/guard.h"

#define PATIENCE_SECONDS 60
#define LEFT_MS 3000

/*
 * Forked children of processes with threads go on: they start no threads. The storm looks for no leaks in itself, and
 * what ends by exit() while other threads are at work has no complete list of what it refers to.
 */
const char *__tsan_default_options(void);
__attribute__((visibility("default"))) const char *__tsan_default_options(void)
{
    return "die_after_fork=0:report_thread_leaks=0";
}

/* The library's copying and clearing of objects: see "bytes" in pattern.c. */
const char *__tsan_default_suppressions(void);
__attribute__((visibility("default"))) const char *__tsan_default_suppressions(void)
{
    return "race_top:memcpy\nrace_top:memmove\nrace_top:memset\n";
}

const char *__asan_default_options(void);
__attribute__((visibility("default"))) const char *__asan_default_options(void)
{
    return "detect_leaks=0";
}

static pid_t supervisor;

static void on_signal(int number)
{
    (void)number;
    round_interrupt();
    if (supervisor > 0)
        (void)kill(supervisor, SIGTERM);
}

static void handle_signals(void)
{
    struct sigaction action = { .sa_handler = on_signal };

    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGTERM, &action, NULL);
}

static void print_figures(void)
{
    static const char *const names[FIGURE_COUNT] = {
        "malloc",   "malloc_noscan", "calloc",         "aligned_alloc",  "realloc", "free",       "publish",
        "adopt",    "moves",         "root_get",       "trim",           "cuts",    "forks",      "threads",
        "detaches", "exits",         "workers killed", "daemons killed", "stops",   "goallocctl", "rounds",
    };

    (void)printf("storm:");
    for (int k = 0; k < FIGURE_COUNT; k++) {
        uint64_t sum = 0;

        for (unsigned w = 0; w <= PROCESSES_MAX; w++)
            sum += atomic_load(&the_board->all[w].n[k]);
        if (sum > 0)
            (void)printf(" %s %llu,", names[k], (unsigned long long)sum);
    }
    (void)printf(" seed %llu\n", (unsigned long long)the_board->options.seed);
}

static int supervise(void)
{
    const storm_options *o = &the_board->options;
    bool good = true;

    supervisor = 0;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)prctl(PR_SET_CHILD_SUBREAPER, 1);
    for (unsigned done = 0, round = 1; good && done < o->seconds; round++) {
        unsigned seconds = o->seconds - done < o->round_seconds ? o->seconds - done : o->round_seconds;

        good = round_run(round, seconds);
        done += seconds;
    }
    print_figures();
    return good ? 0 : 1;
}

/* A keeper ends a moment after its daemon: give what is left that moment. */
static bool nothing_is_left(void)
{
    for (int ms = 0; ms < LEFT_MS; ms += 10) {
        if (waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD)
            return true;
        (void)usleep(10000);
    }
    return false;
}

/* Audits take a second or two, and a minute for the last one that hangs. */
static int64_t patience(const storm_options *o)
{
    return o->seconds + (int64_t)o->seconds / o->round_seconds * 10 + PATIENCE_SECONDS;
}

int main(int argc, char **argv)
{
    storm_options options;
    char deaths[128];
    int status = -1;
    bool good;

    options_parse(argc, argv, &options);
    options_name_deaths(options.deaths, deaths, sizeof(deaths));
    (void)printf("storm: --seed %llu --seconds %u --round %u --processes %u --threads %u --entries %u --max-mib %u "
                 "--interval %u --often %u --deaths %s\n",
                 (unsigned long long)options.seed, options.seconds, options.round_seconds, options.nprocesses,
                 options.nthreads, options.nentries, options.max_mib, options.interval_ms, options.often, deaths);
    (void)fflush(stdout);
    board_make(&options);
    (void)guard_dir(); /* before this becomes a subreaper, and the guard a child */
    (void)prctl(PR_SET_CHILD_SUBREAPER, 1);
    handle_signals();
    supervisor = fork();
    if (supervisor < 0) {
        perror("storm: fork");
        return 2;
    }
    if (supervisor == 0)
        exit(supervise());
    if (!watch_child(supervisor, patience(&options), &status)) {
        board_fail(NULL, "it hangs: described above");
    }
    good = status == 0 && !atomic_load(&the_board->failed);
    if (good && !nothing_is_left()) {
        board_fail(NULL, "processes are left behind");
        good = false;
    }
    (void)watch_kill_all();
    (void)printf("storm: %s\n", good ? "held" : "FAILED");
    return good ? 0 : 1;
}
