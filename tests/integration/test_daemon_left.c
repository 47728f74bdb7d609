/*
 * What sessions that have ended have left behind: counted as long as it lives, and never more than what lives.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>

#include "shm/sizeclass.h"
#include "tests/support/objects.h"

#define ENTRIES 6000u
#define BYTES 64u

/* --- workers; the objects stand in a table in the heap --- */

typedef struct job {
    unsigned from, to;           /* entries to fill */
    unsigned free_from, free_to; /* and to empty, first */
    bool dies;
    uint64_t seed; /* not 0: every entry at random instead */
} job;

static void **the_table(const fixture *f)
{
    void *p;

    must_attach(f, 0);
    if (goalloc_root_get("table", &p) < 0) {
        p = goalloc_calloc(ENTRIES, sizeof(void *));
        CHECK(p != NULL && goalloc_root_set("table", p) == 0);
    }
    return p;
}

static void take(void **entry)
{
    if (*entry != NULL)
        goalloc_free(*entry);
    *entry = NULL;
}

static void put(void **entry, uint64_t random)
{
    *entry = random % 8 == 0 ? goalloc_malloc_noscan(1 + random % 15) : goalloc_malloc(BYTES << random % 3);
    CHECK(*entry != NULL);
}

static int work(const fixture *f, void *arg)
{
    const job *j = arg;
    void **table = the_table(f);
    uint64_t seed = j->seed;

    for (unsigned i = j->free_from; i < j->free_to; i++)
        take(&table[i]);
    for (unsigned i = j->from; i < j->to; i++)
        CHECK((table[i] = goalloc_malloc(BYTES)) != NULL);
    for (unsigned i = 0; seed != 0 && i < ENTRIES; i++) {
        uint64_t r = test_random(&seed);

        if (r % 4 == 0)
            take(&table[i]);
        else if (r % 4 == 1 && table[i] == NULL)
            put(&table[i], r / 4);
    }
    if (j->dies)
        (void)kill(getpid(), SIGKILL);
    CHECK(goalloc_detach() == 0);
    return 0;
}

static pid_t run(const fixture *f, job j)
{
    pid_t pid = child_start(f, work, &j);

    assert_int_equal(child_wait(pid), j.dies ? 1000 + SIGKILL : 0);
    return pid;
}

/* What goallocctl says that a process has left (pid 0: all of them together). */
static uint64_t left_by(const fixture *f, pid_t pid)
{
    uint64_t sum = 0;
    json_t *answer = json_by_ctl(f, "sessions");
    json_t *s;
    size_t i;

    json_array_foreach(json_object_get(answer, "sessions"), i, s)
    {
        if (pid == 0 || figure(s, "pid") == (uint64_t)pid)
            sum += figure(s, "left_objects");
    }
    json_decref(answer);
    return sum;
}

static void left_falls_as_others_free_it(void **state)
{
    const fixture *f = *state;
    pid_t pid;

    (void)run(f, (job){ .from = 0, .to = 0 }); /* the table */
    pid = run(f, (job){ .from = 0, .to = 1000, .dies = true });
    assert_int_equal(fixture_live_with(f, 0), 1001);
    assert_int_equal(left_by(f, pid), 1000);
    (void)run(f, (job){ .free_from = 0, .free_to = 300 });
    (void)fixture_live_with(f, 0);
    assert_int_equal(left_by(f, pid), 700);
    (void)run(f,
              (job){ .free_from = 300, .free_to = 999, .from = 2000, .to = 4000 }); /* and its places are used again */
    (void)fixture_live_with(f, 0);
    assert_in_range(left_by(f, 0), 1, 2002);
    (void)run(f, (job){ .free_from = 999, .free_to = 4000 });
    (void)fixture_live_with(f, 0);
    assert_int_equal(left_by(f, pid), 0);
    assert_int_equal(left_by(f, 0), 1); /* the table */
}

/* Objects of others in the same spans, before and after, are not its own. */
static void left_in_spans_with_others_objects_is_its_own(void **state)
{
    const fixture *f = *state;
    pid_t dead[2];

    (void)run(f, (job){ .from = 0, .to = 40 }); /* one span of 128 objects, which goes back with 40 in it */
    dead[0] = run(f, (job){ .from = 40, .to = 60, .dies = true });
    assert_int_equal(fixture_live_with(f, 0), 61);
    dead[1] = run(f, (job){ .from = 60, .to = 90, .dies = true });
    assert_int_equal(fixture_live_with(f, 0), 91);
    assert_int_equal(class_now(f, size_class_for(BYTES).n).spans, 1);
    assert_int_equal(left_by(f, dead[0]), 20);
    assert_int_equal(left_by(f, dead[1]), 30);
    (void)run(f, (job){ .free_from = 40, .free_to = 60 });
    assert_int_equal(fixture_live_with(f, 0), 71);
    assert_int_equal(left_by(f, dead[0]), 0); /* although more than 20 objects live there */
    assert_int_equal(left_by(f, dead[1]), 30);
    (void)run(f, (job){ .free_from = 0, .free_to = 40, .from = 0, .to = 60 });
    assert_int_equal(fixture_live_with(f, 0), 91);
    assert_int_equal(left_by(f, dead[0]), 0);
    assert_int_equal(left_by(f, dead[1]), 30);
    (void)run(f, (job){ .free_from = 0, .free_to = 90 });
    (void)fixture_live_with(f, 0);
    assert_int_equal(left_by(f, dead[1]), 0);
}

/* More workers than are remembered, each of which leaves some, frees others', and dies or not. */
static void left_by_all_is_never_more_than_what_lives(void **state)
{
    const fixture *f = *state;
    uint64_t seed = test_seed();

    (void)run(f, (job){ .from = 0, .to = 100 });
    for (int i = 0; i < 160; i++) {
        uint64_t live;

        (void)run(f, (job){ .seed = test_random(&seed) | 1, .dies = i % 4 != 0 });
        live = fixture_live_with(f, 0);
        assert_in_range(left_by(f, 0), 1, live);
        if (i % 16 == 0)
            assert_true(fixture_is_whole(f));
    }
    (void)run(f, (job){ .free_from = 0, .free_to = ENTRIES });
    assert_in_range(fixture_live_with(f, 0), 1, 300); /* at most some that no entry names */
    assert_in_range(left_by(f, 0), 0, fixture_live_with(f, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(left_falls_as_others_free_it),
        FIXTURE_TEST(left_in_spans_with_others_objects_is_its_own),
        FIXTURE_TEST(left_by_all_is_never_more_than_what_lives),
    };

    return cmocka_run_group_tests_name("what sessions have left", tests, NULL, NULL);
}
