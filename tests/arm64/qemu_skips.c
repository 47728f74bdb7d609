/*
 * Tests that qemu's user emulation can't run are left out: those of a program that tests/arm64/skips names.
 *
 * It is linked into every program of the arm64 build. cmocka's macro calls _cmocka_run_group_tests(), of which this one
 * comes first: it replaces the named tests by one that says that it is skipped.
 */
#include <dlfcn.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#pragma weak _skip /* goallocd has no cmocka */

static void is_skipped(void **state)
{
    (void)state;
    skip();
}

/* True if the file has a line "KIND/PROGRAM TEST REASON" for this program and that test. */
static int is_named(FILE *file, const char *test)
{
    char line[400], program[100], name[200];

    rewind(file);
    while (fgets(line, sizeof(line), file) != NULL) {
        const char *slash;

        if (line[0] == '#' || sscanf(line, "%99s %199s", program, name) != 2 || strcmp(name, test) != 0)
            continue;
        slash = strchr(program, '/');
        if (slash != NULL && strcmp(slash + 1, program_invocation_short_name) == 0)
            return 1;
    }
    return 0;
}

int _cmocka_run_group_tests(const char *group, const struct CMUnitTest *const tests, const size_t ntests,
                            CMFixtureFunction setup, CMFixtureFunction teardown)
{
    int (*next)(const char *, const struct CMUnitTest *, size_t, CMFixtureFunction, CMFixtureFunction) =
        (int (*)(const char *, const struct CMUnitTest *, size_t, CMFixtureFunction, CMFixtureFunction))dlsym(
            RTLD_NEXT, "_cmocka_run_group_tests");
    struct CMUnitTest *kept = calloc(ntests, sizeof(*kept));
    FILE *file = fopen(QEMU_SKIPS_PATH, "re");

    if (next == NULL || kept == NULL || file == NULL) {
        (void)fprintf(stderr, "tests/arm64: no list of tests to skip: %s\n", QEMU_SKIPS_PATH);
        return 1;
    }
    for (size_t i = 0; i < ntests; i++) {
        kept[i] = tests[i];
        if (is_named(file, tests[i].name)) {
            kept[i].test_func = is_skipped;
            kept[i].setup_func = NULL;
            kept[i].teardown_func = NULL;
        }
    }
    (void)fclose(file);
    return next(group, kept, ntests, setup, teardown);
}
