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
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/log.h"
#include "tests/support/datagrams.h"

#define NLINES     20000u /* far more than the ring has room for */
#define NLINES_FEW 1000u  /* it has room for these */

/* In a child with the write end of a pipe as stderr: 0 if it does what it should. */
typedef int (*say_fn)(void);

typedef struct speaker {
    pid_t pid;
    int fd; /* what it says */
} speaker;

/* What is said of the journal: NULL: nothing; or what JOURNAL_STREAM is, "right" being what it should be. */
static const char *journal_stream;
static char journal_path[96];
static int journal_fd = -1; /* the test's, and not its children's */

static void name_journal(void)
{
    char right[64];
    struct stat st;

    (void)unsetenv("JOURNAL_STREAM");
    if (journal_stream == NULL || fstat(STDERR_FILENO, &st) != 0)
        return;
    (void)snprintf(right, sizeof(right), "%llu:%llu%s", (unsigned long long)st.st_dev, (unsigned long long)st.st_ino,
                   journal_stream + (strncmp(journal_stream, "right", 5) == 0 ? 5 : 0));
    (void)setenv("JOURNAL_STREAM", strncmp(journal_stream, "right", 5) == 0 ? right : journal_stream, 1);
    (void)setenv("GOALLOC_JOURNAL_SOCKET", journal_path, 1);
}

static const sigset_t *usr1(void)
{
    static sigset_t set;

    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGUSR1);
    return &set;
}

/* In the child: the test has seen what it wants. */
static int usr1_comes(void)
{
    int signum;

    return sigwait(usr1(), &signum);
}

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
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* also if it is stopped when a test fails */
        (void)sigprocmask(SIG_BLOCK, usr1(), NULL);
        (void)alarm(60);
        (void)dup2(fds[1], STDERR_FILENO);
        (void)close(fds[0]);
        (void)close(fds[1]);
        if (journal_fd >= 0)
            (void)close(journal_fd);
        name_journal();
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

/* What a line says, behind its time: "2026-11-22T11:40:03.127Z ". */
static const char *said(const char *line)
{
    unsigned n[7];
    int len = 0;

    if (sscanf(line, "%4u-%2u-%2uT%2u:%2u:%2u.%3uZ %n", &n[0], &n[1], &n[2], &n[3], &n[4], &n[5], &n[6], &len) != 7 ||
        len != 25)
        fail_msg("'%s' does not begin with a time", line);
    return line + len;
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

        if (sscanf(said(line), "goallocd: warn: line %u", &i) == 1) {
            assert_int_equal(i, expected);
            expected = i + 1;
            nlines++;
        } else if (sscanf(said(line), "goallocd: warn: %llu lines of the log were dropped", &n) == 1) {
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
        log_client_warn(&(log_subject){ .has_uid = true, .uid = 77 }, "client line %u", i);
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

        if (sscanf(said(line), "goallocd: warn: uid 77: %llu lines about clients of this user were left out", &n) == 1)
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
    assert_string_equal(said(text), "goallocd: warn: two lines\n");
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
    static const char *const expected[] = { "goallocd: error: line 0", "goallocd: error: piece 1",
                                            "goallocd: error: line 2" };
    speaker s = speaker_start(say_by_a_stream);
    char *text = speaker_text(&s);

    (void)state;
    assert_int_equal(speaker_end(&s), 0);
    for (unsigned i = 0; i < 3; i++) {
        const char *line = strtok(i == 0 ? text : NULL, "\n");

        assert_non_null(line);
        assert_string_equal(said(line), expected[i]);
    }
    assert_null(strtok(NULL, "\n"));
    free(text);
}

/* --- the journal --- */

static char journal_dir[64];

/* A journal's socket, and a process whose stderr seems to lead to it; or, with lies, does not. */
static speaker speaker_start_for_journal(say_fn say, const char *stream, int *ret_journal)
{
    (void)snprintf(journal_dir, sizeof(journal_dir), "/tmp/goalloc-log.XXXXXX");
    assert_non_null(mkdtemp(journal_dir));
    (void)snprintf(journal_path, sizeof(journal_path), "%s/journal", journal_dir);
    *ret_journal = journal_fd = journal_make(journal_path);
    assert_true(*ret_journal >= 0);
    journal_stream = stream;
    return speaker_start(say);
}

static void end_journal(int fd)
{
    if (fd >= 0)
        (void)close(fd);
    (void)unlink(journal_path);
    (void)rmdir(journal_dir);
    journal_stream = NULL;
    journal_fd = -1;
}

static int say_to_journal(void)
{
    if (log_open(NULL) != 0)
        return 1;
    log_warn("a line");
    log_event(LOG_EVENT_TAKEOVER, &(log_subject){ .heap = 5 }, "took over");
    log_close();
    return 0;
}

static void lines_go_to_the_journal_with_fields(void **state)
{
    int journal;
    speaker s = speaker_start_for_journal(say_to_journal, "right", &journal);
    static datagram d;
    char *text = speaker_text(&s);

    (void)state;
    assert_int_equal(speaker_end(&s), 0);
    assert_string_equal(text, "");
    free(text);
    assert_int_equal(journal_next(journal, 0, &d), 1);
    assert_true(datagram_has(&d, "MESSAGE", "a line") && datagram_value(&d, "MESSAGE_ID") == NULL);
    assert_int_equal(journal_next(journal, 0, &d), 1);
    assert_true(datagram_has(&d, "MESSAGE_ID", "88a84f36e8e24b13a9be52b02f949c09"));
    assert_true(datagram_has(&d, "GOALLOC_HEAP", "0000000000000005"));
    assert_int_equal(journal_next(journal, 0, &d), 0);
    end_journal(journal);
}

/* JOURNAL_STREAM is inherited: stderr may be something else by now. */
static void stderr_that_is_not_the_journals_gets_text(void **state)
{
    static const char *const streams[] = { "1:2", "", "x", "right but more" };

    (void)state;
    for (size_t i = 0; i < sizeof(streams) / sizeof(streams[0]); i++) {
        int journal;
        speaker s = speaker_start_for_journal(say_to_journal, streams[i], &journal);
        static datagram d;
        char *text = speaker_text(&s);

        assert_int_equal(speaker_end(&s), 0);
        assert_string_equal(said(strtok(text, "\n")), "goallocd: warn: a line");
        assert_string_equal(said(strtok(NULL, "\n")), "goallocd: info: took over");
        free(text);
        assert_int_equal(journal_next(journal, 0, &d), 0);
        end_journal(journal);
    }
}

static int say_without_journal(void)
{
    (void)unlink(journal_path);
    return say_to_journal();
}

/* A root directory of its own, say: the stream that systemd has made is still there. */
static void journal_that_is_not_to_be_seen_is_reached_by_the_stream(void **state)
{
    int journal;
    speaker s = speaker_start_for_journal(say_without_journal, "right", &journal);
    char *text = speaker_text(&s);

    (void)state;
    assert_int_equal(speaker_end(&s), 0);
    assert_string_equal(text, "<4>a line\n<6>took over\n");
    free(text);
    end_journal(journal);
}

static int say_much_to_journal_and_stop(void)
{
    if (log_open(NULL) != 0)
        return 1;
    for (unsigned i = 0; i < NLINES; i++)
        log_warn("line %u", i);
    (void)raise(SIGSTOP);
    (void)usr1_comes();
    log_close();
    return 0;
}

/* Takes all that comes: line after line, and how many were dropped in between. Which line comes next. */
static unsigned follow_lines(int journal, int timeout_ms, unsigned nlines, unsigned expected,
                             unsigned long long *ndropped)
{
    static datagram d;

    while (expected < nlines && journal_next(journal, timeout_ms, &d) == 1) {
        unsigned long long n;
        unsigned i;

        if (sscanf(datagram_value(&d, "MESSAGE"), "line %u", &i) == 1) {
            assert_int_equal(i, expected);
            expected++;
        } else {
            assert_int_equal(sscanf(datagram_value(&d, "MESSAGE"), "%llu lines of the log were dropped", &n), 1);
            assert_true(datagram_has(&d, "GOALLOC_EVENT", "lines-dropped"));
            *ndropped += n;
            expected += (unsigned)n;
        }
    }
    return expected;
}

static void journal_that_does_not_read_costs_lines_that_are_counted(void **state)
{
    int journal;
    speaker s = speaker_start_for_journal(say_much_to_journal_and_stop, "right", &journal);
    unsigned long long ndropped = 0;
    int status;

    (void)state;
    assert_int_equal(waitpid(s.pid, &status, WUNTRACED), s.pid); /* it has said all, and nobody has read */
    assert_true(WIFSTOPPED(status));
    (void)kill(s.pid, SIGCONT);
    assert_int_equal(follow_lines(journal, 20000, NLINES, 0, &ndropped), NLINES);
    assert_true(ndropped > 0 && ndropped < NLINES - 500);
    (void)kill(s.pid, SIGUSR1);
    assert_int_equal(speaker_end(&s), 0);
    (void)close(s.fd);
    end_journal(journal);
}

static int say_and_stop_between(void)
{
    if (log_open(NULL) != 0)
        return 1;
    (void)raise(SIGSTOP);
    for (unsigned i = 0; i < NLINES_FEW; i++)
        log_warn("line %u", i);
    (void)raise(SIGSTOP);
    (void)usr1_comes();
    log_close();
    return 0;
}

/* The socket is gone for some time, and then another one, with another inode, is at its path. */
static void journal_that_is_started_anew_misses_nothing(void **state)
{
    int journal;
    speaker s = speaker_start_for_journal(say_and_stop_between, "right", &journal);
    unsigned long long ndropped = 0;
    int status;

    (void)state;
    assert_int_equal(waitpid(s.pid, &status, WUNTRACED), s.pid);
    (void)close(journal); /* ECONNREFUSED, */
    (void)kill(s.pid, SIGCONT);
    assert_int_equal(waitpid(s.pid, &status, WUNTRACED), s.pid);
    (void)unlink(journal_path); /* then ENOENT, */
    (void)kill(s.pid, SIGCONT);
    journal = journal_make(journal_path);
    assert_int_equal(follow_lines(journal, 20000, NLINES_FEW, 0, &ndropped), NLINES_FEW);
    assert_int_equal(ndropped, 0);
    (void)kill(s.pid, SIGUSR1);
    assert_int_equal(speaker_end(&s), 0);
    (void)close(s.fd);
    end_journal(journal);
}

static int say_to_nobody_and_end(void)
{
    if (log_open(NULL) != 0)
        return 1;
    (void)unlink(journal_path);
    for (unsigned i = 0; i < NLINES; i++)
        log_warn("line %u", i);
    log_close();
    return 0;
}

static void process_ends_though_the_journal_is_gone(void **state)
{
    int journal;
    speaker s = speaker_start_for_journal(say_to_nobody_and_end, "right", &journal);

    (void)state;
    assert_int_equal(speaker_end(&s), 0);
    (void)close(s.fd);
    end_journal(journal);
}

/* --- levels --- */

static void *turn_levels(void *data)
{
    (void)data;
    for (unsigned i = 0; i < 1000; i++)
        log_set_level(i % 2 == 0 ? LOG_LEVEL_DEBUG : LOG_LEVEL_WARN);
    log_set_level(LOG_LEVEL_WARN);
    return NULL;
}

static int say_while_the_level_changes(void)
{
    pthread_t thread;

    if (log_open(NULL) != 0 || pthread_create(&thread, NULL, turn_levels, NULL) != 0)
        return 1;
    for (unsigned i = 0; i < 1000; i++)
        log_debug("debug");
    (void)pthread_join(thread, NULL);
    log_warn("all is said");
    log_info("this is not");
    log_close();
    return 0;
}

static void level_changes_while_others_log(void **state)
{
    speaker s = speaker_start(say_while_the_level_changes);
    char *text = speaker_text(&s);

    (void)state;
    assert_int_equal(speaker_end(&s), 0);
    assert_non_null(strstr(text, "warn: all is said\n"));
    assert_null(strstr(text, "this is not"));
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
        cmocka_unit_test(lines_go_to_the_journal_with_fields),
        cmocka_unit_test(stderr_that_is_not_the_journals_gets_text),
        cmocka_unit_test(journal_that_is_not_to_be_seen_is_reached_by_the_stream),
        cmocka_unit_test(journal_that_does_not_read_costs_lines_that_are_counted),
        cmocka_unit_test(journal_that_is_started_anew_misses_nothing),
        cmocka_unit_test(process_ends_though_the_journal_is_gone),
        cmocka_unit_test(level_changes_while_others_log),
    };

    (void)signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
