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

#define TRIM_REQUESTS 30000u /* a notice and a reply each, of 6 bytes: more than the 256 KiB that wait for a client */

/* Send all, or until the daemon disconnects. */
static void send_all(int fd, const uint8_t *data, size_t len)
{
    while (len > 0) {
        struct pollfd pfd = { .fd = fd, .events = POLLOUT };
        ssize_t n = poll(&pfd, 1, 10000) == 1 ? send(fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT) : -1;

        if (n < 0 && errno != EAGAIN)
            return;
        data += n > 0 ? n : 0;
        len -= n > 0 ? (size_t)n : 0;
    }
}

/* Wait, without reading, until the daemon has closed the connection. */
static bool is_hung_up(int fd)
{
    struct pollfd pfd = { .fd = fd, .events = POLLRDHUP };

    return poll(&pfd, 1, 60000) == 1;
}

/* A frame with a Trim, or with a return of nothing: its reply shifts what follows by 6 bytes. */
static size_t small_request(uint8_t *buf, bool trim)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Trim ask = GOALLOCD__TRIM__INIT;
    Goallocd__ReturnSpans nothing = GOALLOCD__RETURN_SPANS__INIT;

    request.id = 1;
    request.op_case = trim ? GOALLOCD__REQUEST__OP_TRIM : GOALLOCD__REQUEST__OP_RETURN_SPANS;
    if (trim)
        request.trim = &ask;
    else
        request.return_spans = &nothing;
    return frame_pack(&request.base, buf, 64);
}

/*
 * Each Trim sends the session a notice first and the reply when it is done. One of the two is the first one too many:
 * the notice to the requester itself on the way to making it wait, on one of two connections that are 6 bytes apart.
 */
static void trim_of_a_session_that_does_not_read_leaves_no_peer(void **state)
{
    const fixture *f = *state;
    static uint8_t out[TRIM_REQUESTS * 16];

    for (int shift = 0; shift < 4; shift++) {
        int fd = raw_attach(f);
        size_t len = 0;

        for (int i = 0; i < shift; i++)
            len += small_request(out + len, false);
        for (unsigned i = 0; i < TRIM_REQUESTS; i++)
            len += small_request(out + len, true);
        send_all(fd, out, len);
        assert_true(is_hung_up(fd));
        (void)close(fd);
        assert_true(fixture_is_whole(f));
    }
    assert_true(fixture_is_clean(f, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(trim_of_a_session_that_does_not_read_leaves_no_peer),
    };

    return cmocka_run_group_tests_name("connections in the daemon", tests, NULL, NULL);
}
