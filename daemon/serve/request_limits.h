/*
 * Requests about limits.
 */
#ifndef GOALLOC_DAEMON_SERVE_REQUEST_LIMITS_H
#define GOALLOC_DAEMON_SERVE_REQUEST_LIMITS_H

#include "daemon/serve/service.h"

answer handle_limits(client *c, const Goallocd__Request *request);

/* A request for memory was refused since the session, or its user, may not hold more: counted, and said in the log. */
answer limits_refuse_memory(client *c, const session *s);

#endif
