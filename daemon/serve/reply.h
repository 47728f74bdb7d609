/*
 * Reply: what handlers answer: done, or an errno and a sentence, or a message of their own.
 */
#ifndef GOALLOC_DAEMON_SERVE_REPLY_H
#define GOALLOC_DAEMON_SERVE_REPLY_H

#include "daemon/log.h"
#include "daemon/serve/peer.h"

/* What a handler leaves to be sent: a positive errno and a sentence, or 0: done. */
typedef struct answer {
    int error;
    const char *message;
} answer;

#define ANSWER_DONE  ((answer){ 0, NULL })
#define ANSWER_GIVEN ((answer){ -1, NULL }) /* nothing: it has replied, or will, or has disconnected the client */

static inline Goallocd__Reply reply_init(uint64_t id)
{
    Goallocd__Reply reply = GOALLOCD__REPLY__INIT;

    reply.id = id;
    return reply;
}

/* body is the member of the union in a Reply that result_case says; all of its members are pointers. */
static inline answer reply_body(peer *p, uint64_t id, Goallocd__Reply__ResultCase result_case, void *body)
{
    Goallocd__Reply reply = reply_init(id);

    reply.result_case = result_case;
    reply.attach = body;
    peer_reply(p, &reply);
    return ANSWER_GIVEN;
}

/* Send an answer, not ANSWER_GIVEN. A request without an id (ReturnSpans and FreeLarge may have none) gets nothing. */
static inline void reply_answer(peer *p, uint64_t id, answer a)
{
    Goallocd__Reply reply = reply_init(id);

    if (a.error != 0) {
        const log_subject subject = peer_subject(p);

        log_client_debug(&subject, "%s", a.message);
        reply.error = a.error;
        reply.message = (char *)(uintptr_t)a.message;
    }
    if (id != 0)
        peer_reply(p, &reply);
}

#endif
