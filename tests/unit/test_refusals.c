/*
 * Tests of refusals.h: of an episode the log has its first refusal, and at its end how many there were more.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/log.h"
#include "daemon/serve/refusals.h"

#define NUSERS 600u

static char text[65536];
static int saved_stderr = -1;
static int file = -1;

/* What is said goes into a file, at once, since nobody has opened the log. */
static int begin(void **state)
{
    (void)state;
    saved_stderr = dup(STDERR_FILENO);
    file = memfd_create("log", MFD_CLOEXEC);
    return file < 0 || dup2(file, STDERR_FILENO) < 0 ? -1 : 0;
}

static int end(void **state)
{
    (void)state;
    (void)dup2(saved_stderr, STDERR_FILENO);
    (void)close(saved_stderr);
    (void)close(file);
    return 0;
}

static const char *said(void)
{
    ssize_t n = pread(file, text, sizeof(text) - 1, 0);

    text[n > 0 ? n : 0] = '\0';
    return text;
}

static unsigned count(const char *what)
{
    unsigned n = 0;

    for (const char *at = said(); (at = strstr(at, what)) != NULL; at += strlen(what))
        n++;
    return n;
}

static void episode_begins_once_and_tells_how_many_more_at_its_end(void **state)
{
    refusal_log log = { .open = NULL };
    refusals of = { .uid = 77 };
    uint64_t now_ms = UINT32_MAX - 1000; /* the clock wraps round meanwhile */

    (void)state;
    assert_true(refusals_note(&log, &of, REFUSAL_ARENA, now_ms));
    for (unsigned i = 0; i < 41; i++)
        assert_false(refusals_note(&log, &of, REFUSAL_ARENA, now_ms += 100));
    refusals_look(&log, now_ms + REFUSAL_QUIET_MS - 1);
    assert_string_equal(said(), "");
    refusals_look(&log, now_ms + REFUSAL_QUIET_MS);
    assert_int_equal(count("warn: uid 77: limit arena: refused 41 more within 5 s\n"), 1);
    refusals_look(&log, now_ms + 3 * REFUSAL_QUIET_MS);
    assert_int_equal(count("\n"), 1);
    assert_null(log.open);
    assert_true(refusals_note(&log, &of, REFUSAL_ARENA, now_ms + 3 * REFUSAL_QUIET_MS));
    refusals_end_all(&log);
    assert_int_equal(count("\n"), 1); /* there were none more */
}

static void episode_without_end_is_told_each_minute(void **state)
{
    refusal_log log = { .open = NULL };
    refusals of = { .uid = 77 };
    unsigned nbegun = 0;

    (void)state;
    for (uint64_t now_ms = 0; now_ms < 5 * REFUSAL_LONGEST_MS; now_ms += 500) {
        nbegun += refusals_note(&log, &of, (enum refusal)LIMIT_UID_BYTES, now_ms);
        refusals_look(&log, now_ms);
    }
    refusals_end(&log, &of);
    assert_int_equal(nbegun, 5);
    assert_int_equal(count("uid 77: limit uid-bytes: refused 119 more within 60 s\n"), 5);
    assert_null(log.open);
}

static void kinds_and_users_have_episodes_of_their_own(void **state)
{
    static refusals users[NUSERS];
    refusal_log log = { .open = NULL };

    (void)state;
    for (uint32_t i = 0; i < NUSERS; i++) {
        users[i] = (refusals){ .uid = 1000 + i };
        assert_true(refusals_note(&log, &users[i], REFUSAL_SYSTEM, 5));
        assert_true(refusals_note(&log, &users[i], REFUSAL_ARENA, 5));
        assert_false(refusals_note(&log, &users[i], REFUSAL_SYSTEM, 6));
    }
    for (unsigned i = 0; i < 10; i++)
        refusals_look(&log, 100); /* nothing is over; it comes to an end all the same */
    assert_string_equal(said(), "");
    refusals_look(&log, 20000);
    assert_true(log.open != NULL); /* the others have their turn at the next look */
    while (log.open != NULL)
        refusals_look(&log, 20000);
    /* Each of them has said its line, or it is counted by the log's quota. */
    assert_true(count("limit system: refused 1 more within 1 s\n") >= 400);
    assert_int_equal(count("limit arena"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(episode_begins_once_and_tells_how_many_more_at_its_end, begin, end),
        cmocka_unit_test_setup_teardown(episode_without_end_is_told_each_minute, begin, end),
        cmocka_unit_test_setup_teardown(kinds_and_users_have_episodes_of_their_own, begin, end),
    };

    (void)unsetenv("JOURNAL_STREAM");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
