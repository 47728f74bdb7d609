/*
 * Test of collect: what nobody can reach is found and freed, exactly if nobody is attached, and nothing else ever.
 *
 * Workers are child processes that build, link, unlink and die; a walk from the roots, in a child of its own, says what
 * there must be. The collector is `goallocctl --json leaks`.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdlib.h>

#include "tests/support/objects.h"

/* A node of the graphs here. */
typedef struct node {
    struct node *next;
    struct node *other;
    uint64_t number;
} node;

/* --- the collector --- */

/* What `goallocctl --json leaks` says. NULL: it has failed. The caller ends it with json_decref(). */
static json_t *leaks(const fixture *f, const char *option, const char *more)
{
    const char *arguments[] = { "--json", "leaks", "--max-pause", "5000", option, more, NULL };
    static char out[1 << 20];

    if (fixture_ctl(f, arguments, out, sizeof(out)) != 0) {
        print_message("leaks: %s\n", out);
        return NULL;
    }
    return json_loads(out, 0, NULL);
}

static uint64_t leaks_figure(const fixture *f, const char *option, const char *more, const char *name)
{
    json_t *answer = leaks(f, option, more);
    uint64_t ret;

    assert_non_null(answer);
    ret = figure(answer, name);
    json_decref(answer);
    return ret;
}

static uint64_t live_objects(const fixture *f)
{
    goalloc_stats_t stats = { .struct_size = sizeof(stats) };

    fixture_stats(f, &stats);
    return stats.live_objects;
}

/* --- without a session --- */

/* Objects of every kind: a chain of each, of which the root has one, and as many that nobody has. */
static int leave_of_all_kinds(const fixture *f, void *arg)
{
    static const size_t sizes[] = { 24, 32, 1000, 5000, 30000, 40000, 100000, 900000 };
    node *kept = NULL;

    (void)arg;
    must_attach(f, 0);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        for (int k = 0; k < 3; k++) {
            node *live = goalloc_calloc(1, sizes[i]);
            node *dead = goalloc_calloc(1, sizes[i]);

            CHECK(live != NULL && dead != NULL);
            live->next = kept;
            dead->next = live; /* what is garbage may point to what is not */
            dead->other = dead;
            kept = live;
        }
        ((node **)(void *)kept)[sizes[i] / 8 - 1] = goalloc_malloc_noscan(sizes[i]); /* by its last word */
        CHECK(goalloc_malloc_noscan(sizes[i]) != NULL);
        kept->other = (node *)(void *)((char *)goalloc_malloc(sizes[i]) + sizes[i] / 2 + 3); /* an interior pointer */
    }
    for (size_t bytes = 1; bytes < 16; bytes++) {
        node *holder = goalloc_calloc(1, sizeof(*holder));

        holder->next = kept;
        holder->other = goalloc_malloc_noscan(bytes);
        kept = holder;
        CHECK(goalloc_malloc_noscan(bytes) != NULL);
    }
    CHECK(goalloc_root_set("kept", kept) == 0);
    return 0;
}

enum { KINDS = 8, OF_ALL_LIVE = KINDS * 5 + 15 * 2, OF_ALL_DEAD = KINDS * 4 + 15 };

static void leaks_of_all_kinds_are_found_and_freed_exactly(void **state)
{
    fixture *f = *state;
    json_t *answer;

    assert_int_equal(child_run(f, leave_of_all_kinds, NULL), 0);
    assert_true(fixture_live_with(f, 0) == OF_ALL_LIVE + OF_ALL_DEAD);
    answer = leaks(f, NULL, NULL);
    assert_non_null(answer);
    assert_int_equal(figure(answer, "garbage_objects"), OF_ALL_DEAD);
    assert_int_equal(figure(answer, "reached_objects"), OF_ALL_LIVE);
    assert_int_equal(figure(answer, "freed_objects"), 0);
    assert_int_equal(figure(answer, "pause_us"), 0);
    assert_int_equal(json_array_size(json_object_get(answer, "objects")), OF_ALL_DEAD);
    json_decref(answer);
    assert_true(live_objects(f) == OF_ALL_LIVE + OF_ALL_DEAD);
    assert_int_equal(leaks_figure(f, "--free", NULL, "freed_objects"), OF_ALL_DEAD);
    assert_int_equal(leaks_figure(f, "--free", NULL, "garbage_objects"), 0);
    assert_true(fixture_is_clean(f, OF_ALL_LIVE));
}

/* --- with survivors --- */

typedef struct survivor_plan {
    int nlive;  /* objects of the list that the survivor has in private memory */
    int ndead;  /* objects that it forgets */
} survivor_plan;

static node *volatile kept_in_data;

/* Objects of which nobody knows, made in a call of their own: so no word of them stays in this frame. */
__attribute__((noinline)) static void forget_some(int n)
{
    for (int i = 0; i < n; i++) {
        node *p = goalloc_calloc(1, 100);

        CHECK(p != NULL);
        p->next = p;
    }
}

/* Overwrite what calls have left below on this thread's stack. */
__attribute__((noinline)) static void wipe_stack(void)
{
    volatile char wiped[65536];

    for (size_t i = 0; i < sizeof(wiped); i++)
        wiped[i] = 0;
}

static int hold_list(const fixture *f, void *arg)
{
    const survivor_plan *plan = arg;
    uint64_t n = 0;

    must_attach(f, 0);
    for (int i = 0; i < plan->nlive; i++) {
        node *p = goalloc_calloc(1, sizeof(*p));

        CHECK(p != NULL);
        p->next = kept_in_data;
        p->number = (uint64_t)i;
        kept_in_data = p;
    }
    forget_some(plan->ndead);
    wipe_stack();
    (void)raise(SIGSTOP);
    for (const node *p = kept_in_data; p != NULL; p = p->next, n++)
        CHECK(p->number == (uint64_t)plan->nlive - 1 - n);
    CHECK(n == (uint64_t)plan->nlive);
    return 0;
}

static void leaks_with_a_survivor_frees_nothing_that_lives(void **state)
{
    fixture *f = *state;
    survivor_plan plan = { .nlive = 5000, .ndead = 5000 };
    pid_t pid = child_start_stopped(f, hold_list, &plan);
    json_t *answer = leaks(f, "--free", "--all");
    uint64_t nfreed;

    assert_non_null(answer);
    nfreed = figure(answer, "freed_objects");
    assert_in_range(nfreed, 4995, 5000); /* at most 0.1% is retained */
    assert_int_equal(figure(answer, "garbage_objects"), nfreed);
    assert_int_equal(figure(answer, "processes"), 1);
    json_decref(answer);
    (void)kill(pid, SIGCONT);
    assert_int_equal(child_wait(pid), 0);
    assert_true(fixture_live_with(f, 0) == 10000 - nfreed);
    assert_int_equal(leaks_figure(f, "--free", NULL, "freed_objects"), 10000 - nfreed);
    assert_true(fixture_is_clean(f, 0));
}

static void leaks_why_names_the_word_that_holds_an_object(void **state)
{
    fixture *f = *state;
    survivor_plan plan = { .nlive = 3, .ndead = 0 };
    int pipes[2];
    pid_t pid;

    (void)pipes;
    pid = child_start_stopped(f, hold_list, &plan);
    {
        /* The list's objects are the first three places of their span. */
        json_t *answer = leaks(f, NULL, NULL);

        assert_non_null(answer);
        assert_int_equal(figure(answer, "reached_objects"), 3);
        json_decref(answer);
    }
    (void)kill(pid, SIGCONT);
    assert_int_equal(child_wait(pid), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(leaks_of_all_kinds_are_found_and_freed_exactly),
        FIXTURE_TEST(leaks_with_a_survivor_frees_nothing_that_lives),
        FIXTURE_TEST(leaks_why_names_the_word_that_holds_an_object),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
