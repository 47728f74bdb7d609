/*
 * Several real processes in one heap: what one allocates another one reads and frees; whatever way a process goes,
 * its leases end.
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
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#include "tests/support/attach.h"

typedef struct node {
    struct node *next;
    struct node *self; /* its address, to be found the same by all */
    uint64_t value;
} node;

#define NODES 10000

static int build_list(const fixture *f, void *arg)
{
    node *head = NULL;

    (void)arg;
    must_attach(f, 0);
    for (uint64_t i = 0; i < NODES; i++) {
        node *n = goalloc_malloc(sizeof(*n) + i % 2000);

        CHECK(n != NULL && goalloc_usable_size(n) >= sizeof(*n) + i % 2000);
        *n = (node){ head, n, i };
        head = n;
    }
    CHECK(goalloc_root_set("list", head) == 0);
    return 0;
}

static int free_list(const fixture *f, void *arg)
{
    void *p;
    uint64_t i = NODES;

    (void)arg;
    must_attach(f, 0);
    CHECK(goalloc_root_get("list", &p) == 0);
    for (node *n = p, *next; n != NULL; n = next) {
        CHECK(n->self == n && n->value == --i);
        next = n->next;
        n->value = ~n->value; /* it can write too */
        CHECK(goalloc_free_checked(n) == 0);
        CHECK(goalloc_free_checked(n) == -EALREADY || goalloc_free_checked(n) == -EINVAL);
    }
    CHECK(i == 0);
    CHECK(goalloc_root_set("list", NULL) == 0);
    return 0;
}

static void malloc_in_one_process_is_freed_in_another(void **state)
{
    const fixture *f = *state;

    assert_int_equal(child_run(f, build_list, NULL), 0);
    assert_true(fixture_is_clean(f, NODES));
    assert_int_equal(child_run(f, free_list, NULL), 0);
    assert_true(fixture_is_clean(f, 0));
}

/* --- churn --- */

#define ENTRIES 2000

typedef struct churn {
    uint64_t seed;
    int ms;
    node *_Atomic *mailbox; /* in the shared heap: objects change hands here */
} churn;

static int64_t now_ms(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static void check_free(node *n)
{
    if (n == NULL)
        return;
    CHECK(n->self == n);
    n->self = NULL;
    goalloc_free(n);
}

static int churn_process(const fixture *f, void *arg)
{
    churn *c = arg;
    uint64_t seed = c->seed ^ (uint64_t)getpid();
    int64_t end = now_ms() + c->ms;
    static node *mine[ENTRIES];

    must_attach(f, 0);
    while (now_ms() < end) {
        for (int i = 0; i < 1000; i++) {
            uint64_t r = test_random(&seed);
            node **entry = &mine[r % ENTRIES];

            check_free(*entry);
            *entry = goalloc_malloc(sizeof(node) + (r >> 32) % (i == 0 ? 200000 : 3000));
            CHECK(*entry != NULL);
            **entry = (node){ NULL, *entry, r };
            if (r >> 20 & 1) /* give it away, take what another has given */
                *entry = atomic_exchange(&c->mailbox[r >> 40 & 63], *entry);
        }
    }
    for (int i = 0; i < ENTRIES; i++)
        check_free(mine[i]);
    return 0;
}

static int make_mailbox(const fixture *f, void *arg)
{
    void *mailbox;

    (void)f;
    (void)arg;
    must_attach(f, 0);
    mailbox = goalloc_calloc(64, sizeof(node *));
    CHECK(mailbox != NULL && goalloc_root_set("mailbox", mailbox) == 0);
    return 0;
}

static int churn_with_mailbox(const fixture *f, void *arg)
{
    churn c = *(churn *)arg;
    void *p;

    must_attach(f, 0);
    CHECK(goalloc_root_get("mailbox", &p) == 0);
    c.mailbox = p;
    CHECK(goalloc_detach() == 0);
    return churn_process(f, &c);
}

static int empty_mailbox(const fixture *f, void *arg)
{
    void *p;

    (void)arg;
    must_attach(f, 0);
    CHECK(goalloc_root_get("mailbox", &p) == 0);
    for (int i = 0; i < 64; i++)
        check_free(((node **)p)[i]);
    goalloc_free(p);
    CHECK(goalloc_root_set("mailbox", NULL) == 0);
    return 0;
}

static void churn_of_four_processes_leaves_an_empty_heap(void **state)
{
    const fixture *f = *state;
    churn c = { .seed = test_seed(), .ms = 3000 };
    pid_t pids[4];

    assert_int_equal(child_run(f, make_mailbox, NULL), 0);
    for (int i = 0; i < 4; i++)
        pids[i] = child_start(f, churn_with_mailbox, &c);
    for (int i = 0; i < 4; i++)
        assert_int_equal(child_wait(pids[i]), 0);
    assert_int_equal(child_run(f, empty_mailbox, NULL), 0);
    assert_true(fixture_is_clean(f, 0));
}

/* --- deaths --- */

static int hold_and_wait(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    for (int i = 0; i < 1000; i++)
        CHECK(goalloc_malloc(64) != NULL);
    CHECK(goalloc_malloc(1 << 20) != NULL);
    (void)raise(SIGSTOP);
    return 0;
}

static void kill_of_a_worker_ends_its_leases_and_keeps_its_objects(void **state)
{
    const fixture *f = *state;
    goalloc_stats_t stats;
    pid_t pid = child_start(f, hold_and_wait, NULL);
    int status;

    assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
    assert_true(WIFSTOPPED(status));
    fixture_stats(f, &stats);
    assert_int_equal(stats.sessions, 1);
    assert_true(stats.leased_spans > 0);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(child_wait(pid), 1000 + SIGKILL);
    assert_true(fixture_is_clean(f, 1001));
}

static int leave_lease(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    CHECK(goalloc_malloc(64) != NULL);
    return 0;
}

/* The fixture's own check: it must notice a lease and an object that are there. */
static void fixture_is_clean_with_a_lease_left_is_false(void **state)
{
    const fixture *f = *state;
    pid_t pid = child_start(f, hold_and_wait, NULL);
    int status;

    assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
    assert_false(fixture_is_clean(f, 1001));
    assert_int_equal(kill(pid, SIGKILL), 0);
    (void)child_wait(pid);
    assert_int_equal(child_run(f, leave_lease, NULL), 0);
    assert_false(fixture_is_clean(f, 0));
    assert_true(fixture_is_clean(f, 1002));
}

static int outliving_the_daemon(const fixture *f, void *arg)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;
    void *root;
    void *p;
    int n = 0;

    (void)arg;
    options.socket_path = f->socket;
    options.timeout_ms = 2000; /* what the daemon answers must be answered by then on a busy machine, too */
    CHECK(goalloc_attach(&options) == 0);
    p = goalloc_malloc(64);
    CHECK(p != NULL && kill(f->daemon, SIGKILL) == 0);
    while (kill(f->daemon, 0) == 0 && n++ < 5) /* a zombie until the test waits for it */
        (void)usleep(10000);
    CHECK(goalloc_trim() == -ETIMEDOUT);
    for (int i = 0; i < 50; i++) /* from the span that is held */
        CHECK(goalloc_malloc(64) != NULL);
    CHECK(goalloc_root_get("none", &root) == -ETIMEDOUT);
    errno = 0;
    CHECK(goalloc_malloc(100000) == NULL && errno == ETIMEDOUT);
    CHECK(goalloc_free_checked(p) == 0);
    CHECK(goalloc_detach() == 0);
    return 0;
}

static void process_goes_on_with_what_it_holds_when_the_daemon_is_killed(void **state)
{
    fixture *f = *state;

    assert_int_equal(child_run(f, outliving_the_daemon, NULL), 0);
    assert_int_equal(child_wait(f->daemon), 1000 + SIGKILL);
    f->daemon = 0;
}

/* --- threads --- */

typedef struct handover {
    void *objects[5000];
    pthread_barrier_t barrier;
} handover;

static void *allocating_thread(void *arg)
{
    handover *h = arg;

    for (int i = 0; i < 5000; i++)
        h->objects[i] = goalloc_malloc(16 + (size_t)i % 500);
    (void)pthread_barrier_wait(&h->barrier);
    (void)pthread_barrier_wait(&h->barrier);
    return NULL;
}

static void *freeing_thread(void *arg)
{
    handover *h = arg;

    (void)pthread_barrier_wait(&h->barrier);
    for (int i = 0; i < 5000; i++) {
        CHECK(goalloc_free_checked(h->objects[i]) == 0);
        CHECK(goalloc_free_checked(h->objects[i]) == -EALREADY);
    }
    (void)pthread_barrier_wait(&h->barrier);
    return NULL;
}

static int threads_process(const fixture *f, void *arg)
{
    static handover h;
    goalloc_stats_t stats = { .struct_size = sizeof(stats) };
    pthread_t a;
    pthread_t b;
    uint64_t held = 0;

    (void)arg;
    must_attach(f, 0);
    CHECK(pthread_barrier_init(&h.barrier, NULL, 2) == 0);
    for (int round = 0; round < 20; round++) {
        CHECK(pthread_create(&a, NULL, allocating_thread, &h) == 0);
        CHECK(pthread_create(&b, NULL, freeing_thread, &h) == 0);
        CHECK(pthread_join(a, NULL) == 0 && pthread_join(b, NULL) == 0);
        CHECK(goalloc_stats(&stats) == 0 && stats.live_objects == 0);
        /* Exited threads leave their spans to the process: later rounds lease few new ones. */
        if (round == 4)
            held = stats.session_held_bytes;
    }
    CHECK(stats.session_held_bytes <= 2 * held);
    CHECK(goalloc_trim() == 0);
    CHECK(goalloc_stats(&stats) == 0 && stats.session_held_bytes == 0 && stats.leased_spans == 0);
    return 0;
}

static void free_by_another_thread_and_thread_exit_lose_nothing(void **state)
{
    assert_int_equal(child_run(*state, threads_process, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* --- fork --- */

static int forking_process(const fixture *f, void *arg)
{
    char *before[100];
    int status;
    pid_t pid;

    (void)arg;
    must_attach(f, 0);
    for (int i = 0; i < 100; i++) {
        before[i] = goalloc_malloc(100);
        CHECK(before[i] != NULL);
        (void)snprintf(before[i], 100, "object %d", i);
    }
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        goalloc_stats_t stats = { .struct_size = sizeof(stats) };
        char text[32];

        for (int i = 0; i < 50; i++) { /* its parent's objects */
            (void)snprintf(text, sizeof(text), "object %d", i);
            CHECK(strcmp(before[i], text) == 0);
            CHECK(goalloc_free_checked(before[i]) == 0);
        }
        for (int i = 0; i < 1000; i++) {
            void *p = goalloc_malloc(100);

            CHECK(p != NULL);
            for (int j = 0; j < 100; j++)
                CHECK(p != before[j]); /* never out of the parent's spans */
            goalloc_free(p);
        }
        CHECK(goalloc_stats(&stats) == 0 && stats.sessions == 2);
        _exit(0);
    }
    for (int i = 0; i < 1000; i++) {
        void *p = goalloc_malloc(100);

        CHECK(p != NULL);
        for (int j = 50; j < 100; j++)
            CHECK(p != before[j]);
        goalloc_free(p);
    }
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    for (int i = 0; i < 50; i++)
        CHECK(goalloc_free_checked(before[i]) == -EALREADY);
    for (int i = 50; i < 100; i++)
        CHECK(goalloc_free_checked(before[i]) == 0);
    return 0;
}

static void fork_child_is_a_client_of_its_own(void **state)
{
    assert_int_equal(child_run(*state, forking_process, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

static _Atomic bool enough;

static void *churning_thread(void *arg)
{
    void *mine[200] = { NULL };
    uint64_t seed = (uint64_t)(uintptr_t)arg;

    while (!atomic_load(&enough)) {
        uint64_t r = test_random(&seed);
        void **entry = &mine[r % 200];

        goalloc_free(*entry);
        *entry = goalloc_malloc((r >> 32) % (r % 100 == 0 ? 100000 : 2000));
        CHECK(*entry != NULL);
        if (r % 1000 == 0)
            CHECK(goalloc_trim() == 0);
    }
    for (int i = 0; i < 200; i++)
        goalloc_free(mine[i]);
    return NULL;
}

static int forking_threads_process(const fixture *f, void *arg)
{
    pthread_t threads[3];

    (void)arg;
    must_attach(f, 0);
    for (uintptr_t i = 0; i < 3; i++)
        CHECK(pthread_create(&threads[i], NULL, churning_thread, (void *)(i + 1)) == 0);
    for (int i = 0; i < 100; i++) {
        void *p = goalloc_malloc(100);
        pid_t pid = fork();

        CHECK(p != NULL && pid >= 0);
        if (pid == 0) {
            void *q = goalloc_malloc(100);

            CHECK(q != NULL && q != p);
            goalloc_free(q);
            CHECK(goalloc_free_checked(p) == 0);
            _exit(0);
        }
        CHECK(child_wait(pid) == 0);
        CHECK(goalloc_free_checked(p) == -EALREADY);
    }
    atomic_store(&enough, true);
    for (int i = 0; i < 3; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    return 0;
}

static void fork_while_threads_allocate_makes_working_children(void **state)
{
    assert_int_equal(child_run(*state, forking_threads_process, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* --- whose object is it --- */

static int reclaiming(const fixture *f, void *arg)
{
    void *published;
    void *again;
    void *next;

    (void)arg;
    must_attach(f, GOALLOC_ATTACH_RECLAIM);
    for (int i = 0; i < 1000; i++)
        CHECK(goalloc_malloc(48) != NULL);
    CHECK(goalloc_malloc(100000) != NULL);
    published = goalloc_malloc(48);
    CHECK(goalloc_publish(published) == 0);
    CHECK(goalloc_root_set("published", published) == 0);
    /* A place that was published and freed is nobody's: the next object there is the session's again. */
    again = goalloc_malloc(48);
    CHECK(goalloc_publish(again) == 0);
    goalloc_free(again);
    do {
        next = goalloc_malloc(48);
        CHECK(next != NULL);
    } while (next != again);
    CHECK(goalloc_publish(again) == 0 && goalloc_adopt(again) == 0);
    return 0;
}

static int adopting(const fixture *f, void *arg)
{
    void *p;

    (void)arg;
    must_attach(f, GOALLOC_ATTACH_RECLAIM);
    CHECK(goalloc_root_get("published", &p) == 0);
    CHECK(goalloc_adopt((char *)p + 8) == -EINVAL);
    CHECK(goalloc_adopt(p) == 0);
    return 0;
}

static void reclaim_session_frees_its_objects_but_the_published_and_the_adopted(void **state)
{
    const fixture *f = *state;

    assert_int_equal(child_run(f, reclaiming, NULL), 0);
    assert_true(fixture_is_clean(f, 1));
    assert_int_equal(child_run(f, adopting, NULL), 0);
    assert_true(fixture_is_clean(f, 0));
}

static int adopt_then_freed_by_another(const fixture *f, void *arg)
{
    void *p;
    pid_t pid;

    (void)arg;
    must_attach(f, GOALLOC_ATTACH_RECLAIM);
    CHECK(goalloc_root_get("object", &p) == 0);
    CHECK(goalloc_adopt(p) == 0);
    pid = fork();
    if (pid == 0) { /* frees it, and a new object takes its place, which nobody has adopted */
        CHECK(goalloc_detach() == 0);
        must_attach(f, 0);
        CHECK(goalloc_free_checked(p) == 0);
        for (int i = 0; i < 200; i++)
            CHECK(goalloc_malloc(8192) != NULL);
        _exit(0);
    }
    return child_wait(pid);
}

/* The parent's session does not reclaim, the child's does: places of published objects are used again. */
static int forked_into_another_kind(const fixture *f, void *arg)
{
    pid_t pid;

    (void)arg;
    must_attach(f, 0);
    pid = fork();
    if (pid == 0) {
        void *objects[100];

        must_attach(f, GOALLOC_ATTACH_RECLAIM);
        for (int i = 0; i < 100; i++)
            CHECK((objects[i] = goalloc_malloc(64)) != NULL && goalloc_publish(objects[i]) == 0);
        for (int i = 0; i < 100; i++)
            goalloc_free(objects[i]);
        for (int i = 0; i < 1000; i++)
            CHECK(goalloc_malloc(64) != NULL);
        _exit(0);
    }
    return child_wait(pid);
}

static void child_that_reclaims_leaves_nothing_in_places_of_published_objects(void **state)
{
    const fixture *f = *state;

    assert_int_equal(child_run(f, forked_into_another_kind, NULL), 0);
    assert_true(fixture_is_clean(f, 0));
}

static int make_object(const fixture *f, void *arg)
{
    void *p;

    (void)arg;
    must_attach(f, 0);
    p = goalloc_malloc(8192);
    CHECK(p != NULL && goalloc_root_set("object", p) == 0);
    return 0;
}

static void adopted_object_freed_by_another_takes_nobody_with_it(void **state)
{
    const fixture *f = *state;

    assert_int_equal(child_run(f, make_object, NULL), 0);
    assert_true(fixture_is_clean(f, 1));
    assert_int_equal(child_run(f, adopt_then_freed_by_another, NULL), 0);
    assert_true(fixture_is_clean(f, 200));
}

/* --- read-only, large, calloc --- */

static int reading_only(const fixture *f, void *arg)
{
    void *p;
    pid_t pid;

    (void)arg;
    must_attach(f, GOALLOC_ATTACH_READONLY);
    CHECK(goalloc_root_get("object", &p) == 0);
    CHECK(goalloc_usable_size(p) == 8192 && goalloc_contains(p));
    errno = 0;
    CHECK(goalloc_malloc(10) == NULL && errno == EROFS);
    CHECK(goalloc_free_checked(p) == -EROFS && goalloc_publish(p) == -EROFS && goalloc_adopt(p) == -EROFS);
    CHECK(goalloc_root_set("object", NULL) == -EROFS);
    CHECK(goalloc_trim() == 0);
    pid = fork();
    if (pid == 0) {
        (void)signal(SIGSEGV, SIG_DFL);
        *(volatile char *)p = 1;
        _exit(0);
    }
    CHECK(child_wait(pid) != 0); /* no write access */
    return 0;
}

static void readonly_attach_reads_and_changes_nothing(void **state)
{
    const fixture *f = *state;

    assert_int_equal(child_run(f, make_object, NULL), 0);
    assert_int_equal(child_run(f, reading_only, NULL), 0);
    assert_true(fixture_is_clean(f, 1));
}

static int sizes_process(const fixture *f, void *arg)
{
    static const size_t sizes[] = { 0, 1, 15, 16, 17, 24, 25, 1000, 1024, 1025, 32768, 32769, 65536, 1000000, 5000000 };

    (void)arg;
    must_attach(f, 0);
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
            size_t size = sizes[i];
            unsigned char *p = goalloc_calloc(1, size);
            size_t align = size < 16 || (size > 16 && size <= 24) ? 8 : 16;

            CHECK(p != NULL && (uintptr_t)p % align == 0 && goalloc_usable_size(p) >= size);
            CHECK(goalloc_pointer(goalloc_offset(p)) == p && goalloc_offset(p) != 0);
            for (size_t j = 0; j < size; j++)
                CHECK(p[j] == 0);
            memset(p, 0xa5, goalloc_usable_size(p));
            p = goalloc_realloc(p, size * 3 + 1);
            CHECK(p != NULL);
            for (size_t j = 0; j < size; j++)
                CHECK(p[j] == 0xa5);
            p = goalloc_realloc(p, size / 3);
            CHECK(p != NULL);
            for (size_t j = 0; j < size / 3; j++)
                CHECK(p[j] == 0xa5);
            goalloc_free(p);
            for (size_t a = 8; a <= 1 << 20; a *= 2) {
                p = goalloc_aligned_alloc(a, size);
                CHECK(p != NULL && (uintptr_t)p % a == 0 && goalloc_usable_size(p) >= size);
                memset(p, 1, size);
                CHECK(goalloc_free_checked(p) == 0);
            }
        }
    }
    CHECK(goalloc_offset(NULL) == 0 && goalloc_pointer(0) == NULL);
    CHECK(goalloc_offset(&sizes) == UINT64_MAX && goalloc_pointer(UINT64_MAX) == NULL);
    return 0;
}

static void every_kind_of_allocation_has_size_alignment_and_contents(void **state)
{
    assert_int_equal(child_run(*state, sizes_process, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

static int calloc_after_remote_frees(const fixture *f, void *arg)
{
    static char *objects[4000];

    (void)arg;
    must_attach(f, 0);
    for (size_t size = 8; size <= 8192; size *= 2) {
        size_t n = 2000000 / size < 4000 ? 2000000 / size : 4000;

        for (size_t i = 0; i < n; i++) {
            objects[i] = goalloc_calloc(1, size);
            CHECK(objects[i] != NULL);
            memset(objects[i], 0xff, size);
        }
        pid_t pid = fork();

        if (pid == 0) {
            for (size_t i = 0; i < n; i++)
                CHECK(goalloc_free_checked(objects[i]) == 0);
            _exit(0);
        }
        CHECK(child_wait(pid) == 0);
        for (size_t i = 0; i < n; i++) {
            objects[i] = goalloc_calloc(1, size);
            for (size_t j = 0; j < size; j++)
                CHECK(objects[i][j] == 0);
        }
        for (size_t i = 0; i < n; i++)
            goalloc_free(objects[i]);
    }
    return 0;
}

static void calloc_of_memory_freed_remotely_is_zeroed(void **state)
{
    assert_int_equal(child_run(*state, calloc_after_remote_frees, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* --- requests --- */

#define WORKING_SET 100000

static int steady_process(const fixture *f, void *arg)
{
    static void *set[WORKING_SET];
    goalloc_stats_t before = { .struct_size = sizeof(before) };
    goalloc_stats_t after = { .struct_size = sizeof(after) };
    const char *given = getenv("GOALLOC_TEST_OPS");
    uint64_t nops = given != NULL ? strtoull(given, NULL, 10) : 2000000;
    uint64_t seed = *(uint64_t *)arg;

    must_attach(f, 0);
    for (uint64_t i = 0; i < 2 * nops; i++) {
        uint64_t r = test_random(&seed);
        void **entry = &set[r % WORKING_SET];

        if (i == nops) /* warm */
            CHECK(goalloc_stats(&before) == 0);
        goalloc_free(*entry);
        *entry = goalloc_malloc(16 + (r >> 32) % 1009);
        CHECK(*entry != NULL);
    }
    CHECK(goalloc_stats(&after) == 0);
    (void)printf("%llu requests in %llu operations\n",
                 (unsigned long long)(after.session_rpcs - before.session_rpcs - 1), (unsigned long long)(2 * nops));
    (void)fflush(stdout);
    CHECK((after.session_rpcs - before.session_rpcs - 1) * 100000 < 2 * nops);
    for (int i = 0; i < WORKING_SET; i++)
        goalloc_free(set[i]);
    return 0;
}

static void steady_churn_sends_no_requests(void **state)
{
    uint64_t seed = test_seed();

    assert_int_equal(child_run(*state, steady_process, &seed), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* --- freed remotely --- */

static int free_root_and_detach(const fixture *f, void *arg)
{
    void *p;

    (void)arg;
    must_attach(f, 0);
    CHECK(goalloc_root_get("array", &p) == 0);
    for (int i = 0; i < 1000; i++)
        goalloc_free(((void **)p)[i]);
    goalloc_free(p);
    (void)raise(SIGSTOP); /* no request from here on */
    return 0;
}

static int make_array(const fixture *f, void *arg)
{
    void **array;

    (void)arg;
    must_attach(f, 0);
    array = goalloc_malloc(1000 * sizeof(*array));
    for (int i = 0; i < 1000; i++)
        CHECK((array[i] = goalloc_malloc(i % 10 == 0 ? 50000 : 500)) != NULL);
    CHECK(goalloc_root_set("array", array) == 0);
    CHECK(goalloc_trim() == 0);
    (void)raise(SIGSTOP);
    return 0;
}

static void spans_freed_remotely_come_back_with_nobody_asking(void **state)
{
    const fixture *f = *state;
    goalloc_stats_t stats;
    pid_t a = child_start(f, make_array, NULL);
    int status;

    assert_int_equal(waitpid(a, &status, WUNTRACED), a);
    pid_t b = child_start(f, free_root_and_detach, NULL);

    assert_int_equal(waitpid(b, &status, WUNTRACED), b);
    assert_true(WIFSTOPPED(status));
    for (int i = 0; i < 500; i++) {
        fixture_stats(f, &stats);
        if (stats.leased_spans == 0)
            break;
        (void)usleep(10000);
    }
    assert_int_equal(stats.live_objects, 0);
    assert_int_equal(stats.leased_spans, 0); /* A's large objects too */
    (void)kill(a, SIGKILL);
    (void)kill(b, SIGKILL);
    (void)child_wait(a);
    (void)child_wait(b);
    assert_true(fixture_is_clean(f, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(malloc_in_one_process_is_freed_in_another),
        FIXTURE_TEST(churn_of_four_processes_leaves_an_empty_heap),
        FIXTURE_TEST(kill_of_a_worker_ends_its_leases_and_keeps_its_objects),
        FIXTURE_TEST(fixture_is_clean_with_a_lease_left_is_false),
        FIXTURE_TEST(process_goes_on_with_what_it_holds_when_the_daemon_is_killed),
        FIXTURE_TEST(free_by_another_thread_and_thread_exit_lose_nothing),
        FIXTURE_TEST(fork_child_is_a_client_of_its_own),
        FIXTURE_TEST(fork_while_threads_allocate_makes_working_children),
        FIXTURE_TEST(reclaim_session_frees_its_objects_but_the_published_and_the_adopted),
        FIXTURE_TEST(adopted_object_freed_by_another_takes_nobody_with_it),
        FIXTURE_TEST(child_that_reclaims_leaves_nothing_in_places_of_published_objects),
        FIXTURE_TEST(readonly_attach_reads_and_changes_nothing),
        FIXTURE_TEST(every_kind_of_allocation_has_size_alignment_and_contents),
        FIXTURE_TEST(calloc_of_memory_freed_remotely_is_zeroed),
        FIXTURE_TEST(steady_churn_sends_no_requests),
        FIXTURE_TEST(spans_freed_remotely_come_back_with_nobody_asking),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
