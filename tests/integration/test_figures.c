/*
 * Figures: what Stats and Limits say for those who watch a daemon from outside: requests by kind, what got no memory,
 * how sessions have ended, which daemon and which heap it is, and who is nearest to a limit.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "proto/wire.h"
#include "tests/support/waits.h"

#define ROUNDS 500 /* of 20 ms, in which something must have come true */

/* The request of that kind, on a connection of its own if fd is -1. Its error; *ret is the reply, NULL: not wanted. */
static int ask(const fixture *f, int fd, Goallocd__Request *request, Goallocd__Reply **ret)
{
    int own = fd < 0 ? raw_connect(f) : fd;
    Goallocd__Reply *reply;
    int error;

    request->id = 1;
    reply = raw_call(own, request);
    assert_non_null(reply);
    error = reply->error;
    if (ret != NULL)
        *ret = reply;
    else
        goallocd__reply__free_unpacked(reply, NULL);
    if (fd < 0)
        (void)close(own);
    return error;
}

static int ask_for_pages(const fixture *f, int fd, uint64_t npages)
{
    Goallocd__AllocLarge body = GOALLOCD__ALLOC_LARGE__INIT;
    Goallocd__Request request = WIRE_REQUEST(ALLOC_LARGE, alloc_large, &body);

    body.npages = npages;
    return ask(f, fd, &request, NULL);
}

static uint64_t requests_of(const Goallocd__StatsReply *s, uint32_t op)
{
    uint64_t n = 0;

    for (size_t i = 0; i < s->n_requests; i++)
        n += s->requests[i]->op == op ? s->requests[i]->count : 0;
    return n;
}

static uint64_t refusals_of(const fixture *f, int error)
{
    Goallocd__Reply *reply = fixture_stats_reply(f);
    uint64_t n = 0;

    for (size_t i = 0; i < reply->stats->n_refusals; i++)
        n += reply->stats->refusals[i]->error == error ? reply->stats->refusals[i]->count : 0;
    goallocd__reply__free_unpacked(reply, NULL);
    return n;
}

static void stats_count_requests_by_kind(void **state)
{
    const fixture *f = *state;
    int fd = raw_attach(f);
    Goallocd__SetLabel label = GOALLOCD__SET_LABEL__INIT;
    Goallocd__Request request = WIRE_REQUEST(SET_LABEL, set_label, &label);
    Goallocd__Reply *reply;

    label.label = (char *)(uintptr_t)"watched";
    assert_int_equal(ask(f, fd, &request, NULL), 0);
    assert_int_equal(ask(f, fd, &request, NULL), 0);
    reply = fixture_stats_reply(f);
    assert_int_equal(requests_of(reply->stats, GOALLOCD__REQUEST__OP_ATTACH), 1);
    assert_int_equal(requests_of(reply->stats, GOALLOCD__REQUEST__OP_SET_LABEL), 2);
    assert_int_equal(requests_of(reply->stats, GOALLOCD__REQUEST__OP_DROP), 0);
    goallocd__reply__free_unpacked(reply, NULL);
    (void)close(fd);
}

static void stats_count_what_got_no_memory_by_reason(void **state)
{
    const fixture *f = *state;
    int fd = raw_attach(f);

    assert_int_equal(ask_for_pages(f, fd, 16), 0);
    assert_int_equal(ask_for_pages(f, fd, 1024), EDQUOT);
    assert_int_equal(ask_for_pages(f, fd, 1024), EDQUOT);
    assert_int_equal(ask_for_pages(f, fd, UINT32_MAX), ENOSPC);
    assert_int_equal(refusals_of(f, EDQUOT), 2);
    assert_int_equal(refusals_of(f, ENOSPC), 1);
    assert_int_equal(refusals_of(f, ENOMEM), 0);
    (void)close(fd);
}

static const Goallocd__LimitUse *use_of(const Goallocd__LimitsReply *l, const char *name)
{
    const Goallocd__LimitUse *found = NULL;

    for (size_t i = 0; i < l->n_uses; i++) {
        if (strcmp(l->uses[i]->name, name) != 0)
            continue;
        assert_null(found); /* each limit has one row */
        found = l->uses[i];
    }
    assert_non_null(found);
    return found;
}

static void limits_of_the_nearest_name_nobody(void **state)
{
    const fixture *f = *state;
    Goallocd__Limits body = GOALLOCD__LIMITS__INIT;
    Goallocd__Request request = WIRE_REQUEST(LIMITS, limits, &body);
    int small = raw_attach(f);
    int large = raw_attach(f);
    const Goallocd__LimitUse *use;
    Goallocd__Reply *reply;

    assert_int_equal(ask_for_pages(f, small, 8), 0);
    assert_int_equal(ask_for_pages(f, large, 64), 0);
    assert_int_equal(ask_for_pages(f, large, 1024), EDQUOT);
    body.nearest = true;
    assert_int_equal(ask(f, -1, &request, &reply), 0);
    use = use_of(reply->limits, "session-limit");
    assert_int_equal(use->used, 64 * PAGE_BYTES);
    assert_int_equal(use->maximum, MIB);
    assert_int_equal(use->refused, 1);
    assert_int_equal(use_of(reply->limits, "connections")->used, 3);
    assert_int_equal(use_of(reply->limits, "uid-sessions")->maximum, 3072);
    for (size_t i = 0; i < reply->limits->n_uses; i++) {
        use = reply->limits->uses[i];
        assert_int_equal(use->uid + use->session + use->pid + strlen(use->label) + strlen(use->group), 0);
    }
    assert_int_equal(reply->limits->next, 0);
    goallocd__reply__free_unpacked(reply, NULL);
    (void)close(small);
    (void)close(large);
}

/* Wait until that is so many. */
enum figure { LOST, DIED, ENDED };

static bool comes_to(const fixture *f, enum figure which, uint64_t wanted)
{
    for (int i = 0; i < ROUNDS; i++, waits_sleep_ms(20)) {
        Goallocd__Reply *reply = fixture_stats_reply(f);
        const Goallocd__StatsReply *s = reply->stats;
        uint64_t is = which == LOST ? s->lost_sessions : which == DIED ? s->died_sessions : s->ended_sessions;

        goallocd__reply__free_unpacked(reply, NULL);
        if (is == wanted)
            return true;
    }
    return false;
}

static int attach_and_detach(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    return goalloc_detach();
}

static int attach_and_stay(const fixture *f, void *arg)
{
    (void)arg;
    waits_not_for_ever();
    must_attach(f, 0);
    for (;;)
        (void)pause();
    return 0;
}

static void stats_say_how_sessions_have_ended_and_which_are_lost(void **state)
{
    const fixture *f = *state;
    const char *const disconnect[] = { "disconnect", "2", "--yes", NULL };
    char output[256];
    pid_t pid;

    assert_int_equal(child_run(f, attach_and_detach, NULL), 0);
    assert_true(comes_to(f, ENDED, 1));
    assert_true(comes_to(f, DIED, 0));
    pid = child_start(f, attach_and_stay, NULL);
    (void)fixture_live_with(f, 1);
    assert_int_equal(fixture_ctl(f, disconnect, output, sizeof(output)), 0);
    assert_true(comes_to(f, LOST, 1));
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(child_wait(pid), 1000 + SIGKILL);
    assert_true(comes_to(f, DIED, 1));
    assert_true(comes_to(f, LOST, 0));
    assert_true(comes_to(f, ENDED, 2));
}

static void stats_of_the_next_daemon_have_the_heap_and_another_start(void **state)
{
    fixture *f = *state;
    Goallocd__Reply *before = fixture_stats_reply(f);
    Goallocd__Reply *after;

    assert_false(before->stats->taken_over);
    assert_true(before->stats->start_time_ms > 0 && before->stats->generation != 0);
    waits_sleep_ms(2); /* the next one starts in another millisecond */
    fixture_kill(f);
    fixture_restart(f, NULL);
    after = fixture_stats_reply(f);
    assert_true(after->stats->taken_over);
    assert_int_equal(after->stats->generation, before->stats->generation);
    assert_true(after->stats->start_time_ms != before->stats->start_time_ms);
    assert_true(after->stats->leases >= before->stats->leases);
    goallocd__reply__free_unpacked(before, NULL);
    goallocd__reply__free_unpacked(after, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(stats_count_requests_by_kind),
        FIXTURE_TEST_WITH(stats_count_what_got_no_memory_by_reason, "--reserve", "256M", "--session-limit", "1M"),
        FIXTURE_TEST_WITH(limits_of_the_nearest_name_nobody, "--reserve", "256M", "--session-limit", "1M"),
        FIXTURE_TEST(stats_say_how_sessions_have_ended_and_which_are_lost),
        FIXTURE_TEST_KEPT(stats_of_the_next_daemon_have_the_heap_and_another_start),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
