/*
 * Tests of logquota.h: what a user's clients may say in a window, what is counted, and who pays for many users.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "daemon/logquota.h"

static unsigned said(logquota *q, uint32_t uid, unsigned nlines, uint64_t now_ms)
{
    unsigned n = 0;

    for (unsigned i = 0; i < nlines; i++)
        n += logquota_take(q, uid, now_ms);
    return n;
}

static void take_says_so_many_lines_of_a_user_and_counts_the_others(void **state)
{
    logquota q = { .all = { .used = false } };
    logquota_note note;

    (void)state;
    assert_int_equal(said(&q, 7, LOGQUOTA_OF_USER + 20, 1000), LOGQUOTA_OF_USER);
    assert_int_equal(said(&q, 8, 3, 1000), 3); /* another user has lost nothing by that */
    assert_false(logquota_left_out(&q, 1000 + LOGQUOTA_WINDOW_MS - 1, &note));
    assert_true(logquota_left_out(&q, 1000 + LOGQUOTA_WINDOW_MS, &note));
    assert_int_equal(note.uid, 7);
    assert_int_equal(note.nlines, 20);
    assert_false(note.of_others);
    assert_false(logquota_left_out(&q, UINT64_MAX, &note));
    assert_int_equal(said(&q, 7, 5, 1000 + LOGQUOTA_WINDOW_MS), 5);
}

static void take_of_a_window_that_is_over_waits_until_it_was_said_what_was_left_out(void **state)
{
    logquota q = { .all = { .used = false } };
    logquota_note note;

    (void)state;
    (void)said(&q, 7, LOGQUOTA_OF_USER + 1, 0);
    assert_int_equal(said(&q, 7, 1, 3 * LOGQUOTA_WINDOW_MS), 0);
    assert_true(logquota_left_out(&q, 3 * LOGQUOTA_WINDOW_MS, &note));
    assert_int_equal(note.nlines, 2);
    assert_int_equal(said(&q, 7, 1, 3 * LOGQUOTA_WINDOW_MS), 1);
}

static void take_of_thousands_of_users_says_as_much_as_all_may(void **state)
{
    logquota q = { .all = { .used = false } };
    logquota_note note;
    uint64_t nleft_out = 0;
    unsigned n = 0;

    (void)state;
    for (uint32_t uid = 1000; uid < 6000; uid++)
        n += said(&q, uid, 3, 5);
    assert_int_equal(n, LOGQUOTA_OF_ALL);
    while (logquota_left_out(&q, UINT64_MAX, &note))
        nleft_out += note.nlines;
    assert_int_equal(nleft_out, 3 * 5000 - LOGQUOTA_OF_ALL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(take_says_so_many_lines_of_a_user_and_counts_the_others),
        cmocka_unit_test(take_of_a_window_that_is_over_waits_until_it_was_said_what_was_left_out),
        cmocka_unit_test(take_of_thousands_of_users_says_as_much_as_all_may),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
