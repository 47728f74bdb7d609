/*
 * Process: what this process knows of the heap that it is attached to. One instance, `process`.
 */
#ifndef GOALLOC_LIB_PROCESS_H
#define GOALLOC_LIB_PROCESS_H

#include "client/include/goalloc.h"
#include "shm/layout.h"
#include "shm/object.h"

#define LIKELY(x)   __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)

enum process_state {
    PROCESS_WIPED = 0, /* what the child of a fork finds that went past fork()'s handlers: see attach.c */
    PROCESS_WIPING,    /* and what other threads of it find meanwhile */
    PROCESS_DETACHED,  /* was never attached: what needs the heap attaches with the defaults */
    PROCESS_LEFT,      /* goalloc_detach() was called: only goalloc_attach() comes back */
    PROCESS_ATTACHED,
    PROCESS_FORKED, /* the child of an attached process: the heap is mapped, there is no session yet */
};

struct mspan;

/*
 * The first line is what the fast paths read. It changes only when the process attaches or detaches, with the words
 * that gate its use (free_limit, arena_bytes, state) written last at an attach, release, and first at a detach; who
 * reads one of these before the rest, acquire, finds the rest.
 */
typedef struct process_info {
    shm_u64 base;                       /* of the arena */
    shm_u64 arena_bytes;                /* 0: not attached, so no address is in the arena */
    struct mspan *_Atomic *mspan_of;    /* one a page: the span, if this process holds it (held.h). Private, sparse */
    const shm_u64 *_Atomic free_limit;  /* offsets below *free_limit: the fast path of free may look at them */
    shm_u32 *_Atomic state;             /* enum process_state; after the first attach in memory that no child sees */
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

/* Become the child of a fork that this process turns out to be. Its state is another one afterwards. */
enum process_state process_note_fork(void);

static inline enum process_state process_state_now(void)
{
    uint32_t state = u32_load_acquire(atomic_load_explicit(&process.state, memory_order_acquire));

    return LIKELY(state > PROCESS_WIPING) ? (enum process_state)state : process_note_fork();
}

/* True if the heap is mapped. */
static inline bool process_is_mapped(void)
{
    return process_state_now() >= PROCESS_ATTACHED;
}

/*
 * Make sure that there is a session: attach with the defaults if the process never was, with the options of the parent
 * if it is a forked child. 0, -ENOTCONN (it has left), or an error of goalloc_attach(). Cheap when there is one.
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
