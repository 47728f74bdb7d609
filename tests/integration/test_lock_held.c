/*
 * A client holds the inode lock of the heap's files for as long as it likes: nobody else waits for it, the daemon can
 * be killed, and its successor serves; what the dead daemon's helper does at last harms nobody.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "tests/support/attach.h"
#include "tests/support/rawheap.h"
#include "tests/support/stall.h"
#include "tests/support/waits.h"

#define OBJECT_BYTES 4096u
#define MIBS         64u /* what a child fills; ahead of it lie 8 MiB */
#define NOBJECTS     (MIBS * MIB / OBJECT_BYTES)

#define TRIES  8
#define LOG_MS 30000 /* what is not in the log by then is not written; less than waits_not_for_ever() */

/* Where the attacker writes: pages that no test of this file comes to. */
#define FAR_AWAY ((off_t)(4096 * MIB))

static void fill(unsigned char **objects, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        objects[i] = goalloc_malloc(OBJECT_BYTES);
        CHECK(objects[i] != NULL);
        memset(objects[i], (int)(i % 251 + 1), OBJECT_BYTES);
    }
}

static void check_and_free(unsigned char **objects, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        for (size_t at = 0; at < OBJECT_BYTES; at++)
            CHECK(objects[i][at] == i % 251 + 1);
        CHECK(goalloc_free_checked(objects[i]) == 0);
    }
}

static int fill_and_free(const fixture *f, void *arg)
{
    static unsigned char *objects[NOBJECTS];

    (void)arg;
    waits_not_for_ever();
    must_attach(f, 0);
    fill(objects, NOBJECTS);
    check_and_free(objects, NOBJECTS);
    return 0;
}

/*
 * More than the others, so that it gets all that they had, if it may. It stops itself between the two, and is sent on
 * when the lock is free.
 */
static int fill_and_stop(const fixture *f, void *arg)
{
    static unsigned char *objects[2 * NOBJECTS];

    (void)arg;
    must_attach(f, 0);
    fill(objects, 2 * NOBJECTS);
    (void)raise(SIGSTOP);
    check_and_free(objects, 2 * NOBJECTS);
    return 0;
}

static void wait_until_gone(pid_t pid)
{
    char state;

    while ((state = waits_process_state(pid)) != 0 && state != 'Z')
        waits_sleep_ms(5);
}

static bool log_says_within(const fixture *f, const char *text, int64_t ms)
{
    int64_t end = waits_now_ms() + ms;

    while (!fixture_log_has(f, text) && waits_now_ms() < end)
        waits_sleep_ms(20);
    return fixture_log_has(f, text);
}

static int scavenge(const fixture *f)
{
    char out[256];

    return fixture_ctl(f, (const char *[]){ "scavenge", NULL }, out, sizeof(out));
}

/* There is something to release, and an attacker holds the lock of the arena. */
static void hold_lock(const fixture *f, rawheap *attacker, stall *held)
{
    waits_not_for_ever();
    assert_int_equal(child_run(f, fill_and_free, NULL), 0);
    rawheap_open(attacker, f, 0, "attacker");
    if (!stall_begin(held, attacker->fds[ATTACH_FD_ARENA], FAR_AWAY)) {
        rawheap_close(attacker);
        skip();
    }
}

static void nobody_waits_for_who_holds_the_lock(void **state)
{
    fixture *f = *state;
    rawheap attacker;
    stall held;

    hold_lock(f, &attacker, &held);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(scavenge(f), 0); /* it is told how little was released */
        assert_int_equal(child_run(f, fill_and_free, NULL), 0);
    }
    assert_true(fixture_is_whole(f));
    assert_true(log_says_within(f, "a client holds a lock of the heap's files", LOG_MS));
    stall_end(&held);
    assert_true(log_says_within(f, "again, after", LOG_MS));
    rawheap_close(&attacker);
    assert_int_equal(scavenge(f), 0);
    assert_true(fixture_is_whole(f));
    (void)alarm(0);
}

/* The bitmap's lock is one of its own. */
static void nobody_waits_for_who_holds_the_lock_of_the_bitmap(void **state)
{
    fixture *f = *state;
    rawheap attacker;
    stall held;

    waits_not_for_ever();
    assert_int_equal(child_run(f, fill_and_free, NULL), 0);
    rawheap_open(&attacker, f, 0, "attacker");
    if (!stall_begin(&held, attacker.fds[ATTACH_FD_BITMAP], (off_t)(attacker.map.npages * 384))) {
        rawheap_close(&attacker);
        skip();
    }
    for (int i = 0; i < 2; i++) {
        assert_int_equal(scavenge(f), 0);
        assert_int_equal(child_run(f, fill_and_free, NULL), 0);
    }
    assert_true(fixture_is_whole(f));
    stall_end(&held);
    rawheap_close(&attacker);
    assert_int_equal(scavenge(f), 0);
    (void)alarm(0);
}

/*
 * True if the helper waits for the lock with a hole to make. One that waits with memory to bring is in the same state,
 * and the hole lies behind it; what it is at is said by its system call's second argument, where that may be read.
 */
static bool waits_with_a_hole(pid_t helper)
{
    char path[64];
    long call;
    unsigned long mode;
    FILE *file;
    int n;

    if (waits_process_state(helper) != 'D')
        return false;
    (void)snprintf(path, sizeof(path), "/proc/%d/syscall", (int)helper);
    file = fopen(path, "re");
    if (file == NULL)
        return true;
    errno = 0;
    n = fscanf(file, "%ld %*x %lx", &call, &mode);
    if (errno == EPERM || errno == EACCES)
        n = EOF;
    (void)fclose(file);
    return n == EOF || (n == 2 && call == SYS_fallocate && (mode & FALLOC_FL_PUNCH_HOLE) != 0);
}

/*
 * An attacker holds the lock, and the helper waits for it with a hole to make. A daemon on a busy machine brings memory
 * at the same time, or gives up waiting before the helper comes to the hole: then once more.
 */
static pid_t hold_lock_before_hole(const fixture *f, rawheap *attacker, stall *held)
{
    for (int i = 0; i < TRIES; i++) {
        int64_t end;
        pid_t helper;

        hold_lock(f, attacker, held);
        assert_int_equal(scavenge(f), 0);
        helper = fixture_helper(f);
        assert_true(helper > 0);
        for (end = waits_now_ms() + 5000; waits_now_ms() < end; waits_sleep_ms(1))
            if (waits_with_a_hole(helper))
                return helper;
        stall_end(held);
        rawheap_close(attacker);
    }
    fail_msg("the helper did not come to a hole in %d tries", TRIES);
    return 0;
}

static void daemon_killed_meanwhile_has_a_successor_whose_objects_stay(void **state)
{
    fixture *f = *state;
    rawheap attacker;
    stall held;
    pid_t helper;
    pid_t pid;
    int status;

    helper = hold_lock_before_hole(f, &attacker, &held);
    fixture_kill(f);
    fixture_restart(f, NULL);
    assert_true(log_says_within(f, "the helper of a goallocd that is gone", LOG_MS));
    assert_int_not_equal(waits_process_state(helper), 0);
    pid = child_start(f, fill_and_stop, NULL);
    assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
    assert_true(WIFSTOPPED(status));
    assert_true(fixture_is_whole(f));
    stall_end(&held);
    wait_until_gone(helper);
    (void)kill(pid, SIGCONT);
    assert_int_equal(child_wait(pid), 0);
    rawheap_close(&attacker);
    assert_int_equal(child_run(f, fill_and_free, NULL), 0);
    assert_true(fixture_is_whole(f));
    (void)alarm(0);
}

static void helper_that_is_killed_has_a_successor(void **state)
{
    fixture *f = *state;
    pid_t helper = fixture_helper(f);
    pid_t next;

    waits_not_for_ever();
    assert_true(helper > 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(kill(helper, SIGKILL), 0);
        assert_int_equal(child_run(f, fill_and_free, NULL), 0);
        while ((next = fixture_helper(f)) == 0 || next == helper)
            waits_sleep_ms(20);
        helper = next;
        assert_int_equal(scavenge(f), 0);
        assert_true(fixture_is_whole(f));
    }
    (void)alarm(0);
}

/*
 * It waits for the lock, is killed, and dies when the lock is free, with one hole made or none. The next one makes them
 * all, so what the arena has is what the books say.
 */
static void helper_that_dies_in_a_hole_has_a_successor_that_makes_it(void **state)
{
    fixture *f = *state;
    rawheap attacker;
    stall held;
    pid_t helper;

    helper = hold_lock_before_hole(f, &attacker, &held);
    assert_int_equal(kill(helper, SIGKILL), 0);
    stall_end(&held);
    rawheap_close(&attacker);
    wait_until_gone(helper);
    assert_true(log_says_within(f, "the helper has died", LOG_MS));
    assert_true(log_says_within(f, "again, after", LOG_MS));
    assert_true(fixture_is_settled(f));
    assert_int_equal(scavenge(f), 0);
    assert_true(fixture_is_settled(f));
    assert_true(fixture_is_whole(f));
    (void)alarm(0);
}

/* Nobody waits for it, and it goes on when it may. */
static void helper_that_is_stopped_holds_nobody_up(void **state)
{
    fixture *f = *state;
    pid_t helper = fixture_helper(f);

    waits_not_for_ever();
    assert_true(helper > 0);
    assert_int_equal(child_run(f, fill_and_free, NULL), 0);
    assert_int_equal(kill(helper, SIGSTOP), 0);
    assert_int_equal(scavenge(f), 0);
    assert_int_equal(child_run(f, fill_and_free, NULL), 0);
    assert_true(fixture_is_whole(f));
    assert_int_equal(kill(helper, SIGCONT), 0);
    assert_true(log_says_within(f, "again, after", LOG_MS));
    assert_int_equal(scavenge(f), 0);
    assert_true(fixture_is_settled(f));
    assert_true(fixture_is_whole(f));
    (void)alarm(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(nobody_waits_for_who_holds_the_lock),
        FIXTURE_TEST_WITH(nobody_waits_for_who_holds_the_lock, "--huge-pages", "never", "--memory-limit", "128M"),
        FIXTURE_TEST(nobody_waits_for_who_holds_the_lock_of_the_bitmap),
        FIXTURE_TEST_KEPT(daemon_killed_meanwhile_has_a_successor_whose_objects_stay),
        FIXTURE_TEST(helper_that_is_killed_has_a_successor),
        FIXTURE_TEST(helper_that_dies_in_a_hole_has_a_successor_that_makes_it),
        FIXTURE_TEST(helper_that_is_stopped_holds_nobody_up),
    };

    return cmocka_run_group_tests_name("a lock that a client holds", tests, NULL, NULL);
}
