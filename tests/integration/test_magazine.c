/*
 * Magazine: objects that wait for the next malloc of their thread are free for everybody else: found as double frees,
 * counted as free, given back, zero for calloc, gone with a thread that ends and in the child of a fork.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shm/limits.h"
#include "tests/support/objects.h"

static const size_t sizes[] = { 8, 64, 1000, 4096, 32768, 40960, SHM_RUN_BYTES_MAX };

#define NSIZES (sizeof(sizes) / sizeof(sizes[0]))
#define NOBJECTS 3000

/* Fewer of the larger ones. */
static int count_of(size_t size)
{
    size_t n = ((size_t)16 << 20) / size;

    return n < NOBJECTS ? (int)n : NOBJECTS;
}

static void **allocate(size_t size, int n)
{
    void **objects = malloc((size_t)n * sizeof(*objects));

    for (int i = 0; i < n; i++) {
        CHECK((objects[i] = goalloc_malloc(size)) != NULL);
        memset(objects[i], 1 + i % 200, size);
    }
    return objects;
}

static void shuffle(void **objects, int n, uint64_t *seed)
{
    for (int i = n - 1; i > 0; i--) {
        int k = (int)(test_random(seed) % (uint64_t)(i + 1));
        void *p = objects[i];

        objects[i] = objects[k];
        objects[k] = p;
    }
}

/* --- what is in it is free --- */

static int free_twice(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    for (size_t k = 0; k < NSIZES; k++) {
        void *other = goalloc_malloc(sizes[k]);
        void *p = goalloc_malloc(sizes[k]);

        CHECK(goalloc_free_checked(p) == 0 && goalloc_free_checked(p) == -EALREADY);
        CHECK(goalloc_usable_size(p) == 0);
        CHECK(goalloc_free_checked(other) == 0 && goalloc_free_checked(p) == -EALREADY);
        CHECK(stats_now().live_objects == 0);
    }
    return 0;
}

static void free_of_what_the_magazine_has_is_a_double_free(void **state)
{
    assert_int_equal(child_run(*state, free_twice, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

static int calloc_after_frees(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    for (size_t k = 0; k < NSIZES; k++) {
        int n = count_of(sizes[k]);
        void **objects = allocate(sizes[k], n);

        for (int i = 0; i < n; i++)
            goalloc_free(objects[i]);
        for (int i = 0; i < n; i++) {
            CHECK((objects[i] = goalloc_calloc(1, sizes[k])) != NULL);
            CHECK(all_are(objects[i], sizes[k], 0));
            memset(objects[i], 7, sizes[k]);
        }
        for (int i = 0; i < n; i++)
            goalloc_free(objects[i]);
        free(objects);
    }
    return 0;
}

static void calloc_of_what_the_magazine_had_is_zero(void **state)
{
    assert_int_equal(child_run(*state, calloc_after_frees, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* --- it holds nothing back --- */

static int trim_after_frees(const fixture *f, void *arg)
{
    uint64_t seed = test_seed();

    (void)arg;
    must_attach(f, 0);
    for (size_t k = 0; k < NSIZES; k++) {
        int n = count_of(sizes[k]);

        for (int round = 0; round < 3; round++) { /* from the second one on, more of it stays */
            void **objects = allocate(sizes[k], n);

            shuffle(objects, n, &seed);
            for (int i = 0; i < n; i++)
                goalloc_free(objects[i]);
            free(objects);
            CHECK(stats_now().live_objects == 0);
        }
        CHECK(goalloc_trim() == 0 && stats_now().session_held_bytes == 0);
    }
    return 0;
}

static void trim_gives_back_the_spans_of_what_the_magazine_has(void **state)
{
    assert_int_equal(child_run(*state, trim_after_frees, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

#define BATCH_BYTES ((size_t)24 << 20)

/* Batches of one size, which the thread then retains whole; afterwards more of another one. (Stats would flush.) */
static int grow_after_batches(const fixture *f, void *arg)
{
    int n = (int)(BATCH_BYTES / 32768);
    goalloc_stats_t stats;

    (void)arg;
    must_attach(f, 0);
    for (int round = 0; round < 4; round++) {
        void **objects = allocate(32768, n);

        for (int i = 0; i < n; i++)
            goalloc_free(objects[i]);
        free(objects);
    }
    free(allocate(64, (int)(2 * BATCH_BYTES / 64)));
    stats = stats_now();
    CHECK(stats.session_held_bytes - 2 * BATCH_BYTES < BATCH_BYTES / 4);
    return 0;
}

static void growth_takes_what_magazines_retain(void **state)
{
    assert_int_equal(child_run(*state, grow_after_batches, NULL), 0);
}

static void *allocate_and_free(void *arg)
{
    size_t size = *(const size_t *)arg;
    void **objects = allocate(size, count_of(size));

    for (int i = 0; i < count_of(size); i++)
        goalloc_free(objects[i]);
    free(objects);
    return NULL;
}

/* The spans of a thread that has ended are whole for the next one. */
static int threads_one_after_another(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    for (size_t k = 0; k < NSIZES; k++) {
        uint64_t held = 0;

        for (int i = 0; i < 4; i++) {
            size_t size = sizes[k];
            pthread_t thread;

            CHECK(pthread_create(&thread, NULL, allocate_and_free, &size) == 0);
            CHECK(pthread_join(thread, NULL) == 0);
            CHECK(stats_now().live_objects == 0);
            CHECK(i == 0 || stats_now().session_held_bytes <= held);
            held = stats_now().session_held_bytes;
        }
    }
    CHECK(goalloc_trim() == 0 && stats_now().session_held_bytes == 0);
    return 0;
}

static void thread_that_ends_leaves_the_spans_of_its_magazines(void **state)
{
    assert_int_equal(child_run(*state, threads_one_after_another, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* --- who else comes by --- */

/* Half of the objects are freed by another thread: what that has freed never comes out of the magazine twice. */
static void *free_odd(void *arg)
{
    void **objects = arg;

    for (int i = 1; i < 1000; i += 2)
        goalloc_free(objects[i]);
    return NULL;
}

static int remote_and_own_frees(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    for (int round = 0; round < 20; round++) {
        void **objects = allocate(64, 1000);
        void **more;
        pthread_t thread;

        CHECK(pthread_create(&thread, NULL, free_odd, objects) == 0);
        for (int i = 0; i < 1000; i += 2)
            goalloc_free(objects[i]);
        more = allocate(64, 600);
        CHECK(pthread_join(thread, NULL) == 0);
        CHECK(stats_now().live_objects == 600);
        for (int i = 0; i < 600; i++) {
            CHECK(all_are(more[i], 64, 1 + i % 200));
            goalloc_free(more[i]);
        }
        CHECK(stats_now().live_objects == 0);
        free(objects);
        free(more);
    }
    return 0;
}

static void remote_frees_and_the_magazine_hand_out_nothing_twice(void **state)
{
    assert_int_equal(child_run(*state, remote_and_own_frees, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* The child must not take what its parent's magazine has: the parent does. */
static int fork_with_entries(const fixture *f, void *arg)
{
    void **objects;
    void **more;
    pid_t pid;
    int status;

    (void)arg;
    must_attach(f, 0);
    objects = allocate(64, 1000);
    for (int i = 0; i < 1000; i++)
        goalloc_free(objects[i]);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        more = allocate(64, 1000);
        for (int i = 0; i < 1000; i++) {
            for (int k = 0; k < 1000; k++)
                CHECK(more[i] != objects[k]);
        }
        for (int i = 0; i < 1000; i++)
            goalloc_free(more[i]);
        _exit(0);
    }
    more = allocate(64, 1000);
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    for (int i = 0; i < 1000; i++) {
        CHECK(all_are(more[i], 64, 1 + i % 200));
        goalloc_free(more[i]);
    }
    free(objects);
    free(more);
    return 0;
}

static void child_of_a_fork_has_an_empty_magazine(void **state)
{
    assert_int_equal(child_run(*state, fork_with_entries, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* --- what it hands out is counted --- */

static int take_from_it_alone(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    for (int i = 0; i < 200000; i++)
        goalloc_free(goalloc_malloc(64));
    for (int i = 0; i < 200000; i++) /* a run that goes past it: it has none of that length */
        goalloc_free(goalloc_malloc(SHM_RUN_BYTES_MAX));
    (void)raise(SIGSTOP);
    return 0;
}

static void pops_are_counted_while_nothing_else_happens(void **state)
{
    fixture *f = *state;
    pid_t pid = child_start_stopped(f, take_from_it_alone, NULL);

    assert_in_range(class_now(f, size_class_for(64).n).allocs, 130000, 200000);
    assert_in_range(class_now(f, 0).allocs, 130000, 200000);
    (void)kill(pid, SIGCONT);
    assert_int_equal(child_wait(pid), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(free_of_what_the_magazine_has_is_a_double_free),
        FIXTURE_TEST(calloc_of_what_the_magazine_had_is_zero),
        FIXTURE_TEST(trim_gives_back_the_spans_of_what_the_magazine_has),
        FIXTURE_TEST(growth_takes_what_magazines_retain),
        FIXTURE_TEST(thread_that_ends_leaves_the_spans_of_its_magazines),
        FIXTURE_TEST(remote_frees_and_the_magazine_hand_out_nothing_twice),
        FIXTURE_TEST(child_of_a_fork_has_an_empty_magazine),
        FIXTURE_TEST(pops_are_counted_while_nothing_else_happens),
    };

    return cmocka_run_group_tests_name("magazine", tests, NULL, NULL);
}
