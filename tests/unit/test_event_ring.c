/*
 * The ring of events and its slices, without a daemon: connections that are never written to, because none of them may
 * see the event.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/serve/events.h"

#define NSUBSCRIBERS 600 /* more than are looked at in a slice, which are 512 */
#define NLEAVING     100

static event_ring ring;
static subscriber subscribers[NSUBSCRIBERS];
static peer peers[NSUBSCRIBERS];

static void subscribe_all(uv_loop_t *loop)
{
    for (uint32_t i = 0; i < NSUBSCRIBERS; i++) {
        session of = { .lessee = { .no = { (uint16_t)(i + 1) } } };

        assert_int_equal(uv_pipe_init(loop, &peers[i].pipe, 0), 0);
        peers[i].uid = 1;
        events_subscribe(&ring, &subscribers[i], &peers[i], &of, false);
    }
}

static void close_handle(uv_handle_t *handle, void *data)
{
    (void)data;
    uv_close(handle, NULL);
}

/* Those who leave between two slices had been looked at; who comes behind them is looked at all the same. */
static void subscribers_that_leave_between_slices_hide_nobody(void **state)
{
    session ended = { .uid = 2, .state = SHM_SESSION_DIED };
    uv_loop_t loop;

    (void)state;
    assert_int_equal(uv_loop_init(&loop), 0);
    events_start(&ring, &loop);
    subscribe_all(&loop);
    events_session_end(&ring, &ended);
    (void)uv_run(&loop, UV_RUN_NOWAIT);
    assert_int_equal(subscribers[0].at, 1);
    assert_int_equal(subscribers[NSUBSCRIBERS - 1].at, 0);
    assert_null(events_validate(&ring));
    for (uint32_t i = 0; i < NLEAVING; i++)
        events_unsubscribe(&ring, &subscribers[i]);
    for (int i = 0; i < 4; i++) {
        (void)uv_run(&loop, UV_RUN_NOWAIT);
        assert_null(events_validate(&ring));
    }
    assert_int_equal(subscribers[NSUBSCRIBERS - 1].at, 1);
    assert_false(uv_is_active((uv_handle_t *)&ring.idle)); /* and then it is quiet */
    uv_walk(&loop, close_handle, NULL);
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(subscribers_that_leave_between_slices_hide_nobody),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
