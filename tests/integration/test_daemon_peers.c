/*
 * Connections, as the daemon sees them: nothing of one is left when it is gone, however it went.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proto/channel.h"
#include "shm/units.h"
#include "tests/support/attach.h"

/* --- clients that do not read --- */

#define PING_REQUESTS 30000u /* a reply each: more than waits for a client */
#define TAKEN_MS      300    /* the daemon has not read for so long: it waits until replies are read */

/* Send as much as the daemon takes. */
static void send_what_is_taken(int fd, const uint8_t *data, size_t len)
{
    struct pollfd pfd = { .fd = fd, .events = POLLOUT };

    while (len > 0 && poll(&pfd, 1, TAKEN_MS) == 1) {
        ssize_t n = send(fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);

        assert_true(n > 0 || errno == EAGAIN);
        data += n > 0 ? n : 0;
        len -= n > 0 ? (size_t)n : 0;
    }
}

/*
 * A frame with a Ping, or with a return of nothing: its reply shifts what follows by 6 bytes. (Of Trims the daemon
 * answers one a second.)
 */
static size_t small_request(uint8_t *buf, bool ping)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Ping ask = GOALLOCD__PING__INIT;
    Goallocd__ReturnSpans nothing = GOALLOCD__RETURN_SPANS__INIT;

    request.id = 1;
    request.op_case = ping ? GOALLOCD__REQUEST__OP_PING : GOALLOCD__REQUEST__OP_RETURN_SPANS;
    if (ping)
        request.ping = &ask;
    else
        request.return_spans = &nothing;
    return frame_pack(&request.base, buf, 64);
}

/*
 * One of the replies is the first one too many: after it the daemon takes no more requests. What has been answered
 * before it is a little more or less on each of the connections, which end like that.
 */
static void ping_of_a_session_that_does_not_read_leaves_no_peer(void **state)
{
    const fixture *f = *state;
    static uint8_t out[PING_REQUESTS * 16];

    for (int shift = 0; shift < 4; shift++) {
        int fd = raw_attach(f);
        size_t len = 0;

        for (int i = 0; i < shift; i++)
            len += small_request(out + len, false);
        for (unsigned i = 0; i < PING_REQUESTS; i++)
            len += small_request(out + len, true);
        send_what_is_taken(fd, out, len);
        assert_true(fixture_is_whole(f));
        (void)close(fd);
        assert_true(fixture_is_whole(f));
    }
    assert_true(fixture_is_clean(f, 0));
}

/* --- descriptors that can be watched --- */

#define WATCHES      "164" /* 64 for the daemon itself, and a half of the others for connections */
#define NCONNECTIONS 80

/* Who is refused is told, and finds the end behind it. */
static bool is_served(int fd)
{
    uint8_t out[64];
    uint8_t in[256];
    struct pollfd pfd = { .fd = fd, .events = POLLIN };

    if (send(fd, out, small_request(out, true), MSG_NOSIGNAL) < 0 || poll(&pfd, 1, 60000) != 1)
        return false;
    return recv(fd, in, sizeof(in), 0) > 0 && recv(fd, in, sizeof(in), MSG_DONTWAIT) != 0;
}

/* How many of n connections are served, which are all there at once. */
static unsigned count_served(const fixture *f, unsigned n)
{
    int fds[NCONNECTIONS];
    unsigned nserved = 0;

    for (unsigned i = 0; i < n; i++)
        fds[i] = raw_connect(f);
    for (unsigned i = 0; i < n; i++)
        nserved += is_served(fds[i]);
    for (unsigned i = 0; i < n; i++)
        (void)close(fds[i]);
    return nserved;
}

/* In namespaces of its own, where the kernel seems to let a user watch few descriptors. */
static int connect_to_a_daemon_that_can_watch_few(const fixture *outer, void *arg)
{
    static const char path[] = "/proc/sys/fs/epoll/max_user_watches";
    char file[] = "/tmp/goalloc-watches.XXXXXX";
    unsigned nserved;
    fixture f;
    int fd;

    (void)outer;
    (void)arg;
    if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        return 77;
    fd = mkstemp(file);
    CHECK(fd >= 0 && write(fd, WATCHES, strlen(WATCHES)) == (ssize_t)strlen(WATCHES) && close(fd) == 0);
    if (mount(file, path, NULL, MS_BIND, NULL) < 0) {
        (void)unlink(file);
        return 77;
    }
    (void)unlink(file);
    fixture_start(&f, NULL);
    nserved = count_served(&f, NCONNECTIONS);
    CHECK(nserved >= 45 && nserved <= 50);
    for (int i = 0; i < 1000 && nserved != 40; i++) /* the daemon has to see that they have ended */
        nserved = count_served(&f, 40);
    CHECK(nserved == 40);
    return !fixture_stop(&f);
}

static void connections_are_no_more_than_can_be_watched(void **state)
{
    int status = child_run(*state, connect_to_a_daemon_that_can_watch_few, NULL);

    if (status == 77)
        skip();
    assert_int_equal(status, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(ping_of_a_session_that_does_not_read_leaves_no_peer),
        FIXTURE_TEST(connections_are_no_more_than_can_be_watched),
    };

    return cmocka_run_group_tests_name("connections in the daemon", tests, NULL, NULL);
}
