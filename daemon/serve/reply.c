/*
 * Reply: the answers that all handlers give: done, or an errno and a sentence. Calls peer.
 */
#include "daemon/serve/reply.h"

#include "daemon/log.h"

void reply_ok(peer *p, uint64_t id)
{
    Goallocd__Reply reply = reply_init(id);

    if (id != 0)
        peer_reply(p, &reply);
}

void reply_error(peer *p, uint64_t id, int error, const char *message)
{
    Goallocd__Reply reply = reply_init(id);

    reply.error = error;
    reply.message = (char *)(uintptr_t)message;
    log_debug("client pid %u: %s", p->pid, message);
    if (id != 0)
        peer_reply(p, &reply);
}
