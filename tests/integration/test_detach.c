/*
 * Detach: threads that have made their last call may still be on their way out of the process; and after it nothing
 * attaches by itself.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "tests/support/objects.h"
#include "tests/support/steps.h"

/* --- threads that exit --- */

#define THREADS 6
#define OBJECTS 200
#define STUCK_SECONDS 30 /* torn lists may be rings */

static int64_t now_ms(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static int64_t test_ms(void)
{
    const char *given = getenv("GOALLOC_TEST_SECONDS");

    return given != NULL ? atoi(given) * 1000 : 2000;
}

typedef struct leaver {
    pthread_t thread;
    uint64_t seed;
    unsigned char *p[OBJECTS];
    atomic_bool done; /* it has made its last call */
} leaver;

static size_t size_at(size_t i)
{
    return i == 0 ? SHM_RUN_BYTES_MAX + 1 : i % 50 == 1 ? 40000 : i % 3 == 0 ? 1 + i % 15 : 16 + i * 37 % 1500;
}

static unsigned char fill_at(const leaver *l, size_t i)
{
    return (unsigned char)(l->seed + i);
}

/* Allocate, free every other object, and leave. */
static void *allocate_and_leave(void *data)
{
    leaver *l = data;

    for (size_t i = 0; i < OBJECTS; i++) {
        l->p[i] = size_at(i) < 16 ? goalloc_malloc_noscan(size_at(i)) : goalloc_malloc(size_at(i));
        CHECK(l->p[i] != NULL);
        memset(l->p[i], fill_at(l, i), size_at(i));
    }
    for (size_t i = 1; i < OBJECTS; i += 2)
        goalloc_free(l->p[i]);
    atomic_store(&l->done, true);
    for (uint64_t i = l->seed % 65536; i > 0; i--)
        atomic_signal_fence(memory_order_seq_cst);
    return NULL;
}

static void free_rest(const leaver *l)
{
    for (size_t i = 0; i < OBJECTS; i += 2) {
        CHECK(all_are(l->p[i], size_at(i), fill_at(l, i)));
        CHECK(goalloc_free_checked(l->p[i]) == 0);
        CHECK(goalloc_free_checked(l->p[i]) < 0);
    }
}

/* Detach at once when the threads have made their last call, while they exit; attach, and free what they have left. */
static int detach_while_threads_exit(const fixture *f, void *arg)
{
    static leaver leavers[THREADS];
    uint64_t seed = *(uint64_t *)arg;
    int64_t end = now_ms() + test_ms();
    unsigned nrounds = 0;

    (void)signal(SIGSEGV, SIG_DFL); /* cmocka's handler would go on with the next test, in this process */
    (void)alarm((unsigned)(test_ms() / 1000) + STUCK_SECONDS);
    while (now_ms() < end) {
        must_attach(f, 0);
        for (size_t t = 0; t < THREADS; t++) {
            leavers[t].seed = test_random(&seed);
            leavers[t].done = false;
            CHECK(pthread_create(&leavers[t].thread, NULL, allocate_and_leave, &leavers[t]) == 0);
        }
        for (size_t t = 0; t < THREADS; t++) {
            while (!atomic_load(&leavers[t].done))
                (void)sched_yield();
        }
        CHECK(goalloc_detach() == 0);
        if (nrounds % 2 != 0)
            must_attach(f, 0);
        for (size_t t = 0; t < THREADS; t++)
            CHECK(pthread_join(leavers[t].thread, NULL) == 0);
        if (nrounds % 2 == 0)
            must_attach(f, 0);
        for (size_t t = 0; t < THREADS; t++)
            free_rest(&leavers[t]);
        CHECK(goalloc_trim() == 0);
        CHECK(stats_now().live_objects == 0);
        CHECK(goalloc_detach() == 0);
        nrounds++;
    }
    (void)printf("%u rounds\n", nrounds);
    return 0;
}

static void detach_while_threads_exit_loses_nothing(void **state)
{
    uint64_t seed = test_seed();

    assert_int_equal(child_run(*state, detach_while_threads_exit, &seed), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/*
 * The same, in order: one thread is stopped after each number of its instructions on the way out, and the process
 * detaches.
 */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define ROUNDS 10
#else
#define ROUNDS 16
#endif
#define STEPS_MAX 4000000u
#define STEPPING_MS 10000
#define WAIT_US 3000 /* for a detach that may have to wait for the thread that is stopped */

typedef struct common {
    bool traced;
    atomic_bool begin; /* a round */
    atomic_int tid;    /* of the thread; 0: not yet */
    atomic_bool leave; /* detach now */
    atomic_bool left;
    atomic_bool again; /* attach, and free what the thread has left */
    atomic_bool good;
} common;

static common *shared;

static void await_flag(atomic_bool *flag)
{
    while (!atomic_load(flag))
        (void)usleep(50);
    atomic_store(flag, false);
}

static void *allocate_and_leave_traced(void *data)
{
    shared->traced = steps_begin();
    (void)allocate_and_leave(data);
    atomic_store(&shared->tid, (int)syscall(SYS_gettid));
    if (shared->traced)
        steps_mark();
    return NULL;
}

static int detach_when_told(const fixture *f, void *arg)
{
    static leaver l;

    (void)arg;
    (void)signal(SIGSEGV, SIG_DFL);
    for (;;) {
        l.seed++;
        await_flag(&shared->begin);
        must_attach(f, 0);
        CHECK(pthread_create(&l.thread, NULL, allocate_and_leave_traced, &l) == 0);
        await_flag(&shared->leave);
        CHECK(goalloc_detach() == 0);
        atomic_store(&shared->left, true);
        if (l.seed % 2 != 0)
            must_attach(f, 0);
        await_flag(&shared->again);
        CHECK(pthread_join(l.thread, NULL) == 0);
        if (l.seed % 2 == 0)
            must_attach(f, 0);
        free_rest(&l);
        CHECK(goalloc_trim() == 0);
        CHECK(stats_now().live_objects == 0);
        CHECK(goalloc_detach() == 0);
        atomic_store(&shared->good, true);
    }
    return 0;
}

static bool flag_comes(pid_t pid, atomic_bool *flag, int most_us)
{
    siginfo_t info;

    for (int us = 0; !atomic_load(flag); us += 50) {
        info.si_pid = 0;
        if (us >= most_us || waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) < 0 || info.si_pid != 0)
            return false;
        (void)usleep(50);
    }
    atomic_store(flag, false);
    return true;
}

/* The process detaches when its thread has taken nsteps of its way out. Returns how many it could take. */
static uint64_t leave_at(pid_t pid, uint64_t nsteps)
{
    bool alive;
    bool left;
    uint64_t taken;
    pid_t tid;

    atomic_store(&shared->begin, true);
    for (int us = 0; (tid = atomic_load(&shared->tid)) == 0 && us < 10000000; us += 50)
        (void)usleep(50);
    atomic_store(&shared->tid, 0);
    assert_true(tid != 0);
    if (!shared->traced)
        skip(); /* the system allows no tracing */
    assert_true(steps_start(tid));
    taken = steps_take(tid, nsteps, &alive);
    atomic_store(&shared->leave, true);
    left = flag_comes(pid, &shared->left, alive ? WAIT_US : 10000000);
    if (alive)
        assert_false(steps_run(tid)); /* to its end */
    atomic_store(&shared->again, true);
    if ((!left && !flag_comes(pid, &shared->left, 10000000)) || !flag_comes(pid, &shared->good, 10000000))
        fail_msg("after %llu instructions the process has ended or waits: 0x%x", (unsigned long long)taken,
                 (unsigned)steps_kill(pid));
    return taken;
}

static void detach_at_any_step_of_a_thread_that_exits_loses_nothing(void **state)
{
    fixture *f = *state;
    uint64_t seed = test_seed();
    uint64_t nsteps;
    pid_t pid;

    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(shared != MAP_FAILED);
    pid = child_start(f, detach_when_told, NULL);
    nsteps = leave_at(pid, STEPS_MAX);
    (void)printf("%llu instructions\n", (unsigned long long)nsteps);
    assert_in_range(nsteps, 1, STEPS_MAX - 1);
    /* Where processors are scarce a step takes long. */
    for (int64_t i = 0, end = now_ms() + STEPPING_MS; i < ROUNDS && now_ms() < end; i++)
        (void)leave_at(pid, test_random(&seed) % nsteps);
    (void)kill(pid, SIGKILL); /* it has no other thread, and no object */
    assert_int_equal(child_wait(pid), 1000 + SIGKILL);
    (void)munmap(shared, sizeof(*shared));
    assert_true(fixture_is_clean(f, 0));
}

/* --- after a detach --- */

/* Nothing allocates, and nothing attaches. */
static void check_left(void)
{
    static const size_t sizes[] = { 0, 1, 8, 100, 32768, 40000, SHM_RUN_BYTES_MAX + 1, 10000000 };
    goalloc_stats_t stats = { .struct_size = sizeof(stats) };
    void *p;

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        errno = 0;
        CHECK(goalloc_malloc(sizes[i]) == NULL && errno == ENOTCONN);
        errno = 0;
        CHECK(goalloc_malloc_noscan(sizes[i]) == NULL && errno == ENOTCONN);
        errno = 0;
        CHECK(goalloc_calloc(1, sizes[i]) == NULL && errno == ENOTCONN);
        errno = 0;
        CHECK(goalloc_realloc(NULL, sizes[i]) == NULL && errno == ENOTCONN);
        errno = 0;
        CHECK(goalloc_aligned_alloc(4096, sizes[i]) == NULL && errno == ENOTCONN);
    }
    CHECK(goalloc_root_get("name", &p) == -ENOTCONN);
    CHECK(goalloc_root_set("name", NULL) == -ENOTCONN);
    CHECK(goalloc_stats(&stats) == -ENOTCONN);
    CHECK(goalloc_trim() == -ENOTCONN);
    CHECK(goalloc_publish(&stats) == -ENOTCONN);
    CHECK(goalloc_adopt(&stats) == -ENOTCONN);
    CHECK(goalloc_free_checked(&stats) == -ENOTCONN);
    CHECK(goalloc_detach() == -ENOTCONN);
    CHECK(goalloc_usable_size(&stats) == 0);
    goalloc_free(NULL);
}

static void *check_left_thread(void *data)
{
    check_left();
    return data;
}

static int check_left_child(const fixture *f, void *arg)
{
    (void)arg;
    check_left();
    must_attach(f, 0);
    goalloc_free(filled(100, 1));
    CHECK(stats_now().sessions == 1);
    CHECK(goalloc_detach() == 0);
    check_left();
    return 0;
}

static void run_thread(void *(*fn)(void *))
{
    pthread_t thread;

    CHECK(pthread_create(&thread, NULL, fn, NULL) == 0 && pthread_join(thread, NULL) == 0);
}

/* A child by the system call alone, which runs no handlers. */
static void run_raw_child(const fixture *f)
{
    pid_t pid = _Fork();

    CHECK(pid >= 0);
    if (pid == 0)
        _exit(check_left_child(f, NULL));
    CHECK(child_wait(pid) == 0);
}

static int leave_and_come_back(const fixture *f, void *arg)
{
    CHECK(setenv("GOALLOC_SOCKET", f->socket, 1) == 0); /* what must not be used, but before the first attach */
    if (arg != NULL) {
        goalloc_free(filled(SHM_RUN_BYTES_MAX + 1, 1));
        CHECK(stats_now().sessions == 1 && stats_now().live_objects == 0);
    } else {
        must_attach(f, 0);
    }
    for (int round = 0; round < 3; round++) {
        unsigned char *p = filled(100, round);

        CHECK(goalloc_detach() == 0);
        check_left();
        run_thread(check_left_thread);
        CHECK(child_run(f, check_left_child, NULL) == 0);
        run_raw_child(f);
        check_left();
        must_attach(f, 0);
        CHECK(stats_now().sessions == 1 && all_are(p, 100, round));
        goalloc_free(p);
        goalloc_free(filled(40000, round));
        CHECK(stats_now().live_objects == 0);
    }
    return 0;
}

static void malloc_after_detach_fails_until_the_next_attach(void **state)
{
    int defaults = 1;

    assert_int_equal(child_run(*state, leave_and_come_back, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
    assert_int_equal(child_run(*state, leave_and_come_back, &defaults), 0);
    assert_true(fixture_is_clean(*state, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(detach_while_threads_exit_loses_nothing),
        FIXTURE_TEST(detach_at_any_step_of_a_thread_that_exits_loses_nothing),
        FIXTURE_TEST(malloc_after_detach_fails_until_the_next_attach),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
