/*
 * Roots as names: compared and set, waited for, listed, shown, and gone with their objects.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdlib.h>

#include "shm/units.h"
#include "tests/support/roots.h"

/* --- compare and set --- */

static int compare(const fixture *f, void *arg)
{
    char *a;
    char *b;
    void *p;

    (void)arg;
    must_attach(f, 0);
    a = goalloc_malloc(64);
    b = goalloc_malloc(64);
    CHECK(goalloc_root_compare_and_set("cas", a, b) == -EEXIST);
    CHECK(goalloc_root_compare_and_set("cas", NULL, NULL) == 0);
    CHECK(goalloc_root_compare_and_set("cas", NULL, a) == 0);
    CHECK(goalloc_root_compare_and_set("cas", NULL, b) == -EEXIST);
    CHECK(goalloc_root_compare_and_set("cas", b, a) == -EEXIST);
    CHECK(goalloc_root_compare_and_set("cas", a, b) == 0);
    CHECK(goalloc_root_get("cas", &p) == 0 && p == b);
    CHECK(goalloc_root_compare_and_set("cas", b, b + 8) == 0); /* into the object */
    CHECK(goalloc_root_compare_and_set("cas", b + 8, NULL) == 0);
    CHECK(goalloc_root_compare_and_set("cas", b + 8, NULL) == -EEXIST);
    CHECK(goalloc_root_get("cas", &p) == -ENOENT);
    CHECK(goalloc_root_compare_and_set("cas", NULL, &p) == -EINVAL);
    CHECK(goalloc_root_compare_and_set("cas", &p, a) == -EINVAL);
    CHECK(goalloc_root_compare_and_set(NULL, NULL, a) == -EINVAL);
    CHECK(goalloc_root_set("cas", a) == 0);
    goalloc_free(a);
    CHECK(goalloc_root_compare_and_set("cas", NULL, b) == 0); /* what was there does not live */
    root_drop("cas");
    /* The tag stays, the size is what there is. */
    CHECK(table_get("cas", &p, NULL) == 0);
    a = goalloc_calloc(2, sizeof(table));
    CHECK(goalloc_root_compare_and_set("cas", p, a) == 0);
    goalloc_free(p);
    CHECK(table_get("cas", &p, NULL) == 0 && p == a);
    CHECK(goalloc_root_set("cas", a) == 0);
    CHECK(table_get("cas", &p, NULL) == -EMEDIUMTYPE);
    root_drop("cas");
    return 0;
}

static void compare_and_set_changes_what_is_expected(void **state)
{
    assert_int_equal(child_run(*state, compare, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* A counter of which each version is an object of its own, which whoever replaces it frees. */
static int count_by_versions(const fixture *f, void *arg)
{
    must_attach(f, 0);
    for (unsigned i = 0; i < *(unsigned *)arg; i++) {
        int r = -EEXIST;

        while (r == -EEXIST) {
            uint64_t *next = goalloc_malloc(64);
            void *p;

            CHECK(next != NULL && goalloc_root_wait("count", 10000, &p) == 0);
            *next = *(volatile uint64_t *)p + 1;
            r = goalloc_root_compare_and_set("count", p, next);
            CHECK(r == 0 || r == -EEXIST);
            /* A late reader may still look at the old one: it is left to the test's end. */
            if (r == -EEXIST)
                goalloc_free(next);
        }
    }
    return 0;
}

static int begin_count(const fixture *f, void *arg)
{
    void *p;

    (void)arg;
    must_attach(f, 0);
    CHECK(goalloc_root_get_or_create("count", 64, 0, NULL, NULL, &p, NULL) == 0);
    return 0;
}

static int check_count(const fixture *f, void *arg)
{
    void *p;

    must_attach(f, 0);
    CHECK(goalloc_root_get("count", &p) == 0);
    if (*(uint64_t *)p != *(unsigned *)arg)
        (void)fprintf(stderr, "count: %llu, not %u\n", (unsigned long long)*(uint64_t *)p, *(unsigned *)arg);
    CHECK(*(uint64_t *)p == *(unsigned *)arg);
    return 0;
}

/* Each change counts once, though the daemon is killed again and again and requests come twice. */
static void compare_and_set_counts_once_while_the_daemon_is_replaced(void **state)
{
    fixture *f = *state;
    unsigned each = 800;
    unsigned all = 3 * each;
    pid_t pids[3];
    unsigned nended = 0;

    assert_int_equal(child_run(f, begin_count, NULL), 0);
    for (int i = 0; i < 3; i++)
        pids[i] = child_start(f, count_by_versions, &each);
    while (nended < 3) {
        (void)usleep(20000);
        fixture_kill(f);
        fixture_restart(f, NULL);
        for (int i = 0; i < 3; i++) {
            int status;

            if (pids[i] == 0 || waitpid(pids[i], &status, WNOHANG) != pids[i])
                continue;
            assert_int_equal(status, 0);
            pids[i] = 0;
            nended++;
        }
    }
    assert_int_equal(child_run(f, check_count, &all), 0);
}

/* --- waiting --- */

static int wait_for_it(const fixture *f, void *arg)
{
    void *p = NULL;

    (void)arg;
    must_attach(f, 0);
    waits_not_for_ever();
    CHECK(goalloc_root_wait("late", 0, &p) == -ETIMEDOUT && p == NULL);
    CHECK(goalloc_root_wait("late", 20, &p) == -ETIMEDOUT && p == NULL);
    CHECK(goalloc_root_wait(NULL, 0, &p) == -EINVAL && goalloc_root_wait("late", 0, NULL) == -EINVAL);
    (void)raise(SIGSTOP);
    CHECK(goalloc_root_wait("late", -1, &p) == 0 && *(uint64_t *)p == 77);
    return 0;
}

static int set_late(const fixture *f, void *arg)
{
    uint64_t *p;

    (void)arg;
    must_attach(f, 0);
    p = goalloc_malloc(64);
    *p = 77;
    CHECK(goalloc_root_set("late", p) == 0);
    return 0;
}

static int drop_late(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    root_drop("late");
    return 0;
}

static void wait_ends_when_the_root_is_set(void **state)
{
    for (int replaced = 0; replaced < 2; replaced++) {
        fixture *f = *state;
        pid_t pid = child_start(f, wait_for_it, NULL);

        assert_true(child_stops(pid));
        (void)kill(pid, SIGCONT);
        waits_sleep_ms(50);
        if (replaced) {
            fixture_kill(f);
            fixture_restart(f, NULL);
        }
        assert_int_equal(child_run(f, set_late, NULL), 0);
        assert_int_equal(child_wait(pid), 0);
        assert_int_equal(child_run(f, drop_late, NULL), 0);
        assert_true(fixture_is_clean(f, 0));
    }
}

static void *wait_for_ever(void *arg)
{
    void *p;

    (void)arg;
    CHECK(goalloc_root_wait("never", -1, &p) != 0);
    return NULL;
}

/* Other threads of the process are served while one waits. */
static int serve_others(const fixture *f, void *arg)
{
    pthread_t waiter;
    void *ended;

    (void)arg;
    waits_start(f, 2000);
    CHECK(pthread_create(&waiter, NULL, wait_for_ever, NULL) == 0);
    for (int i = 0; i < 100; i++)
        waits_check_served();
    CHECK(pthread_cancel(waiter) == 0 && pthread_join(waiter, &ended) == 0);
    return 0;
}

static void wait_holds_nobody_up(void **state)
{
    assert_int_equal(child_run(*state, serve_others, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* --- the list --- */

typedef struct listing {
    unsigned n;
    unsigned stop_at;
    char *object;
} listing;

static int count_root(const goalloc_root_info *info, void *arg)
{
    listing *l = arg;
    unsigned long i = strtoul(info->name + 5, NULL, 10);
    void *p;

    CHECK(strncmp(info->name, "list ", 5) == 0 && info->p == l->object + i);
    CHECK(info->size == goalloc_usable_size(l->object) - i && info->type_tag == 0 && info->session != 0);
    CHECK(goalloc_root_get(info->name, &p) == 0 && p == info->p);
    return ++l->n == l->stop_at ? 7 : 0;
}

static int check_tag(const goalloc_root_info *info, void *arg)
{
    (void)arg;
    CHECK(strcmp(info->name, "typed") == 0 && info->size == sizeof(table) && info->type_tag == TABLE_TAG);
    return -ENODATA;
}

static int list_some(const fixture *f, void *arg)
{
    listing l = { .object = NULL };
    char name[300];
    void *p;

    (void)arg;
    must_attach(f, 0);
    l.object = goalloc_malloc(1000);
    CHECK(goalloc_root_list(NULL, count_root, &l) == 0 && l.n == 0);
    CHECK(goalloc_root_list(NULL, NULL, &l) == -EINVAL);
    for (int i = 0; i < 100; i++) {
        (void)snprintf(name, sizeof(name), "list %d", i);
        CHECK(goalloc_root_set(name, l.object + i) == 0);
    }
    CHECK(table_get("typed", &p, NULL) == 0);
    CHECK(goalloc_root_list("list ", count_root, &l) == 0 && l.n == 100);
    l.n = 0;
    CHECK(goalloc_root_list("list 9", count_root, &l) == 0 && l.n == 11); /* 9, 90 to 99 */
    l = (listing){ .stop_at = 40, .object = l.object };
    CHECK(goalloc_root_list("list", count_root, &l) == 7 && l.n == 40);
    CHECK(goalloc_root_list("t", check_tag, NULL) == -ENODATA);
    memset(name, 'x', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    CHECK(goalloc_root_list(name, count_root, &l) == -ENAMETOOLONG);
    root_drop("typed");
    goalloc_free(l.object); /* and none of its roots is there any more */
    l = (listing){ .n = 0 };
    CHECK(goalloc_root_list("", count_root, &l) == 0 && l.n == 0);
    CHECK(stats_now().roots == 0);
    return 0;
}

static void list_names_roots_by_prefix(void **state)
{
    assert_int_equal(child_run(*state, list_some, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* --- roots whose objects go --- */

static int free_named(const fixture *f, void *arg)
{
    static const size_t sizes[] = { 8, 64, 5000, 100000, WAITS_ASKED_BYTES };

    (void)arg;
    must_attach(f, 0);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        void *p = goalloc_malloc(sizes[i]);
        void *q;
        int created;

        CHECK(p != NULL && goalloc_root_set("freed", p) == 0);
        goalloc_free(p);
        switch (i % 3) {
        case 0:
            CHECK(goalloc_root_get("freed", &q) == -ENOENT);
            break;
        case 1:
            CHECK(goalloc_root_wait("freed", 0, &q) == -ETIMEDOUT);
            break;
        default:
            CHECK(goalloc_root_get_or_create("freed", 64, TABLE_TAG, NULL, NULL, &q, &created) == 0 && created == 1);
            root_drop("freed");
        }
        CHECK(goalloc_root_set("freed", NULL) == -ENOENT && stats_now().roots == 0);
        p = goalloc_malloc(sizes[i]);
        CHECK(goalloc_root_set("freed", p) == 0);
        goalloc_free(p);
        CHECK(goalloc_root_set("freed", NULL) == 0);
    }
    return 0;
}

static void lookup_of_a_freed_object_removes_the_root(void **state)
{
    assert_int_equal(child_run(*state, free_named, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

static int name_mine(const fixture *f, void *arg)
{
    void *p;

    must_attach(f, *(uint32_t *)arg);
    p = goalloc_malloc(64);
    CHECK(goalloc_root_set("mine", p) == 0);
    return 0;
}

static int look_for_mine(const fixture *f, void *arg)
{
    void *p;

    (void)arg;
    must_attach(f, 0);
    CHECK(goalloc_root_get("mine", &p) == -ENOENT);
    return 0;
}

static void root_of_a_session_that_reclaims_goes_with_it(void **state)
{
    uint32_t flags = GOALLOC_ATTACH_RECLAIM;

    assert_int_equal(child_run(*state, name_mine, &flags), 0);
    assert_true(fixture_is_clean(*state, 0));
    assert_int_equal(child_run(*state, look_for_mine, NULL), 0);
}

/* The place is given out again: the root is gone, and does not name what is there now. */
static int reuse_place(const fixture *f, void *arg)
{
    static void *objects[20000];
    size_t size = *(size_t *)arg;
    size_t n = MIB / size + 10;
    volatile uintptr_t before; /* what a compiler knows of malloc does not hold for it */
    volatile uintptr_t now = 0;
    char *p;
    void *q;

    must_attach(f, 0);
    for (size_t i = 0; i < n; i++)
        CHECK((objects[i] = goalloc_malloc(size)) != NULL);
    p = objects[n / 2];
    before = (uintptr_t)p;
    CHECK(goalloc_root_set("place", p) == 0 && goalloc_root_set("into", p + 4) == 0);
    for (size_t i = 0; i < n; i++)
        goalloc_free(objects[i]);
    CHECK(goalloc_trim() == 0);
    for (size_t i = 0; i < 2 * n && now != before; i++)
        now = (uintptr_t)goalloc_malloc(size);
    CHECK(now == before); /* else the test shows nothing */
    CHECK(goalloc_root_get("place", &q) == -ENOENT && goalloc_root_get("into", &q) == -ENOENT);
    return 0;
}

static void root_does_not_name_an_object_that_came_after_its_own(void **state)
{
    static const size_t sizes[] = { 64, 8000, 100000, WAITS_ASKED_BYTES };

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        size_t size = sizes[i];

        assert_int_equal(child_run(*state, reuse_place, &size), 0);
    }
}

/* A large object grows over a place that a root still names. */
static int grow_over(const fixture *f, void *arg)
{
    char *p;
    char *q;
    void *r;

    (void)arg;
    must_attach(f, 0);
    p = goalloc_malloc(4 * WAITS_ASKED_BYTES);
    q = p + 3 * WAITS_ASKED_BYTES;
    CHECK(goalloc_root_set("tail", q) == 0);
    CHECK(goalloc_realloc(p, WAITS_ASKED_BYTES) == p && goalloc_realloc(p, 4 * WAITS_ASKED_BYTES) == p);
    CHECK(goalloc_contains(q) && goalloc_root_get("tail", &r) == -ENOENT);
    goalloc_free(p);
    return 0;
}

static void root_does_not_name_what_has_grown_over_its_place(void **state)
{
    assert_int_equal(child_run(*state, grow_over, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* --- takeover, goallocctl --- */

static void assert_shown(const fixture *f, const char *name, uint64_t size, uint64_t tag, bool lives, bool is_open)
{
    json_t *answer = json_by_ctl(f, "roots");
    json_t *row = json_row(answer, "roots", name);

    if (row == NULL)
        fail_msg("no root '%s'", name);
    assert_int_equal(figure(row, "size"), size);
    assert_int_equal(figure(row, "type_tag"), tag);
    assert_int_equal(json_is_true(json_object_get(row, "lives")), lives);
    assert_int_equal(json_is_true(json_object_get(row, "session_open")), is_open);
    assert_string_equal(json_string_value(json_object_get(row, "label")), "test_roots_names");
    assert_true(figure(row, "session") > 0);
    json_decref(answer);
}

static int make_for_show(const fixture *f, void *arg)
{
    void *p;
    void *q;

    (void)arg;
    must_attach(f, 0);
    CHECK(table_get("shown", &p, NULL) == 0);
    q = goalloc_malloc(64);
    CHECK(goalloc_root_set("dead", q) == 0);
    goalloc_free(q);
    (void)raise(SIGSTOP);
    CHECK(table_get("shown", &q, NULL) == 0 && q == p);
    return 0;
}

static void size_tag_and_setter_are_shown_and_survive_a_takeover(void **state)
{
    static const char *const text[] = { "roots", NULL };
    fixture *f = *state;
    pid_t pid = child_start(f, make_for_show, NULL);
    char out[4096];

    assert_true(child_stops(pid));
    for (int i = 0; i < 2; i++) { /* a look changes nothing */
        assert_shown(f, "shown", sizeof(table), TABLE_TAG, true, true);
        assert_shown(f, "dead", 0, 0, false, true);
    }
    fixture_kill(f);
    fixture_restart(f, NULL);
    assert_shown(f, "shown", sizeof(table), TABLE_TAG, true, true);
    (void)kill(pid, SIGCONT);
    assert_int_equal(child_wait(pid), 0);
    assert_true(fixture_is_clean(f, 1));
    assert_shown(f, "shown", sizeof(table), TABLE_TAG, true, false);
    assert_int_equal(fixture_ctl(f, text, out, sizeof(out)), 0);
    assert_non_null(strstr(out, "ended"));
    assert_non_null(strstr(out, "0000007461626c65"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(compare_and_set_changes_what_is_expected),
        FIXTURE_TEST_KEPT(compare_and_set_counts_once_while_the_daemon_is_replaced),
        FIXTURE_TEST_KEPT(wait_ends_when_the_root_is_set),
        FIXTURE_TEST(wait_holds_nobody_up),
        FIXTURE_TEST(list_names_roots_by_prefix),
        FIXTURE_TEST(lookup_of_a_freed_object_removes_the_root),
        FIXTURE_TEST(root_of_a_session_that_reclaims_goes_with_it),
        FIXTURE_TEST(root_does_not_name_an_object_that_came_after_its_own),
        FIXTURE_TEST(root_does_not_name_what_has_grown_over_its_place),
        FIXTURE_TEST_KEPT(size_tag_and_setter_are_shown_and_survive_a_takeover),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
