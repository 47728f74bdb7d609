/*
 * Systems with larger memory pages: a daemon refuses to start there, says why, and leaves a heap that it finds as it
 * is. What the system is said to have comes from a module that is preloaded into the daemon (page_size_module.c). The
 * same of one whose addresses end below the arena (small_space_module.c).
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/support/attach.h"

#define OBJECT_BYTES 100000

/* Daemons that are started from now on find such pages. NULL: those of the system. */
static void set_page_bytes(const char *bytes)
{
    if (bytes != NULL)
        assert_int_equal(setenv("GOALLOC_TEST_PAGE_BYTES", bytes, 1), 0);
    fixture_preload(bytes != NULL ? PAGE_SIZE_MODULE_PATH : NULL);
}

static int leave_object(const fixture *f, void *arg)
{
    char *p;

    (void)arg;
    must_attach(f, 0);
    CHECK((p = goalloc_malloc(OBJECT_BYTES)) != NULL);
    memset(p, 42, OBJECT_BYTES);
    CHECK(goalloc_root_set("object", p) == 0);
    return 0;
}

static int find_object(const fixture *f, void *arg)
{
    void *p;

    (void)arg;
    must_attach(f, 0);
    CHECK(goalloc_root_get("object", &p) == 0);
    for (size_t i = 0; i < OBJECT_BYTES; i++)
        CHECK(((char *)p)[i] == 42);
    CHECK(goalloc_free_checked(p) == 0 && goalloc_root_set("object", NULL) == 0);
    return 0;
}

static struct stat stat_of(const fixture *f, const char *name)
{
    char path[256];
    struct stat st;

    (void)snprintf(path, sizeof(path), "%s/%s", f->dir, name);
    assert_int_equal(stat(path, &st), 0);
    return st;
}

static void large_pages_are_refused_and_the_heap_stays(void **state)
{
    static const char *const sizes[] = { "8192", "16384", "65536" };
    static const char *const places[] = { "socket", "socket.lock", "state/keeper.sock" };
    fixture *f = *state;

    assert_int_equal(child_run(f, leave_object, NULL), 0);
    fixture_kill(f);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct stat before[3];
        char why[128];

        for (size_t k = 0; k < 3; k++)
            before[k] = stat_of(f, places[k]);
        set_page_bytes(sizes[i]);
        /* Asked to drop the heap, it does not get that far either. */
        assert_int_equal(fixture_restart_refused(f, i % 2 == 0 ? NULL : "--cold-start"), 1);
        set_page_bytes(NULL);
        (void)snprintf(why, sizeof(why),
                       "error: the system has memory pages of %s bytes, and a heap needs pages of 4096", sizes[i]);
        assert_true(fixture_log_has(f, why));
        for (size_t k = 0; k < 3; k++) {
            struct stat after = stat_of(f, places[k]);

            assert_true(after.st_ino == before[k].st_ino && after.st_ctim.tv_sec == before[k].st_ctim.tv_sec &&
                        after.st_ctim.tv_nsec == before[k].st_ctim.tv_nsec);
        }
    }
    fixture_restart(f, NULL);
    assert_int_equal(child_run(f, find_object, NULL), 0);
    assert_true(fixture_is_clean(f, 0));
}

/* The default base is beyond 39 bits; that of tests with the thread sanitizer is not. */
static void base_above_the_address_space_is_refused(void **state)
{
    fixture *f = *state;

#ifdef __SANITIZE_THREAD__
    skip();
#endif
    assert_int_equal(child_run(f, leave_object, NULL), 0);
    fixture_kill(f);
    fixture_preload(SMALL_SPACE_MODULE_PATH);
    assert_int_equal(fixture_restart_refused(f, NULL), 2);
    fixture_preload(NULL);
    assert_true(fixture_log_has(f, "the arena would end above the user address space, which ends at 0x8000000000"));
    fixture_restart(f, NULL);
    assert_int_equal(child_run(f, find_object, NULL), 0);
    assert_true(fixture_is_clean(f, 0));
}

static void pages_of_4096_bytes_are_served(void **state)
{
    fixture *f = *state;

    assert_int_equal(child_run(f, leave_object, NULL), 0);
    fixture_kill(f);
    set_page_bytes("4096");
    fixture_restart(f, NULL);
    set_page_bytes(NULL);
    assert_int_equal(child_run(f, find_object, NULL), 0);
    assert_true(fixture_is_clean(f, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST_KEPT(large_pages_are_refused_and_the_heap_stays),
        FIXTURE_TEST_KEPT(base_above_the_address_space_is_refused),
        FIXTURE_TEST_KEPT(pages_of_4096_bytes_are_served),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
