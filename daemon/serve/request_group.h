/*
 * Requests by group: its statistics, and what sessions of one have left.
 */
#ifndef GOALLOC_DAEMON_SERVE_REQUEST_GROUP_H
#define GOALLOC_DAEMON_SERVE_REQUEST_GROUP_H

#include "daemon/heap/census.h"
#include "daemon/serve/service.h"

/* The groups that own most, by that census. What it names is valid until the next call. */
void groups_fill_stats(const service *srv, const census *count, Goallocd__StatsReply *body);

answer handle_reclaim(client *c, const Goallocd__Request *request);

#endif
