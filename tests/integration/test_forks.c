/*
 * Children that come about without fork()'s handlers: by _Fork() and by the system call. They are clients of their own
 * all the same: child and parent allocate and free at the same time, and no object is handed out twice.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "tests/support/objects.h"

#if defined(__SANITIZE_THREAD__)
#define THREADS 0 /* its runtime does not bear a child of several threads that it has not seen come about */
#define ROUNDS 2
#else
#define THREADS 3
#define ROUNDS 12
#endif
#define OBJECTS 300
#define PASSED 40 /* the parent's objects that each child frees */
#define STUCK_SECONDS 60

/* --- children --- */

enum { BY_FORK, BY_UNDERSCORE_FORK, BY_CLONE, WAYS };

/* 0 in the child. */
static pid_t make_child(int way)
{
    pid_t pid;

    switch (way) {
    case BY_FORK:
        pid = fork();
        break;
    case BY_UNDERSCORE_FORK:
        pid = _Fork();
        break;
    default:
        pid = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
        break;
    }
    CHECK(pid >= 0);
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)alarm(STUCK_SECONDS); /* a lock that somebody had in the parent ends it */
    }
    return pid;
}

static void await_child(pid_t pid)
{
    int status = child_wait(pid);

    if (status != 0)
        (void)fprintf(stderr, "a child has ended with %d (1000 and a signal)\n", status);
    CHECK(status == 0);
}

/* --- objects --- */

typedef struct object {
    unsigned char *p;
    size_t bytes;
    unsigned char fill;
} object;

typedef struct player {
    uint64_t seed;
    object objects[OBJECTS];
} player;

static size_t random_size(uint64_t r)
{
    switch (r % 32) {
    case 0:
        return SHM_RUN_BYTES_MAX + 1 + (r >> 8) % 200000;
    case 1:
    case 2:
        return SMALL_BYTES_MAX + 1 + (r >> 8) % 100000;
    case 3:
    case 4:
    case 5:
    case 6:
        return (r >> 8) % 16;
    default:
        return (r >> 8) % 3000;
    }
}

/* Its ends, and a byte of every page. */
static void mark(const object *o)
{
    for (size_t at = 0; at < o->bytes; at += 4096)
        o->p[at] = o->fill;
    if (o->bytes > 0)
        o->p[o->bytes - 1] = o->fill;
}

static void check(const object *o, size_t bytes)
{
    CHECK(goalloc_usable_size(o->p) >= bytes);
    for (size_t at = 0; at < bytes; at += 4096)
        CHECK(o->p[at] == o->fill);
    CHECK(bytes < o->bytes || bytes == 0 || o->p[bytes - 1] == o->fill);
}

static void allocate(object *o, uint64_t r)
{
    o->bytes = random_size(r >> 4);
    o->fill = (unsigned char)(r >> 40);
    switch (r % 4) {
    case 0:
        o->p = goalloc_calloc(1, o->bytes);
        CHECK(o->p != NULL && all_are(o->p, o->bytes, 0));
        break;
    case 1:
        o->p = goalloc_malloc(o->bytes);
        break;
    default:
        o->p = goalloc_malloc_noscan(o->bytes);
        break;
    }
    CHECK(o->p != NULL);
    mark(o);
}

static void free_object(object *o)
{
    check(o, o->bytes);
    memset(o->p, 0xee, o->bytes); /* what calloc must clear */
    CHECK(goalloc_free_checked(o->p) == 0);
    o->p = NULL;
}

static void resize(object *o, uint64_t r)
{
    size_t bytes = random_size(r);
    unsigned char *p = goalloc_realloc(o->p, bytes);

    CHECK(p != NULL);
    o->p = p;
    check(o, bytes < o->bytes ? bytes : o->bytes);
    o->bytes = bytes;
    mark(o);
}

static void play(player *pl, unsigned nops)
{
    for (unsigned i = 0; i < nops; i++) {
        uint64_t r = test_random(&pl->seed);
        object *o = &pl->objects[r % OBJECTS];

        if (o->p == NULL)
            allocate(o, r >> 16);
        else if (r >> 60 == 0)
            resize(o, r >> 16);
        else
            free_object(o);
    }
}

static void free_all(player *pl)
{
    for (size_t i = 0; i < OBJECTS; i++) {
        if (pl->objects[i].p != NULL)
            free_object(&pl->objects[i]);
    }
}

static void *play_and_free_all(void *data)
{
    play(data, 2000);
    free_all(data);
    return NULL;
}

/* --- a child --- */

static player pool[THREADS + 2];

static void play_in_threads(uint64_t seed)
{
    pthread_t threads[THREADS + 1];

    for (size_t i = 0; i != THREADS; i++) {
        memset(&pool[i], 0, sizeof(pool[i]));
        pool[i].seed = seed + i;
        CHECK(pthread_create(&threads[i], NULL, play_and_free_all, &pool[i]) == 0);
    }
    for (size_t i = 0; i != THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
}

/* What a child does, and what its children do. Its first call may be any, of its first thread or of another one. */
static void be_child(object *passed, uint64_t seed, int depth)
{
    player *pl = &pool[THREADS];

    memset(pl, 0, sizeof(*pl));
    pl->seed = seed;
    if (seed % 3 == 0 && depth < 2) { /* a child of its own, before the first call */
        pid_t pid = make_child((int)(seed / 3 % WAYS));

        if (pid == 0) {
            be_child(NULL, seed / 7, depth + 1);
            _exit(0);
        }
        await_child(pid);
    }
    if (seed % 4 == 0)
        play_in_threads(seed); /* the first calls are theirs */
    if (seed % 4 == 1) {
        object o;

        allocate(&o, seed >> 8);
        free_object(&o);
    }
    for (size_t i = 0; passed != NULL && i < PASSED; i++)
        free_object(&passed[i]);
    play(pl, 3000);
    if (depth < 2) {
        pid_t pid = make_child((int)(seed / 5 % WAYS));

        if (pid == 0) {
            be_child(NULL, seed / 11, depth + 1);
            if (seed % 2 == 0)
                exit(0);
            _exit(0);
        }
        play(pl, 1000);
        await_child(pid);
    }
    if (seed % 4 == 2)
        play_in_threads(seed);
    free_all(pl);
}

/* --- the parent --- */

static atomic_bool stop;

static void *churn(void *data)
{
    player *pl = data;
    void *p;

    while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
        play(pl, 200);
        CHECK(goalloc_root_get("none", &p) == -ENOENT); /* somebody is always with the daemon */
    }
    free_all(pl);
    return NULL;
}

typedef struct run {
    uint64_t seed;
    int way;
} run;

/* True if soon no object lives and the children's sessions have ended: the daemon hears of their deaths by itself. */
static bool is_alone(void)
{
    goalloc_stats_t stats = stats_now();

    for (int i = 0; i < 1000 && (stats.live_objects != 0 || stats.sessions != 1); i++) {
        (void)usleep(5000);
        stats = stats_now();
    }
    return stats.live_objects == 0 && stats.sessions == 1;
}

static int parent(const fixture *f, void *arg)
{
    static player churners[THREADS + 1];
    static player own;
    pthread_t threads[THREADS + 1];
    const run *r = arg;
    uint64_t seed = r->seed;

    (void)signal(SIGSEGV, SIG_DFL); /* cmocka's handler would go on with the next test, in this process */
    (void)signal(SIGBUS, SIG_DFL);
    (void)signal(SIGABRT, SIG_DFL);
    must_attach(f, 0);
    own.seed = test_random(&seed);
    for (size_t i = 0; i != THREADS; i++) {
        churners[i].seed = test_random(&seed);
        CHECK(pthread_create(&threads[i], NULL, churn, &churners[i]) == 0);
    }
    for (int round = 0; round < ROUNDS; round++) {
        static object passed[PASSED];
        uint64_t child_seed = test_random(&seed);
        pid_t pid;

        for (size_t i = 0; i < PASSED; i++)
            allocate(&passed[i], test_random(&seed));
        play(&own, 500);
        pid = make_child(r->way);
        if (pid == 0) {
            be_child(passed, child_seed, 0);
            if (round % 2 == 0)
                exit(0);
            _exit(0);
        }
        play(&own, 5000);
        await_child(pid);
    }
    atomic_store(&stop, true);
    for (size_t i = 0; i != THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    free_all(&own);
    CHECK(goalloc_trim() == 0);
    CHECK(is_alone());
    return 0;
}

/* --- the test --- */

/* Each class has allocated as much as it has freed, and no more than all could. */
static bool counters_are_sane(const fixture *f)
{
    bool sane = true;

    for (uint32_t class = 0; class < 70; class ++) {
        class_figures c = class_now(f, class);

        if (c.allocs < c.frees || c.allocs - c.frees > UINT64_C(100000000) || c.allocs > UINT64_C(100000000)) {
            (void)fprintf(stderr, "class %u: %llu allocated, %llu freed\n", class, (unsigned long long)c.allocs,
                          (unsigned long long)c.frees);
            sane = false;
        }
    }
    return sane;
}

static void play_with_children(int way)
{
    run r = { .seed = test_seed(), .way = way };
    fixture f;

    fixture_start_kept(&f, NULL);
    for (int daemon = 0; daemon < 2; daemon++) {
        assert_int_equal(child_run(&f, parent, &r), 0);
        assert_false(fixture_log_has(&f, "disconnected"));
        assert_true(fixture_is_whole(&f));
        assert_true(fixture_is_clean(&f, 0));
        assert_true(counters_are_sane(&f));
        if (daemon == 0) {
            fixture_kill(&f);
            fixture_restart(&f, NULL);
        }
        r.seed++;
    }
    assert_true(fixture_stop(&f));
}

/* --- a lock of another thread --- */

#define CHILDREN 100

static void *attach_and_detach(void *data)
{
    while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
        must_attach(data, 0);
        CHECK(goalloc_detach() == 0);
    }
    return NULL;
}

/* A child whose first call is fork(), which waits for who changes mappings: in the parent somebody always does. */
static int fork_in_raw_children(const fixture *f, void *arg)
{
    pthread_t thread;

    must_attach(f, 0);
    CHECK(goalloc_detach() == 0);
    CHECK(pthread_create(&thread, NULL, attach_and_detach, (void *)(uintptr_t)f) == 0);
    for (int i = 0; i < CHILDREN; i++) {
        pid_t pid = make_child(*(int *)arg);

        if (pid == 0) {
            (void)alarm(10);
            pid = make_child(BY_FORK);
            if (pid == 0)
                _exit(0);
            await_child(pid);
            _exit(0);
        }
        await_child(pid);
    }
    atomic_store(&stop, true);
    CHECK(pthread_join(thread, NULL) == 0);
    return 0;
}

static void fork_in_a_child_that_is_not_known_yet_waits_for_nobody(void **state)
{
    fixture f;

    (void)state;
#if THREADS == 0
    skip();
#endif
    fixture_start(&f, NULL);
    for (int way = BY_UNDERSCORE_FORK; way < WAYS; way++)
        assert_int_equal(child_run(&f, fork_in_raw_children, &way), 0);
    assert_true(fixture_is_clean(&f, 0));
    assert_true(fixture_stop(&f));
}

static void underscore_fork_while_threads_allocate_shares_no_span(void **state)
{
    (void)state;
    play_with_children(BY_UNDERSCORE_FORK);
}

static void clone_while_threads_allocate_shares_no_span(void **state)
{
    (void)state;
    play_with_children(BY_CLONE);
}

static void fork_while_threads_allocate_shares_no_span(void **state)
{
    (void)state;
    play_with_children(BY_FORK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(underscore_fork_while_threads_allocate_shares_no_span),
        cmocka_unit_test(clone_while_threads_allocate_shares_no_span),
        cmocka_unit_test(fork_while_threads_allocate_shares_no_span),
        cmocka_unit_test(fork_in_a_child_that_is_not_known_yet_waits_for_nobody),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
