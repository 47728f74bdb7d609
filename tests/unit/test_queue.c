/*
 * The queue of requests that wait, without a daemon: who goes on, and in which order; and a model of it, with releases
 * that are enough for some and not for others.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "daemon/serve/queue.h"

static const queue_facts all = { .memory = true, .free_pages = 1000 };

static queue q;
static unsigned nwakes;

static void on_wake(void *data)
{
    ++*(unsigned *)data;
}

static int setup(void **state)
{
    (void)state;
    nwakes = 0;
    q = (queue){ .wake = on_wake, .data = &nwakes };
    return 0;
}

/* The first that can go on leaves, as one who is handled again does. */
static waiter *pass_one(const queue_facts *facts)
{
    waiter *w = queue_next(&q, facts);

    if (w != NULL)
        queue_leave(&q, w);
    assert_null(queue_validate(&q));
    return w;
}

static void queue_next_is_who_came_first_of_all_queues(void **state)
{
    waiter w[4] = { { .npages = 0 } };

    (void)state;
    queue_enter(&q, &w[0], WAIT_MEMORY, true);
    queue_enter(&q, &w[1], WAIT_AHEAD, true);
    queue_enter(&q, &w[2], WAIT_MEMORY, true);
    assert_null(queue_next(&q, &(queue_facts){ .memory = false }));
    queue_note(&q, WAIT_AHEAD);
    assert_int_equal(nwakes, 1);
    for (size_t i = 0; i < 3; i++)
        assert_ptr_equal(pass_one(&all), &w[i]);
    assert_null(pass_one(&all));
}

static void queue_enter_again_keeps_its_place(void **state)
{
    waiter w[3] = { { .npages = 0 } };

    (void)state;
    queue_enter(&q, &w[0], WAIT_AHEAD, true);
    queue_enter(&q, &w[1], WAIT_PAGES, true);
    queue_enter(&q, &w[2], WAIT_PAGES, true);
    queue_leave(&q, &w[0]);
    queue_enter(&q, &w[0], WAIT_PAGES, true);
    assert_null(queue_validate(&q));
    queue_note(&q, WAIT_PAGES);
    for (size_t i = 0; i < 3; i++)
        assert_ptr_equal(pass_one(&all), &w[i]);
}

static void queue_next_of_pages_lets_no_small_one_pass_a_large_one(void **state)
{
    waiter large = { .npages = 100 };
    waiter small = { .npages = 1 };

    (void)state;
    queue_enter(&q, &large, WAIT_PAGES, true);
    assert_true(queue_has_pages_wanted(&q, &small));
    queue_enter(&q, &small, WAIT_PAGES, false);
    queue_note(&q, WAIT_PAGES);
    assert_null(queue_next(&q, &(queue_facts){ .memory = true, .pages_come = true, .free_pages = 99 }));
    assert_ptr_equal(queue_next(&q, &(queue_facts){ .memory = true, .pages_come = true, .free_pages = 100 }), &large);
    assert_ptr_equal(queue_next(&q, &(queue_facts){ .memory = true }), &large); /* to be told that there are none */
}

static void queue_next_of_a_long_span_waits_for_the_rest_alone(void **state)
{
    waiter first = { .npages = 0 };
    waiter small = { .npages = 1 };

    (void)state;
    queue_enter(&q, &first, WAIT_LONG, true);
    queue_enter(&q, &small, WAIT_PAGES, false);
    assert_ptr_equal(pass_one(&(queue_facts){ .memory = true, .rests = true, .free_pages = 1 }), &small);
    assert_null(queue_next(&q, &(queue_facts){ .memory = true, .rests = true }));
    assert_null(queue_next(&q, &(queue_facts){ .memory = false }));
    assert_ptr_equal(pass_one(&all), &first);
}

static void queue_next_of_pages_tries_one_in_vain_once_a_note(void **state)
{
    waiter w = { .npages = 10 };

    (void)state;
    queue_enter(&q, &w, WAIT_PAGES, true);
    assert_null(pass_one(&all));
    queue_note(&q, WAIT_PAGES);
    assert_ptr_equal(pass_one(&all), &w);
    queue_enter(&q, &w, WAIT_PAGES, true); /* enough, but not in one piece */
    assert_null(pass_one(&all));
    queue_note(&q, WAIT_PAGES);
    assert_ptr_equal(pass_one(&all), &w);
}

static void queue_leave_of_a_head_wakes_who_is_behind(void **state)
{
    waiter large = { .npages = 100 };
    waiter small = { .npages = 1 };

    (void)state;
    queue_enter(&q, &large, WAIT_PAGES, true);
    queue_enter(&q, &small, WAIT_PAGES, false);
    queue_leave(&q, &large); /* its peer has closed */
    assert_int_equal(nwakes, 1);
    assert_ptr_equal(queue_next(&q, &(queue_facts){ .memory = true, .pages_come = true, .free_pages = 99 }), &small);
}

static void queue_note_session_wakes_those_who_wait_for_it(void **state)
{
    waiter w[3] = { { .session = 7 }, { .session = 8 }, { .session = 7 } };

    (void)state;
    for (size_t i = 0; i < 3; i++)
        queue_enter(&q, &w[i], WAIT_SESSION, true);
    assert_null(queue_next(&q, &all));
    queue_note_session(&q, 7);
    assert_ptr_equal(pass_one(&(queue_facts){ .memory = false }), &w[0]);
    assert_ptr_equal(pass_one(&all), &w[2]);
    assert_null(pass_one(&all));
    queue_note_session(&q, 8);
    assert_ptr_equal(pass_one(&all), &w[1]);
}

/* --- model --- */

#define MODEL_WAITERS 50u
#define MODEL_STEPS   200000u

/* Pages come free in lots; requests of all sizes come, go on, and close; nobody waits for ever or passes another. */
static void queue_serves_all_in_order_whatever_comes_free(void **state)
{
    waiter w[MODEL_WAITERS] = { { .npages = 0 } };
    bool waits[MODEL_WAITERS] = { false };
    uint64_t last = 0;
    uint64_t nserved = 0;
    uint64_t nclosed = 0;
    queue_facts facts = { .memory = true, .pages_come = true };

    (void)state;
    srand(1);
    for (unsigned step = 0; step < MODEL_STEPS; step++) {
        unsigned i = (unsigned)rand() % MODEL_WAITERS;
        waiter *next;

        if (!waits[i]) {
            bool behind = queue_has_pages_wanted(&q, &w[i]);

            w[i] = (waiter){ .npages = 1 + (uint64_t)rand() % 200 };
            queue_enter(&q, &w[i], WAIT_PAGES, !behind);
            waits[i] = true;
        } else if (rand() % 20 == 0) {
            queue_leave(&q, &w[i]);
            waits[i] = false;
            nclosed++;
        } else {
            facts.free_pages += (uint64_t)rand() % 40;
            queue_note(&q, WAIT_PAGES);
        }
        while ((next = queue_next(&q, &facts)) != NULL) {
            assert_true(next->arrived > last);
            last = next->arrived;
            assert_true(facts.free_pages >= next->npages);
            facts.free_pages -= next->npages;
            queue_leave(&q, next);
            waits[next - w] = false;
            nserved++;
        }
        assert_null(queue_validate(&q));
    }
    assert_int_equal(q.nwaits, nserved + nclosed + q.nwaiting);
    assert_true(nserved > 1000);
}

#define TEST(function) cmocka_unit_test_setup(function, setup)

/* --- users --- */

/* So many as a user may have lease; what it asks for more waits for these, and not before others. */
static void queue_of_a_user_admits_so_many_at_a_time(void **state)
{
    static waiter w[QUEUE_USER_MAX + 3];
    queue_user user = { .nleasing = 0 };
    waiter other = { .npages = 0 };

    (void)state;
    for (size_t i = 0; i < QUEUE_USER_MAX + 3; i++)
        w[i] = (waiter){ .user = &user };
    for (size_t i = 0; i < QUEUE_USER_MAX; i++) {
        assert_true(queue_admits(&user));
        queue_begin_leasing(&w[i]);
        queue_begin_leasing(&w[i]); /* counts once */
    }
    assert_false(queue_admits(&user));
    for (size_t i = QUEUE_USER_MAX; i < QUEUE_USER_MAX + 3; i++)
        queue_enter(&q, &w[i], WAIT_USER, true);
    queue_enter(&q, &other, WAIT_MEMORY, true);
    assert_null(queue_validate(&q));
    assert_ptr_equal(queue_next(&q, &all), &other); /* theirs is nobody's turn */
    queue_end_leasing(&q, &w[0]);
    assert_int_equal(user.nleasing, QUEUE_USER_MAX);
    assert_false(queue_admits(&user)); /* a newcomer comes behind those that wait */
    assert_ptr_equal(pass_one(&all), &other);
    assert_ptr_equal(pass_one(&all), &w[QUEUE_USER_MAX]);
    assert_null(pass_one(&all));
    queue_leave(&q, &w[QUEUE_USER_MAX + 1]); /* its connection has ended */
    assert_null(queue_validate(&q));
    queue_end_leasing(&q, &w[1]);
    assert_ptr_equal(pass_one(&all), &w[QUEUE_USER_MAX + 2]);
    for (size_t i = 0; i < QUEUE_USER_MAX + 3; i++)
        queue_end_leasing(&q, &w[i]);
    assert_int_equal(user.nleasing, 0);
    assert_true(queue_admits(&user));
    assert_int_equal(q.nwaiting, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(queue_next_is_who_came_first_of_all_queues),
        TEST(queue_enter_again_keeps_its_place),
        TEST(queue_next_of_pages_lets_no_small_one_pass_a_large_one),
        TEST(queue_next_of_pages_tries_one_in_vain_once_a_note),
        TEST(queue_next_of_a_long_span_waits_for_the_rest_alone),
        TEST(queue_leave_of_a_head_wakes_who_is_behind),
        TEST(queue_note_session_wakes_those_who_wait_for_it),
        TEST(queue_serves_all_in_order_whatever_comes_free),
        TEST(queue_of_a_user_admits_so_many_at_a_time),
    };

    return cmocka_run_group_tests_name("queue", tests, NULL, NULL);
}
