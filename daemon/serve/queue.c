/*
 * Queue: requests that wait until something comes free, first come first served.
 *
 * Called by operation.c (who waits, and stops waiting), leasing.c and server.c (what has come free), service.c (who
 * goes on) and requests.c (whether a newcomer has to wait). It calls nobody but the function it was given. Data:
 * private; the waiters lie in the connections' memory.
 *
 *   1. A request that finds missing what it needs enters the queue of that, and gets a number. It keeps the number
 *      until it is answered, in whichever queue it waits next; each queue is sorted by it.
 *   2. Who makes something free says so, by queue_note() or queue_wake(). Nothing else happens then: the pass comes
 *      later, from the loop or at the end of a job, so no request is handled within the handling of another one.
 *   3. The pass asks queue_next() for one after the other: of the heads whose resource is there, the one that came
 *      first. So a release is tried by as many as can go on with it, and what the one leaves the next one gets. The
 *      pass is over when queue_next() says that nobody can go on.
 *   4. A user whose requests lease already QUEUE_USER_MAX at a time waits for itself: what it asks for more is in a
 *      list of its own, and the first of these goes to the end of the queue for memory when one of the others ends. So
 *      however many sessions a user has, its requests are QUEUE_USER_MAX at most before those of others. A request that
 *      waits for pages has no memory, and does not count; when it goes on it does, whatever the count is, so that those
 *      of the user that need no pages can't pass it for ever. Then a user may have more for a moment.
 *
 * Invariants (queue_validate, check_step): a request that waits is in one queue; if queue_next() is not NULL, a pass is
 * due. Nobody is forgotten for these reasons: memory of operations is free again when an operation ends, and each of
 * them ends; pages are waited for only while some are aside, and the job that has them notes its end; so do the piece
 * prepared ahead, the commit of a session and the rest after a long span. A peer that closes takes its request out, and
 * has the queue looked at.
 *
 * Only the head of a queue is looked at, so small requests do not pass a large one that waits for pages. What the head
 * holds up is bounded: when no more pages come, it is handled for the last time, and tells its client that there are
 * none (leasing.c bounds how often it is in vain before). The head that was in vain is not tried again before the next
 * note. One that has entered behind others was not tried, so it needs no note once it is the head.
 *
 * Cost: to enter at the end, to leave, to note and to ask who is next take constant time; to enter before others is
 * linear in those that came earlier.
 */
#include "daemon/serve/queue.h"

#include <utlist.h>

static waiter **head_of(queue *q, const waiter *w)
{
    return w->wait == WAIT_USER ? &w->user->waiting : &q->heads[w->wait];
}

/* In the order of arrival. Newcomers go to the end, and who comes back has come earlier than most. */
static void insert(queue *q, waiter *w)
{
    waiter **head = head_of(q, w);
    waiter *at = *head;

    if (at == NULL || at->prev->arrived < w->arrived) {
        DL_APPEND(*head, w);
        return;
    }
    while (at->arrived < w->arrived)
        at = at->next;
    DL_PREPEND_ELEM(*head, at, w);
}

void queue_enter(queue *q, waiter *w, enum wait wait, bool in_vain)
{
    if (w->arrived == 0)
        w->arrived = ++q->narrived;
    w->wait = wait;
    w->seen = q->nnoted[wait] - !in_vain;
    insert(q, w);
    q->nuser += wait == WAIT_USER;
    q->nwaiting++;
    q->nwaits++;
}

void queue_leave(queue *q, waiter *w)
{
    waiter **head = head_of(q, w);

    DL_DELETE(*head, w);
    q->nuser -= w->wait == WAIT_USER;
    q->nwaiting--;
    queue_wake(q);
}

void queue_begin_leasing(waiter *w)
{
    w->user->nleasing += !w->leases;
    w->leases = true;
}

/* The next one of the user's comes as if it came now: those who are in the queue have waited for memory longer. */
void queue_end_leasing(queue *q, waiter *w)
{
    waiter *next = w->user->waiting;

    w->user->nleasing -= w->leases;
    w->leases = false;
    if (next == NULL || w->user->nleasing >= QUEUE_USER_MAX)
        return;
    DL_DELETE(w->user->waiting, next);
    q->nuser--;
    next->wait = WAIT_MEMORY;
    next->arrived = ++q->narrived;
    insert(q, next);
    queue_begin_leasing(next);
    queue_wake(q);
}

void queue_note(queue *q, enum wait wait)
{
    q->nnoted[wait]++;
    queue_wake(q);
}

void queue_note_session(queue *q, uint32_t session)
{
    for (waiter *w = q->heads[WAIT_SESSION], *next; w != NULL; w = next) {
        next = w->next;
        if (w->session != session)
            continue;
        DL_DELETE(q->heads[WAIT_SESSION], w);
        w->wait = WAIT_TURN;
        insert(q, w);
    }
    queue_wake(q);
}

static bool may_go_on(const queue *q, const waiter *w, const queue_facts *facts)
{
    switch (w->wait) {
    case WAIT_TURN:
        return true;
    case WAIT_MEMORY:
        return facts->memory;
    case WAIT_AHEAD:
        return facts->memory && w->seen != q->nnoted[WAIT_AHEAD];
    case WAIT_PAGES:
        return facts->memory && w->seen != q->nnoted[WAIT_PAGES] &&
               (facts->free_pages >= w->npages || !facts->pages_come);
    case WAIT_LONG:
        return facts->memory && !facts->rests;
    default:
        return false; /* WAIT_SESSION: queue_note_session(); WAIT_USER: queue_end_leasing() */
    }
}

waiter *queue_next(const queue *q, const queue_facts *facts)
{
    waiter *first = NULL;

    for (int wait = 0; q->nwaiting > 0 && wait < WAITS; wait++) {
        waiter *head = q->heads[wait];

        if (head != NULL && may_go_on(q, head, facts) && (first == NULL || head->arrived < first->arrived))
            first = head;
    }
    return first;
}

bool queue_has_pages_wanted(const queue *q, const waiter *w)
{
    const waiter *head = q->heads[WAIT_PAGES];

    return head != NULL && (w->arrived == 0 || head->arrived < w->arrived);
}

const char *queue_validate(const queue *q)
{
    size_t n = q->nuser;

    for (int wait = 0; wait < WAITS; wait++) {
        for (const waiter *w = q->heads[wait]; w != NULL; w = w->next, n++) {
            if ((int)w->wait != wait || w->arrived == 0 || w->arrived > q->narrived)
                return "is in a queue that it does not wait in";
            if (w->next != NULL && w->next->arrived <= w->arrived)
                return "waits before one that came earlier";
        }
    }
    return n == q->nwaiting ? NULL : "is counted wrongly among those that wait";
}
