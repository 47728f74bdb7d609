/*
 * goallocctl reclaim: what ended sessions have left is freed, and nothing else: not what lives in places that may have
 * been used again, not what others have adopted, and not by anybody.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <grp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "proto/frame.h"
#include "tests/support/objects.h"

#define ENTRIES 2000
#define NOBODY  65534

typedef struct job {
    const char *group;
    uint32_t flags;
    bool publish;
    unsigned from, to;
    unsigned char *_Atomic objects[ENTRIES];
} job;

static job *job_new(void)
{
    job *j = mmap(NULL, sizeof(*j), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    assert_true(j != MAP_FAILED);
    return j;
}

static void attach_for(const fixture *f, const job *j)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;

    options.socket_path = f->socket;
    options.flags = j->flags;
    options.group = j->group;
    CHECK(goalloc_attach(&options) == 0);
}

/* Objects of all kinds, tiny ones too; dies. */
static int leave(const fixture *f, void *arg)
{
    job *j = arg;

    attach_for(f, j);
    for (unsigned i = j->from; i < j->to; i++) {
        j->objects[i] = goalloc_malloc(i % 50 == 0 ? 50000 + (size_t)10000 * (i % 7) * (i % 11) : 1 + i * 7 % 900);
        if (i % 5 == 0 && i % 50 != 0 && j->flags == 0) {
            goalloc_free(j->objects[i]);
            j->objects[i] = goalloc_malloc_noscan(1 + i % 15);
        }
        CHECK(j->objects[i] != NULL);
        memset(j->objects[i], (int)(i % 251), 1);
        if (j->publish)
            CHECK(goalloc_publish(j->objects[i]) == 0);
    }
    (void)raise(SIGKILL);
    return 0;
}

static void run_leave(const fixture *f, job *j, unsigned from, unsigned to)
{
    j->from = from;
    j->to = to;
    assert_int_equal(child_run(f, leave, j), 1000 + SIGKILL);
}

typedef struct freed {
    uint64_t objects, unsure, sessions;
} freed;

/* What goallocctl reclaim says. The exit status must be that. */
static freed reclaim(const fixture *f, const char *whose, int status)
{
    const char *arguments[] = { "--json", "reclaim", whose, "--yes", "2>&1", NULL };
    static char out[4096];
    freed ret = { 0 };
    json_t *answer;

    assert_int_equal(fixture_ctl(f, arguments, out, sizeof(out)), status);
    if (status != 0)
        return ret;
    answer = json_loads(out, 0, NULL);
    assert_non_null(answer);
    ret = (freed){ figure(answer, "objects"), figure(answer, "unsure_objects"), figure(answer, "sessions") };
    json_decref(answer);
    return ret;
}

/* --- sessions --- */

static void reclaim_of_a_session_frees_what_it_has_left(void **state)
{
    const fixture *f = *state;
    job *j = job_new();
    freed got;

    run_leave(f, j, 0, ENTRIES);
    assert_int_equal(fixture_live_with(f, 0), ENTRIES);
    got = reclaim(f, "1", 0);
    assert_int_equal(got.objects, ENTRIES);
    assert_int_equal(got.unsure, 0);
    assert_int_equal(got.sessions, 1);
    assert_int_equal(fixture_live_with(f, 0), 0);
    assert_int_equal(reclaim(f, "1", 0).objects, 0); /* and no second time */
    (void)reclaim(f, "2", 1);
    (void)reclaim(f, "0", 1);
    (void)reclaim(f, "4294967295", 1);
    assert_true(fixture_is_whole(f));
    assert_true(fixture_is_clean(f, 0));
}

/* Free some of what is there, allocate in their places; die. */
static int mix(const fixture *f, void *arg)
{
    job *j = arg;

    attach_for(f, j);
    for (unsigned i = 0; i < ENTRIES / 2; i += 3) {
        CHECK(goalloc_free_checked(j->objects[i]) == 0);
        j->objects[i] = NULL;
    }
    CHECK(goalloc_trim() == 0);
    for (unsigned i = ENTRIES / 2; i < ENTRIES; i++)
        j->objects[i] = filled(1 + i * 7 % 900, (int)(i % 251));
    (void)raise(SIGKILL);
    return 0;
}

/* All of the second half is there. Frees nothing. */
static int look(const fixture *f, void *arg)
{
    job *j = arg;

    must_attach(f, 0);
    for (unsigned i = ENTRIES / 2; i < ENTRIES; i++)
        CHECK(goalloc_usable_size(j->objects[i]) >= 1 + i * 7 % 900 && *j->objects[i] == i % 251);
    return 0;
}

static void reclaim_leaves_what_may_be_another_sessions(void **state)
{
    const fixture *f = *state;
    job *j = job_new();
    freed got;

    run_leave(f, j, 0, ENTRIES / 2);
    assert_int_equal(fixture_live_with(f, 0), ENTRIES / 2);
    assert_int_equal(child_run(f, mix, j), 1000 + SIGKILL);
    (void)fixture_live_with(f, 0);
    got = reclaim(f, "1", 0);
    assert_true(got.objects > 0 && got.unsure > 0);
    assert_int_equal(child_run(f, look, j), 0);
    assert_true(fixture_is_whole(f));
}

/* Allocate among what another one has left, over a takeover. */
static int hold_places(const fixture *f, void *arg)
{
    job *j = arg;

    attach_for(f, j);
    for (unsigned i = 0; i < ENTRIES / 2; i++)
        j->objects[i] = filled(1 + i * 7 % 900, 0);
    (void)raise(SIGSTOP);
    return 0;
}

static int leave_half(const fixture *f, void *arg)
{
    job *j = arg;
    void *others[ENTRIES / 2];

    attach_for(f, j);
    for (unsigned i = ENTRIES / 2; i < ENTRIES; i++) {
        j->objects[i] = filled(1 + i * 7 % 900, (int)(i % 251));
        CHECK((others[i - ENTRIES / 2] = goalloc_malloc(1 + i * 7 % 900)) != NULL);
    }
    for (unsigned i = 0; i < ENTRIES / 2; i++)
        goalloc_free(others[i]);
    return 0;
}

static void reclaim_after_a_takeover_leaves_what_was_there_before(void **state)
{
    fixture *f = *state;
    job *j = job_new();
    pid_t holder;
    freed got;

    assert_int_equal(child_run(f, leave_half, j), 0);
    assert_int_equal(fixture_live_with(f, 0), ENTRIES / 2);
    holder = child_start(f, hold_places, j);
    assert_true(child_stops(holder));
    fixture_kill(f);
    fixture_restart(f, NULL);
    (void)kill(holder, SIGKILL);
    assert_int_equal(child_wait(holder), 1000 + SIGKILL);
    assert_int_equal(fixture_live_with(f, 0), ENTRIES);
    (void)reclaim(f, "1", 1); /* this daemon knows nothing of it */
    got = reclaim(f, "2", 0);
    assert_int_equal(got.objects, 0);
    assert_in_range(got.unsure, ENTRIES / 2, ENTRIES);
    assert_int_equal(child_run(f, look, j), 0);
}

/* --- groups --- */

static int hold(const fixture *f, void *arg)
{
    attach_for(f, arg);
    (void)raise(SIGSTOP);
    return 0;
}

static void reclaim_of_a_group_frees_what_its_dead_have_left(void **state)
{
    const fixture *f = *state;
    job *j = job_new();
    pid_t holder;
    goalloc_stats_t stats;

    j->group = "pool";
    j->flags = GOALLOC_ATTACH_RECLAIM;
    holder = child_start(f, hold, j);
    assert_true(child_stops(holder));
    run_leave(f, j, 0, ENTRIES / 4);
    run_leave(f, j, ENTRIES / 4, ENTRIES / 2);
    j->group = "other";
    j->publish = true;
    run_leave(f, j, ENTRIES / 2, ENTRIES);
    (void)fixture_live_with(f, 1);
    (void)reclaim(f, "pol", 1);
    (void)reclaim(f, "77:pool", 1);
    assert_int_equal(reclaim(f, "pool", 0).sessions, 2);
    fixture_stats(f, &stats);
    assert_in_range(stats.live_objects, ENTRIES / 2, ENTRIES / 2 + ENTRIES / 4); /* a part was unsure */
    (void)kill(holder, SIGKILL);
    assert_int_equal(child_wait(holder), 1000 + SIGKILL);
    for (int i = 0; i < 1000 && stats.live_objects != ENTRIES / 2; i++, (void)usleep(5000))
        fixture_stats(f, &stats);
    assert_int_equal(stats.live_objects, ENTRIES / 2);
    assert_int_equal(reclaim(f, "other", 0).objects, ENTRIES / 2);
    assert_true(fixture_is_clean(f, 0));
}

/* --- adopted --- */

static int adopt_some(const fixture *f, void *arg)
{
    job *j = arg;
    goalloc_options options = GOALLOC_OPTIONS_INIT;

    options.socket_path = f->socket;
    options.flags = GOALLOC_ATTACH_RECLAIM;
    CHECK(goalloc_attach(&options) == 0);
    for (unsigned i = 1; i < ENTRIES; i += 100)
        CHECK(goalloc_adopt(j->objects[i]) == 0);
    (void)raise(SIGSTOP);
    for (unsigned i = 1; i < ENTRIES; i += 100)
        CHECK(goalloc_usable_size(j->objects[i]) > 0 && *j->objects[i] == i % 251);
    return 0;
}

static void reclaim_leaves_what_others_have_adopted(void **state)
{
    const fixture *f = *state;
    job *j = job_new();
    goalloc_stats_t stats;
    pid_t adopter;

    run_leave(f, j, 0, ENTRIES);
    assert_int_equal(fixture_live_with(f, 0), ENTRIES);
    adopter = child_start(f, adopt_some, j);
    assert_true(child_stops(adopter));
    assert_true(reclaim(f, "1", 0).objects <= ENTRIES - ENTRIES / 100);
    fixture_stats(f, &stats);
    assert_true(stats.live_objects >= ENTRIES / 100);
    (void)kill(adopter, SIGCONT);
    assert_int_equal(child_wait(adopter), 0);
    assert_true(fixture_is_whole(f));
}

/* --- who may --- */

static int reclaim_as_nobody(const fixture *f, void *arg)
{
    static const char *const arguments[] = { "reclaim", "1", "--yes", "2>&1", NULL };
    char out[4096];

    (void)arg;
    CHECK(chmod(f->dir, 0755) == 0 && chmod(f->socket, 0666) == 0);
    CHECK(setgroups(0, NULL) == 0 && setgid(NOBODY) == 0 && setuid(NOBODY) == 0);
    CHECK(fixture_ctl(f, arguments, out, sizeof(out)) == 1 && strstr(out, "only root") != NULL);
    return 0;
}

static void reclaim_is_refused_without_privilege_and_without_yes(void **state)
{
    static const char *const unasked[] = { "reclaim", "1", "</dev/null", "2>&1", NULL };
    static const char *const whose[] = { "reclaim", "2>&1", NULL };
    const fixture *f = *state;
    job *j = job_new();
    char out[4096];

    run_leave(f, j, 0, ENTRIES);
    assert_int_equal(fixture_live_with(f, 0), ENTRIES);
    if (geteuid() == 0)
        assert_int_equal(child_run(f, reclaim_as_nobody, NULL), 0);
    assert_int_equal(fixture_ctl(f, unasked, out, sizeof(out)), 1);
    assert_non_null(strstr(out, "say --yes"));
    assert_int_equal(fixture_ctl(f, whose, out, sizeof(out)), 2);
    assert_int_equal(fixture_live_with(f, 0), ENTRIES);
    assert_int_equal(reclaim(f, "1", 0).objects, ENTRIES);
}

/* A peer that asks, and goes before it is answered; and two at once. */
static void reclaim_of_a_peer_that_goes_is_carried_out_or_not_begun(void **state)
{
    const fixture *f = *state;
    job *j = job_new();

    for (int i = 0; i < 20; i++) {
        Goallocd__Reclaim body = GOALLOCD__RECLAIM__INIT;
        Goallocd__Request request = GOALLOCD__REQUEST__INIT;
        uint8_t frame[256];
        int fds[2] = { raw_connect(f), raw_connect(f) };
        uint64_t left;

        run_leave(f, j, 0, 200);
        (void)fixture_live_with(f, 0);
        body.session = (uint32_t)(i + 1);
        request.id = 1;
        request.op_case = GOALLOCD__REQUEST__OP_RECLAIM;
        request.reclaim = &body;
        for (int k = 0; k < 2; k++) {
            size_t len = frame_pack(&request.base, frame, sizeof(frame));

            assert_int_equal(write(fds[k], frame, len), len);
        }
        (void)usleep((useconds_t)(test_random(&(uint64_t){ (uint64_t)i }) % 300));
        (void)close(fds[0]);
        (void)close(fds[1]);
        left = fixture_live_with(f, 0);
        assert_true(left == 0 || left == 200);
        if (left != 0) {
            char text[16];

            (void)snprintf(text, sizeof(text), "%d", i + 1);
            assert_int_equal(reclaim(f, text, 0).objects, 200);
        }
        assert_true(fixture_is_whole(f));
    }
    assert_true(fixture_is_clean(f, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(reclaim_of_a_session_frees_what_it_has_left),
        FIXTURE_TEST(reclaim_leaves_what_may_be_another_sessions),
        FIXTURE_TEST_KEPT(reclaim_after_a_takeover_leaves_what_was_there_before),
        FIXTURE_TEST(reclaim_of_a_group_frees_what_its_dead_have_left),
        FIXTURE_TEST(reclaim_leaves_what_others_have_adopted),
        FIXTURE_TEST(reclaim_is_refused_without_privilege_and_without_yes),
        FIXTURE_TEST(reclaim_of_a_peer_that_goes_is_carried_out_or_not_begun),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
