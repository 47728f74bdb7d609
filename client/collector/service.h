/*
 * Service: goallocd-collector in the background: a cycle some time after processes have died.
 */
#ifndef GOALLOC_COLLECTOR_SERVICE_H
#define GOALLOC_COLLECTOR_SERVICE_H

#include "client/collector/options.h"

/* Serve until SIGTERM or SIGINT, whether a daemon is there or not. 0, or -errno: it could not begin. */
int service_run(const options *o) __attribute__((warn_unused_result));

#endif
