/*
 * Who saves an image dies at each point, and a daemon that loads one: the image is the old one or the new one, whole,
 * and what is loaded later is one of these two heaps, whole. What is left beside it is in nobody's way.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "tests/support/attach.h"
#include "tests/support/guard.h"
#include "tests/support/points.h"

#define NOBJECTS 30000u /* some MiB: several blocks */

static char path[160];
static const char *const options[] = { "--image", path, NULL };

typedef struct state {
    uint64_t version;
    uint64_t *objects[NOBJECTS];
} state;

/* Each object says the version. */
static int write_version(const fixture *f, void *arg)
{
    uint64_t version = *(const uint64_t *)arg;
    state *s;
    void *p;

    must_attach(f, 0);
    if (goalloc_root_get("state", &p) < 0) {
        CHECK((p = goalloc_calloc(1, sizeof(state))) != NULL && goalloc_root_set("state", p) == 0);
    }
    s = p;
    for (uint32_t i = 0; i < NOBJECTS; i++) {
        goalloc_free(s->objects[i]);
        CHECK((s->objects[i] = goalloc_malloc(64 + (i + version) % 200)) != NULL);
        *s->objects[i] = version << 32 | i;
    }
    s->version = version;
    return 0;
}

/* Returns the version, of which all objects must be. */
static int read_version(const fixture *f, void *arg)
{
    const state *s;
    void *p;

    (void)arg;
    must_attach(f, 0);
    CHECK(goalloc_root_get("state", &p) == 0);
    s = p;
    for (uint32_t i = 0; i < NOBJECTS; i++)
        CHECK(*s->objects[i] == (s->version << 32 | i));
    return (int)s->version + 10;
}

static void stop(fixture *f)
{
    int status = -1;

    assert_int_equal(kill(f->daemon, SIGTERM), 0);
    assert_int_equal(waitpid(f->daemon, &status, 0), f->daemon);
    assert_int_equal(status, 0);
}

/* A fixture whose image has version 1, and no daemon. */
static void prepare(fixture *f)
{
    char dir[96];
    uint64_t version = 1;

    (void)snprintf(dir, sizeof(dir), "%s/image-XXXXXX", guard_dir());
    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof(path), "%s/heap.img", dir);
    fixture_start(f, options);
    assert_int_equal(child_run(f, write_version, &version), 0);
    stop(f);
}

static void finish(fixture *f)
{
    assert_true(fixture_is_whole(f));
    assert_true(fixture_stop(f));
}

static void image_is_the_old_or_the_new_one_wherever_the_saver_dies(void **unused)
{
    const char *name;

    (void)unused;
    for (size_t at = 0; (name = points_next('i', &at)) != NULL;) {
        const char *const show[] = { "image", path, NULL };
        bool is_new = strcmp(name, "image_after_rename") == 0;
        uint64_t version = 2;
        char out[1000];
        fixture f;

        prepare(&f);
        f.crash = name;
        fixture_restart(&f, NULL);
        assert_int_equal(child_run(&f, write_version, &version), 0);
        stop(&f);
        if (!fixture_log_has(&f, "the process that saves has died"))
            fail_msg("nobody who saves comes by %s", name);
        f.crash = NULL;
        assert_int_equal(fixture_ctl(&f, show, out, sizeof(out)), 0);
        fixture_restart(&f, is_new ? NULL : "--image-stale=ok");
        assert_int_equal(child_run(&f, read_version, NULL), is_new ? 12 : 11);
        /* What a dead one has left beside it is in nobody's way. */
        assert_int_equal(child_run(&f, write_version, &version), 0);
        stop(&f);
        assert_true(fixture_log_has(&f, "the heap is saved into"));
        fixture_restart(&f, NULL);
        assert_int_equal(child_run(&f, read_version, NULL), 12);
        finish(&f);
    }
}

/* The daemon's next stop has to write there, as the directory's user. */
static void part_that_root_makes_for_another_user_is_that_users_from_the_first_moment(void **unused)
{
    static char place[160];
    static char part[170];
    const char *const save[] = { "save", place, NULL };
    char dir[96];
    char out[1000];
    struct stat st;
    fixture f;

    (void)unused;
    if (geteuid() != 0)
        skip();
    prepare(&f);
    fixture_restart(&f, NULL);
    (void)snprintf(dir, sizeof(dir), "%s/owned-XXXXXX", guard_dir());
    assert_non_null(mkdtemp(dir));
    assert_int_equal(chown(dir, 65534, 65533), 0);
    (void)snprintf(place, sizeof(place), "%s/heap.img", dir);
    (void)snprintf(part, sizeof(part), "%s.part", place);
    assert_int_equal(setenv("GOALLOC_CRASH", "image_after_part", 1), 0);
    assert_int_not_equal(fixture_ctl(&f, save, out, sizeof(out)), 0);
    assert_int_equal(unsetenv("GOALLOC_CRASH"), 0);
    assert_int_equal(stat(part, &st), 0);
    assert_true(st.st_uid == 65534 && st.st_gid == 65533);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(chown(part, 0, 0), 0); /* as one that could not be made so */
    assert_int_equal(fixture_ctl(&f, save, out, sizeof(out)), 0);
    assert_int_equal(access(part, F_OK), -1);
    assert_int_equal(stat(place, &st), 0);
    assert_true(st.st_uid == 65534 && st.st_gid == 65533);
    finish(&f);
}

static void heap_is_loaded_by_the_next_daemon_wherever_the_last_one_died(void **unused)
{
    const char *name;

    (void)unused;
    for (size_t at = 0; (name = points_next('o', &at)) != NULL;) {
        bool is_marked = strcmp(name, "load_after_mark") == 0;
        fixture f;

        prepare(&f);
        f.crash = name;
        fixture_launch(&f);
        if (child_wait(f.daemon) != 1000 + SIGKILL)
            fail_msg("no daemon comes by %s", name);
        f.crash = NULL;
        if (is_marked) /* whether somebody was served since, nobody knows */
            assert_int_equal(fixture_restart_refused(&f, NULL), 1);
        fixture_restart(&f, is_marked ? "--image-stale=ok" : NULL);
        assert_int_equal(child_run(&f, read_version, NULL), 11);
        finish(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(image_is_the_old_or_the_new_one_wherever_the_saver_dies),
        cmocka_unit_test(part_that_root_makes_for_another_user_is_that_users_from_the_first_moment),
        cmocka_unit_test(heap_is_loaded_by_the_next_daemon_wherever_the_last_one_died),
    };

    return cmocka_run_group_tests_name("crashes and images", tests, NULL, NULL);
}
