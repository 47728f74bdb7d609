/*
 * Full: whatever can be full has an errno of its own, whichever function asks for memory, and it goes on when there is
 * room again: the arena ENOSPC, a limit of the session EDQUOT, the system's memory ENOMEM, the table of sessions
 * EUSERS.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "tests/support/waits.h"

#define OBJECTS_MAX 20000
#define LIMIT_BYTES (8 * MIB)

/* --- all ways to ask for memory --- */

static void *aligned(size_t size)
{
    return goalloc_aligned_alloc(64, size);
}

static void *zeroed(size_t size)
{
    return goalloc_calloc(1, size);
}

static void *zeroed_noscan(size_t size)
{
    return goalloc_calloc_noscan(size, 1);
}

/* From a place that is too short for it, so that it moves; or that could grow. NULL: one of the two has failed. */
static void *moved(size_t size)
{
    void *p = goalloc_malloc(size / 2 + 1);
    void *q = p == NULL ? NULL : goalloc_realloc(p, size);
    int saved_errno = errno;

    if (q == NULL)
        goalloc_free(p);
    errno = saved_errno;
    return q;
}

static const struct {
    const char *name;
    void *(*get)(size_t size);
} ways[] = {
    { "malloc", goalloc_malloc }, { "malloc_noscan", goalloc_malloc_noscan }, { "calloc", zeroed },
    { "calloc_noscan", zeroed_noscan }, { "aligned_alloc", aligned }, { "realloc", moved },
};

/* A small object that takes half a span, a run, and a large object. */
static const size_t sizes[] = { 4096, 16384, 100000, 600000 };

/* In a child process: each way to get an object of each size ends with that error, and works again after frees. */
static void check_ends_with(int error)
{
    static void *objects[OBJECTS_MAX];

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        for (size_t k = 0; k < sizeof(ways) / sizeof(ways[0]); k++) {
            size_t n = 0;
            size_t bytes = sizes[i];

            errno = 0;
            while (n < OBJECTS_MAX && (objects[n] = ways[k].get(bytes)) != NULL)
                n++;
            if (n < 3 || n == OBJECTS_MAX || errno != error) {
                (void)fprintf(stderr, "%s(%zu), after %zu: %s\n", ways[k].name, bytes, n, strerror(errno));
                _exit(1);
            }
            goalloc_free(objects[--n]);
            CHECK((objects[n] = goalloc_malloc(bytes)) != NULL); /* where one was */
            for (size_t j = 0; j <= n; j++)
                goalloc_free(objects[j]);
        }
    }
}

/* --- a limit of the session --- */

static int attach_limited(const fixture *f, uint32_t flags)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;

    options.socket_path = f->socket;
    options.flags = flags;
    options.limit_bytes = LIMIT_BYTES;
    return goalloc_attach(&options);
}

static int reach_the_limit(const fixture *f, void *arg)
{
    CHECK(attach_limited(f, *(uint32_t *)arg) == 0);
    check_ends_with(EDQUOT);
    return 0;
}

static void malloc_beyond_the_sessions_limit_gives_edquot(void **state)
{
    uint32_t flags[] = { 0, GOALLOC_ATTACH_RECLAIM };

    for (size_t i = 0; i < 2; i++)
        assert_int_equal(child_run(*state, reach_the_limit, &flags[i]), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* --- the arena --- */

static int fill_the_arena(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    check_ends_with(ENOSPC);
    return 0;
}

static void malloc_in_a_full_arena_gives_enospc(void **state)
{
    assert_int_equal(child_run(*state, fill_the_arena, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* Fill the arena with a list of objects, and name it. */
static int leave_no_room(const fixture *f, void *arg)
{
    void **list = NULL;
    void **p;

    (void)arg;
    must_attach(f, 0);
    while ((p = goalloc_malloc(600000)) != NULL) {
        *p = list;
        list = p;
    }
    CHECK(errno == ENOSPC && list != NULL && goalloc_root_set("list", list) == 0);
    return 0;
}

/* What another process has left is freed: there is room. */
static int make_room(const fixture *f, void *arg)
{
    void *list;

    (void)arg;
    must_attach(f, 0);
    CHECK(goalloc_root_get("list", &list) == 0 && goalloc_malloc(600000) == NULL && errno == ENOSPC);
    while (list != NULL) {
        void *next = *(void **)list;

        goalloc_free(list);
        list = next;
    }
    goalloc_free(waits_ask());
    CHECK(goalloc_malloc(600000) != NULL);
    return 0;
}

static void frees_of_what_others_have_left_end_enospc(void **state)
{
    assert_int_equal(child_run(*state, leave_no_room, NULL), 0);
    assert_int_equal(child_run(*state, make_room, NULL), 0);
    assert_true(fixture_is_clean(*state, 1));
}

/* --- the system's memory --- */

#define SYSTEM_ASKED_MS 1100     /* the daemon looks once a second */
#define CGROUP_BYTES "100663296" /* 96 MiB */

static bool write_file(const char *dir, const char *name, const char *text)
{
    char path[192];
    int fd;
    bool whole;

    (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    whole = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    if (fd >= 0)
        (void)close(fd);
    return whole;
}

static char cgroup_dir[96]; /* a memory cgroup of the test's own; "": none */
static const char *limit_file;

/* Make it, of the version that there is. False: this system gives the test none. */
static bool cgroup_make(void)
{
    static const struct {
        const char *root;
        const char *limit;
    } versions[] = { { "/sys/fs/cgroup/memory", "memory.limit_in_bytes" }, { "/sys/fs/cgroup", "memory.max" } };

    for (size_t i = 0; i < 2; i++) {
        (void)snprintf(cgroup_dir, sizeof(cgroup_dir), "%s/goalloc-test-%d", versions[i].root, (int)getpid());
        if (mkdir(cgroup_dir, 0755) < 0)
            continue;
        limit_file = versions[i].limit;
        if (write_file(cgroup_dir, limit_file, CGROUP_BYTES))
            return true;
        (void)rmdir(cgroup_dir);
    }
    cgroup_dir[0] = '\0';
    return false;
}

static int teardown_with_cgroup(void **state)
{
    int r = fixture_teardown(state);

    if (cgroup_dir[0] != '\0')
        (void)rmdir(cgroup_dir);
    return r;
}

static int use_up_the_cgroup(const fixture *f, void *arg)
{
    static void *objects[1000];
    size_t n = 0;

    (void)arg;
    must_attach(f, 0);
    errno = 0;
    while (n < 1000 && (objects[n] = goalloc_malloc(MIB)) != NULL)
        memset(objects[n++], 1, MIB);
    CHECK(n > 3 && n < 1000 && errno == ENOMEM);
    errno = 0;
    CHECK(goalloc_calloc_noscan(64, MIB) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK(goalloc_realloc(objects[0], 64 * MIB) == NULL && errno == ENOMEM);
    while (n > 0)
        goalloc_free(objects[--n]);
    CHECK((objects[0] = goalloc_malloc(3 * MIB)) != NULL);
    goalloc_free(objects[0]);
    return 0;
}

static void malloc_without_system_memory_gives_enomem(void **state)
{
    fixture *f = *state;
    char pid[16];

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
    skip(); /* what a sanitizer notes of the daemon's memory, or keeps of it, counts, too, and can use up the cgroup */
#endif
    if (!cgroup_make())
        skip();
    (void)snprintf(pid, sizeof(pid), "%d", (int)fixture_helper(f)); /* what it gives counts where it is */
    assert_true(write_file(cgroup_dir, "cgroup.procs", pid));
    (void)snprintf(pid, sizeof(pid), "%d", (int)f->daemon);
    assert_true(write_file(cgroup_dir, "cgroup.procs", pid));
    waits_sleep_ms(SYSTEM_ASKED_MS); /* it has looked before that how much there is */
    assert_int_equal(child_run(f, use_up_the_cgroup, NULL), 0);
    assert_true(fixture_is_clean(f, 0));
    (void)write_file(cgroup_dir, limit_file, "1073741824"); /* a sanitizer looks for leaks at the daemon's end */
}

/* --- the table of sessions --- */

#define SESSIONS (SHM_SESSIONS_MAX - 1)
#define NOFILE (4u * SHM_SESSIONS_MAX) /* the daemon has three a session */

static int attach_one_too_many(const fixture *f, void *arg)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;

    (void)arg;
    options.socket_path = f->socket;
    CHECK(goalloc_attach(&options) == -EUSERS && strstr(goalloc_attach_error(), f->socket) != NULL);
    CHECK(strstr(goalloc_attach_error(), "as many sessions as there can be") != NULL); /* in the daemon's words */
    CHECK(setenv("GOALLOC_SOCKET", f->socket, 1) == 0);
    CHECK(goalloc_malloc(100) == NULL && errno == EUSERS);
    return 0;
}

static int attach_after_one_has_left(const fixture *f, void *arg)
{
    int64_t end = waits_now_ms() + 30000;
    int r;

    (void)arg;
    do
        r = waits_attach(f, 10000);
    while (r == -EUSERS && waits_now_ms() < end); /* the daemon is about to notice */
    CHECK(r == 0 && goalloc_malloc(100) != NULL);
    return 0;
}

static int setup_with_descriptors(void **state)
{
    struct rlimit limit;

    /* What the daemon inherits. Without so many the test is skipped. */
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_max >= NOFILE) {
        limit.rlim_cur = NOFILE;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
    return fixture_setup(state);
}

static void attach_with_all_sessions_taken_gives_eusers(void **state)
{
    static int fds[SESSIONS];
    const fixture *f = *state;
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur < NOFILE)
        skip();
    for (size_t i = 0; i < SESSIONS; i++)
        fds[i] = raw_attach(f);
    assert_int_equal(child_run(f, attach_one_too_many, NULL), 0);
    (void)close(fds[0]);
    assert_int_equal(child_run(f, attach_after_one_has_left, NULL), 0);
    for (size_t i = 1; i < SESSIONS; i++)
        (void)close(fds[i]);
    assert_true(fixture_is_clean(f, 1));
}

/* --- what a session has adopted --- */

#define ADOPTED_MAX 65536u /* daemon/heap/adopt.h */

static int adopt_too_many(const fixture *f, void *arg)
{
    static void *objects[ADOPTED_MAX + 1];
    pid_t pid;

    (void)arg;
    waits_not_for_ever();
    must_attach(f, 0);
    for (size_t i = 0; i <= ADOPTED_MAX; i++)
        CHECK((objects[i] = goalloc_malloc(8)) != NULL);
    pid = fork();
    if (pid == 0) {
        waits_not_for_ever();
        CHECK(goalloc_detach() == 0);
        must_attach(f, GOALLOC_ATTACH_RECLAIM);
        for (size_t i = 0; i < ADOPTED_MAX; i++)
            CHECK(goalloc_adopt(objects[i]) == 0);
        CHECK(goalloc_adopt(objects[ADOPTED_MAX]) == -EDQUOT);
        goalloc_free(objects[7]);
        CHECK(goalloc_publish(objects[8]) == 0);
        CHECK(goalloc_adopt(objects[ADOPTED_MAX]) == 0);
        _exit(0);
    }
    waits_child_ends_well(pid);
    return 0;
}

static void adopt_beyond_the_sessions_limit_gives_edquot(void **state)
{
    assert_int_equal(child_run(*state, adopt_too_many, NULL), 0);
    assert_true(fixture_is_clean(*state, 1)); /* what the child has published */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(malloc_beyond_the_sessions_limit_gives_edquot),
        FIXTURE_TEST_WITH(malloc_in_a_full_arena_gives_enospc, "--reserve", "64M"),
        FIXTURE_TEST_WITH(frees_of_what_others_have_left_end_enospc, "--reserve", "64M"),
        cmocka_unit_test_setup_teardown(malloc_without_system_memory_gives_enomem, fixture_setup, teardown_with_cgroup),
        cmocka_unit_test_setup_teardown(attach_with_all_sessions_taken_gives_eusers, setup_with_descriptors,
                                        fixture_teardown),
        FIXTURE_TEST(adopt_beyond_the_sessions_limit_gives_edquot),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
