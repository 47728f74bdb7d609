/*
 * Scene: see scene.h. Called by hostile.c, in a process of its own for each attack. Calls honest.c and the attacks, in
 * processes of theirs.
 *
 *   START   daemon, honest clients; what the daemon has then is what it must have again at the end
 *   CALM    how it is without anybody else                                            (not with --brief)
 *   ATTACK  attackers; one that the daemon disconnects and that gives up is replaced
 *   PAUSE   the attackers are dead: how long until all is as before?
 *   AFTER   how it is then
 *   BURN    processes burn as much of the CPUs as the attackers did, without the daemon  (not with --brief)
 *   quiet   honest clients let the heap be: the statistics must say exactly what they have
 *   stop    they free all, and nothing may be left
 */
#include "tests/hostile/scene.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "tests/hostile/honest.h"
#include "tests/support/fail_calls.h"
#include "tests/support/guard.h"

#define LOOK_US 50000u
#define BRIEF_US 700000u
#define BACK_US 2000000u
#define PATIENCE_US 60000000u /* of the supervisor, for what must come */
#define RSS_MAX_KIB (64 * 1024)
#define RSS_SLACK_KIB 2048 /* that malloc may keep */
#define FDS_SLACK 2        /* connections that come and go */
#define SPARE_SESSIONS 2   /* the comer's, and one of it that ends */

const char *const quantile_names[QUANTILES] = { "p50", "p99", "p99.9", "max" };

const char *const figure_names[FIGURES - BACK_MS] = {
    "back_ms", "rss_before_kib", "rss_peak_kib", "rss_after_kib", "fds_before", "fds_peak",           "fds_after",
    "refused", "ended",          "wrong",        "deeds",         "denied",     "attack_cpu_permille"
};

typedef struct scene {
    const hostile_options *o;
    const attack *what;
    scene_result *ret;
    fixture f;
    board *b;
    fail_plan *plan; /* NULL: the daemon's calls do not fail */
    int deaf_fd;
    pid_t honest[HONEST_MAX];
    pid_t attackers[ATTACKERS_MAX];
    double attack_cpu_s;
    uint64_t sessions_before;
    double fds_empty; /* when there was no client yet */
} scene;

static void fail(scene *s, const char *what)
{
    scene_result *ret = s->ret;
    size_t len = strlen(ret->failed);

    (void)snprintf(ret->failed + len, sizeof(ret->failed) - len, "%s%s", len > 0 ? "; " : "", what);
}

/* --- looking at the daemon --- */

static double rss_kib(pid_t pid)
{
    char path[64];
    char line[256];
    double kib = -1;
    FILE *file;

    (void)snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    file = fopen(path, "re");
    while (file != NULL && kib < 0 && fgets(line, sizeof(line), file) != NULL)
        (void)sscanf(line, "RssAnon: %lf", &kib);
    if (file != NULL)
        (void)fclose(file);
    return kib;
}

static double count_fds(pid_t pid)
{
    char path[64];
    unsigned n = 0;
    DIR *dir;

    (void)snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
    dir = opendir(path);
    while (dir != NULL && readdir(dir) != NULL)
        n++;
    if (dir != NULL)
        (void)closedir(dir);
    return n;
}

static void look(scene *s, int rss, int fds)
{
    double *figures = s->ret->figures;

    figures[rss] = rss == RSS_PEAK_KIB && figures[rss] > rss_kib(s->f.daemon) ? figures[rss] : rss_kib(s->f.daemon);
    figures[fds] = fds == FDS_PEAK && figures[fds] > count_fds(s->f.daemon) ? figures[fds] : count_fds(s->f.daemon);
}

/* As fixture_stats_reply(), with patience. NULL: the daemon does not serve. The caller frees it. */
static Goallocd__Reply *ask_stats(const scene *s)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Stats body = GOALLOCD__STATS__INIT;
    Goallocd__Reply *reply;
    int fd = raw_connect(&s->f);

    request.id = 1;
    request.op_case = GOALLOCD__REQUEST__OP_STATS;
    request.stats = &body;
    reply = honest_call(fd, &request);
    (void)close(fd);
    if (reply != NULL && reply->stats == NULL) {
        goallocd__reply__free_unpacked(reply, NULL);
        reply = NULL;
    }
    return reply;
}

static uint64_t count_sessions(const scene *s)
{
    Goallocd__Reply *reply = ask_stats(s);
    uint64_t n = reply == NULL ? UINT64_MAX : reply->stats->sessions;

    if (reply != NULL)
        goallocd__reply__free_unpacked(reply, NULL);
    return n;
}

/* --- the daemon --- */

static void start_daemon(scene *s)
{
    fixture *f = &s->f;

    fixture_make_place(f);
    f->options = s->what->options;
    f->nofile = s->what->nofile;
    if (s->what->kept)
        (void)snprintf(f->state_dir, sizeof(f->state_dir), "%s/state", f->dir);
    if (s->what->deaf_log) {
        CHECK(mkfifo(f->log, 0600) == 0);
        s->deaf_fd = open(f->log, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    }
    if (s->what->fails_calls) {
        s->plan = fail_plan_open(f->dir);
        fail_plan_preload(true);
    }
    fixture_restart(f, NULL);
    fail_plan_preload(false);
    CHECK(chmod(guard_dir(), 0711) == 0 && chmod(f->dir, 0711) == 0 && chmod(f->socket, 0666) == 0);
}

/* --- its clients --- */

static pid_t start_process(void)
{
    pid_t pid;

    (void)fflush(NULL);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0)
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    return pid;
}

static void start_honest(scene *s)
{
    for (unsigned i = 0; i < HONEST_MAX; i++) {
        s->honest[i] = start_process();
        if (s->honest[i] == 0)
            _exit(honest_run(&s->f, s->b, i));
    }
    for (unsigned i = 0; i < HONEST_MAX; i++) {
        for (unsigned us = 0; us < PATIENCE_US && u64_load_acquire(&s->b->honest[i].ready) == 0; us += LOOK_US)
            board_sleep_us(LOOK_US);
        CHECK(u64_load_acquire(&s->b->honest[i].ready) != 0);
    }
}

/* Another user from here on, if this one may become another. */
static void become(const hostile_options *o)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
    if (geteuid() == 0)
        CHECK(setgroups(0, NULL) == 0 && setgid((gid_t)o->uid) == 0 && setuid(o->uid) == 0);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* a change of the user has undone it */
}

static void start_attacker(scene *s, unsigned i)
{
    attacker a = { .f = &s->f, .entry = &s->b->attackers[i], .number = i, .random = i, .uffd = -1 };

    s->attackers[i] = start_process();
    if (s->attackers[i] != 0)
        return;
    if (s->what->wants_uffd)
        a.uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    become(s->o);
    (void)!freopen("/dev/null", "w", stderr); /* what fails there is not this program's failure */
    s->what->run(&a);
    _exit(u64_load_relaxed(&a.entry->deeds) == 0 ? 77 : 0);
}

/* One that has ended because the daemon has disconnected it begins anew. */
static void replace_attackers(scene *s)
{
    for (unsigned i = 0; i < s->o->nattackers; i++) {
        struct rusage usage;
        int status;

        if (s->attackers[i] == 0 || wait4(s->attackers[i], &status, WNOHANG, &usage) != s->attackers[i])
            continue;
        s->attack_cpu_s += (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
        s->attackers[i] = 0;
        if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
            s->ret->not_here = true;
        else
            start_attacker(s, i);
    }
}

static void end_processes(scene *s, pid_t *pids, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        if (pids[i] != 0)
            (void)kill(pids[i], SIGKILL);
    }
    for (unsigned i = 0; i < n; i++) {
        struct rusage usage;

        if (pids[i] != 0 && wait4(pids[i], NULL, 0, &usage) == pids[i])
            s->attack_cpu_s += (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                               (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
        pids[i] = 0;
    }
}

/* --- phases --- */

static void enter(scene *s, enum phase phase)
{
    u32_store_release(&s->b->phase, phase);
}

/* Requests that were sent in the phase are answered. False: one is not. */
static bool await_answers(scene *s, uint64_t before_ns)
{
    for (unsigned us = 0; us < PATIENCE_US; us += LOOK_US, board_sleep_us(LOOK_US)) {
        bool waiting = false;

        for (unsigned i = 0; i < HONEST_MAX; i++) {
            uint64_t since = u64_load_acquire(&s->b->honest[i].since_ns);

            waiting = waiting || (since != 0 && since < before_ns);
        }
        if (!waiting)
            return true;
    }
    return false;
}

/* What the supervisor does to the daemon while the attackers are at it. */
static void incite(scene *s)
{
    if (s->plan == NULL)
        return;
    if (s->what->seen_well == keeper_seen_well) { /* the next keeper's start fails once */
        u32_store_release(&s->plan->call, FAIL_FORK);
        u64_store_release(&s->plan->nth, 1);
        u32_store_release(&s->plan->armed, 1);
        (void)fixture_kill_keeper(&s->f);
        return;
    }
    u32_store_release(&s->plan->call, FAIL_CALLOC); /* as for a connection that is accepted */
    u64_store_release(&s->plan->nth, 1);
    u64_store_release(&s->plan->every, 50);
    u32_store_release(&s->plan->armed, 1);
}

/* Until all attackers have done something, on a slow machine too. */
static void await_attackers(scene *s)
{
    for (unsigned us = 0; us < PATIENCE_US && !s->ret->not_here; us += LOOK_US, board_sleep_us(LOOK_US)) {
        unsigned nbusy = 0;

        for (unsigned i = 0; i < s->o->nattackers; i++)
            nbusy += u64_load_relaxed(&s->b->attackers[i].deeds) + u64_load_relaxed(&s->b->attackers[i].refused) > 0;
        if (nbusy == s->o->nattackers)
            return;
        replace_attackers(s);
    }
}

static void attack_phase(scene *s)
{
    uint64_t us = s->o->brief ? BRIEF_US : s->o->seconds * UINT64_C(1000000);
    uint64_t from = board_now_ns();
    bool seen_well = true;

    enter(s, PHASE_ATTACK);
    for (unsigned i = 0; i < s->o->nattackers; i++)
        start_attacker(s, i);
    incite(s);
    if (s->o->brief) {
        await_attackers(s);
        from = board_now_ns();
    }
    for (bool looked = false; board_now_ns() - from < us * 1000 && !s->ret->not_here;) {
        board_sleep_us(LOOK_US);
        look(s, RSS_PEAK_KIB, FDS_PEAK);
        replace_attackers(s);
        if (!looked && s->what->seen_well != NULL && board_now_ns() - from > us * 500) {
            seen_well = s->what->seen_well(&s->f);
            looked = true;
        }
    }
    enter(s, PHASE_PAUSE);
    if (s->plan != NULL)
        u32_store_release(&s->plan->armed, 0);
    end_processes(s, s->attackers, s->o->nattackers);
    s->ret->figures[ATTACK_CPU] = s->attack_cpu_s * 1e9 / (double)(board_now_ns() - from) * 1000 / s->o->nattackers;
    if (!seen_well)
        fail(s, "seen from outside the daemon was not well");
}

/* From the attackers' end on. False: it does not come to be as before. */
static bool back_phase(scene *s)
{
    double *figures = s->ret->figures;
    uint64_t from = board_now_ns();
    uint64_t took = 0;
    bool back = false;

    while (!back && took < PATIENCE_US * UINT64_C(1000)) {
        uint64_t nsessions = count_sessions(s);

        look(s, RSS_AFTER_KIB, FDS_AFTER);
        took = board_now_ns() - from;
        back = nsessions <= s->sessions_before + SPARE_SESSIONS &&
               figures[FDS_AFTER] <= figures[FDS_BEFORE] + FDS_SLACK + SPARE_SESSIONS * 2 && await_answers(s, from);
        if (!back)
            board_sleep_us(LOOK_US / 5);
    }
    figures[BACK_MS] = (double)took / 1e6;
    if (!back)
        fail(s, "a minute after the attack not all was as before");
    if (!back || s->o->brief)
        return back;
    if (took < BACK_US * UINT64_C(1000))
        board_sleep_us(BACK_US - took / 1000);
    look(s, RSS_AFTER_KIB, FDS_AFTER);
    enter(s, PHASE_AFTER);
    board_sleep_us(1000000);
    return true;
}

/* Use so much of a CPU, in pieces of 10 ms. */
static void burn(unsigned permille)
{
    for (;;) {
        uint64_t until = board_now_ns() + permille * UINT64_C(10000);

        while (board_now_ns() < until)
            continue;
        if (permille < 1000)
            board_sleep_us((1000 - permille) * 10);
    }
}

static void burn_phase(scene *s)
{
    pid_t burners[ATTACKERS_MAX] = { 0 };
    double permille = s->ret->figures[ATTACK_CPU];

    enter(s, PHASE_BURN);
    for (unsigned i = 0; i < s->o->nattackers; i++) {
        burners[i] = start_process();
        if (burners[i] == 0) {
            become(s->o);
            burn(permille > 1000 ? 1000 : (unsigned)permille);
        }
    }
    board_sleep_us(s->o->seconds * UINT64_C(1000000));
    enter(s, PHASE_PAUSE);
    end_processes(s, burners, s->o->nattackers);
}

/* --- the end --- */

/* True if the client has let the heap be, or has no session any more. */
static bool is_quiet(const honest_entry *e)
{
    return u64_load_acquire(&e->quiet) != 0 || u64_load_acquire(&e->ended) != 0;
}

/* The statistics say exactly what the honest clients have. */
static void check_statistics(scene *s)
{
    uint64_t nobjects = 0;
    Goallocd__Reply *reply;

    u32_store_release(&s->b->quiet, 1);
    for (unsigned i = 0; i < HONEST_MAX; i++) {
        const honest_entry *e = &s->b->honest[i];

        for (unsigned us = 0; us < PATIENCE_US && !is_quiet(e); us += LOOK_US)
            board_sleep_us(LOOK_US);
        if (!is_quiet(e))
            fail(s, "an honest client hangs, or has ended");
        nobjects += u64_load_acquire(&s->b->honest[i].nobjects);
    }
    for (int i = 0; i < 500 && count_sessions(s) != s->sessions_before; i++)
        board_sleep_us(10000);
    reply = ask_stats(s);
    if (reply == NULL) {
        fail(s, "the daemon does not serve");
        return;
    }
    if (reply->stats->sessions != s->sessions_before)
        fail(s, "there are other sessions than before");
    if (!s->what->forges && reply->stats->live_objects != nobjects)
        fail(s, "there are other objects than those of the honest clients");
    if (reply->stats->total_bytes != reply->stats->live_bytes + reply->stats->unused_bytes + reply->stats->free_bytes +
                                         reply->stats->released_bytes + reply->stats->metadata_bytes)
        fail(s, "the statistics do not add up");
    goallocd__reply__free_unpacked(reply, NULL);
    if (!s->what->lazy && !fixture_is_settled(&s->f))
        fail(s, "the arena has other memory than the books say");
    if (!fixture_is_whole(&s->f))
        fail(s, "the tables do not agree");
    u32_store_release(&s->b->quiet, 0);
}

static void end_honest(scene *s)
{
    u32_store_release(&s->b->stop, 1);
    for (unsigned i = 0; i < HONEST_MAX; i++) {
        int status = -1;

        for (unsigned us = 0; us < PATIENCE_US && waitpid(s->honest[i], &status, WNOHANG) == 0; us += LOOK_US)
            board_sleep_us(LOOK_US);
        if (status != 0)
            fail(s, "an honest client has failed");
        if (status == -1)
            (void)kill(s->honest[i], SIGKILL);
    }
    s->f.nfds = (int)s->fds_empty;
    if (!s->what->forges && !fixture_is_clean(&s->f, 0))
        fail(s, "something was left behind");
}

static void collect_quantiles(double *ret, histogram *all, const scene *s, enum honest_kind kind, enum phase phase)
{
    static const uint64_t per_million[QUANTILES] = { 500000, 990000, 999000, 1000000 };

    memset(all, 0, sizeof(*all));
    for (unsigned i = 0; i < HONEST_MAX; i++) {
        if (honest_kind_of(i) == kind)
            histogram_merge(all, &s->b->honest[i].latency[phase]);
    }
    for (unsigned q = 0; q < MAX; q++)
        ret[q] = (double)histogram_quantile(all, per_million[q]) / 1000;
    ret[MAX] = (double)u64_load_relaxed(&all->max_ns) / 1000;
}

static void collect(scene *s)
{
    static histogram all;
    double *figures = s->ret->figures;
    uint64_t nstrays = 0;
    int error = 0;

    for (unsigned i = 0; i < s->o->nattackers; i++)
        nstrays += u64_load_relaxed(&s->b->attackers[i].strays);
    collect_quantiles(figures + REFILL_CALM, &all, s, HONEST_PROBE, PHASE_CALM);
    collect_quantiles(figures + REFILL_BURN, &all, s, HONEST_PROBE, PHASE_BURN);
    collect_quantiles(figures + REFILL_ATTACK, &all, s, HONEST_PROBE, PHASE_ATTACK);
    collect_quantiles(figures + REFILL_AFTER, &all, s, HONEST_PROBE, PHASE_AFTER);
    collect_quantiles(figures + ATTACH_CALM, &all, s, HONEST_COMER, PHASE_CALM);
    collect_quantiles(figures + ATTACH_ATTACK, &all, s, HONEST_COMER, PHASE_ATTACK);
    for (unsigned i = 0; i < HONEST_MAX; i++) {
        const honest_entry *e = &s->b->honest[i];

        figures[ENDED] += (double)u64_load_relaxed(&e->ended);
        if (nstrays > 0 && honest_kind_of(i) == HONEST_WORKER)
            continue; /* what was done to it is no fault of the daemon's */
        figures[REFUSED] += (double)u64_load_relaxed(&e->refused);
        figures[WRONG] += (double)u64_load_relaxed(&e->wrong);
        if (u64_load_relaxed(&e->refused) > 0)
            error = (int)u64_load_relaxed(&e->error);
    }
    for (unsigned i = 0; i < s->o->nattackers; i++) {
        figures[DEEDS] += (double)u64_load_relaxed(&s->b->attackers[i].deeds);
        figures[DENIED] += (double)u64_load_relaxed(&s->b->attackers[i].refused);
    }
    if (error != 0 && !s->what->fails_calls) {
        fail(s, "an honest client was refused something:");
        (void)snprintf(s->ret->failed + strlen(s->ret->failed), sizeof(s->ret->failed) - strlen(s->ret->failed), " %s",
                       strerror(error));
    }
    if (figures[ENDED] > 0)
        fail(s, "the session of an honest client was ended");
    if (figures[WRONG] > 0)
        fail(s, "an honest client's data were lost");
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && !defined(GOALLOC_TESTS_EMULATED)
    if (figures[RSS_PEAK_KIB] > RSS_MAX_KIB)
        fail(s, "the daemon has taken more than 64 MiB beside the heap");
#endif
    if (figures[DEEDS] + figures[DENIED] == 0 && !s->ret->not_here)
        fail(s, "there was no attack");
}

void scene_run(const hostile_options *o, const attack *what, scene_result *ret)
{
    scene s = { .o = o, .what = what, .ret = ret, .deaf_fd = -1 };

    memset(ret, 0, sizeof(*ret));
    start_daemon(&s);
    s.b = mmap(NULL, sizeof(*s.b), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(s.b != MAP_FAILED);
    s.fds_empty = count_fds(s.f.daemon);
    s.sessions_before = 4; /* the probes' and the workers' */
    start_honest(&s);
    enter(&s, PHASE_CALM);
    if (!o->brief)
        board_sleep_us(o->seconds * UINT64_C(1000000));
    look(&s, RSS_BEFORE_KIB, FDS_BEFORE);
    attack_phase(&s);
    if (back_phase(&s)) {
        if (!o->brief)
            burn_phase(&s);
        check_statistics(&s);
        end_honest(&s);
        collect(&s);
        if (what->deaf_log)
            (void)unlink(s.f.log); /* not to be shown: it would not end */
        if (!fixture_stop(&s.f))
            fail(&s, "the daemon did not end well");
    } else { /* nothing more can be asked */
        end_processes(&s, s.honest, HONEST_MAX);
        fixture_kill(&s.f);
        collect(&s);
    }
    (void)munmap(s.b, sizeof(*s.b));
    if (s.deaf_fd >= 0)
        (void)close(s.deaf_fd);
}
