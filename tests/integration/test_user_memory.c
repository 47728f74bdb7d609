/*
 * What one user can take of the heap: roots, adopted objects, memory of its sessions and groups, and what they leave.
 *
 * The user who takes all is another one than the daemon's, which only root can have in a test: else they are skipped.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/support/groups.h"
#include "tests/support/other.h"
#include "tests/support/waits.h"

static void *take_all(size_t size, size_t *ret_held)
{
    void *last = NULL;
    void *p;

    for (*ret_held = 0; (p = goalloc_malloc(size)) != NULL; *ret_held += size)
        last = p;
    CHECK(errno == EDQUOT);
    return last;
}

static int make_roots(const fixture *f, void *arg)
{
    void *p;

    (void)arg;
    must_attach(f, 0);
    CHECK((p = goalloc_malloc(100)) != NULL);
    for (int i = 0; i < 12; i++) {
        char name[32];

        (void)snprintf(name, sizeof(name), "other%d", i);
        CHECK(goalloc_root_set(name, p) == (i < 10 ? 0 : -EDQUOT));
    }
    CHECK(goalloc_root_set("other3", p) == 0); /* it is there */
    CHECK(goalloc_root_set("other4", NULL) == 0);
    (void)usleep(200000); /* all are counted every 100 ms at most */
    CHECK(goalloc_root_set("other10", p) == 0);
    CHECK(goalloc_root_set("other11", p) == -EDQUOT);
    return 0;
}

static void make_too_many_roots(const fixture *f)
{
    CHECK(child_run(f, make_roots, NULL) == 0);
}

static void roots_of_a_user_are_limited(void **state)
{
    const fixture *f = *state;
    other o;

    if (!can_be_other(f))
        skip();
    o = other_start(f, make_too_many_roots);
    assert_int_equal(limit_of_other(f, "uid-roots", "refused"), 3);
    other_end(&o);
}

#define NADOPTED 12

static int make_objects(const fixture *f, void *arg)
{
    void **objects = arg;

    must_attach(f, 0);
    for (int i = 0; i < NADOPTED; i++)
        CHECK((objects[i] = goalloc_malloc(100)) != NULL);
    return 0;
}

static int adopt_all(const fixture *f, void *arg)
{
    void **objects = arg;

    must_attach(f, GOALLOC_ATTACH_RECLAIM);
    for (int i = 0; i < NADOPTED; i++)
        CHECK(goalloc_adopt(objects[i]) == (i < 10 ? 0 : -EDQUOT));
    return 0;
}

static int adopt_the_rest(const fixture *f, void *arg)
{
    void **objects = arg;

    must_attach(f, GOALLOC_ATTACH_RECLAIM);
    CHECK(goalloc_adopt(objects[10]) == 0 && goalloc_adopt(objects[11]) == 0);
    return 0;
}

/* In one session too many; in the next one, when those of the first are gone, there is room again. */
static void adopt_too_much(const fixture *f)
{
    void **objects = mmap(NULL, NADOPTED * sizeof(*objects), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    CHECK(objects != MAP_FAILED);
    CHECK(child_run(f, make_objects, objects) == 0);
    CHECK(child_run(f, adopt_all, objects) == 0);
    (void)fixture_live_with(f, 0);
    (void)usleep(200000); /* all are counted every 100 ms at most */
    CHECK(child_run(f, adopt_the_rest, objects) == 0);
    (void)munmap(objects, NADOPTED * sizeof(*objects));
}

static void adoptions_of_a_user_are_limited(void **state)
{
    const fixture *f = *state;
    other o;

    if (!can_be_other(f))
        skip();
    o = other_start(f, adopt_too_much);
    assert_int_equal(limit_of_other(f, "uid-adoptions", "refused"), 2);
    assert_int_equal(count_in_log(f, "limit uid-adoptions is reached"), 1);
    other_end(&o);
    assert_true(fixture_is_clean(f, 0));
}

/* A session that has no limit of its own, and then a child's, which gets what the first one has left. */
static int hold_memory(const fixture *f, void *arg)
{
    size_t held;
    size_t held_by_child;
    pid_t pid;

    (void)arg;
    must_attach(f, 0);
    CHECK(take_all(100000, &held) != NULL && held > 4 * MIB && held <= 6 * MIB);
    pid = fork();
    if (pid == 0) {
        CHECK(take_all(100000, &held_by_child) != NULL && held_by_child > MIB / 2 && held_by_child <= 2 * MIB);
        _exit(0);
    }
    CHECK(child_wait(pid) == 0);
    return 0;
}

static void hold_too_much(const fixture *f)
{
    CHECK(child_run(f, hold_memory, NULL) == 0);
}

static void memory_of_a_session_and_of_a_user_is_limited(void **state)
{
    const fixture *f = *state;
    other o;

    if (!can_be_other(f))
        skip();
    o = other_start(f, hold_too_much);
    assert_true(limit_of_other(f, "uid-bytes", "refused") > 0);
    assert_int_equal(count_in_log(f, "limit uid-bytes is reached"), 1);
    assert_int_equal(count_in_log(f, "limit session-limit is reached"), 1);
    other_end(&o);
}

#define LEAVERS  20
#define LEAVES   16          /* objects, each */
#define LEAVE_BYTES (64 * KIB) /* of one */

/* Leave some objects behind. How many; the last one is refused when the user has left enough. */
static unsigned leave_some(const fixture *f, void **objects)
{
    unsigned n = 0;

    must_attach(f, 0);
    while (n < LEAVES && (objects[n] = goalloc_malloc(LEAVE_BYTES)) != NULL)
        n++;
    CHECK(n == LEAVES || errno == EDQUOT);
    return n;
}

static int free_all(const fixture *f, void *arg)
{
    void **objects = arg;

    must_attach(f, 0);
    for (unsigned i = 0; objects[i] != NULL; i++)
        goalloc_free(objects[i]);
    CHECK(goalloc_detach() == 0);
    return 0;
}

/* One process after the other allocates and dies; no one of them has much, and none is over a limit of its own. */
static void leave_too_much(const fixture *f)
{
    void **objects = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    unsigned nleft = 0;
    int i = 0;

    CHECK(objects != MAP_FAILED);
    for (; i < LEAVERS; i++) {
        pid_t pid = fork();

        if (pid == 0) {
            (void)leave_some(f, objects + nleft);
            _exit(0);
        }
        CHECK(child_wait(pid) == 0);
        (void)fixture_live_with(f, 0);
        if (objects[nleft] == NULL)
            break;
        while (objects[nleft] != NULL)
            nleft++;
    }
    CHECK(i < LEAVERS);
    CHECK(nleft >= 4 * MIB / LEAVE_BYTES && nleft < 6 * MIB / LEAVE_BYTES);
    CHECK(child_run(f, free_all, objects) == 0); /* who frees it makes room again, when that is noticed */
    must_attach(f, 0);
    for (i = 0; i < 2000 && goalloc_malloc(LEAVE_BYTES) == NULL; i++)
        (void)usleep(5000);
    CHECK(i < 2000);
}

static void memory_that_a_user_leaves_is_limited(void **state)
{
    const fixture *f = *state;
    other o;

    if (!can_be_other(f))
        skip();
    o = other_start(f, leave_too_much);
    assert_true(limit_of_other(f, "uid-left-bytes", "refused") > 0);
    assert_int_equal(count_in_log(f, "limit uid-left-bytes is reached"), 1);
    other_end(&o);
}

/* The members of a group, of whatever user, share what it may hold; who is of no group has no part in that. */
static int hold_memory_in_a_group(const fixture *f, void *arg)
{
    size_t held;
    size_t held_by_child;
    pid_t pid;

    (void)arg;
    CHECK(attach_as(f, 0, "family") == 0);
    CHECK(goalloc_malloc(3 * MIB) != NULL);
    pid = fork(); /* of the same group */
    if (pid == 0) {
        CHECK(take_all(100000, &held_by_child) != NULL && held_by_child > MIB && held_by_child <= 3 * MIB);
        _exit(0);
    }
    CHECK(child_wait(pid) == 0);
    CHECK(take_all(100000, &held) != NULL && held > MIB && held <= 3 * MIB);
    return 0;
}

static int hold_memory_in_no_group(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    CHECK(goalloc_malloc(16 * MIB) != NULL);
    return 0;
}

static void memory_of_a_group_is_limited(void **state)
{
    static const char *const arguments[] = { "limits", NULL };
    static char out[1 << 16];
    const fixture *f = *state;
    pid_t pid;

    assert_int_equal(child_run(f, hold_memory_in_a_group, NULL), 0);
    assert_int_equal(count_in_log(f, "limit group-bytes is reached"), 1);
    assert_int_equal(child_run(f, hold_memory_in_no_group, NULL), 0);
    pid = holder_start(f, "family");
    assert_int_equal(fixture_ctl(f, arguments, out, sizeof(out)), 0);
    assert_non_null(strstr(out, "group family, uid"));
    (void)kill(pid, SIGKILL);
    (void)child_wait(pid);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST_WITH(roots_of_a_user_are_limited, "--uid-roots=10"),
        FIXTURE_TEST_WITH(adoptions_of_a_user_are_limited, "--uid-adoptions=10"),
        FIXTURE_TEST_WITH(memory_of_a_group_is_limited, "--group-bytes=6M"),
        FIXTURE_TEST_WITH(memory_of_a_session_and_of_a_user_is_limited, "--session-limit=6M", "--uid-bytes=8M"),
        FIXTURE_TEST_WITH(memory_that_a_user_leaves_is_limited, "--session-limit=6M", "--uid-left-bytes=4M"),
    };

    return cmocka_run_group_tests_name("what a user can take of the heap", tests, NULL, NULL);
}
