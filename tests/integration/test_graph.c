/*
 * Graph: goalloc_publish_graph publishes what an object reaches, and nothing else.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "tests/support/objects.h"
#include "tests/support/waits.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define NNODES 20000u
#else
#define NNODES 300000u
#endif

typedef struct node {
    struct node *to[3];
} node;

static node *new_node(size_t bytes)
{
    node *n = goalloc_calloc(1, bytes);

    CHECK(n != NULL);
    return n;
}

/* --- shapes --- */

static int publish_list(const fixture *f, void *arg)
{
    node *head = NULL;
    size_t n = 0;

    (void)arg;
    must_attach(f, GOALLOC_ATTACH_RECLAIM);
    for (unsigned i = 0; i < NNODES; i++) {
        node *new = new_node(24 + i % 7 * 40);

        new->to[i % 3] = head;
        new->to[(i + 1) % 3] = new; /* a circle */
        (void)new_node(64);         /* and one that is not reached */
        head = new;
    }
    CHECK(goalloc_publish_graph(head, &n) == 0 && n == NNODES);
    n = 1;
    CHECK(goalloc_publish_graph(head, &n) == 0 && n == 0);
    return 0;
}

static void publish_graph_of_a_long_list_publishes_all_of_it(void **state)
{
    assert_int_equal(child_run(*state, publish_list, NULL), 0);
    assert_int_equal(fixture_live_with(*state, 0), NNODES);
}

/* A large object that points to all others, of all kinds, and each of them to one more. */
static int publish_star(const fixture *f, void *arg)
{
    static const size_t sizes[] = { 8, 16, 24, 100, 1000, 9000, 30000, 50000, 300000 };
    size_t nsizes = sizeof(sizes) / sizeof(sizes[0]);
    void **star;
    size_t n = 0;

    (void)arg;
    must_attach(f, GOALLOC_ATTACH_RECLAIM);
    star = goalloc_calloc(100000, sizeof(*star));
    CHECK(star != NULL);
    for (size_t i = 0; i < nsizes; i++) {
        void **p = goalloc_calloc(1, sizes[i]);

        CHECK(p != NULL);
        *p = new_node(sizes[i]);
        star[i * 11000] = p;
    }
    CHECK(goalloc_publish_graph(star, &n) == 0 && n == 1 + 2 * nsizes);
    return 0;
}

static void publish_graph_finds_objects_of_all_sizes(void **state)
{
    assert_int_equal(child_run(*state, publish_star, NULL), 0);
    assert_int_equal(fixture_live_with(*state, 0), 19);
}

/* What is not a pointer to the beginning of an object of this session, or lies behind a noscan or a published one. */
static int publish_some(const fixture *f, void *arg)
{
    node *head;
    node *published;
    uintptr_t *noscan;
    size_t n = 0;

    (void)arg;
    must_attach(f, GOALLOC_ATTACH_RECLAIM);
    head = new_node(64);
    noscan = goalloc_malloc_noscan(64);
    published = new_node(64);
    CHECK(noscan != NULL);
    noscan[0] = (uintptr_t)new_node(64);
    published->to[0] = new_node(64);
    CHECK(goalloc_publish(published) == 0);
    head->to[0] = (node *)(void *)noscan;
    head->to[1] = published;
    head->to[2] = (node *)(void *)((char *)new_node(64) + 8); /* inside */
    ((uintptr_t *)head)[3] = (uintptr_t)&n;                   /* not in the heap */
    ((uintptr_t *)head)[4] = UINTPTR_MAX;
    CHECK(goalloc_publish_graph(head, &n) == 0 && n == 2);
    CHECK(goalloc_publish_graph(published, &n) == 0 && n == 1); /* itself is looked into */
    CHECK(goalloc_publish_graph((char *)head + 8, &n) == -EINVAL && goalloc_publish_graph(NULL, NULL) == -EINVAL);
    goalloc_free(published->to[0]);
    CHECK(goalloc_publish_graph(published->to[0], NULL) == -EALREADY);
    return 0;
}

static void publish_graph_stops_at_what_is_not_the_session_s(void **state)
{
    assert_int_equal(child_run(*state, publish_some, NULL), 0);
    assert_int_equal(fixture_live_with(*state, 0), 3);
}

/* --- who has nothing to publish --- */

static int publish_as_others(const fixture *f, void *arg)
{
    size_t n = 7;
    node *head;

    (void)arg;
    must_attach(f, 0);
    head = new_node(64);
    head->to[0] = new_node(64);
    CHECK(goalloc_publish_graph(head, &n) == 0 && n == 0); /* all is the heap's */
    goalloc_free(head->to[0]);
    goalloc_free(head);
    CHECK(goalloc_detach() == 0);
    CHECK(goalloc_publish_graph(&n, &n) == -ENOTCONN);
    must_attach(f, GOALLOC_ATTACH_READONLY);
    CHECK(goalloc_publish_graph(&n, &n) == -EROFS);
    return 0;
}

static void publish_graph_without_reclaim_changes_nothing(void **state)
{
    assert_int_equal(child_run(*state, publish_as_others, NULL), 0);
    assert_int_equal(fixture_live_with(*state, 0), 0);
}

static int adopt_and_wait(const fixture *f, void *arg)
{
    node **head = arg;

    must_attach(f, GOALLOC_ATTACH_RECLAIM);
    CHECK(goalloc_adopt(head[0]) == 0 && goalloc_adopt(head[1]) == 0);
    (void)raise(SIGSTOP);
    return 0;
}

static int make_two(const fixture *f, void *arg)
{
    node **head = arg;

    must_attach(f, 0);
    head[0] = new_node(64);
    head[0]->to[0] = head[1] = new_node(64);
    return 0;
}

static int publish_both(const fixture *f, void *arg)
{
    node **head = arg;
    size_t n = 7;

    must_attach(f, 0);
    CHECK(goalloc_publish_graph(head[0], &n) == 0 && n == 0);
    return 0;
}

/* What a session has adopted is that session's, also for one that does not reclaim and owns nothing. */
static void publish_graph_without_reclaim_leaves_what_others_have_adopted(void **state)
{
    node **head = mmap(NULL, 2 * sizeof(*head), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pid;

    assert_true(head != MAP_FAILED);
    assert_int_equal(child_run(*state, make_two, head), 0);
    pid = child_start(*state, adopt_and_wait, head);
    assert_true(child_stops(pid));
    assert_int_equal(child_run(*state, publish_both, head), 0);
    (void)kill(pid, SIGKILL);
    assert_int_equal(child_wait(pid), 1000 + SIGKILL);
    assert_int_equal(fixture_live_with(*state, 0), 0);
    (void)munmap(head, 2 * sizeof(*head));
}

/* Objects of 8 bytes need a request, which nobody answers: all are the session's again. */
static int publish_without_daemon(const fixture *f, void *arg)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;
    node *head;

    (void)arg;
    options.socket_path = f->socket;
    options.flags = GOALLOC_ATTACH_RECLAIM;
    options.timeout_ms = 2000; /* what the daemon answers must be answered by then on a busy machine, too */
    CHECK(goalloc_attach(&options) == 0);
    head = new_node(64);
    head->to[0] = new_node(64);
    head->to[1] = new_node(8);
    waits_stop_daemon(f);
    CHECK(goalloc_publish_graph(head, NULL) == -ETIMEDOUT);
    waits_continue_daemon(f);
    return 0;
}

static void publish_graph_that_fails_leaves_what_was(void **state)
{
    assert_int_equal(child_run(*state, publish_without_daemon, NULL), 0);
    assert_in_range(fixture_live_with(*state, 0), 0, 1); /* the one that was asked for */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(publish_graph_of_a_long_list_publishes_all_of_it),
        FIXTURE_TEST(publish_graph_finds_objects_of_all_sizes),
        FIXTURE_TEST(publish_graph_stops_at_what_is_not_the_session_s),
        FIXTURE_TEST(publish_graph_without_reclaim_changes_nothing),
        FIXTURE_TEST(publish_graph_without_reclaim_leaves_what_others_have_adopted),
        FIXTURE_TEST(publish_graph_that_fails_leaves_what_was),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
