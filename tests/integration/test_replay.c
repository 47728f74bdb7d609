/*
 * goalloc-replay and the recorder of traces: figures of traces that are known, in all modes; faulty traces; failures
 * and signals, after which the heap must be as it was; a program recorded and replayed.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#include <jansson.h>

#include "shm/units.h"
#include "tests/support/attach.h"

#define HEAD "goalloc-trace 1\n"

static void write_trace(const fixture *f, const char *text, size_t len)
{
    char path[128];
    int fd;

    (void)snprintf(path, sizeof(path), "%s/trace", f->dir);
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, len), len);
    assert_int_equal(close(fd), 0);
}

/* Run a shell command in which %s is the test's directory; its exit status, and its output. */
__attribute__((format(printf, 4, 5))) static int run(const fixture *f, char *ret, size_t size, const char *format, ...)
{
    char command[1024];
    int n = snprintf(command, sizeof(command), "cd %s && ", f->dir);
    size_t used = 0;
    va_list args;
    FILE *out;
    int status;

    va_start(args, format);
    (void)vsnprintf(command + n, sizeof(command) - (size_t)n, format, args);
    va_end(args);
    out = popen(command, "re");
    assert_non_null(out);
    for (size_t got = 1; used + 1 < size && got > 0; used += got)
        got = fread(ret + used, 1, size - 1 - used, out);
    ret[used] = '\0';
    status = pclose(out);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

#define REPLAY GOALLOC_REPLAY_PATH " --socket %s"

static json_t *replay_json(const fixture *f, const char *options)
{
    static char out[16384];
    json_t *json;
    int status;

    status = run(f, out, sizeof(out), REPLAY " --json %s", f->socket, options);

    if (status != 0)
        fail_msg("goalloc-replay %s: status %d", options, status);
    json = json_loads(out, 0, NULL);
    assert_non_null(json);
    assert_true(fixture_is_clean(f, 0));
    return json;
}

static json_int_t number(const json_t *json, const char *name)
{
    const json_t *value = json_object_get(json, name);

    if (!json_is_integer(value))
        fail_msg("%s is not there", name);
    return json_integer_value(value);
}

/* --- figures --- */

/* Three threads; objects change hands; at most 8000 + 100000 + 40 + 64 + 0 bytes are live, in 5 objects. */
static const char small[] = HEAD "# a comment\n"
                                 "7 m 0 4000\n"
                                 "7 c 1 100000\n"
                                 "12 a 2 64 4096\n"
                                 "\n"
                                 "12 m 3 0\n"
                                 "7 r 0 8000 0\n"
                                 "3 m 9 40\n"
                                 "3 f 1\n"
                                 "12 r 4 10 9\n" /* another id */
                                 "3 m 9 7\n"     /* which is free again */
                                 "7 f 3\n"
                                 "7\tf  2\r\n"
                                 "12 f 9"; /* no newline. 0 and 4 stay */

static void known_figures_in_all_modes(void **state)
{
    static const char *const modes[] = {
        "trace",
        "--serial trace",
        "--threads trace",
        "--touch trace",
        "--touch=none trace",
        "--noscan trace",
        "--sample 1 trace",
        "--repeat 5 trace",
        "--threads --repeat 5 --noscan --touch=all trace",
        "- <trace",
        "<trace",
    };
    const fixture *f = *state;

    write_trace(f, small, sizeof(small) - 1);
    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
        json_t *json = replay_json(f, modes[i]);
        bool threads = strstr(modes[i], "--threads") != NULL;

        assert_string_equal(json_string_value(json_object_get(json, "allocator")), "goalloc");
        assert_int_equal(number(json, "ops"), 12);
        assert_int_equal(number(json, "mallocs"), 4);
        assert_int_equal(number(json, "callocs"), 1);
        assert_int_equal(number(json, "reallocs"), 2);
        assert_int_equal(number(json, "aligned"), 1);
        assert_int_equal(number(json, "frees"), 4);
        assert_int_equal(number(json, "threads"), 3);
        assert_int_equal(json_is_true(json_object_get(json, "in_threads")), threads);
        assert_int_equal(number(json, "repeats"), strstr(modes[i], "--repeat") != NULL ? 5 : 1);
        assert_int_equal(number(json, "peak_live_bytes"), 108104);
        assert_int_equal(number(json, "peak_live_objects"), 5);
        assert_int_equal(number(json, "end_live_objects"), 2);
        assert_true(number(json, "peak_heap_bytes") >= 108104 && number(json, "peak_heap_bytes") < (json_int_t)MIB);
        assert_true(number(json, "peak_bytes") >= number(json, "peak_heap_bytes"));
        assert_true(number(json, "rpcs") > 0 && number(json, "rpcs") < 200);
        assert_true(json_number_value(json_object_get(json, "ns_per_op")) > 0);
        if (!threads) /* 8192 + 13 pages + 4096 + 48 + 8; noscan: 16 for the last, or none of its own */
            assert_in_range(number(json, "usable_bytes"), 8192 + 13 * PAGE_BYTES + 64 + 40,
                            8192 + 13 * PAGE_BYTES + 8192);
        json_decref(json);
    }
}

static void zero_bytes_end_a_trace(void **state)
{
    static const char text[] = HEAD "1 m 0 10\n1 m 1 10\n1 m 2 1\0\0\0\0\n1 x\n";
    const fixture *f = *state;
    json_t *json;

    write_trace(f, text, sizeof(text) - 1);
    json = replay_json(f, "trace");
    assert_int_equal(number(json, "ops"), 2);
    json_decref(json);
}

static void two_processes_share_one_heap(void **state)
{
    const fixture *f = *state;
    json_t *json;
    json_t *each;

    write_trace(f, small, sizeof(small) - 1);
    json = replay_json(f, "--processes 2 --threads --repeat 3 trace");
    each = json_object_get(json, "each_process");
    assert_int_equal(json_array_size(each), 2);
    assert_int_equal(number(json, "processes"), 2);
    assert_int_equal(number(json, "peak_live_bytes"), 2 * 108104);
    assert_int_equal(number(json, "rpcs"),
                     number(json_array_get(each, 0), "rpcs") + number(json_array_get(each, 1), "rpcs"));
    json_decref(json);
}

static void text_has_the_figures(void **state)
{
    static const char *const words[] = { "operations                     12", "216208", "fragmentation", "requests",
                                         "process 2" };
    const fixture *f = *state;
    char out[4096];

    write_trace(f, small, sizeof(small) - 1);
    assert_int_equal(run(f, out, sizeof(out), REPLAY " -p 2 trace", f->socket), 0);
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        if (strstr(out, words[i]) == NULL)
            fail_msg("'%s' is not in:\n%s", words[i], out);
    }
    assert_true(fixture_is_clean(f, 0));
}

/* --- faults --- */

static void faulty_traces_are_refused_with_the_line(void **state)
{
    static const struct {
        const char *text;
        const char *message;
    } rows[] = {
        { "", "the trace is empty" },
        { "goalloc-trace 2\n", "line 1: this is no trace" },
        { "1 m 0 1\n", "line 1: this is no trace" },
        { HEAD, "the trace has no operation" },
        { HEAD "# nothing\n\n", "the trace has no operation" },
        { HEAD "1 x 0 1\n", "line 2: unknown operation 'x'" },
        { HEAD "1 malloc 0 1\n", "line 2: this is no operation" },
        { HEAD "1\n", "line 2: this is no operation" },
        { HEAD "1 m\n", "line 2: the form of this operation is THREAD m ID SIZE" },
        { HEAD "1 m 0\n", "THREAD m ID SIZE" },
        { HEAD "1 m 0 1 2\n", "THREAD m ID SIZE" },
        { HEAD "1 m 0 1 2 3 4 5 6\n", "THREAD m ID SIZE" },
        { HEAD "1 f 0 1\n", "THREAD f ID" },
        { HEAD "1 m 0 1\n1 r 0 1\n", "line 3: the form of this operation is THREAD r ID SIZE OLD-ID" },
        { HEAD "1 a 0 1\n", "THREAD a ID SIZE ALIGNMENT" },
        { HEAD "# c\n1 f 0\n", "line 3: id 0 is not allocated" },
        { HEAD "1 f 268435455\n", "line 2: id 268435455 is not allocated" },
        { HEAD "1 m 0 1\n1 f 0\n2 f 0\n", "line 4: id 0 is not allocated" },
        { HEAD "1 m 0 1\n1 m 0 1\n", "line 3: id 0 is allocated already" },
        { HEAD "1 m 0 1\n1 m 1 1\n1 r 1 5 0\n", "line 4: id 1 is allocated already" },
        { HEAD "1 r 1 5 1\n", "line 2: id 1 is not allocated" },
        { HEAD "1 m 268435456 1\n", "line 2: id 268435456 is out of range" },
        { HEAD "4096 m 0 1\n", "line 2: thread 4096 is out of range" },
        { HEAD "1 m 0 140737488355328\n", "line 2: size 140737488355328 is out of range" },
        { HEAD "1 m 0 99999999999999999999999\n", "line 2: size 99999999999999999999999... is out of range" },
        { HEAD "1 m 0 -1\n", "line 2: '-1' is not a number" },
        { HEAD "1 m 0 0x10\n", "line 2: '0x10' is not a number" },
        { HEAD "-1 m 0 1\n", "line 2: '-1' is not a number" },
        { HEAD "1 a 0 1 0\n", "line 2: alignment 0 is not a power of two" },
        { HEAD "1 a 0 1 48\n", "line 2: alignment 48 is not a power of two" },
        { HEAD "1 a 0 1 134217728\n", "line 2: alignment 134217728 is out of range" },
    };
    const fixture *f = *state;
    char out[4096];

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        for (int threads = 0; threads < 2; threads++) {
            int status;

            write_trace(f, rows[i].text, strlen(rows[i].text));
            status = run(f, out, sizeof(out), REPLAY " %s trace 2>&1", f->socket, threads ? "--threads" : "");
            if (status != 1 || strstr(out, rows[i].message) == NULL)
                fail_msg("row %zu: status %d instead of 1 and '%s':\n%s", i, status, rows[i].message, out);
        }
    }
    assert_true(fixture_is_clean(f, 0));
}

static void a_line_without_end_and_a_long_trace_are_refused(void **state)
{
    const fixture *f = *state;
    char out[4096];

    assert_int_equal(run(f, out, sizeof(out), "tr '\\0' x </dev/zero | head -c 1000000 | " REPLAY " 2>&1", f->socket),
                     1);
    assert_non_null(strstr(out, "line 1: the line is longer than"));
    assert_int_equal(
        run(f, out, sizeof(out),
            "awk 'BEGIN { print \"goalloc-trace 1\"; for (i = 0; i < 100000; i++) print 1, \"m\", i, 8 }' | " REPLAY
            " --table-limit 1 2>&1",
            f->socket),
        1);
    assert_non_null(strstr(out, "its tables would take more than 1 MiB"));
    assert_true(fixture_is_clean(f, 0));
}

static void wrong_command_lines_are_refused(void **state)
{
    static const struct {
        const char *options;
        int status;
    } rows[] = {
        { "--nonsense", 2 },
        { "--repeat 0 trace", 2 },
        { "--processes 1000 trace", 2 },
        { "--touch=some trace", 2 },
        { "trace trace", 2 },
        { "--sample=-1 trace", 2 },
        { "no-such-trace", 1 },
        { "--socket no-such trace", 1 },
        { "-p 3 --socket no-such trace", 1 },
        { "--help", 0 },
        { "--version", 0 },
    };
    const fixture *f = *state;
    char out[8192];

    write_trace(f, small, sizeof(small) - 1);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        int status = run(f, out, sizeof(out), REPLAY " %s 2>&1", f->socket, rows[i].options);

        if (status != rows[i].status)
            fail_msg("%s: status %d\n%s", rows[i].options, status, out);
        assert_true(strlen(out) > 0);
    }
}

static void an_allocation_that_fails_leaves_the_heap_as_it_was(void **state)
{
    static const char text[] = HEAD "1 m 0 50000000\n2 m 1 5000\n1 r 2 600000000 1\n1 m 3 10\n2 f 2\n";
    static const char *const modes[] = { "", "--threads", "--processes 2" };
    const fixture *f = *state;
    char out[4096];

    write_trace(f, text, sizeof(text) - 1);
    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
        assert_int_equal(run(f, out, sizeof(out), REPLAY " %s trace 2>&1", f->socket, modes[i]), 1);
        assert_non_null(strstr(out, "realloc of 600000000 bytes: the heap is full"));
        assert_true(fixture_is_clean(f, 0));
    }
}

static void a_signal_ends_the_replay_and_leaves_the_heap_as_it_was(void **state)
{
    static const char *const modes[] = { "", "--threads", "--processes 2" };
    const fixture *f = *state;
    char out[4096];

    assert_int_equal(
        run(f, out, sizeof(out),
            "awk 'BEGIN { print \"goalloc-trace 1\"; for (i = 0; i < 20000; i++) print i %% 3, \"m\", i, i %% 999;"
            " for (i = 0; i < 20000; i += 2) print i %% 4, \"f\", i }' >trace"),
        0);
    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
        goalloc_stats_t stats = { 0 };

        assert_int_equal(run(f, out, sizeof(out),
                             "(" REPLAY " --repeat 1000 %s trace >out.trace 2>&1 & echo $! >pid.trace; wait $!;"
                             " echo $? >status.trace) >/dev/null &",
                             f->socket, modes[i]),
                         0);
        for (int j = 0; j < 1000 && stats.live_objects == 0; j++) {
            fixture_stats(f, &stats);
            (void)usleep(2000);
        }
        assert_true(stats.live_objects > 0);
        assert_int_equal(run(f, out, sizeof(out),
                             "until grep -q . pid.trace; do sleep 0.01; done;"
                             " kill -TERM $(cat pid.trace); rm pid.trace"),
                         0);
        assert_true(fixture_is_clean(f, 0));
        for (int j = 0; j < 1000 && run(f, out, sizeof(out), "grep -q . status.trace") != 0; j++)
            (void)usleep(5000);
        assert_int_equal(run(f, out, sizeof(out), "cat status.trace out.trace; rm status.trace"), 0);
        assert_true(out[0] == '1');
        assert_non_null(strstr(out, "interrupted"));
    }
}

/* --- the recorder --- */

static void a_recorded_program_can_be_replayed(void **state)
{
    static const struct {
        const char *pattern;
        const char *count;
    } lines[] = {
        { "^goalloc-trace 1$", "1\n" },
        { "^# record-sample$", "1\n" },
        { "^1 r [0-9]* [0-9]* [0-9]*$", "63\n" },
        { "^1 a [0-9]* 10000 4096$", "1\n" },
        { "^[2-5] m [0-9]* [0-9]*$", "8000\n" },
        { "^[2-5] f [0-9]*$", "8000\n" },
        { "^[6-9]", "0\n" },
        { "12345", "0\n" },
    };
    const fixture *f = *state;
    char out[4096];
    json_t *json;

    /* The main program's, with its name; of the child nothing but its own object. */
    assert_int_equal(run(f, out, sizeof(out), "GOALLOC_TRACE=%%e.trace LD_PRELOAD=%s %s", GOALLOC_RECORD_PATH,
                         GOALLOC_RECORD_SAMPLE_PATH),
                     0);
    assert_string_equal(out, "64\n");
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        (void)run(f, out, sizeof(out), "grep -a -c '%s' record-sample.trace", lines[i].pattern);
        if (strcmp(out, lines[i].count) != 0)
            fail_msg("%s: %s instead of %s", lines[i].pattern, out, lines[i].count);
    }
    assert_int_equal(run(f, out, sizeof(out), "tr -d '\\0' <$(ls record-sample.trace.*) | grep -v '^#'"), 0);
    assert_string_equal(out, HEAD "1 m 0 12345\n1 f 0\n");

    json = replay_json(f, "record-sample.trace");
    assert_int_equal(number(json, "threads"), 5);
    assert_int_equal(number(json, "reallocs"), 63);
    assert_true(number(json, "mallocs") >= 8001 && number(json, "mallocs") < 8020);
    assert_true(number(json, "peak_live_bytes") > 64 * 1024 + 10000 &&
                number(json, "peak_live_bytes") < (json_int_t)MIB);
    json_decref(json);
    json_decref(replay_json(f, "--threads --repeat 20 record-sample.trace"));
    json_decref(replay_json(f, "--threads --processes 2 --touch record-sample.trace"));
}

static void the_recorder_overwrites_nothing_and_stops_when_told(void **state)
{
    const fixture *f = *state;
    char out[4096];

    assert_int_equal(
        run(f, out, sizeof(out),
            "echo keep >a.trace; for i in 1 2; do GOALLOC_TRACE=a.trace GOALLOC_TRACE_LINES=10 LD_PRELOAD=%s %s;"
            " done 2>&1",
            GOALLOC_RECORD_PATH, GOALLOC_RECORD_SAMPLE_PATH),
        0);
    assert_non_null(strstr(out, "as many lines as"));
    assert_int_equal(run(f, out, sizeof(out), "cat a.trace; grep -a -c '^[0-9]' a.trace-1 a.trace-2"), 0);
    assert_string_equal(out, "keep\na.trace-1:10\na.trace-2:10\n");
    /* Without a name, or with one that can't be, the program runs as ever. */
    assert_int_equal(run(f, out, sizeof(out), "LD_PRELOAD=%s %s", GOALLOC_RECORD_PATH, GOALLOC_RECORD_SAMPLE_PATH), 0);
    assert_string_equal(out, "64\n");
    assert_int_equal(run(f, out, sizeof(out), "GOALLOC_TRACE=no/such LD_PRELOAD=%s %s 2>/dev/null", GOALLOC_RECORD_PATH,
                         GOALLOC_RECORD_SAMPLE_PATH),
                     0);
    assert_string_equal(out, "64\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(known_figures_in_all_modes),
        FIXTURE_TEST(zero_bytes_end_a_trace),
        FIXTURE_TEST(two_processes_share_one_heap),
        FIXTURE_TEST(text_has_the_figures),
        FIXTURE_TEST(faulty_traces_are_refused_with_the_line),
        FIXTURE_TEST(a_line_without_end_and_a_long_trace_are_refused),
        FIXTURE_TEST(wrong_command_lines_are_refused),
        FIXTURE_TEST_WITH(an_allocation_that_fails_leaves_the_heap_as_it_was, "--reserve", "192M"),
        FIXTURE_TEST(a_signal_ends_the_replay_and_leaves_the_heap_as_it_was),
        FIXTURE_TEST(a_recorded_program_can_be_replayed),
        FIXTURE_TEST(the_recorder_overwrites_nothing_and_stops_when_told),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
