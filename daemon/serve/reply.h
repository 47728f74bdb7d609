/*
 * Reply: the answers that all handlers give: done, or an errno and a sentence.
 */
#ifndef GOALLOC_DAEMON_SERVE_REPLY_H
#define GOALLOC_DAEMON_SERVE_REPLY_H

#include "daemon/log.h"
#include "daemon/serve/peer.h"

static inline Goallocd__Reply reply_init(uint64_t id)
{
    Goallocd__Reply reply = GOALLOCD__REPLY__INIT;

    reply.id = id;
    return reply;
}

/* body is the member of the union in a Reply that result_case says; all of its members are pointers. */
static inline void reply_body(peer *p, uint64_t id, Goallocd__Reply__ResultCase result_case, void *body)
{
    Goallocd__Reply reply = reply_init(id);

    reply.result_case = result_case;
    reply.attach = body;
    peer_reply(p, &reply);
}

/* Nothing is sent to a request without an id (ReturnSpans and FreeLarge may have none). */
static inline void reply_ok(peer *p, uint64_t id)
{
    Goallocd__Reply reply = reply_init(id);

    if (id != 0)
        peer_reply(p, &reply);
}

/* The same. error is a positive errno. */
static inline void reply_error(peer *p, uint64_t id, int error, const char *message)
{
    Goallocd__Reply reply = reply_init(id);

    reply.error = error;
    reply.message = (char *)(uintptr_t)message;
    log_debug("client pid %u: %s", p->pid, message);
    if (id != 0)
        peer_reply(p, &reply);
}

#endif
