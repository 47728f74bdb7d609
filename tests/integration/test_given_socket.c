/*
 * A socket that systemd has made and hands over: clients may come before the daemon, and the socket stays systemd's.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "tests/support/attach.h"
#include "tests/support/systemd.h"

#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83
#endif
#define NSTORED 6
#define HEAP    "goalloc-heap" /* the name in systemd's store */

typedef struct place {
    fixture f; /* first */
    systemd sd;
    int fd; /* listens at f.socket, as systemd's does */
} place;

static int make_socket(const char *path, int type, bool listens)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);

    (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)&addr, sizeof(addr)), 0);
    if (listens)
        assert_int_equal(listen(fd, 64), 0);
    return fd;
}

static int setup(void **state)
{
    static place p;

    fixture_make_place(&p.f);
    systemd_start(&p.sd, &p.f);
    p.fd = make_socket(p.f.socket, SOCK_STREAM, true);
    *state = &p;
    return 0;
}

static int teardown(void **state)
{
    place *p = *state;

    (void)unlink(p->f.socket); /* no daemon does */
    systemd_end(&p->sd);
    return fixture_stop(&p->f) ? 0 : -1;
}

/* The daemon serves; it ends when it is told to, and the socket stays. */
static void stop(place *p)
{
    struct stat before;
    struct stat after;

    assert_int_equal(stat(p->f.socket, &before), 0);
    assert_int_equal(kill(p->f.daemon, SIGTERM), 0);
    assert_int_equal(child_wait(p->f.daemon), 0);
    p->f.daemon = 0;
    assert_int_equal(stat(p->f.socket, &after), 0);
    assert_int_equal(before.st_ino, after.st_ino);
}

static int use_heap(const fixture *f, void *arg)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;
    char *p;

    (void)arg;
    options.socket_path = f->socket;
    options.timeout_ms = SYSTEMD_PATIENCE_MS;
    CHECK(goalloc_attach(&options) == 0);
    CHECK((p = goalloc_malloc(100)) != NULL && goalloc_root_set("object", strcpy(p, "kept")) == 0);
    return 0;
}

static int find_object(const fixture *f, void *arg)
{
    void *p;

    (void)arg;
    must_attach(f, 0);
    CHECK(goalloc_root_get("object", &p) == 0 && strcmp(p, "kept") == 0);
    CHECK(goalloc_root_set("object", NULL) == 0 && goalloc_free_checked(p) == 0);
    return 0;
}

/* Somebody waits in the queue of the socket. */
static void await_client(int fd)
{
    struct pollfd poll_fd = { .fd = fd, .events = POLLIN };

    assert_int_equal(poll(&poll_fd, 1, SYSTEMD_PATIENCE_MS), 1);
}

static void client_that_comes_first_is_served(void **state)
{
    place *p = *state;
    char lock[128];
    pid_t child = child_start(&p->f, use_heap, NULL);

    await_client(p->fd);
    systemd_hand_over(&p->sd, p->fd, "goallocd.socket");
    fixture_launch(&p->f);
    assert_int_equal(child_wait(child), 0);
    assert_int_equal(child_run(&p->f, find_object, NULL), 0);
    stop(p);
    (void)snprintf(lock, sizeof(lock), "%s.lock", p->f.socket);
    assert_int_equal(access(lock, F_OK), -1);
}

/* The heap's descriptors, as the daemon puts them into the store. */
static void store(place *p, int ret_fds[NSTORED])
{
    char said[256];
    int fds[SYSTEMD_FDS_MAX];
    int nfds = 0;

    while (nfds == 0)
        assert_true(systemd_hear(&p->sd, said, sizeof(said), fds, &nfds, SYSTEMD_PATIENCE_MS));
    assert_non_null(strstr(said, "FDNAME=" HEAP));
    assert_int_equal(nfds, NSTORED);
    memcpy(ret_fds, fds, sizeof(int) * NSTORED);
}

static void heap_and_socket_are_told_apart_in_any_order(void **state)
{
    place *p = *state;
    int stored[NSTORED];

    systemd_hand_over(&p->sd, p->fd, "goallocd.socket");
    fixture_launch(&p->f);
    store(p, stored);
    assert_int_equal(child_run(&p->f, use_heap, NULL), 0);
    for (int socket_at = 0; socket_at <= NSTORED; socket_at += NSTORED / 2) {
        fixture_kill(&p->f);
        p->sd.nfds = 0;
        for (int i = 0; i <= NSTORED; i++) {
            if (i == socket_at)
                systemd_hand_over(&p->sd, p->fd, "anything");
            if (i < NSTORED)
                systemd_hand_over(&p->sd, stored[(i + socket_at) % NSTORED], HEAP);
        }
        fixture_restart(&p->f, NULL);
        assert_true(fixture_log_has(&p->f, "took over heap"));
    }
    assert_int_equal(child_run(&p->f, find_object, NULL), 0);
    stop(p);
    for (int i = 0; i < NSTORED; i++)
        (void)close(stored[i]);
}

/* A worker stands still while the daemon is away, and does not see that its connection went into a queue. */
static int wait_for_daemon(const fixture *f, void *arg)
{
    const int *fds = arg; /* a byte goes out when it has attached, and one comes in when the daemon is gone */
    goalloc_options options = GOALLOC_OPTIONS_INIT;
    void *p;
    char c = 'x';

    options.socket_path = f->socket;
    options.timeout_ms = SYSTEMD_PATIENCE_MS;
    CHECK(goalloc_attach(&options) == 0);
    CHECK(write(fds[1], &c, 1) == 1 && read(fds[2], &c, 1) == 1);
    CHECK(goalloc_root_get("object", &p) == -ENOENT); /* a request, which waits */
    CHECK((p = goalloc_malloc(1 << 20)) != NULL);
    goalloc_free(p);
    CHECK(goalloc_is_current() && goalloc_detach() == 0);
    return 0;
}

static void worker_that_comes_back_waits_in_the_queue(void **state)
{
    place *p = *state;
    int stored[NSTORED];
    int fds[4];
    pid_t child;
    char c;

    assert_int_equal(pipe(fds) | pipe(fds + 2), 0);
    systemd_hand_over(&p->sd, p->fd, "goallocd.socket");
    fixture_launch(&p->f);
    store(p, stored);
    child = child_start(&p->f, wait_for_daemon, fds);
    assert_int_equal(read(fds[0], &c, 1), 1);
    fixture_kill(&p->f);
    assert_int_equal(write(fds[3], "x", 1), 1);
    await_client(p->fd);
    for (int i = 0; i < NSTORED; i++)
        systemd_hand_over(&p->sd, stored[i], HEAP);
    fixture_restart(&p->f, NULL);
    assert_int_equal(child_wait(child), 0);
    stop(p);
    for (int i = 0; i < NSTORED; i++)
        (void)close(stored[i]);
    for (int i = 0; i < 4; i++)
        (void)close(fds[i]);
}

static void second_daemon_is_refused(void **state)
{
    place *p = *state;
    fixture other = p->f;

    systemd_hand_over(&p->sd, p->fd, "goallocd.socket");
    fixture_launch(&p->f);
    assert_true(systemd_await(&p->sd, "READY=1"));
    assert_int_equal(fixture_restart_refused(&other, NULL), 1); /* it is given the same socket */
    other.prepare = NULL;
    assert_int_equal(fixture_restart_refused(&other, NULL), 1); /* it would make one of its own */
    assert_true(fixture_log_has(&p->f, "another goallocd, or another program, serves this socket"));
    stop(p);
    assert_int_equal(fixture_restart_refused(&other, NULL), 1); /* no daemon has the lock, but systemd has the socket */
}

static void socket_that_is_none_to_serve_is_refused(void **state)
{
    static const struct {
        int type;
        bool listens;
        int more; /* of the good ones */
        const char *says;
    } rows[] = {
        { SOCK_SEQPACKET, true, 0, "a goallocd serves a Unix socket of streams" },
        { SOCK_DGRAM, false, 0, "a goallocd serves a Unix socket of streams" },
        { SOCK_STREAM, false, 1, "a goallocd serves a Unix socket of streams" },
        { SOCK_STREAM, true, 1, "a goallocd serves one" },
    };
    place *p = *state;

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char path[128];
        int fd;

        (void)snprintf(path, sizeof(path), "%s/%zu", p->f.dir, i);
        fd = make_socket(path, rows[i].type, rows[i].listens);
        p->sd.nfds = 0;
        if (rows[i].more)
            systemd_hand_over(&p->sd, p->fd, "goallocd.socket");
        systemd_hand_over(&p->sd, fd, "other.socket");
        assert_int_equal(fixture_restart_refused(&p->f, NULL), 1);
        assert_true(fixture_log_has(&p->f, rows[i].says));
        assert_int_equal(unlink(p->f.log) | unlink(path) | close(fd), 0);
    }
    p->f.daemon = 0;
}

static void socket_without_a_path_is_refused(void **state)
{
    place *p = *state;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_un unnamed = { .sun_family = AF_UNIX };

    /* The kernel chooses a name. */
    assert_int_equal(bind(fd, (const struct sockaddr *)&unnamed, sizeof(sa_family_t)), 0);
    assert_int_equal(listen(fd, 5), 0);
    systemd_hand_over(&p->sd, fd, "goallocd.socket");
    assert_int_equal(fixture_restart_refused(&p->f, NULL), 1);
    assert_true(fixture_log_has(&p->f, "has no path"));
    p->f.daemon = 0;
    (void)close(fd);
}

/* Nothing is named, a file is among it, nobody has asked for the socket's path, and the lock can't be made. */
static void socket_is_served_wherever_it_is(void **state)
{
    place *p = *state;
    char asked[sizeof(p->f.socket)];
    char lock[128];
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    const char *const options[] = { "--socket", asked, NULL };

    (void)snprintf(asked, sizeof(asked), "%s/asked", p->f.dir);
    (void)snprintf(lock, sizeof(lock), "%s.lock", p->f.socket);
    assert_int_equal(mkdir(lock, 0700), 0);
    p->f.options = options;
    systemd_hand_over(&p->sd, fd, NULL);
    systemd_hand_over(&p->sd, p->fd, NULL);
    fixture_launch(&p->f);
    assert_int_equal(child_run(&p->f, use_heap, NULL), 0);
    assert_int_equal(child_run(&p->f, find_object, NULL), 0);
    assert_true(fixture_log_has(&p->f, "that is served, and not"));
    assert_true(fixture_log_has(&p->f, "going on"));
    assert_true(fixture_log_has(&p->f, "which is no socket: closed"));
    assert_int_equal(access(asked, F_OK), -1);
    stop(p);
    assert_int_equal(rmdir(lock), 0);
    (void)close(fd);
}

/* True if a descriptor could be sent. */
static bool can_send_fd(int fd)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = { .bytes = { 0 } };
    struct iovec data = { .iov_base = (char[]){ 0 }, .iov_len = 1 };
    struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = control.bytes,
                              .msg_controllen = sizeof(control.bytes) };
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);

    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &(int){ STDERR_FILENO }, sizeof(int));
    return sendmsg(fd, &message, MSG_NOSIGNAL) == 1;
}

/* Whoever is in the queue when the first daemon comes may have sent descriptors. Nobody can from then on. */
static void descriptors_in_the_queue_do_no_harm(void **state)
{
    place *p = *state;
    int passes = -1;
    socklen_t len = sizeof(passes);
    int early;

    if (getsockopt(p->fd, SOL_SOCKET, SO_PASSRIGHTS, &passes, &len) < 0)
        skip(); /* before Linux 6.16 */
    early = raw_connect(&p->f);
    assert_true(can_send_fd(early));
    systemd_hand_over(&p->sd, p->fd, "goallocd.socket");
    for (int i = 0; i < 2; i++) { /* the second daemon finds the socket as the first one has left it */
        int late;

        fixture_launch(&p->f);
        assert_true(systemd_await(&p->sd, "READY=1"));
        if (i == 0)
            assert_true(raw_is_closed(early));
        late = raw_connect(&p->f);
        assert_false(can_send_fd(late));
        assert_int_equal(child_run(&p->f, use_heap, NULL), 0);
        assert_int_equal(child_run(&p->f, find_object, NULL), 0);
        (void)close(late);
        stop(p);
        assert_int_equal(getsockopt(p->fd, SOL_SOCKET, SO_PASSRIGHTS, &passes, &len), 0);
        assert_int_equal(passes, 0);
    }
    (void)close(early);
}

/* A daemon that made its own socket ends after systemd has put another one in its place. */
static void socket_of_another_is_not_removed(void **state)
{
    place *p = *state;

    assert_int_equal(unlink(p->f.socket) | close(p->fd), 0);
    fixture_launch(&p->f);
    assert_true(systemd_await(&p->sd, "READY=1"));
    assert_int_equal(unlink(p->f.socket), 0);
    p->fd = make_socket(p->f.socket, SOCK_STREAM, true);
    stop(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(client_that_comes_first_is_served, setup, teardown),
        cmocka_unit_test_setup_teardown(heap_and_socket_are_told_apart_in_any_order, setup, teardown),
        cmocka_unit_test_setup_teardown(worker_that_comes_back_waits_in_the_queue, setup, teardown),
        cmocka_unit_test_setup_teardown(second_daemon_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(socket_that_is_none_to_serve_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(socket_without_a_path_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(socket_is_served_wherever_it_is, setup, teardown),
        cmocka_unit_test_setup_teardown(descriptors_in_the_queue_do_no_harm, setup, teardown),
        cmocka_unit_test_setup_teardown(socket_of_another_is_not_removed, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
