/*
 * A test program that is killed at any moment leaves no process and no file behind: what the guard is for.
 *
 * The program that is killed is this one, called with an argument. What it starts has its environment: so a mark in
 * there finds all of them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include "tests/support/waits.h"

#define KILLS       16
#define LIFE_MS_MAX 600
#define LEFT_MS_MAX 10000
#define MARK        "GOALLOC_TEST_MARK"

/* --- the program that is killed --- */

/* A child and a grandchild, which nothing but the guard ends. */
static int churn(const fixture *f, void *arg)
{
    bool waits = arg != NULL;

    must_attach(f, 0);
    (void)prctl(PR_SET_PDEATHSIG, 0);
    CHECK(fork() >= 0);
    for (;;) {
        void *p = goalloc_malloc(100);

        if (p != NULL)
            goalloc_free(p);
        if (waits)
            (void)raise(SIGSTOP);
        (void)usleep(1000);
    }
}

/* A test as any other, over and over. */
__attribute__((noreturn)) static void be_killed(void)
{
    (void)setpgid(0, 0);
    for (;;) {
        fixture f;
        pid_t pids[2];

        fixture_start_kept(&f, NULL);
        for (size_t i = 0; i < 2; i++)
            pids[i] = child_start(&f, churn, i == 0 ? NULL : &f);
        waits_sleep_ms(20);
        fixture_kill(&f);
        fixture_restart(&f, NULL);
        for (size_t i = 0; i < 2; i++) {
            (void)kill(pids[i], SIGKILL);
            (void)child_wait(pids[i]);
        }
        (void)fixture_stop(&f);
    }
}

/* --- what is left of it --- */

/* How many processes have the text in their environment; they are shown. Dead ones have no environment. */
static int count_marked(const char *text, bool show)
{
    static char environment[1 << 16];
    DIR *proc = opendir("/proc");
    int found = 0;

    for (struct dirent *entry; (entry = readdir(proc)) != NULL;) {
        char path[300];
        ssize_t n = 0;
        int fd;

        (void)snprintf(path, sizeof(path), "/proc/%s/environ", entry->d_name);
        fd = atoi(entry->d_name) > 0 ? open(path, O_RDONLY | O_CLOEXEC) : -1;
        if (fd >= 0) {
            n = read(fd, environment, sizeof(environment));
            (void)close(fd);
        }
        if (n <= 0 || memmem(environment, (size_t)n, text, strlen(text)) == NULL)
            continue;
        found++;
        if (show)
            (void)fprintf(stderr, "process %s is left behind\n", entry->d_name);
    }
    (void)closedir(proc);
    return found;
}

static bool is_empty(const char *dir)
{
    return rmdir(dir) == 0 || errno == ENOENT;
}

static void killed_test_program_leaves_nothing_behind(void **state)
{
    uint64_t seed = test_seed();

    (void)state;
    for (int i = 0; i < KILLS; i++) {
        bool whole_group = i % 2 == 1;
        char mark[64];
        fixture place;
        pid_t pid;

        fixture_make_place(&place);
        (void)snprintf(mark, sizeof(mark), "%d.%d", (int)getpid(), i);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
            (void)setenv("GOALLOC_TEST_DIR", place.dir, 1);
            (void)setenv(MARK, mark, 1);
            (void)execl("/proc/self/exe", "test_guard", "be-killed", (char *)NULL);
            _exit(127);
        }
        waits_sleep_ms((int64_t)(test_random(&seed) % LIFE_MS_MAX));
        if (!whole_group || kill(-pid, SIGKILL) < 0)
            (void)kill(pid, SIGKILL);
        assert_int_equal(child_wait(pid), 1000 + SIGKILL);
        (void)snprintf(mark, sizeof(mark), MARK "=%d.%d", (int)getpid(), i);
        for (int ms = 0; ms < LEFT_MS_MAX && (count_marked(mark, false) > 0 || !is_empty(place.dir)); ms += 10)
            waits_sleep_ms(10);
        assert_int_equal(count_marked(mark, true), 0);
        assert_true(is_empty(place.dir));
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_test_program_leaves_nothing_behind),
    };

    if (argc == 2 && strcmp(argv[1], "be-killed") == 0)
        be_killed();
    return cmocka_run_group_tests_name("guard", tests, NULL, NULL);
}
