/*
 * Rpc: a request and its reply.
 */
#ifndef GOALLOC_LIB_RPC_H
#define GOALLOC_LIB_RPC_H

#include "client/lib/link.h"

/*
 * Send a request and wait for its reply, with the turn. *ret is valid until the next one. 0, or -errno: what the daemon
 * answered; -ENOTCONN (the connection is gone); -ETIMEDOUT (the reply may come later, and what it brings goes back
 * then); -EPROTO.
 */
int rpc_call(Goallocd__Request *request, Goallocd__Reply **ret, deadline until) __attribute__((warn_unused_result));

/* Has the reply that did not come in time come by now? 0, -ETIMEDOUT, -ENOTCONN. Does not wait. */
int rpc_look_for_late_reply(void) __attribute__((warn_unused_result));

#endif
