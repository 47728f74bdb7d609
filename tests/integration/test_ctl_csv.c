/*
 * goallocctl watch --csv: names, and a row for each look; of sessions and groups, whatever their labels are; over a
 * takeover, and not into another heap.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <regex.h>

#include "tests/support/objects.h"

#define OUT_BYTES 65536u

static void run(const fixture *f, const char *words, int status, char out[OUT_BYTES])
{
    int r = fixture_ctl(f, (const char *const[]){ words, NULL }, out, OUT_BYTES);

    if (r != status)
        fail_msg("%s: status %d, not %d: %s", words, r, status, out);
}

/* Cut the first line off text. NULL: there is none any more. */
static char *next_line(char **text)
{
    char *line = *text;
    char *end = strchr(line, '\n');

    if (end == NULL)
        return NULL;
    *end = '\0';
    *text = end + 1;
    return line;
}

/* Cut the first value off a line without quotes. */
static char *next_value(char **line)
{
    return strsep(line, ",");
}

/* The value in the column of that name. The header and the line, without quotes, stay as they are. */
static const char *value_of(const char *header, const char *line, const char *name, char ret[256])
{
    char names[2048];
    char values[2048];
    char *n = names;
    char *v = values;

    (void)snprintf(names, sizeof(names), "%s", header);
    (void)snprintf(values, sizeof(values), "%s", line);
    while (n != NULL && v != NULL) {
        const char *one = next_value(&n);
        const char *value = next_value(&v);

        if (strcmp(one, name) == 0) {
            (void)snprintf(ret, 256, "%s", value);
            return ret;
        }
    }
    fail_msg("no %s in: %s", name, header);
    return NULL;
}

static uint64_t number_of(const char *header, const char *line, const char *name)
{
    char value[256];

    return strtoull(value_of(header, line, name, value), NULL, 10);
}

/* In its first column. */
static void assert_time(const char *line)
{
    regex_t form;
    char time[32];

    (void)snprintf(time, sizeof(time), "%.24s", line);
    assert_int_equal(regcomp(&form, "^20[0-9]{2}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9]\\.[0-9]{3}Z$",
                             REG_EXTENDED | REG_NOSUB),
                     0);
    if (regexec(&form, time, 0, NULL, 0) != 0)
        fail_msg("no time: %s", line);
    regfree(&form);
    assert_int_equal(line[24], ',');
}

/* --- numbers of stats --- */

static void csv_has_names_of_stats_and_a_row_for_each_look(void **state)
{
    const fixture *f = *state;
    pid_t pid = child_start_stopped(f, hold_and_stop, NULL);
    json_t *stats = json_by_ctl(f, "stats");
    static char out[OUT_BYTES];
    char *text = out;
    char names[2048];
    char *header;
    char *n = names;
    unsigned nrows = 0;

    run(f, "watch --csv --count 3 -i 1ms 2>&1", 0, out);
    header = next_line(&text);
    assert_non_null(header);
    (void)snprintf(names, sizeof(names), "%.2047s", header);
    assert_string_equal(next_value(&n), "time");
    while (n != NULL) {
        const char *name = next_value(&n);

        if (!json_is_integer(json_object_get(stats, name)))
            fail_msg("stats has no %s", name);
    }
    for (char *line = next_line(&text); line != NULL; line = next_line(&text), nrows++) {
        assert_time(line);
        assert_int_equal(number_of(header, line, "live_objects"), 1001);
        assert_int_equal(number_of(header, line, "sessions"), 1);
        assert_int_equal(number_of(header, line, "roots"), 0);
        assert_true(number_of(header, line, "live_bytes") > 200000);
        assert_true(number_of(header, line, "refills") >= 2);
        assert_true(number_of(header, line, "committed_bytes") > number_of(header, line, "live_bytes"));
        assert_true(number_of(header, line, "metadata_bytes") > 0 && number_of(header, line, "leased_spans") > 0);
    }
    assert_int_equal(nrows, 3);
    json_decref(stats);
    (void)kill(pid, SIGKILL);
    (void)child_wait(pid);
}

static void csv_has_the_columns_that_are_asked_for(void **state)
{
    const fixture *f = *state;
    static char out[OUT_BYTES];
    char *text = out;

    run(f, "watch rpcs live_bytes --csv --count 2 -i 1ms --changes 2>&1", 0, out);
    assert_string_equal(next_line(&text), "time,rpcs,live_bytes");
    for (int i = 0; i < 2; i++) { /* a look is a request */
        char *line = next_line(&text);

        assert_non_null(line);
        assert_time(line);
        assert_string_equal(strrchr(line, ','), ",0");
    }
    assert_string_equal(text, "");
    text = out;
    run(f, "watch roots --csv --count 5 -i 1ms --changes 2>&1", 0, out);
    assert_string_equal(next_line(&text), "time,roots");
    assert_non_null(next_line(&text));
    assert_string_equal(text, "");
}

static void what_does_not_go_together_is_said(void **state)
{
    static const struct {
        const char *words;
        const char *said;
    } rows[] = {
        { "watch", "watch what?" },
        { "watch --csv --json", "--csv and --json are two formats" },
        { "watch --json --csv live_bytes", "--csv and --json are two formats" },
        { "watch --csv nothing", "there is no key 'nothing'" },
        { "watch --sessions", "--sessions and --group go with --csv" },
        { "watch --group live_bytes", "--sessions and --group go with --csv" },
        { "watch --csv --sessions live_bytes", "'live_bytes': rows of sessions and groups have all their columns" },
        { "watch --csv --group pool", "a group's name goes with --group=NAME" },
        { "watch --csv --sessions --group", "not both" },
        { "watch --csv --sessions --changes", "--changes goes with numbers" },
        { "stats --csv", "stats has no option --csv" },
    };
    static char out[OUT_BYTES];
    fixture nowhere;

    (void)state;
    fixture_make_place(&nowhere);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char words[128];

        (void)snprintf(words, sizeof(words), "%s 2>&1 >/dev/null", rows[i].words);
        run(&nowhere, words, 2, out);
        if (strstr(out, rows[i].said) == NULL)
            fail_msg("'%s': %s", rows[i].words, out);
    }
    run(&nowhere, "watch --csv 2>&1", 3, out);
    assert_non_null(strstr(out, "no daemon") != NULL ? out : strstr(out, "No such file"));
}

static void output_that_is_full_ends_it(void **state)
{
    const fixture *f = *state;
    static char out[OUT_BYTES];

    run(f, "watch --csv -i 1ms 2>&1 >/dev/full", 1, out);
    assert_string_equal(out, "goallocctl: stdout: No space left on device\n");
}

/* --- sessions and groups --- */

static int hold_as(const fixture *f, void *arg)
{
    const char *const *names = arg;
    goalloc_options options = GOALLOC_OPTIONS_INIT;

    options.socket_path = f->socket;
    options.label = names[0];
    options.group = names[1];
    CHECK(goalloc_attach(&options) == 0);
    for (int i = 0; i < 100; i++)
        CHECK(goalloc_malloc(1000) != NULL);
    (void)raise(SIGSTOP);
    return 0;
}

static const char *const holders[][2] = {
    { "plain", NULL },
    { "a, \"b\"", "pool" },
    { "=1+2", "pool" },
    { "-x,y", NULL },
};
#define HOLDERS (sizeof(holders) / sizeof(holders[0]))

static void start_holders(const fixture *f, pid_t pids[HOLDERS])
{
    for (size_t i = 0; i < HOLDERS; i++)
        pids[i] = child_start_stopped(f, hold_as, (void *)(uintptr_t)holders[i]);
}

static void end_holders(const pid_t pids[HOLDERS])
{
    for (size_t i = 0; i < HOLDERS; i++) {
        (void)kill(pids[i], SIGKILL);
        (void)child_wait(pids[i]);
    }
}

/* Another reader of CSV than ours, from whom each label comes back as it was, but for the apostrophe. */
static void sessions_have_a_row_each_that_other_programs_read(void **state)
{
    static const char script[] =
        "import csv,sys\n"
        "rows = list(csv.DictReader(sys.stdin))\n"
        "print(len(rows), '|'.join(r['label'] + ':' + r['group'] for r in rows[:4]))\n"
        "print(all(len(r) == 23 and None not in r and r['state'] == 'open' for r in rows))\n"
        "print(len({r['time'] for r in rows[:4]}), all(int(r['live_bytes']) == 102400 for r in rows))\n"
        "print(all(int(r['held_bytes']) >= 102400 and int(r['refills']) > 0 for r in rows))\n";
    const fixture *f = *state;
    static char out[OUT_BYTES];
    char path[128];
    char words[256];
    FILE *file;
    pid_t pids[HOLDERS];

    (void)snprintf(path, sizeof(path), "%s/read.py", f->dir);
    file = fopen(path, "we");
    assert_non_null(file);
    assert_true(fputs(script, file) >= 0 && fclose(file) == 0);
    start_holders(f, pids);
    (void)snprintf(words, sizeof(words), "watch --csv --sessions --count 2 -i 1ms | python3 %s", path);
    run(f, words, 0, out);
    assert_string_equal(out, "8 plain:|a, \"b\":pool|'=1+2:pool|'-x,y:\nTrue\n1 True\nTrue\n");
    run(f, "watch --csv --group=pool --count 1", 0, out);
    assert_non_null(strstr(out, ",\"a, \"\"b\"\"\",open,pool,"));
    assert_non_null(strstr(out, ",'=1+2,open,pool,"));
    assert_null(strstr(out, "plain"));
    end_holders(pids);
}

static void groups_have_a_row_each(void **state)
{
    const fixture *f = *state;
    static char out[OUT_BYTES];
    char *text = out;
    char *header;
    char *line;
    char name[256];
    pid_t pids[HOLDERS];

    start_holders(f, pids);
    run(f, "watch --csv --group --count 1", 0, out);
    header = next_line(&text);
    assert_memory_equal(header, "time,name,uid,reclaim,sessions,held_bytes,", 42);
    line = next_line(&text);
    assert_string_equal(value_of(header, line, "name", name), "");
    assert_int_equal(number_of(header, line, "sessions"), 2);
    line = next_line(&text);
    assert_string_equal(value_of(header, line, "name", name), "pool");
    assert_int_equal(number_of(header, line, "sessions"), 2);
    assert_int_equal(number_of(header, line, "live_bytes"), 204800);
    assert_string_equal(text, "");
    end_holders(pids);
}

static void names_stand_there_without_any_session(void **state)
{
    const fixture *f = *state;
    static char out[OUT_BYTES];
    char *text = out;

    run(f, "watch --csv --sessions --count 3 -i 1ms 2>&1", 0, out);
    assert_memory_equal(next_line(&text), "time,session,epoch,pid,uid,label,", 33);
    assert_string_equal(text, "");
}

/* --- daemons --- */

static FILE *start_watch(const fixture *f, const char *words)
{
    char command[512];
    FILE *pipe;

    (void)snprintf(command, sizeof(command), "%s --socket %s watch --csv %s -i 20ms 2>&1", GOALLOCCTL_PATH, f->socket,
                   words);
    pipe = popen(command, "re");
    assert_non_null(pipe);
    return pipe;
}

/* The next line, which must not be the last one. */
static const char *read_line(FILE *pipe, char line[1024])
{
    if (fgets(line, 1024, pipe) == NULL)
        fail_msg("it has ended after: %s", line);
    return line;
}

/* Lines come while it runs: each look is written out. */
static void table_goes_on_with_the_next_daemon_of_the_same_heap(void **state)
{
    fixture *f = *state;
    pid_t pid = child_start_stopped(f, hold_and_stop, NULL);
    FILE *pipe = start_watch(f, "live_objects sessions");
    char line[1024] = "";

    assert_string_equal(read_line(pipe, line), "time,live_objects,sessions\n");
    assert_string_equal(read_line(pipe, line) + 24, ",1001,1\n");
    fixture_kill(f);
    fixture_restart(f, NULL);
    while (strncmp(read_line(pipe, line), "goallocctl: a daemon is back", 28) != 0 &&
           strncmp(line, "goallocctl: the daemon was restarted", 36) != 0)
        ;
    assert_string_equal(read_line(pipe, line) + 24, ",1001,1\n"); /* and no names once more */
    assert_string_equal(read_line(pipe, line) + 24, ",1001,1\n");
    (void)pclose(pipe);
    (void)kill(pid, SIGKILL);
    (void)child_wait(pid);
}

static void table_ends_when_another_heap_is_served(void **state)
{
    static const char *const words[] = { "live_objects", "--sessions" };
    fixture *f = *state;

    for (size_t i = 0; i < 2; i++) {
        FILE *pipe = start_watch(f, words[i]);
        char line[1024] = "";
        char last[1024] = "";

        (void)read_line(pipe, line);
        assert_memory_equal(line, "time,", 5);
        fixture_kill(f);
        fixture_restart(f, "--cold-start");
        while (fgets(line, sizeof(line), pipe) != NULL)
            memcpy(last, line, sizeof(last));
        assert_string_equal(last, "goallocctl: watch: this table is of the heap before, and ends here\n");
        assert_int_equal(WEXITSTATUS(pclose(pipe)), 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(csv_has_names_of_stats_and_a_row_for_each_look),
        FIXTURE_TEST(csv_has_the_columns_that_are_asked_for),
        cmocka_unit_test(what_does_not_go_together_is_said),
        FIXTURE_TEST(output_that_is_full_ends_it),
        FIXTURE_TEST(sessions_have_a_row_each_that_other_programs_read),
        FIXTURE_TEST(groups_have_a_row_each),
        FIXTURE_TEST(names_stand_there_without_any_session),
        FIXTURE_TEST_KEPT(table_goes_on_with_the_next_daemon_of_the_same_heap),
        FIXTURE_TEST_KEPT(table_ends_when_another_heap_is_served),
    };

    return cmocka_run_group_tests_name("goallocctl watch --csv", tests, NULL, NULL);
}
