/*
 * Tests of log.h: whoever reads stderr, or doesn't, nobody waits who says something. Each test has a process of its
 * own, since a process has one log.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/log.h"

#define NLINES 20000u /* far more than the ring has room for */

/* In a child with the write end of a pipe as stderr: 0 if it does what it should. */
typedef int (*say_fn)(void);

typedef struct speaker {
    pid_t pid;
    int fd; /* what it says */
} speaker;

static speaker speaker_start(say_fn say)
{
    speaker s = { .fd = -1 };
    int fds[2];

    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    (void)fcntl(fds[1], F_SETPIPE_SZ, 4096);
    s.fd = fds[0];
    s.pid = fork();
    assert_true(s.pid >= 0);
    if (s.pid == 0) {
        (void)alarm(60);
        (void)dup2(fds[1], STDERR_FILENO);
        (void)close(fds[0]);
        (void)close(fds[1]);
        (void)unsetenv("JOURNAL_STREAM");
        _exit(say());
    }
    (void)close(fds[1]);
    return s;
}

/* 1000 + the signal that has killed it. */
static int speaker_end(const speaker *s)
{
    int status;

    assert_int_equal(waitpid(s->pid, &status, 0), s->pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

/* All that it says until it ends. */
static char *speaker_text(const speaker *s)
{
    size_t size = 4u << 20;
    char *text = malloc(size);
    size_t used = 0;
    ssize_t n;

    while ((n = read(s->fd, text + used, size - 1 - used)) > 0)
        used += (size_t)n;
    text[used] = '\0';
    (void)close(s->fd);
    return text;
}

static int say_much_and_stop(void)
{
    if (log_open(NULL) != 0)
        return 1;
    for (unsigned i = 0; i < NLINES; i++)
        log_warn("line %u", i);
    (void)raise(SIGSTOP);
    log_close();
    return 0;
}

static void lines_that_nobody_reads_are_dropped_and_counted_in_their_place(void **state)
{
    speaker s = speaker_start(say_much_and_stop);
    unsigned nlines = 0;
    unsigned long long ndropped = 0;
    unsigned expected = 0;
    int status;
    char *text;

    (void)state;
    assert_int_equal(waitpid(s.pid, &status, WUNTRACED), s.pid); /* it has said all, and nobody has read */
    assert_true(WIFSTOPPED(status));
    (void)kill(s.pid, SIGCONT);
    text = speaker_text(&s);
    for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        unsigned long long n;
        unsigned i;

        if (sscanf(line, "goallocd: warn: line %u", &i) == 1) {
            assert_int_equal(i, expected);
            expected = i + 1;
            nlines++;
        } else if (sscanf(line, "goallocd: warn: %llu lines of the log were dropped", &n) == 1) {
            ndropped += n;
            expected += (unsigned)n;
        } else {
            fail_msg("'%s'", line);
        }
    }
    free(text);
    assert_int_equal(speaker_end(&s), 0);
    assert_int_equal(nlines + ndropped, NLINES);
    assert_true(ndropped > 0 && nlines > 1000);
}

static int say_and_go_on(void)
{
    if (log_open(NULL) != 0)
        return 1;
    for (unsigned i = 0; i < NLINES; i++)
        log_warn("line %u", i);
    log_close(); /* the writer stands in write(2) */
    return 0;
}

static void process_ends_though_nobody_reads_what_it_has_said(void **state)
{
    speaker s = speaker_start(say_and_go_on);

    (void)state;
    assert_int_equal(speaker_end(&s), 0);
    (void)close(s.fd);
}

static int say_and_be_killed(void)
{
    if (log_open(NULL) != 0)
        return 1;
    for (unsigned i = 0; i < NLINES; i++)
        log_warn("line %u", i);
    (void)kill(getpid(), SIGKILL);
    (void)pause();
    return 0;
}

static void process_is_killed_though_its_writer_waits(void **state)
{
    speaker s = speaker_start(say_and_be_killed);

    (void)state;
    assert_int_equal(speaker_end(&s), 1000 + SIGKILL);
    (void)close(s.fd);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
static int say_and_crash(void)
{
    if (log_open(NULL) != 0)
        return 1;
    for (unsigned i = 0; i < 20; i++)
        log_warn("line %u", i);
    abort();
}

static void what_was_said_before_a_crash_is_written(void **state)
{
    speaker s = speaker_start(say_and_crash);
    char *text = speaker_text(&s);

    (void)state;
    assert_int_equal(speaker_end(&s), 1000 + SIGABRT);
    assert_non_null(strstr(text, "line 19\n"));
    free(text);
}
#endif

static int say_as_clients(void)
{
    if (log_open(NULL) != 0)
        return 1;
    for (unsigned i = 0; i < 1000; i++)
        log_client_warn(77, "client line %u", i);
    log_warn("line of the daemon");
    log_close();
    return 0;
}

static void lines_of_clients_are_limited_and_the_others_counted(void **state)
{
    speaker s = speaker_start(say_as_clients);
    char *text = speaker_text(&s);
    unsigned long long nleft_out = 0;
    unsigned nlines = 0;
    unsigned ndaemon = 0;

    (void)state;
    assert_int_equal(speaker_end(&s), 0);
    for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        unsigned long long n;

        if (sscanf(line, "goallocd: warn: %llu lines about clients of uid 77 were left out", &n) == 1)
            nleft_out += n;
        nlines += strstr(line, "client line") != NULL;
        ndaemon += strstr(line, "line of the daemon") != NULL;
    }
    free(text);
    assert_int_equal(nlines + nleft_out, 1000);
    assert_true(nlines >= 100 && nleft_out > 0 && ndaemon == 1);
}

static int say_in_a_child(void)
{
    int status;
    pid_t pid;

    if (log_open(NULL) != 0)
        return 1;
    pid = fork();
    if (pid == 0) {
        log_warn("line of the child");
        _exit(0);
    }
    if (waitpid(pid, &status, 0) != pid || status != 0)
        return 1;
    log_warn("two\nlines");
    log_close();
    return 0;
}

static void forked_child_says_nothing_and_a_line_stays_one(void **state)
{
    speaker s = speaker_start(say_in_a_child);
    char *text = speaker_text(&s);

    (void)state;
    assert_int_equal(speaker_end(&s), 0);
    assert_string_equal(text, "goallocd: warn: two lines\n");
    free(text);
}

static int say_by_a_stream(void)
{
    FILE *stream;

    if (log_open(NULL) != 0)
        return 1;
    stream = log_stream(LOG_LEVEL_ERROR);
    if (stream == NULL)
        return 1;
    for (unsigned i = 0; i < 3; i++)
        (void)fprintf(stream, "%s %u\n", i == 1 ? "piece" : "line", i);
    (void)fclose(stream);
    log_close();
    return 0;
}

static void stream_is_written_line_by_line(void **state)
{
    speaker s = speaker_start(say_by_a_stream);
    char *text = speaker_text(&s);

    (void)state;
    assert_int_equal(speaker_end(&s), 0);
    assert_string_equal(text, "goallocd: error: line 0\ngoallocd: error: piece 1\ngoallocd: error: line 2\n");
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_that_nobody_reads_are_dropped_and_counted_in_their_place),
        cmocka_unit_test(process_ends_though_nobody_reads_what_it_has_said),
        cmocka_unit_test(process_is_killed_though_its_writer_waits),
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
        cmocka_unit_test(what_was_said_before_a_crash_is_written),
#endif
        cmocka_unit_test(lines_of_clients_are_limited_and_the_others_counted),
        cmocka_unit_test(forked_child_says_nothing_and_a_line_stays_one),
        cmocka_unit_test(stream_is_written_line_by_line),
    };

    (void)signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
