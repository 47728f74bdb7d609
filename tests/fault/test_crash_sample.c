/*
 * A process that samples dies between two stores of a sample: every object that lives in a marked span has its record,
 * and the next process samples on.
 *
 * The worker is this program again, so that the point is named before its main().
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <sys/wait.h>

#include "tests/support/attach.h"
#include "tests/support/picture.h"
#include "tests/support/points.h"

#define RATE 4096u

/* Some of everything, half of it freed. */
static int work(const char *socket)
{
    static const size_t sizes[] = { 8, 40, 100, 1000, 20000, 50000, 100000, 300000 };
    goalloc_options options = GOALLOC_OPTIONS_INIT;

    options.socket_path = socket;
    if (goalloc_attach(&options) < 0)
        return 2;
    for (int i = 0; i < 20000; i++) {
        size_t size = sizes[i % (i < 3000 ? 8 : 4)];
        void *p = i % 3 == 0 ? goalloc_malloc_noscan(size) : goalloc_malloc(size);

        if (p == NULL)
            return 3;
        if (i % 2)
            goalloc_free(p);
    }
    return 0;
}

/* How it ended. */
static int run_worker(const fixture *f, const char *point)
{
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        (void)setenv("GOALLOC_PROFILE", "4K", 1);
        if (point != NULL)
            (void)setenv("GOALLOC_CRASH", point, 1);
        (void)execl("/proc/self/exe", "test_crash_sample", f->socket, (char *)NULL);
        _exit(1);
    }
    return child_wait(pid);
}

static int look(const fixture *f, void *arg)
{
    picture seen = picture_take(f, RATE);

    (void)arg;
    CHECK(seen.nlive_small == seen.nmarked);
    return 0;
}

static int count_records(const fixture *f, void *arg)
{
    uint64_t before = picture_take(f, RATE).nlive;

    CHECK(run_worker(f, NULL) == 0);
    (void)arg;
    CHECK(picture_take(f, RATE).nlive > before + 100);
    return 0;
}

static void a_process_that_dies_within_a_sample_leaves_only_objects_with_records(void **state)
{
    fixture *f = *state;
    const char *point;

    for (size_t at = 0; (point = points_next('n', &at)) != NULL;) {
        for (int nth = 1; nth <= 100; nth *= 10) {
            char spec[64];

            (void)snprintf(spec, sizeof(spec), "%s:%d", point, nth);
            if (nth > 1 && strncmp(point, "sample_", strlen("sample_")) != 0)
                break; /* there are few sites */
            if (run_worker(f, spec) != 1000 + SIGKILL)
                fail_msg("no process comes by %s", spec);
            assert_int_equal(child_run(f, look, NULL), 0);
            assert_true(fixture_is_whole(f));
        }
    }
    assert_int_equal(child_run(f, count_records, NULL), 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(a_process_that_dies_within_a_sample_leaves_only_objects_with_records),
    };

    return argc == 2 ? work(argv[1]) : cmocka_run_group_tests(tests, NULL, NULL);
}
