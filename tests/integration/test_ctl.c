/*
 * goallocctl against daemons that do not answer, and with labels that are no text.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

#include "shm/layout.h"
#include "tests/support/objects.h"
#include "tests/support/rawheap.h"

static double now_s(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static int ctl(const fixture *f, const char *first, const char *second, const char *third, char *ret, size_t size)
{
    const char *arguments[] = { first, second, third, "2>&1", NULL, NULL };

    if (third == NULL) {
        arguments[2] = "2>&1";
        arguments[3] = NULL;
    }
    return fixture_ctl(f, arguments, ret, size);
}

/* --- time --- */

static void every_command_ends_in_time_when_the_daemon_has_stopped(void **state)
{
    static const char *const commands[] = { "stats", "sessions", "roots",    "classes", "heap-map",
                                            "check", "ping",     "scavenge", "trim" };
    const fixture *f = *state;
    char out[1024];

    (void)kill(f->daemon, SIGSTOP);
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        double start = now_s();

        assert_int_equal(ctl(f, "--timeout", "200ms", commands[i], out, sizeof(out)), 1);
        assert_true(now_s() - start >= 0.19 && now_s() - start < 4);
        assert_non_null(strstr(out, "did not answer within 0.2 s"));
        assert_non_null(strstr(out, f->socket));
    }
}

/* Also scavenge, which may take longer when the daemon answers. */
static void without_a_timeout_it_is_5_s(void **state)
{
    static const char *const commands[] = { "stats", "scavenge" };
    const fixture *f = *state;
    char out[1024];

    (void)kill(f->daemon, SIGSTOP);
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        double start = now_s();

        assert_int_equal(ctl(f, commands[i], "2>&1", NULL, out, sizeof(out)), 1);
        assert_true(now_s() - start >= 4.9 && now_s() - start < 12);
        assert_non_null(strstr(out, "did not answer within 5 s"));
    }
}

static void a_daemon_that_answers_late_but_in_time_is_waited_for(void **state)
{
    static const char *const times[] = { "30", "30s", "30000ms", "0.5min", "10min" };
    const fixture *f = *state;
    char out[4096];

    for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
        pid_t pid = fork();

        assert_true(pid >= 0);
        (void)kill(f->daemon, SIGSTOP);
        if (pid == 0) {
            (void)usleep(300000);
            (void)kill(f->daemon, SIGCONT);
            _exit(0);
        }
        assert_int_equal(ctl(f, "--timeout", times[i], "scavenge", out, sizeof(out)), 0);
        assert_int_equal(child_wait(pid), 0);
    }
    assert_int_equal(ctl(f, "scavenge", "2>&1", NULL, out, sizeof(out)), 0);
}

static void a_timeout_that_is_none_is_refused(void **state)
{
    static const char *const times[] = { "''",   "s",   "-1",  "0",    "0.1ms", "5h",      "5 s",
                                         "1e99", "nan", "inf", "5sec", "+5",    "99999min" };
    const fixture *f = *state;
    char out[4096];

    for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
        char quoted[32];

        (void)snprintf(quoted, sizeof(quoted), "--timeout='%s'", times[i][0] == '\'' ? "" : times[i]);
        assert_int_equal(ctl(f, quoted, "ping", NULL, out, sizeof(out)), 2);
        assert_non_null(strstr(out, "is no time"));
    }
}

/* --- labels --- */

/* Open a session with the label, and return what goallocctl --json says that it is. */
static void label_shown(const fixture *f, const char *label, char *ret, size_t size)
{
    static const char *const sessions[] = { "--json", "sessions", NULL };
    static const char *const plain[] = { "sessions", NULL };
    static char out[1 << 18];
    rawheap heap;
    json_t *answer;
    json_t *s;
    size_t i;
    unsigned nseen = 0;

    rawheap_open(&heap, f, 0, label);
    assert_int_equal(fixture_ctl(f, sessions, out, sizeof(out)), 0);
    answer = json_loads(out, 0, NULL);
    assert_non_null(answer);
    json_array_foreach(json_object_get(answer, "sessions"), i, s)
    {
        assert_true(json_is_object(s)); /* a row for each, and nothing else */
        if (figure(s, "session") != heap.session || strcmp(json_string_value(json_object_get(s, "state")), "open") != 0)
            continue;
        (void)snprintf(ret, size, "%s", json_string_value(json_object_get(s, "label")));
        nseen++;
    }
    json_decref(answer);
    assert_int_equal(nseen, 1);
    assert_int_equal(fixture_ctl(f, plain, out, sizeof(out)), 0);
    assert_non_null(strstr(out, ret));
    rawheap_close(&heap);
}

static void sessions_shows_every_label_as_text(void **state)
{
#define TEN(x) x x x x x x x x x x
    static const struct {
        const char *label;
        const char *shown;
    } rows[] = {
        { "plain", "plain" },
        { "gr\xc3\xbc\xc3\x9f \xe6\x97\xa5\xe6\x9c\xac \xf0\x9f\x90\x98",
          "gr\xc3\xbc\xc3\x9f \xe6\x97\xa5\xe6\x9c\xac \xf0\x9f\x90\x98" },
        { "latin \xfc\xdf", "latin ??" },
        { "half \xe6\x97", "half ??" },
        { "long form \xc0\xaf", "long form ??" },
        { "surrogate \xed\xa0\x80", "surrogate ???" },
        { "bell\a and \x1b[2J", "bell? and ?[2J" },
        { "del\x7f csi \xc2\x9b"
          "2J nel \xc2\x85",
          "del? csi ?2J nel ?" },
        /* 62 bytes, and then a character of two; of three at 61 */
        { TEN("123456") "12\xc3\xbc", TEN("123456") "12" },
        { TEN("123456") "1\xe6\x97\xa5", TEN("123456") "1" },
        { TEN("123456") "1\xc3\xbc", TEN("123456") "1\xc3\xbc" },
        { TEN("123456") "1234567890", TEN("123456") "123" },
        { "", "" },
    };
    const fixture *f = *state;
    char shown[256];

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        label_shown(f, rows[i].label, shown, sizeof(shown));
        assert_string_equal(shown, rows[i].shown);
    }
}

/* --- a daemon that shows anything --- */

/* Accept one connection after the other on listen_fd and answer each request with one session of that label. */
static void serve_label(int listen_fd, const char *label)
{
    static uint8_t buf[FRAME_BYTES_MAX];
    Goallocd__SessionInfo info = GOALLOCD__SESSION_INFO__INIT;
    Goallocd__SessionInfo *infos[] = { &info };
    Goallocd__SessionListReply list = GOALLOCD__SESSION_LIST_REPLY__INIT;
    Goallocd__Reply reply = GOALLOCD__REPLY__INIT;

    info.session = 7;
    info.label = (char *)(uintptr_t)label;
    list.n_sessions = 1;
    list.sessions = infos;
    reply.id = 1;
    reply.result_case = GOALLOCD__REPLY__RESULT_SESSION_LIST;
    reply.session_list = &list;
    for (;;) {
        int fd = accept(listen_fd, NULL, NULL);
        ssize_t n = recv(fd, buf, sizeof(buf), 0);

        if (n > 0)
            n = send(fd, buf, frame_pack(&reply.base, buf, sizeof(buf)), MSG_NOSIGNAL);
        (void)recv(fd, buf, sizeof(buf), 0); /* until it hangs up */
        (void)close(fd);
    }
}

static void sessions_of_a_daemon_with_any_label_has_its_row(void **state)
{
    static const char *const labels[][2] = { { "half \xe6\x97", "half ??" },
                                             { "\xff\x1b[2J\xfe", "??[2J?" },
                                             { "csi \xc2\x9b ok \xc3\xbc", "csi ? ok \xc3\xbc" } };
    static const char *const json[] = { "--json", "sessions", NULL };
    static const char *const plain[] = { "sessions", NULL };
    static char out[1 << 16];
    fixture fake;
    struct sockaddr_un address = { .sun_family = AF_UNIX };

    (void)state;
    fixture_make_place(&fake);
    memcpy(address.sun_path, fake.socket, sizeof(fake.socket));
    for (size_t i = 0; i < 3; i++) {
        int listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        pid_t pid;
        json_t *answer;
        json_t *row;

        assert_int_equal(bind(listen_fd, (struct sockaddr *)&address, sizeof(address)), 0);
        assert_int_equal(listen(listen_fd, 4), 0);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0)
            serve_label(listen_fd, labels[i][0]);
        assert_int_equal(fixture_ctl(&fake, json, out, sizeof(out)), 0);
        answer = json_loads(out, 0, NULL);
        assert_int_equal(json_array_size(json_object_get(answer, "sessions")), 1);
        row = json_array_get(json_object_get(answer, "sessions"), 0);
        assert_int_equal(figure(row, "session"), 7);
        assert_string_equal(json_string_value(json_object_get(row, "label")), labels[i][1]);
        json_decref(answer);
        assert_int_equal(fixture_ctl(&fake, plain, out, sizeof(out)), 0);
        assert_non_null(strstr(out, labels[i][1]));
        (void)kill(pid, SIGKILL);
        (void)child_wait(pid);
        (void)close(listen_fd);
        (void)unlink(fake.socket);
    }
}

/* --- names of roots --- */

#define LOUD_NAME "csi \xc2\x9b" "2J, del \x7f, bell \a, \xc3\xbc"

static int setting_a_root(const fixture *f, void *arg)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;
    void *p;

    (void)arg;
    options.socket_path = f->socket;
    CHECK(goalloc_attach(&options) == 0 && (p = goalloc_malloc(16)) != NULL);
    CHECK(goalloc_root_set(LOUD_NAME, p) == 0);
    return 0;
}

/* JSON lets DEL and the controls above ASCII stand as they are; a terminal would not. */
static void roots_as_json_has_every_name_without_control_characters(void **state)
{
    static const char *const roots[] = { "--json", "roots", NULL };
    static const char *const plain[] = { "roots", NULL };
    static char out[1 << 16];
    const fixture *f = *state;
    json_t *answer;

    assert_int_equal(child_run(f, setting_a_root, NULL), 0);
    assert_int_equal(fixture_ctl(f, roots, out, sizeof(out)), 0);
    for (const unsigned char *c = (const unsigned char *)out; *c != '\0'; c++)
        assert_false((*c < ' ' && *c != '\n') || *c == 0x7f || (c[0] == 0xc2 && c[1] >= 0x80 && c[1] <= 0x9f));
    answer = json_loads(out, 0, NULL);
    assert_non_null(answer);
    assert_string_equal(json_string_value(json_object_get(json_array_get(json_object_get(answer, "roots"), 0), "name")),
                        LOUD_NAME);
    json_decref(answer);
    assert_int_equal(fixture_ctl(f, plain, out, sizeof(out)), 0);
    assert_non_null(strstr(out, "csi ?2J, del ?, bell ?, \xc3\xbc"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(every_command_ends_in_time_when_the_daemon_has_stopped),
        FIXTURE_TEST(without_a_timeout_it_is_5_s),
        FIXTURE_TEST(a_daemon_that_answers_late_but_in_time_is_waited_for),
        FIXTURE_TEST(a_timeout_that_is_none_is_refused),
        FIXTURE_TEST(sessions_shows_every_label_as_text),
        FIXTURE_TEST(roots_as_json_has_every_name_without_control_characters),
        cmocka_unit_test(sessions_of_a_daemon_with_any_label_has_its_row),
    };

    return cmocka_run_group_tests_name("goallocctl", tests, NULL, NULL);
}
