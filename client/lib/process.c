/*
 * Process: the one instance of process_info, its gate, and its state.
 *
 * Called by all of the library; calls nobody, but for what a child of a fork has to do, which is handed in
 * (process_hide_state). Data: `process`, private, written by who has the turn of attaching; process.map, .mspan_of,
 * .generation and what is the session's own by mapping.c; in which order, process.h says. attach.c has the state's
 * transitions.
 */
#include "client/lib/process.h"

#include <sched.h>
#include <unistd.h>

static const shm_u64 no_limit = 0; /* no free takes the fast path */
static const shm_u32 no_trim = 0;
static const shm_u64 no_profile = 0;
static const shm_u32 no_heap = 1;
static shm_u32 first_state = PROCESS_DETACHED; /* until there is memory that no child sees */

process_info process = {
    .free_limit = &no_limit,
    .dropped = &no_heap,
    .session_trim_seq = &no_trim,
    .session_profile = &no_profile,
    .state = &first_state,
    .timeout_ms = PROCESS_TIMEOUT_MS,
};

static shm_u32 last_state = PROCESS_DETACHED; /* what a child finds, whose state was wiped */
static void (*when_child)(bool is_forker);

void process_open_gate(const attach_result *a, bool readonly, bool reclaim)
{
    process.readonly = readonly;
    process.reclaim = reclaim;
    u32_store_relaxed(&process.committed, a->committed);
    process.session = a->session;
    process.epoch = a->epoch;
    process.owner = (owner_no){ (uint16_t)(reclaim ? process.map.sessions[a->session.n].group : 0) };
    u64_store_relaxed(&process.base, process.map.base);
    atomic_store_explicit(&process.session_trim_seq, &process.map.sessions[process.session.n].trim_seq,
                          memory_order_relaxed);
    atomic_store_explicit(&process.session_profile, &process.map.sessions[process.session.n].profile,
                          memory_order_relaxed);
    process_note_served();
    /* In a forked child it is the parent's, whose session may be of another kind. */
    atomic_store_explicit(&process.free_limit, readonly || reclaim ? &no_limit : &process.map.header->free_limit,
                          memory_order_release);
    u64_store_release(&process.arena_bytes, process.map.arena_bytes);
    process_set_state(PROCESS_ATTACHED);
}

void process_note_stale(void)
{
    atomic_store_explicit(&process.dropped, &no_heap, memory_order_release);
}

void process_note_served(void)
{
    atomic_store_explicit(&process.dropped, &process.map.header->dropped, memory_order_release);
}

void process_close_gate(void)
{
    process_note_stale();
    atomic_store_explicit(&process.free_limit, &no_limit, memory_order_release);
    process_set_state(PROCESS_LEFT);
    u64_store_release(&process.arena_bytes, 0);
    u64_store_relaxed(&process.base, 0);
    atomic_store_explicit(&process.session_trim_seq, &no_trim, memory_order_relaxed);
    atomic_store_explicit(&process.session_profile, &no_profile, memory_order_relaxed);
    process.readonly = process.reclaim = false;
    process.owner = (owner_no){ 0 };
}

bool process_hides_state(void)
{
    return atomic_load_explicit(&process.state, memory_order_relaxed) != &first_state;
}

void process_hide_state(shm_u32 *page, void (*become_child)(bool is_forker))
{
    when_child = become_child;
    u32_store_relaxed(page, u32_load_relaxed(&first_state));
    atomic_store_explicit(&process.state, page, memory_order_release);
}

void process_set_state(enum process_state state)
{
    u32_store_release(&last_state, state);
    u32_store_release(atomic_load_explicit(&process.state, memory_order_relaxed), state);
}

enum process_state process_last_state(void)
{
    return (enum process_state)u32_load_relaxed(&last_state);
}

enum process_state process_note_fork(void)
{
    shm_u32 *state = atomic_load_explicit(&process.state, memory_order_acquire);
    uint32_t now = PROCESS_WIPED;

    while (now == PROCESS_WIPED && !u32_exchange_if_acq_rel(state, &now, PROCESS_WIPING))
        ;
    if (now == PROCESS_WIPED)
        when_child(gettid() == getpid()); /* the child's first thread is that which has forked */
    while ((now = u32_load_acquire(state)) == PROCESS_WIPING)
        (void)sched_yield();
    return (enum process_state)now;
}

int process_mapped_writable(void)
{
    if (!process_is_mapped())
        return -ENOTCONN;
    return process.readonly ? -EROFS : 0;
}

bool process_leases(const shm_span *span)
{
    lease_word lease = lease_unpack(u64_load_acquire(&span->lease));

    return process_state_now() == PROCESS_ATTACHED && lease.state == SPAN_LEASED &&
           lease.session.n == process.session.n && lease.epoch == process.epoch;
}
