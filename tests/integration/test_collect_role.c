/*
 * Who may collect: one session at a time, over its death and the daemon's; what it confirms counts, and lies do not.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "shm/origin.h"
#include "tests/support/other.h"
#include "tests/support/parts.h"
#include "tests/support/rawheap.h"
#include "tests/support/waits.h"

#define CLASS 20u

static int begin(const rawheap *heap)
{
    return rawheap_collect(heap, GOALLOCD__COLLECT__OP__BEGIN, NULL, 0);
}

/* The same, as soon as no session is ending. */
static int begin_patiently(const rawheap *heap)
{
    int error = begin(heap);

    for (int i = 0; i < 2000 && error == EAGAIN; i++) {
        waits_sleep_ms(5);
        error = begin(heap);
    }
    return error;
}

static int end(const rawheap *heap)
{
    return rawheap_collect(heap, GOALLOCD__COLLECT__OP__END, NULL, 0);
}

static int confirm(const rawheap *heap, uint32_t span)
{
    return rawheap_collect(heap, GOALLOCD__COLLECT__OP__CONFIRM, &span, 1);
}

static origin_word origin_of(const rawheap *heap, uint32_t span)
{
    return origin_unpack(u64_load_acquire(&shm_span_at(&heap->map, page_at(span))->origin));
}

static bool is_suspect(const rawheap *heap, uint32_t span)
{
    uint64_t word = u64_load_acquire(&shm_span_at(&heap->map, page_at(span))->origin);

    return origin_is_suspect(word, &heap->map.sessions[origin_unpack(word).session.n]);
}

static bool has_right(const rawheap *heap)
{
    return u32_load_acquire(&heap->map.sessions[heap->session].collecting) == 1;
}

static void await_end(const rawheap *looker, uint32_t session)
{
    for (int i = 0; i < 2000; i++) {
        if (u32_load_acquire(&looker->map.sessions[session].state) == SHM_SESSION_FREE)
            return;
        waits_sleep_ms(5);
    }
    fail_msg("session %u does not end", session);
}

/* A read-only session, of which only the connection stays. */
static void open_reader(rawheap *ret, const fixture *f)
{
    Goallocd__Attach ask = rawheap_attach_init();
    Goallocd__Reply *reply;

    ret->fd = raw_connect(f);
    ask.flags = SESSION_READONLY;
    ask.label = (char *)(uintptr_t) "reader";
    reply = rawheap_ask(ret, &ask);
    assert_true(reply != NULL && reply->error == 0);
    goallocd__reply__free_unpacked(reply, NULL);
    for (int i = 0; i < ATTACH_NFDS; i++) {
        if (ret->fds[i] >= 0)
            (void)close(ret->fds[i]);
    }
}

/* --- the right --- */

static void collect_of_two_sessions_is_one_at_a_time(void **state)
{
    const fixture *f = *state;
    rawheap a;
    rawheap b;
    rawheap reader;

    rawheap_open(&a, f, 0, "a");
    rawheap_open(&b, f, 0, "b");
    open_reader(&reader, f);
    assert_int_equal(begin(&reader), EROFS);
    (void)close(reader.fd);
    assert_int_equal(end(&a), ENOENT);
    assert_int_equal(begin(&a), 0);
    assert_true(has_right(&a));
    assert_int_equal(begin(&b), EBUSY);
    assert_int_equal(end(&b), ENOENT);
    assert_int_equal(begin(&a), 0);
    assert_int_equal(end(&a), 0);
    assert_false(has_right(&a));
    assert_int_equal(begin(&b), 0);
    assert_int_equal(begin(&a), EBUSY);
    rawheap_close(&b); /* as if it had died */
    await_end(&a, b.session);
    assert_int_equal(begin(&a), 0);
    assert_true(fixture_is_whole(f));
    rawheap_close(&a);
    assert_true(fixture_is_clean(f, 0));
}

/* Both would free the same objects. */
static void reclaim_while_a_session_collects_is_refused(void **state)
{
    const fixture *f = *state;
    rawheap a;
    rawheap b;
    char number[16];
    char out[1024];
    const char *arguments[] = { "reclaim", number, "--yes", NULL };

    rawheap_open(&a, f, 0, "a");
    rawheap_open(&b, f, 0, "b");
    (void)snprintf(number, sizeof(number), "%u", b.session);
    rawheap_close(&b);
    await_end(&a, b.session);
    assert_int_equal(begin(&a), 0);
    assert_int_equal(fixture_ctl(f, arguments, out, sizeof(out)), 1);
    assert_int_equal(end(&a), 0);
    assert_int_equal(fixture_ctl(f, arguments, out, sizeof(out)), 0);
    assert_int_equal(begin(&a), 0);
    rawheap_close(&a);
    assert_true(fixture_is_clean(f, 0));
}

static void collect_of_what_no_collector_asks_is_refused(void **state)
{
    static uint32_t spans[2000];
    const fixture *f = *state;
    rawheap a = { .fd = raw_connect(f) };
    uint32_t span;

    assert_int_equal(begin(&a), ENOTCONN);
    (void)close(a.fd);

    rawheap_open(&a, f, 0, "a");
    assert_int_equal(rawheap_collect(&a, (Goallocd__Collect__Op)77, NULL, 0), EINVAL);
    assert_int_equal(rawheap_collect(&a, GOALLOCD__COLLECT__OP__NONE, NULL, 0), EINVAL);
    assert_int_equal(confirm(&a, 1), ENOENT);
    assert_int_equal(begin(&a), 0);
    for (size_t i = 0; i < sizeof(spans) / sizeof(spans[0]); i++)
        spans[i] = 1;
    assert_int_equal(rawheap_collect(&a, GOALLOCD__COLLECT__OP__CONFIRM, spans, 1025), EINVAL);
    assert_int_equal(rawheap_collect(&a, GOALLOCD__COLLECT__OP__CONFIRM, spans, 1024), 0);
    assert_int_equal(confirm(&a, 0), EINVAL);
    assert_int_equal(confirm(&a, UINT32_MAX), EINVAL);
    assert_int_equal(confirm(&a, (uint32_t)a.map.npages - 1), 0); /* no span, which is passed over */
    assert_int_equal(rawheap_refill(&a, CLASS, 1, 1, &span), 1);
    assert_int_equal(confirm(&a, span), 0);
    assert_false(origin_of(&a, span).confirmed); /* it is leased */
    assert_true(fixture_is_whole(f));
    rawheap_close(&a);
    assert_true(fixture_is_clean(f, 0));
}

static void collect_over_a_killed_daemon_stays_with_its_session(void **state)
{
    fixture *f = *state;
    rawheap a;
    rawheap b;

    rawheap_open(&a, f, 0, "a");
    rawheap_open(&b, f, 0, "b");
    assert_int_equal(begin(&a), 0);
    fixture_kill(f);
    (void)close(a.fd);
    (void)close(b.fd);
    fixture_restart(f, NULL);
    assert_true(has_right(&a));
    assert_int_equal(rawheap_come_back(&b, f), 0);
    assert_int_equal(begin(&b), EBUSY); /* though its session is still lost */
    assert_int_equal(rawheap_come_back(&a, f), 0);
    assert_int_equal(begin(&b), EBUSY);
    assert_int_equal(end(&a), 0);
    assert_int_equal(begin(&b), 0);
    fixture_kill(f);
    (void)close(a.fd);
    rawheap_close(&b); /* it dies while nobody serves */
    fixture_restart(f, NULL);
    assert_int_equal(rawheap_come_back(&a, f), 0);
    assert_int_equal(begin_patiently(&a), 0);
    rawheap_close(&a);
    assert_true(fixture_is_clean(f, 0));
}

/* Alone with root's session, then with none: it must not begin, then it may. */
static void ask_as_other(const fixture *f)
{
    rawheap heap;

    rawheap_open(&heap, f, 0, "other");
    CHECK(begin(&heap) == EPERM);
    rawheap_close(&heap);
}

static int collect_as_other(const fixture *f, void *arg)
{
    rawheap heap;

    (void)arg;
    become_other();
    rawheap_open(&heap, f, 0, "other");
    CHECK(begin_patiently(&heap) == 0);
    return 0;
}

static void collect_with_sessions_of_other_users_is_for_who_may_control(void **state)
{
    const fixture *f = *state;
    rawheap root;
    other o;

    if (!can_be_other(f))
        skip();
    rawheap_open(&root, f, 0, "root");
    o = other_start(f, ask_as_other);
    assert_int_equal(begin_patiently(&root), 0); /* root may control */
    other_end(&o);
    rawheap_close(&root);
    (void)fixture_live_with(f, 0);
    assert_int_equal(child_run(f, collect_as_other, NULL), 0);
    assert_true(fixture_is_clean(f, 0));
}

/* --- origins --- */

static void origin_of_spans_that_come_and_go_says_who_has_filled_them(void **state)
{
    fixture *f = *state;
    rawheap looker;
    rawheap a;
    rawheap b;
    uint32_t alone;
    uint32_t kept;
    uint32_t shared;
    uint32_t again;

    rawheap_open(&looker, f, 0, "looker");
    rawheap_open(&a, f, 0, "a");
    rawheap_open(&b, f, 0, "b");
    assert_int_equal(rawheap_refill(&a, CLASS, 1, 1, &alone), 1);
    assert_int_equal(rawheap_refill(&a, CLASS + 4, 1, 1, &shared), 1);
    assert_int_equal(rawheap_refill(&b, CLASS + 8, 1, 1, &kept), 1);
    rawheap_fill(&a, page_at(alone));
    rawheap_fill(&a, page_at(shared));
    rawheap_fill(&b, page_at(kept));
    assert_int_equal(origin_of(&looker, alone).state, ORIGIN_ALONE);
    assert_int_equal(origin_of(&looker, alone).session.n, a.session);
    assert_int_equal(origin_of(&looker, alone).epoch, a.epoch);
    assert_false(is_suspect(&looker, alone)); /* its session lives */

    assert_int_equal(rawheap_return(&a, &shared, 1, NULL, 0), 0);
    assert_int_equal(rawheap_refill(&b, CLASS + 4, 1, 1, &again), 1);
    assert_int_equal(again, shared);
    assert_int_equal(origin_of(&looker, shared).state, ORIGIN_MIXED);
    assert_int_equal(rawheap_return(&b, &shared, 1, NULL, 0), 0);
    assert_int_equal(rawheap_return(&b, &kept, 1, NULL, 0), 0);
    assert_false(is_suspect(&looker, kept));

    rawheap_close(&a);
    await_end(&looker, a.session);
    assert_true(is_suspect(&looker, alone));
    assert_false(is_suspect(&looker, kept));
    assert_int_equal(begin_patiently(&looker), 0);
    assert_int_equal(confirm(&looker, alone), 0);
    assert_int_equal(confirm(&looker, shared), 0);
    assert_true(origin_of(&looker, alone).confirmed);
    assert_false(is_suspect(&looker, alone));
    assert_false(is_suspect(&looker, shared));

    /* Leased after BEGIN: it does not count. And who is leased a confirmed span counts as alone. */
    assert_int_equal(rawheap_refill(&b, CLASS + 4, 1, 1, &again), 1);
    assert_int_equal(again, shared);
    assert_int_equal(origin_of(&looker, shared).state, ORIGIN_ALONE);
    assert_int_equal(origin_of(&looker, shared).session.n, b.session);
    assert_int_equal(rawheap_return(&b, &shared, 1, NULL, 0), 0);
    assert_int_equal(confirm(&looker, shared), 0);
    assert_false(origin_of(&looker, shared).confirmed);

    /* The next daemon finds what this one has written. */
    fixture_kill(f);
    (void)close(looker.fd);
    rawheap_close(&b);
    fixture_restart(f, NULL);
    assert_int_equal(rawheap_come_back(&looker, f), 0);
    await_end(&looker, b.session);
    assert_true(origin_of(&looker, alone).confirmed);
    assert_true(is_suspect(&looker, kept));
    assert_true(is_suspect(&looker, shared));
    assert_int_equal(confirm(&looker, kept), 0); /* since when nobody has leased it, this daemon does not know */
    assert_false(origin_of(&looker, kept).confirmed);
    assert_int_equal(begin(&looker), 0);
    assert_int_equal(confirm(&looker, kept), 0);
    assert_true(origin_of(&looker, kept).confirmed);
    rawheap_close(&looker);
    assert_true(fixture_is_clean(f, 3));
}

static void origin_after_a_daemon_that_does_not_know_it_is_unknown(void **state)
{
    fixture *f = *state;
    shm_header *header = part_map_header(f);
    rawheap looker;
    uint32_t span;

    rawheap_open(&looker, f, 0, "looker");
    assert_int_equal(rawheap_refill(&looker, CLASS, 1, 1, &span), 1);
    rawheap_fill(&looker, page_at(span));
    assert_int_equal(rawheap_return(&looker, &span, 1, NULL, 0), 0);
    assert_int_equal(begin(&looker), 0);
    assert_int_equal(confirm(&looker, span), 0);
    assert_false(is_suspect(&looker, span));
    assert_int_not_equal(u32_load_relaxed(&header->optional) & SHM_OPTIONAL_ORIGIN, 0);
    u32_store_release(&header->optional, u32_load_relaxed(&header->optional) & ~SHM_OPTIONAL_ORIGIN);
    fixture_kill(f);
    (void)close(looker.fd);
    fixture_restart(f, NULL);
    assert_int_not_equal(u32_load_relaxed(&header->optional) & SHM_OPTIONAL_ORIGIN, 0);
    assert_int_equal(origin_of(&looker, span).state, ORIGIN_UNKNOWN);
    assert_true(is_suspect(&looker, span));
    rawheap_close(&looker);
    part_unmap(header);
    assert_true(fixture_is_clean(f, 1));
}

static int use_and_detach(const fixture *f, void *arg)
{
    void *p;

    must_attach(f, 0);
    p = goalloc_malloc(200);
    CHECK(p != NULL);
    *(uint64_t *)arg = goalloc_offset(p);
    CHECK(goalloc_detach() == 0);
    return 0;
}

static void origin_of_a_session_that_has_detached_is_not_suspect(void **state)
{
    const fixture *f = *state;
    uint64_t *offset = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    rawheap looker;
    uint32_t span;

    assert_true(offset != MAP_FAILED);
    rawheap_open(&looker, f, 0, "looker");
    assert_int_equal(child_run(f, use_and_detach, offset), 0);
    span = u32_load_acquire(&looker.map.page_map[*offset / PAGE_BYTES]);
    assert_int_equal(origin_of(&looker, span).state, ORIGIN_ALONE);
    await_end(&looker, origin_of(&looker, span).session.n);
    assert_false(is_suspect(&looker, span));
    (void)munmap(offset, 4096);
    rawheap_close(&looker);
    assert_true(fixture_is_clean(f, 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(collect_of_two_sessions_is_one_at_a_time),
        FIXTURE_TEST(reclaim_while_a_session_collects_is_refused),
        FIXTURE_TEST(collect_of_what_no_collector_asks_is_refused),
        FIXTURE_TEST_KEPT(collect_over_a_killed_daemon_stays_with_its_session),
        FIXTURE_TEST(collect_with_sessions_of_other_users_is_for_who_may_control),
        FIXTURE_TEST_KEPT(origin_of_spans_that_come_and_go_says_who_has_filled_them),
        FIXTURE_TEST_KEPT(origin_after_a_daemon_that_does_not_know_it_is_unknown),
        FIXTURE_TEST(origin_of_a_session_that_has_detached_is_not_suspect),
    };

    return cmocka_run_group_tests_name("who may collect", tests, NULL, NULL);
}
