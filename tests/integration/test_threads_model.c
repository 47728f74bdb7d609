/*
 * Several threads against a model: a million random mallocs, callocs, reallocs and frees of all sizes up to 300 KiB, by
 * threads that pass objects on to each other. No two live objects overlap, contents stay, and what is live by the
 * daemon's count is what the model has.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "tests/support/objects.h"

#if defined(__SANITIZE_THREAD__)
#define NOPS 400000
#else
#define NOPS 1000000
#endif
#define THREADS 4
#define PHASES 5 /* after each all objects are looked at */
#define ENTRIES 500
#define BOXES 64

typedef struct object {
    unsigned char *p;
    size_t size;
    unsigned char fill;
} object;

typedef struct player {
    uint64_t seed;
    object entries[ENTRIES];
    pthread_t thread;
} player;

static player players[THREADS];
static object *_Atomic boxes[BOXES]; /* on their way: the description, which travels with the object */
static pthread_barrier_t barrier;
static uint64_t nops_phase;

static size_t random_size(uint64_t r)
{
    switch (r % 16) {
    case 0:
        return (r >> 8) % (SHM_RUN_BYTES_MAX + 5 * PAGE_BYTES);
    case 1:
    case 2:
        return 32700 + (r >> 8) % 50000;
    case 3:
        return (r >> 8) % 16;
    case 4:
    case 5:
        return (r >> 8) % 33000;
    default:
        return (r >> 8) % 800;
    }
}

/* Its ends, and a byte of every page: enough to see that it was handed out twice. */
static void mark(const object *o)
{
    for (size_t at = 0; at < o->size; at += 4096)
        o->p[at] = o->fill;
    if (o->size > 0)
        o->p[o->size - 1] = o->fill;
}

static void check(const object *o, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += 4096)
        CHECK(o->p[at] == o->fill);
    CHECK(bytes < o->size || bytes == 0 || o->p[bytes - 1] == o->fill);
}

static void allocate(object *o, uint64_t r)
{
    o->size = random_size(r);
    o->fill = (unsigned char)(r >> 40);
    switch (r >> 50 & 3) {
    case 0:
        o->p = goalloc_malloc_noscan(o->size);
        break;
    case 1:
        o->p = goalloc_calloc(1, o->size);
        CHECK(o->p != NULL && all_are(o->p, o->size, 0));
        break;
    default:
        o->p = goalloc_malloc(o->size);
        break;
    }
    CHECK(o->p != NULL && goalloc_usable_size(o->p) >= o->size);
    mark(o);
}

static void resize(object *o, uint64_t r)
{
    size_t old = o->size;
    object before;

    o->size = random_size(r);
    o->p = goalloc_realloc(o->p, o->size);
    CHECK(o->p != NULL);
    before = *o;
    before.size = old;
    check(&before, old < o->size ? old : o->size);
    mark(o);
}

static void release(object *o)
{
    check(o, o->size);
    CHECK(goalloc_free_checked(o->p) == 0);
    o->p = NULL;
}

/* Give the object away, description and all, and take what is there. */
static void pass_on(object *o, uint64_t r)
{
    object *parcel = NULL;

    if (o->p != NULL) {
        parcel = malloc(sizeof(*parcel));
        CHECK(parcel != NULL);
        *parcel = *o;
        o->p = NULL;
    }
    parcel = atomic_exchange(&boxes[r % BOXES], parcel);
    if (parcel != NULL) {
        *o = *parcel;
        free(parcel);
    }
}

static void play_phase(player *y, bool shrinking)
{
    for (uint64_t op = 0; op < nops_phase; op++) {
        uint64_t r = test_random(&y->seed);
        object *o = &y->entries[test_random(&y->seed) % ENTRIES];

        if (r >> 61 == 0)
            pass_on(o, r);
        else if (o->p == NULL && (!shrinking || r >> 58 < 16))
            allocate(o, r);
        else if (o->p != NULL && r >> 61 == 1)
            resize(o, r);
        else if (o->p != NULL)
            release(o);
    }
}

static void *play(void *data)
{
    player *y = data;

    for (int phase = 0; phase < PHASES; phase++) {
        play_phase(y, phase % 2 == 1);
        (void)pthread_barrier_wait(&barrier);
        (void)pthread_barrier_wait(&barrier); /* meanwhile the main thread looks */
    }
    return NULL;
}

static int compare_addresses(const void *a, const void *b)
{
    const object *x = a;
    const object *y = b;

    return (x->p > y->p) - (x->p < y->p);
}

static void check_all(void)
{
    static object all[THREADS * ENTRIES + BOXES];
    goalloc_stats_t stats = stats_now();
    uint64_t bytes = 0;
    size_t n = 0;

    for (int t = 0; t < THREADS; t++) {
        for (int i = 0; i < ENTRIES; i++) {
            if (players[t].entries[i].p != NULL)
                all[n++] = players[t].entries[i];
        }
    }
    for (int i = 0; i < BOXES; i++) {
        if (boxes[i] != NULL)
            all[n++] = *boxes[i];
    }
    qsort(all, n, sizeof(*all), compare_addresses);
    for (size_t i = 0; i < n; i++) {
        check(&all[i], all[i].size);
        bytes += goalloc_usable_size(all[i].p);
        CHECK(i == 0 || all[i - 1].p + goalloc_usable_size(all[i - 1].p) <= all[i].p);
    }
    CHECK(stats.live_objects == n);
    CHECK(stats.live_bytes == bytes);
}

static int play_in_threads(const fixture *f, void *arg)
{
    const char *given = getenv("GOALLOC_TEST_OPS");

    must_attach(f, 0);
    nops_phase = (given != NULL ? strtoull(given, NULL, 10) : NOPS) / THREADS / PHASES;
    CHECK(pthread_barrier_init(&barrier, NULL, THREADS + 1) == 0);
    for (int t = 0; t < THREADS; t++) {
        players[t].seed = test_random(arg);
        CHECK(pthread_create(&players[t].thread, NULL, play, &players[t]) == 0);
    }
    for (int phase = 0; phase < PHASES; phase++) {
        (void)pthread_barrier_wait(&barrier);
        check_all();
        (void)pthread_barrier_wait(&barrier);
    }
    for (int t = 0; t < THREADS; t++)
        CHECK(pthread_join(players[t].thread, NULL) == 0);
    check_all();
    for (int t = 0; t < THREADS; t++) { /* what exited threads have left */
        for (int i = 0; i < ENTRIES; i++) {
            if (players[t].entries[i].p != NULL)
                release(&players[t].entries[i]);
        }
    }
    for (int i = 0; i < BOXES; i++) {
        object *o = atomic_exchange(&boxes[i], NULL);

        if (o != NULL)
            release(o);
        free(o);
    }
    CHECK(stats_now().live_objects == 0 && stats_now().live_bytes == 0);
    CHECK(goalloc_trim() == 0 && stats_now().session_held_bytes == 0);
    return 0;
}

static int play_sampled(const fixture *f, void *arg)
{
    CHECK(setenv("GOALLOC_PROFILE", "8K", 1) == 0);
    return play_in_threads(f, arg);
}

static void run(child_fn fn)
{
    uint64_t seed = test_seed();
    fixture f;

    fixture_start(&f, NULL);
    assert_int_equal(child_run(&f, fn, &seed), 0);
    assert_true(fixture_is_clean(&f, 0));
    assert_true(fixture_is_whole(&f));
    assert_true(fixture_stop(&f));
}

static void random_operations_of_several_threads_agree_with_the_model(void **state)
{
    (void)state;
    run(play_in_threads);
}

static void random_operations_of_several_threads_agree_with_the_model_when_they_are_sampled(void **state)
{
    (void)state;
    run(play_sampled);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_operations_of_several_threads_agree_with_the_model),
        cmocka_unit_test(random_operations_of_several_threads_agree_with_the_model_when_they_are_sampled),
    };

    return cmocka_run_group_tests_name("threads against a model", tests, NULL, NULL);
}
