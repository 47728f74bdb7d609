/*
 * Connections, as the daemon sees them: nothing of one is left when it is gone, however it went.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(ping_of_a_session_that_does_not_read_leaves_no_peer),
    };

    return cmocka_run_group_tests_name("connections in the daemon", tests, NULL, NULL);
}
