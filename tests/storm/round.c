/*
 * Round: starts the daemon and the workers, and does to them what --deaths says and what they do not do to themselves
 * (incidents.c): kills, replaces and stops workers, kills and restarts the daemon, calls goallocctl. Called by storm.c,
 * in a process with one thread.
 *
 * A pipe tells when all processes of the round have ended, whoever their parent was: each has inherited its write end,
 * and nobody writes to it. The daemon has not: it was executed.
 */
#include "tests/storm/round.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#include "tests/storm/board.h"
#include "tests/storm/table.h"
#include "tests/storm/watch.h"
#include "tests/storm/worker.h"

#define TICK_MS 1
#define DAEMON_INTERVALS 10 /* a daemon lives so many intervals of a worker */
#define DAEMON_PAUSE_MS 50
#define STOP_MS 100
#define LOG_LINES_MAX 5
#define SUPERVISOR PROCESSES_MAX /* where the board counts what is done here */
#define WORKER_END_SECONDS 30

typedef struct post {
    worker_arguments arguments;
    pid_t pid;           /* 0: has ended at the round's end */
    bool killed;         /* by us */
    int64_t continue_at; /* it is stopped; 0: it is not */
} post;

typedef struct storm_round {
    fixture f;
    const storm_options *o;
    uint64_t random;
    post posts[PROCESSES_MAX];
    int alive[2]; /* the pipe */
    bool daemon_killed;
    int64_t next_kill, next_daemon, next_stop, next_ctl;
} storm_round;

static volatile sig_atomic_t interrupted;

void round_interrupt(void)
{
    interrupted = 1;
}

static int64_t now_ms(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static bool failed(void)
{
    if (interrupted && !atomic_load(&the_board->failed))
        board_fail(NULL, "interrupted");
    return atomic_load(&the_board->failed) != 0;
}

/* A time from now that is ms on the average. */
static int64_t in_about(storm_round *s, unsigned ms)
{
    return now_ms() + ms / 2 + (int64_t)(test_random(&s->random) % (ms + 1));
}

static void say(const storm_round *s, const char *what, unsigned n)
{
    if (s->o->verbose)
        (void)fprintf(stderr, "storm: %s %u\n", what, n);
}

/* --- workers --- */

static void start_worker(storm_round *s, post *p)
{
    p->killed = false;
    p->continue_at = 0;
    p->pid = child_start(&s->f, worker_run, &p->arguments);
    p->arguments.incarnation++;
}

/* A worker has ended. It may have left by itself, or was killed; anything else is a failure. */
static void judge_end(storm_round *s, post *p, int status)
{
    bool may_leave = atomic_load(&the_board->stop) != 0 || options_has(s->o, DEATH_EXIT);

    if (p->killed && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
        return;
    if (may_leave && status == 0)
        return;
    board_fail(NULL, "worker %u, pid %d, has ended with %s %d; its threads were at:", p->arguments.number, (int)p->pid,
               WIFSIGNALED(status) ? "signal" : "status", WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    board_dump(p->pid);
}

/* Whoever has ended: workers, forked children whose parents are dead, keepers. */
static void reap(storm_round *s, bool replace)
{
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (pid == s->f.daemon && !s->daemon_killed) {
            board_fail(NULL, "the daemon has ended by itself with status 0x%x", (unsigned)status);
            s->daemon_killed = true;
        }
        for (unsigned i = 0; i < s->o->nprocesses; i++) {
            post *p = &s->posts[i];

            if (p->pid != pid)
                continue;
            judge_end(s, p, status);
            p->pid = 0;
            if (replace && !atomic_load(&the_board->failed))
                start_worker(s, p);
        }
    }
}

static void kill_worker(storm_round *s)
{
    post *p = &s->posts[test_random(&s->random) % s->o->nprocesses];

    if (p->pid == 0 || p->killed)
        return;
    p->killed = true;
    (void)kill(p->pid, SIGKILL);
    board_count(SUPERVISOR, FIGURE_WORKER_KILL);
    say(s, "killed worker", p->arguments.number);
}

static void stop_worker(storm_round *s)
{
    post *p = &s->posts[test_random(&s->random) % s->o->nprocesses];

    if (p->pid == 0 || p->continue_at != 0)
        return;
    (void)kill(p->pid, SIGSTOP);
    p->continue_at = now_ms() + 1 + (int64_t)(test_random(&s->random) % STOP_MS);
    board_count(SUPERVISOR, FIGURE_STOP);
}

static void continue_workers(storm_round *s, bool all)
{
    for (unsigned i = 0; i < s->o->nprocesses; i++) {
        post *p = &s->posts[i];

        if (p->continue_at != 0 && p->pid != 0 && (all || now_ms() >= p->continue_at)) {
            (void)kill(p->pid, SIGCONT);
            p->continue_at = 0;
        }
    }
}

/* --- the daemon --- */

static void kill_daemon(storm_round *s)
{
    say(s, "kills daemon", (unsigned)s->f.daemon);
    fixture_kill(&s->f);
    s->daemon_killed = true;
    board_count(SUPERVISOR, FIGURE_DAEMON_KILL);
}

/* Start the next one; one in four is killed before it has taken the heap over, or soon after. */
static void restart_daemon(storm_round *s)
{
    while (test_random(&s->random) % 4 == 0) {
        fixture_launch(&s->f);
        (void)usleep((useconds_t)(test_random(&s->random) % 20000));
        kill_daemon(s);
    }
    fixture_restart(&s->f, NULL);
    s->daemon_killed = false;
    say(s, "restarted daemon", (unsigned)s->f.daemon);
}

/* The daemon's work on request, and its tables must agree at any time. */
static void call_ctl(storm_round *s)
{
    static const char *const commands[][2] = { { "trim", NULL }, { "scavenge", NULL }, { "check", NULL } };
    const char *const *command = commands[test_random(&s->random) % 3];
    char text[2000];
    int r = fixture_ctl(&s->f, command, text, sizeof(text));

    if (r != 0)
        board_fail(NULL, "goallocctl %s: status %d: %s", command[0], r, text);
    board_count(SUPERVISOR, FIGURE_CTL);
}

/* --- the storm --- */

static void incidents(storm_round *s)
{
    int64_t now = now_ms();

    if (options_has(s->o, DEATH_WORKER) && now >= s->next_kill) {
        kill_worker(s);
        s->next_kill = in_about(s, s->o->interval_ms);
    }
    if (options_has(s->o, DEATH_STOP) && now >= s->next_stop) {
        stop_worker(s);
        s->next_stop = in_about(s, s->o->interval_ms * 2);
    }
    if (options_has(s->o, DEATH_DAEMON) && now >= s->next_daemon) {
        if (s->daemon_killed) {
            restart_daemon(s);
            s->next_daemon = in_about(s, s->o->interval_ms * DAEMON_INTERVALS);
        } else {
            kill_daemon(s);
            s->next_daemon = now + (int64_t)(test_random(&s->random) % DAEMON_PAUSE_MS);
        }
    }
    if (options_has(s->o, DEATH_TRIM) && now >= s->next_ctl && !s->daemon_killed) {
        call_ctl(s);
        s->next_ctl = in_about(s, s->o->interval_ms * 4);
    }
}

static int make_table(const fixture *f, void *data)
{
    worker w = { .f = f };

    (void)data;
    worker_attach(&w);
    return table_make(&the_board->options) != NULL ? 0 : 1;
}

static void storm(storm_round *s, unsigned seconds)
{
    int64_t end = now_ms() + (int64_t)seconds * 1000;

    for (unsigned i = 0; i < s->o->nprocesses; i++) {
        s->posts[i].arguments.number = i;
        start_worker(s, &s->posts[i]);
    }
    s->next_kill = in_about(s, s->o->interval_ms);
    s->next_stop = in_about(s, s->o->interval_ms);
    s->next_ctl = in_about(s, s->o->interval_ms);
    s->next_daemon = in_about(s, s->o->interval_ms * DAEMON_INTERVALS);
    while (now_ms() < end && !failed()) {
        reap(s, true);
        incidents(s);
        continue_workers(s, false);
        (void)poll(NULL, 0, TICK_MS);
    }
}

/* Every process that has ever been part of the round. False: some don't end. */
static bool await_all(storm_round *s)
{
    struct pollfd ended = { .fd = s->alive[0], .events = POLLIN };

    for (int64_t end = now_ms() + WORKER_END_SECONDS * 1000; now_ms() < end;) {
        reap(s, false);
        if (poll(&ended, 1, 10) > 0)
            return true;
        if (interrupted)
            break;
    }
    board_fail(NULL, "workers that were told to end do not:");
    watch_describe_all();
    return false;
}

static bool end_storm(storm_round *s)
{
    atomic_store(&the_board->stop, 1);
    continue_workers(s, true);
    if (s->daemon_killed && !atomic_load(&the_board->failed))
        restart_daemon(s);
    (void)close(s->alive[1]);
    s->alive[1] = -1;
    if (atomic_load(&the_board->failed)) {
        for (unsigned i = 0; i < s->o->nprocesses; i++) {
            if (s->posts[i].pid != 0)
                (void)kill(s->posts[i].pid, SIGKILL);
        }
        return false;
    }
    return await_all(s) && !failed(); /* those that have not ended are killed with the supervisor */
}

/* The daemon had no reason to refuse anybody. */
static bool log_is_quiet(const fixture *f)
{
    static const char *const words[] = { "disconnected:", "runtime error", "Sanitizer" };
    FILE *log = fopen(f->log, "re");
    char line[1024];
    unsigned nlines = 0;

    while (log != NULL && fgets(line, sizeof(line), log) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        for (unsigned i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
            if (strstr(line, words[i]) != NULL && nlines++ < LOG_LINES_MAX)
                board_fail(NULL, "the daemon's log: %s", line);
        }
    }
    if (log != NULL)
        (void)fclose(log);
    return nlines == 0;
}

static void show_log(const fixture *f)
{
    char command[160];

    (void)snprintf(command, sizeof(command), "grep -v -e debug: -e info: %s | tail -n 30 >&2", f->log);
    (void)fprintf(stderr, "storm: the daemon's last words:\n");
    (void)fflush(stderr);
    if (system(command) != 0)
        (void)fprintf(stderr, "storm: (it has said nothing)\n");
}

/* What goallocd is told besides, NULL-terminated. */
static void options_for_daemon(const storm_options *o, const char *ret[5])
{
    unsigned n = 0;

    if (o->base != NULL) {
        ret[n++] = "--base";
        ret[n++] = o->base;
    }
    if (o->reserve != NULL) {
        ret[n++] = "--reserve";
        ret[n++] = o->reserve;
    }
    ret[n] = NULL;
}

bool round_run(unsigned number, unsigned seconds)
{
    static storm_round s;
    static const char *daemon_options[5]; /* as long as the fixture */
    bool good;

    s = (storm_round){ .o = &the_board->options };
    s.random = s.o->seed ^ (uint64_t)number << 48;
    board_begin_round(number);
    options_for_daemon(s.o, daemon_options);
    fixture_start_kept(&s.f, daemon_options);
    if (pipe2(s.alive, O_CLOEXEC) < 0) {
        board_fail(NULL, "pipe: %s", strerror(errno));
        return false;
    }
    if (child_run(&s.f, make_table, NULL) != 0)
        board_fail(NULL, "the table cannot be made");
    else
        storm(&s, seconds);
    good = end_storm(&s);
    if (good) { /* both: a client that was refused may also have lost something */
        bool quiet = log_is_quiet(&s.f);

        good = audit_run(&s.f) && quiet;
    }
    (void)close(s.alive[0]);
    board_count(SUPERVISOR, FIGURE_ROUND);
    if (!good)
        show_log(&s.f);
    if (!s.daemon_killed && !fixture_stop(&s.f) && good) {
        board_fail(NULL, "the daemon has not ended cleanly");
        good = false;
    }
    return good;
}
