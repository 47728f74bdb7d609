/*
 * Requests of collectors: the right to collect, and what a collection has confirmed.
 */
#ifndef GOALLOC_DAEMON_SERVE_REQUEST_COLLECT_H
#define GOALLOC_DAEMON_SERVE_REQUEST_COLLECT_H

#include "daemon/serve/service.h"

answer handle_collect(client *c, session *s, const Goallocd__Request *request);

#endif
