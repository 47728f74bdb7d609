/*
 * Connection: the process's one connection to the daemon, and its requests as functions.
 *
 * All take the connection's lock and wait at most the attach's timeout. If the connection is gone they come back to the
 * session first. Errors: what the daemon answered (-errno), -ETIMEDOUT (nobody serves the socket, or does not answer),
 * -ESTALE (the heap that is mapped is gone), -ENOTCONN (not attached).
 */
#ifndef GOALLOC_CLIENT_CONNECTION_H
#define GOALLOC_CLIENT_CONNECTION_H

#include "client/include/goalloc.h"
#include "proto/channel.h"
#include "shm/units.h"

/* What an attach brings. The descriptors are the caller's. */
typedef struct attach_result {
    session_no session;
    uint32_t epoch;
    uint64_t generation;
    uint64_t base;
    uint64_t arena_bytes;
    uint64_t spans_bytes;
    uint64_t bitmap_bytes;
    int arena_fd;
    int spans_fd;
    int bitmap_fd;
    int life_fd;
} attach_result;

typedef struct attach_request {
    const char *socket_path;
    const char *label;
    uint32_t flags;
    uint64_t limit_bytes;
    int timeout_ms; /* of this and all later requests */
    bool wait;      /* for a daemon that is not there yet */
} attach_request;

/* Connect and attach. On failure there is no connection. */
int connection_attach(const attach_request *request, attach_result *ret) __attribute__((warn_unused_result));

/* Tell the daemon that the session is over, and close. Not attached: nothing happens. */
void connection_detach(void);

/* Close without a word: in the child of a fork, and when an attach is undone. */
void connection_close(void);

/*
 * Up to nspans (at most PROTO_SPANS_MAX) spans of class spc, each of npages, into ret_spans: how many (at least 1), or
 * -errno. -EAGAIN: the memory limit is reached; give back what is idle, then insist.
 */
int connection_refill(span_class spc, uint32_t npages, uint32_t nspans, bool insist, uint32_t *ret_spans)
    __attribute__((warn_unused_result));

/*
 * Give nspans (at most PROTO_SPANS_MAX) spans back. wait: until the daemon has them; else it is only sent, or dropped
 * while there is no connection: they are given back when there is one again.
 */
int connection_return(const uint32_t *spans, uint32_t nspans, bool wait);

int connection_alloc_large(uint64_t npages, uint64_t align_pages, bool noscan, bool insist, page_no *ret)
    __attribute__((warn_unused_result));
int connection_resize_large(page_no span, uint64_t npages) __attribute__((warn_unused_result));
int connection_free_large(page_no span); /* only sent */

int connection_root_set(const char *name, uint64_t offset) __attribute__((warn_unused_result));
int connection_root_get(const char *name, uint64_t *ret_offset) __attribute__((warn_unused_result));
int connection_adopt(uint64_t offset) __attribute__((warn_unused_result));
int connection_publish(uint64_t offset) __attribute__((warn_unused_result));

/* Fills all but struct_size and session_rpcs. */
int connection_stats(goalloc_stats_t *ret) __attribute__((warn_unused_result));

/* True if there is a connection: what is sent now does not wait for a daemon to come up. */
bool connection_is_up(void);

/* Requests sent by this process in its session. */
uint64_t connection_nrpcs(void);

/* For fork: nobody is inside the connection while it is locked. */
void connection_fork_lock(void);
void connection_fork_unlock(void);

#endif
