/*
 * Tests of logrecord.h: what is said has one line and one field, whatever names clients have sent.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "daemon/logrecord.h"
#include "proto/journal.h"
#include "tests/support/datagrams.h"

static datagram got;

__attribute__((format(printf, 2, 3))) static void say(logrecord *r, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    logrecord_say(r, format, args);
    va_end(args);
}

static logrecord record_of(enum log_event kind, const log_subject *subject)
{
    return (logrecord){ .event = kind, .level = LOG_LEVEL_WARN, .subject = subject, .time = { 1700000000, 7999999 } };
}

static void take_apart(const logrecord *r)
{
    char bytes[LOGRECORD_BYTES];
    size_t n = logrecord_write(r, LOGRECORD_DATAGRAM, bytes);

    assert_true(n <= sizeof(bytes));
    assert_true(datagram_parse(bytes, n, &got));
}

static void text_has_time_level_subject_and_message(void **state)
{
    const log_subject session = {
        .session = 7, .pid = 412, .has_uid = true, .uid = 1000, .label = "w'o\\r", .group = "g"
    };
    const log_subject peer = { .pid = 412, .has_uid = true, .uid = 1000 };
    const log_subject user = { .has_uid = true, .uid = 0 };
    const log_subject nobody = { .session = 0 };
    const struct {
        const log_subject *subject;
        const char *expected;
    } cases[] = {
        { &session,
          "2023-11-14T22:13:20.007Z goallocd: warn: session 7 (pid 412, uid 1000, 'w\\'o\\\\r', group 'g'): x\n" },
        { &peer, "2023-11-14T22:13:20.007Z goallocd: warn: pid 412 (uid 1000): x\n" },
        { &user, "2023-11-14T22:13:20.007Z goallocd: warn: uid 0: x\n" },
        { &nobody, "2023-11-14T22:13:20.007Z goallocd: warn: x\n" },
    };
    char bytes[LOGRECORD_BYTES];

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        logrecord r = record_of(LOG_EVENT_NONE, cases[i].subject);
        size_t n;

        say(&r, "x");
        n = logrecord_write(&r, LOGRECORD_TEXT, bytes);
        assert_int_equal(n, strlen(cases[i].expected));
        assert_memory_equal(bytes, cases[i].expected, n);
    }
}

static void stream_has_the_priority_before_the_message(void **state)
{
    const log_subject nobody = { .session = 0 };
    logrecord r = record_of(LOG_EVENT_NONE, &nobody);
    char bytes[LOGRECORD_BYTES];

    (void)state;
    say(&r, "a\nb");
    assert_int_equal(logrecord_write(&r, LOGRECORD_STREAM, bytes), 7);
    assert_memory_equal(bytes, "<4>a b\n", 7);
}

static void datagram_has_the_fields_of_its_subject(void **state)
{
    const log_subject subject = { .session = 7,
                                  .pid = 412,
                                  .has_uid = true,
                                  .uid = 1000,
                                  .label = "worker",
                                  .group = "pool",
                                  .limit = "uid-bytes",
                                  .heap = 0xabc };
    logrecord r = record_of(LOG_EVENT_LIMIT_REACHED, &subject);

    (void)state;
    say(&r, "limit");
    take_apart(&r);
    assert_int_equal(got.n, 12);
    assert_true(datagram_has(&got, "MESSAGE", "session 7 (pid 412, uid 1000, 'worker', group 'pool'): limit"));
    assert_true(datagram_has(&got, "PRIORITY", "4"));
    assert_true(datagram_has(&got, "SYSLOG_IDENTIFIER", "goallocd"));
    assert_true(datagram_has(&got, "MESSAGE_ID", logevent_row_of(LOG_EVENT_LIMIT_REACHED)->message_id));
    assert_true(datagram_has(&got, "GOALLOC_EVENT", "limit-reached"));
    assert_true(datagram_has(&got, "GOALLOC_SESSION", "7"));
    assert_true(datagram_has(&got, "GOALLOC_PID", "412"));
    assert_true(datagram_has(&got, "GOALLOC_UID", "1000"));
    assert_true(datagram_has(&got, "GOALLOC_LABEL", "worker"));
    assert_true(datagram_has(&got, "GOALLOC_GROUP", "pool"));
    assert_true(datagram_has(&got, "GOALLOC_LIMIT", "uid-bytes"));
    assert_true(datagram_has(&got, "GOALLOC_HEAP", "0000000000000abc"));
}

static void datagram_of_a_line_without_subject_has_three_fields(void **state)
{
    const log_subject nobody = { .session = 0 };
    logrecord r = record_of(LOG_EVENT_NONE, &nobody);

    (void)state;
    say(&r, "x");
    take_apart(&r);
    assert_int_equal(got.n, 3);
}

/* No byte that a terminal or a reader of lines acts on, and UTF-8 alone. */
static bool is_harmless(const char *text)
{
    static const char *const turns[] = { "\xe2\x80\xae", "\xe2\x80\xa8", "\xe2\x81\xa6", "\xef\xbb\xbf", "\xc2\x9b" };

    for (const char *at = text; *at != '\0'; at++) {
        if ((unsigned char)*at < 0x20 || *at == 0x7f || (unsigned char)*at == 0xff)
            return false;
    }
    for (size_t i = 0; i < sizeof(turns) / sizeof(turns[0]); i++) {
        if (strstr(text, turns[i]) != NULL)
            return false;
    }
    return true;
}

static void names_of_clients_forge_no_field_no_line_and_no_end_of_quotes(void **state)
{
    static const char *const names[] = {
        "x\nMESSAGE_ID=88a84f36e8e24b13a9be52b02f949c09",
        "x\n_UID=0\nPRIORITY=0\n",
        "GOALLOC_UID\n\x01\x02\x03\x04\x05\x06\x07\x08",
        "\n",
        "\r\ngoallocd: error: the heap is gone",
        "\x1b]0;title\x07\x1b[2J\x1b[31m",
        "\xc2\x9b"
        "2J",                            /* CSI as one character of UTF-8 */
        "a\xe2\x80\xaeniam\xe2\x81\xa6", /* turned round */
        "\xe2\x80\xa8second line",
        "\xff\xfe\xc0\x80\xed\xa0\x80\xf4\x90\x80\x80", /* no UTF-8 */
        "\xe2\x82",                                     /* half a character */
        "x', uid 0): drops the heap",
        "\\', uid 0",
        "\xef\xbb\xbf"
        "bom",
        "=",
    };
    char text[LOGRECORD_BYTES];

    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        for (int n = 0; n < 3; n++) {
            const log_subject subject = { .session = 9,
                                          .pid = 3,
                                          .has_uid = true,
                                          .uid = 5,
                                          .label = n == 0 ? names[i] : "ok",
                                          .group = n == 1 ? names[i] : "ok",
                                          .limit = n == 2 ? names[i] : "ok" };
            logrecord r = record_of(LOG_EVENT_SESSION_DIED, &subject);
            size_t len;

            say(&r, "has died of '%s'", n == 2 ? names[i] : "it");
            take_apart(&r);
            assert_int_equal(got.n, 11);
            assert_true(datagram_has(&got, "MESSAGE_ID", logevent_row_of(LOG_EVENT_SESSION_DIED)->message_id));
            assert_true(datagram_has(&got, "PRIORITY", "4"));
            assert_true(datagram_has(&got, "GOALLOC_UID", "5"));
            for (size_t f = 0; f < got.n; f++) {
                assert_true(is_harmless(got.fields[f].value));
                assert_null(memchr(got.fields[f].value, '\n', got.fields[f].len_bytes));
            }
            assert_null(strstr(datagram_value(&got, "MESSAGE"), n < 2 ? "x', uid" : "\n"));
            len = logrecord_write(&r, LOGRECORD_TEXT, text);
            assert_ptr_equal(memchr(text, '\n', len), text + len - 1);
            text[len - 1] = '\0';
            assert_true(is_harmless(text));
        }
    }
}

static void whatever_is_said_is_cut_and_all_fields_have_room(void **state)
{
    char longest[4096];
    log_subject subject = { .session = UINT32_MAX,
                            .pid = UINT32_MAX,
                            .has_uid = true,
                            .uid = UINT32_MAX,
                            .label = longest,
                            .group = longest,
                            .limit = longest,
                            .heap = UINT64_MAX };
    logrecord r = record_of(LOG_EVENT_SESSION_DISCONNECTED, &subject);
    char text[LOGRECORD_BYTES];

    (void)state;
    for (int quotes = 0; quotes < 2; quotes++) {
        memset(longest, quotes ? '\'' : 'a', sizeof(longest) - 1);
        longest[sizeof(longest) - 1] = '\0';
        say(&r, "%s%s", longest, longest);
        take_apart(&r);
        assert_int_equal(got.n, 12);
        assert_int_equal(strlen(datagram_value(&got, "MESSAGE")), LOGRECORD_MESSAGE_BYTES - 1);
        assert_true(logrecord_write(&r, LOGRECORD_TEXT, text) < LOGRECORD_BYTES);
        assert_true(logrecord_write(&r, LOGRECORD_STREAM, text) < LOGRECORD_BYTES);
    }
}

static void field_with_newlines_goes_with_its_length(void **state)
{
    static const char value[] = "x\nMESSAGE_ID=0\n\n=\0y";
    char bytes[LOGRECORD_BYTES];
    size_t n = journal_add_field(bytes, LOGRECORD_BYTES, 0, "A", value, sizeof(value) - 1);

    (void)state;
    n = journal_add_field(bytes, LOGRECORD_BYTES, n, "B", "", 0);
    n = journal_add_field(bytes, LOGRECORD_BYTES, n, "C", "=1", 2);
    assert_true(datagram_parse(bytes, n, &got));
    assert_int_equal(got.n, 3);
    assert_int_equal(got.fields[0].len_bytes, sizeof(value) - 1);
    assert_memory_equal(got.fields[0].value, value, sizeof(value));
    assert_true(datagram_has(&got, "B", "") && datagram_has(&got, "C", "=1"));
    assert_int_equal(journal_add_field(bytes, LOGRECORD_BYTES, LOGRECORD_BYTES - 8, "D", "12345678", 8), LOGRECORD_BYTES - 8);
}

/* Text of random bytes, as names and as what is said. */
static void random_names_stay_within_their_fields(void **state)
{
    uint32_t seed = 12345;

    (void)state;
    for (int i = 0; i < 20000; i++) {
        char name[64];
        const log_subject subject = { .session = 1, .pid = 2, .has_uid = true, .uid = 3, .label = name, .group = name };
        logrecord r = record_of(LOG_EVENT_NONE, &subject);
        size_t len = (seed >> 8) % sizeof(name);

        for (size_t b = 0; b < len; b++) {
            seed = seed * 1664525 + 1013904223;
            name[b] = (char)(seed >> 24);
            if (name[b] == '\0')
                name[b] = '\n';
        }
        name[len < sizeof(name) ? len : sizeof(name) - 1] = '\0';
        seed = seed * 1664525 + 1013904223;
        say(&r, "%s", name);
        take_apart(&r);
        assert_int_equal(got.n, name[0] == '\0' ? 6 : 8);
        for (size_t f = 0; f < got.n; f++)
            assert_true(is_harmless(got.fields[f].value));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_has_time_level_subject_and_message),
        cmocka_unit_test(stream_has_the_priority_before_the_message),
        cmocka_unit_test(datagram_has_the_fields_of_its_subject),
        cmocka_unit_test(datagram_of_a_line_without_subject_has_three_fields),
        cmocka_unit_test(names_of_clients_forge_no_field_no_line_and_no_end_of_quotes),
        cmocka_unit_test(whatever_is_said_is_cut_and_all_fields_have_room),
        cmocka_unit_test(field_with_newlines_goes_with_its_length),
        cmocka_unit_test(random_names_stay_within_their_fields),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
