/*
 * A daemon dies at each point at which signs of life are made, put on the shelf, sent once more, taken out and read:
 * the next one knows of each session whether its process lives, and of those that were about to be, nothing is left.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "tests/support/groups.h"
#include "tests/support/points.h"
#include "tests/support/rawheap.h"

#define NHOLDERS 3
#define NCOMERS  500 /* sessions, more than the shelf has messages for */

/* A session whose process says nothing any more; each second one is of a group. */
static int hold(const fixture *f, void *arg)
{
    int number = *(int *)arg;

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    CHECK(attach_as(f, 0, number % 2 == 0 ? NULL : "held") == 0 && goalloc_malloc(100) != NULL);
    (void)raise(SIGSTOP);
    for (;;)
        (void)pause();
}

/* Sessions come and go, some of them with groups, until the daemon dies. */
static int come_and_go(const fixture *f, void *arg)
{
    (void)arg;
    for (int i = 0; i < NCOMERS; i++) {
        Goallocd__Attach ask = rawheap_attach_init();
        rawheap heap = { .fd = raw_connect(f) };
        Goallocd__Reply *reply;

        if (i % 4 == 0)
            ask.group = (ProtobufCBinaryData){ .len = 5, .data = (uint8_t *)(uintptr_t)"comes" };
        reply = rawheap_ask(&heap, &ask);
        if (reply == NULL)
            return 0;
        goallocd__reply__free_unpacked(reply, NULL);
        for (int k = 0; k < ATTACH_NFDS; k++) {
            if (heap.fds[k] >= 0)
                (void)close(heap.fds[k]);
        }
        (void)close(heap.fd);
    }
    return 0;
}

/* Wait until the daemon serves, or has died on its way up. */
static void await_daemon(const fixture *f)
{
    for (int i = 0; i < 5000; i++, (void)usleep(2000)) {
        siginfo_t info = { .si_pid = 0 };
        channel ch;

        if (waitid(P_PID, (id_t)f->daemon, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid != 0)
            return;
        if (channel_try_connect(&ch, f->socket, 0, 0) == 0) {
            (void)close(ch.fd);
            return;
        }
    }
}

static void daemon_dies(const char *name, unsigned nth)
{
    fixture f;
    pid_t pids[NHOLDERS];
    char crash[80];
    int status;

    (void)snprintf(crash, sizeof(crash), "%s:%u", name, nth);
    fixture_start_kept(&f, NULL);
    for (int i = 0; i < NHOLDERS; i++) {
        pids[i] = child_start(&f, hold, &i);
        assert_int_equal(waitpid(pids[i], &status, WUNTRACED), pids[i]);
    }
    fixture_kill(&f);
    f.crash = crash;
    fixture_launch(&f);
    f.crash = NULL;
    await_daemon(&f);
    (void)child_run(&f, come_and_go, NULL);
    if (child_wait(f.daemon) != 1000 + SIGKILL)
        fail_msg("no daemon comes by %s for the %uth time", name, nth);
    process_kill(pids[0]);
    fixture_restart(&f, NULL);
    (void)fixture_live_with(&f, NHOLDERS - 1);
    (void)child_run(&f, come_and_go, NULL); /* what is there twice goes, and the rest goes on */
    (void)fixture_live_with(&f, NHOLDERS - 1);
    fixture_kill(&f);
    fixture_restart(&f, NULL);
    for (int i = 1; i < NHOLDERS; i++) {
        process_kill(pids[i]);
        (void)fixture_live_with(&f, (uint64_t)(NHOLDERS - 1 - i));
    }
    assert_true(fixture_is_clean(&f, NHOLDERS));
    assert_true(fixture_stop(&f));
}

static void next_daemon_knows_who_lives_wherever_the_last_one_died(void **state)
{
    static const struct {
        const char *point;
        unsigned nth;
    } rows[] = {
        { "session_after_sign", 1 },  { "session_after_shelf", 1 }, { "session_after_shelf", 150 },
        { "session_after_token", 2 }, { "session_before_state", 2 }, { "session_after_state", 2 },
        { "group_after_shelf", 1 },   { "group_before_word", 1 },   { "group_after_free", 1 },
        { "shelf_after_gather", 1 },  { "shelf_after_gather", 2 },  { "shelf_after_take_out", 1 },
        { "shelf_half_read", 1 },     { "shelf_half_read", 3 },
    };

    const char *missing = points_missing('q', rows, sizeof(rows) / sizeof(rows[0]), sizeof(rows[0]));

    (void)state;
    if (missing != NULL) /* no other test has these */
        fail_msg("%s is not in the table", missing);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        daemon_dies(rows[i].point, rows[i].nth);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(next_daemon_knows_who_lives_wherever_the_last_one_died),
    };

    return cmocka_run_group_tests_name("crashes and the shelf", tests, NULL, NULL);
}
