/*
 * Requests for sampled profiles: to sample, to record, to read what was recorded.
 */
#ifndef GOALLOC_DAEMON_SERVE_REQUEST_PROFILE_H
#define GOALLOC_DAEMON_SERVE_REQUEST_PROFILE_H

#include "daemon/serve/service.h"

answer handle_profile_open(client *c, session *s, const Goallocd__Request *request);
answer handle_profile_set(client *c, const Goallocd__Request *request);
answer handle_profile_read(client *c, const Goallocd__Request *request);

/* The session that is all that the ProfileSet is about; 0: it is about more. */
uint32_t request_profile_session(const Goallocd__ProfileSet *ask);

/* The region has come or gone: those who wait are handled again. data: the service. */
void request_profile_go_on(void *data);

#endif
