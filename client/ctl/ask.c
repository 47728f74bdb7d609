/*
 * Ask: goallocctl's one connection to a daemon.
 *
 * Called by the driver (goallocctl.c), top and watch. A request is sent when the one before is answered, so the
 * connection never holds more than one reply. Replies are unpacked into one buffer, where each takes the place of the
 * one before. After anything but an answer of the daemon's the connection is closed: what is left in it would be taken
 * for the answer to the next request.
 */
#include "client/ctl/ask.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "client/ctl/ctl.h"
#include "proto/wire.h"

/* Unpacked, a list of roots with short names is 14 times as long as its frame. */
#define REPLY_BYTES_MAX (32u * FRAME_PAYLOAD_MAX)

/* Of the last request that has failed. */
static struct {
    int error;   /* -errno: nothing was answered. 0: what was answered is no reply to it */
    int refused; /* the errno that the daemon has answered */
    char message[512];
} failure;

static channel ch = { .fd = -1 };

const Goallocd__Reply *ask(const asker *who, Goallocd__Request *request, Goallocd__Reply__ResultCase kind)
{
    static uint8_t out[FRAME_BYTES_MAX];
    static _Alignas(16) uint8_t memory[REPLY_BYTES_MAX];
    const uint8_t *payload;
    const Goallocd__Reply *reply;
    frame_bump bump;
    size_t len;
    int r = ch.fd >= 0 ? 0 : channel_connect(&ch, who->socket_path, who->until);

    failure.refused = 0;
    request->id = 1;
    channel_close_fds(&ch); /* of the reply before, if nobody has taken them */
    if (r == 0)
        r = channel_send(&ch, out, frame_pack(&request->base, out, sizeof(out)), who->until);
    if (r == 0)
        r = channel_recv(&ch, &payload, &len, who->until);
    failure.error = r;
    if (r < 0) {
        channel_close(&ch);
        return NULL;
    }
    frame_bump_init(&bump, memory, sizeof(memory));
    reply = wire_unpack_reply(&bump, payload, len);
    channel_drop_frame(&ch);
    if (reply != NULL && reply->error == 0 && reply->result_case == kind)
        return reply;
    if (reply == NULL || reply->error == 0) {
        channel_close(&ch);
        return NULL;
    }
    failure.refused = reply->error;
    (void)snprintf(failure.message, sizeof(failure.message), "%s", reply->message);
    return NULL;
}

int ask_refused(void)
{
    return failure.refused;
}

bool ask_take_fds(int *ret, int n)
{
    if (ch.nfds != n)
        return false;
    memcpy(ret, ch.fds, (size_t)n * sizeof(*ret));
    ch.nfds = 0;
    return true;
}

static bool is_absent(int error)
{
    return error == -ECONNREFUSED || error == -ENOENT;
}

bool ask_may_come_back(void)
{
    return is_absent(failure.error) || failure.error == -ECONNRESET || failure.error == -EPIPE ||
           failure.error == -ETIMEDOUT || failure.error == -EAGAIN;
}

const char *ask_failure_text(const asker *who)
{
    static char text[1024];
    const char *why = failure.refused != 0                 ? failure.message
                      : failure.error == 0                 ? "the answer was not understood"
                      : failure.error == -ECONNREFUSED     ? "no daemon serves this socket"
                      : failure.error == -ECONNRESET       ? "the daemon has closed the connection"
                                                           : strerror(-failure.error);

    if (failure.error == -ETIMEDOUT)
        (void)snprintf(text, sizeof(text), "%s: the daemon did not answer within %g s", who->socket_path,
                       who->timeout_ms / 1000.0);
    else
        (void)snprintf(text, sizeof(text), "%s: %s", who->socket_path, why);
    return text;
}

int ask_failed(const asker *who)
{
    enum ctl_error why = failure.refused != 0               ? CTL_E_REFUSED
                         : failure.error == 0               ? CTL_E_NOT_UNDERSTOOD
                         : is_absent(failure.error)         ? CTL_E_NO_DAEMON
                         : failure.error == -ETIMEDOUT      ? CTL_E_TIMEOUT
                                                            : CTL_E_CONNECTION;

    return ctl_fail(why, failure.refused, "%s", ask_failure_text(who));
}
