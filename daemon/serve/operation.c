/*
 * Operation: a request that takes more than one turn of the loop, or leases spans; one at most for a connection.
 *
 * Handlers begin it and say when it has come further; rounds.c, leasing.c and the thread pool come back to it. It calls
 * peer and queue. An operation lies in the memory of its connection (service.h), and the arrays for spans, some 25 KiB,
 * in a pool of 64: so no request needs malloc, and clients can't make the daemon use more. If the pool is empty, a
 * request that would lease is deferred before it is handled.
 *
 *     NONE -> LEASING -> NONE                          answered in the turn in which it has begun, as nearly all are
 *                  |---> COMMITTING -> NONE            Refill, AllocLarge, ResizeLarge: the thread pool is through
 *                  '---> DEFERRED -> NONE              handled again from its beginning, when it is its turn (queue.c)
 *     NONE -> DEFERRED                                 the pool is empty; Attach: the session's old connection commits
 *     NONE -> WAITING -> JOINED -> NONE                Stats, SessionList, Trim: the round has ended
 *                            '---> RELEASING -> NONE   Scavenge
 *     NONE -> ENDING -> NONE                           Detach: the session is over
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

/* True if an operation may go from one state to the other. */
static inline bool may_follow(enum operation_state from, enum operation_state to)
{
    static const unsigned next[OPERATION_STATES] = {
        [OPERATION_NONE] =
            BIT(OPERATION_DEFERRED) | BIT(OPERATION_LEASING) | BIT(OPERATION_WAITING) | BIT(OPERATION_ENDING),
        [OPERATION_DEFERRED] = BIT(OPERATION_NONE),
        [OPERATION_LEASING] = BIT(OPERATION_NONE) | BIT(OPERATION_DEFERRED) | BIT(OPERATION_COMMITTING),
        [OPERATION_COMMITTING] = BIT(OPERATION_NONE),
        [OPERATION_WAITING] = BIT(OPERATION_NONE) | BIT(OPERATION_JOINED),
        [OPERATION_JOINED] = BIT(OPERATION_NONE) | BIT(OPERATION_RELEASING),
        [OPERATION_RELEASING] = BIT(OPERATION_NONE),
        [OPERATION_ENDING] = BIT(OPERATION_NONE),
    };

    return next[from] & BIT(to);
}

void operation_set_state(operation *op, enum operation_state state)
{
    assert(may_follow(op->state, state));
    op->state = state;
}

static void give_memory(operation *op)
{
    if (op->memory == NULL)
        return;
    op->pool->used &= ~(UINT64_C(1) << (op->memory - op->pool->all));
    op->memory = NULL;
    queue_wake(op->queue);
}

static void begin(operation *op, peer *p, const Goallocd__Request *request, enum operation_state state)
{
    operation_set_state(op, state);
    op->kind = request->op_case;
    op->id = request->id;
    op->peer = p;
    p->op = op;
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
    assert(op->state == OPERATION_DEFERRED);
    op->has_turn = true;
    operation_finish(op);
}

void operation_answered(operation *op)
{
    op->has_turn = false;
    op->nvain = 0;
    op->waiter.arrived = 0;
}

void operation_finish(operation *op)
{
    if (op->state != OPERATION_NONE)
        operation_end(op);
    peer_resume(op->peer);
}

void operation_close(operation *op)
{
    if (op->state != OPERATION_NONE && (BIT(op->state) & STATES_LEASING) == 0)
        operation_end(op);
}

/*
 * The list of the peers and not one of operations: a peer never comes back into it, so that whatever visit does, the
 * next one leads on to all that are left.
 */
void operations_each(const peer_host *host, enum operation_state state, void (*visit)(operation *op, void *data),
                     void *data)
{
    for (peer *p = host->peers, *next; p != NULL; p = next) {
        next = p->next;
        if (p->op != NULL && p->op->state == state)
            visit(p->op, data);
    }
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
