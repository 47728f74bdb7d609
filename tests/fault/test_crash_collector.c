/*
 * A collector dies at each point of a cycle, while a worker lives that holds objects, and another one has died that has
 * left some: the worker goes on, what it holds is whole, the next collector has the right at once, and frees exactly
 * what is left.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "tests/support/attach.h"
#include "tests/support/points.h"

#define HELD 30
#define LEFT 40

typedef struct node {
    struct node *next;
    uint64_t number;
} node;

static atomic_ulong *nturns;

static node *make_chain(uint64_t n)
{
    node *first = NULL;

    for (uint64_t i = 0; i < n; i++) {
        node *p = goalloc_malloc(sizeof(*p));

        CHECK(p != NULL);
        *p = (node){ first, i };
        first = p;
    }
    return first;
}

static int leave_objects(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    CHECK(make_chain(LEFT) != NULL);
    (void)raise(SIGKILL);
    return 1;
}

/* Goes through what it holds, again and again. Its spans are given back, so nothing but its pointer holds them. */
static int hold_objects(const fixture *f, void *arg)
{
    node *held;

    (void)arg;
    must_attach(f, 0);
    held = make_chain(HELD);
    CHECK(goalloc_trim() == 0);
    for (;;) {
        uint64_t n = HELD;

        for (const node *p = held; p != NULL; p = p->next)
            CHECK(p->number == --n);
        CHECK(n == 0);
        (void)atomic_fetch_add(nturns, 1);
        (void)usleep(500);
    }
}

static void await_turns(void)
{
    uint64_t before = atomic_load(nturns);

    for (int i = 0; i < 10000 && atomic_load(nturns) < before + 3; i++)
        (void)usleep(1000);
    assert_true(atomic_load(nturns) >= before + 3);
}

/* A cycle by a program of its own, whose environment names a point. */
static int collect(const fixture *f, const char *crash)
{
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        int null = open("/dev/null", O_RDWR);

        (void)dup2(null, STDOUT_FILENO);
        if (crash != NULL)
            (void)setenv("GOALLOC_CRASH", crash, 1);
        (void)execl(GOALLOCD_COLLECTOR_PATH, GOALLOCD_COLLECTOR_PATH, "--socket", f->socket, "--once", "--max-pause",
                    "10s", (char *)NULL);
        _exit(127);
    }
    return child_wait(pid);
}

static void collector_may_die_at_every_point(void **state)
{
    const char *point;

    (void)state;
    nturns = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(nturns != MAP_FAILED);
    for (size_t at = 0; (point = points_next('a', &at)) != NULL;) {
        fixture f;
        pid_t worker;

        fixture_start(&f, NULL);
        assert_int_equal(child_run(&f, leave_objects, NULL), 1000 + SIGKILL);
        worker = child_start(&f, hold_objects, NULL);
        await_turns();
        if (collect(&f, point) != 1000 + SIGKILL)
            fail_msg("no collector comes by %s", point);
        await_turns();
        assert_int_equal(collect(&f, NULL), 0);
        await_turns();
        assert_int_equal(kill(worker, SIGKILL), 0);
        assert_int_equal(child_wait(worker), 1000 + SIGKILL);
        if (fixture_live_with(&f, 0) != HELD)
            fail_msg("%s: %llu objects", point, (unsigned long long)fixture_live_with(&f, 0));
        assert_int_equal(collect(&f, NULL), 0);
        assert_true(fixture_is_clean(&f, 0));
        assert_true(fixture_stop(&f));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(collector_may_die_at_every_point) };

    return cmocka_run_group_tests_name("crashes of collectors", tests, NULL, NULL);
}
