/*
 * A daemon dies at each point at which a session gets the right to collect, confirms a span, or gives the right back:
 * the next one finds one session that has it, or none; the collector's request, sent again, does what it was to do.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <string.h>

#include "shm/origin.h"
#include "tests/support/points.h"
#include "tests/support/rawheap.h"

#define CLASS 20u

/* The error, -1: the daemon has died. */
static int collect(const rawheap *heap, Goallocd__Collect__Op op, uint32_t span)
{
    return rawheap_collect(heap, op, &span, span != 0);
}

/* A whole collection that has a span to confirm. False: the daemon has died. */
static bool collect_all(const rawheap *heap, uint32_t span)
{
    return collect(heap, GOALLOCD__COLLECT__OP__BEGIN, 0) == 0 &&
           collect(heap, GOALLOCD__COLLECT__OP__CONFIRM, span) == 0 &&
           collect(heap, GOALLOCD__COLLECT__OP__END, 0) == 0;
}

static void daemon_dies(const char *name)
{
    uint32_t span;
    rawheap heap;
    rawheap other;
    fixture f;

    fixture_start_kept(&f, NULL);
    rawheap_open(&heap, &f, 0, "collector");
    rawheap_open(&other, &f, 0, "other");
    assert_int_equal(rawheap_refill(&heap, CLASS, 1, 1, &span), 1);
    rawheap_fill(&heap, page_at(span));
    assert_int_equal(rawheap_return(&heap, &span, 1, NULL, 0), 0);
    fixture_kill(&f);
    (void)close(heap.fd);
    (void)close(other.fd);
    f.crash = name;
    fixture_restart(&f, NULL);
    f.crash = NULL;
    assert_int_equal(rawheap_come_back(&heap, &f), 0);
    if (collect_all(&heap, span) || child_wait(f.daemon) != 1000 + SIGKILL)
        fail_msg("no daemon comes by %s", name);
    fixture_restart(&f, NULL);
    (void)close(heap.fd);

    assert_int_equal(rawheap_come_back(&other, &f), 0);
    assert_int_equal(collect(&other, GOALLOCD__COLLECT__OP__BEGIN, 0),
                     u32_load_acquire(&heap.map.sessions[heap.session].collecting) != 0 ? EBUSY : 0);
    (void)collect(&other, GOALLOCD__COLLECT__OP__END, 0);
    assert_int_equal(rawheap_come_back(&heap, &f), 0);
    assert_true(collect_all(&heap, span));
    assert_true(origin_unpack(u64_load_acquire(&shm_span_at(&heap.map, page_at(span))->origin)).confirmed);
    assert_int_equal(collect(&other, GOALLOCD__COLLECT__OP__BEGIN, 0), 0);
    rawheap_close(&heap);
    rawheap_close(&other);
    assert_true(fixture_is_clean(&f, 1));
    assert_true(fixture_is_whole(&f));
    assert_true(fixture_stop(&f));
}

static void next_daemon_knows_who_collects_wherever_the_last_one_died(void **state)
{
    const char *name;

    (void)state;
    for (size_t at = 0; (name = points_next('k', &at)) != NULL;)
        daemon_dies(name);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(next_daemon_knows_who_collects_wherever_the_last_one_died),
    };

    return cmocka_run_group_tests_name("crashes and collectors", tests, NULL, NULL);
}
