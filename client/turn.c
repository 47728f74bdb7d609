/*
 * Turn: a lock that is held over waits.
 *
 * Called by attach.c (an attach or detach at a time) and link.c (a request at a time). Data: private to the process.
 *
 * Why no mutex: the time to wait is told by the monotonic clock, which a change of the date does not touch
 * (pthread_mutex_timedlock() goes by the other one). A fork() must not wait for who has the turn, and its child must
 * find it free: the mutex here is held for some instructions only, and the child makes all of it anew.
 *
 * Cancellation: whoever has the turn may be within poll() or sendmsg(), which are cancellation points. A thread that
 * ended there would keep the turn for ever. So cancellation is off from take to give, and acts at the thread's next
 * cancellation point after it.
 */
#include "client/turn.h"

#include <errno.h>
#include <time.h>

static bool make_cond(turn *t)
{
    pthread_condattr_t attr;

    if (t->have_cond)
        return true;
    if (pthread_condattr_init(&attr) != 0)
        return false;
    t->have_cond = pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) == 0 && pthread_cond_init(&t->cond, &attr) == 0;
    (void)pthread_condattr_destroy(&attr);
    return t->have_cond;
}

/* Wait until nobody has the turn. The mutex is held. */
static int await(turn *t, deadline until)
{
    struct timespec at = { .tv_sec = (time_t)(until.at_ms / 1000), .tv_nsec = (long)(until.at_ms % 1000) * 1000000L };
    int r = 0;

    if (!make_cond(t))
        return -ETIMEDOUT;
    t->nwaiting++;
    while (t->taken && r == 0)
        r = -pthread_cond_timedwait(&t->cond, &t->mutex, &at);
    t->nwaiting--;
    return t->taken ? -ETIMEDOUT : 0;
}

int turn_take(turn *t, deadline until)
{
    int cancel_state;
    int r = 0;

    (void)pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel_state);
    (void)pthread_mutex_lock(&t->mutex);
    if (t->taken)
        r = await(t, until);
    if (r == 0) {
        t->taken = true;
        t->cancel_state = cancel_state;
    }
    (void)pthread_mutex_unlock(&t->mutex);
    if (r < 0)
        (void)pthread_setcancelstate(cancel_state, NULL);
    return r;
}

bool turn_try(turn *t)
{
    int cancel_state;
    bool got;

    (void)pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel_state);
    (void)pthread_mutex_lock(&t->mutex);
    got = !t->taken;
    if (got) {
        t->taken = true;
        t->cancel_state = cancel_state;
    }
    (void)pthread_mutex_unlock(&t->mutex);
    if (!got)
        (void)pthread_setcancelstate(cancel_state, NULL);
    return got;
}

void turn_give(turn *t)
{
    int cancel_state;

    (void)pthread_mutex_lock(&t->mutex);
    cancel_state = t->cancel_state;
    t->taken = false;
    if (t->nwaiting > 0)
        (void)pthread_cond_signal(&t->cond);
    (void)pthread_mutex_unlock(&t->mutex);
    (void)pthread_setcancelstate(cancel_state, NULL);
}

void turn_reset(turn *t)
{
    (void)pthread_mutex_init(&t->mutex, NULL);
    t->have_cond = false;
    t->taken = false;
    t->nwaiting = 0;
}
