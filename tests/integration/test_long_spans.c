/*
 * Long spans: what takes millions of entries of the page map is written between the turns of the loop: others are
 * served meanwhile, whoever has asked for it may go or die, and so may the daemon.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <poll.h>
#include <sys/socket.h>

#include "tests/support/rawheap.h"
#include "tests/support/waits.h"

#define LONG_PAGES (128 * GIB / PAGE_BYTES)

static bool has_answer(const rawheap *heap)
{
    struct pollfd poll_fd = { .fd = heap->fd, .events = POLLIN };

    return poll(&poll_fd, 1, 0) == 1;
}

/* Ask for a long span, and don't wait for it. */
static void ask(const rawheap *heap)
{
    static uint8_t out[FRAME_BYTES_MAX];
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__AllocLarge body = GOALLOCD__ALLOC_LARGE__INIT;
    size_t len;

    body.npages = LONG_PAGES;
    request.id = 9;
    request.op_case = GOALLOCD__REQUEST__OP_ALLOC_LARGE;
    request.alloc_large = &body;
    len = frame_pack(&request.base, out, sizeof(out));
    assert_int_equal(send(heap->fd, out, len, MSG_NOSIGNAL), len);
}

static void ping(int fd)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Ping body = GOALLOCD__PING__INIT;
    Goallocd__Reply *reply;

    request.id = 1;
    request.op_case = GOALLOCD__REQUEST__OP_PING;
    request.ping = &body;
    reply = raw_call(fd, &request);
    assert_non_null(reply);
    goallocd__reply__free_unpacked(reply, NULL);
}

static uint64_t leased_spans(const fixture *f)
{
    goalloc_stats_t stats;

    fixture_stats(f, &stats);
    return stats.leased_spans;
}

/*
 * Ask for a long span, which is still being made when other, who has come later, has been served. A test that does not
 * get a CPU for so long may see the second answer first: then it asks anew.
 */
static void ask_and_serve_other(const fixture *f, rawheap *heap, int other)
{
    for (int i = 0; i < 20; i++) {
        rawheap_open(heap, f, 0, "long");
        ask(heap);
        ping(other);
        if (!has_answer(heap))
            return;
        rawheap_close(heap);
        while (leased_spans(f) > 0)
            ;
    }
    fail_msg("nobody is served while a long span is made");
}

static void others_are_served_while_a_long_span_is_made(void **state)
{
    fixture *f = *state;
    rawheap heap;
    int other = raw_connect(f);
    page_no first;

    waits_not_for_ever();
    ping(other);
    ask_and_serve_other(f, &heap, other);
    assert_true(fixture_is_whole(f));
    while (!has_answer(&heap))
        ping(other);
    first = page_at(u32_load_acquire(&heap.map.page_map[LONG_PAGES]));
    assert_true(rawheap_leases(&heap, first));
    for (uint64_t i = 0; i < LONG_PAGES; i += LONG_PAGES / 64 - 1)
        assert_int_equal(u32_load_acquire(&heap.map.page_map[first.n + i]), first.n);
    assert_int_equal(u32_load_acquire(&heap.map.page_map[first.n + LONG_PAGES - 1]), first.n);
    rawheap_close(&heap); /* its end is in slices as well */
    ping(other);
    (void)close(other);
    assert_true(fixture_is_clean(f, 0));
    assert_true(fixture_is_whole(f));
    (void)alarm(0);
}

static void who_goes_meanwhile_leaves_nothing(void **state)
{
    fixture *f = *state;
    int other = raw_connect(f);
    rawheap heap;

    waits_not_for_ever();
    for (int i = 0; i < 2; i++) {
        rawheap_open(&heap, f, 0, "long");
        ask(&heap);
        ping(other);
        rawheap_close(&heap);
        assert_true(fixture_is_whole(f));
    }
    (void)close(other);
    assert_true(fixture_is_clean(f, 0));
    assert_true(fixture_is_whole(f));
    (void)alarm(0);
}

/* Each is more than the arena has beside the one before, whose pages come free in slices; and there may be a rest. */
static void one_after_the_other_is_made(void **state)
{
    fixture *f = *state;
    rawheap before;
    rawheap heap;

    waits_not_for_ever();
    rawheap_open(&before, f, 0, "first");
    assert_int_not_equal(rawheap_alloc_large(&before, LONG_PAGES).n, 0);
    for (int i = 0; i < 3; i++) {
        rawheap_open(&heap, f, 0, "next");
        rawheap_close(&before);
        while (leased_spans(f) > 0)
            ;
        assert_int_not_equal(rawheap_alloc_large(&heap, LONG_PAGES).n, 0);
        before = heap;
    }
    rawheap_close(&before);
    assert_true(fixture_is_clean(f, 0));
    assert_true(fixture_is_whole(f));
    (void)alarm(0);
}

static void daemon_killed_meanwhile_leaves_nothing(void **state)
{
    fixture *f = *state;
    rawheap heap;
    int other = raw_connect(f);

    waits_not_for_ever();
    rawheap_open(&heap, f, 0, "long");
    ask(&heap);
    ping(other);
    (void)close(other);
    fixture_kill(f);
    fixture_restart(f, NULL);
    assert_int_equal(leased_spans(f), 0);
    rawheap_close(&heap);
    rawheap_open(&heap, f, 0, "long");
    assert_int_not_equal(rawheap_alloc_large(&heap, LONG_PAGES).n, 0);
    assert_int_equal(leased_spans(f), 1);
    rawheap_close(&heap);
    assert_true(fixture_is_clean(f, 0));
    assert_true(fixture_is_whole(f));
    (void)alarm(0);
}

int main(void)
{
    static const char *const options[] = { "--reserve", "256G", "--commit", "lazy", NULL };
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST_WITH(others_are_served_while_a_long_span_is_made, "--reserve", "256G", "--commit", "lazy"),
        FIXTURE_TEST_WITH(who_goes_meanwhile_leaves_nothing, "--reserve", "256G", "--commit", "lazy"),
        FIXTURE_TEST_WITH(one_after_the_other_is_made, "--reserve", "256G", "--commit", "lazy"),
        cmocka_unit_test_prestate_setup_teardown(daemon_killed_meanwhile_leaves_nothing, fixture_setup_kept,
                                                 fixture_teardown, (void *)(uintptr_t)options),
    };

    return cmocka_run_group_tests_name("long spans", tests, NULL, NULL);
}
