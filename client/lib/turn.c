/*
 * Turn: a lock that is held over waits.
 *
 * Called by attach.c (one attach or detach at a time) and link.c (one request at a time). Data: private to the process.
 *
 * Why it is no mutex: fork() must not wait for the holder of the turn, while its child must find the turn free. The
 * mutex here is held for some instructions only, and the child makes all of it anew. Threads wait by the monotonic
 * clock, which a change of the date does not touch.
 *
 * Fairness: a thread that gives the turn and wants it again takes it before one that waits wakes up. That is fast, but
 * would let the other one wait until its deadline. So a thread that has waited for a millisecond is handed the turn, as
 * by Go's sync.Mutex; threads that wait stand in line.
 *
 * Cancellation: the holder of the turn may be within poll() or sendmsg(), which are cancellation points. A thread that
 * ended there would hold the turn for ever. So cancellation is off from take to give, and takes effect at the thread's
 * next cancellation point after that.
 */
#include "client/lib/turn.h"

#include <errno.h>
#include <time.h>

#define PATIENCE_MS 1

/* A thread that waits, on its stack. */
struct turn_waiter {
    pthread_cond_t cond;
    deadline patience; /* from then on whoever gives the turn hands it to this thread */
    bool has_turn;
    struct turn_waiter *next;
};

static void queue(turn *t, struct turn_waiter *waiter)
{
    struct turn_waiter **at = &t->waiters;

    while (*at != NULL)
        at = &(*at)->next;
    *at = waiter;
}

static void unqueue(turn *t, struct turn_waiter *waiter)
{
    struct turn_waiter **at = &t->waiters;

    while (*at != waiter)
        at = &(*at)->next;
    *at = waiter->next;
}

/* Wait for the turn, which another thread holds. The mutex is held. */
static int await(turn *t, deadline until)
{
    struct timespec at = { .tv_sec = (time_t)(until.at_ms / 1000), .tv_nsec = (long)(until.at_ms % 1000) * 1000000L };
    struct turn_waiter me = { .cond = PTHREAD_COND_INITIALIZER, .patience = deadline_in(PATIENCE_MS) };
    int r = 0;

    queue(t, &me);
    while (!me.has_turn && t->taken && r == 0)
        r = pthread_cond_clockwait(&me.cond, &t->mutex, CLOCK_MONOTONIC, &at);
    if (!me.has_turn)
        unqueue(t, &me);
    (void)pthread_cond_destroy(&me.cond);
    return me.has_turn || !t->taken ? 0 : -ETIMEDOUT;
}

/* until NULL: do not wait. */
static int take(turn *t, const deadline *until)
{
    int cancel_state;
    int r = 0;

    (void)pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel_state);
    (void)pthread_mutex_lock(&t->mutex);
    if (t->taken)
        r = until != NULL ? await(t, *until) : -ETIMEDOUT;
    if (r == 0) {
        t->taken = true;
        t->cancel_state = cancel_state;
    }
    (void)pthread_mutex_unlock(&t->mutex);
    if (r < 0)
        (void)pthread_setcancelstate(cancel_state, NULL);
    return r;
}

int turn_take(turn *t, deadline until)
{
    return take(t, &until);
}

bool turn_try(turn *t)
{
    return take(t, NULL) == 0;
}

void turn_give(turn *t)
{
    struct turn_waiter *first;
    int cancel_state;

    (void)pthread_mutex_lock(&t->mutex);
    first = t->waiters;
    cancel_state = t->cancel_state;
    t->taken = first != NULL && deadline_left_ms(first->patience) == 0;
    if (t->taken) {
        first->has_turn = true;
        t->waiters = first->next;
    }
    if (first != NULL)
        (void)pthread_cond_signal(&first->cond); /* under the mutex: it is on the stack of a thread that waits */
    (void)pthread_mutex_unlock(&t->mutex);
    (void)pthread_setcancelstate(cancel_state, NULL);
}

void turn_reset(turn *t)
{
    (void)pthread_mutex_init(&t->mutex, NULL);
    t->taken = false;
    t->waiters = NULL;
}
