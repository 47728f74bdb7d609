/*
 * Processes that lose their connection again and again while their threads allocate and free large objects, in place
 * or passed to another process: no object is handed out twice, and the daemon finds nothing wrong with what they say.
 * Three seconds each; GOALLOC_TEST_SECONDS makes it longer.
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
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

#include "proto/channel.h"
#include "tests/support/attach.h"
#include "tests/support/waits.h"

#define PATIENCE_MS 120000 /* of a request, while daemons die over and over */
#define WORKERS 2
#define THREADS 4
#define ENTRIES 6
#define BOXES 8
#define FDS_MAX 1024

enum { CUT, RESTART }; /* how the connection is lost */

/* What the test and its workers share. */
typedef struct common {
    int how;
    bool pass; /* objects are freed by the other process */
    uint64_t seed;
    atomic_uint nattached;
    atomic_bool stop;
    atomic_ulong ncomebacks;
    unsigned char *_Atomic boxes[BOXES]; /* objects on their way to whoever takes them */
} common;

typedef struct worker {
    const fixture *f;
    common *c;
    uint64_t seed;
    unsigned number;
} worker;

static int64_t now_ms(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static int64_t test_ms(void)
{
    const char *given = getenv("GOALLOC_TEST_SECONDS");

    return given != NULL ? atoi(given) * 1000 : 3000;
}

/* --- objects --- */

#define STAMP_EVERY 65536u

/* Atomic, for an object may come by way of other processes, which a sanitizer does not see. */
static atomic_ullong *word_at(unsigned char *p, size_t at)
{
    return (atomic_ullong *)(void *)(p + at);
}

static void put(unsigned char *p, size_t at, uint64_t word)
{
    atomic_store_explicit(word_at(p, at), word, memory_order_relaxed);
}

static uint64_t get(unsigned char *p, size_t at)
{
    return atomic_load_explicit(word_at(p, at), memory_order_relaxed);
}

/* Its length, and then the stamp: in the second word, in the last, and in one of every 64 KiB. */
static unsigned char *allocate(size_t bytes, uint64_t stamp)
{
    unsigned char *p = goalloc_malloc(bytes);

    CHECK(p != NULL);
    put(p, 0, bytes);
    put(p, 8, stamp);
    for (size_t at = STAMP_EVERY; at < bytes; at += STAMP_EVERY)
        put(p, at, stamp);
    put(p, bytes - 8, stamp);
    return p;
}

static void check(unsigned char *p)
{
    size_t bytes = get(p, 0);
    uint64_t stamp = get(p, 8);

    CHECK(goalloc_usable_size(p) >= bytes && bytes > STAMP_EVERY);
    for (size_t at = STAMP_EVERY; at < bytes; at += STAMP_EVERY)
        CHECK(get(p, at) == stamp);
    CHECK(get(p, bytes - 8) == stamp);
}

static void check_and_free(unsigned char *p)
{
    check(p);
    put(p, 0, 0);
    put(p, 8, 0);
    CHECK(goalloc_free_checked(p) == 0);
}

/* What stays in the process comes out of the cache of freed runs, so that threads take turns in it and not in waiting.
 */
static size_t size_for(const common *c, uint64_t r)
{
    if (!c->pass)
        return r % 64 == 0 ? 1024 * 1024 : 300 * 1024;
    return r % 8 == 0 ? 1024 * 1024 : 300 * 1024 + 8192 * (r % 4);
}

static void *churn(void *data)
{
    worker *w = data;
    unsigned char *entries[ENTRIES] = { NULL };
    uint64_t nobjects = 0;

    while (!atomic_load_explicit(&w->c->stop, memory_order_relaxed)) {
        uint64_t r = test_random(&w->seed);
        unsigned char **entry = &entries[r % (w->c->pass ? ENTRIES : 2)];

        r >>= 8;
        if (*entry == NULL) {
            *entry = allocate(size_for(w->c, r), (uint64_t)w->number << 48 | ++nobjects);
        } else if (w->c->pass && r % 4 != 0) {
            check(*entry);
            *entry = atomic_exchange(&w->c->boxes[(r >> 8) % BOXES], *entry);
        } else {
            check_and_free(*entry);
            *entry = NULL;
        }
    }
    for (size_t i = 0; i < ENTRIES; i++) {
        if (entries[i] != NULL)
            check_and_free(entries[i]);
    }
    return NULL;
}

/* --- the connection --- */

/* The library's socket. -1: there is none now. */
static int find_socket(const fixture *f)
{
    static _Thread_local int last;

    for (int i = 0; i < FDS_MAX; i++) {
        int fd = (last + i) % FDS_MAX;
        struct sockaddr_un peer;
        socklen_t len = sizeof(peer);

        memset(&peer, 0, sizeof(peer));
        if (getpeername(fd, (struct sockaddr *)&peer, &len) == 0 && peer.sun_family == AF_UNIX &&
            strcmp(peer.sun_path, f->socket) == 0) {
            last = fd;
            return fd;
        }
    }
    return -1;
}

/* Cut the connection if that is asked for, and make the next request, which comes back. */
static void *lose_and_ask(void *data)
{
    worker *w = data;
    void *p;

    while (!atomic_load_explicit(&w->c->stop, memory_order_relaxed)) {
        int fd = w->c->how == CUT ? find_socket(w->f) : -1;

        if (fd >= 0 && shutdown(fd, SHUT_RDWR) == 0)
            (void)atomic_fetch_add_explicit(&w->c->ncomebacks, 1, memory_order_relaxed);
        CHECK(goalloc_root_get("none", &p) == -ENOENT);
    }
    return NULL;
}

static int work(const fixture *f, void *arg)
{
    static worker workers[THREADS + 1];
    static unsigned number; /* of this process; the test counts */
    worker *first = arg;
    pthread_t threads[THREADS + 1];

    number = first->number;
    CHECK(waits_attach(f, PATIENCE_MS) == 0);
    (void)atomic_fetch_add(&first->c->nattached, 1);
    for (unsigned i = 0; i <= THREADS; i++) {
        workers[i] = (worker){ f, first->c, first->seed + i, number * 16 + i };
        CHECK(pthread_create(&threads[i], NULL, i < THREADS ? churn : lose_and_ask, &workers[i]) == 0);
    }
    for (unsigned i = 0; i <= THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    return 0;
}

/* --- the test --- */

/* Whoever is left frees what nobody has taken. */
static int free_boxes(const fixture *f, void *arg)
{
    common *c = arg;

    must_attach(f, 0);
    for (size_t i = 0; i < BOXES; i++) {
        if (c->boxes[i] != NULL)
            check_and_free(c->boxes[i]);
    }
    return 0;
}

static bool all_live(const pid_t *pids)
{
    siginfo_t info;

    for (size_t i = 0; i < WORKERS; i++) {
        info.si_pid = 0;
        if (waitid(P_PID, (id_t)pids[i], &info, WEXITED | WNOHANG | WNOWAIT) < 0 || info.si_pid != 0)
            return false;
    }
    return true;
}

static void run(common *c, int how, bool pass)
{
    fixture f;
    worker first[WORKERS];
    pid_t pids[WORKERS];
    bool good = true;
    int64_t end;

    memset(c, 0, sizeof(*c));
    *c = (common){ .how = how, .pass = pass, .seed = test_seed() };
    if (how == RESTART)
        fixture_start_kept(&f, NULL);
    else
        fixture_start(&f, NULL);
    for (unsigned i = 0; i < WORKERS; i++) {
        first[i] = (worker){ &f, c, c->seed + 100 * i, i };
        pids[i] = child_start(&f, work, &first[i]);
    }
    while (atomic_load(&c->nattached) < WORKERS && all_live(pids))
        (void)usleep(1000);
    end = now_ms() + test_ms();
    while (now_ms() < end && all_live(pids) && !fixture_log_has(&f, "disconnected")) {
        (void)usleep(how == RESTART ? 2000 : 50000);
        if (how != RESTART)
            continue;
        fixture_kill(&f);
        fixture_restart(&f, NULL);
        (void)atomic_fetch_add(&c->ncomebacks, 1);
    }
    atomic_store(&c->stop, true);
    for (unsigned i = 0; i < WORKERS; i++)
        good = child_wait(pids[i]) == 0 && good;
    (void)printf("%lu comebacks\n", (unsigned long)c->ncomebacks);
    assert_true(good);
    assert_int_equal(child_run(&f, free_boxes, c), 0);
    assert_false(fixture_log_has(&f, "disconnected"));
    assert_true(c->ncomebacks > 0);
    assert_true(fixture_is_whole(&f));
    assert_true(fixture_is_clean(&f, 0));
    assert_true(fixture_stop(&f));
}

static void comeback_cut_while_large_objects_churn_returns_none_of_them(void **state)
{
    run(*state, CUT, false);
}

static void comeback_restart_while_large_objects_churn_returns_none_of_them(void **state)
{
    run(*state, RESTART, false);
}

static void comeback_cut_while_another_process_frees_is_no_violation(void **state)
{
    run(*state, CUT, true);
}

static void comeback_restart_while_another_process_frees_is_no_violation(void **state)
{
    run(*state, RESTART, true);
}

static int setup(void **state)
{
    void *p = mmap(NULL, sizeof(common), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    *state = p;
    return p == MAP_FAILED ? -1 : 0;
}

static int teardown(void **state)
{
    return munmap(*state, sizeof(common));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(comeback_cut_while_large_objects_churn_returns_none_of_them, setup, teardown),
        cmocka_unit_test_setup_teardown(comeback_restart_while_large_objects_churn_returns_none_of_them, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(comeback_cut_while_another_process_frees_is_no_violation, setup, teardown),
        cmocka_unit_test_setup_teardown(comeback_restart_while_another_process_frees_is_no_violation, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
