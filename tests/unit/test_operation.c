/*
 * Operations without a daemon: what becomes of each state when the peer closes, and a pool that is empty.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "daemon/serve/operation.h"

typedef struct closing_row {
    enum operation_state state;
    bool stays;
} closing_row;

static const Goallocd__Request request = { .id = 7, .op_case = GOALLOCD__REQUEST__OP_REFILL };

static operation_rings rings;
static peer_host host = { .operations = &rings };

static int rings_setup(void **state)
{
    (void)state;
    operation_rings_init(&rings);
    return 0;
}

static void on_wake(void *data)
{
    ++*(unsigned *)data;
}

/* Bring an operation of p into the state. */
static void reach(operation *op, peer *p, operation_pool *pool, queue *q, enum operation_state state)
{
    if (state == OPERATION_LEASING || state == OPERATION_COMMITTING) {
        operation_begin_leasing(op, p, &request, pool, q);
    } else if (state == OPERATION_DEFERRED) {
        operation_begin_deferred(op, p, &request, q, WAIT_MEMORY, 0);
    } else if (state == OPERATION_JOINED || state == OPERATION_RELEASING) {
        operation_begin(op, p, &request, OPERATION_WAITING);
        operation_set_state(op, OPERATION_JOINED);
    } else {
        operation_begin(op, p, &request, state);
    }
    if (op->state != state)
        operation_set_state(op, state);
    assert_ptr_equal(p->op, op);
    assert_null(operation_validate(op, p));
}

static void operation_close_ends_what_nobody_comes_back_to(void **state)
{
    static const closing_row rows[] = {
        { OPERATION_DEFERRED, false }, { OPERATION_LEASING, true }, { OPERATION_COMMITTING, true },
        { OPERATION_WAITING, false },  { OPERATION_JOINED, false }, { OPERATION_RELEASING, false },
        { OPERATION_ENDING, false },   { OPERATION_PAUSED, false },
    };
    operation_pool *pool = calloc(1, sizeof(*pool));
    unsigned nwakes = 0;
    queue q = { .wake = on_wake, .data = &nwakes };

    (void)state;
    assert_non_null(pool);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        peer p = { .host = &host };
        operation op = { .state = OPERATION_NONE };

        reach(&op, &p, pool, &q, rows[i].state);
        assert_int_equal(q.nwaiting, rows[i].state == OPERATION_DEFERRED);
        operation_close(&op);
        assert_int_equal(q.nwaiting, 0);
        assert_null(queue_validate(&q));
        p.closing = true;
        assert_int_equal(op.state, rows[i].stays ? rows[i].state : OPERATION_NONE);
        assert_int_equal(p.op != NULL, rows[i].stays);
        assert_null(operation_validate(&op, &p));
        if (rows[i].stays)
            operation_end(&op);
        assert_null(op.memory);
    }
    free(pool);
}

static void operation_begin_of_a_closing_peer_does_nothing(void **state)
{
    peer p = { .host = &host, .closing = true };
    operation op = { .state = OPERATION_NONE };

    (void)state;
    operation_begin(&op, &p, &request, OPERATION_WAITING);
    assert_null(p.op);
    assert_int_equal(op.state, OPERATION_NONE);
}

static void operation_defer_of_a_closing_peer_ends_it(void **state)
{
    operation_pool *pool = calloc(1, sizeof(*pool));
    peer p = { .host = &host };
    operation op = { .state = OPERATION_NONE };
    queue q = { .wake = on_wake };

    (void)state;
    assert_non_null(pool);
    operation_begin_leasing(&op, &p, &request, pool, &q);
    p.closing = true;
    operation_defer(&op, WAIT_PAGES, 1, true);
    assert_int_equal(q.nwaiting, 0);
    assert_int_equal(op.state, OPERATION_NONE);
    assert_null(p.op);
    free(pool);
}

static void operation_end_gives_memory_back_and_wakes(void **state)
{
    static peer peers[OPERATION_MEMORIES + 1];
    static operation ops[OPERATION_MEMORIES + 1];
    peer *late_peer = &peers[OPERATION_MEMORIES];
    operation *late = &ops[OPERATION_MEMORIES];
    operation_pool *pool = calloc(1, sizeof(*pool));
    unsigned nwakes = 0;
    queue q = { .wake = on_wake, .data = &nwakes };
    operation_memory *memory;

    (void)state;
    assert_non_null(pool);
    for (size_t i = 0; i < OPERATION_MEMORIES; i++) {
        assert_true(operation_pool_has(pool));
        peers[i].host = &host;
        operation_begin_leasing(&ops[i], &peers[i], &request, pool, &q);
    }
    assert_false(operation_pool_has(pool));
    late_peer->host = &host;
    operation_begin_deferred(late, late_peer, &request, &q, WAIT_MEMORY, 0);
    assert_null(operation_validate(late, late_peer));
    assert_int_equal(nwakes, 0);

    memory = ops[3].memory;
    operation_end(&ops[3]);
    assert_int_equal(nwakes, 1);
    assert_ptr_equal(operation_of(queue_next(&q, &(queue_facts){ .memory = operation_pool_has(pool) })), late);
    operation_end(late);
    operation_begin_leasing(late, late_peer, &request, pool, &q);
    assert_ptr_equal(late->memory, memory);
    free(pool);
}

static void operation_validate_finds_what_is_wrong(void **state)
{
    peer p = { .host = &host };
    operation op = { .state = OPERATION_NONE };

    (void)state;
    assert_null(operation_validate(&op, &p));
    operation_begin(&op, &p, &request, OPERATION_WAITING);
    p.closing = true;
    assert_non_null(operation_validate(&op, &p));
    p.closing = false;
    op.state = OPERATION_COMMITTING;
    assert_non_null(operation_validate(&op, &p));
    op.state = OPERATION_WAITING;
    p.op = NULL;
    assert_non_null(operation_validate(&op, &p));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(operation_close_ends_what_nobody_comes_back_to),
        cmocka_unit_test(operation_begin_of_a_closing_peer_does_nothing),
        cmocka_unit_test(operation_defer_of_a_closing_peer_ends_it),
        cmocka_unit_test(operation_end_gives_memory_back_and_wakes),
        cmocka_unit_test(operation_validate_finds_what_is_wrong),
    };

    return cmocka_run_group_tests_name("operations", tests, rings_setup, NULL);
}
