/*
 * Requests for leases: spans, runs and large objects. s is the client's session: open, and not read-only.
 */
#ifndef GOALLOC_DAEMON_SERVE_REQUEST_LEASE_H
#define GOALLOC_DAEMON_SERVE_REQUEST_LEASE_H

#include "daemon/serve/service.h"

answer handle_refill(client *c, session *s, const Goallocd__Request *request);
answer handle_return(client *c, session *s, const Goallocd__Request *request);
answer handle_alloc_large(client *c, session *s, const Goallocd__Request *request);
answer handle_resize_large(client *c, session *s, const Goallocd__Request *request);
answer handle_free_large(client *c, session *s, const Goallocd__Request *request);
answer handle_lease_list(client *c, session *s, const Goallocd__Request *request);

#endif
