/*
 * The heap's life: who has it mapped learns without a call that it was dropped, whichever way its daemon goes; and the
 * commands that drop it.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "tests/support/objects.h"

#define LOOKS 1000 /* of 10 ms */

/* --- processes that look --- */

/* What a process looks at: with a session of that kind, and whether the heap goes on. */
typedef struct watcher {
    uint32_t flags;
    bool forks; /* its child looks as well, which never calls the daemon */
    bool goes_on;
} watcher;

static bool becomes_not_current(void)
{
    for (int i = 0; i < LOOKS && goalloc_is_current(); i++)
        (void)usleep(10000);
    return !goalloc_is_current();
}

/* Without a call: the word alone says it. Then the calls say so too, and a new attach finds another heap. */
static int watch(const fixture *f, void *arg)
{
    const watcher *w = arg;
    uint64_t id;
    void *p;
    pid_t pid = -1;
    int status = 0;

    CHECK(goalloc_heap_id() == 0 && !goalloc_is_current());
    must_attach(f, w->flags);
    id = goalloc_heap_id();
    CHECK(id != 0 && goalloc_is_current() == 1);
    if (w->forks && (pid = fork()) == 0) {
        CHECK(goalloc_heap_id() == id && goalloc_is_current());
        (void)raise(SIGSTOP);
        CHECK(w->goes_on ? goalloc_is_current() : becomes_not_current());
        CHECK(goalloc_root_get("none", &p) == (w->goes_on ? -ENOENT : -ESTALE));
        CHECK(goalloc_is_current() == w->goes_on);
        _exit(0);
    }
    CHECK(pid < 0 || (waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status)));
    (void)raise(SIGSTOP);
    CHECK(pid < 0 || kill(pid, SIGCONT) == 0);
    CHECK(w->goes_on ? goalloc_is_current() : becomes_not_current());
    CHECK(goalloc_root_get("none", &p) == (w->goes_on ? -ENOENT : -ESTALE));
    CHECK(goalloc_is_current() == w->goes_on && goalloc_heap_id() == id);
    CHECK(pid < 0 || (waitpid(pid, &status, 0) == pid && status == 0));
    CHECK(goalloc_detach() == 0 && goalloc_heap_id() == 0 && !goalloc_is_current());
    must_attach(f, w->flags);
    CHECK((goalloc_heap_id() == id) == w->goes_on && goalloc_is_current());
    return 0;
}

/* The daemon goes by what(), and another one comes. */
static void daemon_goes(fixture *f, void (*what)(fixture *f), const char *more, bool goes_on)
{
    watcher w[] = { { 0, true, goes_on }, { GOALLOC_ATTACH_READONLY, true, goes_on },
                    { GOALLOC_ATTACH_RECLAIM, false, goes_on } };
    pid_t pids[3];

    for (int i = 0; i < 3; i++) {
        pids[i] = child_start(f, watch, &w[i]);
        assert_true(child_stops(pids[i]));
    }
    what(f);
    if (more != NULL || goes_on)
        fixture_restart(f, more);
    for (int i = 0; i < 3; i++)
        (void)kill(pids[i], SIGCONT);
    if (more == NULL && !goes_on) {
        (void)usleep(300000); /* they notice while nobody serves */
        fixture_restart(f, NULL);
    }
    for (int i = 0; i < 3; i++)
        assert_int_equal(child_wait(pids[i]), 0);
    assert_true(fixture_is_clean(f, 0));
}

static void ends_well(fixture *f)
{
    assert_int_equal(child_wait(f->daemon), 0);
}

static void by_sigterm(fixture *f)
{
    (void)kill(f->daemon, SIGTERM);
    ends_well(f);
}

static void by_sigint(fixture *f)
{
    (void)kill(f->daemon, SIGINT);
    ends_well(f);
}

static void by_sigusr1(fixture *f)
{
    (void)kill(f->daemon, SIGUSR1);
    ends_well(f);
}

static void by_command(fixture *f)
{
    char text[512];

    assert_int_equal(fixture_ctl(f, (const char *const[]){ "drop", "--yes", NULL }, text, sizeof(text)), 0);
    ends_well(f);
}

static void is_current_after_drop_is_0(void **state)
{
    daemon_goes(*state, by_command, NULL, false);
    assert_true(fixture_log_has(*state, "it was asked to drop the heap; the heap is dropped"));
}

static void is_current_after_a_stop_that_drops_is_0(void **state)
{
    daemon_goes(*state, by_sigterm, NULL, false);
    daemon_goes(*state, by_sigint, NULL, false);
}

static void is_current_after_a_stop_that_keeps_is_1(void **state)
{
    fixture *f = *state;

    f->on_stop = "keep";
    fixture_kill(f);
    fixture_restart(f, NULL);
    daemon_goes(f, by_sigterm, NULL, true);
    daemon_goes(f, by_sigint, NULL, true);
    daemon_goes(f, by_sigusr1, NULL, true);
    daemon_goes(f, by_command, NULL, false);
    assert_true(fixture_log_has(f, "took over heap"));
    assert_true(fixture_log_has(f, "the heap that was taken over has 0 objects"));
    f->on_stop = NULL;
    fixture_kill(f);
    fixture_restart(f, NULL);
}

static void is_current_after_a_kill_and_a_takeover_is_1(void **state)
{
    daemon_goes(*state, fixture_kill, NULL, true);
}

static void is_current_after_a_cold_start_is_0(void **state)
{
    daemon_goes(*state, fixture_kill, "--cold-start", false);
}

/* Nobody holds the heap but its daemon: a stop says so, and a kill can't be noticed but by a call. */
static int told_by_a_call(const fixture *f, void *arg)
{
    void *p;

    (void)arg;
    must_attach(f, 0);
    (void)raise(SIGSTOP);
    CHECK(goalloc_is_current()); /* nobody could say so */
    CHECK(goalloc_root_get("none", &p) == -ESTALE);
    CHECK(!goalloc_is_current());
    return 0;
}

static void is_current_after_a_kill_without_keeper_is_0_after_a_call(void **state)
{
    fixture *f = *state;

    daemon_goes(f, by_sigterm, NULL, false);
    daemon_goes(f, by_sigusr1, NULL, false);
    assert_true(fixture_log_has(f, "because nobody else holds it"));
    assert_int_equal(child_run_over_a_restart(f, told_by_a_call, NULL), 0);
}

/* A keeper that dies with nobody to replace it: the stop that was to keep the heap drops it. */
static void stop_that_keeps_without_a_keeper_drops(void **state)
{
    fixture *f = *state;
    char away[sizeof(f->state_dir) + 8];

    f->on_stop = "keep";
    fixture_kill(f);
    fixture_restart(f, NULL);
    (void)snprintf(away, sizeof(away), "%s.away", f->state_dir);
    assert_int_equal(rename(f->state_dir, away), 0);
    assert_true(fixture_kill_keeper(f));
    for (int i = 0; i < LOOKS && !fixture_log_has(f, "nobody holds the heap but this daemon"); i++)
        (void)usleep(10000);
    daemon_goes(f, by_sigterm, NULL, false);
    f->on_stop = NULL;
    fixture_kill(f);
    fixture_restart(f, NULL);
}

/* --- signals --- */

static void hangup_of_a_terminal_does_not_end_the_daemon(void **state)
{
    fixture *f = *state;
    goalloc_stats_t stats;

    for (int i = 0; i < 10; i++)
        (void)kill(f->daemon, SIGHUP);
    fixture_stats(f, &stats);
    assert_int_equal(kill(f->daemon, 0), 0);
    assert_true(fixture_is_whole(f));
}

/* --- who may drop, and who is asked --- */

static int drop_as_nobody(const fixture *f, void *arg)
{
    char text[512] = "";

    (void)arg;
    CHECK(setresgid(65534, 65534, 65534) == 0 && setresuid(65534, 65534, 65534) == 0);
    CHECK(fixture_ctl(f, (const char *const[]){ "drop", "--yes", NULL }, text, sizeof(text)) == 1);
    return 0;
}

static void drop_by_another_user_is_refused(void **state)
{
    fixture *f = *state;

    if (geteuid() != 0)
        skip();
    assert_int_equal(chmod(f->dir, 0711), 0);
    assert_int_equal(chmod(f->socket, 0666), 0);
    assert_int_equal(child_run(f, drop_as_nobody, NULL), 0);
    assert_true(fixture_log_has(f, "only root, the daemon's user and the control group may drop the heap"));
    assert_true(fixture_is_whole(f));
}

/* Nobody is at a terminal here. */
static int drop_without_a_terminal(const fixture *f, void *arg)
{
    char text[512];
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

    (void)arg;
    CHECK(dup2(null, STDIN_FILENO) == STDIN_FILENO);
    CHECK(fixture_ctl(f, (const char *const[]){ "drop", NULL }, text, sizeof(text)) == 1);
    CHECK(fixture_is_whole(f));
    return 0;
}

/* The answer at a terminal. */
static int drop_at_a_terminal(const fixture *f, void *arg)
{
    char text[512];
    const char *answer = arg;
    int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    int slave;

    CHECK(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
    slave = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
    CHECK(slave >= 0 && dup2(slave, STDIN_FILENO) == STDIN_FILENO);
    CHECK(write(master, answer, strlen(answer)) == (ssize_t)strlen(answer));
    return fixture_ctl(f, (const char *const[]){ "drop", NULL }, text, sizeof(text));
}

static void drop_asks_first(void **state)
{
    fixture *f = *state;

    assert_int_equal(child_run(f, drop_without_a_terminal, NULL), 0);
    assert_int_equal(child_run(f, drop_at_a_terminal, (char[]){ "n\n" }), 1);
    assert_int_equal(child_run(f, drop_at_a_terminal, (char[]){ "\n" }), 1);
    assert_true(fixture_is_whole(f));
    assert_int_equal(child_run(f, drop_at_a_terminal, (char[]){ "y\n" }), 0);
    ends_well(f);
    fixture_restart(f, NULL);
}

/* Requests are on their way while the heap is dropped: nobody is answered wrongly, and all end. */
static int churn_until_stale(const fixture *f, void *arg)
{
    static void *entries[1000];
    void *p;

    (void)arg;
    must_attach(f, 0);
    for (unsigned i = 0;; i++) {
        void **entry = &entries[i % 1000];

        goalloc_free(*entry);
        *entry = goalloc_malloc(i % 7 == 0 ? 300000 + i % 50 * 8192 : 100 + i % 900);
        if (*entry == NULL || !goalloc_is_current()) {
            CHECK(*entry != NULL || errno == ESTALE);
            CHECK(goalloc_root_get("none", &p) == -ESTALE && !goalloc_is_current());
            return 0;
        }
        if (i == 2000)
            (void)raise(SIGSTOP);
    }
}

static void drop_under_load_tells_everybody(void **state)
{
    fixture *f = *state;
    pid_t pids[4];

    for (int i = 0; i < 4; i++) {
        pids[i] = child_start(f, churn_until_stale, NULL);
        assert_true(child_stops(pids[i]));
    }
    for (int i = 0; i < 4; i++)
        (void)kill(pids[i], SIGCONT);
    (void)usleep(100000);
    by_command(f);
    for (int i = 0; i < 4; i++)
        assert_int_equal(child_wait(pids[i]), 0);
    fixture_restart(f, NULL);
    assert_true(fixture_is_clean(f, 0));
}

static int drop(const fixture *f, void *arg)
{
    char text[512];

    (void)arg;
    return fixture_ctl(f, (const char *const[]){ "drop", "--yes", NULL }, text, sizeof(text));
}

/* Exit status: 0 if it is dropped. */
static int look_later(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, GOALLOC_ATTACH_READONLY);
    (void)raise(SIGSTOP);
    return goalloc_is_current();
}

/* A stop that keeps comes in between, or a kill: if goallocctl has been told that it is done, it is. */
static void drop_that_was_answered_is_done(void **state)
{
    fixture *f = *state;
    uint64_t seed = test_seed();
    int ndropped = 0;

    f->on_stop = "keep";
    fixture_kill(f);
    fixture_restart(f, NULL);
    for (int i = 0; i < 20; i++) {
        pid_t pid = child_start(f, look_later, NULL);
        pid_t ctl;
        int status;
        bool is_current;

        assert_true(child_stops(pid));
        ctl = child_start(f, drop, NULL);
        (void)usleep((useconds_t)(test_random(&seed) % 10000));
        (void)kill(f->daemon, i % 2 == 0 ? SIGTERM : SIGKILL);
        (void)child_wait(f->daemon);
        status = child_wait(ctl);
        (void)kill(pid, SIGCONT);
        is_current = child_wait(pid) != 0;
        assert_true(status != 0 || !is_current);
        ndropped += !is_current;
        fixture_restart(f, NULL);
    }
    (void)printf("%d of 20 dropped\n", ndropped);
    f->on_stop = NULL;
    fixture_kill(f);
    fixture_restart(f, NULL);
}

/* --- goallocctl keeper --- */

static int ctl_keeper(const fixture *f, const char *more, char *ret, size_t size)
{
    return fixture_ctl(f, (const char *const[]){ "--json", "keeper", "--state-dir", f->state_dir, more, "--yes", NULL },
                       ret, size);
}

static void keeper_command_shows_and_ends_what_is_left_over(void **state)
{
    fixture *f = *state;
    watcher w = { GOALLOC_ATTACH_READONLY, true, false };
    pid_t pid = child_start(f, watch, &w);
    char pid_text[64];
    char text[2048];

    assert_true(child_stops(pid));
    (void)snprintf(pid_text, sizeof(pid_text), "\"pid\": %d,", (int)fixture_keeper(f));
    assert_int_equal(ctl_keeper(f, "--yes", text, sizeof(text)), 0);
    assert_non_null(strstr(text, "\"served\": true"));
    assert_non_null(strstr(text, pid_text));
    assert_non_null(strstr(text, "\"sessions\": 1"));
    assert_int_equal(ctl_keeper(f, "--end", text, sizeof(text)), 1); /* a daemon serves it */
    assert_true(fixture_is_whole(f));
    fixture_kill(f);
    assert_int_equal(ctl_keeper(f, "--yes", text, sizeof(text)), 0);
    assert_non_null(strstr(text, "\"served\": false"));
    assert_int_equal(ctl_keeper(f, "--end", text, sizeof(text)), 0);
    assert_non_null(strstr(text, "\"ended\": true"));
    assert_int_equal(ctl_keeper(f, "--yes", text, sizeof(text)), 1); /* there is none */
    (void)kill(pid, SIGCONT);
    (void)usleep(300000);
    fixture_restart(f, NULL);
    assert_int_equal(child_wait(pid), 0);
    assert_true(fixture_is_clean(f, 0));
}

/* Its queue has room for some who connect; the others do not hang either. */
static void keeper_that_is_stopped_holds_no_command_up(void **state)
{
    fixture *f = *state;
    pid_t keeper = fixture_keeper(f);
    char text[256];

    assert_int_equal(kill(keeper, SIGSTOP), 0);
    (void)alarm(60);
    for (int i = 0; i < 10; i++)
        assert_int_equal(ctl_keeper(f, "--timeout 50ms", text, sizeof(text)), 1);
    (void)alarm(0);
    assert_int_equal(kill(keeper, SIGCONT), 0);
    assert_int_equal(ctl_keeper(f, "--yes", text, sizeof(text)), 0);
}

/* Another daemon, on a socket of its own, must not take away the heap that this one serves. */
static void cold_start_on_a_heap_that_is_served_is_refused(void **state)
{
    fixture *f = *state;
    fixture second = *f;
    char name[160];

    (void)snprintf(second.socket, sizeof(second.socket), "%s/other", f->dir);
    assert_int_equal(fixture_restart_refused(&second, "--cold-start"), 1);
    assert_true(fixture_log_has(f, "can't be dropped: another goallocd serves it"));
    daemon_goes(f, fixture_kill, NULL, true);
    (void)snprintf(name, sizeof(name), "%s.lock", second.socket);
    (void)unlink(name);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST_KEPT(is_current_after_drop_is_0),
        FIXTURE_TEST_KEPT(is_current_after_a_stop_that_drops_is_0),
        FIXTURE_TEST_KEPT(is_current_after_a_stop_that_keeps_is_1),
        FIXTURE_TEST_KEPT(is_current_after_a_kill_and_a_takeover_is_1),
        FIXTURE_TEST_KEPT(is_current_after_a_cold_start_is_0),
        FIXTURE_TEST(is_current_after_a_kill_without_keeper_is_0_after_a_call),
        FIXTURE_TEST_KEPT(stop_that_keeps_without_a_keeper_drops),
        FIXTURE_TEST(hangup_of_a_terminal_does_not_end_the_daemon),
        FIXTURE_TEST(drop_by_another_user_is_refused),
        FIXTURE_TEST(drop_asks_first),
        FIXTURE_TEST_KEPT(drop_under_load_tells_everybody),
        FIXTURE_TEST_KEPT(drop_that_was_answered_is_done),
        FIXTURE_TEST_KEPT(keeper_command_shows_and_ends_what_is_left_over),
        FIXTURE_TEST_KEPT(keeper_that_is_stopped_holds_no_command_up),
        FIXTURE_TEST_KEPT(cold_start_on_a_heap_that_is_served_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
