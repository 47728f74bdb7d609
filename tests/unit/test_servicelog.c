/*
 * Tests of servicelog.h: what operators search the services' lines for is written down, and is what the code says; and
 * a line is one record of the journal, or one line of text, whatever is in it.
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
#include <sys/stat.h>
#include <sys/wait.h>

#include "daemon/logevent.h"
#include "proto/servicelog.h"
#include "tests/support/datagrams.h"
#include "tests/support/eventrows.h"

#define EVIL "x\nMESSAGE_ID=1e7a6c73e02c4568a7f9066a89fb31dc\n<0>\x1b[2J\xc2\x9b\x7f"
#define EVIL_PLAIN "x?MESSAGE_ID=1e7a6c73e02c4568a7f9066a89fb31dc?<0>?[2J???"

/* The services' events, then the daemon's. */
static event_row rows[SERVICELOG_EVENTS + LOG_EVENTS - LOG_EVENT_NONE - 1];

static int make_rows(void **state)
{
    event_row *next = rows;

    (void)state;
    for (unsigned e = 0; e < SERVICELOG_EVENTS; e++) {
        const servicelog_row *row = servicelog_row_of((enum servicelog_event)e);

        *next++ = (event_row){ row->name, row->level, row->message_id };
    }
    for (unsigned e = LOG_EVENT_NONE + 1; e < LOG_EVENTS; e++) {
        const logevent_row *row = logevent_row_of((enum log_event)e);

        *next++ = (event_row){ .name = row->name, .message_id = row->message_id };
    }
    return 0;
}

static void events_have_ids_and_names_that_nobody_else_has(void **state)
{
    (void)state;
    event_rows_differ(rows, sizeof(rows) / sizeof(rows[0]));
}

static void operators_guide_has_the_table_of_all_events(void **state)
{
    (void)state;
    event_rows_are_in(GOALLOC_SOURCE_DIR "/docs/OPERATOR.md", rows, SERVICELOG_EVENTS);
}

/* What a process says whose stderr is the write end of fds; journal: the journal's socket, "": stderr is no stream. */
static void say_as_a_service(int fds[2], const char *journal)
{
    char text[64];
    struct stat st;
    pid_t pid;
    int status;

    assert_int_equal(pipe2(fds, O_NONBLOCK), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)dup2(fds[1], STDERR_FILENO);
        (void)unsetenv("JOURNAL_STREAM");
        if (journal[0] != '\0' && fstat(STDERR_FILENO, &st) == 0) {
            (void)snprintf(text, sizeof(text), "%llu:%llu", (unsigned long long)st.st_dev, (unsigned long long)st.st_ino);
            (void)setenv("JOURNAL_STREAM", text, 1);
            (void)setenv("GOALLOC_JOURNAL_SOCKET", journal, 1);
        }
        servicelog_say(SERVICELOG_COLLECT_REFUSED, &(servicelog_about){ .pid = 77, .heap = 0xabc }, "%s", EVIL);
        servicelog_say(SERVICELOG_EXPORTER_FIGURES, NULL, "%s", "again");
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    (void)close(fds[1]);
}

static void assert_said(int fd, const char *expected)
{
    char text[512];
    ssize_t n = read(fd, text, sizeof(text) - 1);

    text[n > 0 ? n : 0] = '\0';
    assert_string_equal(text, expected);
    (void)close(fd);
}

static void a_line_to_the_journal_is_one_record_with_fields(void **state)
{
    static datagram d;
    char path[64];
    int journal;
    int fds[2];

    (void)state;
    (void)snprintf(path, sizeof(path), "/tmp/servicelog-%d", (int)getpid());
    journal = journal_make(path);
    assert_true(journal >= 0);
    say_as_a_service(fds, path);
    (void)unlink(path);
    assert_said(fds[0], "");
    assert_int_equal(journal_next(journal, 0, &d), 1);
    assert_int_equal(d.n, 7);
    assert_true(datagram_has(&d, "MESSAGE", EVIL_PLAIN));
    assert_true(datagram_has(&d, "PRIORITY", "4"));
    assert_true(datagram_has(&d, "SYSLOG_IDENTIFIER", "test_servicelog"));
    assert_true(datagram_has(&d, "MESSAGE_ID", "75fbf841b00742f0a16e4723194eea45"));
    assert_true(datagram_has(&d, "GOALLOC_EVENT", "collect-refused"));
    assert_true(datagram_has(&d, "GOALLOC_PID", "77"));
    assert_true(datagram_has(&d, "GOALLOC_HEAP", "0000000000000abc"));
    assert_int_equal(journal_next(journal, 0, &d), 1);
    assert_int_equal(d.n, 5); /* it is about nobody */
    assert_true(datagram_has(&d, "PRIORITY", "6"));
    assert_int_equal(journal_next(journal, 0, &d), 0);
    (void)close(journal);
}

static void a_line_that_the_journal_does_not_take_goes_to_stderr(void **state)
{
    int fds[2];

    (void)state;
    say_as_a_service(fds, "/nowhere/journal");
    assert_said(fds[0], "<4>" EVIL_PLAIN "\n<6>again\n");
}

static void a_line_without_a_journal_is_text(void **state)
{
    int fds[2];

    (void)state;
    say_as_a_service(fds, "");
    assert_said(fds[0], "test_servicelog: " EVIL_PLAIN "\ntest_servicelog: again\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(events_have_ids_and_names_that_nobody_else_has),
        cmocka_unit_test(operators_guide_has_the_table_of_all_events),
        cmocka_unit_test(a_line_to_the_journal_is_one_record_with_fields),
        cmocka_unit_test(a_line_that_the_journal_does_not_take_goes_to_stderr),
        cmocka_unit_test(a_line_without_a_journal_is_text),
    };

    return cmocka_run_group_tests(tests, make_rows, NULL);
}
