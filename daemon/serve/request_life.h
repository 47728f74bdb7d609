/*
 * Handlers of requests about the heap's life: its end, and events.
 */
#ifndef GOALLOC_DAEMON_SERVE_REQUEST_LIFE_H
#define GOALLOC_DAEMON_SERVE_REQUEST_LIFE_H

#include "daemon/serve/service.h"

answer handle_drop(client *c, const Goallocd__Request *request);
answer handle_disconnect(client *c, const Goallocd__Request *request);
answer handle_subscribe(client *c, const Goallocd__Request *request);

#endif
