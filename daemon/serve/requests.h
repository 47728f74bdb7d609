/*
 * Requests: what the daemon does for each message.
 */
#ifndef GOALLOC_DAEMON_SERVE_REQUESTS_H
#define GOALLOC_DAEMON_SERVE_REQUESTS_H

#include "daemon/serve/service.h"

/*
 * Handle a request of a client (service.h): its handler replies, or begins an operation that replies later, or
 * disconnects the client. False: the request is deferred, and to be handled again.
 */
bool requests_handle(peer *p, const Goallocd__Request *request);

#endif
