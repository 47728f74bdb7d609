/*
 * The journal: what operators search it for is said there once, with fields, whatever clients call themselves; and a
 * journal that is full, or is started anew, holds up nobody.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "tests/support/attach.h"
#include "tests/support/datagrams.h"
#include "tests/support/rawheap.h"
#include "tests/support/waits.h"

#define PATIENCE_MS 30000
#define EVIL_LABEL "x\nMESSAGE_ID=88a84f36e8e24b13a9be52b02f949c09\n\x1b[2J', uid 0"
#define EVIL_GROUP "g\n_UID=0\n\x1b]0;t\x07"

typedef struct scene {
    fixture f;
    char path[96];
    int fd;            /* the journal's socket */
    int silence;       /* the other end of what the daemon has as stderr: nothing is said there */
    unsigned seen[64]; /* how often each event has come: by its place in the table below */
} scene;

/* The names of the table; the tests know no number of it. */
static const char *const names[] = {
    "new-heap",       "takeover",         "started",          "session-died", "session-ended",
    "growth-refused", "limit-reached",    "refused-more",     "keeper-lost",  "stopping",
    "keeper-started", "takeover-counted", "client-violation", "reloaded", "reload-refused",
};
#define NNAMES (sizeof(names) / sizeof(names[0]))

static unsigned *seen_of(scene *s, const char *name)
{
    for (size_t i = 0; i < NNAMES; i++) {
        if (strcmp(names[i], name) == 0)
            return &s->seen[i];
    }
    return &s->seen[NNAMES];
}

/* A daemon whose stderr is the journal's, as far as it can tell. state_dir: it has a keeper. */
static void scene_begin(scene *s, const char *const *options, bool kept)
{
    char stream[64];
    struct stat st;
    int fds[2];

    memset(s, 0, sizeof(*s));
    fixture_make_place(&s->f);
    if (kept)
        (void)snprintf(s->f.state_dir, sizeof(s->f.state_dir), "%s/state", s->f.dir);
    (void)snprintf(s->path, sizeof(s->path), "%s/journal", s->f.dir);
    s->fd = journal_make(s->path);
    assert_true(s->fd >= 0);
    assert_int_equal(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
    s->silence = fds[0];
    s->f.log_fd = fds[1];
    assert_int_equal(fstat(fds[1], &st), 0);
    (void)snprintf(stream, sizeof(stream), "%llu:%llu", (unsigned long long)st.st_dev, (unsigned long long)st.st_ino);
    (void)setenv("JOURNAL_STREAM", stream, 1);
    (void)setenv("GOALLOC_JOURNAL_SOCKET", s->path, 1);
    s->f.options = options;
    fixture_restart(&s->f, NULL);
}

/* What comes next; it must be of the protocol, and from this daemon. False: nothing comes. */
static bool next(scene *s, int timeout_ms, datagram *ret)
{
    int r = journal_next(s->fd, timeout_ms, ret);
    const char *name;

    assert_true(r >= 0);
    if (r == 0)
        return false;
    assert_true(datagram_has(ret, "SYSLOG_IDENTIFIER", "goallocd"));
    assert_non_null(datagram_value(ret, "MESSAGE"));
    name = datagram_value(ret, "GOALLOC_EVENT");
    if (name != NULL)
        (*seen_of(s, name))++;
    for (size_t i = 0; i < ret->n; i++) {
        assert_null(strchr(ret->fields[i].value, '\n'));
        assert_null(strchr(ret->fields[i].value, '\x1b'));
    }
    return true;
}

static void await_event(scene *s, const char *name, datagram *ret)
{
    do
        assert_true(next(s, PATIENCE_MS, ret));
    while (!datagram_has(ret, "GOALLOC_EVENT", name));
}

/* What it says until it is silent for a moment; for what must not come. */
static void drain(scene *s)
{
    static datagram d;

    while (next(s, 50, &d))
        ;
}

static void scene_end(scene *s)
{
    static datagram d;
    char byte;

    drain(s);
    assert_true(fixture_stop(&s->f));
    await_event(s, "stopping", &d);
    drain(s);
    assert_int_equal(*seen_of(s, "stopping"), 1);
    assert_int_equal(read(s->silence, &byte, 1), -1); /* nothing was said on stderr */
    (void)close(s->fd);
    (void)close(s->silence);
    (void)close(s->f.log_fd);
    (void)unsetenv("JOURNAL_STREAM");
    (void)unsetenv("GOALLOC_JOURNAL_SOCKET");
}

/* --- who begins, and who dies --- */

static int leave_some(const fixture *f, void *arg)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;

    (void)arg;
    options.socket_path = f->socket;
    options.label = EVIL_LABEL;
    options.group = EVIL_GROUP;
    CHECK(goalloc_attach(&options) == 0);
    for (int i = 0; i < 3; i++)
        CHECK(goalloc_malloc(3000) != NULL);
    (void)raise(SIGKILL);
    return 0;
}

static int come_and_go(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    CHECK(goalloc_detach() == 0);
    return 0;
}

static void start_death_and_stop_have_a_line_each(void **state)
{
    static datagram d;
    char number[16];
    pid_t pid;
    scene s;

    (void)state;
    scene_begin(&s, NULL, false);
    await_event(&s, "started", &d);
    assert_non_null(strstr(datagram_value(&d, "MESSAGE"), "goallocd " GOALLOC_VERSION " serves "));
    assert_true(datagram_has(&d, "PRIORITY", "6"));
    assert_int_equal(*seen_of(&s, "new-heap"), 1);
    assert_int_equal(child_run(&s.f, come_and_go, NULL), 0);
    await_event(&s, "session-ended", &d);
    pid = child_start(&s.f, leave_some, NULL);
    assert_int_equal(child_wait(pid), 1000 + SIGKILL);
    await_event(&s, "session-died", &d);
    (void)snprintf(number, sizeof(number), "%d", (int)pid);
    assert_true(datagram_has(&d, "GOALLOC_PID", number));
    (void)snprintf(number, sizeof(number), "%u", (unsigned)geteuid());
    assert_true(datagram_has(&d, "GOALLOC_UID", number));
    assert_non_null(datagram_value(&d, "GOALLOC_SESSION"));
    assert_true(datagram_has(&d, "MESSAGE_ID", "e0631716d9f449fa996bfdbd9e57d231"));
    assert_true(strncmp(datagram_value(&d, "GOALLOC_LABEL"), "x?MESSAGE_ID=88", 15) == 0);
    assert_true(datagram_has(&d, "GOALLOC_GROUP", "g _UID=0 ?]0;t?"));
    assert_non_null(strstr(datagram_value(&d, "MESSAGE"), ", 3 objects with 9 KiB stay, "));
    drain(&s);
    assert_int_equal(*seen_of(&s, "session-died"), 1);
    assert_int_equal(*seen_of(&s, "takeover"), 0);
    scene_end(&s);
}

/* --- takeover --- */

static int leave_root(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    CHECK(goalloc_root_set("one", filled(1 << 20, 1)) == 0);
    CHECK(goalloc_detach() == 0);
    return 0;
}

static void takeover_is_another_line_than_a_new_heap(void **state)
{
    static datagram d;
    char heap[40];
    scene s;

    (void)state;
    scene_begin(&s, NULL, true);
    await_event(&s, "started", &d);
    assert_int_equal(*seen_of(&s, "keeper-started"), 1);
    (void)snprintf(heap, sizeof(heap), "%s", datagram_value(&d, "GOALLOC_HEAP"));
    assert_int_equal(child_run(&s.f, leave_root, NULL), 0);
    await_event(&s, "session-ended", &d);
    drain(&s);
    fixture_kill(&s.f);
    fixture_restart(&s.f, NULL);
    await_event(&s, "takeover", &d);
    assert_true(datagram_has(&d, "MESSAGE_ID", "88a84f36e8e24b13a9be52b02f949c09"));
    assert_true(datagram_has(&d, "GOALLOC_HEAP", heap));
    assert_non_null(strstr(datagram_value(&d, "MESSAGE"), ": 0 sessions, 0 groups, 1 roots, "));
    assert_non_null(strstr(datagram_value(&d, "MESSAGE"), " MiB; in "));
    await_event(&s, "takeover-counted", &d);
    assert_true(datagram_has(&d, "GOALLOC_HEAP", heap));
    drain(&s);
    assert_int_equal(*seen_of(&s, "takeover"), 1);
    assert_int_equal(*seen_of(&s, "takeover-counted"), 1);
    assert_int_equal(*seen_of(&s, "new-heap"), 1); /* of the first one */
    assert_int_equal(*seen_of(&s, "started"), 2);
    assert_true(fixture_kill_keeper(&s.f));
    await_event(&s, "keeper-lost", &d);
    await_event(&s, "keeper-started", &d);
    assert_int_equal(*seen_of(&s, "keeper-lost"), 1);
    scene_end(&s);
}

/* --- refusals --- */

static int fill_arena(const fixture *f, void *arg)
{
    unsigned nrefused = 0;

    (void)arg;
    waits_not_for_ever();
    must_attach(f, 0);
    for (unsigned i = 0; nrefused < 3; i++) {
        if (goalloc_malloc(1 << 20) == NULL) {
            CHECK(errno == ENOSPC);
            nrefused++;
        }
    }
    return 0;
}

static void full_arena_is_a_line_at_once_and_one_at_the_end(void **state)
{
    static const char *const options[] = { "--reserve", "64M", NULL };
    static datagram d;
    scene s;

    (void)state;
    scene_begin(&s, options, false);
    assert_int_equal(child_run(&s.f, fill_arena, NULL), 0);
    await_event(&s, "growth-refused", &d);
    assert_true(datagram_has(&d, "GOALLOC_LIMIT", "arena"));
    assert_true(datagram_has(&d, "PRIORITY", "4"));
    assert_non_null(datagram_value(&d, "GOALLOC_SESSION"));
    assert_non_null(strstr(datagram_value(&d, "MESSAGE"), "'): asks for 102")); /* 1024 KiB, and what is beside them */
    assert_non_null(strstr(datagram_value(&d, "MESSAGE"), "the arena (--reserve) has no free pages"));
    await_event(&s, "session-died", &d);
    drain(&s);
    assert_int_equal(*seen_of(&s, "growth-refused"), 1);
    assert_int_equal(*seen_of(&s, "refused-more"), 0); /* within the episode */
    scene_end(&s);
    assert_int_equal(*seen_of(&s, "growth-refused"), 1);
    assert_int_equal(*seen_of(&s, "refused-more"), 1); /* its end was the daemon's */
}

static int pass_session_limit(const fixture *f, void *arg)
{
    unsigned nrefused = 0;

    (void)arg;
    waits_not_for_ever();
    must_attach(f, 0);
    while (nrefused < 3) {
        if (goalloc_malloc(1 << 20) == NULL) {
            CHECK(errno == EDQUOT);
            nrefused++;
        }
    }
    return 0;
}

static void limit_that_refuses_is_a_line_with_its_name(void **state)
{
    static const char *const options[] = { "--session-limit", "8M", NULL };
    static datagram d;
    scene s;

    (void)state;
    scene_begin(&s, options, false);
    assert_int_equal(child_run(&s.f, pass_session_limit, NULL), 0);
    await_event(&s, "limit-reached", &d);
    assert_true(datagram_has(&d, "GOALLOC_LIMIT", "session-limit"));
    assert_non_null(strstr(datagram_value(&d, "MESSAGE"), "limit session-limit is reached, "));
    scene_end(&s);
    assert_int_equal(*seen_of(&s, "limit-reached"), 1);
    assert_int_equal(*seen_of(&s, "refused-more"), 1);
}

/* --- a reload --- */

static void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "we");

    assert_non_null(file);
    assert_true(fputs(text, file) >= 0 && fclose(file) == 0);
}

static void reload_is_a_line_and_a_refused_one_another(void **state)
{
    static const char *const words[] = { "reload", NULL };
    static const char *options[] = { "--config", NULL, NULL };
    static datagram d;
    fixture place;
    char path[128];
    char out[1024];
    scene s;

    (void)state;
    fixture_make_place(&place);
    (void)snprintf(path, sizeof(path), "%s/conf", place.dir);
    write_file(path, "");
    options[1] = path;
    scene_begin(&s, options, false);
    write_file(path, "[memory]\nmemory-limit = 1G\n");
    assert_int_equal(fixture_ctl(&s.f, words, out, sizeof(out)), 0);
    await_event(&s, "reloaded", &d);
    assert_true(datagram_has(&d, "PRIORITY", "6"));
    write_file(path, "[memory]\nmemory-limit = much\n");
    assert_int_not_equal(fixture_ctl(&s.f, words, out, sizeof(out)), 0);
    await_event(&s, "reload-refused", &d);
    assert_true(datagram_has(&d, "PRIORITY", "3"));
    scene_end(&s);
    assert_int_equal(*seen_of(&s, "reloaded"), 1);
    assert_int_equal(*seen_of(&s, "reload-refused"), 1);
}

/* --- a journal in trouble --- */

/* Each costs its connection, and is a line. */
static void violate(const fixture *f)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Ping body = GOALLOCD__PING__INIT;
    int fd = raw_connect(f);

    request.op_case = GOALLOCD__REQUEST__OP_PING; /* without an id */
    request.ping = &body;
    assert_null(raw_call(fd, &request));
    (void)close(fd);
}

/* The daemon is confined by then: it must still be allowed what it takes to find the new socket. */
static void journal_that_is_started_anew_is_found_by_a_confined_daemon(void **state)
{
    static datagram d;
    scene s;

    (void)state;
    scene_begin(&s, NULL, false);
    await_event(&s, "started", &d);
    drain(&s);
    (void)close(s.fd);
    assert_int_equal(unlink(s.path), 0);
    violate(&s.f);
    s.fd = journal_make(s.path);
    assert_true(s.fd >= 0);
    await_event(&s, "client-violation", &d);
    assert_non_null(strstr(datagram_value(&d, "MESSAGE"), "disconnected: a request without an id"));
    assert_int_equal(*seen_of(&s, "client-violation"), 1);
    scene_end(&s);
}

static void journal_that_does_not_read_stops_nobody(void **state)
{
    static datagram d;
    unsigned nleft_out = 0;
    scene s;

    (void)state;
    scene_begin(&s, NULL, false);
    for (unsigned i = 0; i < 300; i++)
        violate(&s.f);
    assert_int_equal(child_run(&s.f, come_and_go, NULL), 0);
    assert_true(fixture_is_whole(&s.f));
    await_event(&s, "session-ended", &d);
    while (*seen_of(&s, "client-violation") + nleft_out < 300) { /* those above a user's quota are counted */
        assert_true(next(&s, PATIENCE_MS, &d));
        if (datagram_has(&d, "GOALLOC_EVENT", "lines-left-out"))
            nleft_out += (unsigned)atoi(strstr(datagram_value(&d, "MESSAGE"), ": ") + 2);
    }
    assert_int_equal(*seen_of(&s, "client-violation") + nleft_out, 300);
    scene_end(&s);
}

/* It ends in time though the journal takes nothing. */
static void daemon_whose_journal_is_gone_ends(void **state)
{
    scene s;

    (void)state;
    scene_begin(&s, NULL, false);
    (void)close(s.fd);
    assert_int_equal(unlink(s.path), 0);
    for (unsigned i = 0; i < 20; i++)
        violate(&s.f);
    assert_true(fixture_stop(&s.f));
    (void)close(s.silence);
    (void)close(s.f.log_fd);
    (void)unsetenv("JOURNAL_STREAM");
    (void)unsetenv("GOALLOC_JOURNAL_SOCKET");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(start_death_and_stop_have_a_line_each),
        cmocka_unit_test(takeover_is_another_line_than_a_new_heap),
        cmocka_unit_test(full_arena_is_a_line_at_once_and_one_at_the_end),
        cmocka_unit_test(limit_that_refuses_is_a_line_with_its_name),
        cmocka_unit_test(reload_is_a_line_and_a_refused_one_another),
        cmocka_unit_test(journal_that_is_started_anew_is_found_by_a_confined_daemon),
        cmocka_unit_test(journal_that_does_not_read_stops_nobody),
        cmocka_unit_test(daemon_whose_journal_is_gone_ends),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
