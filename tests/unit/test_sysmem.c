/*
 * Sysmem: what it makes of the files of /proc and /sys, by files of the test's own: which limit counts, what can't be
 * read, and how often they are read.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/memory/sysmem.h"
#include "shm/units.h"

#define MEMINFO(kib) "MemTotal:       67108864 kB\nMemFree:  5 kB\nMemAvailable:    " kib " kB\n"

/* A tree of files, which goes when the test has ended. */
static char root[] = "/tmp/goalloc-sysmem.XXXXXX";

static void put(const char *path, const char *text)
{
    char full[512];
    FILE *file;

    (void)snprintf(full, sizeof(full), "%s%s", root, path);
    for (char *at = strchr(full + 1, '/'); at != NULL; at = strchr(at + 1, '/')) {
        *at = '\0';
        (void)mkdir(full, 0700);
        *at = '/';
    }
    file = fopen(full, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static void put_group(const char *path, const char *max, const char *current, const char *stat)
{
    char name[256];

    (void)snprintf(name, sizeof(name), "/sys/fs/cgroup%s/memory.max", path);
    put(name, max);
    (void)snprintf(name, sizeof(name), "/sys/fs/cgroup%s/memory.current", path);
    put(name, current);
    (void)snprintf(name, sizeof(name), "/sys/fs/cgroup%s/memory.stat", path);
    put(name, stat);
}

static int make_root(void **state)
{
    (void)state;
    (void)strcpy(root + sizeof(root) - 7, "XXXXXX");
    return mkdtemp(root) == NULL;
}

static int remove_root(void **state)
{
    char command[128];

    (void)state;
    (void)snprintf(command, sizeof(command), "rm -rf %s", root);
    return system(command);
}

static bool has(sysmem *mem, uint64_t mib, uint64_t now_ms)
{
    return sysmem_has(mem, mib * MIB, 0, now_ms);
}

static void least_of_all_limits_counts(void **state)
{
    sysmem mem;

    (void)state;
    put("/proc/meminfo", MEMINFO("2097152")); /* 2 GiB, of which 64 MiB are kept */
    put("/proc/self/cgroup", "0::/a/b\n");
    sysmem_start(&mem, root);
    assert_true(has(&mem, 1984, 1000));
    assert_false(has(&mem, 1985, 1000));
    put_group("/a", "1073741824\n", "536870912\n", "anon 1\ninactive_file 104857600\nactive_file 0\n");
    put_group("/a/b", "max\n", "5\n", "inactive_file 0\n");
    sysmem_end(&mem);
    sysmem_start(&mem, root);
    assert_true(has(&mem, 512 + 100 - 16, 1000)); /* a 64th of 1 GiB is kept, files count as free */
    assert_false(has(&mem, 512 + 100 - 15, 1000));
    /* Moved to another one. */
    put_group("/c", "67108864\n", "33554432\n", "inactive_file 0\n");
    put("/proc/self/cgroup", "0::/c\n");
    assert_false(has(&mem, 600, 1200));
    assert_true(has(&mem, 31, 1200));
    sysmem_end(&mem);
}

static void what_can_not_be_read_is_nothing(void **state)
{
    struct rlimit limit;
    struct rlimit none;
    sysmem mem;

    (void)state;
    sysmem_start(&mem, root);
    assert_false(has(&mem, 1, 1000)); /* no meminfo */
    put("/proc/meminfo", MEMINFO("2097152"));
    assert_true(has(&mem, 1, 1200)); /* now there is */
    sysmem_end(&mem);

    put("/proc/self/cgroup", "0::/a\n");
    put_group("/a", "1073741824\n", "0\n", "inactive_file 0\n");
    sysmem_start(&mem, root);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    none = (struct rlimit){ .rlim_cur = 0, .rlim_max = limit.rlim_max };
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    assert_true(has(&mem, 500, 1000)); /* all is open already */
    assert_false(has(&mem, 1500, 1000));
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    sysmem_end(&mem);

    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    sysmem_start(&mem, root);
    assert_false(has(&mem, 1, 1000)); /* nothing could be opened: not "no limit" */
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_true(has(&mem, 500, 1200));
    sysmem_end(&mem);
}

static void files_are_read_ten_times_a_second_at_most(void **state)
{
    sysmem mem;
    uint64_t now_ms = 1000;

    (void)state;
    put("/proc/meminfo", MEMINFO("2097152"));
    sysmem_start(&mem, root);
    for (; now_ms < 2000; now_ms++) {
        for (int i = 0; i < 3; i++)
            assert_false(has(&mem, 5000, now_ms));
    }
    assert_int_equal(mem.nasked, 10);
    now_ms = 1990;
    /* What is spent counts in between, and what comes back. */
    assert_true(has(&mem, 1900, now_ms));
    sysmem_spend(&mem, 1700 * MIB);
    assert_false(has(&mem, 300, now_ms));
    sysmem_regain(&mem, 300 * MIB);
    assert_true(has(&mem, 300, now_ms));
    assert_true(has(&mem, 1900, now_ms + 100)); /* in fact nothing was spent */
    sysmem_end(&mem);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(least_of_all_limits_counts, make_root, remove_root),
        cmocka_unit_test_setup_teardown(what_can_not_be_read_is_nothing, make_root, remove_root),
        cmocka_unit_test_setup_teardown(files_are_read_ten_times_a_second_at_most, make_root, remove_root),
    };

    return cmocka_run_group_tests_name("sysmem", tests, NULL, NULL);
}
