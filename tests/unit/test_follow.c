/*
 * Tests of follow.h: which CPU the loop should be on, with a clock of their own.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "daemon/serve/follow.h"

#define AGE_NS  UINT64_C(5000)    /* of a request that is in time */
#define LATE_NS UINT64_C(3000000) /* of one that is not */

#define CLIENTS 128

static follow f;
static uint64_t now_ms;

static int setup(void **state)
{
    (void)state;
    follow_init(&f);
    now_ms = 1000;
    return 0;
}

/* A turn of the loop with a request of that age, before which it has waited as long for its CPU; it moves after it. */
static bool turn_of(unsigned client, int cpu, uint64_t age_ns)
{
    static const char names[CLIENTS];
    bool late = false;

    follow_request(&f, &names[client], cpu, age_ns, now_ms);
    if (f.at != FOLLOW_ANY && follow_wants_look(&f, now_ms))
        late = follow_looked(&f, age_ns == FOLLOW_NO_AGE ? LATE_NS : age_ns, now_ms);
    follow_end_turn(&f);
    if (f.to != f.at)
        follow_moved(&f, f.to, now_ms);
    return late;
}

/* Each CPU has a client of its own. */
static bool turn_with(int cpu, uint64_t age_ns)
{
    return turn_of((unsigned)(cpu - FOLLOW_ANY), cpu, age_ns);
}

static void ask(int cpu, unsigned n)
{
    while (n-- > 0)
        assert_false(turn_with(cpu, AGE_NS));
}

/* Bring the loop to a CPU. */
static void be_at(int cpu)
{
    now_ms += FOLLOW_PAUSE_MS_MAX;
    ask(cpu, FOLLOW_REQUESTS);
    now_ms += FOLLOW_ALONE_MS + 1;
    ask(cpu, 1);
    assert_int_equal(f.at, cpu);
}

static void follow_request_the_third_from_one_cpu_is_followed(void **state)
{
    (void)state;
    ask(3, FOLLOW_REQUESTS - 1);
    assert_int_equal(f.at, FOLLOW_ANY);
    ask(3, 1);
    assert_int_equal(f.at, 3);
    ask(3, 100);
    assert_int_equal(f.at, 3);
}

static void follow_request_from_elsewhere_sets_free_at_once(void **state)
{
    (void)state;
    be_at(3);
    ask(4, 1);
    assert_int_equal(f.at, FOLLOW_ANY);
    ask(4, 100); /* too soon after the last one from 3 */
    assert_int_equal(f.at, FOLLOW_ANY);
    now_ms += FOLLOW_ALONE_MS;
    ask(4, 1);
    assert_int_equal(f.at, FOLLOW_ANY);
    now_ms++;
    ask(4, 1);
    assert_int_equal(f.at, 4);
}

static void follow_request_of_two_in_turns_follows_nobody(void **state)
{
    (void)state;
    for (int i = 0; i < 1000; i++, now_ms += 5) {
        ask(0, FOLLOW_REQUESTS - 1);
        ask(1, FOLLOW_REQUESTS - 1);
        assert_int_equal(f.at, FOLLOW_ANY);
    }
}

/* A client that is alone is followed wherever it goes; another one that asks from elsewhere is let be for 2 ms. */
static void follow_request_of_one_that_moves_is_followed_at_once(void **state)
{
    (void)state;
    for (int cpu = 0; cpu < 100; cpu++) {
        for (unsigned i = 1; i < FOLLOW_REQUESTS; i++) {
            (void)turn_of(7, cpu, AGE_NS);
            assert_int_equal(f.at, FOLLOW_ANY);
        }
        (void)turn_of(7, cpu, AGE_NS);
        assert_int_equal(f.at, cpu);
    }
    for (unsigned i = 0; i < 100; i++)
        (void)turn_of(8, 1, AGE_NS);
    assert_int_equal(f.at, FOLLOW_ANY);
    now_ms += FOLLOW_ALONE_MS + 1;
    (void)turn_of(8, 1, AGE_NS);
    assert_int_equal(f.at, 1);
    for (unsigned i = 0; i < 100; i++) /* it moves, and is alone by now */
        (void)turn_of(8, 2, AGE_NS);
    assert_int_equal(f.at, 2);
}

/* Two clients on one CPU are no reason to be anywhere else. */
static void follow_request_of_two_on_one_cpu_is_followed(void **state)
{
    (void)state;
    for (unsigned i = 0; i < FOLLOW_REQUESTS; i++)
        (void)turn_of(i % 2, 5, AGE_NS);
    assert_int_equal(f.at, 5);
}

static void follow_request_without_cpu_counts_as_from_elsewhere(void **state)
{
    (void)state;
    for (int i = 0; i < 10; i++, now_ms += 10)
        ask(FOLLOW_ANY, FOLLOW_REQUESTS);
    assert_int_equal(f.at, FOLLOW_ANY);
    be_at(0);
    ask(FOLLOW_ANY, 1);
    assert_int_equal(f.at, FOLLOW_ANY);
}

static void follow_tick_without_requests_ends_it(void **state)
{
    (void)state;
    be_at(3);
    now_ms += FOLLOW_IDLE_MS - 1;
    follow_tick(&f, now_ms);
    assert_int_equal(f.to, 3);
    now_ms++;
    follow_tick(&f, now_ms);
    assert_int_equal(f.to, FOLLOW_ANY);
    follow_moved(&f, FOLLOW_ANY, now_ms);
    ask(3, FOLLOW_REQUESTS - 1);
    assert_int_equal(f.at, FOLLOW_ANY);
    ask(3, 1);
    assert_int_equal(f.at, 3);
}

static void follow_refused_is_tried_again_after_a_pause(void **state)
{
    (void)state;
    be_at(3);
    follow_refused(&f, now_ms);
    follow_moved(&f, FOLLOW_ANY, now_ms);
    now_ms += FOLLOW_PAUSE_MS - 1;
    ask(3, 100);
    assert_int_equal(f.at, FOLLOW_ANY);
    now_ms++;
    ask(3, 1);
    assert_int_equal(f.at, 3);
    assert_int_equal(f.pause_ms, FOLLOW_PAUSE_MS);
}

/* --- late --- */

static void follow_looked_of_a_late_request_pauses_for_longer_each_time(void **state)
{
    uint64_t pause_ms = FOLLOW_PAUSE_MS;

    (void)state;
    for (int i = 0; i < 20; i++) {
        be_at(3);
        now_ms += 3;
        assert_true(turn_with(i % 2 == 0 ? 3 : 4, i % 4 < 2 ? LATE_NS : FOLLOW_NO_AGE));
        assert_int_equal(f.at, FOLLOW_ANY);
        assert_int_equal(f.not_before_ms, now_ms + pause_ms);
        now_ms += pause_ms - 1;
        ask(3, 100);
        assert_int_equal(f.at, FOLLOW_ANY);
        pause_ms = pause_ms * 2 < FOLLOW_PAUSE_MS_MAX ? pause_ms * 2 : FOLLOW_PAUSE_MS_MAX;
    }
}

static void follow_looked_believes_no_client_that_the_kernel_contradicts(void **state)
{
    (void)state;
    be_at(3);
    follow_request(&f, NULL, 3, LATE_NS, now_ms);
    assert_false(follow_looked(&f, FOLLOW_LATE_NS, now_ms));
    assert_int_equal(f.to, 3);
}

static void follow_looked_of_a_wait_that_nobody_shared_harms_nobody(void **state)
{
    (void)state;
    be_at(3);
    now_ms += 3; /* a turn without requests: a timer, or a return of spans */
    assert_true(follow_wants_look(&f, now_ms));
    assert_false(follow_looked(&f, LATE_NS, now_ms));
    follow_end_turn(&f);
    now_ms += 3; /* the loop was awake for another reason before the request came */
    follow_request(&f, NULL, 3, AGE_NS, now_ms);
    assert_true(follow_wants_look(&f, now_ms));
    assert_false(follow_looked(&f, LATE_NS, now_ms));
    assert_int_equal(f.to, 3);
}

static void follow_wants_look_within_a_millisecond_is_seldom(void **state)
{
    unsigned nlooks = 0;

    (void)state;
    be_at(3);
    for (unsigned i = 0; i < 100 * FOLLOW_LOOK_TURNS; i++) {
        follow_request(&f, NULL, 3, AGE_NS, now_ms);
        nlooks += follow_wants_look(&f, now_ms);
        follow_end_turn(&f);
    }
    assert_int_equal(nlooks, 100);
    now_ms++;
    follow_request(&f, NULL, 3, AGE_NS, now_ms);
    assert_true(follow_wants_look(&f, now_ms));
}

static void follow_tick_after_a_good_time_makes_the_pause_shorter(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        be_at(3);
        now_ms += 3;
        assert_true(turn_with(3, LATE_NS));
    }
    assert_int_equal(f.pause_ms, 8 * FOLLOW_PAUSE_MS);
    be_at(3);
    for (uint64_t until_ms = f.begun_ms + 8 * FOLLOW_PAUSE_MS; now_ms < until_ms; now_ms++) {
        assert_int_equal(f.pause_ms, 8 * FOLLOW_PAUSE_MS);
        ask(3, 1);
        follow_tick(&f, now_ms);
    }
    follow_tick(&f, now_ms);
    assert_int_equal(f.pause_ms, 4 * FOLLOW_PAUSE_MS);
}

/* --- a liar --- */

/*
 * Somebody says each millisecond that he is on CPU 0, where other threads of his keep the loop from running for 3 ms.
 * An honest client is on CPU 1 and asks every 5 ms. Returns how many of its requests are late. If the liar is patient,
 * he lies only while the honest client asks for nothing, and keeps still until the next pause would be the shortest.
 */
static unsigned count_late(uint64_t for_ms, bool patient)
{
    unsigned nlate = 0;

    for (uint64_t end_ms = now_ms + for_ms; now_ms < end_ms; now_ms++) {
        bool hogs = !patient || f.pause_ms == FOLLOW_PAUSE_MS;

        (void)turn_with(0, AGE_NS);
        follow_tick(&f, now_ms);
        if (now_ms % 5 != 0 || (patient && !hogs))
            continue;
        if (f.at == 0 && hogs) {
            now_ms += 3;
            nlate += turn_with(1, LATE_NS);
        } else {
            (void)turn_with(1, AGE_NS);
        }
    }
    return nlate;
}

static void follow_of_a_liar_makes_others_late_once_a_pause(void **state)
{
    unsigned nlate;

    (void)state;
    nlate = count_late(1000000, false); /* of up to 200,000 requests */
    assert_true(nlate >= 1000000 / FOLLOW_PAUSE_MS_MAX); /* it is an attack */
    assert_true(nlate <= 1000000 / FOLLOW_PAUSE_MS_MAX + 8);
}

static void follow_of_a_patient_liar_makes_others_late_once_a_pause_that_has_healed(void **state)
{
    (void)state;
    /* Each time there is a pause of 100 ms, and 200 ms without fault until the next one would be as short. */
    assert_in_range(count_late(1000000, true), 1000, 1000000 / (3 * FOLLOW_PAUSE_MS));
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(follow_request_the_third_from_one_cpu_is_followed, setup),
        cmocka_unit_test_setup(follow_request_from_elsewhere_sets_free_at_once, setup),
        cmocka_unit_test_setup(follow_request_of_two_in_turns_follows_nobody, setup),
        cmocka_unit_test_setup(follow_request_of_one_that_moves_is_followed_at_once, setup),
        cmocka_unit_test_setup(follow_request_of_two_on_one_cpu_is_followed, setup),
        cmocka_unit_test_setup(follow_request_without_cpu_counts_as_from_elsewhere, setup),
        cmocka_unit_test_setup(follow_tick_without_requests_ends_it, setup),
        cmocka_unit_test_setup(follow_refused_is_tried_again_after_a_pause, setup),
        cmocka_unit_test_setup(follow_looked_of_a_late_request_pauses_for_longer_each_time, setup),
        cmocka_unit_test_setup(follow_looked_believes_no_client_that_the_kernel_contradicts, setup),
        cmocka_unit_test_setup(follow_looked_of_a_wait_that_nobody_shared_harms_nobody, setup),
        cmocka_unit_test_setup(follow_wants_look_within_a_millisecond_is_seldom, setup),
        cmocka_unit_test_setup(follow_tick_after_a_good_time_makes_the_pause_shorter, setup),
        cmocka_unit_test_setup(follow_of_a_liar_makes_others_late_once_a_pause, setup),
        cmocka_unit_test_setup(follow_of_a_patient_liar_makes_others_late_once_a_pause_that_has_healed, setup),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
