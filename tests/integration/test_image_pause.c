/*
 * goallocctl save while workers write: each image is one that a kill of all at an instant would leave.
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
#include <string.h>
#include <sys/wait.h>

#include "tests/support/attach.h"
#include "tests/support/guard.h"

#define NWORKERS 4
#define NSLOTS   2000u
#define ROUNDS   6

typedef struct object {
    uint64_t size;
    uint64_t seed;
    unsigned char content[];
} object;

/* A slot has a whole object at each instant: it is filled before it is stored, and freed when another one is there. */
typedef struct table {
    _Atomic(object *) slots[NSLOTS];
    _Atomic(object *) linked[NSLOTS]; /* by goalloc_link and goalloc_unlink_free */
} table;

static char path[160];

static void root_name(char ret[32], int i)
{
    (void)snprintf(ret, 32, "table-%d", i);
}

static object *make(uint64_t *seed)
{
    size_t size = sizeof(object) + 8 + test_random(seed) % (test_random(seed) % 64 == 0 ? 60000 : 300);
    object *o = goalloc_malloc(size);
    uint64_t at;

    CHECK(o != NULL);
    o->size = size;
    o->seed = at = test_random(seed);
    for (size_t i = 0; i < size - sizeof(*o); i++)
        o->content[i] = (unsigned char)(test_random(&at) >> 9);
    return o;
}

static void check(const object *o)
{
    uint64_t at = o->seed;

    CHECK(goalloc_usable_size(o) >= o->size);
    for (size_t i = 0; i < o->size - sizeof(*o); i++)
        CHECK(o->content[i] == (unsigned char)(test_random(&at) >> 9));
}

typedef struct worker {
    int number;
    uint64_t seed;
    uint32_t flags;
    int ready_fd;
} worker;

/* Until it is killed. */
static int work(const fixture *f, void *arg)
{
    worker *w = arg;
    char name[32];
    table *t;

    must_attach(f, w->flags);
    root_name(name, w->number);
    CHECK((t = goalloc_calloc(1, sizeof(*t))) != NULL && goalloc_publish(t) == 0 && goalloc_root_set(name, t) == 0);
    for (uint32_t n = 0;; n++) {
        uint32_t slot = (uint32_t)(test_random(&w->seed) % NSLOTS);
        object *o = make(&w->seed);

        if (w->flags == 0) {
            object *old = atomic_exchange(&t->slots[slot], o);

            goalloc_free(old);
        } else {
            void **to = (void **)(void *)&t->linked[slot];

            CHECK(atomic_load(&t->linked[slot]) == NULL || goalloc_unlink_free(to, NULL) == 0);
            CHECK(goalloc_link(to, o) == 0);
        }
        goalloc_free(goalloc_malloc(100 + n % 1000)); /* its own */
        if (n == 2 * NSLOTS)
            CHECK(write(w->ready_fd, "", 1) == 1);
    }
}

/* All that the roots lead to. */
static int look(const fixture *f, void *arg)
{
    unsigned n = 0;

    (void)arg;
    must_attach(f, 0);
    for (int i = 0; i < NWORKERS; i++) {
        char name[32];
        table *t;
        void *p;

        root_name(name, i);
        CHECK(goalloc_root_get(name, &p) == 0);
        t = p;
        for (uint32_t k = 0; k < NSLOTS; k++) {
            object *o = atomic_load(&t->slots[k]);
            object *l = atomic_load(&t->linked[k]);

            if (o != NULL) {
                check(o);
                CHECK(goalloc_free_checked(o) == 0);
                n++;
            }
            if (l != NULL) {
                check(l);
                CHECK(goalloc_free_checked(l) == 0);
                n++;
            }
        }
    }
    CHECK(n > NSLOTS);
    return 0;
}

static void image_of_a_pause_is_what_a_kill_of_all_would_leave(void **state)
{
    const char *const save[] = { "--json", "--timeout=60s", "save", path, NULL };
    const char *const load[] = { "--load", path, NULL };
    fixture *f = *state;
    worker workers[NWORKERS];
    pid_t pids[NWORKERS];
    uint64_t seed = test_seed();
    char out[1000];
    int fds[2];
    char byte;

    if (geteuid() != 0)
        skip();
    (void)snprintf(path, sizeof(path), "%s/pause-%d.img", guard_dir(), (int)getpid());
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    for (int i = 0; i < NWORKERS; i++) {
        workers[i] = (worker){ i, test_random(&seed), i % 2 == 0 ? 0 : GOALLOC_ATTACH_RECLAIM, fds[1] };
        pids[i] = child_start(f, work, &workers[i]);
    }
    for (int i = 0; i < NWORKERS; i++)
        assert_int_equal(read(fds[0], &byte, 1), 1);
    for (int i = 0; i < ROUNDS; i++) {
        fixture other;

        assert_int_equal(fixture_ctl(f, save, out, sizeof(out)), 0);
        assert_non_null(strstr(out, "\"processes\": 4"));
        fixture_start(&other, load);
        assert_int_equal(child_run(&other, look, NULL), 0);
        assert_true(fixture_is_whole(&other));
        assert_true(fixture_stop(&other));
    }
    for (int i = 0; i < NWORKERS; i++) {
        int status;

        assert_int_equal(waitpid(pids[i], &status, WNOHANG), 0); /* it goes on */
        assert_int_equal(kill(pids[i], SIGKILL), 0);
        (void)child_wait(pids[i]);
    }
    (void)unlink(path);
    (void)close(fds[0]);
    (void)close(fds[1]);
}

#ifndef __SANITIZE_THREAD__
/* In vfork() the parent waits in the kernel until the child execs: it can't be stopped. */
static int wait_for_vfork_child(const fixture *f, void *arg)
{
    const int *fds = arg;

    must_attach(f, 0);
    if (vfork() == 0) {
        pid_t pid = getpid();

        (void)!write(fds[1], &pid, sizeof(pid));
        for (;;)
            (void)pause();
    }
    return 0;
}

static void process_that_does_not_stop_does_not_stop_the_others(void **state)
{
    const char *const save[] = { "--json", "--timeout=60s", "save", "--max-pause", "2000", path, NULL };
    fixture *f = *state;
    char out[1000];
    pid_t parent;
    pid_t child;
    int fds[2];

    if (geteuid() != 0)
        skip();
    (void)snprintf(path, sizeof(path), "%s/late-%d.img", guard_dir(), (int)getpid());
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    parent = child_start(f, wait_for_vfork_child, fds);
    assert_int_equal(read(fds[0], &child, sizeof(child)), sizeof(child));
    assert_int_equal(fixture_ctl(f, save, out, sizeof(out)), 1);
    assert_non_null(strstr(out, "can't be stopped"));
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(kill(child, SIGKILL), 0); /* which the parent waits for: it was let go */
    assert_int_equal(child_wait(parent), 0);
    (void)close(fds[0]);
    (void)close(fds[1]);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(image_of_a_pause_is_what_a_kill_of_all_would_leave),
#ifndef __SANITIZE_THREAD__
        FIXTURE_TEST(process_that_does_not_stop_does_not_stop_the_others),
#endif
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
