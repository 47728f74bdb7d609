/*
 * Threads that end with live objects: others read and free these, take their spans over and allocate in them, without
 * a request; and many short threads do not make the heap grow.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "tests/support/objects.h"

/* --- what a thread leaves --- */

#define LEFT 3000

typedef struct left {
    unsigned char *p[LEFT];
    bool tiny; /* some of them */
} left;

/* Small ones of many classes, some of a run's length. */
static size_t size_at(size_t i)
{
    return i % 100 == 0 ? 33000 + i * 40 : i % 7 == 0 ? 1 + i % 15 : 16 + i * 13 % 2000;
}

static void allocate_left(left *l)
{
    for (size_t i = 0; i < LEFT; i++) {
        size_t size = size_at(i);

        l->p[i] = l->tiny && size < 16 ? goalloc_malloc_noscan(size) : goalloc_malloc(size);
        CHECK(l->p[i] != NULL);
        memset(l->p[i], (int)i, size);
    }
}

static void *allocate_and_exit(void *data)
{
    allocate_left(data);
    return NULL;
}

/* Every step-th object, from first on. */
static void free_left(left *l, size_t first, size_t step)
{
    for (size_t i = first; i < LEFT; i += step) {
        CHECK(all_are(l->p[i], size_at(i), (int)i));
        CHECK(goalloc_free_checked(l->p[i]) == 0);
        CHECK(goalloc_free_checked(l->p[i]) < 0);
        CHECK(goalloc_usable_size(l->p[i]) == 0);
    }
}

static void run_thread(void *(*fn)(void *), void *arg)
{
    pthread_t thread;

    CHECK(pthread_create(&thread, NULL, fn, arg) == 0 && pthread_join(thread, NULL) == 0);
}

static void *free_and_exit(void *data)
{
    free_left(data, 0, 1); /* it has no spans of its own */
    return NULL;
}

static void *free_with_spans_and_exit(void *data)
{
    goalloc_free(goalloc_malloc(100));
    free_left(data, 0, 1);
    return NULL;
}

static void *allocate_free_and_exit(void *data)
{
    allocate_left(data);
    free_left(data, 0, 1);
    return NULL;
}

/* After a trim a thread gives back at its next refill what has become idle since: only without trims is it exact. */
static void check_rpcs(const void *trims, int round, uint64_t want)
{
    uint64_t have = stats_now().session_rpcs;

    if (trims == NULL && have != want) {
        (void)fprintf(stderr, "round %d: %llu requests, not %llu\n", round, (unsigned long long)have,
                      (unsigned long long)want);
        CHECK(false);
    }
}

static int spans_are_taken_over(const fixture *f, void *arg)
{
    static left l;
    uint64_t rpcs;

    must_attach(f, 0);
    goalloc_free(goalloc_malloc(8)); /* this thread has spans */
    for (int round = 0; round < 6; round++) {
        l.tiny = round % 2;
        run_thread(allocate_and_exit, &l);
        CHECK(stats_now().live_objects == LEFT);
        rpcs = stats_now().session_rpcs;
        switch (round / 2) {
        case 0: /* the main thread frees, and allocates in what it has freed */
            free_left(&l, 0, 1);
            CHECK(stats_now().live_objects == 0 && stats_now().live_bytes == 0);
            allocate_left(&l);
            check_rpcs(arg, round, rpcs + 3);
            free_left(&l, 1, 2);
            free_left(&l, 0, 2);
            break;
        case 1: /* a thread without spans frees remotely; another one finds them in the pool */
            run_thread(free_and_exit, &l);
            CHECK(stats_now().live_objects == 0);
            run_thread(allocate_free_and_exit, &l);
            check_rpcs(arg, round, rpcs + 2);
            break;
        default:
            run_thread(free_with_spans_and_exit, &l);
            CHECK(stats_now().live_objects == 0);
            run_thread(allocate_free_and_exit, &l);
            check_rpcs(arg, round, rpcs + 2);
            break;
        }
        CHECK(stats_now().live_objects == 0 && stats_now().live_bytes == 0);
        if (arg != NULL)
            CHECK(goalloc_trim() == 0 && stats_now().session_held_bytes == 0);
    }
    return 0;
}

static void spans_of_exited_threads_are_used_without_a_request(void **state)
{
    int trim = 1;

    assert_int_equal(child_run(*state, spans_are_taken_over, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
    assert_int_equal(child_run(*state, spans_are_taken_over, &trim), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* Bad frees of what exited threads have left, before and after the span is taken over. */
static int bad_frees(const fixture *f, void *arg)
{
    static left l;

    (void)arg;
    must_attach(f, 0);
    run_thread(allocate_and_exit, &l);
    for (int with_spans = 0; with_spans < 2; with_spans++) {
        for (size_t i = 0; i < LEFT; i++) {
            CHECK(goalloc_free_checked(l.p[i] + 1) == -EINVAL);
            CHECK(size_at(i) < 9000 || goalloc_free_checked(l.p[i] + 8192) == -EINVAL);
        }
        CHECK(stats_now().live_objects == LEFT);
        goalloc_free(goalloc_malloc(8));
    }
    free_left(&l, 0, 2); /* takes most over */
    for (size_t i = 1; i < LEFT; i += 2)
        CHECK(goalloc_free_checked(l.p[i] + 1) == -EINVAL);
    for (size_t i = 0; i < LEFT; i += 2)
        CHECK(goalloc_free_checked(l.p[i]) < 0);
    free_left(&l, 1, 2);
    return 0;
}

static void frees_of_what_exited_threads_left_are_checked(void **state)
{
    assert_int_equal(child_run(*state, bad_frees, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* Objects of a session that reclaims: published ones stay, also where the span is another thread's by now. */
static int reclaimed(const fixture *f, void *arg)
{
    static left l;
    uint64_t npublished = 0;

    (void)arg;
    must_attach(f, GOALLOC_ATTACH_RECLAIM);
    run_thread(allocate_and_exit, &l);
    goalloc_free(goalloc_malloc(8));
    for (size_t i = 0; i < LEFT; i += 3) {
        CHECK(goalloc_publish(l.p[i]) == 0);
        npublished++;
    }
    free_left(&l, 0, 2);                   /* of the published too: every other one */
    for (size_t i = 0; i < LEFT; i += 2) { /* in their places, and not published */
        l.p[i] = goalloc_malloc(size_at(i));
        CHECK(l.p[i] != NULL);
    }
    CHECK(npublished == 1000 && stats_now().live_objects == LEFT);
    return 0;
}

static void published_bits_go_with_objects_of_spans_taken_over(void **state)
{
    assert_int_equal(child_run(*state, reclaimed, NULL), 0);
    assert_true(fixture_is_clean(*state, 500));
}

/* A forked child frees what an exited thread of its parent has left, remotely: the pool is the parent's. */
static int forked(const fixture *f, void *arg)
{
    static left l;
    uint64_t rpcs;
    pid_t pid;

    (void)arg;
    must_attach(f, 0);
    l.tiny = true;
    goalloc_free(goalloc_malloc(8));
    run_thread(allocate_and_exit, &l);
    rpcs = stats_now().session_rpcs;
    pid = fork();
    if (pid == 0) {
        goalloc_free(goalloc_malloc(8));
        free_left(&l, 0, 1);
        allocate_left(&l);
        free_left(&l, 0, 1);
        _exit(0);
    }
    CHECK(child_wait(pid) == 0);
    CHECK(stats_now().live_objects == 0);
    allocate_left(&l);
    CHECK(stats_now().session_rpcs == rpcs + 2);
    free_left(&l, 0, 1);
    return 0;
}

static void forked_child_frees_what_exited_threads_left(void **state)
{
    assert_int_equal(child_run(*state, forked, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* --- all at once --- */

#define TABLE 4096

/* Objects on their way from one thread to another. */
typedef struct table {
    unsigned char *_Atomic places[TABLE];
    _Atomic uint64_t seed;
} table;

/* An object says how long it is. */
static unsigned char *make_sized(uint64_t r)
{
    size_t size = 16 + (r % 50 == 0 ? r % 100000 : r % 1500);
    unsigned char *p = goalloc_malloc(size);

    CHECK(p != NULL);
    memcpy(p, &size, sizeof(size));
    memset(p + sizeof(size), (int)size, 8);
    p[size - 1] = (unsigned char)size;
    return p;
}

static void free_sized(unsigned char *p)
{
    size_t size;

    if (p == NULL)
        return;
    memcpy(&size, p, sizeof(size));
    CHECK(goalloc_usable_size(p) >= size && p[sizeof(size)] == (unsigned char)size);
    CHECK(p[size - 1] == (unsigned char)size);
    memset(p, 0xff, sizeof(size));
    CHECK(goalloc_free_checked(p) == 0);
}

/* A thread that puts objects into the table, frees those it finds there, and ends soon. */
static void *short_thread(void *data)
{
    table *t = data;
    uint64_t seed = atomic_fetch_add(&t->seed, UINT64_C(0x9e3779b97f4a7c15)); /* each its own */

    for (int i = 0; i < 400; i++) {
        uint64_t r = test_random(&seed);
        unsigned char *p = r >> 60 < 9 ? make_sized(r >> 8) : NULL;

        free_sized(atomic_exchange(&t->places[r % TABLE], p));
    }
    return NULL;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define GENERATIONS 60
#else
#define GENERATIONS 400
#endif
#define AT_ONCE 6

static int generations(const fixture *f, void *arg)
{
    static table t;
    pthread_t threads[AT_ONCE];
    uint64_t nlive = 0;

    (void)alarm(100); /* lists that are torn have no end */
    must_attach(f, 0);
    t.seed = *(uint64_t *)arg;
    for (int i = 0; i < GENERATIONS; i++) {
        for (int k = 0; k < AT_ONCE; k++)
            CHECK(pthread_create(&threads[k], NULL, short_thread, &t) == 0);
        (void)short_thread(&t);
        for (int k = 0; k < AT_ONCE; k++)
            CHECK(pthread_join(threads[k], NULL) == 0);
    }
    for (int i = 0; i < TABLE; i++)
        nlive += t.places[i] != NULL;
    CHECK(stats_now().live_objects == nlive);
    for (int i = 0; i < TABLE; i++)
        free_sized(t.places[i]);
    CHECK(stats_now().live_objects == 0 && stats_now().live_bytes == 0);
    CHECK(goalloc_trim() == 0 && stats_now().session_held_bytes == 0);
    return 0;
}

static void threads_that_come_and_go_free_each_others_objects(void **state)
{
    uint64_t seed = test_seed();

    assert_int_equal(child_run(*state, generations, &seed), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* --- many short threads --- */

#define THREADS 1000
#define EACH 300

typedef struct relay {
    unsigned char *p[EACH];
    int n;
    int round;
} relay;

/* Frees what the one before it has left, and leaves as much. */
static void *relay_thread(void *data)
{
    relay *r = data;

    for (int i = 0; i < EACH; i++) {
        unsigned char *p = make_sized((uint64_t)(i * 37 + r->round));
        unsigned char *q = make_sized((uint64_t)(i * 53 + r->round));

        free_sized(r->p[i]);
        r->p[i] = p;
        free_sized(q);
    }
    r->round++;
    return NULL;
}

static int many_threads(const fixture *f, void *arg)
{
    static relay r;
    uint64_t early = 0;

    (void)arg;
    must_attach(f, 0);
    for (int i = 0; i < THREADS; i++) {
        goalloc_stats_t stats;

        run_thread(relay_thread, &r);
        if (i % 50 != 49)
            continue;
        stats = stats_now();
        CHECK(stats.live_objects == EACH);
        if (i == 99)
            early = stats.committed_bytes;
        if (i > 99 && stats.committed_bytes > early + early / 4 + 1 * MIB) {
            (void)fprintf(stderr, "committed: %llu after 100 threads, %llu after %d\n", (unsigned long long)early,
                          (unsigned long long)stats.committed_bytes, i + 1);
            CHECK(false);
        }
    }
    for (int i = 0; i < EACH; i++)
        free_sized(r.p[i]);
    CHECK(stats_now().live_objects == 0);
    CHECK(goalloc_trim() == 0 && stats_now().session_held_bytes == 0);
    return 0;
}

static void thousand_short_threads_do_not_make_the_heap_grow(void **state)
{
    assert_int_equal(child_run(*state, many_threads, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(spans_of_exited_threads_are_used_without_a_request),
        FIXTURE_TEST(frees_of_what_exited_threads_left_are_checked),
        FIXTURE_TEST(published_bits_go_with_objects_of_spans_taken_over),
        FIXTURE_TEST(forked_child_frees_what_exited_threads_left),
        FIXTURE_TEST(threads_that_come_and_go_free_each_others_objects),
        FIXTURE_TEST(thousand_short_threads_do_not_make_the_heap_grow),
    };

    return cmocka_run_group_tests_name("exits", tests, NULL, NULL);
}
