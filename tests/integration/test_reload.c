/*
 * The configuration of a daemon that serves: how it starts with files, and what a reload changes, refuses and leaves.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "proto/channel.h"
#include "proto/reload.h"
#include "tests/support/groups.h"

#define ADMINS     "61003"
#define ADMINS_GID 61003u
#define OTHER_UID  61001u
#define ASKERS     32
#define WAIT_MS    60000

static char conf[96]; /* in a directory that all tests of the program share; each writes it anew */
static char hold[112];

static void write_conf(const char *text)
{
    char new[128];
    FILE *file;

    (void)snprintf(new, sizeof(new), "%s.new", conf);
    file = fopen(new, "we");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0 && fclose(file) == 0);
    assert_int_equal(rename(new, conf), 0); /* as editors do */
}

static void write_part(const char *name, const char *text)
{
    char path[160];
    FILE *file;

    (void)snprintf(path, sizeof(path), "%s.d", conf);
    (void)mkdir(path, 0755);
    (void)snprintf(path, sizeof(path), "%s.d/%s", conf, name);
    if (text == NULL) {
        assert_int_equal(unlink(path), 0);
        return;
    }
    file = fopen(path, "we");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0 && fclose(file) == 0);
}

static int program_setup(void **state)
{
    static fixture place;

    (void)state;
    fixture_make_place(&place);
    (void)snprintf(conf, sizeof(conf), "%.80s/c.conf", place.dir);
    (void)snprintf(hold, sizeof(hold), "%s.hold", conf);
    (void)chmod(place.dir, 0755);
    return 0;
}

static int daemon_setup(void **state)
{
    static const char *options[] = { "--config", conf, "--reserve", "256M", NULL };

    write_conf("");
    *state = (void *)(uintptr_t)options;
    return fixture_setup(state);
}

/* Without a look-up of names, whose services open files of their own. */
static int hanging_setup(void **state)
{
    static const char *options[] = { "--config", conf, "--reserve", "256M", "--control-group", "", NULL };
    int r;

    (void)unlink(hold);
    write_conf("");
    fixture_preload(HANG_MODULE_PATH);
    *state = (void *)(uintptr_t)options;
    r = fixture_setup(state);
    fixture_preload(NULL);
    return r;
}

/* Run goallocctl reload: its status, and what it says, errors too. */
static int reload_says(const fixture *f, char *ret, size_t size)
{
    static const char *const words[] = { "--timeout", "60s", "reload", "2>&1", NULL };

    return fixture_ctl(f, words, ret, size);
}

static void must_reload(const fixture *f, const char *text)
{
    char out[4096];

    if (reload_says(f, out, sizeof(out)) != 0 || strstr(out, text) == NULL)
        fail_msg("instead of '%s': %s", text, out);
}

static uint64_t memory_limit(const fixture *f)
{
    static const char *const words[] = { "--json", "stats", NULL };
    static const char field[] = "\"memory_limit_bytes\": ";
    static char out[65536];
    const char *at;

    assert_int_equal(fixture_ctl(f, words, out, sizeof(out)), 0);
    at = strstr(out, field);
    assert_non_null(at);
    return strtoull(at + sizeof(field) - 1, NULL, 10);
}

static bool said_within(const fixture *f, const char *text)
{
    for (int i = 0; i < WAIT_MS / 5; i++, (void)usleep(5000)) {
        if (fixture_log_has(f, text))
            return true;
    }
    return false;
}

/* --- what changes --- */

static void reload_takes_what_has_changed(void **state)
{
    fixture *f = *state;

    must_reload(f, "0 applied, ");
    write_conf("[memory]\nmemory-limit = 100M\n[log]\nscavtrace = yes\n");
    must_reload(f, "applied memory-limit: '0' -> '100M', ");
    assert_int_equal(memory_limit(f), 100 * MIB);
    must_reload(f, "0 applied");
    write_part("1.conf", "[memory]\nmemory-limit = 200M\n");
    must_reload(f, "applied memory-limit: '100M' -> '200M', ");
    write_part("1.conf", NULL);
    write_conf("");
    must_reload(f, "applied memory-limit: '200M' -> '0'\n");
    assert_int_equal(memory_limit(f), 0);
}

static void hangup_reloads(void **state)
{
    fixture *f = *state;

    write_conf("[memory]\nmemory-limit = 100M\n");
    assert_int_equal(kill(f->daemon, SIGHUP), 0);
    assert_true(said_within(f, "the configuration was read again: 1 changed"));
    assert_int_equal(memory_limit(f), 100 * MIB);
}

static void reload_changes_the_limits_of_who_is_there(void **state)
{
    fixture *f = *state;
    void *p;

    assert_int_equal(attach_as(f, 0, "group"), 0);
    p = goalloc_malloc(8 * MIB);
    assert_non_null(p);
    goalloc_free(p);
    for (int i = 0; i < 2; i++) {
        write_conf(i == 0 ? "[limits]\nsession-limit = 4M\n" : "[limits]\ngroup-bytes = 4M\n");
        must_reload(f, "applied ");
        assert_int_equal(goalloc_trim(), 0);
        assert_null(goalloc_malloc(8 * MIB));
        assert_int_equal(errno, EDQUOT);
    }
    write_conf("[memory]\nmax-memory = 1M\n");
    must_reload(f, "applied max-memory: '0' -> '1M'");
    assert_null(goalloc_malloc(8 * MIB));
    assert_int_equal(errno, ENOMEM);
    write_conf("");
    must_reload(f, "applied ");
    p = goalloc_malloc(8 * MIB);
    assert_non_null(p);
    goalloc_free(p);
    assert_int_equal(goalloc_detach(), 0);
}

/* First it may have what it asks for, then its user may not, then again. */
static int allocate_as_other(const fixture *f, void *arg)
{
    (void)arg;
    CHECK(setresuid(OTHER_UID, OTHER_UID, OTHER_UID) == 0 && attach_as(f, 0, NULL) == 0);
    for (int i = 0; i < 3; i++) {
        void *p = goalloc_malloc(8 * MIB);

        CHECK((p != NULL) == (i != 1) && (p != NULL || errno == EDQUOT));
        goalloc_free(p);
        CHECK(goalloc_trim() == 0);
        (void)raise(SIGSTOP);
    }
    return 0;
}

static void reload_changes_the_limits_of_a_user_who_is_there(void **state)
{
    fixture *f = *state;
    int status;
    pid_t pid;

    if (geteuid() != 0)
        skip();
    let_everybody_in(f);
    pid = child_start_stopped(f, allocate_as_other, NULL);
    for (int i = 0; i < 2; i++) {
        write_conf(i == 0 ? "[limits]\nuid-bytes = 4M\n" : "");
        must_reload(f, "applied uid-bytes");
        assert_int_equal(kill(pid, SIGCONT), 0);
        assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
        assert_true(WIFSTOPPED(status));
    }
    assert_int_equal(kill(pid, SIGCONT), 0);
    assert_int_equal(child_wait(pid), 0);
}

static int attach_as_other(const fixture *f, void *arg)
{
    const int *expected = arg;

    CHECK(setresuid(OTHER_UID, OTHER_UID, OTHER_UID) == 0);
    CHECK(attach_as(f, 0, NULL) == *expected);
    return 0;
}

static void reload_changes_who_may_attach(void **state)
{
    static const struct {
        const char *conf;
        int result;
    } steps[] = { { "", 0 }, { "[access]\nallow-uid = 1\n", -EACCES }, { "[access]\nallow-uid = 1,61001\n", 0 },
                  { "[access]\nallow-gid = 1\n", -EACCES }, { "", 0 }, { "[limits]\nuid-sessions = 1\n", 0 } };
    fixture *f = *state;

    if (geteuid() != 0)
        skip();
    let_everybody_in(f);
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        write_conf(steps[i].conf);
        must_reload(f, "");
        assert_int_equal(child_run(f, attach_as_other, (void *)(uintptr_t)&steps[i].result), 0);
    }
}

/* --- what does not --- */

static void reload_of_what_takes_a_restart_refuses_that_alone(void **state)
{
    fixture *f = *state;
    char out[4096];

    write_conf("[goallocd]\nstate-dir = /tmp/x\n[memory]\ncommit = lazy\nmemory-limit = 100M\nreserve = 1G\n");
    for (int i = 0; i < 2; i++) {
        assert_int_equal(reload_says(f, out, sizeof(out)), 1);
        assert_non_null(strstr(out, "refused commit: 'eager' -> 'lazy', "));
        assert_non_null(strstr(out, "refused state-dir: '' -> '/tmp/x', "));
        assert_non_null(strstr(out, i == 0 ? "1 applied, " : "0 applied, "));
        assert_non_null(strstr(out, " unchanged, 2 refused"));
        assert_non_null(strstr(out, "what was refused takes a restart"));
        assert_null(strstr(out, "reserve")); /* the command line says it */
        assert_int_equal(memory_limit(f), 100 * MIB);
    }
    assert_true(fixture_log_has(f, "commit: 'eager' stays; 'lazy'"));
    fixture_kill(f);
    write_conf("[memory]\ncommit = lazy\n");
    fixture_restart(f, NULL);
    write_conf(""); /* no line says it any more */
    assert_int_equal(reload_says(f, out, sizeof(out)), 1);
    assert_true(fixture_log_has(f, "commit: 'lazy' stays; 'eager' (the default) takes a restart"));
}

static void reload_with_a_mistake_changes_nothing(void **state)
{
    fixture *f = *state;
    char out[4096];

    write_conf("[memory]\nmemory-limit = 100M\n");
    must_reload(f, "applied memory-limit");
    write_conf("[memory]\nmemory-limit = 200M\nmax-memory = 7X\n[log]\nscavtrace = yes\nwrong = 1\n");
    assert_int_equal(reload_says(f, out, sizeof(out)), 1);
    assert_non_null(strstr(out, "c.conf:3: max-memory: '7X' is not a size"));
    assert_non_null(strstr(out, "c.conf:6: there is no key 'wrong'"));
    assert_non_null(strstr(out, "nothing has changed"));
    assert_int_equal(memory_limit(f), 100 * MIB);
    assert_true(fixture_log_has(f, "the configuration stays as it was"));
    assert_true(fixture_log_has(f, "c.conf:6: there is no key 'wrong'"));
    assert_int_equal(unlink(conf), 0);
    assert_int_equal(mkfifo(conf, 0644), 0);
    assert_int_equal(reload_says(f, out, sizeof(out)), 1);
    assert_non_null(strstr(out, "it is not a regular file"));
    assert_int_equal(unlink(conf), 0);
    assert_int_equal(reload_says(f, out, sizeof(out)), 1);
    assert_non_null(strstr(out, "No such file"));
    assert_int_equal(memory_limit(f), 100 * MIB);
    write_conf("");
    must_reload(f, "1 applied");
}

static int reload_as_other(const fixture *f, void *arg)
{
    static const gid_t admins = ADMINS_GID;
    char out[1024];

    (void)arg;
    CHECK(setgroups(1, &admins) == 0 && setresuid(OTHER_UID, OTHER_UID, OTHER_UID) == 0);
    CHECK(reload_says(f, out, sizeof(out)) == 1);
    CHECK(strstr(out, "only root and the daemon's user may have the configuration read again") != NULL);
    return 0;
}

static void reload_by_another_user_is_refused(void **state)
{
    fixture *f = *state;

    if (geteuid() != 0)
        skip();
    let_everybody_in(f);
    write_conf("[access]\ncontrol-group = " ADMINS "\n");
    must_reload(f, "applied control-group");
    write_conf("[memory]\nmemory-limit = 100M\n");
    assert_int_equal(child_run(f, reload_as_other, NULL), 0);
    assert_int_equal(memory_limit(f), 0);
}

/* --- the start --- */

static void start_with_a_mistake_is_refused(void **state)
{
    fixture *f = *state;
    char command[256];
    char out[1024];
    FILE *pipe;
    size_t n;

    fixture_kill(f);
    write_conf("[memory]\nwrong = 1\nmemory-limit = 100M\n[memory]\nmax-memory = 1Y\n");
    assert_int_equal(fixture_restart_refused(f, NULL), 2);
    assert_true(fixture_log_has(f, "c.conf:2: there is no key 'wrong'"));
    assert_true(fixture_log_has(f, "c.conf:5: max-memory: '1Y'"));
    for (int i = 0; i < 2; i++) {
        (void)snprintf(command, sizeof(command), "%s --config %s --check-config 2>&1", GOALLOCD_PATH, conf);
        pipe = popen(command, "re");
        assert_non_null(pipe);
        n = fread(out, 1, sizeof(out) - 1, pipe);
        out[n] = '\0';
        assert_int_equal(WEXITSTATUS(pclose(pipe)), i == 0 ? 2 : 0);
        assert_true(i == 0 ? strstr(out, "c.conf:5: max-memory") != NULL : n == 0);
        write_conf("[memory]\nmemory-limit = 100M\n[goallocd]\nsocket = /nowhere/at/all\n");
    }
    fixture_restart(f, "--memory-limit=50M");
    assert_int_equal(memory_limit(f), 50 * MIB);
    must_reload(f, "0 applied"); /* the command line wins */
    fixture_kill(f);
    fixture_restart(f, NULL);
    assert_int_equal(memory_limit(f), 100 * MIB);
}

/* --- many, and while others work --- */

static int connect_and_ask(const fixture *f)
{
    Goallocd__Reload body = GOALLOCD__RELOAD__INIT;
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    uint8_t frame[64];
    int fd = raw_connect(f);
    size_t len;

    request.id = 1;
    request.op_case = GOALLOCD__REQUEST__OP_RELOAD;
    request.reload = &body;
    len = frame_pack(&request.base, frame, sizeof(frame));
    assert_int_equal(send(fd, frame, len, MSG_NOSIGNAL), len);
    return fd;
}

/* True if it is the answer to a reload, with that result for memory-limit. */
static bool is_answered(int fd, enum reload_result expected)
{
    struct pollfd ready = { .fd = fd, .events = POLLIN };
    static uint8_t bytes[FRAME_BYTES_MAX];
    size_t len = 0;
    size_t wanted = 4;
    Goallocd__Reply *reply;
    bool is_right = false;

    while (len < wanted) {
        ssize_t n = poll(&ready, 1, WAIT_MS) == 1 ? read(fd, bytes + len, wanted - len) : -1;

        if (n <= 0)
            return false;
        len += (size_t)n;
        if (len == 4)
            wanted += (size_t)bytes[0] | (size_t)bytes[1] << 8 | (size_t)bytes[2] << 16;
    }
    reply = goallocd__reply__unpack(NULL, wanted - 4, bytes + 4);
    if (reply == NULL || reply->result_case != GOALLOCD__REPLY__RESULT_RELOAD)
        fail_msg("no answer to a reload");
    for (size_t i = 0; i < reply->reload->n_keys; i++) {
        const Goallocd__ReloadKey *key = reply->reload->keys[i];

        is_right = is_right || (strcmp(key->name, "memory-limit") == 0 && key->result == (uint32_t)expected);
    }
    goallocd__reply__free_unpacked(reply, NULL);
    (void)close(fd);
    return is_right;
}

static unsigned times_said(const fixture *f, const char *text)
{
    FILE *log = fopen(f->log, "re");
    char line[512];
    unsigned n = 0;

    assert_non_null(log);
    while (fgets(line, sizeof(line), log) != NULL)
        n += strstr(line, text) != NULL;
    (void)fclose(log);
    return n;
}

/* The first one is being read; all others wait for one more reading, whose files are those of now. */
static void reload_of_many_reads_twice(void **state)
{
    fixture *f = *state;
    int fds[ASKERS];
    int first;

    write_conf("[memory]\nmemory-limit = 100M\n");
    assert_int_equal(mknod(hold, S_IFREG | 0644, 0), 0);
    first = connect_and_ask(f);
    assert_true(said_within(f, "has the configuration read again"));
    for (int i = 0; i < ASKERS; i++)
        fds[i] = connect_and_ask(f);
    for (int i = 0; i < WAIT_MS / 5 && times_said(f, "has the configuration read again") < ASKERS + 1; i++)
        (void)usleep(5000);
    for (int i = 0; i < 10; i++)
        assert_int_equal(kill(f->daemon, SIGHUP), 0);
    for (int i = 0; i < ASKERS; i += 4) { /* who goes away does not matter */
        (void)close(fds[i]);
        fds[i] = -1;
    }
    assert_int_equal(memory_limit(f), 0); /* the loop serves others */
    assert_true(fixture_is_whole(f));
    assert_int_equal(unlink(hold), 0);
    assert_true(is_answered(first, RELOAD_APPLIED));
    for (int i = 0; i < ASKERS; i++)
        assert_true(fds[i] < 0 || is_answered(fds[i], RELOAD_UNCHANGED));
    assert_int_equal(memory_limit(f), 100 * MIB);
    assert_in_range(times_said(f, "the configuration was read again"), 2, 3);
}

/* They go on hanging, or come just when the daemon ends. */
static void stop_while_files_hang_ends_the_daemon(void **state)
{
    fixture *f = *state;

    for (int i = 0; i < 6; i++) {
        int fd;

        assert_int_equal(mknod(hold, S_IFREG | 0644, 0), 0);
        fd = connect_and_ask(f);
        for (int n = 0; n < WAIT_MS / 5 && times_said(f, "has the configuration read again") == 0; n++)
            (void)usleep(5000);
        assert_true(fixture_is_whole(f));
        assert_int_equal(kill(f->daemon, SIGTERM), 0);
        if (i % 2 != 0)
            assert_int_equal(unlink(hold), 0);
        assert_int_equal(child_wait(f->daemon), 0);
        (void)close(fd);
        (void)unlink(hold);
        assert_int_equal(unlink(f->log), 0);
        fixture_preload(HANG_MODULE_PATH);
        fixture_restart(f, NULL);
        fixture_preload(NULL);
    }
}

static void daemon_killed_while_it_reads_starts_with_the_files(void **state)
{
    fixture *f = *state;

    assert_int_equal(mknod(hold, S_IFREG | 0644, 0), 0);
    write_conf("[memory]\nmemory-limit = 100M\n");
    (void)connect_and_ask(f);
    assert_true(said_within(f, "has the configuration read again"));
    fixture_kill(f);
    assert_int_equal(unlink(hold), 0);
    fixture_restart(f, NULL);
    assert_int_equal(memory_limit(f), 100 * MIB);
}

static int work(const fixture *f, void *arg)
{
    int failures = 0;

    (void)arg;
    must_attach(f, 0);
    (void)raise(SIGSTOP);
    for (int i = 0; i < 3000; i++) {
        void *p[16];

        for (int j = 0; j < 16; j++)
            p[j] = goalloc_malloc(j == 0 ? 3 * MIB : 2048);
        for (int j = 0; j < 16; j++) {
            failures += p[j] == NULL;
            goalloc_free(p[j]);
        }
    }
    CHECK(failures == 0);
    CHECK(goalloc_detach() == 0);
    return 0;
}

static void reload_disturbs_nobody_who_works(void **state)
{
    fixture *f = *state;
    pid_t pid = child_start_stopped(f, work, NULL);

    assert_int_equal(kill(pid, SIGCONT), 0);
    for (int i = 0; i < 20; i++) {
        write_conf(i % 2 != 0 ? ""
                              : "[memory]\nmemory-limit = 64M\n[limits]\nsession-limit = 100M\nuid-turn-us = 1ms\n");
        must_reload(f, "3 applied");
    }
    assert_int_equal(child_wait(pid), 0);
    assert_true(fixture_is_clean(f, 0));
}

#define DAEMON_TEST(name)  cmocka_unit_test_setup_teardown(name, daemon_setup, fixture_teardown)
#define HANGING_TEST(name) cmocka_unit_test_setup_teardown(name, hanging_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        DAEMON_TEST(reload_takes_what_has_changed),
        DAEMON_TEST(hangup_reloads),
        DAEMON_TEST(reload_changes_the_limits_of_who_is_there),
        DAEMON_TEST(reload_changes_the_limits_of_a_user_who_is_there),
        DAEMON_TEST(reload_changes_who_may_attach),
        DAEMON_TEST(reload_of_what_takes_a_restart_refuses_that_alone),
        DAEMON_TEST(reload_with_a_mistake_changes_nothing),
        DAEMON_TEST(reload_by_another_user_is_refused),
        DAEMON_TEST(start_with_a_mistake_is_refused),
        HANGING_TEST(reload_of_many_reads_twice),
        HANGING_TEST(stop_while_files_hang_ends_the_daemon),
        HANGING_TEST(daemon_killed_while_it_reads_starts_with_the_files),
        DAEMON_TEST(reload_disturbs_nobody_who_works),
    };

    return cmocka_run_group_tests(tests, program_setup, NULL);
}
