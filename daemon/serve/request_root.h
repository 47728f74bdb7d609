/*
 * Requests for roots: names of objects, and the right to make one.
 */
#ifndef GOALLOC_DAEMON_SERVE_REQUEST_ROOT_H
#define GOALLOC_DAEMON_SERVE_REQUEST_ROOT_H

#include "daemon/serve/service.h"

answer handle_root_set(client *c, session *s, const Goallocd__Request *request);
answer handle_root_compare_and_set(client *c, session *s, const Goallocd__Request *request);
answer handle_root_get(client *c, const Goallocd__Request *request);
answer handle_root_list(client *c, const Goallocd__Request *request);

answer handle_root_reserve(client *c, const Goallocd__Request *request);
answer handle_root_announce(client *c, session *s, const Goallocd__Request *request);
answer handle_root_finish(client *c, session *s, const Goallocd__Request *request);
answer handle_root_give_back(client *c, session *s, const Goallocd__Request *request);

#endif
