/*
 * Requests for the heap as a whole.
 */
#ifndef GOALLOC_DAEMON_SERVE_REQUEST_HEAP_H
#define GOALLOC_DAEMON_SERVE_REQUEST_HEAP_H

#include "daemon/serve/service.h"

answer handle_stats(client *c, const Goallocd__Request *request);
answer handle_trim(client *c, const Goallocd__Request *request); /* and Scavenge: both begin with a sweep */
answer handle_heap_map(client *c, const Goallocd__Request *request);
answer handle_leases(client *c, const Goallocd__Request *request);
answer handle_check(client *c, const Goallocd__Request *request);
answer handle_ping(client *c, const Goallocd__Request *request);

#endif
