/*
 * Requests for the heap as a whole.
 */
#ifndef GOALLOC_DAEMON_SERVE_REQUEST_HEAP_H
#define GOALLOC_DAEMON_SERVE_REQUEST_HEAP_H

#include "daemon/heap/census.h"
#include "daemon/serve/service.h"

void handle_stats(client *c, const Goallocd__Request *request);
void handle_trim(client *c, const Goallocd__Request *request); /* and Scavenge: both begin with a sweep */
void handle_heap_map(client *c, const Goallocd__Request *request);
void handle_check(client *c, const Goallocd__Request *request);
void handle_ping(client *c, const Goallocd__Request *request);

/* What the round has done is what an operation in it has waited for. */
void stats_counted(client *c, const census *count);
void trim_swept(client *c);
void scavenge_swept(client *c);

/* A session is over: what its process says that it has allocated is added to the ended ones'. */
void stats_note_ended(service *srv, session_no no);

#endif
