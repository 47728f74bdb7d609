/*
 * Queue: requests that wait until something comes free, first come first served.
 */
#ifndef GOALLOC_DAEMON_SERVE_QUEUE_H
#define GOALLOC_DAEMON_SERVE_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What a request waits for. */
enum wait {
    WAIT_MEMORY = 0, /* an operation's memory for spans */
    WAIT_PAGES,      /* pages of the heap, while some are aside and come back */
    WAIT_AHEAD,      /* the end of the piece that is being prepared ahead */
    WAIT_LONG,       /* the end of the rest after another long span has been begun */
    WAIT_SESSION,    /* that memory for a session is committed, which another connection has asked for */
    WAIT_TURN,       /* nothing any more: it is handled again next */
    WAIT_USER,       /* the end of other requests of its user, which has as many as it may */
    WAITS
};

/* Requests of one user that lease at a time: half of what all have memory for. */
#define QUEUE_USER_MAX 32u

struct waiter;

/* A user's requests that lease, or are to, and those that wait for these. Zeroed first. */
typedef struct queue_user {
    struct waiter *waiting;
    unsigned nleasing;
} queue_user;

/* A request in a queue. All zero: it has never waited. */
typedef struct waiter {
    struct waiter *prev;
    struct waiter *next;
    enum wait wait;
    uint64_t arrived; /* its number among those that wait; kept until it is answered, so it keeps its place. 0: none */
    uint64_t seen;    /* PAGES and AHEAD: how often something had been noted when it was in vain */
    uint64_t npages;  /* PAGES: what it takes */
    uint32_t session; /* SESSION */
    queue_user *user; /* whose it is; for USER, and while it leases or is to */
    bool leases;      /* it counts in its user's nleasing */
} waiter;

typedef struct queue {
    waiter *heads[WAITS]; /* but for USER, which are in queue_user */
    uint64_t nnoted[WAITS];
    size_t nwaiting;
    size_t nuser; /* of them, for USER */
    uint64_t narrived;
    uint64_t nwaits; /* calls of queue_enter() since the start */
    void (*wake)(void *data); /* one who waits may be able to go on: queue_next() says */
    void *data;
} queue;

/* What there is, as far as it is waited for. */
typedef struct queue_facts {
    bool memory;         /* an operation's memory is free */
    bool pages_come;     /* pages are aside that will be free again */
    bool rests;          /* no long span is begun now */
    uint64_t free_pages; /* of the arena, whether one range or not */
} queue_facts;

/* w is in no queue. npages and session are the caller's to set before. in_vain: what it waits for was not there now. */
void queue_enter(queue *q, waiter *w, enum wait wait, bool in_vain);

/* w is in a queue: no more. It keeps its number. */
void queue_leave(queue *q, waiter *w);

/* Some of what is waited for has come free: PAGES, AHEAD. For MEMORY it is enough to wake. */
void queue_note(queue *q, enum wait wait);

/* Whoever waits for the session goes on. */
void queue_note_session(queue *q, uint32_t session);

/* True if the user may have one more request that leases. */
static inline bool queue_admits(const queue_user *user)
{
    return user->nleasing < QUEUE_USER_MAX && user->waiting == NULL;
}

/* w, which is in no queue, leases from now on; w->user is set. */
void queue_begin_leasing(waiter *w);

/* It does not any more, or was to and will not: another one of its user may. */
void queue_end_leasing(queue *q, waiter *w);

/* Have queue_next() looked at if anybody waits. */
static inline void queue_wake(queue *q)
{
    if (q->nwaiting > 0)
        q->wake(q->data);
}

/* Who goes on next, still in its queue; NULL: nobody can. */
waiter *queue_next(const queue *q, const queue_facts *facts);

/* True if a request that comes now, or w, which has come back, has to let others take pages first. */
bool queue_has_pages_wanted(const queue *q, const waiter *w);

/* What is wrong; NULL: nothing. Linear. */
const char *queue_validate(const queue *q) __attribute__((warn_unused_result));

#endif
