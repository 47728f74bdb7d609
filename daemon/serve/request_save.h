/*
 * Requests of who saves the heap while it is served.
 */
#ifndef GOALLOC_DAEMON_SERVE_REQUEST_SAVE_H
#define GOALLOC_DAEMON_SERVE_REQUEST_SAVE_H

#include "daemon/serve/service.h"

answer handle_save(client *c, const Goallocd__Request *request);

/* The request has to wait: another client copies the heap. */
bool request_save_defers(const client *c, const Goallocd__Request *request);

#endif
