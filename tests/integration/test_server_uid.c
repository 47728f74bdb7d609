/*
 * Who serves the socket: the library talks to root, its own user, the owner of the socket's directory if nobody else
 * may write there, and whom the environment names. Needs root, to be several users.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "tests/support/waits.h"

#define STRANGER 65533u
#define CALLER   65532u
#define TIMEOUT_MS 200 /* for the cases in which the library is to talk to who never says a word */

typedef struct row {
    const char *what;
    uid_t server;
    uid_t client;
    uid_t dir_owner;
    mode_t dir_mode;
    const char *configured; /* NULL: nothing */
    bool trusted;
} row;

static const row rows[] = {
    { "root", 0, CALLER, CALLER, 0777, NULL, true },
    { "itself", CALLER, CALLER, 0, 0777, NULL, true },
    { "a stranger", STRANGER, CALLER, 0, 0777, NULL, false },
    { "a stranger, to root", STRANGER, 0, 0, 0777, NULL, false },
    { "the directory's owner", STRANGER, CALLER, STRANGER, 0755, NULL, true },
    { "the directory's owner, beside a group", STRANGER, CALLER, STRANGER, 0775, NULL, false },
    { "the directory's owner, beside all", STRANGER, CALLER, STRANGER, 0757, NULL, false },
    { "a stranger that is named", STRANGER, CALLER, 0, 0777, "65533", true },
    { "another one than is named", STRANGER, CALLER, 0, 0777, "65531", false },
    { "a stranger, and nonsense is named", STRANGER, CALLER, 0, 0777, "65533x", false },
    { "a stranger, and nobody is named", STRANGER, CALLER, 0, 0777, "", false },
};

/* A listener of that user's, which never says a word. It ends with the test. */
static pid_t serve(const char *path, uid_t uid)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int ready[2];
    pid_t pid;
    char c;

    assert_int_equal(pipe(ready), 0);
    pid = fork();
    if (pid == 0) {
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);

        (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
        CHECK(setgid(uid) == 0 && setuid(uid) == 0 && prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
        (void)umask(0);
        CHECK(bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) == 0 && listen(fd, 5) == 0);
        CHECK(write(ready[1], "r", 1) == 1);
        for (;;)
            (void)pause();
    }
    (void)close(ready[1]);
    assert_int_equal(read(ready[0], &c, 1), 1);
    (void)close(ready[0]);
    return pid;
}

typedef struct attempt {
    const row *row;
    const char *path;
} attempt;

static int attach_as(const fixture *f, void *arg)
{
    const attempt *a = arg;
    goalloc_options options = GOALLOC_OPTIONS_INIT;
    int r;

    (void)f;
    if (a->row->configured != NULL)
        CHECK(setenv("GOALLOC_SERVER_UID", a->row->configured, 1) == 0);
    CHECK(setgid(a->row->client) == 0 && setuid(a->row->client) == 0);
    options.socket_path = a->path;
    options.timeout_ms = TIMEOUT_MS;
    r = goalloc_attach(&options);
    if (r == (a->row->trusted ? -ETIMEDOUT : -EPERM) &&
        (strstr(goalloc_attach_error(), "GOALLOC_SERVER_UID") != NULL) == !a->row->trusted &&
        strstr(goalloc_attach_error(), a->path) != NULL)
        return 0;
    (void)fprintf(stderr, "served by %s: %d, %s\n", a->row->what, r, goalloc_attach_error());
    return 1;
}

static void attach_to_a_stranger_is_refused(void **state)
{
    fixture f;

    (void)state;
    if (geteuid() != 0)
        skip();
    fixture_make_place(&f);
    assert_int_equal(chmod(f.dir, 0755), 0);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char dir[96];
        char path[104];
        pid_t server;

        (void)snprintf(dir, sizeof(dir), "%s/%zu", f.dir, i);
        (void)snprintf(path, sizeof(path), "%s/s", dir);
        assert_int_equal(mkdir(dir, 0700), 0);
        assert_int_equal(chmod(dir, 0777), 0);
        server = serve(path, rows[i].server);
        assert_int_equal(chown(dir, rows[i].dir_owner, 0), 0);
        assert_int_equal(chmod(dir, rows[i].dir_mode), 0);
        assert_int_equal(child_run(&f, attach_as, &(attempt){ &rows[i], path }), 0);
        assert_int_equal(kill(server, SIGKILL), 0);
        assert_int_equal(child_wait(server), 1000 + SIGKILL);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(rmdir(dir), 0);
    }
}

/* Come back to a session when a stranger serves the socket: it gets no token. */
static int come_back(const fixture *f, void *arg)
{
    void *p;

    (void)arg;
    CHECK(setgid(CALLER) == 0 && setuid(CALLER) == 0);
    waits_start(f, 2000);
    CHECK(goalloc_malloc(10) != NULL);
    (void)raise(SIGSTOP);
    errno = 0;
    CHECK(waits_ask() == NULL && errno == EPERM);
    CHECK(goalloc_root_get("attached", &p) == -EPERM && goalloc_event_fd() < 0);
    return 0;
}

static void comeback_to_a_stranger_is_refused(void **state)
{
    fixture *f = *state;
    int status;
    pid_t client;
    pid_t server;

    if (geteuid() != 0)
        skip();
    assert_int_equal(chmod(f->dir, 0777), 0);
    assert_int_equal(chmod(f->socket, 0777), 0);
    client = child_start(f, come_back, NULL);
    assert_int_equal(waitpid(client, &status, WUNTRACED), client);
    assert_true(WIFSTOPPED(status));
    fixture_kill(f);
    assert_int_equal(unlink(f->socket), 0);
    server = serve(f->socket, STRANGER);
    assert_int_equal(kill(client, SIGCONT), 0);
    assert_int_equal(child_wait(client), 0);
    assert_int_equal(kill(server, SIGKILL), 0);
    assert_int_equal(child_wait(server), 1000 + SIGKILL);
    assert_int_equal(unlink(f->socket), 0);
    fixture_restart(f, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attach_to_a_stranger_is_refused),
        FIXTURE_TEST_KEPT(comeback_to_a_stranger_is_refused),
    };

    return cmocka_run_group_tests_name("who serves the socket", tests, NULL, NULL);
}
