/*
 * A takeover by a daemon of another minor dies at its crash points, in both directions, and daemons of both minors come
 * after it: what is in the heap is there, and of its optional features those that all who wrote since have known.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#include "tests/support/attach.h"
#include "tests/support/parts.h"
#include "tests/support/points.h"

#define NEXT_KNOWS 0x80000000u /* the other minor, of each word */
#define NOBODY_KNOWS 0x40000000u
#define NOBJECTS 500

static int fill(const fixture *f, void *arg)
{
    void **list = NULL;

    (void)arg;
    must_attach(f, 0);
    for (size_t i = 0; i < NOBJECTS; i++) {
        void **o = goalloc_malloc(sizeof(void *) + i);

        CHECK(o != NULL);
        *o = list;
        list = o;
    }
    CHECK(goalloc_root_set("list", list) == 0);
    return 0;
}

static int look(const fixture *f, void *arg)
{
    size_t n = 0;
    void *p;

    (void)arg;
    must_attach(f, 0);
    CHECK(goalloc_root_get("list", &p) == 0);
    for (; p != NULL; p = *(void **)p)
        n++;
    CHECK(n == NOBJECTS);
    return 0;
}

/* A takeover by that program dies at the point. */
static void die_at(fixture *f, const char *program, const char *point)
{
    f->program = program;
    f->crash = point;
    fixture_launch(f);
    assert_int_equal(child_wait(f->daemon), 1000 + SIGKILL);
    f->crash = NULL;
}

static void takeover_by_another_minor_may_die_at_every_point(void **state)
{
    static const char *const programs[] = { NULL, GOALLOCD_NEXT_PATH };
    fixture *f = *state;
    shm_header *header = part_map_header(f);
    size_t at = 0;
    const char *point;

    assert_int_equal(child_run(f, fill, NULL), 0);
    while ((point = points_next('t', &at)) != NULL) {
        if (strncmp(point, "version_", 8) != 0 && strcmp(point, "recover_after_files") != 0)
            continue;
        for (int i = 0; i < 4; i++) { /* who dies, and who comes after */
            fixture_kill(f);
            u32_store_release(&header->optional, NEXT_KNOWS | NOBODY_KNOWS);
            die_at(f, programs[i & 1], point);
            assert_int_equal(u32_load_relaxed(&header->optional), i & 1 ? NEXT_KNOWS : 0);
            f->program = programs[i >> 1];
            fixture_restart(f, NULL);
            assert_int_equal(u32_load_relaxed(&header->optional), (i == 3 ? NEXT_KNOWS : 0) | SHM_OPTIONAL_ORIGIN);
            assert_int_equal(u32_load_relaxed(&header->minor), i >> 1 ? 1001 : version_own()->minor);
            assert_int_equal(child_run(f, look, NULL), 0);
        }
    }
    part_unmap(header);
}

int main(void)
{
    const struct CMUnitTest tests[] = { FIXTURE_TEST_KEPT(takeover_by_another_minor_may_die_at_every_point) };

    return cmocka_run_group_tests_name("takeovers by another minor that die", tests, NULL, NULL);
}
