/*
 * What a process declares to collectors, read as a collector reads it: from another process, by the mapping's name.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "shm/declared.h"
#include "tests/support/waits.h"

/* Its /proc/PID/maps, for the caller to close. */
static FILE *maps_of(pid_t pid)
{
    char path[64];
    FILE *maps;

    (void)snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
    maps = fopen(path, "re");
    assert_non_null(maps);
    return maps;
}

/* Of a process that is stopped: its table, and how many mappings have its name and are whole. */
static unsigned read_table(pid_t pid, declared_table *ret)
{
    FILE *maps = maps_of(pid);
    char line[512];
    unsigned n = 0;

    while (fgets(line, sizeof(line), maps) != NULL) {
        unsigned long from;
        unsigned long to;
        struct iovec here = { ret, sizeof(*ret) };
        struct iovec there;

        if (strstr(line, "/memfd:" DECLARED_NAME) == NULL || sscanf(line, "%lx-%lx", &from, &to) != 2)
            continue;
        assert_non_null(strstr(line, "rw-p"));
        there = (struct iovec){ (void *)from, to - from };
        assert_true(process_vm_readv(pid, &here, 1, &there, 1, 0) >= (ssize_t)(to - from > sizeof(*ret) ? sizeof(*ret)
                                                                                                        : to - from));
        n += declared_is_whole(ret, to - from);
    }
    (void)fclose(maps);
    return n;
}

/* The entry of that kind that has the address; NULL: none. */
static const declared_entry *entry_of(const declared_table *t, enum declared_kind kind, uint64_t address)
{
    for (uint32_t i = 0; i < u32_load_relaxed(&t->n); i++) {
        const declared_entry *e = &t->entries[i];

        if (u64_load_relaxed(&e->kind) == kind && address - u64_load_relaxed(&e->start) < u64_load_relaxed(&e->bytes))
            return e;
    }
    return NULL;
}

static unsigned count(const declared_table *t, enum declared_kind kind)
{
    unsigned n = 0;

    for (uint32_t i = 0; i < u32_load_relaxed(&t->n); i++)
        n += u64_load_relaxed(&t->entries[i].kind) == kind;
    return n;
}

static uint32_t flags_of(const declared_table *t)
{
    return u32_load_relaxed(&t->flags);
}

static void stop(void)
{
    CHECK(raise(SIGSTOP) == 0);
}

/* Each stop is a step that the test looks at. */
static int declare_step_by_step(const fixture *f, void *arg)
{
    uint64_t *shown = arg;
    static char roots[64];
    void *p;

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    must_attach(f, GOALLOC_ATTACH_OPAQUE);
    shown[0] = (uintptr_t)&goalloc_malloc;
    shown[1] = (uintptr_t)roots;
    stop(); /* 1 */
    CHECK(goalloc_detach() == 0);
    stop(); /* 2 */
    must_attach(f, 0);
    p = goalloc_malloc(40);
    CHECK(p != NULL && goalloc_root_set("object", p) == 0 && goalloc_root_get("object", &p) == 0);
    CHECK(goalloc_private_roots(roots, sizeof(roots)) == 0);
    stop(); /* 3 */
    CHECK(goalloc_private_roots_remove(roots) == 0);
    stop(); /* 4 */
    return 0;
}

static void table_says_at_each_step_what_holds(void **state)
{
    const fixture *f = *state;
    static declared_table t;
    uint64_t *shown = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    unsigned nskip;
    pid_t pid;

    assert_true(shown != MAP_FAILED);
    pid = child_start_stopped(f, declare_step_by_step, shown);
    assert_int_equal(read_table(pid, &t), 1);
    assert_int_equal(flags_of(&t), DECLARED_OPAQUE);
    assert_int_equal(u32_load_relaxed(&t.nasking), 0);
    assert_non_null(entry_of(&t, DECLARED_TEXT, shown[0]));
    assert_null(entry_of(&t, DECLARED_SKIP, shown[0]));
    assert_true(count(&t, DECLARED_SKIP) >= 2); /* its state, the table of spans */
    nskip = count(&t, DECLARED_SKIP);

    assert_int_equal(kill(pid, SIGCONT), 0);
    assert_true(child_stops(pid));
    assert_int_equal(read_table(pid, &t), 1);
    assert_int_equal(flags_of(&t), 0);
    assert_true(count(&t, DECLARED_SKIP) < nskip); /* what was unmapped is not skipped */

    assert_int_equal(kill(pid, SIGCONT), 0);
    assert_true(child_stops(pid));
    assert_int_equal(read_table(pid, &t), 1);
    assert_int_equal(flags_of(&t), DECLARED_ONLY_ROOTS);
    assert_int_equal(u32_load_relaxed(&t.nasking), 0);
    assert_true(count(&t, DECLARED_SKIP) > nskip); /* a thread's spans as well */
    assert_int_equal(u64_load_relaxed(&entry_of(&t, DECLARED_ROOTS, shown[1])->bytes), 64);

    assert_int_equal(kill(pid, SIGCONT), 0);
    assert_true(child_stops(pid));
    assert_int_equal(read_table(pid, &t), 1);
    assert_int_equal(flags_of(&t), 0);
    assert_int_equal(count(&t, DECLARED_ROOTS), 0);
    assert_int_equal(kill(pid, SIGCONT), 0);
    assert_int_equal(child_wait(pid), 0);
    (void)munmap(shown, 4096);
    assert_true(fixture_is_clean(f, 1));
}

/* Every range that is skipped is a mapping without a name, or of the region of profiles: none of the program's. */
static void check_skips(pid_t pid, const declared_table *t)
{
    FILE *maps = maps_of(pid);
    char line[512];
    unsigned found = 0;

    while (fgets(line, sizeof(line), maps) != NULL) {
        unsigned long from;
        unsigned long to;
        char access[8];

        assert_int_equal(sscanf(line, "%lx-%lx %7s", &from, &to, access), 3);
        for (uint32_t i = 0; i < u32_load_relaxed(&t->n); i++) {
            uint64_t start = u64_load_relaxed(&t->entries[i].start);

            if (u64_load_relaxed(&t->entries[i].kind) != DECLARED_SKIP || start < from || start >= to)
                continue;
            found++;
            assert_null(strstr(line, "[heap]"));
            assert_null(strstr(line, "[stack]"));
            assert_null(strstr(line, ".so"));
        }
    }
    (void)fclose(maps);
    assert_int_equal(found, count(t, DECLARED_SKIP)); /* and each of them is mapped */
}

static int fork_without_handlers(const fixture *f, void *arg)
{
    int bare = *(int *)arg;
    pid_t pid;

    must_attach(f, GOALLOC_ATTACH_OPAQUE);
    CHECK(goalloc_malloc(40) != NULL);
    pid = bare ? (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) : fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        stop();
        must_attach(f, 0);
        CHECK(goalloc_malloc(40) != NULL);
        stop();
        _exit(0);
    }
    *(pid_t *)arg = pid;
    CHECK(child_stops(pid));
    stop();
    CHECK(kill(pid, SIGCONT) == 0 && child_stops(pid));
    stop();
    CHECK(kill(pid, SIGCONT) == 0 && child_wait(pid) == 0);
    return 0;
}

static void table_of_a_child_is_its_own(void **state)
{
    const fixture *f = *state;
    static declared_table t;
    int *arg = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    assert_true(arg != MAP_FAILED);
    for (int bare = 0; bare < 2; bare++) {
        pid_t pid;

        *arg = bare;
        pid = child_start_stopped(f, fork_without_handlers, arg);
        assert_int_equal(read_table(*arg, &t), 1);
        assert_int_equal(flags_of(&t), DECLARED_OPAQUE); /* until an attach of its own says otherwise */
        check_skips(*arg, &t);
        assert_int_equal(kill(pid, SIGCONT), 0);
        assert_true(child_stops(pid));
        assert_int_equal(read_table(*arg, &t), 1);
        assert_int_equal(flags_of(&t), 0);
        check_skips(*arg, &t);
        assert_int_equal(read_table(pid, &t), 1);
        assert_int_equal(flags_of(&t), DECLARED_OPAQUE);
        check_skips(pid, &t);
        assert_int_equal(kill(pid, SIGCONT), 0);
        assert_int_equal(child_wait(pid), 0);
    }
    (void)munmap(arg, 4096);
}

/* Threads come and go, memory is mapped and unmapped, until it is killed. */
static void *come_and_go(void *arg)
{
    (void)arg;
    goalloc_free(goalloc_malloc(40));
    return NULL;
}

static int change_all_the_time(const fixture *f, void *arg)
{
    static char memory[4096];

    (void)arg;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) {
        pthread_t threads[4];

        must_attach(f, 0);
        for (int i = 0; i < 4; i++)
            CHECK(pthread_create(&threads[i], NULL, come_and_go, NULL) == 0);
        for (int i = 0; i < 100; i++) {
            CHECK(goalloc_private_roots(memory + 8 * i, 8) == 0);
            CHECK(goalloc_private_roots_remove(memory + 8 * i) == 0);
        }
        for (int i = 0; i < 4; i++)
            CHECK(pthread_join(threads[i], NULL) == 0);
        CHECK(goalloc_detach() == 0);
    }
    return 0;
}

/* When it is stopped within a change the table says so, and is not looked at. */
static void table_of_a_process_that_is_stopped_anywhere_is_true(void **state)
{
    const fixture *f = *state;
    static declared_table t;
    pid_t pid = child_start(f, change_all_the_time, NULL);
    uint64_t seed = test_seed();

    waits_sleep_ms(50);
    for (int i = 0; i < 200; i++) {
        waits_sleep_ms((int64_t)(test_random(&seed) % 3));
        assert_int_equal(kill(pid, SIGSTOP), 0);
        assert_true(child_stops(pid));
        if (read_table(pid, &t) == 1)
            check_skips(pid, &t);
        assert_int_equal(kill(pid, SIGCONT), 0);
    }
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(child_wait(pid), 1000 + SIGKILL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(table_says_at_each_step_what_holds),
        FIXTURE_TEST(table_of_a_child_is_its_own),
        FIXTURE_TEST(table_of_a_process_that_is_stopped_anywhere_is_true),
    };

    return cmocka_run_group_tests_name("what processes declare", tests, NULL, NULL);
}
