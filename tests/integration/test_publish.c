/*
 * An object that is published by another process while its owner ends: the publisher is stopped after each number of
 * its instructions, the owner dies, its session ends, and the publisher goes on. If it is told that the object is
 * published, the object lives and is what it was; else it is gone.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "tests/support/objects.h"
#include "tests/support/steps.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define ROUNDS 20
#else
#define ROUNDS 110
#endif
#define STEPS_MAX 1000000u
#define FILL 0x5a

/* What the test, the owner and the publisher share. */
typedef struct common {
    size_t bytes;
    bool in_group; /* the owner is a group, which ends with its one session */
    unsigned char *_Atomic object; /* the owner's; NULL: not yet */
    atomic_bool traced;
    atomic_int result; /* of the publisher's call */
    atomic_bool live;  /* what it finds afterwards */
    atomic_bool same;
} common;

/* A neighbour on each side, which nobody publishes. */
static int own_until_killed(const fixture *f, void *arg)
{
    common *c = arg;
    goalloc_options options = GOALLOC_OPTIONS_INIT;
    unsigned char *p[3];

    options.socket_path = f->socket;
    options.flags = GOALLOC_ATTACH_RECLAIM;
    options.group = c->in_group ? "owner" : NULL;
    CHECK(goalloc_attach(&options) == 0);
    for (int i = 0; i < 3; i++)
        p[i] = filled(c->bytes, i == 1 ? FILL : 0);
    atomic_store(&c->object, p[1]);
    (void)pause();
    return 0;
}

static int publish_for_ever(const fixture *f, void *arg)
{
    common *c = arg;

    must_attach(f, 0);
    atomic_store(&c->traced, steps_begin());
    if (!c->traced)
        return 0;
    (void)goalloc_usable_size(c); /* what is bound at the first call is bound */
    (void)goalloc_publish(c);
    for (;;) {
        unsigned char *p;

        steps_mark(); /* 1: there is an object */
        p = c->object;
        c->result = goalloc_publish(p);
        steps_mark(); /* 2: its owner is gone */
        c->live = goalloc_usable_size(p) >= c->bytes;
        c->same = c->live && all_are(p, c->bytes, FILL);
        steps_mark(); /* 3: the test has counted */
        if (c->live)
            goalloc_free(p);
        CHECK(goalloc_trim() == 0);
    }
}

static uint64_t live_objects(const fixture *f)
{
    goalloc_stats_t stats;

    fixture_stats(f, &stats);
    return stats.live_objects;
}

/* Until the publisher's session is the only one, and there is no group. */
static bool owner_is_gone(const fixture *f)
{
    for (int i = 0; i < 10000; i++) {
        Goallocd__Reply *reply = fixture_stats_reply(f);
        bool gone = reply->stats->sessions == 1 && reply->stats->ngroups == 0;

        goallocd__reply__free_unpacked(reply, NULL);
        if (gone)
            return true;
        (void)usleep(200);
    }
    return false;
}

/* The owner dies when the publisher has taken nsteps. Returns how many it could take. */
static uint64_t round_at(const fixture *f, common *c, pid_t publisher, uint64_t nsteps)
{
    pid_t owner;
    uint64_t taken;
    bool alive;

    c->object = NULL;
    owner = child_start(f, own_until_killed, c);
    while (c->object == NULL)
        (void)usleep(100);
    taken = steps_take(publisher, nsteps, &alive);
    assert_true(alive);
    (void)kill(owner, SIGKILL);
    assert_int_equal(child_wait(owner), 1000 + SIGKILL);
    assert_true(owner_is_gone(f));
    if (taken == nsteps)
        assert_true(steps_run(publisher)); /* to mark 2 */
    assert_true(steps_run(publisher));
    if (c->result != 0 && c->result != -EALREADY && c->result != -EINVAL)
        fail_msg("after %llu instructions: %d", (unsigned long long)taken, c->result);
    if (c->live != (c->result == 0) || c->same != c->live)
        fail_msg("after %llu instructions: publish says %d, the object is %s", (unsigned long long)taken, c->result,
                 !c->live  ? "gone"
                 : c->same ? "there"
                           : "another one");
    assert_int_equal(live_objects(f), c->live);
    assert_true(steps_run(publisher));
    return taken;
}

static void publish_while_the_owner_ends(common *c, bool in_group)
{
    /* With 8 bytes the call is a request. */
    static const size_t sizes[] = { 100, 8, 40000, SHM_RUN_BYTES_MAX + 1 };
    static const unsigned most_rounds[] = { ROUNDS, ROUNDS / 5, ROUNDS, ROUNDS };

    c->in_group = in_group;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        unsigned npublished = 0;
        uint64_t nsteps;
        uint64_t step;
        unsigned nrounds = 0;
        pid_t publisher;
        fixture f;

        fixture_start(&f, NULL);
        c->bytes = sizes[i];
        publisher = child_start(&f, publish_for_ever, c);
        if (!steps_start(publisher)) {
            assert_true(fixture_stop(&f));
            if (!c->traced)
                skip(); /* the system allows no tracing */
            fail();
        }
        nsteps = round_at(&f, c, publisher, STEPS_MAX); /* the whole call, and then the owner dies */
        assert_int_equal(c->result, 0);
        assert_in_range(nsteps, 1, STEPS_MAX - 1);
        step = nsteps / most_rounds[i] + 1;
        for (uint64_t at = 0; at < nsteps; at += step) {
            (void)round_at(&f, c, publisher, at);
            npublished += c->result == 0;
            nrounds++;
        }
        (void)printf("%zu bytes: %llu instructions, %u rounds, %u published\n", sizes[i], (unsigned long long)nsteps,
                     nrounds, npublished);
        assert_in_range(npublished, 1, nrounds - 1);
        (void)kill(publisher, SIGKILL);
        assert_int_equal(child_wait(publisher), 1000 + SIGKILL);
        assert_true(fixture_is_whole(&f));
        assert_true(fixture_is_clean(&f, 0));
        assert_true(fixture_stop(&f));
    }
}

static void publish_while_the_owner_ends_tells_what_becomes_of_the_object(void **state)
{
    publish_while_the_owner_ends(*state, false);
}

static void publish_while_the_owning_group_ends_tells_what_becomes_of_the_object(void **state)
{
    publish_while_the_owner_ends(*state, true);
}

static int setup(void **state)
{
    void *p = mmap(NULL, sizeof(common), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    *state = p;
    return p == MAP_FAILED ? -1 : 0;
}

static int teardown(void **state)
{
    return munmap(*state, sizeof(common));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(publish_while_the_owner_ends_tells_what_becomes_of_the_object, setup, teardown),
        cmocka_unit_test_setup_teardown(publish_while_the_owning_group_ends_tells_what_becomes_of_the_object, setup,
                                        teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
