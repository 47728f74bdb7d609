/*
 * Roots that one process makes while others ask for them: races, and makers that fail, stop, die, fork, are cancelled,
 * or whose daemon is replaced.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "tests/support/roots.h"

/* --- get or create --- */

static int make_and_get(const fixture *f, void *arg)
{
    void *p;
    void *q = NULL;
    int created = -1;

    must_attach(f, *(uint32_t *)arg);
    CHECK(table_get("table", &p, &created) == 0 && created == 1);
    CHECK(((table *)p)->magic == TABLE_MAGIC);
    CHECK(table_get("table", &q, &created) == 0 && created == 0 && q == p);
    CHECK(table_get("table", &q, NULL) == 0 && q == p);
    CHECK(goalloc_root_get("table", &q) == 0 && q == p);
    q = NULL;
    CHECK(goalloc_root_get_or_create("table", sizeof(table) + 1, TABLE_TAG, NULL, NULL, &q, NULL) == -EMEDIUMTYPE);
    CHECK(goalloc_root_get_or_create("table", sizeof(table), TABLE_TAG + 1, NULL, NULL, &q, NULL) == -EMEDIUMTYPE);
    CHECK(goalloc_root_get_or_create("table", 0, TABLE_TAG, NULL, NULL, &q, NULL) == -EINVAL);
    CHECK(goalloc_root_get_or_create(NULL, 8, TABLE_TAG, NULL, NULL, &q, NULL) == -EINVAL);
    CHECK(goalloc_root_get_or_create("", 8, TABLE_TAG, NULL, NULL, &q, NULL) == -EINVAL);
    CHECK(goalloc_root_get_or_create("\xff", 8, TABLE_TAG, NULL, NULL, &q, NULL) == -EILSEQ);
    CHECK(q == NULL);
    return 0;
}

static int get_and_drop(const fixture *f, void *arg)
{
    void *p;
    int created;

    (void)arg;
    must_attach(f, 0);
    CHECK(table_get("table", &p, &created) == 0 && created == 0 && ((table *)p)->magic == TABLE_MAGIC);
    root_drop("table");
    CHECK(goalloc_root_get("table", &p) == -ENOENT);
    return 0;
}

static void get_or_create_makes_the_root_once(void **state)
{
    for (uint32_t flags = 0; flags <= GOALLOC_ATTACH_RECLAIM; flags++) {
        assert_int_equal(child_run(*state, make_and_get, &flags), 0);
        assert_true(fixture_is_clean(*state, 1)); /* it is the heap's */
        assert_int_equal(child_run(*state, get_and_drop, NULL), 0);
        assert_true(fixture_is_clean(*state, 0));
    }
}

/* A root that was set has a type and a size of its own. */
static int get_what_was_set(const fixture *f, void *arg)
{
    void *p;
    void *q;
    int created;

    (void)arg;
    must_attach(f, 0);
    p = goalloc_malloc(100);
    CHECK(p != NULL && goalloc_root_set("set", p) == 0);
    CHECK(goalloc_root_get_or_create("set", 100, 0, table_init, NULL, &q, &created) == 0 && q == p && created == 0);
    CHECK(goalloc_root_get_or_create("set", goalloc_usable_size(p), 0, NULL, NULL, &q, NULL) == 0);
    CHECK(goalloc_root_get_or_create("set", goalloc_usable_size(p) + 1, 0, NULL, NULL, &q, NULL) == -EMEDIUMTYPE);
    CHECK(goalloc_root_get_or_create("set", 100, TABLE_TAG, NULL, NULL, &q, NULL) == -EMEDIUMTYPE);
    root_drop("set");
    return 0;
}

static void get_or_create_of_a_root_that_was_set_looks_at_its_room(void **state)
{
    assert_int_equal(child_run(*state, get_what_was_set, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

static int get_readonly(const fixture *f, void *arg)
{
    void *p;

    (void)arg;
    must_attach(f, GOALLOC_ATTACH_READONLY);
    CHECK(table_get("table", &p, NULL) == 0 && ((table *)p)->magic == TABLE_MAGIC);
    CHECK(table_get("none", &p, NULL) == -EROFS);
    CHECK(goalloc_root_wait("table", 0, &p) == 0);
    CHECK(goalloc_root_compare_and_set("table", p, NULL) == -EROFS);
    return 0;
}

static void get_or_create_in_a_readonly_attach_gets_what_is_there(void **state)
{
    uint32_t flags = 0;

    assert_int_equal(child_run(*state, make_and_get, &flags), 0);
    assert_int_equal(child_run(*state, get_readonly, NULL), 0);
}

/* --- races --- */

#define RACERS 4
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define RACES 1000
#else
#define RACES 10000
#endif

static unsigned nraces(void)
{
    const char *text = getenv("GOALLOC_TEST_RACES");

    return text != NULL ? (unsigned)strtoul(text, NULL, 10) : RACES;
}

/* In memory that all racers share. */
typedef struct race {
    pthread_barrier_t barrier;
    atomic_uint nmade;
    void *_Atomic found[RACERS];
} race;

typedef struct racer {
    race *race;
    unsigned number;
    uint32_t flags;
} racer;

/* In each round all ask for the same root at the same time: one makes it, all get the same, and the first drops it. */
static int race_process(const fixture *f, void *arg)
{
    const racer *me = arg;
    race *r = me->race;

    must_attach(f, me->flags);
    for (unsigned i = 0; i < nraces(); i++) {
        void *p;
        int created;

        (void)pthread_barrier_wait(&r->barrier);
        CHECK(table_get("raced", &p, &created) == 0);
        CHECK(((table *)p)->magic == TABLE_MAGIC && ((table *)p)->ninits == 1);
        r->nmade += (unsigned)created;
        r->found[me->number] = p;
        (void)pthread_barrier_wait(&r->barrier);
        CHECK(r->nmade == i + 1);
        for (int k = 0; k < RACERS; k++)
            CHECK(r->found[k] == p);
        (void)pthread_barrier_wait(&r->barrier);
        if (me->number == 0)
            root_drop("raced");
    }
    return 0;
}

static race *race_new(unsigned n)
{
    race *r = mmap(NULL, sizeof(*r), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_barrierattr_t attr;

    assert_true(r != MAP_FAILED);
    (void)pthread_barrierattr_init(&attr);
    (void)pthread_barrierattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    (void)pthread_barrier_init(&r->barrier, &attr, n);
    return r;
}

static void get_or_create_raced_for_by_processes_gives_one_table(void **state)
{
    race *r = race_new(RACERS);
    pid_t pids[RACERS];

    for (unsigned i = 0; i < RACERS; i++) {
        racer me = { r, i, i % 2 == 0 ? 0 : GOALLOC_ATTACH_RECLAIM };

        pids[i] = child_start(*state, race_process, &me);
    }
    for (unsigned i = 0; i < RACERS; i++)
        assert_int_equal(child_wait(pids[i]), 0);
    assert_true(fixture_is_clean(*state, 0));
    (void)munmap(r, sizeof(*r));
}

static void *race_thread(void *arg)
{
    void *p;
    int created;

    CHECK(table_get(arg, &p, &created) == 0 && ((table *)p)->ninits == 1);
    return created ? p : NULL;
}

static int race_threads(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    for (int i = 0; i < 50; i++) {
        pthread_t threads[RACERS];
        unsigned nmade = 0;

        for (int k = 0; k < RACERS; k++)
            CHECK(pthread_create(&threads[k], NULL, race_thread, (void *)(uintptr_t) "threads") == 0);
        for (int k = 0; k < RACERS; k++) {
            void *made;

            CHECK(pthread_join(threads[k], &made) == 0);
            nmade += made != NULL;
        }
        CHECK(nmade == 1);
        root_drop("threads");
    }
    return 0;
}

static void get_or_create_raced_for_by_threads_gives_one_table(void **state)
{
    assert_int_equal(child_run(*state, race_threads, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* --- init --- */

static int init_fails(void *p, size_t size, void *arg)
{
    (void)p;
    (void)size;
    return *(int *)arg;
}

static int fail_to_init(const fixture *f, void *arg)
{
    static const int errors[] = { -ENODATA, -ECANCELED, -ETIMEDOUT, -EDEADLK };
    uint32_t flags = *(uint32_t *)arg;

    must_attach(f, flags);
    for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
        uint64_t before = stats_now().live_objects;
        void *p = NULL;
        int error = errors[i];

        CHECK(goalloc_root_get_or_create("failed", 1000, TABLE_TAG, init_fails, &error, &p, NULL) == error);
        CHECK(p == NULL);
        CHECK(goalloc_root_get("failed", &p) == -ENOENT);
        CHECK(stats_now().live_objects == before);
    }
    return 0;
}

static void get_or_create_with_an_init_that_fails_leaves_nothing(void **state)
{
    for (uint32_t flags = 0; flags <= GOALLOC_ATTACH_RECLAIM; flags++)
        assert_int_equal(child_run(*state, fail_to_init, &flags), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* init makes other roots, asks for its own, and lists. */
static int init_deeply(void *p, size_t size, void *arg)
{
    int depth = *(int *)arg;
    char name[32];
    void *q;
    int next = depth - 1;

    (void)p;
    (void)size;
    for (int i = depth; i <= 5; i++) {
        (void)snprintf(name, sizeof(name), "deep %d", i);
        CHECK(goalloc_root_get_or_create(name, 64, TABLE_TAG, table_init, NULL, &q, NULL) == -EDEADLK);
        CHECK(goalloc_root_get(name, &q) == -ENOENT);
    }
    if (depth == 0)
        return 0;
    (void)snprintf(name, sizeof(name), "deep %d", next);
    return goalloc_root_get_or_create(name, 64, TABLE_TAG, init_deeply, &next, &q, NULL);
}

static int make_deeply(const fixture *f, void *arg)
{
    int depth = 5;
    void *p;

    (void)arg;
    must_attach(f, 0);
    CHECK(goalloc_root_get_or_create("deep 5", 64, TABLE_TAG, init_deeply, &depth, &p, NULL) == 0);
    for (int i = 0; i <= 5; i++) {
        char name[32];

        (void)snprintf(name, sizeof(name), "deep %d", i);
        root_drop(name);
    }
    return 0;
}

static void init_may_make_others_and_not_its_own(void **state)
{
    assert_int_equal(child_run(*state, make_deeply, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* --- makers that go --- */

static int init_and_stop(void *p, size_t size, void *arg)
{
    (void)p;
    (void)size;
    (void)arg;
    (void)raise(SIGSTOP);
    return 0;
}

static int make_and_stop(const fixture *f, void *arg)
{
    void *p;
    int created;

    must_attach(f, *(uint32_t *)arg);
    CHECK(goalloc_root_get_or_create("stopped", sizeof(table), TABLE_TAG, init_and_stop, NULL, &p, &created) == 0);
    return created ? 0 : 2; /* 2: has got another one's */
}

static int make_another(const fixture *f, void *arg)
{
    void *p;
    int created;

    (void)arg;
    must_attach(f, 0);
    CHECK(table_get("stopped", &p, &created) == 0 && created == 1);
    return 0;
}

static int time_out(const fixture *f, void *arg)
{
    void *p = NULL;

    (void)arg;
    waits_start(f, 300);
    CHECK(table_get("stopped", &p, NULL) == -ETIMEDOUT && p == NULL);
    CHECK(table_get("another", &p, NULL) == 0); /* nobody else is held up */
    waits_check_served();
    root_drop("another");
    return 0;
}

static int drop_stopped(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    root_drop("stopped");
    return 0;
}

static void maker_that_is_stopped_holds_up_who_waits_for_it_alone(void **state)
{
    uint32_t flags = 0;
    pid_t pid = child_start(*state, make_and_stop, &flags);

    assert_true(child_stops(pid));
    assert_int_equal(child_run(*state, time_out, NULL), 0);
    (void)kill(pid, SIGCONT);
    assert_int_equal(child_wait(pid), 0);
    assert_int_equal(child_run(*state, drop_stopped, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* The next one waits already, or comes later. */
static void maker_that_is_killed_leaves_nothing_and_the_next_one_makes_it(void **state)
{
    for (uint32_t flags = 0; flags <= GOALLOC_ATTACH_RECLAIM; flags++) {
        for (int early = 0; early < 2; early++) {
            pid_t pid = child_start(*state, make_and_stop, &flags);
            pid_t next = 0;

            assert_true(child_stops(pid));
            if (early)
                next = child_start(*state, make_another, NULL);
            (void)kill(pid, SIGKILL);
            assert_int_equal(child_wait(pid), 1000 + SIGKILL);
            if (!early)
                next = child_start(*state, make_another, NULL);
            assert_int_equal(child_wait(next), 0);
            assert_true(fixture_is_clean(*state, 1));
            assert_int_equal(child_run(*state, drop_stopped, NULL), 0);
            assert_true(fixture_is_clean(*state, 0));
        }
    }
}

/* A daemon is killed while a root is being made: the next daemon knows nothing of it. */
static void maker_that_comes_back_late_takes_what_another_has_made(void **state)
{
    for (uint32_t flags = 0; flags <= GOALLOC_ATTACH_RECLAIM; flags++) {
        fixture *f = *state;
        pid_t pid = child_start(f, make_and_stop, &flags);

        assert_true(child_stops(pid));
        fixture_kill(f);
        fixture_restart(f, NULL);
        assert_int_equal(child_run(f, make_another, NULL), 0);
        (void)kill(pid, SIGCONT);
        assert_int_equal(child_wait(pid), 2);
        assert_true(fixture_is_clean(f, 1));
        assert_int_equal(child_run(f, drop_stopped, NULL), 0);
        assert_true(fixture_is_clean(f, 0));
    }
}

/* With nobody else there it makes the root itself, in a second try. */
static int init_and_stop_once(void *p, size_t size, void *arg)
{
    int *ninits = arg;

    return (*ninits)++ == 0 ? init_and_stop(p, size, NULL) : 0;
}

static int make_twice(const fixture *f, void *arg)
{
    void *p;
    int created;
    int ninits = 0;

    (void)arg;
    must_attach(f, 0);
    CHECK(goalloc_root_get_or_create("stopped", 100, TABLE_TAG, init_and_stop_once, &ninits, &p, &created) == 0);
    CHECK(created == 1 && ninits == 2);
    root_drop("stopped");
    return 0;
}

static void maker_whose_daemon_was_replaced_makes_it_again(void **state)
{
    assert_int_equal(child_run_over_a_restart(*state, make_twice, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* Somebody sets the root while it is being made: that one counts. */
static int set_it(const fixture *f, void *arg)
{
    void *p;

    (void)arg;
    must_attach(f, 0);
    p = goalloc_calloc(1, sizeof(table));
    CHECK(p != NULL && goalloc_root_compare_and_set("stopped", NULL, p) == 0);
    return 0;
}

static int make_in_vain(const fixture *f, void *arg)
{
    void *p;

    (void)arg;
    must_attach(f, 0);
    CHECK(goalloc_root_get_or_create("stopped", sizeof(table), TABLE_TAG, init_and_stop, NULL, &p, NULL) ==
          -EMEDIUMTYPE);
    CHECK(goalloc_root_get_or_create("stopped", sizeof(table), 0, init_and_stop, NULL, &p, NULL) == 0);
    root_drop("stopped");
    return 0;
}

static void root_that_is_set_while_it_is_made_counts(void **state)
{
    pid_t pid = child_start(*state, make_in_vain, NULL);

    assert_true(child_stops(pid));
    assert_int_equal(child_run(*state, set_it, NULL), 0);
    (void)kill(pid, SIGCONT);
    assert_int_equal(child_wait(pid), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* --- forks and cancellation --- */

static int init_and_fork(void *p, size_t size, void *arg)
{
    pid_t *child = arg;

    (void)size;
    *child = fork();
    CHECK(*child >= 0);
    if (*child == 0)
        waits_not_for_ever();
    else
        (void)usleep(50000);
    *(uint64_t *)p += *child != 0;
    return 0;
}

static int fork_in_init(const fixture *f, void *arg)
{
    pid_t child = -1;
    void *p;
    int created;

    must_attach(f, *(uint32_t *)arg);
    CHECK(goalloc_root_get_or_create("forked", 64, TABLE_TAG, init_and_fork, &child, &p, &created) == 0);
    CHECK(created == (child != 0) && *(uint64_t *)p == 1);
    if (child == 0)
        _exit(0);
    waits_child_ends_well(child);
    root_drop("forked");
    return 0;
}

static void child_that_is_forked_within_init_is_no_maker(void **state)
{
    for (uint32_t flags = 0; flags <= GOALLOC_ATTACH_RECLAIM; flags++)
        assert_int_equal(child_run(*state, fork_in_init, &flags), 0);
    assert_true(fixture_is_clean(*state, 0));
}

static int init_for_ever(void *p, size_t size, void *arg)
{
    (void)p;
    (void)size;
    atomic_store((atomic_bool *)arg, true);
    for (;;) { /* until it is cancelled; not in a call that a sanitizer follows, of which it would miss the end */
        pthread_testcancel();
        (void)sched_yield();
    }
    return 0;
}

static void *make_for_ever(void *arg)
{
    void *p;

    CHECK(goalloc_root_get_or_create("cancelled", 64, TABLE_TAG, init_for_ever, arg, &p, NULL) != 0);
    return NULL;
}

static void *wait_for_ever(void *arg)
{
    void *p;

    (void)arg;
    CHECK(goalloc_root_wait("never", -1, &p) != 0);
    return NULL;
}

static int cancel_some(const fixture *f, void *arg)
{
    atomic_bool begun = false;
    pthread_t maker;
    pthread_t waiter;
    void *ended;
    void *p;
    int created;

    (void)arg;
    must_attach(f, 0);
    waits_not_for_ever();
    CHECK(pthread_create(&maker, NULL, make_for_ever, &begun) == 0);
    CHECK(pthread_create(&waiter, NULL, wait_for_ever, NULL) == 0);
    while (!atomic_load(&begun))
        waits_sleep_ms(1);
    CHECK(pthread_cancel(maker) == 0 && pthread_cancel(waiter) == 0);
    CHECK(pthread_join(maker, &ended) == 0 && ended == PTHREAD_CANCELED);
    CHECK(pthread_join(waiter, &ended) == 0 && ended == PTHREAD_CANCELED);
    CHECK(table_get("cancelled", &p, &created) == 0 && created == 1);
    root_drop("cancelled");
    return 0;
}

static void thread_that_is_cancelled_makes_way(void **state)
{
    assert_int_equal(child_run(*state, cancel_some, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(get_or_create_makes_the_root_once),
        FIXTURE_TEST(get_or_create_of_a_root_that_was_set_looks_at_its_room),
        FIXTURE_TEST(get_or_create_in_a_readonly_attach_gets_what_is_there),
        FIXTURE_TEST(get_or_create_raced_for_by_processes_gives_one_table),
        FIXTURE_TEST(get_or_create_raced_for_by_threads_gives_one_table),
        FIXTURE_TEST(get_or_create_with_an_init_that_fails_leaves_nothing),
        FIXTURE_TEST(init_may_make_others_and_not_its_own),
        FIXTURE_TEST(maker_that_is_stopped_holds_up_who_waits_for_it_alone),
        FIXTURE_TEST(maker_that_is_killed_leaves_nothing_and_the_next_one_makes_it),
        FIXTURE_TEST_KEPT(maker_that_comes_back_late_takes_what_another_has_made),
        FIXTURE_TEST_KEPT(maker_whose_daemon_was_replaced_makes_it_again),
        FIXTURE_TEST(root_that_is_set_while_it_is_made_counts),
        FIXTURE_TEST(child_that_is_forked_within_init_is_no_maker),
        FIXTURE_TEST(thread_that_is_cancelled_makes_way),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
