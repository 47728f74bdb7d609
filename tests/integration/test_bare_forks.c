/*
 * Children that came about without fork()'s handlers, in which another thread than that which forked is the first to
 * come to the library: no object is two threads', and the thread that forked has spans of its own.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "tests/support/attach.h"

#define NOBJECTS 100000u
#define NFORKS 8u
#define BYTES 64u

static uint64_t *objects[2][NOBJECTS];
static pthread_barrier_t both;

static void allocate(unsigned who)
{
    for (unsigned i = 0; i < NOBJECTS; i++) {
        objects[who][i] = goalloc_malloc(BYTES);
        CHECK(objects[who][i] != NULL);
        *objects[who][i] = who;
        if (i == 0 && who == 1)
            (void)pthread_barrier_wait(&both);
    }
}

static void check_and_free(unsigned who)
{
    for (unsigned i = 0; i < NOBJECTS; i++) {
        CHECK(*objects[who][i] == who);
        CHECK(goalloc_free_checked(objects[who][i]) == 0);
    }
}

static void *first_to_come(void *arg)
{
    (void)arg;
    allocate(1);
    (void)pthread_barrier_wait(&both);
    check_and_free(1);
    return NULL;
}

static void in_the_child(void (*first)(void))
{
    pthread_t thread;

    CHECK(pthread_barrier_init(&both, NULL, 2) == 0);
    CHECK(pthread_create(&thread, NULL, first_to_come, NULL) == 0);
    (void)pthread_barrier_wait(&both);
    if (first != NULL)
        first();
    allocate(0);
    (void)pthread_barrier_wait(&both);
    check_and_free(0);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(goalloc_detach() == 0);
}

static void trim(void)
{
    CHECK(goalloc_trim() == 0);
}

static void count(void)
{
    goalloc_stats_t stats = { .struct_size = sizeof(stats) };

    CHECK(goalloc_stats(&stats) == 0);
}

static void large(void)
{
    void *p = goalloc_malloc(2u << 20);

    CHECK(p != NULL);
    goalloc_free(p);
}

static int forks(const fixture *f, void *arg)
{
    static void (*const first[])(void) = { NULL, trim, count, large };

    (void)arg;
    must_attach(f, 0);
    goalloc_free(goalloc_malloc(BYTES));
    for (unsigned i = 0; i < NFORKS; i++) {
        int status = 1;
        pid_t pid = _Fork();

        CHECK(pid >= 0);
        if (pid == 0) {
            in_the_child(first[i % 4]);
            _exit(0);
        }
        CHECK(waitpid(pid, &status, 0) == pid);
        CHECK(status == 0);
    }
    return goalloc_detach() < 0;
}

static void a_thread_of_a_bare_child_comes_first_and_shares_nothing(void **state)
{
    fixture f;

    (void)state;
    fixture_start(&f, NULL);
    assert_int_equal(child_run(&f, forks, NULL), 0);
    assert_true(fixture_is_clean(&f, 0));
    assert_true(fixture_stop(&f));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_thread_of_a_bare_child_comes_first_and_shares_nothing),
    };

    return cmocka_run_group_tests_name("bare forks", tests, NULL, NULL);
}
