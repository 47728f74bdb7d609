/*
 * Descriptors that a client was sent and does not receive. The kernel counts them on the daemon's user, and lets the
 * daemon send none when there are too many: that one user's clients receive none must be nobody else's loss.
 *
 * The user who receives none is another one than the daemon's, which only root can have in a test: else these are
 * skipped.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proto/layout.h"
#include "tests/support/other.h"
#include "tests/support/rawheap.h"
#include "tests/support/waits.h"

#define IN_FLIGHT_MOST 3000u /* descriptors in sockets that the daemon's user may have; other tests have some hundred */
#define CONNECTIONS    700
#define ROUNDS         8 /* attaches and detaches on one connection */

/* --- who does not receive --- */

static void ask(int fd, Goallocd__Request *request)
{
    uint8_t frame[1024];
    size_t len;

    request->id = 1;
    len = frame_pack(&request->base, frame, sizeof(frame));
    CHECK(len > 0 && send(fd, frame, len, MSG_NOSIGNAL) == (ssize_t)len);
}

static void ask_to_attach(int fd)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Attach body = rawheap_attach_init();

    request.op_case = GOALLOCD__REQUEST__OP_ATTACH;
    request.attach = &body;
    ask(fd, &request);
}

static void ask_to_detach(int fd)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Detach body = GOALLOCD__DETACH__INIT;

    request.op_case = GOALLOCD__REQUEST__OP_DETACH;
    request.detach = &body;
    ask(fd, &request);
}

/* Sessions whose processes never hear that they have them. */
static void attach_unheard(const fixture *f)
{
    for (int i = 0; i < CONNECTIONS; i++)
        ask_to_attach(raw_connect(f));
    (void)usleep(200000);
}

/* The same on one connection, again and again. */
static void attach_and_detach_unheard(const fixture *f)
{
    for (int i = 0; i < CONNECTIONS / 7; i++) {
        int fd = raw_connect(f);

        for (int round = 0; round < ROUNDS; round++) {
            ask_to_attach(fd);
            ask_to_detach(fd);
        }
    }
    (void)usleep(200000);
}

/* The daemon closes its end; the reply stays in the client's socket. */
static void be_disconnected_unheard(const fixture *f)
{
    for (int i = 0; i < CONNECTIONS; i++) {
        int fd = raw_connect(f);

        ask_to_attach(fd);
        ask_to_detach(fd);
        (void)send(fd, "\1\0\0\0\377", 5, MSG_NOSIGNAL); /* no request */
    }
    (void)usleep(200000);
}

/* --- the others --- */

static void others_attach_beside(void (*taker)(const fixture *f))
{
    fixture f;
    other o;

    fixture_start_with_limit(&f, NULL, IN_FLIGHT_MOST);
    o = other_start_beside_third(&f, taker);
    assert_in_range(limit_of_other(&f, "uid-unread", "used"), 6, IN_FLIGHT_MOST / 2);
    other_end(&o);
    assert_int_equal(child_run(&f, attach_as_third, NULL), 0);
    assert_true(fixture_is_clean(&f, 2));
    assert_true(fixture_stop(&f));
}

static void replies_that_nobody_reads_keep_nobody_else_from_attaching(void **state)
{
    (void)state;
    others_attach_beside(attach_unheard);
}

static void replies_of_one_connection_keep_nobody_else_from_attaching(void **state)
{
    (void)state;
    others_attach_beside(attach_and_detach_unheard);
}

static void replies_in_closed_connections_keep_nobody_else_from_attaching(void **state)
{
    (void)state;
    others_attach_beside(be_disconnected_unheard);
}

/* --- what is counted --- */

static int attach_and_wait(const fixture *f, void *arg)
{
    (void)arg;
    become_other();
    must_attach(f, 0);
    (void)raise(SIGSTOP);
    return goalloc_detach();
}

/* More processes than may leave their replies unread attach one after the other: all of them read. */
static void who_reads_is_not_limited(void **state)
{
    const fixture *f = *state;
    pid_t pids[8];

    if (!can_be_other(f))
        skip();
    for (int i = 0; i < 8; i++)
        pids[i] = child_start_stopped(f, attach_and_wait, NULL);
    for (int i = 0; i < 8; i++) {
        (void)kill(pids[i], SIGCONT);
        assert_int_equal(child_wait(pids[i]), 0);
    }
    assert_true(fixture_is_clean(f, 0));
}

static void not_read_yet(const fixture *f)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Attach body = rawheap_attach_init();
    Goallocd__Reply *reply;
    int unread[3];
    int more = raw_connect(f);

    for (int i = 0; i < 3; i++) {
        unread[i] = raw_connect(f);
        ask_to_attach(unread[i]);
        CHECK(poll(&(struct pollfd){ .fd = unread[i], .events = POLLIN }, 1, 10000) == 1);
    }
    request.id = 1;
    request.op_case = GOALLOCD__REQUEST__OP_ATTACH;
    request.attach = &body;
    reply = raw_call(more, &request);
    CHECK(reply != NULL && reply->error == EDQUOT && strstr(reply->message, "uid-unread") != NULL);
    goallocd__reply__free_unpacked(reply, NULL);
    CHECK(close(unread[0]) == 0);
    reply = raw_call(more, &request);
    CHECK(reply != NULL && reply->error == 0);
    goallocd__reply__free_unpacked(reply, NULL);
}

static void who_does_not_read_is_told_at_the_limit(void **state)
{
    const fixture *f = *state;
    other o;

    if (!can_be_other(f))
        skip();
    o = other_start(f, not_read_yet);
    assert_int_equal(limit_of_other(f, "uid-unread", "refused"), 1);
    other_end(&o);
    assert_true(fixture_is_clean(f, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replies_that_nobody_reads_keep_nobody_else_from_attaching),
        cmocka_unit_test(replies_of_one_connection_keep_nobody_else_from_attaching),
        cmocka_unit_test(replies_in_closed_connections_keep_nobody_else_from_attaching),
        FIXTURE_TEST_WITH(who_reads_is_not_limited, "--uid-unread=16"),
        FIXTURE_TEST_WITH(who_does_not_read_is_told_at_the_limit, "--uid-unread=16"),
    };

    return cmocka_run_group_tests_name("descriptors that are not received", tests, NULL, NULL);
}
