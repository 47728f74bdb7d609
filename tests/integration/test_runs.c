/*
 * Runs: objects of more than 32 KiB and up to SHM_RUN_BYTES_MAX, which threads hold as they hold spans of small ones.
 * Their sizes and contents, who may free them, that they are used again without a request, what is left when a process
 * dies.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>

#include "tests/support/objects.h"

#define LONGEST SHM_RUN_BYTES_MAX /* of the runs; what is larger is a large object */
#define RUNS 60                   /* as many as a thread looks through at once, and fewer */

/* --- sizes, statistics --- */

static const struct {
    size_t size;
    size_t usable;
} borders[] = {
    { 32767, 32768 },
    { 32768, 32768 },
    { 32769, 40960 },
    { 40959, 40960 },
    { 40960, 40960 },
    { 40961, 49152 },
    { 65536, 65536 },
    { 65537, 73728 },
    { LONGEST - PAGE_BYTES, LONGEST - PAGE_BYTES },
    { LONGEST - PAGE_BYTES + 1, LONGEST },
    { LONGEST - 1, LONGEST },
    { LONGEST, LONGEST },
    { LONGEST + 1, LONGEST + PAGE_BYTES },
    { LONGEST + PAGE_BYTES, LONGEST + PAGE_BYTES },
    { LONGEST + PAGE_BYTES + 1, LONGEST + 2 * PAGE_BYTES },
};

#define NBORDERS (sizeof(borders) / sizeof(borders[0]))

static void *alloc_by(int how, size_t size)
{
    return how == 0   ? goalloc_malloc(size)
           : how == 1 ? goalloc_malloc_noscan(size)
           : how == 2 ? goalloc_calloc(1, size)
                      : goalloc_aligned_alloc(8192, size);
}

static int sizes_at_the_borders(const fixture *f, void *arg)
{
    unsigned char *objects[4 * NBORDERS];
    uint64_t bytes = 0;
    uint64_t nruns = 0;
    uint64_t run_bytes = 0;

    (void)arg;
    must_attach(f, 0);
    for (size_t i = 0; i < 4 * NBORDERS; i++) {
        size_t usable = borders[i % NBORDERS].usable;

        objects[i] = alloc_by((int)(i / NBORDERS), borders[i % NBORDERS].size);
        CHECK(objects[i] != NULL && (uintptr_t)objects[i] % 8192 == 0);
        CHECK(goalloc_usable_size(objects[i]) == usable);
        memset(objects[i], (int)i, usable);
        bytes += usable;
        nruns += usable > 32768;
        run_bytes += usable > 32768 ? usable : 0;
        CHECK(stats_now().live_bytes == bytes && stats_now().live_objects == i + 1);
    }
    CHECK(stats_now().session_held_bytes >= bytes);

    class_figures large = class_now(f, 0);

    CHECK(large.live_objects == nruns && large.live_bytes == run_bytes);
    CHECK(large.allocs == nruns && large.frees == 0 && large.span_bytes >= run_bytes);
    for (size_t i = 0; i < 4 * NBORDERS; i++) {
        CHECK(all_are(objects[i], borders[i % NBORDERS].usable, (int)i));
        CHECK(goalloc_free_checked(objects[i]) == 0);
        bytes -= borders[i % NBORDERS].usable;
        CHECK(stats_now().live_bytes == bytes);
    }
    large = class_now(f, 0);
    CHECK(large.live_objects == 0 && large.allocs == nruns && large.frees == nruns);
    CHECK(goalloc_trim() == 0 && stats_now().session_held_bytes == 0);
    CHECK(class_now(f, 0).spans == 0);
    return 0;
}

static void runs_of_all_sizes_at_the_borders_are_counted_exactly(void **state)
{
    assert_int_equal(child_run(*state, sizes_at_the_borders, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* Runs of one length lie apart from those of another, and from those without pointers: each is found again. */
static int every_length(const fixture *f, void *arg)
{
    unsigned char *objects[2][SHM_RUN_PAGES_MAX];

    (void)arg;
    must_attach(f, 0);
    for (int round = 0; round < 4; round++) {
        goalloc_stats_t before = stats_now();

        for (int i = 0; i < SHM_RUN_PAGES_MAX; i++) {
            objects[0][i] = goalloc_malloc((size_t)(i + 1) * 8192);
            objects[1][i] = goalloc_malloc_noscan((size_t)(i + 1) * 8192 - 1);
            CHECK(objects[0][i] != NULL && objects[1][i] != NULL);
            CHECK(goalloc_usable_size(objects[0][i]) >= (size_t)(i + 1) * 8192);
            CHECK(goalloc_usable_size(objects[1][i]) >= (size_t)(i + 1) * 8192 - 1);
            memset(objects[0][i], i, (size_t)(i + 1) * 8192);
            memset(objects[1][i], ~i, (size_t)(i + 1) * 8192 - 1);
        }
        CHECK(round == 0 || stats_now().session_rpcs == before.session_rpcs + 1);
        for (int i = 0; i < SHM_RUN_PAGES_MAX; i++) {
            CHECK(all_are(objects[0][i], (size_t)(i + 1) * 8192, i));
            CHECK(all_are(objects[1][i], (size_t)(i + 1) * 8192 - 1, ~i));
            goalloc_free(objects[0][i]);
            goalloc_free(objects[1][i]);
        }
    }
    return 0;
}

static void runs_of_every_length_are_used_again_without_a_request(void **state)
{
    assert_int_equal(child_run(*state, every_length, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* --- calloc --- */

static void check_calloc(size_t size, int rounds)
{
    unsigned char *objects[20];

    for (int round = 0; round < rounds; round++) {
        for (int i = 0; i < 20; i++) {
            objects[i] = goalloc_calloc(1, size);
            CHECK(objects[i] != NULL && all_are(objects[i], size, 0));
            memset(objects[i], 0xee, goalloc_usable_size(objects[i]));
            if (i % 4 == 3) { /* the one that was freed last comes first */
                goalloc_free(objects[i]);
                objects[i] = goalloc_calloc(1, size);
                CHECK(objects[i] != NULL && all_are(objects[i], size, 0));
                memset(objects[i], 0xdd, goalloc_usable_size(objects[i]));
            }
        }
        for (int i = 0; i < 20; i++)
            goalloc_free(objects[(i * 7) % 20]);
    }
}

static int calloc_fresh_and_reused(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    for (size_t i = 0; i < NBORDERS; i++)
        check_calloc(borders[i].size, 3);
    CHECK(goalloc_trim() == 0); /* the pages go, and come again, dirty */
    for (size_t i = 0; i < NBORDERS; i++)
        check_calloc(borders[i].size, 1);
    return 0;
}

static void calloc_of_fresh_and_of_reused_runs_is_zero(void **state)
{
    for (int i = 0; i < 2; i++) { /* the second process gets the first one's pages */
        assert_int_equal(child_run(*state, calloc_fresh_and_reused, NULL), 0);
        assert_true(fixture_is_clean(*state, 0));
    }
}

/* --- realloc --- */

static int realloc_along(const fixture *f, void *arg)
{
    static const size_t way[] = { 100,     32768,
                                  32769,   40960,
                                  40961,   100000,
                                  LONGEST, LONGEST + 1,
                                  1 << 20, LONGEST + 40000,
                                  LONGEST, 140000,
                                  131072,  65536,
                                  40000,   32769,
                                  32768,   1000,
                                  16,      LONGEST,
                                  20,      LONGEST + PAGE_BYTES + 1,
                                  33000,   2 * LONGEST,
                                  8,       65536,
                                  65537,   57344,
                                  57345,   8192 };
    uint64_t seed = *(uint64_t *)arg;

    must_attach(f, 0);
    for (int noscan = 0; noscan < 2; noscan++) {
        size_t size = 1;
        unsigned char *p = noscan ? goalloc_malloc_noscan(1) : goalloc_malloc(1);

        CHECK(p != NULL);
        p[0] = 7;
        for (int i = 0; i < 1000; i++) {
            size_t to =
                (size_t)i < sizeof(way) / sizeof(way[0]) ? way[i] : 1 + test_random(&seed) % (LONGEST + 5 * PAGE_BYTES);
            int fill = 1 + i % 250;
            int old = i == 0 ? 7 : i == 1 ? 1 : 1 + (i - 1) % 250;

            p = goalloc_realloc(p, to);
            CHECK(p != NULL && goalloc_usable_size(p) >= to);
            CHECK(all_are(p, size < to ? size : to, old));
            CHECK(stats_now().live_objects == 1 && stats_now().live_bytes == goalloc_usable_size(p));
            memset(p, fill, to);
            size = to;
        }
        goalloc_free(p);
    }
    CHECK(stats_now().live_objects == 0);
    return 0;
}

static void realloc_between_small_run_and_large_keeps_contents(void **state)
{
    uint64_t seed = test_seed();

    assert_int_equal(child_run(*state, realloc_along, &seed), 0);
    assert_true(fixture_is_clean(*state, 0));
}

static int realloc_stays(const fixture *f, void *arg)
{
    unsigned char *p;
    uintptr_t before;

    (void)arg;
    must_attach(f, 0);
    p = filled(200000, 1); /* 25 pages */
    before = (uintptr_t)p;
    p = goalloc_realloc(p, 204800);
    CHECK((uintptr_t)p == before);
    p = goalloc_realloc(p, 102401);
    CHECK((uintptr_t)p == before && goalloc_usable_size(p) == 204800);
    p = goalloc_realloc(p, 102400); /* half */
    CHECK(p != NULL && (uintptr_t)p != before && all_are(p, 102400, 1) && goalloc_usable_size(p) == 106496);
    CHECK(goalloc_free_checked((void *)before) == -EALREADY);
    goalloc_free(p);
    return 0;
}

static void realloc_of_a_run_stays_while_half_of_it_is_used(void **state)
{
    assert_int_equal(child_run(*state, realloc_stays, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* --- freed by another thread --- */

typedef struct some_runs {
    unsigned char *p[RUNS];
    size_t size;
} some_runs;

static void *free_some(void *data)
{
    some_runs *r = data;

    for (int i = 0; i < RUNS; i++) {
        CHECK(all_are(r->p[i], r->size, i));
        CHECK(goalloc_free_checked(r->p[i]) == 0);
        CHECK(goalloc_free_checked(r->p[i]) == -EALREADY);
    }
    return NULL;
}

static void make_some(some_runs *r)
{
    for (int i = 0; i < RUNS; i++)
        r->p[i] = filled(r->size, i);
}

static int freed_by_a_thread(const fixture *f, void *arg)
{
    static some_runs r;
    uint64_t rpcs = 0;

    (void)arg;
    must_attach(f, 0);
    for (size_t npages = SHM_RUN_PAGES_MIN; npages <= SHM_RUN_PAGES_MAX; npages += 9) {
        r.size = npages * 8192;
        for (int round = 0; round < 5; round++) {
            pthread_t thread;
            goalloc_stats_t stats;

            make_some(&r);
            stats = stats_now();
            CHECK(stats.live_objects == RUNS && stats.live_bytes == RUNS * r.size);
            CHECK(round == 0 || stats.session_rpcs == rpcs + 1);
            CHECK(pthread_create(&thread, NULL, free_some, &r) == 0);
            CHECK(pthread_join(thread, NULL) == 0);
            stats = stats_now();
            CHECK(stats.live_objects == 0 && stats.live_bytes == 0);
            rpcs = stats.session_rpcs;
        }
    }
    CHECK(goalloc_trim() == 0 && stats_now().session_held_bytes == 0);
    return 0;
}

static void runs_freed_by_another_thread_are_used_again_without_a_request(void **state)
{
    assert_int_equal(child_run(*state, freed_by_a_thread, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* --- freed by another process --- */

/* Makes runs, names them, and stops; woken, it makes as many again, zeroed, without a request. */
static int owner(const fixture *f, void *arg)
{
    static some_runs r = { .size = 70000 };
    some_runs *shared;
    goalloc_stats_t stats;

    must_attach(f, *(uint32_t *)arg);
    shared = goalloc_malloc(sizeof(*shared));
    CHECK(shared != NULL);
    make_some(&r);
    *shared = r;
    CHECK(goalloc_publish(shared) == 0 && goalloc_root_set("runs", shared) == 0);
    stats = stats_now();
    (void)raise(SIGSTOP);
    for (int i = 0; i < RUNS; i++) {
        CHECK(goalloc_usable_size(r.p[i]) == 0 && goalloc_free_checked(r.p[i]) == -EALREADY);
    }
    for (int i = 0; i < RUNS; i++) {
        r.p[i] = goalloc_calloc(1, r.size);
        CHECK(r.p[i] != NULL && all_are(r.p[i], r.size, 0));
    }
    CHECK(stats_now().session_rpcs == stats.session_rpcs + 1);
    CHECK(stats_now().live_objects == RUNS + 1);
    for (int i = 0; i < RUNS; i++)
        goalloc_free(r.p[i]);
    return 0;
}

static int free_the_owners(const fixture *f, void *arg)
{
    void *p;
    some_runs *r;
    goalloc_stats_t before;

    must_attach(f, 0);
    CHECK(goalloc_root_get("runs", &p) == 0);
    r = p;
    before = stats_now();
    for (int i = 0; i < RUNS; i++) {
        for (size_t at = 1; at < 9 * 8192; at += i % 2 ? 8191 : 8192) {
            CHECK(goalloc_free_checked(r->p[i] + at) == -EINVAL);
        }
        CHECK(stats_now().live_objects == before.live_objects - (uint64_t)i && all_are(r->p[i], r->size, i));
        CHECK(goalloc_free_checked(r->p[i]) == 0);
        CHECK(goalloc_usable_size(r->p[i]) == 0);
        CHECK(goalloc_free_checked(r->p[i]) < 0);
        if (arg != NULL && i == RUNS / 2)
            (void)raise(SIGKILL);
    }
    CHECK(stats_now().live_bytes == before.live_bytes - RUNS * (uint64_t)73728);
    return 0;
}

static void runs_freed_by_another_process_are_used_again_without_a_request(void **state)
{
    const fixture *f = *state;
    uint32_t flags = 0;
    pid_t pid = child_start(f, owner, &flags);

    assert_true(child_stops(pid));
    assert_int_equal(child_run(f, free_the_owners, NULL), 0);
    (void)kill(pid, SIGCONT);
    assert_int_equal(child_wait(pid), 0);
    assert_true(fixture_is_clean(f, 1));
}

static void runs_freed_by_another_process_while_the_owner_sleeps_are_gone_when_it_dies(void **state)
{
    const fixture *f = *state;
    uint32_t flags[] = { 0, GOALLOC_ATTACH_RECLAIM };

    for (int i = 0; i < 2; i++) {
        pid_t pid = child_start(f, owner, &flags[i]);

        assert_true(child_stops(pid));
        assert_int_equal(child_run(f, free_the_owners, NULL), 0);
        (void)kill(pid, SIGKILL);
        (void)child_wait(pid);
        assert_true(fixture_is_clean(f, (uint64_t)i + 1));
        assert_int_equal(class_now(f, 0).spans, 0);
    }
}

static void runs_of_a_dead_owner_are_freed_by_another_process(void **state)
{
    const fixture *f = *state;
    uint32_t flags = 0;
    pid_t pid = child_start(f, owner, &flags);

    assert_true(child_stops(pid));
    (void)kill(pid, SIGKILL);
    (void)child_wait(pid);
    assert_true(fixture_is_clean(f, RUNS + 1));
    assert_int_equal(class_now(f, 0).live_objects, RUNS);
    assert_int_equal(child_run(f, free_the_owners, NULL), 0);
    assert_true(fixture_is_clean(f, 1));
    assert_int_equal(class_now(f, 0).spans, 0);
}

static int free_the_rest(const fixture *f, void *arg)
{
    void *p;
    some_runs *r;
    int nlive = 0;

    must_attach(f, 0);
    CHECK(goalloc_root_get("runs", &p) == 0);
    r = p;
    for (int i = 0; i < RUNS; i++) {
        bool live = goalloc_usable_size(r->p[i]) != 0;

        CHECK(!live || all_are(r->p[i], r->size, i));
        CHECK((goalloc_free_checked(r->p[i]) == 0) == live);
        nlive += live;
    }
    CHECK(arg == NULL || nlive == *(int *)arg);
    return 0;
}

static void process_that_dies_while_it_frees_leaves_the_others_live(void **state)
{
    const fixture *f = *state;
    uint32_t flags = 0;
    int left = RUNS - RUNS / 2 - 1;
    pid_t pid = child_start(f, owner, &flags);

    assert_true(child_stops(pid));
    assert_int_equal(child_run(f, free_the_owners, &left), 1000 + SIGKILL);
    assert_int_equal(child_run(f, free_the_rest, &left), 0);
    (void)kill(pid, SIGCONT);
    assert_int_equal(child_wait(pid), 0);
    assert_true(fixture_is_clean(f, 1));
}

/* Owner and freeing process die at any time, in any order. */
static void runs_are_all_there_or_free_whoever_dies_when(void **state)
{
    const fixture *f = *state;
    uint64_t seed = test_seed();
    uint32_t flags = 0;

    for (uint64_t i = 1; i <= 20; i++) {
        pid_t owning = child_start(f, owner, &flags);
        pid_t freeing;
        pid_t first;

        assert_true(child_stops(owning));
        freeing = child_start(f, free_the_rest, NULL);
        first = i % 2 ? owning : freeing;
        (void)usleep((unsigned)(test_random(&seed) % 6000));
        (void)kill(first, SIGKILL);
        (void)usleep((unsigned)(test_random(&seed) % 1000));
        if (i % 3 != 0)
            (void)kill(i % 2 ? freeing : owning, SIGKILL);
        else
            (void)kill(owning, SIGKILL);
        (void)child_wait(owning);
        (void)child_wait(freeing);
        assert_int_equal(child_run(f, free_the_rest, NULL), 0);
        assert_true(fixture_is_clean(f, i));
        assert_true(runs_are_swept(f));
    }
}

/* --- bad frees --- */

/* Of a live run, the errors of frees at its page borders and anywhere; it stays as it is. */
static void check_interior(unsigned char *p, size_t usable, uint64_t *seed)
{
    goalloc_stats_t stats = stats_now();

    for (size_t at = 8192; at < usable; at += 8192) {
        CHECK(goalloc_free_checked(p + at) == -EINVAL);
        CHECK(goalloc_free_checked(p + at - 1) == -EINVAL && goalloc_free_checked(p + at + 1) == -EINVAL);
        CHECK(goalloc_usable_size(p + at) == 0);
    }
    for (int i = 0; i < 200; i++)
        CHECK(goalloc_free_checked(p + 1 + test_random(seed) % (usable - 1)) == -EINVAL);
    CHECK(goalloc_usable_size(p) == usable && stats_now().live_objects == stats.live_objects);
}

typedef struct bad_frees {
    unsigned char *p;
    size_t usable;
    uint64_t seed;
} bad_frees;

static void *interior_by_a_thread(void *data)
{
    bad_frees *b = data;

    check_interior(b->p, b->usable, &b->seed);
    CHECK(goalloc_malloc(40000) != NULL); /* the same with an mcache of its own */
    check_interior(b->p, b->usable, &b->seed);
    return NULL;
}

static int bad_frees_are_found(const fixture *f, void *arg)
{
    uint64_t seed = *(uint64_t *)arg;
    unsigned char *moved;
    unsigned char *p;

    must_attach(f, 0);
    for (size_t npages = SHM_RUN_PAGES_MIN; npages <= SHM_RUN_PAGES_MAX + 1; npages += 4) {
        bad_frees b = { .p = filled(npages * 8192, 3), .usable = npages * 8192, .seed = seed };
        pthread_t thread;

        check_interior(b.p, b.usable, &seed);
        CHECK(pthread_create(&thread, NULL, interior_by_a_thread, &b) == 0 && pthread_join(thread, NULL) == 0);
        CHECK(all_are(b.p, b.usable, 3));
        CHECK(goalloc_free_checked(b.p) == 0);
        CHECK(goalloc_free_checked(b.p) == -EALREADY && goalloc_free_checked(b.p) == -EALREADY);
        for (size_t at = 4096; at < b.usable; at += 4096)
            CHECK(goalloc_free_checked(b.p + at) == -EINVAL);
        moved = filled(b.usable, 4); /* the same place, or not; no more than one object */
        CHECK((goalloc_free_checked(b.p) == 0) == (moved == b.p));
        CHECK((goalloc_free_checked(moved) == 0) == (moved != b.p));
        CHECK(goalloc_trim() == 0);
        CHECK(goalloc_free_checked(b.p) < 0);
    }
    p = filled(60000, 5);
    moved = goalloc_realloc(p, 200000);
    CHECK(moved != NULL && moved != p && goalloc_free_checked(p) == -EALREADY);
    CHECK(goalloc_free_checked(moved + 8192) == -EINVAL && goalloc_free_checked(moved) == 0);
    return 0;
}

static void frees_of_runs_twice_or_inside_are_detected(void **state)
{
    uint64_t seed = test_seed();

    assert_int_equal(child_run(*state, bad_frees_are_found, &seed), 0);
    assert_true(fixture_is_clean(*state, (SHM_RUN_PAGES_MAX + 1 - SHM_RUN_PAGES_MIN) / 4 + 1)); /* the threads' own */
}

static int free_and_abort(const fixture *f, void *arg)
{
    unsigned char *p;

    must_attach(f, 0);
    (void)freopen("/dev/null", "w", stderr);
    p = goalloc_malloc(100000);
    if (p == NULL)
        return 2;
    switch (*(int *)arg) {
    case 0:
        goalloc_free(p);
        goalloc_free(p);
        break;
    case 1:
        goalloc_free(p + 8192);
        break;
    case 2:
        goalloc_free(p);
        p = goalloc_realloc(p, 50000);
        break;
    default:
        p = goalloc_realloc(p + 16384, 50000);
        break;
    }
    return 3;
}

static void bad_frees_of_runs_abort(void **state)
{
    for (int i = 0; i < 4; i++)
        assert_int_equal(child_run(*state, free_and_abort, &i), 1000 + SIGABRT);
}

/* --- whose object it is --- */

static int reclaimed_runs(const fixture *f, void *arg)
{
    unsigned char *p;
    uint64_t nbefore;

    must_attach(f, GOALLOC_ATTACH_RECLAIM);
    nbefore = stats_now().live_objects;
    for (int i = 0; i < 100; i++) {
        p = filled(40000 + (size_t)i * 2000, i);
        CHECK(i % 10 != 0 || goalloc_publish(p) == 0);
        if (i % 3 == 0 && i % 10 != 0) { /* what was published and freed is not published any more */
            uintptr_t before = (uintptr_t)p;

            CHECK(goalloc_publish(p) == 0);
            goalloc_free(p);
            p = filled(40000 + (size_t)i * 2000, i);
            CHECK((uintptr_t)p == before);
        }
    }
    CHECK(goalloc_trim() == 0); /* it still has what it owns */
    CHECK(stats_now().live_objects == nbefore + 100);
    p = filled(100000, 1);
    CHECK(goalloc_publish(p) == 0 && goalloc_adopt(p) == 0); /* and back */
    if (arg != NULL)
        (void)raise(SIGKILL);
    return 0;
}

static void runs_of_a_reclaim_session_are_freed_but_for_the_published(void **state)
{
    int killed = 1;

    assert_int_equal(child_run(*state, reclaimed_runs, NULL), 0);
    assert_true(fixture_is_clean(*state, 10));
    assert_int_equal(child_run(*state, reclaimed_runs, &killed), 1000 + SIGKILL);
    assert_true(fixture_is_clean(*state, 20));
    assert_int_equal(class_now(*state, 0).live_objects, 20);
}

static int adopt_the_owners(const fixture *f, void *arg)
{
    void *p;
    some_runs *r;

    must_attach(f, GOALLOC_ATTACH_RECLAIM);
    CHECK(goalloc_root_get("runs", &p) == 0);
    r = p;
    for (int i = 0; i < RUNS; i++)
        CHECK(goalloc_adopt(r->p[i]) == 0);
    if (arg == NULL)
        return 0; /* they end with this session */
    for (int i = 0; i < RUNS; i++) {
        CHECK(i % 2 == 0 || goalloc_publish(r->p[i]) == 0);
        CHECK(i % 4 != 0 || goalloc_free_checked(r->p[i]) == 0);
    }
    return 0;
}

static void runs_adopted_from_one_that_holds_them_are_used_again_by_it(void **state)
{
    const fixture *f = *state;
    uint32_t flags = 0;
    pid_t pid = child_start(f, owner, &flags);

    assert_true(child_stops(pid));
    assert_int_equal(child_run(f, adopt_the_owners, NULL), 0);
    assert_int_equal(fixture_live_with(f, 1), 1);
    (void)kill(pid, SIGCONT);
    assert_int_equal(child_wait(pid), 0);
    assert_true(fixture_is_clean(f, 1));
}

static void runs_adopted_and_published_again_stay(void **state)
{
    const fixture *f = *state;
    uint32_t flags[] = { 0, GOALLOC_ATTACH_RECLAIM };
    int left = RUNS / 2;
    int publish = 1;

    for (int i = 0; i < 2; i++) {
        pid_t pid = child_start(f, owner, &flags[i]);

        assert_true(child_stops(pid));
        assert_int_equal(child_run(f, adopt_the_owners, &publish), 0);
        assert_int_equal(fixture_live_with(f, 1), RUNS / 2 + i + 1);
        (void)kill(pid, SIGKILL);
        (void)child_wait(pid);
        assert_true(fixture_is_clean(f, (uint64_t)(RUNS / 2 + i + 1)));
        assert_int_equal(child_run(f, free_the_rest, &left), 0);
        assert_true(fixture_is_clean(f, (uint64_t)i + 1));
    }
}

/* --- given back with objects in them --- */

/* A trim gives back spans with live runs: nobody leases them, and anybody may free, resize or own them. */
static int trimmed(const fixture *f, void *arg)
{
    static some_runs r = { .size = 130000 };

    (void)arg;
    must_attach(f, 0);
    make_some(&r);
    CHECK(goalloc_trim() == 0);
    CHECK(stats_now().session_held_bytes == 0 && stats_now().live_objects == RUNS);
    for (int i = 0; i < RUNS; i++) {
        CHECK(goalloc_free_checked(r.p[i] + 8192) == -EINVAL && all_are(r.p[i], r.size, i));
        if (i % 3 == 0) {
            CHECK(goalloc_free_checked(r.p[i]) == 0 && goalloc_free_checked(r.p[i]) < 0);
            continue;
        }
        r.p[i] = goalloc_realloc(r.p[i], i % 3 == 1 ? LONGEST + 1 : 40000);
        CHECK(r.p[i] != NULL && all_are(r.p[i], i % 3 == 1 ? r.size : 40000, i));
    }
    CHECK(stats_now().live_objects == RUNS - RUNS / 3);
    for (int i = 0; i < RUNS; i++)
        CHECK(i % 3 == 0 || goalloc_free_checked(r.p[i]) == 0);
    CHECK(goalloc_trim() == 0);
    CHECK(stats_now().session_held_bytes == 0 && stats_now().live_objects == 0 && class_now(f, 0).spans == 0);
    return 0;
}

static void runs_given_back_live_are_resized_and_freed(void **state)
{
    assert_int_equal(child_run(*state, trimmed, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(runs_of_all_sizes_at_the_borders_are_counted_exactly),
        FIXTURE_TEST(runs_of_every_length_are_used_again_without_a_request),
        FIXTURE_TEST(calloc_of_fresh_and_of_reused_runs_is_zero),
        FIXTURE_TEST(realloc_between_small_run_and_large_keeps_contents),
        FIXTURE_TEST(realloc_of_a_run_stays_while_half_of_it_is_used),
        FIXTURE_TEST(runs_freed_by_another_thread_are_used_again_without_a_request),
        FIXTURE_TEST(runs_freed_by_another_process_are_used_again_without_a_request),
        FIXTURE_TEST(runs_freed_by_another_process_while_the_owner_sleeps_are_gone_when_it_dies),
        FIXTURE_TEST(runs_of_a_dead_owner_are_freed_by_another_process),
        FIXTURE_TEST(process_that_dies_while_it_frees_leaves_the_others_live),
        FIXTURE_TEST(runs_are_all_there_or_free_whoever_dies_when),
        FIXTURE_TEST(frees_of_runs_twice_or_inside_are_detected),
        FIXTURE_TEST(bad_frees_of_runs_abort),
        FIXTURE_TEST(runs_of_a_reclaim_session_are_freed_but_for_the_published),
        FIXTURE_TEST(runs_adopted_from_one_that_holds_them_are_used_again_by_it),
        FIXTURE_TEST(runs_adopted_and_published_again_stay),
        FIXTURE_TEST(runs_given_back_live_are_resized_and_freed),
    };

    return cmocka_run_group_tests_name("runs", tests, NULL, NULL);
}
