/*
 * A process that dies between two stores into the profile's region: whoever comes afterwards finds and adds what it
 * wants, at most one entry is lost, what has been counted before stays, and a record of the dead one is whole.
 *
 * The worker is this program again, so that the point is named before its main(). It adds the same as the survivor.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shm/profile.h"
#include "tests/support/points.h"

#define NSTACKS 20u
#define PLACE UINT64_C(4096)

static profile_region *map_region(int fd)
{
    void *p = mmap(NULL, sizeof(profile_region), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    if (p == MAP_FAILED)
        abort();
    return p;
}

/* Returns the site of the last stack. */
static uint32_t add_all(profile_region *region)
{
    static const shm_map none; /* no object lives there */
    const uint8_t id[] = { 1, 2, 3 };
    uint32_t site = 0;

    for (uint64_t i = 1; i <= NSTACKS; i++) {
        profile_party party;
        uint64_t frames[] = { i, 2 * i, (uint64_t)profile_add_module(region, id, sizeof(id), "/lib/a.so") << 48 | i };

        memset(&party, 0, sizeof(party));
        party.session = 1;
        site = profile_add_site(region, profile_add_party(region, &party), profile_add_stack(region, frames, 3));
        profile_count(region, site, 64, 0);
        if (!profile_put_sample(region, &none, (profile_sample){ PLACE + i * 64, site, 0 }))
            abort();
    }
    return site;
}

static void run_worker(int fd, const char *point)
{
    char text[16];
    pid_t pid = fork();
    int status;

    assert_true(pid >= 0);
    if (pid == 0) {
        (void)snprintf(text, sizeof(text), "%d", fd);
        (void)setenv("GOALLOC_CRASH", point, 1);
        (void)execl("/proc/self/exe", "test_crash_recorder", text, (char *)NULL);
        _exit(1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL); /* the point was reached */
}

#define COUNT_STATES(table, n, which)                                                                                  \
    do {                                                                                                               \
        for (uint32_t i_ = 0; i_ < (n); i_++)                                                                          \
            nstates[which] += (u64_load_relaxed(&(table)[i_].state) & 3) == (which);                                   \
    } while (0)

static void check_after(profile_region *region)
{
    uint32_t nstates[3] = { 0 };
    uint32_t nrecords = 0;
    uint64_t nsamples = 0;
    uint32_t site = add_all(region);
    uint32_t again = add_all(region);

    assert_int_not_equal(site, 0);
    assert_int_equal(again, site);
    COUNT_STATES(region->modules, PROFILE_MODULES, PROFILE_CLAIMED);
    COUNT_STATES(region->stacks, PROFILE_STACKS, PROFILE_CLAIMED);
    COUNT_STATES(region->parties, PROFILE_PARTIES, PROFILE_CLAIMED);
    assert_in_range(nstates[PROFILE_CLAIMED], 0, 1);
    COUNT_STATES(region->stacks, PROFILE_STACKS, PROFILE_READY);
    assert_int_equal(nstates[PROFILE_READY], NSTACKS);
    for (uint32_t i = 0; i < PROFILE_SITES; i++)
        nsamples += u64_load_relaxed(&region->sites[i].nsamples);
    assert_in_range(nsamples, 2 * NSTACKS, 3 * NSTACKS - 1);
    for (uint32_t i = 0; i < PROFILE_SAMPLES; i++) {
        uint64_t word = u64_load_relaxed(&region->samples[i]);

        if (word == 0)
            continue;
        nrecords++;
        assert_true((word & PROFILE_SAMPLE_USED) != 0);
        assert_in_range(profile_sample_unpack(word).offset, PLACE, PLACE + NSTACKS * 64);
        assert_true(u64_load_relaxed(&region->sites[profile_sample_unpack(word).site].key) != 0);
    }
    assert_int_equal(nrecords, NSTACKS); /* a place has one */
}

static void add_dies_at_each_point_leaves_the_rest_usable(void **state)
{
    const char *point;

    (void)state;
    for (size_t at = 0; (point = points_next('n', &at)) != NULL;) {
        if (strncmp(point, "profile_", strlen("profile_")) != 0)
            continue; /* not of the region alone */
        for (int nth = 1; nth <= 3; nth++) {
            int fd = memfd_create("profile", 0);
            profile_region *region;
            char spec[64];

            assert_true(fd >= 0 && ftruncate(fd, sizeof(profile_region)) == 0);
            region = map_region(fd);
            (void)snprintf(spec, sizeof(spec), "%s:%d", point, nth);
            run_worker(fd, spec);
            check_after(region);
            (void)munmap(region, sizeof(profile_region));
            (void)close(fd);
        }
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(add_dies_at_each_point_leaves_the_rest_usable),
    };

    if (argc == 2) {
        (void)add_all(map_region((int)strtol(argv[1], NULL, 10)));
        return 0;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
