/*
 * Operation: a request that takes more than one turn of the loop, or leases spans; one at most for a connection.
 *
 * Handlers begin it and say when it has come further; rounds.c, leasing.c and the thread pool come back to it. It calls
 * peer and queue. An operation lies in the memory of its connection (service.h), and the arrays for spans, some 25 KiB,
 * in a pool of 64: so no request needs malloc, and clients can't make the daemon use more. If the pool is empty, or
 * half of it is its user's, a request that would lease is deferred before it is handled.
 *
 *     NONE -> LEASING -> NONE                          answered in the turn in which it has begun, as nearly all are
 *                  |---> COMMITTING -> NONE            Refill, AllocLarge, ResizeLarge: the thread pool is through
 *                  '---> DEFERRED -> NONE              handled again from its beginning, when it is its turn (queue.c)
 *     NONE -> DEFERRED                                 the pool is empty, or its user has had half of it;
 *                                                  Attach: the session's old connection commits
 *     NONE -> WAITING -> JOINED -> NONE                Stats, SessionList, Trim, Reload: the round has ended
 *                            '---> RELEASING -> NONE   Scavenge
 *     NONE -> ENDING -> NONE                           Detach: the session is over
 *     NONE -> AWAITING -> NONE                         ProfileOpen, ProfileSet: handled again, from the beginning
 *     NONE -> PAUSED -> NONE                           ReturnSpans, a long one: handled again, from where it was
 *
 * Each state that lasts beyond a turn of the loop has a ring of the operations in it, and of those that wait for a
 * round each round has one. So who comes back to an operation finds it at once, however many connections there are that
 * ask for nothing.
 *
 * While a peer has an operation it is not read from. README.md has who comes back to each state. When the peer closes,
 * LEASING and COMMITTING stay: the handler that is on its way, or the thread pool, holds a pointer to the operation and
 * ends it; until then the connection's memory stays. Every other state is over at once.
 *
 * If the daemon dies, operations are gone: the next one knows only what is leased.
 */
#include "daemon/serve/operation.h"

#include <assert.h>

_Static_assert(OPERATION_MEMORIES == 64, "a bit each in operation_pool");

#define BIT(state) (1u << (state))
#define STATES_LEASING (BIT(OPERATION_LEASING) | BIT(OPERATION_COMMITTING))
#define STATES_AGAIN   (BIT(OPERATION_DEFERRED) | BIT(OPERATION_AWAITING) | BIT(OPERATION_PAUSED))

/* True if an operation may go from one state to the other. */
static inline bool may_follow(enum operation_state from, enum operation_state to)
{
    static const unsigned next[OPERATION_STATES] = {
        [OPERATION_NONE] =
            BIT(OPERATION_DEFERRED) | BIT(OPERATION_LEASING) | BIT(OPERATION_WAITING) | BIT(OPERATION_ENDING) |
            BIT(OPERATION_AWAITING) | BIT(OPERATION_PAUSED),
        [OPERATION_DEFERRED] = BIT(OPERATION_NONE),
        [OPERATION_LEASING] = BIT(OPERATION_NONE) | BIT(OPERATION_DEFERRED) | BIT(OPERATION_COMMITTING),
        [OPERATION_COMMITTING] = BIT(OPERATION_NONE),
        [OPERATION_WAITING] = BIT(OPERATION_NONE) | BIT(OPERATION_JOINED),
        [OPERATION_JOINED] = BIT(OPERATION_NONE) | BIT(OPERATION_RELEASING),
        [OPERATION_RELEASING] = BIT(OPERATION_NONE),
        [OPERATION_ENDING] = BIT(OPERATION_NONE),
        [OPERATION_AWAITING] = BIT(OPERATION_NONE),
        [OPERATION_PAUSED] = BIT(OPERATION_NONE),
    };

    return next[from] & BIT(to);
}

/* --- rings --- */

#define RINGS (sizeof(operation_rings) / sizeof(operation_link))

static operation_link *rings_of(operation_rings *rings)
{
    _Static_assert(RINGS == OPERATION_STATES + 2 * ROUNDS_ALL, "nothing but rings");
    return (operation_link *)(void *)rings;
}

void operation_rings_init(operation_rings *rings)
{
    operation_link *all = rings_of(rings);

    for (size_t i = 0; i < RINGS; i++)
        all[i] = (operation_link){ &all[i], &all[i] };
}

static operation_link *ring_of(const peer_host *host, enum operation_state state, enum round round)
{
    if (state == OPERATION_WAITING)
        return &host->operations->waiting[round];
    return state == OPERATION_JOINED ? &host->operations->joined[round] : &host->operations->of_state[state];
}

/* LEASING ends in the turn in which it has begun, and nobody looks for it. */
static bool has_ring(enum operation_state state)
{
    return state != OPERATION_NONE && state != OPERATION_LEASING;
}

static operation *operation_at(operation_link *link)
{
    return (operation *)(void *)((char *)link - offsetof(operation, link));
}

static void ring_leave(operation *op)
{
    op->link.prev->next = op->link.next;
    op->link.next->prev = op->link.prev;
}

static void ring_enter(operation_link *ring, operation *op)
{
    op->link = (operation_link){ ring->prev, ring };
    ring->prev->next = &op->link;
    ring->prev = &op->link;
}

operation *operations_first(const peer_host *host, enum operation_state state, enum round round)
{
    operation_link *ring = ring_of(host, state, round);

    return ring->next == ring ? NULL : operation_at(ring->next);
}

size_t operations_count(const peer_host *host, enum operation_state state, enum round round)
{
    const operation_link *ring = ring_of(host, state, round);
    size_t n = 0;

    for (const operation_link *at = ring->next; at != ring; at = at->next)
        n++;
    return n;
}

void operations_all(const peer_host *host, void (*visit)(operation *op, void *data), void *data)
{
    operation_link *all = rings_of(host->operations);

    for (size_t i = 0; i < RINGS; i++) {
        for (operation_link *at = all[i].next; at != &all[i]; at = at->next)
            visit(operation_at(at), data);
    }
}

/* Those that are there now move to a ring of the visit's, and each goes back before it is visited. */
void operations_each(const peer_host *host, enum operation_state state, void (*visit)(operation *op, void *data),
                     void *data)
{
    operation_link *ring = ring_of(host, state, 0);
    operation_link visiting = *ring;

    if (ring->next == ring)
        return;
    visiting.next->prev = visiting.prev->next = &visiting;
    *ring = (operation_link){ ring, ring };
    while (visiting.next != &visiting) {
        operation *op = operation_at(visiting.next);

        ring_leave(op);
        ring_enter(ring, op);
        visit(op, data);
    }
}

/* --- states --- */

void operation_set_state(operation *op, enum operation_state state)
{
    assert(may_follow(op->state, state));
    if (has_ring(op->state))
        ring_leave(op);
    op->state = state;
    if (has_ring(state))
        ring_enter(ring_of(op->peer->host, state, op->round), op);
}

static void set_user(operation *op, const peer *p)
{
    op->waiter.user = p->user != NULL ? &p->user->queue : NULL;
}

/* If it leases, or has had its turn to: another request of its user may. */
static void leases_no_more(operation *op)
{
    if (op->waiter.leases)
        queue_end_leasing(op->queue, &op->waiter);
}

static void give_memory(operation *op)
{
    if (op->memory == NULL)
        return;
    op->pool->used &= ~(UINT64_C(1) << (op->memory - op->pool->all));
    op->memory = NULL;
    leases_no_more(op);
    queue_wake(op->queue);
}

static void begin(operation *op, peer *p, const Goallocd__Request *request, enum operation_state state)
{
    op->kind = request->op_case;
    op->id = request->id;
    op->peer = p;
    p->op = op;
    operation_set_state(op, state);
}

void operation_begin(operation *op, peer *p, const Goallocd__Request *request, enum operation_state state)
{
    if (!p->closing)
        begin(op, p, request, state);
}

void operation_begin_deferred(operation *op, peer *p, const Goallocd__Request *request, queue *q, enum wait wait,
                              uint32_t session)
{
    if (p->closing)
        return;
    begin(op, p, request, OPERATION_DEFERRED);
    op->queue = q;
    op->waiter.session = session;
    set_user(op, p);
    queue_enter(q, &op->waiter, wait, true);
}

void operation_begin_leasing(operation *op, peer *p, const Goallocd__Request *request, operation_pool *pool, queue *q)
{
    assert(operation_pool_has(pool));
    op->memory = &pool->all[__builtin_ctzll(~pool->used)];
    pool->used |= pool->used + 1;
    begin(op, p, request, OPERATION_LEASING);
    op->pool = pool;
    op->queue = q;
    set_user(op, p);
    if (op->waiter.user != NULL)
        queue_begin_leasing(&op->waiter);
    op->nspans = op->nfresh = 0;
    op->grow_pages = 0;
}

void operation_end(operation *op)
{
    if (op->state == OPERATION_DEFERRED)
        queue_leave(op->queue, &op->waiter);
    operation_set_state(op, OPERATION_NONE);
    give_memory(op);
    op->peer->op = NULL;
}

void operation_defer(operation *op, enum wait wait, uint64_t npages, bool in_vain)
{
    if (op->peer->closing) {
        operation_end(op);
        return;
    }
    operation_set_state(op, OPERATION_DEFERRED);
    op->has_turn = false;
    op->waiter.npages = npages;
    queue_enter(op->queue, &op->waiter, wait, in_vain);
    give_memory(op);
}

void operation_take_turn(operation *op)
{
    assert((BIT(op->state) & STATES_AGAIN) != 0);
    op->has_turn = true;
    operation_finish(op);
}

void operation_answered(operation *op)
{
    op->has_turn = false;
    op->nvain = 0;
    op->ndone = 0;
    op->waiter.arrived = 0;
    if (op->memory == NULL)
        leases_no_more(op);
}

void operation_finish(operation *op)
{
    if (op->state != OPERATION_NONE)
        operation_end(op);
    peer_resume(op->peer);
}

void operation_close(operation *op)
{
    if (op->state == OPERATION_NONE || (BIT(op->state) & STATES_LEASING) != 0)
        return;
    operation_end(op);
    leases_no_more(op);
}

const char *operation_validate(const operation *op, const peer *p)
{
    bool leases = (BIT(op->state) & STATES_LEASING) != 0;

    if ((p->op == op) != (op->state != OPERATION_NONE) || (p->op != NULL && op->peer != p))
        return "is not the one that its peer has";
    if ((op->memory != NULL) != leases)
        return "has memory without leasing, or leases without memory";
    if (leases && (op->nfresh > op->nspans || op->nspans > PROTO_SPANS_MAX))
        return "counts its spans wrongly";
    if (p->closing && op->state != OPERATION_NONE && !leases)
        return "waits though its connection is closed";
    if (op->state == OPERATION_DEFERRED && op->waiter.arrived == 0)
        return "waits, and is in no queue";
    if (p->closed && op->state != OPERATION_COMMITTING)
        return "is of a connection that nobody comes back to";
    return NULL;
}
