/*
 * Who makes a root dies at each point of it, and so does the daemon: what is left is exactly the root, or nothing, but
 * for one object in the one place where that is said; and the next one who asks gets one table.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "tests/support/roots.h"

static int make(const char *socket, uint32_t flags)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;
    void *p;

    options.socket_path = socket;
    options.flags = flags;
    CHECK(goalloc_attach(&options) == 0);
    CHECK(table_get("table", &p, NULL) == 0 && ((table *)p)->magic == TABLE_MAGIC && ((table *)p)->ninits == 1);
    return 0;
}

/* In a program of its own, so that its environment can name a point. */
static pid_t make_start(const fixture *f, const char *mode, const char *crash)
{
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        if (crash != NULL)
            (void)setenv("GOALLOC_CRASH", crash, 1);
        (void)execl("/proc/self/exe", "test_crash_roots", mode, f->socket, (char *)NULL);
        _exit(127);
    }
    return pid;
}

static int drop_table(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    root_drop("table");
    return 0;
}

static const struct {
    const char *point;
    uint64_t nleft; /* objects, in a session that does not reclaim; one that does leaves none but the root */
    bool has_root;
} makers[] = {
    { "making_after_reserve", 0, false }, { "making_after_alloc", 1, false },  { "making_after_announce", 0, false },
    { "making_after_init", 0, false },    { "making_after_finish", 1, true },
};

static void maker_may_die_at_every_point(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2 * sizeof(makers) / sizeof(makers[0]); i++) {
        bool reclaims = i % 2;
        const char *mode = reclaims ? "reclaim" : "keep";
        uint64_t nleft = reclaims && !makers[i / 2].has_root ? 0 : makers[i / 2].nleft;
        fixture f;

        fixture_start(&f, NULL);
        assert_int_equal(child_wait(make_start(&f, mode, makers[i / 2].point)), 1000 + SIGKILL);
        if (!fixture_is_clean(&f, nleft))
            fail_msg("%s, %s", makers[i / 2].point, mode);
        assert_int_equal(child_wait(make_start(&f, mode, NULL)), 0);
        assert_true(fixture_is_clean(&f, nleft + !makers[i / 2].has_root));
        assert_int_equal(child_run(&f, drop_table, NULL), 0);
        assert_true(fixture_is_clean(&f, nleft - makers[i / 2].has_root));
        assert_true(fixture_stop(&f));
    }
}

static void maker_that_dies_after_it_has_published_leaves_nothing(void **state)
{
    fixture f;

    (void)state;
    fixture_start(&f, NULL);
    assert_int_equal(child_wait(make_start(&f, "reclaim", "making_after_publish")), 1000 + SIGKILL);
    assert_true(fixture_is_clean(&f, 0));
    assert_true(fixture_stop(&f));
}

/* The daemon dies while it makes the root, or removes it; the maker goes on with the next one. */
static void daemon_may_die_at_every_point(void **state)
{
    static const char *const points[] = { "root_after_entry", "root_after_name",        "root_after_pending",
                                          "root_after_set",   "root_after_done",        "root_change_after_value",
                                          "root_change_after_word", "root_reuse_after_word" };

    (void)state;
    for (size_t i = 0; i < sizeof(points) / sizeof(points[0]); i++) {
        bool needs_entry = i >= 5; /* which was used: the root was there before */
        fixture f;
        pid_t pid;

        fixture_start_kept(&f, NULL);
        if (needs_entry) {
            assert_int_equal(child_wait(make_start(&f, "keep", NULL)), 0);
            assert_int_equal(child_run(&f, drop_table, NULL), 0);
        }
        fixture_kill(&f);
        f.crash = points[i];
        fixture_launch(&f);
        f.crash = NULL;
        pid = make_start(&f, strcmp(points[i], "root_reuse_after_word") == 0 ? "other" : "patient", NULL);
        if (child_wait(f.daemon) != 1000 + SIGKILL)
            fail_msg("no daemon comes by %s", points[i]);
        fixture_restart(&f, NULL);
        assert_int_equal(child_wait(pid), 0);
        assert_true(fixture_is_clean(&f, 1));
        if (strcmp(points[i], "root_reuse_after_word") != 0)
            assert_int_equal(child_run(&f, drop_table, NULL), 0);
        assert_true(fixture_stop(&f));
    }
}

/* The daemon that is to crash may not serve yet. */
static int make_patiently(const char *socket, const char *name)
{
    fixture f = { .daemon = 0 };
    void *p;

    (void)snprintf(f.socket, sizeof(f.socket), "%s", socket);
    must_attach(&f, 0);
    CHECK(table_get(name, &p, NULL) == 0 && ((table *)p)->ninits == 1);
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(maker_may_die_at_every_point),
        cmocka_unit_test(maker_that_dies_after_it_has_published_leaves_nothing),
        cmocka_unit_test(daemon_may_die_at_every_point),
    };

    if (argc == 3 && (strcmp(argv[1], "patient") == 0 || strcmp(argv[1], "other") == 0))
        return make_patiently(argv[2], strcmp(argv[1], "other") == 0 ? "other" : "table");
    if (argc == 3)
        return make(argv[2], strcmp(argv[1], "reclaim") == 0 ? GOALLOC_ATTACH_RECLAIM : 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
