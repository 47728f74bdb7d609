/*
 * Request, for its own files: answering, and the handlers that are not in request.c.
 */
#ifndef GOALLOC_DAEMON_SERVE_REQUEST_INTERNAL_H
#define GOALLOC_DAEMON_SERVE_REQUEST_INTERNAL_H

#include "daemon/serve/request.h"

Goallocd__Reply reply_init(uint64_t id);
void reply_ok(peer *p, uint64_t id);
void reply_error(peer *p, uint64_t id, int error, const char *message);

/* The session of a request that changes the heap. NULL: the error has been answered. */
session *writing_session(peer *p, uint64_t id);

/* request_lease.c */
void handle_refill(peer *p, uint64_t id, const Goallocd__Refill *ask);
void handle_return(peer *p, uint64_t id, const Goallocd__ReturnSpans *ask);
void handle_alloc_large(peer *p, uint64_t id, const Goallocd__AllocLarge *ask);
void handle_resize_large(peer *p, uint64_t id, const Goallocd__ResizeLarge *ask);
void handle_lease_list(peer *p, uint64_t id, const Goallocd__LeaseList *ask);
void handle_free_large(peer *p, uint64_t id, const Goallocd__FreeLarge *ask);

/* request_heap.c */
/* What the peer asks for is done in the next round, for all who ask; the server says when (request.h). */
void request_wait_for(peer *p, uint64_t id, enum peer_wait wait);
void handle_stats(peer *p, uint64_t id);
void handle_scavenge(peer *p, uint64_t id);
void handle_heap_map(peer *p, uint64_t id, const Goallocd__HeapMap *ask);
void handle_trim(peer *p, uint64_t id);
void handle_check(peer *p, uint64_t id);

#endif
