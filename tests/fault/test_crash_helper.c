/*
 * The daemon's helper dies at each of its points (shm/crash.h), and in the middle of what it does there. The daemon
 * goes on, another helper does what this one was asked for, and then the arena has exactly the memory that the books
 * say; the daemon after it takes the heap over as it is.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <string.h>

#include "daemon/memory/heapfile.h"
#include "tests/support/attach.h"
#include "tests/support/points.h"
#include "tests/support/rawheap.h"

#define OBJECT_BYTES 4096u
#define NOBJECTS     (16 * MIB / OBJECT_BYTES)
#define PATIENCE     2000 /* times 10 ms */

static int use_the_heap(const fixture *f, void *arg)
{
    static unsigned char *objects[NOBJECTS];

    (void)arg;
    must_attach(f, 0);
    for (size_t i = 0; i < NOBJECTS; i++) {
        CHECK((objects[i] = goalloc_malloc(OBJECT_BYTES)) != NULL);
        memset(objects[i], (int)(i % 251 + 1), OBJECT_BYTES);
    }
    for (size_t i = 0; i < NOBJECTS; i++) {
        for (size_t at = 0; at < OBJECT_BYTES; at += 512)
            CHECK(objects[i][at] == i % 251 + 1);
        goalloc_free(objects[i]);
    }
    return 0;
}

/* Memory behind the books, beyond the heap's end: the daemon has all of that punched, with what describes it. */
static int add_excess(const fixture *f, void *arg)
{
    rawheap heap;

    (void)arg;
    rawheap_open(&heap, f, 0, "excess");
    CHECK(pwrite(heap.fds[ATTACH_FD_ARENA], "x", 1, (off_t)(4096 * MIB)) == 1);
    return 0;
}

static bool comes(bool (*what)(const fixture *f), const fixture *f)
{
    for (int i = 0; i < PATIENCE; i++) {
        if (what(f))
            return true;
        (void)usleep(10000);
    }
    return false;
}

static bool helper_has_died(const fixture *f)
{
    return fixture_log_has(f, "the helper has died");
}

/* The words by which a next daemon knows what a helper of this one is at. */
static bool no_hole_is_being_made(const fixture *f)
{
    char path[64];
    heap_private *private;
    bool none = true;
    int fd;

    (void)snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)fixture_keeper(f), HEAPFILE_PRIVATE);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    private = mmap(NULL, SYSTEM_PAGE_BYTES, PROT_READ, MAP_SHARED, fd, 0);
    assert_true(private != MAP_FAILED);
    for (unsigned i = 0; i < HELPERS_MAX; i++)
        none = none && u64_load_acquire(&private->punching[i]) == 0;
    (void)munmap(private, SYSTEM_PAGE_BYTES);
    (void)close(fd);
    return none;
}

static void scavenge(const fixture *f)
{
    char out[256];

    assert_int_equal(fixture_ctl(f, (const char *[]){ "scavenge", NULL }, out, sizeof(out)), 0);
}

static void helper_dies(const char *name)
{
    fixture f;

    fixture_start_kept(&f, NULL);
    fixture_kill(&f);
    f.crash = name;
    fixture_restart(&f, NULL);
    f.crash = NULL;
    assert_int_equal(child_run(&f, use_the_heap, NULL), 0);
    scavenge(&f);
    assert_int_equal(child_run(&f, add_excess, NULL), 0);
    if (!comes(helper_has_died, &f))
        fail_msg("no helper comes by %s", name);
    assert_int_equal(child_run(&f, use_the_heap, NULL), 0);
    scavenge(&f);
    if (!comes(fixture_is_settled, &f) || !comes(no_hole_is_being_made, &f) || !fixture_is_whole(&f))
        fail_msg("%s: the heap is not as it should be", name);
    fixture_kill(&f);
    fixture_restart(&f, NULL);
    assert_int_equal(child_run(&f, use_the_heap, NULL), 0);
    assert_true(fixture_is_whole(&f));
    assert_true(fixture_is_clean(&f, 0));
    assert_true(fixture_stop(&f));
}

static void helper_may_die_at_every_point(void **state)
{
    const char *name;

    (void)state;
    for (size_t at = 0; (name = points_next('h', &at)) != NULL;)
        helper_dies(name);
}

/* Its second and third time: it has done others before. */
static void helper_may_die_at_every_point_of_a_hole_later(void **state)
{
    (void)state;
    helper_dies("helper_after_word:2");
    helper_dies("helper_after_punch:3");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(helper_may_die_at_every_point),
        cmocka_unit_test(helper_may_die_at_every_point_of_a_hole_later),
    };

    return cmocka_run_group_tests_name("the helper dies", tests, NULL, NULL);
}
