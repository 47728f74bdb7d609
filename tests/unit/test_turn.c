/*
 * Tests of turn.h: a turn comes to everybody who waits, in time, and to one at a time.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "client/lib/turn.h"

#define NTHREADS 4

static turn the_turn;
static atomic_bool over;
static atomic_int nholders;
static atomic_int nfaults;

static void hold(unsigned us)
{
    if (atomic_fetch_add(&nholders, 1) != 0)
        atomic_fetch_add(&nfaults, 1);
    (void)usleep(us);
    atomic_fetch_sub(&nholders, 1);
}

/* Always has it, but for some instructions. */
static void *hog(void *arg)
{
    (void)arg;
    while (!atomic_load(&over)) {
        if (turn_take(&the_turn, deadline_in(10000)) < 0) {
            atomic_fetch_add(&nfaults, 1);
            continue;
        }
        hold(100);
        turn_give(&the_turn);
    }
    return NULL;
}

static int setup(void **state)
{
    (void)state;
    the_turn = (turn)TURN_INIT;
    atomic_store(&over, false);
    atomic_store(&nfaults, 0);
    return 0;
}

static void *wait_once(void *arg)
{
    (void)arg;
    if (turn_take(&the_turn, deadline_in(10000)) < 0) {
        atomic_fetch_add(&nfaults, 1);
        return NULL;
    }
    while (!atomic_load(&over))
        (void)usleep(1000);
    turn_give(&the_turn);
    return NULL;
}

static void turn_give_to_one_who_has_waited_is_not_overtaken(void **state)
{
    unsigned nattempts = 0;
    pthread_t thread;

    (void)state;
    assert_true(turn_try(&the_turn));
    assert_int_equal(pthread_create(&thread, NULL, wait_once, NULL), 0);
    do { /* it may take its time to come to its wait */
        (void)usleep(200000);
        turn_give(&the_turn);
    } while (turn_try(&the_turn) && ++nattempts < 4);
    assert_int_not_equal(nattempts, 4);
    atomic_store(&over, true);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(atomic_load(&nfaults), 0);
}

static void turn_take_after_its_deadline_fails_and_leaves_no_trace(void **state)
{
    (void)state;
    assert_true(turn_try(&the_turn));
    assert_false(turn_try(&the_turn));
    assert_int_equal(turn_take(&the_turn, deadline_in(5)), -ETIMEDOUT);
    turn_give(&the_turn);
    assert_int_equal(turn_take(&the_turn, deadline_in(0)), 0);
    turn_give(&the_turn);
}

/* Some wait long, some are always too late: the turn is never lost, and never two threads'. */
static void *wait_in_vain(void *arg)
{
    (void)arg;
    while (!atomic_load(&over)) {
        if (turn_take(&the_turn, deadline_in(1)) == 0) {
            hold(50);
            turn_give(&the_turn);
        }
    }
    return NULL;
}

static void turn_with_many_that_wait_is_one_thread_s_at_a_time(void **state)
{
    pthread_t threads[2 * NTHREADS];

    (void)state;
    for (int i = 0; i < 2 * NTHREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, i % 2 == 0 ? hog : wait_in_vain, NULL), 0);
    (void)usleep(500000);
    atomic_store(&over, true);
    for (int i = 0; i < 2 * NTHREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(atomic_load(&nfaults), 0);
    assert_true(turn_try(&the_turn));
    turn_give(&the_turn);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(turn_give_to_one_who_has_waited_is_not_overtaken, setup),
        cmocka_unit_test_setup(turn_take_after_its_deadline_fails_and_leaves_no_trace, setup),
        cmocka_unit_test_setup(turn_with_many_that_wait_is_one_thread_s_at_a_time, setup),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
