/*
 * Spans of threads that have ended: other threads take them over to allocate from, take them over because they free in
 * them, and give them back, all at once; and no object is anybody's twice.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/support/attach.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define RUN_MS 6000
#else
#define RUN_MS 3000
#endif

#define SHELF      512u /* objects that lie about for anybody to free */
#define NSHORT     3    /* threads that are started anew all the time */
#define NLONG      3
#define SHORT_OPS  300

static const size_t sizes[] = { 48, 1024, 3072, 32768, 65536 };

/* Atomic, since of a place that comes by way of the daemon no sanitizer sees what happened before. */
typedef struct object {
    _Atomic uint64_t bytes;
    _Atomic uint64_t tag;
} object;

static _Atomic(object *) shelf[SHELF];
static atomic_bool over;

static uint64_t now_ms(void)
{
    struct timespec t;

    CHECK(clock_gettime(CLOCK_MONOTONIC, &t) == 0);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* The tag stands at both ends: another one who was given the same place would overwrite it. */
static _Atomic uint64_t *last_word(object *o)
{
    return (_Atomic uint64_t *)(void *)((char *)o + o->bytes - 8);
}

static object *object_new(uint64_t *seed)
{
    size_t bytes = sizes[test_random(seed) % (sizeof(sizes) / sizeof(*sizes))];
    object *o = goalloc_malloc(bytes);

    CHECK(o != NULL);
    o->bytes = bytes;
    o->tag = test_random(seed);
    *last_word(o) = o->tag;
    return o;
}

static void object_end(object *o)
{
    if (o == NULL)
        return;
    CHECK(*last_word(o) == o->tag);
    o->tag = ~o->tag;
    goalloc_free(o);
}

/* Put an object on the shelf; free what has stood there. */
static void put_one(uint64_t *seed)
{
    object_end(atomic_exchange(&shelf[test_random(seed) % SHELF], object_new(seed)));
}

static void *short_thread(void *arg)
{
    uint64_t seed = (uintptr_t)arg;

    for (int i = 0; i < SHORT_OPS; i++)
        put_one(&seed);
    return NULL;
}

static void *starting_thread(void *arg)
{
    uint64_t seed = (uintptr_t)arg;

    while (!atomic_load(&over)) {
        pthread_t thread;

        CHECK(pthread_create(&thread, NULL, short_thread, (void *)(uintptr_t)(test_random(&seed) | 1)) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
    }
    return NULL;
}

static void *long_thread(void *arg)
{
    uint64_t seed = (uintptr_t)arg;

    while (!atomic_load(&over)) {
        put_one(&seed);
        object_end(atomic_exchange(&shelf[test_random(&seed) % SHELF], NULL));
    }
    return NULL;
}

static void *trimming_thread(void *arg)
{
    uint64_t seed = (uintptr_t)arg;

    while (!atomic_load(&over)) {
        for (int i = 0; i < 10; i++)
            put_one(&seed);
        CHECK(goalloc_trim() == 0);
    }
    return NULL;
}

static int churn(const fixture *f, void *arg)
{
    void *(*const bodies[])(void *) = { starting_thread, long_thread, trimming_thread };
    const int counts[] = { NSHORT, NLONG, 1 };
    pthread_t threads[NSHORT + NLONG + 1];
    uint64_t seed = test_seed();
    uint64_t end;
    int n = 0;

    must_attach(f, *(const uint32_t *)arg);
    for (int kind = 0; kind < 3; kind++) {
        for (int i = 0; i < counts[kind]; i++, n++)
            CHECK(pthread_create(&threads[n], NULL, bodies[kind], (void *)(uintptr_t)(test_random(&seed) | 1)) == 0);
    }
    for (end = now_ms() + RUN_MS; now_ms() < end;)
        (void)usleep(10000);
    atomic_store(&over, true);
    for (int i = 0; i < n; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    for (unsigned i = 0; i < SHELF; i++)
        object_end(atomic_load(&shelf[i]));
    CHECK(goalloc_detach() == 0);
    return 0;
}

static void churn_with(uint32_t flags)
{
    fixture f;

    fixture_start(&f, NULL);
    assert_int_equal(child_run(&f, churn, &flags), 0);
    assert_true(fixture_is_clean(&f, 0));
    assert_true(fixture_is_whole(&f));
    assert_true(fixture_stop(&f));
}

static void spans_of_ended_threads_have_one_owner_at_a_time(void **state)
{
    (void)state;
    churn_with(0);
}

static void spans_of_ended_threads_have_one_owner_at_a_time_with_reclaim(void **state)
{
    (void)state;
    churn_with(GOALLOC_ATTACH_RECLAIM);
}

/* --- threads that allocate while they end --- */

#define LATE_COUNT 4000 /* objects, in the last round of destructors */
#define LATE_FREED 128  /* as many as a magazine has room for, and as many again */

static pthread_key_t late_key;
static int late_rounds;
static void *late[LATE_COUNT];

/* What both threads do. */
typedef struct late_case {
    size_t bytes; /* of an object */
    bool frees;   /* the one that ends frees, the next one allocates; else it frees first */
} late_case;

static const late_case *late_now;

/* Without pointers, so that one of few bytes is a tiny object. */
static void *late_alloc(void)
{
    return goalloc_malloc_noscan(late_now->bytes);
}

static void late_destructor(void *data)
{
    if (++late_rounds < PTHREAD_DESTRUCTOR_ITERATIONS) {
        CHECK(pthread_setspecific(late_key, data) == 0);
        return;
    }
    for (int i = 0; i < LATE_COUNT; i++)
        CHECK((late[i] = late_alloc()) != NULL);
    for (int i = 0; late_now->frees && i < LATE_FREED; i++)
        goalloc_free(late[2 * i % LATE_FREED + 2 * i / LATE_FREED]); /* those between the first ones come second */
}

static void *late_thread(void *arg)
{
    CHECK(pthread_setspecific(late_key, arg) == 0);
    goalloc_free(late_alloc());
    return NULL;
}

static void *freeing_thread(void *arg)
{
    (void)arg;
    for (int i = 0; i < LATE_COUNT / 2; i++)
        goalloc_free(late[i]);
    for (int i = 0; i < LATE_COUNT / 2; i++)
        CHECK((late[i] = late_alloc()) != NULL);
    for (int i = 0; i < LATE_COUNT; i++)
        goalloc_free(late[i]);
    return NULL;
}

/* What the thread before has freed is handed out once, by whatever way this one comes to it first. */
static void *allocating_thread(void *arg)
{
    (void)arg;
    for (int i = 0; i < LATE_FREED; i++)
        CHECK((late[i] = late_alloc()) != NULL);
    for (int i = 0; i < LATE_COUNT; i++)
        *(int *)late[i] = i;
    for (int i = 0; i < LATE_COUNT; i++)
        CHECK(*(int *)late[i] == i);
    for (int i = 0; i < LATE_COUNT; i++)
        goalloc_free(late[i]);
    return NULL;
}

static int late_allocations(const fixture *f, void *arg)
{
    goalloc_stats_t stats = { .struct_size = sizeof(stats) };
    pthread_t thread;

    late_now = arg;
    must_attach(f, 0);
    CHECK(pthread_key_create(&late_key, late_destructor) == 0);
    CHECK(pthread_create(&thread, NULL, late_thread, &late_key) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(late_rounds == PTHREAD_DESTRUCTOR_ITERATIONS);
    /* The next thread gets the stack of the last one, and with it its name. */
    CHECK(pthread_create(&thread, NULL, late_now->frees ? allocating_thread : freeing_thread, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(goalloc_trim() == 0);
    CHECK(goalloc_stats(&stats) == 0);
    CHECK(stats.live_objects == 0 && stats.session_held_bytes == 0);
    return 0;
}

static void spans_of_a_thread_that_allocates_while_it_ends_are_the_next_ones(void **state)
{
    late_case cases[] = { { 1024, false }, { 1024, true }, { 8, false }, { 8, true } };
    fixture f;

    (void)state;
#ifdef __SANITIZE_THREAD__
    skip(); /* in the last round of destructors the sanitizer has left the thread already */
#endif
    fixture_start(&f, NULL);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_int_equal(child_run(&f, late_allocations, &cases[i]), 0);
    assert_true(fixture_is_clean(&f, 0));
    assert_true(fixture_stop(&f));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spans_of_ended_threads_have_one_owner_at_a_time),
        cmocka_unit_test(spans_of_ended_threads_have_one_owner_at_a_time_with_reclaim),
        cmocka_unit_test(spans_of_a_thread_that_allocates_while_it_ends_are_the_next_ones),
    };

    return cmocka_run_group_tests_name("pool", tests, NULL, NULL);
}
