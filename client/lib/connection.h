/*
 * Connection: the process's requests to the daemon as functions.
 *
 * A request waits at most the attach's timeout, for its turn and for the reply together; a cancellation of the thread
 * takes effect after it. If the connection is gone, the request comes back to the session first (comeback.c). Errors:
 * what the daemon answered (-errno), -ETIMEDOUT (nobody serves the socket, or nobody answers), -ENOENT (the directory
 * of the socket is gone as well), -EACCES, -ESTALE (the heap that is mapped is gone), -ENOTCONN (not attached).
 */
#ifndef GOALLOC_LIB_CONNECTION_H
#define GOALLOC_LIB_CONNECTION_H

#include "client/include/goalloc.h"
#include "client/lib/comeback.h"
#include "client/lib/process.h"
#include "proto/goallocd.pb-c.h"
#include "shm/profile.h"
#include "shm/units.h"

typedef struct attach_request {
    const char *socket_path;
    const char *label;
    const char *group; /* "": none */
    bool of_parent;    /* it is the parent's, of which comeback.c has the token */
    uint32_t flags;
    uint64_t limit_bytes;
    uint64_t profile_bytes; /* sample one in so many; 0: as the daemon says */
    deadline until; /* of this request, which may have waited for another thread's */
    enum comeback_patience patience;
    bool gated; /* fail at once if the last request found nobody */
} attach_request;

/* Take what a call is for out of the reply: what the call returns, 0 or more, or -EPROTO. The turn is held. */
typedef int connection_read(const Goallocd__Reply *reply, void *ret);

/* Any request, and what comes of it. read NULL: the reply says nothing but how it went. */
int connection_call(Goallocd__Request *request, connection_read *read, void *ret) __attribute__((warn_unused_result));

/* Connect and attach. On failure there is no connection; else the caller holds the turn, and calls comeback_end(). */
int connection_attach(const attach_request *request, attach_result *ret) __attribute__((warn_unused_result));

/* Tell the daemon that the session is over, if there is one, and close the connection. */
void connection_detach(void);

/*
 * Lease up to nspans (at most PROTO_SPANS_MAX) spans of class spc, each of npages. Their first pages go to ret_spans.
 * Returns how many there are (at least 1), or -errno. connection_is_short(): give back what is idle, then insist.
 * -EAGAIN: the memory limit is reached, which lets pass who insists.
 */
int connection_refill(span_class spc, uint32_t npages, uint32_t nspans, bool insist, uint32_t *ret_spans)
    __attribute__((warn_unused_result));

/*
 * True if a request for memory has failed because something is full, whatever it is: the arena, a limit, the system's
 * memory. Then what this process holds idle may be what is missing.
 */
static inline bool connection_is_short(int r)
{
    return r == -ENOMEM || r == -ENOSPC || r == -EDQUOT || r == -EAGAIN;
}

/* Wait until the daemon has got what was returned before. */
int connection_sync(void) __attribute__((warn_unused_result));

/*
 * How long a request waits that is for samples alone: 250 ms, or less if the attach's timeout is short. Nobody's
 * allocation needs what it brings. While the daemon is away, who looks for it waits as long again.
 */
int connection_samples_ms(void);

/*
 * Lease up to nspans marked spans, for sampled objects (shm/profile.h); a daemon that does not know such spans leases
 * others. Returns how many, or -errno. Waits for connection_samples_ms().
 */
int connection_refill_marked(span_class spc, uint32_t npages, uint32_t nspans, uint32_t *ret_spans)
    __attribute__((warn_unused_result));

typedef struct connection_large {
    uint64_t npages;
    uint64_t align_pages;
    bool noscan;
    bool marked; /* as of connection_refill_marked() */
} connection_large;

/* Lease a span for a large object. Errors as of connection_refill(). */
int connection_alloc_large(const connection_large *what, bool insist, page_no *ret) __attribute__((warn_unused_result));

/* Make a large object npages long where it is. *ret_sent: the daemon may do so even if no answer came. */
int connection_resize_large(page_no span, uint64_t npages, bool *ret_sent) __attribute__((warn_unused_result));

int connection_adopt(uint64_t offset) __attribute__((warn_unused_result));
int connection_publish(uint64_t offset) __attribute__((warn_unused_result));
int connection_settle(session_no session) __attribute__((warn_unused_result));

/* Have the session shown under another label. */
int connection_set_label(const char *label) __attribute__((warn_unused_result));

/*
 * Have the region of profiles mapped, at *region if that is not NULL. *ret_seq is its number. -ENOENT: the session is
 * not to sample; -ENOMEM; and those of mapping_profile(). Waits for connection_samples_ms().
 */
int connection_profile_open(profile_region **region, uint32_t *ret_seq) __attribute__((warn_unused_result));

/* Fills all but struct_size and session_rpcs. */
int connection_stats(goalloc_stats_t *ret) __attribute__((warn_unused_result));

#endif
