/*
 * Reply: the answers that all handlers give.
 */
#ifndef GOALLOC_DAEMON_SERVE_REPLY_H
#define GOALLOC_DAEMON_SERVE_REPLY_H

#include "daemon/serve/peer.h"

static inline Goallocd__Reply reply_init(uint64_t id)
{
    Goallocd__Reply reply = GOALLOCD__REPLY__INIT;

    reply.id = id;
    return reply;
}

/* Both send nothing to a request without an id (ReturnSpans and FreeLarge may have none). error: a positive errno. */
void reply_ok(peer *p, uint64_t id);
void reply_error(peer *p, uint64_t id, int error, const char *message);

#endif
