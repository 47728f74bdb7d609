/*
 * Service: what handlers work on: the heap, its sessions and roots, the memory that the system still has, and those who
 * see to it. The server has one and sets it up (server.c); everything in it is the loop's thread's.
 */
#ifndef GOALLOC_DAEMON_SERVE_SERVICE_H
#define GOALLOC_DAEMON_SERVE_SERVICE_H

#include "daemon/heap/roots.h"
#include "daemon/memory/sysmem.h"
#include "daemon/serve/ahead.h"
#include "daemon/serve/operation.h"
#include "daemon/serve/session.h"

typedef struct service {
    uv_loop_t loop;
    mheap *heap;
    session_table sessions;
    roots *roots;
    scavenger scav;
    commit_pool commits;
    sysmem mem;
    ahead ahead;
    bool eager_commit;
    bool stopping;
    uv_idle_t idle; /* runs while there is work in slices; rounds.c does it */
    uv_idle_cb on_idle;
    bool idle_active;
    struct deaths *deaths; /* who notices that a process is gone */
    uint64_t nrpcs;
    uint64_t started_ms;
    uint64_t ended_allocs[SPAN_CLASS_COUNT]; /* objects that sessions which have ended allocated */

    /* Memory is short (leasing.c). */
    page_no rescue_pos;
    uint64_t last_rescue_ns; /* when the heap was last swept because it was exhausted, and what that took */
    uint64_t rescue_cost_ns;
    uint64_t last_limit_warning_ms;

    operation_pool operations;
    peer_host peers;
} service;

/* Work in slices has come up: it is done between the turns of the loop from now on. */
static inline void service_wake(service *srv)
{
    if (!srv->idle_active && !srv->stopping)
        (void)uv_idle_start(&srv->idle, srv->on_idle);
    srv->idle_active = true;
}

#endif
