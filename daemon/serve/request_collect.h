/*
 * Requests of collectors: the right to collect, and what a collection has confirmed.
 */
#ifndef GOALLOC_DAEMON_SERVE_REQUEST_COLLECT_H
#define GOALLOC_DAEMON_SERVE_REQUEST_COLLECT_H

#include "daemon/serve/service.h"

/* True if a session has the right to collect. */
bool collect_is_under_way(const service *srv);

answer handle_collect(client *c, session *s, const Goallocd__Request *request);

#endif
