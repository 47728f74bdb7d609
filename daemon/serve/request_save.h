/*
 * Requests of who saves the heap while it is served.
 */
#ifndef GOALLOC_DAEMON_SERVE_REQUEST_SAVE_H
#define GOALLOC_DAEMON_SERVE_REQUEST_SAVE_H

#include "daemon/serve/service.h"

answer handle_save(client *c, const Goallocd__Request *request);

/* The Attach of a session that would write has to wait: somebody copies the heap. */
bool request_save_holds(const service *srv, uint32_t session_flags);

#endif
