/*
 * Keepers: one that can't start with its daemon starts later.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "tests/support/attach.h"

static int setup_without_forks(void **state)
{
    int r;

#if defined(__SANITIZE_ADDRESS__)
    /* The module comes before the sanitizer's runtime, which minds; nothing that it watches is in the module. */
    const char *options = getenv("ASAN_OPTIONS");
    char more[256];

    (void)snprintf(more, sizeof(more), "%s:verify_asan_link_order=0", options == NULL ? "" : options);
    (void)setenv("ASAN_OPTIONS", more, 1);
#endif
    (void)setenv("GOALLOC_TEST_FORKS_FAIL", "2", 1);
    (void)setenv("LD_PRELOAD", FORK_MODULE_PATH, 1);
    r = fixture_setup_kept(state);
    (void)unsetenv("LD_PRELOAD");
    return r;
}

static int leave_object(const fixture *f, void *arg)
{
    char *p;

    (void)arg;
    must_attach(f, 0);
    CHECK((p = goalloc_malloc(100)) != NULL && goalloc_root_set("object", strcpy(p, "kept")) == 0);
    return 0;
}

static int find_object(const fixture *f, void *arg)
{
    void *p;

    (void)arg;
    must_attach(f, 0);
    CHECK(goalloc_root_get("object", &p) == 0 && strcmp(p, "kept") == 0);
    CHECK(goalloc_root_set("object", NULL) == 0 && goalloc_free_checked(p) == 0);
    return 0;
}

static void keeper_that_cannot_be_made_at_the_start_is_made_later(void **state)
{
    fixture *f = *state;

    assert_true(fixture_log_has(f, "nobody holds the heap but this daemon"));
    assert_int_equal(child_run(f, leave_object, NULL), 0); /* it serves */
    for (int i = 0; i < 3000 && !fixture_log_has(f, "a keeper holds the heap"); i++)
        usleep(10000);
    assert_true(fixture_log_has(f, "a keeper holds the heap"));
    fixture_kill(f);
    fixture_restart(f, NULL);
    assert_int_equal(child_run(f, find_object, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(keeper_that_cannot_be_made_at_the_start_is_made_later, setup_without_forks,
                                        fixture_teardown),
    };

    return cmocka_run_group_tests_name("keepers", tests, NULL, NULL);
}
