/*
 * Rounds: what many ask for at once, or one without end, is done in slices, for all who wait, and as exactly as for
 * one.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>

#include "proto/frame.h"
#include "tests/support/rawheap.h"
#include "tests/support/waits.h"

#define NCHECKS  600u
#define NSPANS   8000u
#define NWAITING 20u

static Goallocd__Check check_body = GOALLOCD__CHECK__INIT;
static Goallocd__Stats stats_body = GOALLOCD__STATS__INIT;
static Goallocd__Trim trim_body = GOALLOCD__TRIM__INIT;

static Goallocd__Request request_of(Goallocd__Request__OpCase kind)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;

    request.id = 1;
    request.op_case = kind;
    if (kind == GOALLOCD__REQUEST__OP_CHECK)
        request.check = &check_body;
    else if (kind == GOALLOCD__REQUEST__OP_TRIM)
        request.trim = &trim_body;
    else
        request.stats = &stats_body;
    return request;
}

/* Send n requests of that kind at once; they fit into the socket's buffer. */
static void send_many(int fd, Goallocd__Request__OpCase kind, unsigned n)
{
    static uint8_t frames[FRAME_BYTES_MAX];
    Goallocd__Request request = request_of(kind);
    size_t used = 0;

    for (unsigned i = 0; i < n; i++)
        used += frame_pack(&request.base, frames + used, sizeof(frames) - used);
    assert_int_equal(write(fd, frames, used), used);
}

/* The error of the reply; -1: disconnected. */
static int call(int fd, Goallocd__Request__OpCase kind)
{
    Goallocd__Request request = request_of(kind);
    Goallocd__Reply *reply = raw_call(fd, &request);
    int error = reply == NULL ? -1 : reply->error;

    if (reply != NULL)
        goallocd__reply__free_unpacked(reply, NULL);
    return error;
}

/* Requests that the daemon has answered or begun, and how often it has handled one. */
static void figures(const fixture *f, uint64_t *ret_rpcs, uint64_t *ret_tries)
{
    Goallocd__Reply *reply = fixture_stats_reply(f);

    *ret_rpcs = reply->stats->rpcs;
    *ret_tries = reply->stats->tries;
    goallocd__reply__free_unpacked(reply, NULL);
}

/* --- checks --- */

static void check_of_one_client_again_and_again_lets_others_in_between(void **state)
{
    const fixture *f = *state;
    int flood = raw_connect(f);
    int fd = raw_connect(f);
    Goallocd__Request request = request_of(GOALLOCD__REQUEST__OP_STATS);
    Goallocd__Reply *reply;
    uint64_t before;
    uint64_t tries;

    assert_int_equal(call(flood, GOALLOCD__REQUEST__OP_CHECK), 0);
    assert_int_equal(call(fd, GOALLOCD__REQUEST__OP_CHECK), 0);
    figures(f, &before, &tries);
    waits_stop_daemon(f);
    send_many(flood, GOALLOCD__REQUEST__OP_CHECK, NCHECKS);
    send_many(fd, GOALLOCD__REQUEST__OP_STATS, 1);
    waits_continue_daemon(f);
    /* The second Stats of this connection is handled when the first one has been answered. */
    reply = raw_call(fd, &request);
    assert_non_null(reply);
    assert_in_range(reply->stats->rpcs - before, 1, NCHECKS / 2);
    goallocd__reply__free_unpacked(reply, NULL);
    (void)close(flood);
    (void)close(fd);
}

/* --- trims --- */

/* The caches of all threads are emptied once a second, whoever asks and how often. */
static void trim_of_many_again_and_again_is_one_round_a_second(void **state)
{
    const fixture *f = *state;
    int fds[NWAITING];
    int64_t start;

    for (unsigned i = 0; i < NWAITING; i++)
        fds[i] = raw_connect(f);
    start = waits_now_ms();
    for (unsigned i = 1; i < NWAITING; i++)
        send_many(fds[i], GOALLOCD__REQUEST__OP_TRIM, 1);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(call(fds[0], GOALLOCD__REQUEST__OP_TRIM), 0);
    assert_true(waits_now_ms() - start >= 1900);
    for (unsigned i = 1; i < NWAITING; i++) {
        struct pollfd pfd = { .fd = fds[i], .events = POLLIN };

        assert_int_equal(poll(&pfd, 1, 0), 1); /* they were in the rounds that fds[0] has waited for */
        (void)close(fds[i]);
    }
    (void)close(fds[0]);
}

/* --- statistics --- */

static int asking_for_stats(const fixture *f, void *arg)
{
    (void)arg;
    waits_not_for_ever();
    for (int fd = raw_connect(f);;)
        CHECK(call(fd, GOALLOCD__REQUEST__OP_STATS) == 0);
}

static uint64_t live_objects(void)
{
    goalloc_stats_t stats = { .struct_size = sizeof(stats) };

    CHECK(goalloc_stats(&stats) == 0);
    return stats.live_objects;
}

static int counting(const fixture *f, void *arg)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;

    (void)arg;
    waits_not_for_ever();
    options.socket_path = f->socket;
    CHECK(goalloc_attach(&options) == 0);
    for (unsigned i = 1; i <= 50; i++) {
        void *objects[50];

        for (unsigned n = 0; n < i; n++)
            CHECK((objects[n] = goalloc_malloc(64 * (n + 1))) != NULL);
        CHECK(live_objects() == i);
        for (unsigned n = 0; n < i; n++)
            goalloc_free(objects[n]);
        CHECK(live_objects() == 0);
    }
    return 0;
}

/* A count that has begun before a free is never the answer to who asks after it. */
static void stats_beside_others_who_ask_without_end_are_exact(void **state)
{
    const fixture *f = *state;
    pid_t others[2] = { child_start(f, asking_for_stats, NULL), child_start(f, asking_for_stats, NULL) };

    assert_int_equal(child_run(f, counting, NULL), 0);
    for (size_t i = 0; i < 2; i++) {
        (void)kill(others[i], SIGKILL);
        assert_int_equal(child_wait(others[i]), 1000 + SIGKILL);
    }
}

/* --- returns of many spans --- */

static void fill(rawheap *heap, uint32_t spans[NSPANS])
{
    for (size_t n = 0, got; n < NSPANS; n += got) {
        got = rawheap_refill(heap, 2, 0, (uint32_t)(NSPANS - n), spans + n); /* objects of 8 bytes */
        CHECK(got > 0);
    }
}

static void return_of_many_spans_is_done_in_slices(void **state)
{
    static uint32_t spans[NSPANS];
    const fixture *f = *state;
    rawheap heap;
    uint64_t rpcs[2];
    uint64_t tries[2];

    rawheap_open(&heap, f, 0, "many");
    fill(&heap, spans);
    figures(f, &rpcs[0], &tries[0]);
    assert_int_equal(rawheap_return(&heap, spans, NSPANS, NULL, 0), 0);
    figures(f, &rpcs[1], &tries[1]);
    assert_int_equal(rpcs[1] - rpcs[0], 2);
    assert_true(tries[1] - tries[0] > rpcs[1] - rpcs[0]);
    for (size_t i = 0; i < NSPANS; i++)
        assert_false(rawheap_leases(&heap, page_at(spans[i])));
    /* One that comes twice is passed over, and what came before it is returned. */
    fill(&heap, spans);
    spans[NSPANS - 1] = spans[0];
    assert_int_equal(rawheap_return(&heap, spans, NSPANS, NULL, 0), 0);
    for (size_t i = 0; i < NSPANS; i++)
        assert_false(rawheap_leases(&heap, page_at(spans[i])));
    rawheap_close(&heap);
}

/* Its process dies between two slices, or before, or after. */
static int dying_in_a_return(const fixture *f, void *arg)
{
    static uint32_t spans[NSPANS];
    static uint8_t frame[FRAME_BYTES_MAX];
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__ReturnSpans ask = GOALLOCD__RETURN_SPANS__INIT;
    uint64_t *seed = arg;
    rawheap heap;
    size_t len;

    rawheap_open(&heap, f, 0, "dies");
    fill(&heap, spans);
    ask.spans = spans;
    ask.n_spans = NSPANS;
    request.op_case = GOALLOCD__REQUEST__OP_RETURN_SPANS;
    request.return_spans = &ask;
    len = frame_pack(&request.base, frame, sizeof(frame));
    CHECK(write(heap.fd, frame, len) == (ssize_t)len);
    if (test_random(seed) % 4 != 0)
        (void)usleep((useconds_t)(test_random(seed) % 3000));
    _exit(0);
}

static void process_that_dies_in_a_long_return_leaves_nothing(void **state)
{
    const fixture *f = *state;
    uint64_t seed = test_seed();

    for (int i = 0; i < 8; i++) {
        (void)test_random(&seed);
        assert_int_equal(child_run(f, dying_in_a_return, &seed), 0);
    }
    assert_true(fixture_is_clean(f, 0));
}

int main(void)
{
#define LAZY(name) FIXTURE_TEST_WITH(name, "--reserve", "1G", "--commit", "lazy")
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(check_of_one_client_again_and_again_lets_others_in_between),
        FIXTURE_TEST(trim_of_many_again_and_again_is_one_round_a_second),
        FIXTURE_TEST(stats_beside_others_who_ask_without_end_are_exact),
        LAZY(return_of_many_spans_is_done_in_slices),
        LAZY(process_that_dies_in_a_long_return_leaves_nothing),
    };

    return cmocka_run_group_tests_name("rounds", tests, NULL, NULL);
}
