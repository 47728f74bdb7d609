/*
 * Groups: what their sessions have not published stays while any of them lives, whoever dies in which order, and goes
 * with the last one: over takeovers of the daemon, with objects that are published, adopted and freed by others, with
 * children that have not attached yet.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <sys/mman.h>

#include "tests/support/groups.h"
#include "tests/support/waits.h"

#define WORKERS 8
#define ENTRIES 400

/* --- a pool of workers --- */

/* Who is to free an object in the end. */
enum keeper { NONE, GROUP, HEAP };

typedef struct slot {
    unsigned char *_Atomic p;
    uint32_t bytes;
    enum keeper keeper;
} slot;

/* What the test and its processes share. */
typedef struct pool {
    const char *group;
    uint64_t seed;
    unsigned number; /* of the worker that is started */
    pid_t pids[WORKERS];
    slot slots[WORKERS][ENTRIES];
} pool;

static pool *pool_new(const char *group, uint64_t seed)
{
    pool *p = mmap(NULL, sizeof(*p), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    assert_true(p != MAP_FAILED);
    p->group = group;
    p->seed = seed;
    return p;
}

static void pool_delete(pool *p)
{
    (void)munmap(p, sizeof(*p));
}

static uint32_t size_at(uint64_t r)
{
    static const uint32_t sizes[] = { 8, 16, 24, 64, 200, 1000, 8000, 40000, 300000 };

    return sizes[r % (r / 16 % 4 == 0 ? 9 : 6)];
}

/* An object of a size at random, which says whose it is. */
static void slot_fill(slot *s, uint64_t r)
{
    s->bytes = size_at(r);
    s->p = goalloc_malloc(s->bytes);
    CHECK(s->p != NULL);
    memset(s->p, (int)(s->bytes % 251), s->bytes);
    s->keeper = GROUP;
}

/* Fill what is empty of one's own, publish some, free some; then wait to be killed, or to do it again. */
static void work_once(pool *p, unsigned number)
{
    uint64_t seed = p->seed + number * 7919;

    for (int i = 0; i < ENTRIES; i++) {
        slot *s = &p->slots[number][i];

        if (s->p == NULL)
            slot_fill(s, test_random(&seed));
    }
    for (int i = 0; i < ENTRIES; i += 10) {
        slot *s = &p->slots[number][i];

        if (s->keeper == GROUP) {
            CHECK(goalloc_publish(s->p) == 0);
            s->keeper = HEAP;
        }
    }
    for (int i = 0; i < ENTRIES; i += 7) {
        slot *s = &p->slots[number][i];

        goalloc_free(s->p);
        *s = (slot){ .p = NULL };
    }
}

__attribute__((noreturn)) static void work_as(pool *p, unsigned number)
{
    for (;;) {
        work_once(p, number);
        (void)raise(SIGSTOP);
    }
}

static int work(const fixture *f, void *arg)
{
    pool *p = arg;

    CHECK(attach_as(f, GOALLOC_ATTACH_RECLAIM, p->group) == 0);
    work_as(p, p->number);
}

/* Half a pre-fork server: attach, fork the others, who attach by themselves, and wait. */
static int work_with_children(const fixture *f, void *arg)
{
    pool *p = arg;

    CHECK(attach_as(f, GOALLOC_ATTACH_RECLAIM, p->group) == 0);
    for (unsigned i = 1; i < WORKERS; i++) {
        pid_t pid = fork();

        CHECK(pid >= 0);
        if (pid == 0) {
            if (i % 2 == 0)
                (void)raise(SIGSTOP); /* the first time: before it has attached */
            work_as(p, i);
        }
        p->pids[i] = pid;
    }
    work_as(p, 0);
}

/* As somebody who is not of the group: look at all, free some, publish some. */
static int look(const fixture *f, void *arg)
{
    pool *p = arg;
    uint64_t seed = p->seed;

    must_attach(f, 0);
    for (int w = 0; w < WORKERS; w++) {
        for (int i = 0; i < ENTRIES; i++) {
            slot *s = &p->slots[w][i];
            uint64_t r = test_random(&seed);

            if (s->keeper == NONE)
                continue;
            CHECK(goalloc_usable_size(s->p) >= s->bytes && all_are(s->p, s->bytes, (int)(s->bytes % 251)));
            if (r % 16 == 0) {
                CHECK(goalloc_free_checked(s->p) == 0);
                *s = (slot){ .p = NULL };
            } else if (r % 16 == 1) {
                CHECK(goalloc_publish(s->p) == 0);
                s->keeper = HEAP;
            } else if (r % 16 == 2 && s->keeper == HEAP) {
                CHECK(goalloc_adopt(s->p) == 0); /* by a session that owns nothing: it stays the heap's */
            }
        }
    }
    return 0;
}

static int free_all(const fixture *f, void *arg)
{
    pool *p = arg;

    must_attach(f, 0);
    for (int w = 0; w < WORKERS; w++) {
        for (int i = 0; i < ENTRIES; i++) {
            if (p->slots[w][i].keeper != NONE)
                CHECK(goalloc_free_checked(p->slots[w][i].p) == 0);
        }
    }
    return 0;
}

static uint64_t pool_count(const pool *p, enum keeper keeper)
{
    uint64_t n = 0;

    for (int w = 0; w < WORKERS; w++) {
        for (int i = 0; i < ENTRIES; i++)
            n += p->slots[w][i].keeper == keeper;
    }
    return n;
}

static uint64_t pool_count_of(const pool *p, unsigned worker)
{
    uint64_t n = 0;

    for (int i = 0; i < ENTRIES; i++)
        n += p->slots[worker][i].keeper != NONE;
    return n;
}

static pid_t worker_start(const fixture *f, pool *p, unsigned number)
{
    pid_t pid;

    p->number = number;
    pid = child_start(f, work, p);
    assert_true(child_stops(pid));
    return pid;
}

/* Kill one of those that live, at random. */
static void kill_one(pid_t pids[WORKERS], uint64_t *seed)
{
    unsigned i = (unsigned)(test_random(seed) % WORKERS);

    while (pids[i] == 0)
        i = (i + 1) % WORKERS;
    process_kill(pids[i]);
    pids[i] = 0;
}

/* Everything that is not freed lives until the last of eight is dead; then what was published lives, and no more. */
static void kill_in_any_order(fixture *f, bool with_takeovers)
{
    uint64_t seed = test_seed();
    pool *p = pool_new("pool", seed);
    pid_t pids[WORKERS];

    for (unsigned i = 0; i < WORKERS; i++)
        pids[i] = worker_start(f, p, i);
    for (unsigned nliving = WORKERS; nliving > 0;) {
        uint64_t r = test_random(&seed);
        uint64_t live;

        p->seed = r;
        assert_int_equal(child_run(f, look, p), 0);
        if (with_takeovers && r % 2 == 0) {
            fixture_kill(f);
            fixture_restart(f, NULL);
            for (unsigned i = 0; i < WORKERS && pids[i] != 0 && r % 8 < 4; i++) { /* some come back to it */
                (void)kill(pids[i], SIGCONT);
                assert_true(child_stops(pids[i]));
            }
        }
        kill_one(pids, &seed);
        nliving--;
        live = fixture_live_with(f, nliving);
        if (nliving > 0)
            assert_int_equal(live, pool_count(p, GROUP) + pool_count(p, HEAP));
        if (nliving > 0 && r % 4 == 1) { /* a new one in place of the dead, among what that has left */
            for (unsigned i = 0; i < WORKERS; i++) {
                if (pids[i] == 0 && test_random(&seed) % 2 == 0) {
                    pids[i] = worker_start(f, p, i);
                    nliving++;
                    break;
                }
            }
        }
        assert_true(fixture_is_whole(f));
    }
    if (with_takeovers) {
        fixture_kill(f);
        fixture_restart(f, NULL);
    }
    assert_comes_to(f, pool_count(p, HEAP));
    for (int w = 0; w < WORKERS; w++) {
        for (int i = 0; i < ENTRIES; i++) {
            if (p->slots[w][i].keeper == GROUP)
                p->slots[w][i].keeper = NONE;
        }
    }
    p->seed = 1;
    assert_int_equal(child_run(f, look, p), 0); /* and it is whole */
    assert_int_equal(child_run(f, free_all, p), 0);
    assert_comes_to(f, 0);
    pool_delete(p);
}

static void group_of_eight_killed_in_any_order_leaves_nothing_after_the_last(void **state)
{
    kill_in_any_order(*state, false);
}

static void group_of_eight_with_takeovers_leaves_nothing_after_the_last(void **state)
{
    for (int i = 0; i < 3; i++)
        kill_in_any_order(*state, true);
}

static bool is_stopped(pid_t pid)
{
    return waits_process_state(pid) == 'T';
}

/*
 * A server and its children, in any order: half of the children have not attached when some others are killed already.
 * They are nobody's to wait for but the server's, so their ends are seen by what becomes of the objects.
 */
static void server_and_children_killed_in_any_order_leave_nothing_after_the_last(void **state)
{
    const fixture *f = *state;
    uint64_t seed = test_seed();
    pool *p = pool_new("server", seed);

    p->pids[0] = child_start(f, work_with_children, p);
    assert_true(child_stops(p->pids[0]));
    for (unsigned i = 1; i < WORKERS; i++) {
        for (int k = 0; k < 2000 && !is_stopped(p->pids[i]); k++)
            (void)usleep(2000);
        assert_true(is_stopped(p->pids[i]));
    }
    for (unsigned nliving = WORKERS; nliving > 0; nliving--) {
        unsigned i = (unsigned)(test_random(&seed) % WORKERS);

        p->seed = test_random(&seed);
        assert_int_equal(child_run(f, look, p), 0);
        assert_comes_to(f, pool_count(p, GROUP) + pool_count(p, HEAP));
        while (p->pids[i] == 0)
            i = (i + 1) % WORKERS;
        if (nliving % 3 == 0 && i % 2 == 0 && i > 0 && pool_count_of(p, i) == 0) {
            (void)kill(p->pids[i], SIGCONT); /* it attaches now, among what others have left */
            for (int k = 0; k < 2000 && (!is_stopped(p->pids[i]) || pool_count_of(p, i) == 0); k++)
                (void)usleep(2000);
            assert_true(pool_count_of(p, i) > 0);
        }
        if (i == 0)
            process_kill(p->pids[i]);
        else
            (void)kill(p->pids[i], SIGKILL);
        p->pids[i] = 0;
    }
    assert_comes_to(f, pool_count(p, HEAP));
    for (int w = 0; w < WORKERS; w++) {
        for (int i = 0; i < ENTRIES; i++)
            p->slots[w][i].keeper = p->slots[w][i].keeper == GROUP ? NONE : p->slots[w][i].keeper;
    }
    assert_int_equal(child_run(f, free_all, p), 0);
    assert_true(fixture_is_clean(f, 0));
    pool_delete(p);
}

/* --- places that a dead member has left --- */

#define SMALL 20000

/* Every other object is freed, so that there are places in all spans. */
static int leave_places(const fixture *f, void *arg)
{
    static void *objects[SMALL];

    CHECK(attach_as(f, GOALLOC_ATTACH_RECLAIM, arg) == 0);
    for (int i = 0; i < SMALL; i++)
        CHECK((objects[i] = goalloc_malloc(64)) != NULL);
    for (int i = 0; i < SMALL; i += 2)
        goalloc_free(objects[i]);
    (void)raise(SIGKILL);
    return 0;
}

static int use_places(const fixture *f, void *arg)
{
    goalloc_stats_t before;
    goalloc_stats_t after;

    CHECK(attach_as(f, GOALLOC_ATTACH_RECLAIM, arg) == 0);
    CHECK(fixture_is_settled(f)); /* pages count as in use while the stock is being prepared */
    before = stats_now();
    for (int i = 0; i < SMALL / 2 - SMALL / 16; i++)
        CHECK(goalloc_malloc(64) != NULL);
    CHECK(fixture_is_settled(f));
    after = stats_now();
    CHECK(after.live_objects - before.live_objects == SMALL / 2 - SMALL / 16);

    uint64_t more = after.committed_bytes - after.free_bytes - (before.committed_bytes - before.free_bytes);

    return more < SMALL * 64 / 4 ? 0 : 2;
}

static void places_that_a_dead_member_has_left_are_the_members_own(void **state)
{
    const fixture *f = *state;
    pid_t holder = holder_start(f, "places");

    assert_int_equal(child_run(f, leave_places, "places"), 1000 + SIGKILL);
    assert_int_equal(fixture_live_with(f, 1), SMALL / 2);
    assert_int_equal(child_run(f, use_places, "another"), 2); /* nobody else gets them, */
    assert_comes_to(f, SMALL / 2);
    assert_int_equal(child_run(f, use_places, "places"), 0); /* they do */
    assert_int_equal(fixture_live_with(f, 1), SMALL - SMALL / 16);
    process_kill(holder);
    assert_comes_to(f, 0);
}

/* --- children --- */

enum childhood { ATTACHES, ATTACHES_AS_NOBODY, DIES, EXECS, LEAVES };

typedef struct family {
    const char *group;
    enum childhood childhood;
    _Atomic pid_t child;
    unsigned char *_Atomic object;
    _Atomic bool go;
} family;

static void grow_up(const fixture *f, family *fam)
{
    while (!fam->go)
        (void)usleep(1000);
    switch (fam->childhood) {
    case ATTACHES_AS_NOBODY:
        CHECK(setgroups(0, NULL) == 0 && setgid(NOBODY) == 0 && setuid(NOBODY) == 0);
        /* fall through */
    case ATTACHES:
        CHECK(goalloc_malloc(100) != NULL);
        CHECK(all_are(fam->object, 1000, 7));
        fam->go = false;
        break;
    case EXECS:
        (void)execlp("sleep", "sleep", "1000", (char *)NULL);
        break;
    case LEAVES:
        CHECK(attach_as(f, GOALLOC_ATTACH_RECLAIM, "elsewhere") == 0);
        fam->go = false;
        break;
    default:
        raise(SIGKILL);
    }
    for (;;)
        (void)pause();
}

/* A member that has a child, and is killed before the child has attached. */
static int be_a_parent(const fixture *f, void *arg)
{
    family *fam = arg;
    pid_t child;

    CHECK(attach_as(f, GOALLOC_ATTACH_RECLAIM, fam->group) == 0);
    fam->object = filled(1000, 7);
    CHECK(goalloc_malloc(50000) != NULL && goalloc_malloc(500000) != NULL);
    child = fork();
    CHECK(child >= 0);
    if (child == 0)
        grow_up(f, fam);
    fam->child = child;
    (void)raise(SIGKILL);
    return 0;
}

/* A family whose parent is dead, and whose child has not attached. */
static family *family_start(const fixture *f, const char *group, enum childhood childhood)
{
    family *fam = mmap(NULL, sizeof(*fam), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    assert_true(fam != MAP_FAILED);
    fam->group = group;
    fam->childhood = childhood;
    assert_int_equal(child_run(f, be_a_parent, fam), 1000 + SIGKILL);
    return fam;
}

static void child_grows_up(fixture *f, enum childhood childhood, bool with_takeover)
{
    family *fam = family_start(f, "family", childhood);

    assert_int_equal(fixture_live_with(f, 0), 3); /* no session any more, and all is there */
    if (with_takeover) {
        fixture_kill(f);
        fixture_restart(f, NULL);
        let_everybody_in(f);
        assert_int_equal(fixture_live_with(f, 0), 3);
    }
    fam->go = true;
    if (childhood == ATTACHES || childhood == ATTACHES_AS_NOBODY) {
        for (int i = 0; i < 10000 && fam->go; i++)
            (void)usleep(1000);
        assert_false(fam->go);
        assert_int_equal(fixture_live_with(f, 1), 4);
    } else {
        assert_comes_to(f, 0);
    }
    assert_true(fam->child > 0);
    (void)kill(fam->child, SIGKILL);
    assert_comes_to(f, 0);
    (void)fixture_live_with(f, 0);
    (void)munmap(fam, sizeof(*fam));
}

static void group_of_a_dead_parent_waits_for_its_child(void **state)
{
    fixture *f = *state;

    let_everybody_in(f);
    for (int i = 0; i < 2; i++) {
        child_grows_up(f, ATTACHES, i == 1);
        if (geteuid() == 0)
            child_grows_up(f, ATTACHES_AS_NOBODY, i == 1);
        child_grows_up(f, DIES, i == 1);
        child_grows_up(f, EXECS, i == 1);
        child_grows_up(f, LEAVES, i == 1);
    }
}

/* Their locks are looked at in turn: that other groups wait is no reason to pass one over. */
static void groups_that_wait_end_in_whichever_order_their_children_die(void **state)
{
    static const char *const names[] = { "a", "b", "c", "d", "e", "f", "g", "h" };
    enum { N = sizeof(names) / sizeof(names[0]) };
    const fixture *f = *state;
    family *families[N];

    for (int i = 0; i < N; i++)
        families[i] = family_start(f, names[i], DIES);
    assert_int_equal(fixture_live_with(f, 0), 3 * N);
    (void)usleep(500000); /* each lock has been looked at */
    for (int i = 0; i < N; i++) {
        family *fam = families[i * 5 % N]; /* those that stay are before it and behind */

        fam->go = true;
        assert_comes_to(f, 3 * (uint64_t)(N - 1 - i));
        (void)munmap(fam, sizeof(*fam));
    }
}

/* --- adoption --- */

static int adopt_and_die(const fixture *f, void *arg)
{
    pool *p = arg;

    CHECK(attach_as(f, GOALLOC_ATTACH_RECLAIM, p->group) == 0);
    for (int i = 0; i < ENTRIES; i++)
        CHECK(goalloc_adopt(p->slots[0][i].p) == 0);
    (void)raise(SIGKILL);
    return 0;
}

static int make_for_all(const fixture *f, void *arg)
{
    pool *p = arg;

    must_attach(f, 0);
    for (int i = 0; i < ENTRIES; i++) {
        slot_fill(&p->slots[0][i], (uint64_t)i * 31);
        p->slots[0][i].keeper = HEAP;
    }
    return 0;
}

/* What a member has adopted is the group's: it outlives the member, and a takeover, and goes with the last session. */
static void what_a_member_has_adopted_is_the_groups(void **state)
{
    fixture *f = *state;
    pool *p = pool_new("adopters", 1);
    pid_t holder = holder_start(f, "adopters");

    assert_int_equal(child_run(f, make_for_all, p), 0);
    assert_int_equal(child_run(f, adopt_and_die, p), 1000 + SIGKILL);
    assert_int_equal(fixture_live_with(f, 1), ENTRIES);
    fixture_kill(f);
    fixture_restart(f, NULL);
    assert_int_equal(fixture_live_with(f, 1), ENTRIES);
    process_kill(holder);
    assert_comes_to(f, 0);
    pool_delete(p);
}

/* --- what is shown --- */

static int count_as_member(const fixture *f, void *arg)
{
    void *mine[100];
    goalloc_stats_t stats;

    CHECK(attach_as(f, GOALLOC_ATTACH_RECLAIM, arg) == 0);
    stats = stats_now();
    CHECK(stats.group_live_objects == 50 && stats.group_live_bytes == 50 * 64);
    for (int i = 0; i < 100; i++)
        CHECK((mine[i] = goalloc_malloc(1024)) != NULL);
    for (int i = 0; i < 100; i += 4)
        CHECK(goalloc_publish(mine[i]) == 0);
    stats = stats_now();
    CHECK(stats.group_live_objects == 125 && stats.group_live_bytes == 50 * 64 + 75 * 1024);
    CHECK(goalloc_adopt(mine[0]) == 0);
    CHECK(stats_now().group_live_objects == 126);
    for (int i = 1; i < 100; i += 4)
        goalloc_free(mine[i]);
    CHECK(stats_now().group_live_objects == 101);
    return 0;
}

static int leave_fifty(const fixture *f, void *arg)
{
    CHECK(attach_as(f, GOALLOC_ATTACH_RECLAIM, arg) == 0);
    for (int i = 0; i < 50; i++)
        CHECK(goalloc_malloc(64) != NULL);
    return 0;
}

static int own_nothing(const fixture *f, void *arg)
{
    CHECK(attach_as(f, 0, arg) == 0);
    CHECK(goalloc_malloc(64) != NULL);
    CHECK(stats_now().group_live_objects == 0);
    return 0;
}

static void stats_show_what_a_group_owns(void **state)
{
    static const char *const plain[] = { "sessions", NULL };
    const fixture *f = *state;
    pid_t holder = holder_start(f, "shown");
    char out[4096];
    json_t *all;
    json_t *row;

    assert_int_equal(child_run(f, leave_fifty, "shown"), 0);
    assert_int_equal(fixture_live_with(f, 1), 50);
    assert_int_equal(child_run(f, count_as_member, "shown"), 0);
    assert_int_equal(fixture_live_with(f, 1), 125); /* 24 of them are the heap's */
    all = json_by_ctl(f, "stats");
    row = json_row(all, "groups", "shown");
    assert_non_null(row);
    assert_int_equal(figure(row, "live_objects"), 101);
    assert_int_equal(figure(row, "sessions"), 1);
    assert_int_equal(figure(row, "uid"), geteuid());
    assert_true(json_is_true(json_object_get(row, "reclaim")));
    assert_string_equal(json_string_value(json_object_get(row, "state")), "open");
    json_decref(all);
    assert_int_equal(fixture_ctl(f, plain, out, sizeof(out)), 0);
    assert_non_null(strstr(out, "shown"));
    assert_int_equal(child_run(f, own_nothing, "owns nothing"), 0);
    process_kill(holder);
    assert_comes_to(f, 24 + 1);
    all = json_by_ctl(f, "stats");
    assert_null(json_row(all, "groups", "shown"));
    json_decref(all);
}

/* --- the end, and a new beginning --- */

/* Groups of one name that follow each other at once: each finds its own objects and nobody's else. */
static int live_shortly(const fixture *f, void *arg)
{
    void *objects[200];

    CHECK(attach_as(f, GOALLOC_ATTACH_RECLAIM, arg) == 0);
    for (int i = 0; i < 200; i++)
        objects[i] = filled(3000, i);
    for (int i = 0; i < 200; i++)
        CHECK(all_are(objects[i], 3000, i));
    if (getpid() % 2 == 0)
        (void)raise(SIGKILL);
    CHECK(goalloc_detach() == 0);
    return 0;
}

static void groups_of_one_name_that_follow_each_other_are_whole(void **state)
{
    const fixture *f = *state;

    for (int i = 0; i < 60; i++) {
        int status = child_run(f, live_shortly, "phoenix");

        assert_true(status == 0 || status == 1000 + SIGKILL);
    }
    assert_comes_to(f, 0);
    assert_true(fixture_is_clean(f, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(group_of_eight_killed_in_any_order_leaves_nothing_after_the_last),
        FIXTURE_TEST_KEPT(group_of_eight_with_takeovers_leaves_nothing_after_the_last),
        FIXTURE_TEST(server_and_children_killed_in_any_order_leave_nothing_after_the_last),
        FIXTURE_TEST(places_that_a_dead_member_has_left_are_the_members_own),
        FIXTURE_TEST_KEPT(group_of_a_dead_parent_waits_for_its_child),
        FIXTURE_TEST(groups_that_wait_end_in_whichever_order_their_children_die),
        FIXTURE_TEST_KEPT(what_a_member_has_adopted_is_the_groups),
        FIXTURE_TEST(stats_show_what_a_group_owns),
        FIXTURE_TEST(groups_of_one_name_that_follow_each_other_are_whole),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
