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

#define EVIL "x\nMESSAGE_ID=1e7a6c73e02c4568a7f9066a89fb31dc\n<0>\x1b[2J\xc2\x9b\x7f"
#define EVIL_PLAIN "x?MESSAGE_ID=1e7a6c73e02c4568a7f9066a89fb31dc?<0>?[2J???"

static void events_have_ids_and_names_that_nobody_else_has(void **state)
{
    (void)state;
    for (unsigned e = 0; e < SERVICELOG_EVENTS; e++) {
        const servicelog_row *row = servicelog_row_of((enum servicelog_event)e);

        assert_non_null(row->name);
        assert_int_equal(strspn(row->message_id, "0123456789abcdef"), 32);
        assert_int_equal(strlen(row->message_id), 32);
        for (unsigned other = 0; other < e; other++) {
            assert_string_not_equal(row->message_id, servicelog_row_of((enum servicelog_event)other)->message_id);
            assert_string_not_equal(row->name, servicelog_row_of((enum servicelog_event)other)->name);
        }
        for (unsigned other = LOG_EVENT_NONE + 1; other < LOG_EVENTS; other++) {
            assert_string_not_equal(row->message_id, logevent_row_of((enum log_event)other)->message_id);
            assert_string_not_equal(row->name, logevent_row_of((enum log_event)other)->name);
        }
    }
}

/* The rows of the table, in the order of the enum. */
static void operators_guide_has_the_table_of_all_events(void **state)
{
    FILE *guide = fopen(GOALLOC_SOURCE_DIR "/docs/OPERATOR.md", "re");
    char line[256];
    unsigned n = 0;

    (void)state;
    assert_non_null(guide);
    while (fgets(line, sizeof(line), guide) != NULL) {
        char name[64];
        char level[16];
        char id[40];

        if (sscanf(line, "| %63[a-z-] | %15[a-z] | %39[0-9a-f] |", name, level, id) != 3 || strlen(id) != 32)
            continue;
        assert_true(n < SERVICELOG_EVENTS);
        assert_string_equal(name, servicelog_row_of((enum servicelog_event)n)->name);
        assert_string_equal(level, servicelog_row_of((enum servicelog_event)n)->level);
        assert_string_equal(id, servicelog_row_of((enum servicelog_event)n)->message_id);
        n++;
    }
    (void)fclose(guide);
    assert_int_equal(n, SERVICELOG_EVENTS);
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

    return cmocka_run_group_tests(tests, NULL, NULL);
}
