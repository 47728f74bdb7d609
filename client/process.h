/*
 * Process: what this process knows of the heap that it is attached to. One instance, `process`.
 */
#ifndef GOALLOC_CLIENT_PROCESS_H
#define GOALLOC_CLIENT_PROCESS_H

#include "client/include/goalloc.h"
#include "shm/layout.h"
#include "shm/object.h"

#define LIKELY(x)   __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)

enum process_state {
    PROCESS_DETACHED = 0,
    PROCESS_ATTACHED,
    PROCESS_FORKED, /* the child of an attached process: the heap is mapped, there is no session yet */
};

struct mspan;

/*
 * The first line is what the fast paths read. It changes only when the process attaches or detaches, under
 * process_lock(), with the words that gate its use (free_limit, arena_bytes, state) written last.
 */
typedef struct process_info {
    uint64_t base;                      /* of the arena */
    shm_u64 arena_bytes;                /* 0: not attached, so no address is in the arena */
    struct mspan *_Atomic *mspan_of;    /* one a page: the span, if this process leases it. Private, sparse */
    const shm_u64 *_Atomic free_limit;  /* offsets below *free_limit: the fast path of free may look at them */
    shm_u32 state;                      /* enum process_state */
    bool readonly;
    bool reclaim;
    session_no session;
    uint32_t epoch;
    shm_map map; /* spans are mapped read-only here */
    uint64_t generation;
    void *life; /* one page that tells the daemon that this process uses the heap; not in children */
    const shm_u32 *_Atomic session_trim_seq; /* raised by the daemon, in the session's slot */
    shm_u32 trim_seq; /* raised by goalloc_trim(): other threads give back on their slow path */
} process_info;

extern process_info process __attribute__((visibility("hidden")));

static inline enum process_state process_state_now(void)
{
    return (enum process_state)u32_load_acquire(&process.state);
}

/*
 * Make sure that there is a session: attach with the defaults if the process is detached, with those of the parent if
 * it is a forked child. 0 or an error of goalloc_attach(). Cheap when there is one.
 */
int process_ensure(void) __attribute__((warn_unused_result));

/* As process_ensure(), and -EROFS in a read-only session. */
int process_ensure_writable(void) __attribute__((warn_unused_result));

/*
 * For calls that work on the mapping alone: 0 if there is one, else -ENOTCONN; with_write: -EROFS if it is read-only.
 */
int process_mapped(bool with_write) __attribute__((warn_unused_result));

/* True if this process's session leases the span. */
bool process_leases(const shm_span *span);

#endif
