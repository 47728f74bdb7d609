/*
 * goallocctl top and watch: on a terminal, which is as before whatever ends it; printed; and over a restart of the
 * daemon.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <time.h>
#include <utmp.h>

#include "tests/support/objects.h"

#define OUT_BYTES (1u << 20)

/* --- a terminal --- */

typedef struct terminal {
    pid_t pid;
    int fd;
    struct termios before;
    char *out; /* all that was written to it */
    size_t used;
    size_t seen; /* of it, by terminal_shows() */
} terminal;

/* Run goallocctl with these words at a terminal. */
static terminal terminal_start(const fixture *f, const char *term, const char *words)
{
    struct winsize size = { .ws_row = 24, .ws_col = 80 };
    terminal t = { .out = calloc(1, OUT_BYTES) };
    char command[512];
    int slave;

    assert_non_null(t.out);
    (void)snprintf(command, sizeof(command), "exec %s --socket %s %s", GOALLOCCTL_PATH, f->socket, words);
    assert_int_equal(openpty(&t.fd, &slave, NULL, NULL, &size), 0);
    assert_int_equal(tcgetattr(slave, &t.before), 0);
    t.pid = fork();
    assert_true(t.pid >= 0);
    if (t.pid == 0) {
        (void)setenv("TERM", term, 1);
        (void)setenv("LC_ALL", "C.UTF-8", 1);
        (void)unsetenv("COLUMNS");
        (void)unsetenv("LINES");
        (void)close(t.fd);
        if (login_tty(slave) == 0)
            (void)execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    (void)close(slave);
    return t;
}

/* Read what there is, waiting for some. False: nobody has the terminal open any more, or nothing came for 20 s. */
static bool terminal_read(terminal *t)
{
    struct pollfd ready = { .fd = t->fd, .events = POLLIN };
    ssize_t n;

    if (poll(&ready, 1, 20000) != 1)
        return false;
    assert_true(t->used + 4096 < OUT_BYTES);
    n = read(t->fd, t->out + t->used, 4096);
    if (n <= 0)
        return false;
    t->used += (size_t)n;
    t->out[t->used] = '\0';
    return true;
}

/* Wait until text is written that was not there at the last call. */
static void terminal_shows(terminal *t, const char *text)
{
    const char *at;
    time_t until = time(NULL) + 30;

    while ((at = strstr(t->out + t->seen, text)) == NULL) {
        if (!terminal_read(t) || time(NULL) > until)
            fail_msg("it does not show '%s', but: %s", text, t->out + t->seen);
    }
    t->seen = (size_t)(at - t->out) + strlen(text);
}

static void terminal_type(const terminal *t, const char *keys)
{
    assert_int_equal(write(t->fd, keys, strlen(keys)), strlen(keys));
}

/* Wait for its end: the exit status, or 1000 + signal. The terminal must be as it was. */
static int terminal_end(terminal *t, bool full_screen)
{
    struct termios after;
    const char *left;
    int status;

    while (terminal_read(t))
        ;
    status = child_wait(t->pid);
    assert_int_equal(tcgetattr(t->fd, &after), 0);
    assert_int_equal(after.c_lflag, t->before.c_lflag);
    assert_int_equal(after.c_iflag, t->before.c_iflag);
    assert_int_equal(after.c_oflag, t->before.c_oflag);
    if (full_screen) {
        assert_non_null(strstr(t->out, "\x1b[?1049h"));
        left = strstr(t->out, "\x1b[?1049l");
        assert_non_null(left);
        assert_null(strstr(left, "\x1b[?1049h"));
        assert_non_null(strstr(t->out, "\x1b[?25h")); /* the cursor is shown */
    } else {
        assert_null(strchr(t->out, '\x1b'));
    }
    (void)close(t->fd);
    free(t->out);
    return status;
}

/* --- somebody to look at --- */

static int hold_some(const fixture *f, void *arg)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;

    options.socket_path = f->socket;
    options.label = arg;
    options.group = "family";
    CHECK(goalloc_attach(&options) == 0);
    for (int i = 0; i < 3000; i++)
        CHECK(goalloc_malloc(1000) != NULL);
    (void)raise(SIGSTOP);
    return 0;
}

static pid_t start_worker(const fixture *f, const char *label)
{
    return child_start_stopped(f, hold_some, (void *)(uintptr_t)label);
}

static void end_worker(pid_t pid)
{
    (void)kill(pid, SIGKILL);
    (void)child_wait(pid);
}

/* --- full screen --- */

static void top_takes_the_screen_and_gives_it_back(void **state)
{
    const fixture *f = *state;
    pid_t worker = start_worker(f, "worker 7");
    terminal t = terminal_start(f, "xterm", "top --interval 50ms");

    terminal_shows(&t, "HELD");
    terminal_shows(&t, "worker 7");
    terminal_type(&t, "g");
    terminal_shows(&t, "REFILLS/S");
    terminal_type(&t, "glifan<>Rx?\x1b[A\x1b[B\x1b[5~\x1b[6~");
    terminal_type(&t, "g");
    terminal_shows(&t, "REFILLS/S");
    terminal_type(&t, "q");
    assert_int_equal(terminal_end(&t, true), 0);
    end_worker(worker);
}

static void every_signal_leaves_the_terminal_as_it_was(void **state)
{
    static const int signals[] = {
        SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGABRT, SIGPIPE,
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) /* they have these for themselves */
        SIGSEGV, SIGBUS,
#endif
    };
    const fixture *f = *state;

    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
        terminal t = terminal_start(f, "xterm", "top");

        terminal_shows(&t, "HELD");
        (void)kill(t.pid, signals[i]);
        assert_int_equal(terminal_end(&t, true), 1000 + signals[i]);
    }
}

/* While it waits for an answer as well. */
static void interrupt_ends_it_at_once_when_the_daemon_has_stopped(void **state)
{
    const fixture *f = *state;
    terminal t = terminal_start(f, "xterm", "top --interval 20ms --timeout 10min");

    terminal_shows(&t, "HELD");
    (void)kill(f->daemon, SIGSTOP);
    (void)usleep(200000); /* it asks again meanwhile; if it does not yet, this is the case above */
    terminal_type(&t, "\x03");
    assert_int_equal(terminal_end(&t, true), 1000 + SIGINT);
    (void)kill(f->daemon, SIGCONT);
}

static void top_follows_the_size_of_the_terminal(void **state)
{
    static const struct winsize sizes[] = { { .ws_row = 12, .ws_col = 50 },
                                            { .ws_row = 3, .ws_col = 10 },
                                            { .ws_row = 1, .ws_col = 1 },
                                            { .ws_row = 60, .ws_col = 200 } };
    const fixture *f = *state;
    pid_t worker = start_worker(f, "worker with a label that is longer than the rest");
    terminal t = terminal_start(f, "xterm", "top --interval 50ms");

    terminal_shows(&t, "HELD");
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        t.seen = t.used;
        assert_int_equal(ioctl(t.fd, TIOCSWINSZ, &sizes[i]), 0);
        terminal_type(&t, "R"); /* draws something else in any case */
        while (t.used == t.seen)
            assert_true(terminal_read(&t));
    }
    terminal_shows(&t, "longer than the rest");
    terminal_type(&t, "q");
    assert_int_equal(terminal_end(&t, true), 0);
    end_worker(worker);
}

static void top_outlives_a_daemon_and_says_so(void **state)
{
    fixture *f = *state;
    pid_t worker = start_worker(f, "outlives");
    terminal t = terminal_start(f, "xterm", "top --interval 50ms");

    terminal_shows(&t, "outlives");
    fixture_kill(f);
    terminal_shows(&t, "waiting for a daemon");
    fixture_restart(f, NULL);
    terminal_shows(&t, "a daemon is back");
    terminal_shows(&t, "lost"); /* its process is stopped, and has not come back yet */
    terminal_type(&t, "q");
    assert_int_equal(terminal_end(&t, true), 0);
    end_worker(worker);
}

/* A terminal of which nothing is known gets tables, as a pipe does. */
static void a_terminal_that_nobody_knows_gets_tables(void **state)
{
    const fixture *f = *state;
    terminal t = terminal_start(f, "no-such-terminal", "top --interval 10ms --count 2");

    terminal_shows(&t, "HELD");
    terminal_shows(&t, "HELD");
    assert_int_equal(terminal_end(&t, false), 0);
}

static void without_a_daemon_there_is_no_screen(void **state)
{
    fixture nowhere;
    terminal t;

    (void)state;
    fixture_make_place(&nowhere);
    t = terminal_start(&nowhere, "xterm", "top");
    assert_int_equal(terminal_end(&t, false), 3);
}

/* --- printed --- */

static json_t *answer_of(const fixture *f, const char *words)
{
    static char out[1 << 18];
    json_t *answer = NULL;

    if (fixture_ctl(f, (const char *const[]){ "--json", words, NULL }, out, sizeof(out)) == 0)
        answer = json_loads(out, 0, NULL);
    assert_non_null(answer);
    return answer;
}

/* Row i of the list of that name. */
static json_t *row_of(json_t *answer, const char *list, size_t i)
{
    return json_array_get(json_object_get(answer, list), i);
}

/* An arena's worth: holds n objects of 10 kB, frees half of them, and stops; then asks for more, and stops. */
static int hold_and_free(const fixture *f, void *arg)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;
    static void *objects[400];
    size_t n = *(size_t *)arg;

    options.socket_path = f->socket;
    options.label = n == 400 ? "much" : "little";
    CHECK(goalloc_attach(&options) == 0);
    for (size_t i = 0; i < n; i++)
        CHECK((objects[i] = goalloc_malloc(10000)) != NULL);
    for (size_t i = 0; i < n / 2; i++)
        goalloc_free(objects[i]);
    (void)raise(SIGSTOP);
    for (size_t i = 0; i < 50; i++)
        CHECK(goalloc_malloc(1 << 20) != NULL);
    (void)raise(SIGSTOP);
    return 0;
}

static void top_shows_what_sessions_hold_and_what_of_it_lives(void **state)
{
    const fixture *f = *state;
    pid_t little = child_start_stopped(f, hold_and_free, &(size_t){ 40 });
    pid_t much = child_start_stopped(f, hold_and_free, &(size_t){ 400 });
    json_t *answer = answer_of(f, "top --once --interval 1ms");
    json_t *row = row_of(answer, "sessions", 0);
    static char out[4096];

    assert_int_equal(json_array_size(json_object_get(answer, "sessions")), 2);
    assert_string_equal(json_string_value(json_object_get(row, "label")), "much");
    assert_int_equal(figure(row, "live_objects"), 200);
    assert_in_range(figure(row, "live_bytes"), 2000000, 2200000);
    assert_true(figure(row, "held_bytes") >= figure(row, "live_bytes") + figure(row, "idle_bytes"));
    assert_true(figure(row, "refills") > 0 && figure(row, "pid") == (uint64_t)much);
    assert_true(json_real_value(json_object_get(row, "refills_per_s")) == 0);
    assert_string_equal(json_string_value(json_object_get(row_of(answer, "sessions", 1), "label")), "little");
    json_decref(answer);
    answer = answer_of(f, "top --once --interval 1ms --sort label");
    assert_string_equal(json_string_value(json_object_get(row_of(answer, "sessions", 0), "label")), "little");
    json_decref(answer);
    answer = answer_of(f, "top --once --interval 1ms --sort label --reverse --rows 1");
    assert_int_equal(json_array_size(json_object_get(answer, "sessions")), 1);
    assert_string_equal(json_string_value(json_object_get(row_of(answer, "sessions", 0), "label")), "much");
    json_decref(answer);
    answer = answer_of(f, "top --once --interval 1ms --group");
    row = row_of(answer, "groups", 0);
    assert_int_equal(figure(row, "sessions"), 2);
    assert_int_equal(figure(row, "live_objects"), 220);
    json_decref(answer);
    assert_int_equal(fixture_ctl(f, (const char *const[]){ "top --once --interval 1ms", NULL }, out, sizeof(out)), 0);
    assert_null(strchr(out, '\x1b'));
    assert_true(strstr(out, "much") < strstr(out, "little"));
    end_worker(little);
    end_worker(much);
}

/* Between the two looks of --once the worker goes on. */
static void top_shows_refills_a_second(void **state)
{
    const fixture *f = *state;
    pid_t worker = child_start_stopped(f, hold_and_free, &(size_t){ 40 });
    char command[512];
    char out[8192];
    bool seen = false;
    FILE *pipe;
    json_t *answer;

    (void)snprintf(command, sizeof(command), "%s --socket %s --json top --count 600 --interval 50ms", GOALLOCCTL_PATH,
                   f->socket);
    pipe = popen(command, "re");
    assert_non_null(pipe);
    assert_non_null(fgets(out, sizeof(out), pipe)); /* the first one: it has not gone on */
    answer = json_loads(out, 0, NULL);
    assert_true(json_real_value(json_object_get(row_of(answer, "sessions", 0), "refills_per_s")) == 0);
    json_decref(answer);
    (void)kill(worker, SIGCONT);
    while (!seen && fgets(out, sizeof(out), pipe) != NULL) {
        answer = json_loads(out, 0, NULL);
        seen = json_real_value(json_object_get(row_of(answer, "sessions", 0), "refills_per_s")) > 0;
        json_decref(answer);
    }
    assert_true(seen);
    assert_true(child_stops(worker));
    (void)pclose(pipe); /* it has nobody to print for any more */
    end_worker(worker);
}

/* What the next daemon says of a session. */
static void age_of_a_session_outlives_the_daemon(void **state)
{
    fixture *f = *state;
    pid_t worker = start_worker(f, "old");
    json_t *answer;
    uint64_t age;

    (void)usleep(50000);
    fixture_kill(f);
    fixture_restart(f, NULL);
    answer = answer_of(f, "sessions --live");
    age = figure(row_of(answer, "sessions", 0), "age_ms");
    assert_in_range(age, 50, 600000);
    assert_int_equal(figure(row_of(answer, "sessions", 0), "refills"), 0); /* that is the daemon's own count */
    json_decref(answer);
    end_worker(worker);
    (void)fixture_live_with(f, 0);
    answer = answer_of(f, "sessions");
    assert_true(figure(row_of(answer, "sessions", 0), "age_ms") >= age);
    assert_int_equal(figure(row_of(answer, "sessions", 0), "live_bytes"), 0);
    json_decref(answer);
    answer = answer_of(f, "sessions --live");
    assert_int_equal(json_array_size(json_object_get(answer, "sessions")), 0);
    json_decref(answer);
}

/* --- watch --- */

static void watch_prints_values_and_goes_on_with_the_next_daemon(void **state)
{
    fixture *f = *state;
    pid_t worker = start_worker(f, "watched");
    char command[512];
    char line[256];
    unsigned restarted = 0;
    FILE *pipe;

    (void)snprintf(command, sizeof(command),
                   "%s --socket %s watch live_objects uptime_ms --interval 20ms --count 5000 2>&1", GOALLOCCTL_PATH,
                   f->socket);
    pipe = popen(command, "re");
    assert_non_null(pipe);
    assert_non_null(fgets(line, sizeof(line), pipe));
    assert_non_null(strstr(line, "live_objects"));
    assert_non_null(fgets(line, sizeof(line), pipe));
    assert_int_equal(strtoul(line, NULL, 10), 3000);
    fixture_kill(f);
    fixture_restart(f, NULL);
    while (restarted == 0 && fgets(line, sizeof(line), pipe) != NULL)
        restarted += strstr(line, "a daemon is back") != NULL || strstr(line, "the daemon was restarted") != NULL;
    assert_int_equal(restarted, 1);
    do
        assert_non_null(fgets(line, sizeof(line), pipe));
    while (strtoul(line, NULL, 10) == 0); /* the heading */
    assert_int_equal(strtoul(line, NULL, 10), 3000);
    (void)pclose(pipe); /* it has nobody to print for any more */
    end_worker(worker);
}

static void watch_with_changes_prints_what_has_changed(void **state)
{
    static const char *const rpcs[] = { "--json watch rpcs --changes --count 3 -i 1ms", NULL };
    const fixture *f = *state;
    char out[4096];
    char *at;

    assert_int_equal(fixture_ctl(f, (const char *const[]){ "--json watch roots --changes --count 5 -i 1ms", NULL }, out,
                                 sizeof(out)),
                     0);
    assert_string_equal(out, "{\"roots\":0}\n");
    assert_int_equal(fixture_ctl(f, rpcs, out, sizeof(out)), 0);
    at = strchr(out, '\n');
    assert_non_null(at);
    assert_non_null(strchr(at + 1, '\n')); /* each look is a request */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(top_takes_the_screen_and_gives_it_back),
        FIXTURE_TEST(every_signal_leaves_the_terminal_as_it_was),
        FIXTURE_TEST(interrupt_ends_it_at_once_when_the_daemon_has_stopped),
        FIXTURE_TEST(top_follows_the_size_of_the_terminal),
        FIXTURE_TEST_KEPT(top_outlives_a_daemon_and_says_so),
        FIXTURE_TEST(a_terminal_that_nobody_knows_gets_tables),
        cmocka_unit_test(without_a_daemon_there_is_no_screen),
        FIXTURE_TEST(top_shows_what_sessions_hold_and_what_of_it_lives),
        FIXTURE_TEST(top_shows_refills_a_second),
        FIXTURE_TEST_KEPT(age_of_a_session_outlives_the_daemon),
        FIXTURE_TEST_KEPT(watch_prints_values_and_goes_on_with_the_next_daemon),
        FIXTURE_TEST(watch_with_changes_prints_what_has_changed),
    };

    return cmocka_run_group_tests_name("goallocctl top", tests, NULL, NULL);
}
