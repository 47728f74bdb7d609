/*
 * Check: all tables of the daemon against each other, in slices, for all who ask.
 */
#ifndef GOALLOC_DAEMON_SERVE_CHECK_H
#define GOALLOC_DAEMON_SERVE_CHECK_H

#include "daemon/serve/service.h"

/* Begin, and go on by budget spans or as much work as these are. True: the result stands, until the next one begins. */
void check_begin(service *srv);
bool check_step(service *srv, unsigned budget) __attribute__((warn_unused_result));

/* Answer a Check request. */
void check_reply(operation *op);

#endif
