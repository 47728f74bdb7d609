/*
 * Rpc: a request and its reply. Both functions want the turn (link.h).
 */
#ifndef GOALLOC_LIB_RPC_H
#define GOALLOC_LIB_RPC_H

#include "client/lib/link.h"

/*
 * Send a request and wait for its reply. *ret is valid until the next one, and of the kind that belongs to the request.
 * 0, or -errno: what the daemon answered; -ENOTCONN (the connection is gone); -ETIMEDOUT (the reply may come later, and
 * what it brings is given back then); -EPROTO.
 */
int rpc_call(Goallocd__Request *request, Goallocd__Reply **ret, deadline until) __attribute__((warn_unused_result));

/* Look, without waiting, for the reply that did not come in time: 0 (it has come by now), -ETIMEDOUT, -ENOTCONN. */
int rpc_look_for_late_reply(void) __attribute__((warn_unused_result));

#endif
