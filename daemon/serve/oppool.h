/*
 * Oppool: memory for requests under way that lease spans. A fixed number of them, so the path of a request needs no
 * malloc, and clients can't make the daemon use more.
 */
#ifndef GOALLOC_DAEMON_SERVE_OPPOOL_H
#define GOALLOC_DAEMON_SERVE_OPPOOL_H

#include "daemon/memory/commit.h"
#include "proto/frame.h"

/* Only those whose memory is being committed in the thread pool are under way for long. */
#define OPPOOL_OPS 64u

typedef struct op_memory {
    struct op_memory *next; /* among those that are free */
    uint32_t spans[PROTO_SPANS_MAX];
    page_run runs[PROTO_SPANS_MAX];
    page_run releases[COMMIT_RELEASES_MAX];
} op_memory;

/* What was never used was never touched: it has no memory. */
typedef struct oppool {
    op_memory ops[OPPOOL_OPS];
    op_memory *free;
    uint32_t nused; /* ever; the first ones */
} oppool;

static inline void oppool_init(oppool *pool)
{
    pool->free = NULL;
    pool->nused = 0;
}

/* Take one, the one that was given back last. NULL: all are under way. */
static inline op_memory *oppool_take(oppool *pool)
{
    op_memory *op = pool->free;

    if (op != NULL)
        pool->free = op->next;
    else if (pool->nused < OPPOOL_OPS)
        op = &pool->ops[pool->nused++];
    return op;
}

static inline void oppool_give(oppool *pool, op_memory *op)
{
    op->next = pool->free;
    pool->free = op;
}

#endif
