/*
 * Images: what a stop has saved is there when the next daemon starts, object for object.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <sys/mman.h>

#include "tests/support/images.h"

#define TAG UINT64_C(77)

static void heap_that_a_stop_has_saved_is_there_at_the_next_start(void **state)
{
    fixture *f = *state;
    struct stat st;

    build_heap(f);
    assert_int_equal(stop(f), 0);
    assert_true(fixture_log_has(f, "the heap is saved into"));
    assert_false(leaves_something());
    assert_int_equal(stat(image_path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    fixture_restart(f, NULL);
    assert_true(fixture_log_has(f, "the heap comes out of the image"));
    assert_int_equal(child_run(f, verify, NULL), 0);
    assert_int_equal(stop(f), 0); /* and once more, from a heap that was loaded */
    fixture_restart(f, NULL);
    assert_int_equal(child_run(f, verify_and_free, NULL), 0);
    assert_true(fixture_is_clean(f, 0));
}

static int count_init(void *p, size_t size, void *arg)
{
    (void)size;
    (void)p;
    ++*(int *)arg;
    return 0;
}

/* Twice: how often was it initialised, and which heap is it? */
static int reinit(const fixture *f, void *arg)
{
    uint64_t *ret_id = arg;
    uint64_t tags[2] = { TAG | GOALLOC_ROOT_REINIT, TAG };
    const char *names[2] = { "lock", "data" };
    int ninits[2] = { 0, 0 };
    void *p;

    must_attach(f, 0);
    for (int i = 0; i < 4; i++)
        CHECK(goalloc_root_get_or_create(names[i % 2], 64, tags[i % 2], count_init, &ninits[i % 2], &p, NULL) == 0);
    *ret_id = goalloc_heap_id();
    return ninits[0] == 1 ? ninits[1] : 100;
}

static int reinit_first(const fixture *f, void *arg)
{
    return reinit(f, arg) == 1 ? 0 : 1;
}

static int reinit_later(const fixture *f, void *arg)
{
    uint64_t before = *(uint64_t *)arg;
    uint64_t now = 0;

    CHECK(reinit(f, &now) == 0); /* the lock once more, the data no more */
    CHECK(now != before);
    return 0;
}

static void roots_are_initialised_again_in_a_loaded_heap_if_they_ask_for_it(void **state)
{
    fixture *f = *state;
    uint64_t *id = mmap(NULL, sizeof(*id), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    assert_ptr_not_equal(id, MAP_FAILED);
    assert_int_equal(child_run(f, reinit_first, id), 0);
    assert_int_equal(stop(f), 0);
    fixture_restart(f, NULL);
    assert_int_equal(child_run(f, reinit_later, id), 0);
    (void)munmap(id, sizeof(*id));
}

static void image_of_an_empty_heap_is_loaded(void **state)
{
    fixture *f = *state;

    assert_int_equal(stop(f), 0);
    fixture_restart(f, NULL);
    assert_true(fixture_log_has(f, "0 objects with 0 KiB, 0 roots"));
    assert_true(fixture_is_clean(f, 0));
}

static void hundred_rounds_leave_nothing(void **state)
{
    fixture *f = *state;
    image_header first;
    image_header last;

    assert_int_equal(child_run(f, build_little, NULL), 0);
    assert_int_equal(stop(f), 0);
    first = header_of(image_path);
    for (int i = 0; i < 100; i++) {
        fixture_restart(f, NULL);
        assert_int_equal(stop(f), 0);
        assert_false(leaves_something());
    }
    last = header_of(image_path);
    assert_int_equal(first.live_objects, last.live_objects);
    assert_int_equal(first.live_bytes, last.live_bytes);
    assert_int_equal(first.nspans, last.nspans);
    assert_int_equal(first.npages, last.npages);
    fixture_restart(f, NULL);
    assert_true(fixture_is_clean(f, 8));
}

static void heap_that_a_keeper_has_wins_over_an_image(void **state)
{
    fixture *f = *state;
    fixture kept;

    build_heap(f);
    assert_int_equal(stop(f), 0);
    fixture_start_kept(&kept, with_image);
    assert_int_equal(child_run(&kept, verify_and_free, NULL), 0);
    fixture_kill(&kept);
    fixture_restart(&kept, NULL); /* what was freed since stays freed */
    assert_true(fixture_is_clean(&kept, 0));
    assert_true(fixture_stop(&kept));
    fixture_restart(f, NULL); /* --on-stop drop has saved that, too */
    assert_true(fixture_is_clean(f, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IMAGE_TEST(heap_that_a_stop_has_saved_is_there_at_the_next_start),
        IMAGE_TEST(roots_are_initialised_again_in_a_loaded_heap_if_they_ask_for_it),
        IMAGE_TEST(image_of_an_empty_heap_is_loaded),
        IMAGE_TEST(hundred_rounds_leave_nothing),
        IMAGE_TEST(heap_that_a_keeper_has_wins_over_an_image),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
