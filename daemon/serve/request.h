/*
 * Request: what the daemon does for each message.
 */
#ifndef GOALLOC_DAEMON_SERVE_REQUEST_H
#define GOALLOC_DAEMON_SERVE_REQUEST_H

#include "daemon/serve/server.h"

/* Handle one request: reply, or make the peer busy and reply later, or disconnect it. */
void request_handle(peer *p, const Goallocd__Request *request);

/* Continuations of what is done in slices. */
void request_stats_done(peer *p);        /* the server's census is complete */
void request_session_list_done(peer *p); /* what sessions have left is counted */
void request_swept(peer *p);             /* all spans have been swept, for Trim or Scavenge */
void request_detach_done(peer *p);

/* A session is about to end: what its process says that it has allocated is added to the ended ones'. */
void request_count_session(server *s, session_no no);

#endif
