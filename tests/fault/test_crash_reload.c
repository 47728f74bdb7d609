/*
 * A daemon dies at each point of a reload: the next one has the files as they are, all of them, and the heap.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "tests/support/groups.h"
#include "tests/support/points.h"

static char conf[128];

static void write_conf(const char *text)
{
    FILE *file = fopen(conf, "we");

    assert_non_null(file);
    assert_true(fputs(text, file) >= 0 && fclose(file) == 0);
}

/* Its limit is the daemon's, so it may have what the last file says. */
static int allocate_at_both_limits(const fixture *f, void *arg)
{
    (void)arg;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    CHECK(attach_as(f, 0, NULL) == 0);
    CHECK(goalloc_malloc(8 * MIB) == NULL && goalloc_malloc(MIB) != NULL);
    (void)raise(SIGSTOP);
    CHECK(goalloc_malloc(8 * MIB) != NULL && goalloc_malloc(32 * MIB) == NULL);
    return 0;
}

static const char *says(const fixture *f, const char *const *words)
{
    static char out[65536];

    assert_int_equal(fixture_ctl(f, words, out, sizeof(out)), 0);
    return out;
}

static void daemon_dies(const char *point)
{
    static const char *const options[] = { "--config", conf, NULL };
    static const char *const stats[] = { "--json", "stats", NULL };
    static const char *const reload[] = { "reload", NULL };
    fixture place;
    fixture f;
    pid_t pid;

    fixture_make_place(&place);
    (void)snprintf(conf, sizeof(conf), "%s/conf", place.dir);
    write_conf("[limits]\nsession-limit = 4M\n");
    fixture_start_kept(&f, options);
    fixture_kill(&f);
    f.crash = point;
    fixture_launch(&f);
    f.crash = NULL;
    for (int i = 0; i < 5000 && !fixture_log_has(&f, "took over"); i++)
        (void)usleep(2000);
    pid = child_start_stopped(&f, allocate_at_both_limits, NULL);
    write_conf("[limits]\nsession-limit = 16M\n[memory]\nmemory-limit = 100M\n");
    assert_int_equal(kill(f.daemon, SIGHUP), 0);
    if (child_wait(f.daemon) != 1000 + SIGKILL)
        fail_msg("no daemon comes by %s", point);
    fixture_restart(&f, NULL);
    assert_non_null(strstr(says(&f, stats), "\"memory_limit_bytes\": 104857600"));
    assert_non_null(strstr(says(&f, reload), "0 applied"));
    assert_int_equal(kill(pid, SIGCONT), 0);
    assert_int_equal(child_wait(pid), 0);
    assert_true(fixture_is_clean(&f, 2));
    assert_true(fixture_stop(&f));
}

static void next_daemon_has_the_files_wherever_the_last_one_died(void **state)
{
    const char *point;

    (void)state;
    for (size_t at = 0; (point = points_next('f', &at)) != NULL;)
        daemon_dies(point);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(next_daemon_has_the_files_wherever_the_last_one_died),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
