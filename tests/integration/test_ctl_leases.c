/*
 * Leases and Trim of one session: what the daemon says who leases, which anybody may ask; and what it takes back from
 * one session alone.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>

#include "proto/wire.h"
#include "shm/units.h"
#include "tests/support/objects.h"

static json_t *answer_of(const fixture *f, const char *words)
{
    static char out[1 << 20];
    json_t *answer = NULL;

    if (fixture_ctl(f, (const char *const[]){ "--json", words, NULL }, out, sizeof(out)) == 0)
        answer = json_loads(out, 0, NULL);
    assert_non_null(answer);
    return answer;
}

/* What a list has of a session, added up. */
static uint64_t sum_of(json_t *answer, const char *list, uint64_t session, const char *field)
{
    uint64_t sum = 0;
    json_t *row;
    size_t i;

    json_array_foreach(json_object_get(answer, list), i, row)
    {
        if (figure(row, "session") == session)
            sum += figure(row, field);
    }
    return sum;
}

/* The workers have stopped, so nothing moves, once no span is offered that a sweep would take. */
static void by_session_and_one_by_one_leases_are_what_sessions_hold(void **state)
{
    const fixture *f = *state;
    pid_t pids[3];
    json_t *sessions;
    json_t *sums;
    json_t *spans;

    for (size_t i = 0; i < 3; i++)
        pids[i] = child_start_stopped(f, hold_and_stop, NULL);
    json_decref(answer_of(f, "trim"));
    sums = answer_of(f, "leases");
    spans = answer_of(f, "leases --spans");
    sessions = answer_of(f, "sessions --live");
    for (uint64_t no = 1; no <= 3; no++) {
        uint64_t held = sum_of(sessions, "sessions", no, "held_bytes");

        assert_true(held >= 200000);
        assert_int_equal(sum_of(sums, "leases", no, "bytes"), held);
        assert_int_equal(sum_of(spans, "spans", no, "bytes"), held);
        assert_int_equal(sum_of(sums, "leases", no, "spans"), sum_of(sessions, "sessions", no, "leased_spans"));
        assert_int_equal(sum_of(sums, "leases", no, "live_objects"), 1001);
        assert_int_equal(sum_of(spans, "spans", no, "live_objects"), 1001);
        assert_int_equal(sum_of(sums, "leases", no, "live_bytes"), sum_of(spans, "spans", no, "live_bytes"));
    }
    assert_int_equal(figure(sums, "leased_bytes"), figure(spans, "leased_bytes"));
    assert_int_equal(json_array_size(json_object_get(spans, "spans")), figure(sums, "leased_spans"));
    json_decref(spans);
    spans = answer_of(f, "leases 2 --spans --rows 2");
    assert_int_equal(json_array_size(json_object_get(spans, "spans")), 2);
    assert_int_equal(sum_of(spans, "spans", 1, "bytes") + sum_of(spans, "spans", 3, "bytes"), 0);
    assert_int_equal(figure(spans, "leased_bytes"), sum_of(sessions, "sessions", 2, "held_bytes"));
    json_decref(spans);
    json_decref(sums);
    json_decref(sessions);
    for (size_t i = 0; i < 3; i++) {
        (void)kill(pids[i], SIGKILL);
        (void)child_wait(pids[i]);
    }
}

/* --- a heap with more spans than a reply has --- */

#define MANY 3000

static int hold_many(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    for (int i = 0; i < MANY; i++)
        CHECK(goalloc_malloc(40000) != NULL);
    (void)raise(SIGSTOP);
    return 0;
}

/* How often it has to be asked for all; each span once, in rising order. */
static void list_comes_in_parts_which_each_are_bounded(void **state)
{
    const fixture *f = *state;
    pid_t pid = child_start_stopped(f, hold_many, NULL);
    int fd = raw_connect(f);
    Goallocd__Leases ask = GOALLOCD__LEASES__INIT;
    Goallocd__Request request = WIRE_REQUEST(LEASES, leases, &ask);
    uint64_t npages = 0;
    uint32_t last = 0;
    unsigned nreplies = 0;

    do {
        Goallocd__Reply *reply;

        request.id = 1;
        reply = raw_call(fd, &request);
        assert_non_null(reply);
        assert_int_equal(reply->result_case, GOALLOCD__REPLY__RESULT_LEASES);
        assert_in_range(reply->leases->n_spans, 0, 1024);
        for (size_t i = 0; i < reply->leases->n_spans; i++) {
            assert_true(reply->leases->spans[i] > last);
            last = reply->leases->spans[i];
            npages += reply->leases->npages[i];
            assert_int_equal(reply->leases->sessions[i], 1);
        }
        assert_true(reply->leases->next == 0 || reply->leases->next > ask.start);
        ask.start = reply->leases->next;
        goallocd__reply__free_unpacked(reply, NULL);
        nreplies++;
    } while (ask.start != 0);
    assert_true(nreplies >= 2);
    assert_true(npages * PAGE_BYTES >= MANY * UINT64_C(40000));
    (void)close(fd);
    (void)kill(pid, SIGKILL);
    (void)child_wait(pid);
}

/* Numbers that no goallocctl sends. */
static void wild_numbers_are_answered_with_nothing(void **state)
{
    static const uint32_t wild[] = { 1, 0x7fffffff, 0x80000000, UINT32_MAX - 1, UINT32_MAX };
    const fixture *f = *state;
    pid_t pid = child_start_stopped(f, hold_and_stop, NULL);
    int fd = raw_connect(f);

    for (size_t i = 0; i < sizeof(wild) / sizeof(wild[0]); i++) {
        Goallocd__Leases leases = GOALLOCD__LEASES__INIT;
        Goallocd__Request ask_leases = WIRE_REQUEST(LEASES, leases, &leases);
        Goallocd__SessionList list = GOALLOCD__SESSION_LIST__INIT;
        Goallocd__Request ask_list = WIRE_REQUEST(SESSION_LIST, session_list, &list);
        Goallocd__Trim trim = GOALLOCD__TRIM__INIT;
        Goallocd__Request ask_trim = WIRE_REQUEST(TRIM, trim, &trim);
        Goallocd__Reply *reply;

        ask_leases.id = ask_list.id = ask_trim.id = 1;
        leases.start = i == 0 ? 0 : wild[i];
        leases.session = wild[i] + 1;
        reply = raw_call(fd, &ask_leases);
        assert_non_null(reply);
        assert_true(reply->error == 0 && reply->leases->n_spans == 0);
        goallocd__reply__free_unpacked(reply, NULL);
        list.start = wild[i] + 1;
        list.live = true;
        reply = raw_call(fd, &ask_list);
        assert_non_null(reply);
        assert_true(reply->error == 0 && reply->session_list->next == 0);
        goallocd__reply__free_unpacked(reply, NULL);
        trim.session = wild[i];
        trim.epoch = 77;
        reply = raw_call(fd, &ask_trim);
        assert_non_null(reply);
        assert_int_equal(reply->error, ENOENT);
        goallocd__reply__free_unpacked(reply, NULL);
    }
    (void)close(fd);
    (void)kill(pid, SIGKILL);
    (void)child_wait(pid);
    assert_true(fixture_is_whole(f));
}

/* --- trim of one --- */

static int free_much_and_sleep(const fixture *f, void *arg)
{
    static void *objects[20000];

    (void)arg;
    must_attach(f, 0);
    for (size_t i = 0; i < 20000; i++)
        CHECK((objects[i] = goalloc_malloc(1000)) != NULL);
    for (size_t i = 0; i < 20000; i++)
        goalloc_free(objects[i]);
    (void)raise(SIGSTOP);
    for (size_t i = 0; i < 20000; i++)
        CHECK((objects[i] = goalloc_malloc(1000)) != NULL);
    return 0;
}

static uint64_t held_by(const fixture *f, uint64_t session)
{
    json_t *answer = answer_of(f, "sessions --live");
    uint64_t bytes = sum_of(answer, "sessions", session, "held_bytes");

    json_decref(answer);
    return bytes;
}

static void trim_takes_from_a_process_that_sleeps_what_it_holds_idle(void **state)
{
    const fixture *f = *state;
    pid_t pid = child_start_stopped(f, free_much_and_sleep, NULL);

    json_decref(answer_of(f, "trim 1"));
    assert_in_range(held_by(f, 1), 0, 2000000);
    json_decref(answer_of(f, "trim 1")); /* nothing is left to take */
    (void)kill(pid, SIGCONT);
    assert_int_equal(child_wait(pid), 0);
    assert_true(fixture_is_whole(f));
}

/* The daemon is killed and the process goes on while its spans are being taken, over and over. */
static int churn(const fixture *f, void *arg)
{
    static void *objects[4000];

    (void)arg;
    must_attach(f, 0);
    for (int round = 0; round < 30; round++) {
        for (size_t i = 0; i < 4000; i++) {
            CHECK((objects[i] = goalloc_malloc(1000)) != NULL);
            memset(objects[i], round, 1000);
        }
        for (size_t i = 0; i < 4000; i++) {
            CHECK(all_are(objects[i], 1000, round & 0xff));
            goalloc_free(objects[i]);
        }
    }
    return 0;
}

static void trim_of_a_process_that_runs_takes_nothing_that_lives(void **state)
{
    fixture *f = *state;
    pid_t pid = child_start(f, churn, NULL);
    char out[1024];

    for (int i = 0; i < 40; i++) {
        (void)fixture_ctl(f, (const char *const[]){ "trim", "1", "2>&1", NULL }, out, sizeof(out));
        if (i == 20) {
            fixture_kill(f);
            fixture_restart(f, NULL);
        }
    }
    assert_int_equal(child_wait(pid), 0);
    assert_true(fixture_is_clean(f, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(by_session_and_one_by_one_leases_are_what_sessions_hold),
        FIXTURE_TEST(list_comes_in_parts_which_each_are_bounded),
        FIXTURE_TEST(wild_numbers_are_answered_with_nothing),
        FIXTURE_TEST(trim_takes_from_a_process_that_sleeps_what_it_holds_idle),
        FIXTURE_TEST_KEPT(trim_of_a_process_that_runs_takes_nothing_that_lives),
    };

    return cmocka_run_group_tests_name("leases and trim", tests, NULL, NULL);
}
