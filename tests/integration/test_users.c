/*
 * What one user can take of the daemon: connections, sessions, its memory and its time. The others don't notice. (What
 * it can take of the heap: test_user_memory.c.)
 *
 * The user who takes all is another one than the daemon's, which only root can have in a test: else they are skipped.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "proto/channel.h"
#include "proto/layout.h"
#include "shm/layout.h"
#include "tests/support/attach.h"
#include "tests/support/groups.h"
#include "tests/support/other.h"
#include "tests/support/waits.h"

/* --- requests --- */

/* Ask for a Ping. 0, its error, or -1: disconnected. */
static int ping(int fd)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Ping body = GOALLOCD__PING__INIT;
    Goallocd__Reply *reply;
    int error;

    request.id = 1;
    request.op_case = GOALLOCD__REQUEST__OP_PING;
    request.ping = &body;
    reply = raw_call(fd, &request);
    error = reply == NULL ? -1 : reply->error;
    if (reply != NULL)
        goallocd__reply__free_unpacked(reply, NULL);
    return error;
}

/* Somebody else is served. */
static bool serves(const fixture *f)
{
    int fd = raw_connect(f);
    int error = ping(fd);

    (void)close(fd);
    return error == 0;
}

/* Attach by hand. 0, or its error; -1: disconnected. */
static int try_attach(const fixture *f, int *ret_fd)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Attach attach = GOALLOCD__ATTACH__INIT;
    Goallocd__Reply *reply;
    int error;

    attach.protocol = GOALLOC_PROTOCOL;
    attach.layout = layout_tell(&(Goallocd__Layout){ 0 }, version_own());
    attach.label = (char *)(uintptr_t)"other";
    request.id = 1;
    request.op_case = GOALLOCD__REQUEST__OP_ATTACH;
    request.attach = &attach;
    *ret_fd = raw_connect(f);
    reply = raw_call(*ret_fd, &request);
    error = reply == NULL ? -1 : reply->error;
    if (reply != NULL)
        goallocd__reply__free_unpacked(reply, NULL);
    return error;
}

/* --- sessions and connections --- */

static void take_sessions(const fixture *f)
{
    int fd;

    for (int i = 0; i < 5; i++)
        CHECK(try_attach(f, &fd) == 0);
    for (int i = 0; i < 20; i++)
        CHECK(try_attach(f, &fd) == EDQUOT);
}

static void sessions_of_a_user_are_limited_and_others_attach(void **state)
{
    const fixture *f = *state;
    other o;

    if (!can_be_other(f))
        skip();
    o = other_start(f, take_sessions);
    for (int i = 0; i < 10; i++)
        (void)close(raw_attach(f));
    assert_int_equal(limit_of_other(f, "uid-sessions", "used"), 5);
    assert_int_equal(limit_of_other(f, "uid-sessions", "refused"), 20);
    assert_int_equal(count_in_log(f, "(uid 65534): limit uid-sessions is reached, 5 of 5;"), 1);
    other_end(&o);
    assert_true(fixture_is_clean(f, 0));
}

static int lose_session(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    CHECK(close_range(3, ~0u, 0) == 0);
    (void)raise(SIGSTOP);
    for (;;)
        (void)pause();
}

/* Sessions whose connections are closed while their processes live. */
static void lose_sessions(const fixture *f)
{
    pid_t pids[2];
    int error = 0;
    int fd;

    for (int i = 0; i < 2; i++) /* one after the other: one that is refused loses nothing */
        pids[i] = child_start_stopped(f, lose_session, NULL);
    for (int i = 0; i < 1000 && error != EDQUOT; i++) { /* both are lost soon */
        error = try_attach(f, &fd);
        (void)close(fd);
        (void)usleep(10000);
    }
    CHECK(error == EDQUOT);
    for (int i = 0; i < 2; i++)
        CHECK(kill(pids[i], SIGKILL) == 0 && child_wait(pids[i]) >= 0);
}

static void lost_sessions_of_a_user_are_limited(void **state)
{
    const fixture *f = *state;
    other o;

    if (!can_be_other(f))
        skip();
    o = other_start(f, lose_sessions);
    (void)close(raw_attach(f));
    assert_int_equal(count_in_log(f, "limit uid-lost is reached"), 1);
    other_end(&o);
    assert_true(fixture_is_clean(f, 0));
}

static void take_connections(const fixture *f)
{
    int fds[30];
    int nserved = 0;

    for (size_t i = 0; i < 30; i++)
        fds[i] = raw_connect(f);
    for (size_t i = 0; i < 30; i++)
        nserved += ping(fds[i]) == 0;
    CHECK(nserved == 10);
}

static void connections_of_a_user_are_limited_and_others_connect(void **state)
{
    const fixture *f = *state;
    int fds[40];
    other o;

    if (!can_be_other(f))
        skip();
    o = other_start(f, take_connections);
    for (size_t i = 0; i < 40; i++) {
        fds[i] = raw_connect(f);
        assert_int_equal(ping(fds[i]), 0);
    }
    assert_int_equal(limit_of_other(f, "uid-connections", "used"), 10);
    assert_int_equal(limit_of_other(f, "uid-connections", "refused"), 20);
    for (size_t i = 0; i < 40; i++)
        (void)close(fds[i]);
    other_end(&o);
    assert_true(fixture_is_clean(f, 0));
}

/* Two at once, and two more a second. */
static void connect_too_often(const fixture *f)
{
    int64_t begin_ms = waits_now_ms();
    int64_t nserved = 0;
    int64_t most;
    int fds[30];

    for (size_t i = 0; i < 30; i++)
        fds[i] = raw_connect(f);
    for (size_t i = 0; i < 30; i++)
        nserved += ping(fds[i]) == 0;
    most = 2 + (waits_now_ms() - begin_ms) * 2 / 1000 + 1;
    CHECK(nserved >= 2 && nserved <= most);
}

static void new_connections_of_a_user_are_limited_and_others_connect(void **state)
{
    const fixture *f = *state;
    other o;

    if (!can_be_other(f))
        skip();
    o = other_start(f, connect_too_often);
    for (int i = 0; i < 40; i++)
        assert_true(serves(f));
    assert_true(limit_of_other(f, "uid-connects", "refused") > 0);
    other_end(&o);
    assert_true(fixture_is_clean(f, 0));
}

/* The daemon has 64 descriptors, and all come at once. */
static void listener_goes_on_when_descriptors_were_short(void **state)
{
    int fds[200];
    fixture f;

    (void)state;
    fixture_start_with_descriptors(&f, NULL, 64);
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < 200; i++)
            fds[i] = raw_connect(&f);
        assert_true(serves(&f));
        for (size_t i = 0; i < 200; i++)
            (void)close(fds[i]);
        assert_true(serves(&f));
    }
    assert_true(fixture_is_clean(&f, 0));
    assert_true(fixture_stop(&f));
}

static void take_descriptors(const fixture *f)
{
    int fds[120];

    for (size_t i = 0; i < 120; i++) {
        fds[i] = raw_connect(f);
        (void)ping(fds[i]);
    }
}

/* As sessions, of which each takes several. */
static void take_descriptors_of_sessions(const fixture *f)
{
    int nsessions = 0;
    int fd;

    for (int i = 0; i < 60; i++)
        nsessions += try_attach(f, &fd) == 0;
    CHECK(nsessions > 0);
}

/* The daemon has 128 descriptors, which one user takes, as far as it can. */
static void descriptors_are_left_by(void (*taker)(const fixture *f))
{
    fixture f;
    other o;

    fixture_start_with_descriptors(&f, NULL, 128);
    o = other_start_beside_third(&f, taker);
    other_end(&o);
    assert_true(fixture_is_clean(&f, 1));
    assert_true(fixture_stop(&f));
}

static void descriptors_are_left_for_a_third_user(void **state)
{
    (void)state;
    descriptors_are_left_by(take_descriptors);
}

static void descriptors_of_sessions_are_left_for_a_third_user(void **state)
{
    (void)state;
    descriptors_are_left_by(take_descriptors_of_sessions);
}

/* One asks nothing, one sends half a request; a third has asked once. */
static void connection_that_asks_nothing_is_closed(void **state)
{
    const fixture *f = *state;
    int silent = raw_connect(f);
    int half = raw_connect(f);
    int asked = raw_connect(f);
    char byte;

    assert_int_equal(ping(asked), 0);
    assert_int_equal(send(half, "\4\0\0\0\10", 5, MSG_NOSIGNAL), 5);
    for (int i = 0; i < 2; i++) {
        struct pollfd pfd = { .fd = i == 0 ? silent : half, .events = POLLIN };

        assert_int_equal(poll(&pfd, 1, 60000), 1);
        assert_true(recv(pfd.fd, &byte, 1, MSG_DONTWAIT) <= 0);
        (void)close(pfd.fd);
    }
    assert_int_equal(ping(asked), 0);
    (void)close(asked);
    assert_true(fixture_is_clean(f, 0));
}

/* --- buffers --- */

/* Half frames, of which all but a byte is sent: 40 of 60 KiB, and the daemon may have 512 KiB. */
static void send_half_frames(const fixture *f)
{
    static uint8_t frame[60000];
    int nopen = 0;
    int fds[40];

    frame[0] = (uint8_t)(sizeof(frame) - 4);
    frame[1] = (uint8_t)((sizeof(frame) - 4) >> 8);
    for (size_t i = 0; i < 40; i++) {
        fds[i] = raw_connect(f);
        CHECK(ping(fds[i]) == 0);
        for (size_t at = 0; at < sizeof(frame) - 1;) {
            struct pollfd pfd = { .fd = fds[i], .events = POLLOUT };
            ssize_t n = poll(&pfd, 1, 10000) == 1 ? send(fds[i], frame + at, sizeof(frame) - 1 - at, MSG_NOSIGNAL) : -1;

            if (n < 0 && errno != EAGAIN)
                break;
            at += n < 0 ? 0 : (size_t)n;
        }
    }
    CHECK(serves(f));
    for (size_t i = 0; i < 40; i++) {
        struct pollfd pfd = { .fd = fds[i], .events = POLLIN };

        nopen += poll(&pfd, 1, 0) == 0;
    }
    CHECK(nopen > 2 && nopen < 12);
}

static void half_frames_cost_no_more_than_a_users_buffer(void **state)
{
    const fixture *f = *state;
    other o;

    if (!can_be_other(f))
        skip();
    o = other_start(f, send_half_frames);
    assert_in_range(limit_of_other(f, "uid-buffer", "used"), 1, 512 * KIB);
    assert_true(limit_of_other(f, "uid-buffer", "refused") > 20);
    assert_int_equal(count_in_log(f, "limit uid-buffer is reached"), 1);
    assert_true(serves(f));
    other_end(&o);
    assert_true(fixture_is_clean(f, 0));
    assert_true(fixture_is_whole(f));
}

/* Headers of long frames, and few bytes of them, cost few bytes. */
static void announced_frames_cost_what_has_come(void **state)
{
    const fixture *f = *state;
    uint8_t frame[200] = { 0xf0, 0xf0 };
    int fds[100];

    for (size_t i = 0; i < 100; i++) {
        fds[i] = raw_connect(f);
        assert_int_equal(send(fds[i], frame, sizeof(frame), MSG_NOSIGNAL), sizeof(frame));
    }
    assert_true(serves(f));
    for (size_t i = 0; i < 100; i++) {
        struct pollfd pfd = { .fd = fds[i], .events = POLLIN };

        assert_int_equal(poll(&pfd, 1, 0), 0); /* 128 KiB, which the option allows, are enough for all */
        (void)close(fds[i]);
    }
    assert_true(fixture_is_clean(f, 0));
}

/* Thousands of requests at once, one answered in each turn of the loop. */
static void pipelined_requests_take_turns_and_are_answered_in_order(void **state)
{
    enum { NREQUESTS = 3000 };
    const fixture *f = *state;
    static uint8_t out[NREQUESTS * 16];
    static channel ch;
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Ping body = GOALLOCD__PING__INIT;
    size_t used = 0;

    request.op_case = GOALLOCD__REQUEST__OP_PING;
    request.ping = &body;
    for (uint64_t id = 1; id <= NREQUESTS; id++) {
        request.id = id;
        used += frame_pack(&request.base, out + used, sizeof(out) - used);
    }
    assert_int_equal(channel_connect(&ch, f->socket, deadline_in(5000)), 0);
    assert_int_equal(channel_send(&ch, out, used, deadline_in(60000)), 0);
    for (uint64_t id = 1; id <= NREQUESTS; id++) {
        const uint8_t *payload;
        Goallocd__Reply *reply;
        size_t len;

        assert_int_equal(channel_recv(&ch, &payload, &len, deadline_in(10000)), 0);
        reply = goallocd__reply__unpack(NULL, len, payload);
        assert_int_equal(reply->id, id);
        goallocd__reply__free_unpacked(reply, NULL);
        channel_drop_frame(&ch);
    }
    channel_close(&ch);
    assert_true(fixture_is_clean(f, 0));
}

/* --- descriptors --- */

/* A TCP socket with data that its peer does not read, which lingers for a minute when it is closed. *ret_peer: that. */
static int lingering_socket(int *ret_peer)
{
    struct sockaddr_in addr = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    struct linger linger = { .l_onoff = 1, .l_linger = 60 };
    static char data[1 << 16];
    socklen_t len = sizeof(addr);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    assert_int_equal(bind(listener, (const struct sockaddr *)&addr, sizeof(addr)), 0);
    assert_int_equal(listen(listener, 1), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&addr, &len), 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&addr, sizeof(addr)), 0);
    *ret_peer = accept(listener, NULL, NULL);
    (void)close(listener);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)), 0);
    while (send(fd, data, sizeof(data), MSG_DONTWAIT) > 0)
        ;
    return fd;
}

/* Send a byte with fd; oob: out of band. 0, -errno. */
static int send_descriptor(int to, int fd, int oob)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = { .bytes = { 0 } };
    struct iovec iov = { .iov_base = (char[]){ 4 }, .iov_len = 1 };
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
    };
    struct cmsghdr *head = CMSG_FIRSTHDR(&msg);

    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(head), &fd, sizeof(int));
    return sendmsg(to, &msg, MSG_NOSIGNAL | oob) < 0 ? -errno : 0;
}

static void nobody_can_send_descriptors_to_the_daemon(void **state)
{
    const fixture *f = *state;
    int fd = raw_connect(f);
    int peer;
    int socket_fd = lingering_socket(&peer);

    if (fixture_log_has(f, "this kernel lets clients send descriptors")) {
        (void)close(fd);
        (void)close(peer);
        (void)close(socket_fd);
        skip();
    }
    assert_int_equal(send_descriptor(fd, socket_fd, 0), -EPERM);
    assert_int_equal(ping(fd), 0);
    (void)close(fd);
    (void)close(peer);
    (void)close(socket_fd);
}

/* A process that sends a descriptor and ends: the daemon's is the last one. peer: the other end of what lingers. */
static int send_and_end(const fixture *f, void *arg)
{
    unsigned i = *(unsigned *)arg;
    int fd = raw_connect(f);
    int peer;
    int socket_fd = lingering_socket(&peer);

    if (i % 2 == 0)
        CHECK(ping(fd) == 0);
    CHECK(send_descriptor(fd, socket_fd, i % 4 < 2 ? 0 : MSG_OOB) == 0);
    if (i % 3 == 0)
        CHECK(send(fd, "xx", 2, MSG_NOSIGNAL) == 2 || errno == EPIPE); /* it may be disconnected already */
    CHECK(send_descriptor(i % 2 == 0 ? fd : raw_connect(f), peer, 0) <= 0); /* so that the peer stays, too */
    return 0;
}

/* On a kernel that lets them: before and after a request, out of band, and to a connection that is closed next. */
static void descriptors_that_linger_hold_nobody_up(void **state)
{
    fixture f;

    (void)state;
    fixture_preload(OLD_KERNEL_MODULE_PATH);
    fixture_start(&f, NULL);
    fixture_preload(NULL);
    assert_true(fixture_log_has(&f, "this kernel lets clients send descriptors"));
    for (unsigned i = 0; i < 12; i++) {
        assert_int_equal(child_run(&f, send_and_end, &i), 0);
        assert_true(serves(&f));
    }
    assert_true(fixture_is_clean(&f, 0));
    assert_true(fixture_stop(&f));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST_WITH(sessions_of_a_user_are_limited_and_others_attach, "--uid-sessions=5"),
        FIXTURE_TEST_WITH(lost_sessions_of_a_user_are_limited, "--uid-lost=2"),
        FIXTURE_TEST_WITH(connections_of_a_user_are_limited_and_others_connect, "--uid-connections=10"),
        FIXTURE_TEST_WITH(new_connections_of_a_user_are_limited_and_others_connect, "--uid-connects=2"),
        cmocka_unit_test(listener_goes_on_when_descriptors_were_short),
        cmocka_unit_test(descriptors_are_left_for_a_third_user),
        cmocka_unit_test(descriptors_of_sessions_are_left_for_a_third_user),
        FIXTURE_TEST(connection_that_asks_nothing_is_closed),
        FIXTURE_TEST_WITH(half_frames_cost_no_more_than_a_users_buffer, "--uid-buffer=512K"),
        FIXTURE_TEST_WITH(announced_frames_cost_what_has_come, "--buffer=128K"),
        FIXTURE_TEST_WITH(pipelined_requests_take_turns_and_are_answered_in_order, "--pipelined-requests=1"),
        FIXTURE_TEST(nobody_can_send_descriptors_to_the_daemon),
        cmocka_unit_test(descriptors_that_linger_hold_nobody_up),
    };

    return cmocka_run_group_tests_name("what a user can take", tests, NULL, NULL);
}
