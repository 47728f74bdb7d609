/*
 * Mapping the heap costs no memory, whatever the process has told the kernel about locking its own, and fails with
 * the right error where there is no room for it.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "tests/support/attach.h"

#define RESERVE       "4G"
#define RESERVE_BYTES (UINT64_C(4) << 30)
#define GROWTH_MAX    (UINT64_C(32) << 20) /* of the memfds, by an attach and a few objects */
#define LOCKED_MAX    (UINT64_C(2) << 20)  /* of private memory: the table alone has 4 MiB */
#define NOBODY        65534

static int attach(const fixture *f, uint32_t flags)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;

    options.socket_path = f->socket;
    options.flags = flags;
    return goalloc_attach(&options);
}

static uint64_t heap_bytes(const fixture *f)
{
    return fixture_memfd_bytes(f, "arena") + fixture_memfd_bytes(f, "spans") + fixture_memfd_bytes(f, "bitmap");
}

/* What /proc/self/status says in KiB, in bytes. */
static uint64_t status_bytes(const char *name)
{
    FILE *file = fopen("/proc/self/status", "re");
    char line[256];
    uint64_t kib = 0;

    CHECK(file != NULL);
    while (fgets(line, sizeof(line), file) != NULL) {
        if (strncmp(line, name, strlen(name)) == 0 && line[strlen(name)] == ':')
            kib = strtoull(line + strlen(name) + 1, NULL, 10);
    }
    (void)fclose(file);
    return kib * 1024;
}

static void limit(__rlimit_resource_t resource, uint64_t soft)
{
    struct rlimit limit;

    CHECK(getrlimit(resource, &limit) == 0);
    limit.rlim_cur = soft;
    if (limit.rlim_max < soft)
        limit.rlim_max = soft;
    CHECK(setrlimit(resource, &limit) == 0);
}

/* Objects of several sizes can be had, written and freed. */
static void use_heap(void)
{
    void *objects[100];

    for (size_t i = 0; i < 100; i++) {
        objects[i] = goalloc_malloc(i * 100);
        CHECK(objects[i] != NULL);
        memset(objects[i], (int)i, i * 100);
    }
    for (size_t i = 0; i < 100; i++)
        CHECK(goalloc_free_checked(objects[i]) == 0);
}

/* --- locked memory --- */

static int lock_and_attach(const fixture *f, void *arg)
{
    uint64_t heap = heap_bytes(f);
    uint64_t locked;

    (void)arg;
    CHECK(mlockall(MCL_FUTURE) == 0);
    locked = status_bytes("VmLck");
    must_attach(f, 0);
    CHECK(heap_bytes(f) - heap < GROWTH_MAX);
    CHECK(status_bytes("VmLck") - locked < LOCKED_MAX);
    use_heap();
    CHECK(heap_bytes(f) - heap < GROWTH_MAX);
    CHECK(goalloc_detach() == 0);
    must_attach(f, GOALLOC_ATTACH_READONLY);
    CHECK(heap_bytes(f) - heap < GROWTH_MAX);
    return 0;
}

static void attach_after_mlockall_gives_the_reserve_no_memory(void **state)
{
    if (geteuid() != 0) {
        print_message("not root: RLIMIT_MEMLOCK does not allow it\n");
        skip();
    }
    assert_int_equal(child_run(*state, lock_and_attach, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

static int attach_again(const fixture *f, const char *object, uint32_t flags)
{
    uint64_t heap = heap_bytes(f);

    CHECK(mlockall(MCL_FUTURE) == 0);
    CHECK(attach(f, flags) == 0);
    CHECK(heap_bytes(f) - heap < GROWTH_MAX);
    CHECK(strcmp(object, "an object") == 0);
    if (flags & GOALLOC_ATTACH_READONLY) {
        errno = 0;
        CHECK(goalloc_malloc(100) == NULL && errno == EROFS);
    } else {
        use_heap();
    }
    CHECK(heap_bytes(f) - heap < GROWTH_MAX);
    return 0;
}

static int attach_and_fork(const fixture *f, void *arg)
{
    uint32_t *flags = arg; /* of the parent, of the child */
    char *object = NULL;
    void *p;
    pid_t pid;

    must_attach(f, 0);
    object = goalloc_malloc(100);
    CHECK(object != NULL && goalloc_root_set("object", object) == 0);
    (void)strcpy(object, "an object");
    CHECK(goalloc_detach() == 0);
    must_attach(f, flags[0]);
    CHECK(goalloc_root_get("object", &p) == 0 && p == object);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0)
        _exit(attach_again(f, object, flags[1]));
    CHECK(child_wait(pid) == 0);
    CHECK(goalloc_detach() == 0);
    must_attach(f, 0);
    CHECK(goalloc_free_checked(object) == 0 && goalloc_root_set("object", NULL) == 0);
    return 0;
}

static void attach_of_a_child_with_any_access_gives_the_reserve_no_memory(void **state)
{
    static uint32_t flags[][2] = {
        { 0, 0 },
        { 0, GOALLOC_ATTACH_READONLY },
        { GOALLOC_ATTACH_READONLY, 0 },
        { GOALLOC_ATTACH_READONLY, GOALLOC_ATTACH_READONLY },
    };

    if (geteuid() != 0) {
        print_message("not root: RLIMIT_MEMLOCK does not allow it\n");
        skip();
    }
    for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++)
        assert_int_equal(child_run(*state, attach_and_fork, flags[i]), 0);
    assert_true(fixture_is_clean(*state, 0));
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MLOCKALL_WORKS false /* sanitizers ignore it */
#else
#define MLOCKALL_WORKS true
#endif

typedef struct lock_limit {
    uint64_t bytes;
    int error; /* of the attach */
} lock_limit;

/* As an ordinary user, whom the limit holds for. */
static int attach_below_limit(const fixture *f, void *arg)
{
    const lock_limit *want = arg;
    int r;

    CHECK(chmod(f->dir, 0755) == 0 && chmod(f->socket, 0666) == 0);
    limit(RLIMIT_MEMLOCK, 1 << 20);
    CHECK(setgid(NOBODY) == 0 && setuid(NOBODY) == 0);
    CHECK(mlockall(MCL_FUTURE) == 0);
    limit(RLIMIT_MEMLOCK, want->bytes);
    r = attach(f, 0);
    if (r == want->error) {
        CHECK(r == 0 || strstr(goalloc_strerror(r), "RLIMIT_MEMLOCK") != NULL);
        limit(RLIMIT_MEMLOCK, 1 << 20);
        CHECK(r == 0 || attach(f, 0) == 0);
        use_heap();
        return 0;
    }
    (void)fprintf(stderr, "limit %llu: %s\n", (unsigned long long)want->bytes, goalloc_strerror(r));
    return 1;
}

static void attach_with_few_pages_to_lock_succeeds_and_with_none_says_so(void **state)
{
    static lock_limit limits[] = { { 0, -EAGAIN }, { 4 * 4096, 0 } };

    if (!MLOCKALL_WORKS || geteuid() != 0) {
        print_message("not root, so no other user to become, or a sanitizer, which ignores mlockall()\n");
        skip();
    }
    for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++)
        assert_int_equal(child_run(*state, attach_below_limit, &limits[i]), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* --- no room --- */

/* arg: how far from the beginning of the arena's range something else is mapped. */
static int attach_with_range_taken(const fixture *f, void *arg)
{
    char *at = (char *)(uintptr_t)strtoull(FIXTURE_BASE, NULL, 16) + *(uint64_t *)arg;
    void *p = mmap(at, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

    CHECK(p == at);
    CHECK(attach(f, 0) == -EEXIST);
    CHECK(*(char *)p == 0); /* still there */
    CHECK(munmap(p, 4096) == 0);
    must_attach(f, 0);
    use_heap();
    return 0;
}

static void attach_with_its_range_taken_returns_eexist(void **state)
{
    static uint64_t offsets[] = { 0, 4096, RESERVE_BYTES / 2, RESERVE_BYTES - 4096 };

    for (size_t i = 0; i < sizeof(offsets) / sizeof(offsets[0]); i++)
        assert_int_equal(child_run(*state, attach_with_range_taken, &offsets[i]), 0);
    assert_true(fixture_is_clean(*state, 0));
}

static int attach_with_little_address_space(const fixture *f, void *arg)
{
    uint64_t bytes = status_bytes("VmSize");

    limit(RLIMIT_AS, bytes + *(uint64_t *)arg);
    CHECK(attach(f, 0) == -ENOMEM);
    CHECK(status_bytes("VmSize") < bytes + (1 << 20)); /* nothing stays mapped */
    limit(RLIMIT_AS, RLIM_INFINITY);
    must_attach(f, 0);
    use_heap();
    return 0;
}

static void attach_with_little_address_space_returns_enomem(void **state)
{
    /* Too little for spans (36 MiB), for the bitmap (264 MiB), for the arena. */
    static uint64_t rooms[] = { UINT64_C(16) << 20, UINT64_C(128) << 20, UINT64_C(1) << 30 };

    for (size_t i = 0; i < sizeof(rooms) / sizeof(rooms[0]); i++)
        assert_int_equal(child_run(*state, attach_with_little_address_space, &rooms[i]), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/*
 * Another access needs the address space of the arena twice for a moment, by kernels that look before they unmap: where
 * it is not there, nothing has changed.
 */
static int change_access_with_no_address_space_left(const fixture *f, void *arg)
{
    uint32_t *flags = arg; /* of the parent, of the child */
    pid_t pid;

    must_attach(f, flags[0]);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        uint64_t bytes = status_bytes("VmSize");
        int r;

        limit(RLIMIT_AS, bytes + (1 << 20));
        r = attach(f, flags[1]);
        CHECK(r == 0 || r == -ENOMEM);
        CHECK(status_bytes("VmSize") < bytes + (1 << 20));
        limit(RLIMIT_AS, RLIM_INFINITY);
        CHECK(attach(f, flags[1]) == (r == 0 ? -EALREADY : 0));
        if (!(flags[1] & GOALLOC_ATTACH_READONLY))
            use_heap();
        _exit(0);
    }
    CHECK(child_wait(pid) == 0);
    return 0;
}

static void attach_of_a_child_with_little_address_space_changes_all_or_nothing(void **state)
{
    static uint32_t flags[][2] = { { 0, GOALLOC_ATTACH_READONLY }, { GOALLOC_ATTACH_READONLY, 0 } };

    for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++)
        assert_int_equal(child_run(*state, change_access_with_no_address_space_left, flags[i]), 0);
    assert_true(fixture_is_clean(*state, 0));
}

int main(void)
{
#define TEST(name) FIXTURE_TEST_WITH(name, "--reserve", RESERVE)
    const struct CMUnitTest tests[] = {
        TEST(attach_after_mlockall_gives_the_reserve_no_memory),
        TEST(attach_of_a_child_with_any_access_gives_the_reserve_no_memory),
        TEST(attach_with_few_pages_to_lock_succeeds_and_with_none_says_so),
        TEST(attach_with_its_range_taken_returns_eexist),
        TEST(attach_with_little_address_space_returns_enomem),
        TEST(attach_of_a_child_with_little_address_space_changes_all_or_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
