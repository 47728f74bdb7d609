/*
 * What is said to systemd, and when its watchdog is this process's.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "daemon/notify.h"
#include "tests/support/systemd.h"

/* systemd's socket, which this process is to talk to. */
static int setup(void **state)
{
    static fixture f;
    static systemd sd;

    fixture_make_place(&f);
    systemd_start(&sd, &f);
    assert_int_equal(setenv("NOTIFY_SOCKET", sd.notify_path, 1), 0);
    *state = &sd;
    return 0;
}

static int teardown(void **state)
{
    systemd_end(*state);
    return unsetenv("NOTIFY_SOCKET");
}

static uint64_t now_us(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static void reload_begins_with_its_time_and_ends_with_ready(void **state)
{
    const systemd *sd = *state;
    uint64_t before_us = now_us();
    unsigned long long us;
    char said[256];
    char more;

    notify_reloading();
    notify_ready();
    assert_true(systemd_hear(sd, said, sizeof(said), NULL, NULL, 0));
    assert_int_equal(sscanf(said, "RELOADING=1\nMONOTONIC_USEC=%llu%c", &us, &more), 1);
    assert_true(us >= before_us && us <= now_us());
    assert_true(systemd_hear(sd, said, sizeof(said), NULL, NULL, 0));
    assert_string_equal(said, "READY=1");
}

static void message_without_room_is_not_waited_for(void **state)
{
    const systemd *sd = *state;
    int n = 0;

    while (notify_try("WATCHDOG=1"))
        n++;
    assert_true(n > 0);
    assert_int_equal(systemd_count(sd, "WATCHDOG=1"), n);
    assert_true(notify_try("WATCHDOG=1"));
}

static void set_or_not(const char *name, const char *value)
{
    assert_int_equal(value != NULL ? setenv(name, value, 1) : unsetenv(name), 0);
}

static void watchdog_is_this_process_s_or_nobody_s(void **state)
{
    char own[32];
    const struct {
        const char *usec, *pid;
        uint64_t ms;
    } rows[] = {
        { NULL, NULL, 0 },    { "30000000", NULL, 30000 }, { "30000000", own, 30000 }, { "30000000", "1", 0 },
        { "0", own, 0 },      { "1", own, 1 },             { "999", own, 1 },          { "1500", own, 1 },
        { "nonsense", own, 0 }, { "", own, 0 },
    };

    (void)state;
    (void)snprintf(own, sizeof(own), "%d", (int)getpid());
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        set_or_not("WATCHDOG_USEC", rows[i].usec);
        set_or_not("WATCHDOG_PID", rows[i].pid);
        assert_int_equal(notify_watchdog_ms(), rows[i].ms);
    }
    set_or_not("WATCHDOG_USEC", "30000000");
    set_or_not("WATCHDOG_PID", NULL);
    set_or_not("NOTIFY_SOCKET", NULL);
    assert_int_equal(notify_watchdog_ms(), 0); /* nobody to tell */
    assert_true(notify_try("WATCHDOG=1"));
    notify_reloading();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(reload_begins_with_its_time_and_ends_with_ready, setup, teardown),
        cmocka_unit_test_setup_teardown(message_without_room_is_not_waited_for, setup, teardown),
        cmocka_unit_test_setup_teardown(watchdog_is_this_process_s_or_nobody_s, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
