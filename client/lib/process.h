/*
 * Process: what this process knows of the heap that it is attached to. One instance, `process`.
 */
#ifndef GOALLOC_LIB_PROCESS_H
#define GOALLOC_LIB_PROCESS_H

#include <errno.h>

#include "shm/object.h"

#define LIKELY(x)   __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)

/*
 * Until here the pointer is in a register or on the stack, where a collector finds it that has stopped the process.
 * Behind what works with the object's place (its bits, its offset in a request) and no longer needs the pointer: an
 * object that nobody is seen to reach would be freed, and its place used again, before this process goes on with it.
 * Costs no instruction.
 */
#define KEEP_POINTER(p) __asm__ volatile("" : : "g"(p) : "memory")

enum process_state {
    PROCESS_WIPED = 0, /* what the child of a fork finds that went past fork()'s handlers: see attach.c */
    PROCESS_WIPING,    /* what its other threads find while one of them makes it a child */
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
    shm_u32 committed; /* not 0: what is leased has memory already. The daemon says so; the next one may differ */
    shm_map map; /* spans are mapped read-only here */
    uint64_t generation;
    owner_no owner; /* of what is allocated here: this session if it reclaims, or its group; 0: the heap */
    struct shm_offers *_Atomic offers; /* what this process offers (offer.c); not in children. NULL: nothing can be */
    uint64_t own_id; /* of the memfd of the offers; 0: there are none */
    void *sign;      /* a page that tells daemons that this process lives; not in children */
    void *family;    /* the same of its group, and in children too, until they have sessions of their own. NULL: none */
    const shm_u32 *_Atomic dropped; /* not 0: the heap is nobody's any more. Of the header, or a constant */
    const shm_u32 *_Atomic session_trim_seq; /* raised by the daemon, in the session's entry */
    const shm_u64 *_Atomic session_profile;  /* what it samples: the profile word of the session's entry */
    shm_u32 trim_seq;   /* raised by goalloc_trim(): other threads give back on their slow path */
    shm_u32 timeout_ms; /* bound of each request, and of each wait for the turn of attaching */
} process_info;

#define PROCESS_TIMEOUT_MS 5000 /* unless the options of an attach say otherwise */

extern process_info process __attribute__((visibility("hidden")));

/* What an attach brings. The descriptors are the link's, until link_close_fds(). */
typedef struct attach_result {
    session_no session;
    uint32_t epoch;
    uint64_t generation;
    uint64_t base;
    uint64_t arena_bytes;
    uint64_t spans_bytes;
    uint64_t bitmap_bytes;
    bool committed;
    int arena_fd;
    int spans_fd;
    int bitmap_fd;
    int sign_fd;
    int own_fd;   /* -1: the session is read-only */
    int group_fd; /* -1: the session has no group */
} attach_result;

/* --- the gate: by who has the turn of attaching --- */

/* The heap is mapped: let everybody in. */
void process_open_gate(const attach_result *a, bool readonly, bool reclaim);

/* The session is over: no address is in the heap any more. The heap is still mapped. */
void process_close_gate(void);

/* A daemon has said that it has another heap, or not this session: the mapping is of no use, as if dropped. */
void process_note_stale(void);
/* A daemon has this session after all. */
void process_note_served(void);

/* True if no daemon will serve the heap that is mapped any more, as far as is known; or if none is. Two loads. */
static inline bool process_is_dropped(void)
{
    return u32_load_acquire(atomic_load_explicit(&process.dropped, memory_order_acquire)) != 0;
}

/* --- the state --- */

/*
 * From now on the state lies in a page that children find wiped. The first thread of a child that finds it so calls
 * become_child(), which sets another state; is_forker: that thread is the one that has forked.
 */
void process_hide_state(shm_u32 *page, void (*become_child)(bool is_forker));
bool process_hides_state(void);

void process_set_state(enum process_state state);

/* The state that was set last, in a child by its parent. */
enum process_state process_last_state(void);

/* Become the child that this process turns out to be. Returns its new state. */
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

/* For calls that change what is mapped: 0, -ENOTCONN, -EROFS. */
int process_mapped_writable(void) __attribute__((warn_unused_result));

/* What calls that return errors make of a verdict. */
static inline int process_verdict_error(enum object_verdict verdict)
{
    return verdict == OBJECT_LIVE ? 0 : verdict == OBJECT_FREE ? -EALREADY : -EINVAL;
}

/* True if this process's session leases the span. */
bool process_leases(const shm_span *span);

/* What the session samples: a profile_word (shm/profile.h), which may change at any time. 0: nothing. */
static inline uint64_t process_profile_word(void)
{
    return u64_load_relaxed(atomic_load_explicit(&process.session_profile, memory_order_relaxed));
}

/* Goes up when somebody wants idle spans back: the daemon from this session, or a thread of this process from all. */
static inline uint32_t process_trim_seq(void)
{
    const shm_u32 *of_session = atomic_load_explicit(&process.session_trim_seq, memory_order_relaxed);

    return u32_load_relaxed(&process.trim_seq) + u32_load_relaxed(of_session);
}

#endif
