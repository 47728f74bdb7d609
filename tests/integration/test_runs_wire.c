/*
 * Runs on the wire: what no library would ask for, resize, return or free; nothing of others' is lost by it.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <signal.h>

#include "tests/support/objects.h"
#include "tests/support/rawheap.h"

static int refill(int fd, uint32_t class, uint32_t npages, uint32_t nspans, uint32_t *ret_first, uint32_t *ret_n)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Refill ask = GOALLOCD__REFILL__INIT;
    Goallocd__Reply *reply;
    int error;

    ask.span_class = class;
    ask.npages = npages;
    ask.nspans = nspans;
    request.id = 2;
    request.op_case = GOALLOCD__REQUEST__OP_REFILL;
    request.refill = &ask;
    reply = raw_call(fd, &request);
    assert_non_null(reply);
    error = reply->error;
    if (error == 0) {
        *ret_first = reply->refill->spans[0];
        *ret_n = (uint32_t)reply->refill->n_spans;
    }
    goallocd__reply__free_unpacked(reply, NULL);
    return error;
}

static int resize(int fd, uint32_t span, uint64_t npages)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__ResizeLarge ask = GOALLOCD__RESIZE_LARGE__INIT;

    ask.span = span;
    ask.npages = npages;
    request.id = 4;
    request.op_case = GOALLOCD__REQUEST__OP_RESIZE_LARGE;
    request.resize_large = &ask;
    return raw_error(fd, &request);
}

static void refill_of_runs_takes_pages_within_the_limits(void **state)
{
    static const struct {
        uint32_t npages;
        int error;
    } rows[] = { { 0, EINVAL },
                 { 1, EINVAL },
                 { SHM_RUN_PAGES_MIN - 1, EINVAL },
                 { SHM_RUN_PAGES_MIN, 0 },
                 { SHM_RUN_PAGES_MAX, 0 },
                 { SHM_RUN_PAGES_MAX + 1, EINVAL },
                 { 4096, EINVAL },
                 { 1u << 31, EINVAL },
                 { SHM_RUN_PAGES_MIN + 1, 0 },
                 { SHM_RUN_PAGES_MAX - 1, 0 },
                 { UINT32_MAX, EINVAL } };
    int fd = raw_attach(*state);
    uint64_t pages = 0;
    goalloc_stats_t stats;

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        for (uint32_t class = 0; class < 2; class ++) {
            uint32_t first = 0;
            uint32_t n = 0;

            assert_int_equal(refill(fd, class, rows[i].npages, 1, &first, &n), rows[i].error);
            assert_int_equal(n, rows[i].error == 0);
            assert_true((first != 0) == (rows[i].error == 0));
            pages += n * rows[i].npages;
        }
    }
    fixture_stats(*state, &stats);
    assert_int_equal(class_now(*state, 0).span_bytes, pages * PAGE_BYTES);
    assert_int_equal(stats.live_objects, 0);
    (void)close(fd);
    assert_int_equal(class_now(*state, 0).live_objects, 0);
}

static void refill_of_many_runs_is_bounded(void **state)
{
    int fd = raw_attach(*state);
    uint32_t first = 0;
    uint32_t n = 0;

    assert_int_equal(refill(fd, 0, SHM_RUN_PAGES_MAX, UINT32_MAX, &first, &n), 0);
    assert_in_range(n, 1, SHM_REFILL_PAGES_MAX / SHM_RUN_PAGES_MAX);
    assert_int_equal(refill(fd, 1, SHM_RUN_PAGES_MIN, UINT32_MAX, &first, &n), 0);
    assert_in_range(n, 1, SHM_REFILL_PAGES_MAX / SHM_RUN_PAGES_MIN);
    assert_int_equal(refill(fd, 0, SHM_RUN_PAGES_MIN, 0, &first, &n), EINVAL);
    (void)close(fd);
}

static void refill_of_a_small_class_takes_the_lengths_of_its_spans(void **state)
{
    static const uint32_t others[] = { SPAN_NPAGES_MAX + 1, SHM_RUN_PAGES_MAX + 1, 257, UINT32_MAX };
    int fd = raw_attach(*state);
    uint32_t first;
    uint32_t n;

    for (uint32_t class = 1; class < SIZE_CLASS_COUNT; class ++) {
        uint32_t npages[] = { 0, size_class_short_npages[class], size_class_npages[class] };
        uint64_t pages = 0;

        for (uint32_t i = 0; i < 3; i++) {
            assert_int_equal(refill(fd, 2 * class, npages[i], 1, &first, &n), 0);
            pages += npages[i] != 0 ? npages[i] : size_class_npages[class];
        }
        assert_int_equal(class_now(*state, class).span_bytes, pages * PAGE_BYTES);
        for (uint32_t i = 0; i < 4; i++)
            assert_int_equal(refill(fd, 2 * class, others[i], 1, &first, &n), EINVAL);
        for (uint32_t i = 1; i <= SPAN_NPAGES_MAX; i++) {
            if (size_class_span_nelems((uint8_t)class, i) == 0)
                assert_int_equal(refill(fd, 2 * class, i, 1, &first, &n), EINVAL);
        }
        assert_int_equal(class_now(*state, class).span_bytes, pages * PAGE_BYTES);
    }
    (void)close(fd);
}

/* Spans with free objects, short and long, that a process has left. */
static int leave_spans(const fixture *f, void *arg)
{
    static void *objects[512];
    size_t size = *(size_t *)arg;

    must_attach(f, 0);
    for (size_t i = 0; i < 512; i++)
        CHECK((objects[i] = goalloc_malloc(size)) != NULL);
    for (size_t i = 0; i < 512; i++) {
        if (i % 8 != 0)
            goalloc_free(objects[i]);
    }
    return 0;
}

/* What the session of the connection holds. */
static uint64_t held_pages(int fd)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Stats ask = GOALLOCD__STATS__INIT;
    Goallocd__Reply *reply;
    uint64_t bytes;

    request.id = 6;
    request.op_case = GOALLOCD__REQUEST__OP_STATS;
    request.stats = &ask;
    reply = raw_call(fd, &request);
    assert_non_null(reply);
    bytes = reply->stats->session_held_bytes;
    goallocd__reply__free_unpacked(reply, NULL);
    return bytes / PAGE_BYTES;
}

/* Whatever the lengths of the daemon's spans, a session's limit holds, and a refill brings no more of them. */
static void refill_with_a_limit_takes_no_more_than_it(void **state)
{
    enum { LIMIT_PAGES = 2 * SPAN_NPAGES_MAX + 1 };
    size_t size = 512;
    uint32_t class = size_class_for(size).n;
    const uint32_t npages[] = { size_class_short_npages[class], size_class_npages[class] };

    for (uint32_t i = 0; i < 2; i++) {
        uint64_t most = LIMIT_PAGES / npages[i] * npages[i];
        Goallocd__Attach ask = rawheap_attach_init();
        rawheap heap = { .fd = raw_connect(*state) };
        Goallocd__Reply *reply;
        goalloc_stats_t stats;
        int error = 0;

        assert_int_equal(child_run(*state, leave_spans, &size), 0);
        do
            fixture_stats(*state, &stats);
        while (stats.leased_spans > 0); /* its leases end soon */
        ask.limit_bytes = LIMIT_PAGES * PAGE_BYTES;
        reply = rawheap_ask(&heap, &ask);
        assert_true(reply != NULL && reply->error == 0);
        goallocd__reply__free_unpacked(reply, NULL);
        while (error == 0) {
            uint32_t first;
            uint32_t n = 0;

            error = refill(heap.fd, 2 * class, npages[i], 3, &first, &n);
            assert_true(n <= 3);
        }
        assert_int_equal(error, EDQUOT);
        assert_in_range(held_pages(heap.fd), most - npages[i] + 1, LIMIT_PAGES);
        for (int k = 0; k < ATTACH_NFDS; k++)
            (void)close(heap.fds[k]);
        (void)close(heap.fd);
    }
}

/* --- runs of a process that uses the library --- */

#define RUN_BYTES 100000

/* One live run, one that another process has freed, one that it has freed itself; by their first pages. */
typedef struct three {
    unsigned char *p[3];
    uint32_t span[3];
} three;

static int hold_three(const fixture *f, void *arg)
{
    three *shared;
    three t;

    must_attach(f, *(uint32_t *)arg);
    shared = goalloc_malloc(sizeof(*shared));
    CHECK(shared != NULL && goalloc_publish(shared) == 0);
    for (int i = 0; i < 3; i++) {
        t.p[i] = filled(RUN_BYTES, i);
        t.span[i] = (uint32_t)(goalloc_offset(t.p[i]) / PAGE_BYTES);
    }
    goalloc_free(t.p[2]);
    *shared = t;
    CHECK(goalloc_root_set("three", shared) == 0);
    (void)raise(SIGSTOP);
    CHECK(all_are(t.p[0], RUN_BYTES, 0) && goalloc_usable_size(t.p[0]) == 106496);
    CHECK(goalloc_free_checked(t.p[1]) == -EALREADY && goalloc_free_checked(t.p[2]) == -EALREADY);

    goalloc_stats_t before = stats_now();

    for (int i = 0; i < 2; i++) { /* both are still its own, and used again */
        unsigned char *p = filled(RUN_BYTES, 7);

        CHECK(p == t.p[1] || p == t.p[2]);
    }
    CHECK(stats_now().session_rpcs == before.session_rpcs + 1);
    CHECK(all_are(t.p[0], RUN_BYTES, 0));
    return 0;
}

static int free_the_second(const fixture *f, void *arg)
{
    void *p;

    must_attach(f, 0);
    CHECK(goalloc_root_get("three", &p) == 0);
    if (arg != NULL)
        *(three *)arg = *(three *)p;
    CHECK(goalloc_free_checked(((three *)p)->p[1]) == 0);
    return 0;
}

static void scribble_at_others_runs(const fixture *f, const uint32_t *spans)
{
    int fd = raw_attach(f);

    for (int i = 0; i < 3; i++) {
        assert_int_equal(raw_free_large(fd, spans[i]), 0); /* the bits decide, and the lease */
        assert_int_equal(raw_free_large(fd, spans[i] + 1), 0);
        assert_int_equal(resize(fd, spans[i], 5), i == 0 ? EPERM : EINVAL);
        assert_int_equal(resize(fd, spans[i], 50), i == 0 ? EPERM : EINVAL);
        assert_int_equal(resize(fd, spans[i] + 1, 50), EINVAL);
    }
    assert_int_equal(raw_return(fd, &spans[0], 1, NULL, 0), 0); /* passed over */
    (void)close(fd);
    fd = raw_attach(f);
    assert_int_equal(raw_free_large(fd, UINT32_MAX), -1);
    (void)close(fd);
}

/* The first pages of the three, which lie behind each other or not. */
static void three_spans(const fixture *f, uint32_t *ret)
{
    int fds[2];
    pid_t pid;

    assert_int_equal(pipe(fds), 0);
    pid = fork();
    if (pid == 0) {
        three t;
        int r = free_the_second(f, &t);

        CHECK(write(fds[1], t.span, sizeof(t.span)) == (ssize_t)sizeof(t.span));
        _exit(r);
    }
    assert_int_equal(read(fds[0], ret, sizeof(uint32_t) * 3), sizeof(uint32_t) * 3);
    assert_int_equal(child_wait(pid), 0);
    (void)close(fds[0]);
    (void)close(fds[1]);
}

static void free_and_resize_of_runs_that_another_leases_change_nothing(void **state)
{
    uint32_t flags[] = { 0, GOALLOC_ATTACH_RECLAIM };

    (void)state;
    for (int i = 0; i < 2; i++) {
        uint32_t spans[3];
        class_figures before;
        class_figures after;
        fixture own;
        const fixture *f = &own;
        pid_t pid;

        fixture_start(&own, NULL);
        pid = child_start(f, hold_three, &flags[i]);
        assert_true(child_stops(pid));
        three_spans(f, spans);
        before = class_now(f, 0);
        scribble_at_others_runs(f, spans);
        after = class_now(f, 0);
        assert_int_equal(after.spans, before.spans);
        assert_int_equal(after.span_bytes, before.span_bytes);
        assert_int_equal(after.live_objects, before.live_objects);
        (void)kill(pid, SIGCONT);
        assert_int_equal(child_wait(pid), 0);
        assert_true(fixture_is_whole(f));
        assert_true(fixture_stop(&own));
    }
}

static void free_of_a_dead_sessions_run_frees_it_only_when_its_object_is(void **state)
{
    const fixture *f = *state;
    uint32_t flags = 0;
    uint32_t spans[3];
    pid_t pid = child_start(f, hold_three, &flags);
    int fd;

    assert_true(child_stops(pid));
    three_spans(f, spans);
    (void)kill(pid, SIGKILL);
    (void)child_wait(pid);
    assert_true(fixture_is_clean(f, 2));
    assert_int_equal(class_now(f, 0).spans, 1);
    fd = raw_attach(f);
    for (int i = 0; i < 3; i++)
        assert_int_equal(raw_free_large(fd, spans[i]), 0);
    assert_int_equal(class_now(f, 0).live_objects, 1);
    /* Nobody leases the live one: whoever resizes it has it as a large object. */
    assert_int_equal(resize(fd, spans[0], 6), 0);
    assert_int_equal(class_now(f, 0).span_bytes, 6 * PAGE_BYTES);
    assert_int_equal(resize(fd, spans[0], 7), 0);
    assert_int_equal(raw_return(fd, &spans[0], 1, NULL, 0), 0);
    assert_int_equal(class_now(f, 0).live_objects, 1);
    assert_int_equal(raw_free_large(fd, spans[0]), 0);
    assert_int_equal(class_now(f, 0).live_objects, 1);
    (void)close(fd);
}

/* A raw session's own run, in which there is no object: it can't be resized, and can be returned. */
static void resize_of_an_own_run_is_refused(void **state)
{
    int fd = raw_attach(*state);
    uint32_t first;
    uint32_t n;

    assert_int_equal(refill(fd, 0, 9, 1, &first, &n), 0);
    assert_int_equal(resize(fd, first, 10), EINVAL);
    assert_int_equal(raw_free_large(fd, first), 0);
    assert_int_equal(class_now(*state, 0).spans, 1);
    assert_int_equal(raw_return(fd, &first, 1, NULL, 0), 0);
    assert_int_equal(class_now(*state, 0).spans, 0);
    assert_int_equal(raw_return(fd, &first, 1, NULL, 0), 0); /* passed over */
    (void)close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(refill_of_runs_takes_pages_within_the_limits),
        FIXTURE_TEST(refill_of_many_runs_is_bounded),
        FIXTURE_TEST(refill_of_a_small_class_takes_the_lengths_of_its_spans),
        FIXTURE_TEST(refill_with_a_limit_takes_no_more_than_it),
        FIXTURE_TEST(free_and_resize_of_runs_that_another_leases_change_nothing),
        FIXTURE_TEST(free_of_a_dead_sessions_run_frees_it_only_when_its_object_is),
        FIXTURE_TEST(resize_of_an_own_run_is_refused),
    };

    return cmocka_run_group_tests_name("runs on the wire", tests, NULL, NULL);
}
