/*
 * A producer and a consumer of the queue (tests/examples/queue.c) are killed after each instruction of what they do
 * to it, and others go on under their numbers: each message must be consumed once.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

int queue_main(int argc, char **argv);
#define main queue_main
#include "tests/examples/queue.c"
#undef main
#include "tests/support/kill_steps.h"

#define NBEFORE 3 /* messages in the queue, so that a repair has something to be mistaken about */

/* Under the mutex. */
static bool put_one(queue *q, message **m)
{
    bool there;

    if (robust_lock(&q->mutex, queue_repair, q) != 0)
        return false;
    there = put(q, m);
    (void)pthread_mutex_unlock(&q->mutex);
    return there;
}

static bool take_one(queue *q)
{
    bool there;

    if (robust_lock(&q->mutex, queue_repair, q) != 0)
        return false;
    there = take(q, &q->consumers[0]);
    (void)pthread_mutex_unlock(&q->mutex);
    return there && do_message(&q->consumers[0]);
}

static void produce_some(queue *q, int n)
{
    while (n-- > 0) {
        message *m = message_make(0, atomic_load(&q->produced[0]));

        assert_non_null(m);
        assert_true(put_one(q, &m));
    }
}

static void *prepare(void)
{
    queue *q = goalloc_calloc(1, sizeof(*q));

    assert_non_null(q);
    assert_int_equal(goalloc_publish(q), 0);
    assert_int_equal(robust_init(&q->mutex), 0);
    produce_some(q, NBEFORE);
    return q;
}

/* As the children that come after the dead ones. */
static void check(void *arg, uint64_t nsteps)
{
    queue *q = arg;
    uint64_t nproduced;
    uint64_t nconsumed;

    if (hand_is_full(&q->consumers[0]))
        assert_true(do_message(&q->consumers[0]));
    produce_some(q, NBEFORE);
    while (take_one(q))
        ;
    if (!is_right(q, 1, 1, &nproduced, &nconsumed))
        fail_msg("after %llu instructions: %llu messages, %llu consumed", (unsigned long long)nsteps,
                 (unsigned long long)nproduced, (unsigned long long)nconsumed);
    goalloc_free(q);
}

static int put_in_steps(const fixture *f, void *arg)
{
    queue *q = arg;
    message *m = message_make(0, atomic_load(&q->produced[0]));

    (void)f;
    CHECK(m != NULL && put_one(q, &m) && steps_begin()); /* what is bound at the first call is bound */
    m = message_make(0, atomic_load(&q->produced[0]));
    CHECK(m != NULL);
    steps_mark();
    (void)put_one(q, &m);
    steps_mark();
    return 0;
}

static int take_in_steps(const fixture *f, void *arg)
{
    queue *q = arg;

    (void)f;
    CHECK(take_one(q) && steps_begin());
    steps_mark();
    (void)take_one(q);
    steps_mark();
    return 0;
}

static void kill_in_steps(const fixture *f, child_fn child)
{
    const kill_steps k = { child, prepare, check };
    uint64_t ndeaths;
    uint64_t nleft;

    must_attach(f, GOALLOC_ATTACH_RECLAIM);
    ndeaths = kill_steps_run(f, &k);
    assert_int_equal(goalloc_detach(), 0);
    nleft = fixture_live_with(f, 0);
    assert_true(nleft <= ndeaths); /* each may lose a message's memory */
    assert_true(fixture_is_clean(f, nleft));
}

static void message_of_a_killed_producer_is_there_once(void **state)
{
    kill_in_steps(*state, put_in_steps);
}

static void message_of_a_killed_consumer_is_consumed_once(void **state)
{
    kill_in_steps(*state, take_in_steps);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(message_of_a_killed_producer_is_there_once),
        FIXTURE_TEST(message_of_a_killed_consumer_is_consumed_once),
    };

    return cmocka_run_group_tests_name("queue_steps", tests, NULL, NULL);
}
