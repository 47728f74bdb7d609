/*
 * Probes: docs/PROBES.md says which there are, and the programs have these and no others; each fires; and the lines
 * for bpftrace do what they are there for. What the kernel or the build has not is skipped, by a line that says why.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <ctype.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#include "tests/support/objects.h"
#include "tests/support/waits.h"

#define PROBES_FILE   GOALLOC_SOURCE_DIR "/docs/PROBES.md"
#define PROBES_MAX    64u
#define ARGUMENTS_MAX 6u /* that bpftrace reads */
#define NAME_BYTES    64u
#define LINE_BYTES    4096u
#define SEEN_S        120 /* in which all probes are seen: a machine may be busy */
#define DOC_DAEMON    "/usr/bin/goallocd"
#define DOC_LIBRARY   "/usr/lib/x86_64-linux-gnu/libgoalloc.so.1"

typedef struct probe {
    char name[NAME_BYTES]; /* "goallocd:refill_end" */
    char arguments[128];   /* as notes have them, without registers: "2 8 4 4 -4" */
    bool seen;
} probe;

typedef struct probes {
    probe all[PROBES_MAX];
    size_t n;
} probes;

static probe *probes_find(probes *list, const char *name)
{
    for (size_t i = 0; i < list->n; i++) {
        if (strcmp(list->all[i].name, name) == 0)
            return &list->all[i];
    }
    return NULL;
}

static probe *probes_add(probes *list, const char *name)
{
    probe *p = &list->all[list->n];

    assert_true(list->n < PROBES_MAX && strlen(name) < NAME_BYTES);
    list->n++;
    *p = (probe){ .seen = false };
    (void)snprintf(p->name, sizeof(p->name), "%s", name);
    return p;
}

static void add_argument(probe *p, const char *size)
{
    size_t used = strlen(p->arguments);

    assert_true(used + strlen(size) + 2 < sizeof(p->arguments));
    (void)snprintf(p->arguments + used, sizeof(p->arguments) - used, "%s%s", used == 0 ? "" : " ", size);
}

/* --- the table --- */

/* "session u16, request u64," */
static void read_arguments(probe *p, char *text)
{
    static const char *const types[][2] = { { "u8", "1" },   { "u16", "2" },  { "u32", "4" },
                                            { "u64", "8" },  { "i32", "-4" }, { "text", "8" } };
    char *rest;

    for (char *item = strtok_r(text, ",|\n", &rest); item != NULL; item = strtok_r(NULL, ",|\n", &rest)) {
        const char *type = strrchr(item, ' ');
        size_t i = 0;

        while (*item == ' ')
            item++;
        if (*item == '\0')
            continue;
        while (i < sizeof(types) / sizeof(types[0]) && (type == NULL || strcmp(type + 1, types[i][0]) != 0))
            i++;
        if (i == sizeof(types) / sizeof(types[0]))
            fail_msg("%s: '%s' is of no type", p->name, item);
        add_argument(p, types[i][1]);
    }
}

/* They would hide an argument's type. */
static void drop_blanks_behind(char *text)
{
    for (size_t n = strlen(text); n > 0 && isspace((unsigned char)text[n - 1]); n--)
        text[n - 1] = '\0';
}

/* The rows "| provider:name | when | arguments |", and those that go on with "| | ". */
static void read_table(probes *ret)
{
    FILE *file = fopen(PROBES_FILE, "re");
    char line[LINE_BYTES];
    probe *p = NULL;

    assert_non_null(file);
    ret->n = 0;
    while (fgets(line, sizeof(line), file) != NULL) {
        char name[NAME_BYTES];
        char *cell;

        if (sscanf(line, "| goalloc%50[a-z_:] |", name + strlen("goalloc")) == 1) {
            memcpy(name, "goalloc", strlen("goalloc"));
            assert_null(probes_find(ret, name));
            p = probes_add(ret, name);
        } else if (strncmp(line, "| | ", 4) != 0) {
            p = NULL;
        }
        if (p == NULL)
            continue;
        *strrchr(line, '|') = '\0';
        cell = strrchr(line, '|') + 1;
        drop_blanks_behind(cell);
        read_arguments(p, cell);
    }
    (void)fclose(file);
    assert_true(ret->n > 15);
}

/* --- the notes --- */

/* What is read of "2@%ax": "2". An operand in memory, or of a symbol, is none that all tracers can read. */
static void read_operands(probe *p, char *text)
{
    char *rest;

    for (char *item = strtok_r(text, " \n", &rest); item != NULL; item = strtok_r(NULL, " \n", &rest)) {
        char *at = strchr(item, '@');

        if (at == NULL || strpbrk(item, "()[]+*") != NULL)
            fail_msg("%s: the operand '%s' is no register and no number", p->name, item);
        *at = '\0';
        add_argument(p, item);
    }
}

/* All that the file has. A probe may lie in several places; its arguments are the same in all. */
static void read_notes(const char *path, probes *ret)
{
    char line[LINE_BYTES];
    char provider[NAME_BYTES] = "";
    char name[2 * NAME_BYTES] = "";
    FILE *out;

    (void)snprintf(line, sizeof(line), "LC_ALL=C readelf -n '%s'", path);
    out = popen(line, "re");
    assert_non_null(out);
    while (fgets(line, sizeof(line), out) != NULL) {
        char word[NAME_BYTES];

        if (sscanf(line, " Provider: %63s", provider) == 1)
            continue;
        if (sscanf(line, " Name: %63s", word) == 1)
            (void)snprintf(name, sizeof(name), "%s:%s", provider, word);
        if (strstr(line, "Arguments:") != NULL) {
            probe place = { .seen = false };
            probe *p = probes_find(ret, name);

            (void)snprintf(place.name, sizeof(place.name), "%.63s", name);
            read_operands(&place, strchr(line, ':') + 1);
            if (p == NULL)
                memcpy(probes_add(ret, place.name)->arguments, place.arguments, sizeof(place.arguments));
            else
                assert_string_equal(p->arguments, place.arguments);
        }
    }
    assert_int_equal(pclose(out), 0);
}

/* --- what a tracer has seen --- */

/* A tracer that runs, and what it says. */
typedef struct tracer {
    pid_t pid;
    char out[128];
    char err[128];
} tracer;

static void trace_start(tracer *t, const fixture *f, char *const *argv)
{
    (void)snprintf(t->out, sizeof(t->out), "%s/trace.out", f->dir);
    (void)snprintf(t->err, sizeof(t->err), "%s/trace.err", f->dir);
    t->pid = fork();
    assert_true(t->pid >= 0);
    if (t->pid == 0) {
        int out = open(t->out, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        int err = open(t->err, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        int in = open("/dev/null", O_RDONLY | O_CLOEXEC);

        (void)dup2(in, 0);
        (void)dup2(out, 1);
        (void)dup2(err, 2);
        (void)execvp(argv[0], argv);
        _exit(127);
    }
}

/* Its first MiB; "" if it is not there. The caller frees it. */
static char *read_file(const char *path)
{
    FILE *file = fopen(path, "re");
    size_t size = 1 << 20;
    char *text = calloc(1, size);

    assert_non_null(text);
    if (file != NULL) {
        text[fread(text, 1, size - 1, file)] = '\0';
        (void)fclose(file);
    }
    return text;
}

/* Note which probes it has seen: a line ends with "NAME.". Returns how many of the list it has not. */
static size_t trace_look(const tracer *t, probes *list)
{
    char *text = read_file(t->out);
    size_t missing = 0;

    for (size_t i = 0; i < list->n; i++) {
        char word[NAME_BYTES + 4];

        (void)snprintf(word, sizeof(word), ":%s.\n", list->all[i].name);
        list->all[i].seen |= strstr(text, word) != NULL;
        missing += !list->all[i].seen;
    }
    free(text);
    return missing;
}

/* It must still run: with what it has said, if not. */
static void trace_check_runs(tracer *t)
{
    if (waitpid(t->pid, NULL, WNOHANG) != 0) {
        t->pid = 0;
        fail_msg("the tracer has ended: %s", read_file(t->err));
    }
}

static void fail_unseen(const tracer *t, const probes *list)
{
    for (size_t i = 0; i < list->n; i++) {
        if (!list->all[i].seen)
            print_error("not seen: %s\n", list->all[i].name);
    }
    fail_msg("the tracer says: %s", read_file(t->err));
}

/* --- what there is to see --- */

#define MIB_OBJECT (UINT64_C(1) << 20)

/*
 * Holes that nobody has, of 8 MiB each, and objects that do not fit into them: the memory limit is reached, and what is
 * free is released at once. On a busy machine that may be late, and an object be refused: then there is another round.
 */
static void reach_limit(void)
{
    void *held[3];
    void *more[2];

    for (size_t i = 0; i < 3; i++)
        held[i] = goalloc_malloc(8 * MIB_OBJECT);
    goalloc_free(held[0]);
    goalloc_free(held[2]);
    (void)goalloc_trim();
    for (size_t i = 0; i < 2; i++)
        more[i] = goalloc_malloc((12 - 3 * i) * MIB_OBJECT);
    for (size_t i = 0; i < 2; i++)
        goalloc_free(more[i]);
    goalloc_free(held[1]);
}

/* Pass all probes of the library; while it is stopped, another daemon takes the heap over. */
static int work(const fixture *f)
{
    void *small[100];

    waits_start(f, SEEN_S * 1000);
    for (size_t i = 0; i < 100; i++)
        small[i] = goalloc_malloc(2000);
    for (size_t i = 0; i < 100; i++)
        goalloc_free(small[i]);
    reach_limit();
    (void)goalloc_trim();
    (void)raise(SIGSTOP);
    goalloc_free(goalloc_malloc(3 * MIB_OBJECT));
    return 0;
}

/* In a child process: this program again, with a library of its own. */
static int work_with(const fixture *f, void *library_dir)
{
    if (library_dir != NULL)
        CHECK(setenv("LD_LIBRARY_PATH", library_dir, 1) == 0);
    (void)execl("/proc/self/exe", "test_probes", "work", f->socket, (char *)NULL);
    return 127;
}

static int work_alone(const char *socket)
{
    fixture f = { .daemon = 0 };

    (void)snprintf(f.socket, sizeof(f.socket), "%s", socket);
    return work(&f);
}

/* library_dir NULL: only what needs no other daemon, and with the library that there is. */
static void make_traffic(fixture *f, char *library_dir)
{
    pid_t pid = child_start_stopped(f, work_with, library_dir);
    char out[4096];

    (void)fixture_ctl(f, (const char *const[]){ "scavenge", NULL }, out, sizeof(out)); /* which may be late, too */
    if (library_dir != NULL)
        child_meets_the_next_daemon(f, pid);
    else
        (void)kill(pid, SIGCONT);
    assert_int_equal(child_wait(pid), 0);
}

/* As long as something was not seen: when a tracer has begun to watch nobody knows. */
static void make_traffic_until_seen(fixture *f, tracer *t, probes *list, char *library_dir)
{
    time_t until = time(NULL) + SEEN_S;

    while (trace_look(t, list) > 0 && time(NULL) < until) {
        make_traffic(f, library_dir);
        trace_check_runs(t);
    }
    if (trace_look(t, list) > 0)
        fail_unseen(t, list);
}

/* Wait until it ends. */
static void trace_end(tracer *t)
{
    int status;

    assert_int_equal(waitpid(t->pid, &status, 0), t->pid);
    assert_true(WIFEXITED(status));
}

/* True if the command ends with status 0; else its last line says why there is no such test. */
static bool can_run(const char *what, const char *command)
{
    char line[LINE_BYTES] = "";
    char whole[LINE_BYTES];
    FILE *out;

    (void)snprintf(whole, sizeof(whole), "timeout 60 %s 2>&1 </dev/null", command);
    out = popen(whole, "re");
    assert_non_null(out);
    while (fgets(line, sizeof(line), out) != NULL)
        ;
    if (pclose(out) == 0)
        return true;
    print_message("skipped: %s can't be used here: %s\n", what, line);
    return false;
}

static bool has_probes(void)
{
#if defined(GOALLOC_PROBES)
    return true;
#else
    print_message("skipped: built without probes\n");
    return false;
#endif
}

/* --- tests --- */

static void compare(const char *path, const char *provider)
{
    static probes table;
    static probes notes;

    if (!has_probes())
        skip();
    read_table(&table);
    notes.n = 0;
    read_notes(path, &notes);
    for (size_t i = 0; i < table.n; i++) {
        const probe *wanted = &table.all[i];
        const probe *there = probes_find(&notes, wanted->name);

        if (strncmp(wanted->name, provider, strlen(provider)) != 0)
            continue;
        if (there == NULL)
            fail_msg("%s: there is no %s", path, wanted->name);
        if (strcmp(there->arguments, wanted->arguments) != 0)
            fail_msg("%s: its arguments are of %s bytes, and documented with %s", wanted->name, there->arguments,
                     wanted->arguments);
    }
    for (size_t i = 0; i < notes.n; i++) {
        if (probes_find(&table, notes.all[i].name) == NULL)
            fail_msg("%s: %s is in no table", path, notes.all[i].name);
    }
}

static void daemon_has_the_probes_of_the_table(void **state)
{
    (void)state;
    compare(GOALLOCD_PATH, "goallocd:");
}

static void library_has_the_probes_of_the_table(void **state)
{
    (void)state;
    compare(GOALLOC_LIBRARY_PATH, "goalloc:");
}

static void module_with_the_static_library_has_them_too(void **state)
{
    (void)state;
    compare(STATIC_USER_PATH, "goalloc:");
}

/* As packages are. */
static void stripped_daemon_has_them_too(void **state)
{
    const fixture *f = *state;
    char command[LINE_BYTES];
    char path[128];

    (void)snprintf(path, sizeof(path), "%s/stripped", f->dir);
    (void)snprintf(command, sizeof(command),
                   "strip --remove-section=.comment --remove-section=.note -o '%s' '" GOALLOCD_PATH "'", path);
    assert_int_equal(system(command), 0);
    compare(path, "goallocd:");
}

static void table_has_no_more_arguments_than_tracers_read(void **state)
{
    static probes table;

    (void)state;
    read_table(&table);
    for (size_t i = 0; i < table.n; i++) {
        size_t n = table.all[i].arguments[0] != '\0';

        for (const char *c = table.all[i].arguments; *c != '\0'; c++)
            n += *c == ' ';
        assert_in_range(n, 1, ARGUMENTS_MAX);
    }
}

/* The text with each `from` replaced. The caller frees it. */
static char *replace(const char *text, const char *from, const char *to)
{
    char *ret = calloc(1, strlen(text) + (strlen(text) / strlen(from) + 1) * strlen(to) + 1);
    const char *found;

    assert_non_null(ret);
    for (; (found = strstr(text, from)) != NULL; text = found + strlen(from)) {
        (void)strncat(ret, text, (size_t)(found - text));
        (void)strcat(ret, to);
    }
    (void)strcat(ret, text);
    return ret;
}

/* The document's lines for bpftrace, with these paths. The caller frees it. */
static char *documented_lines(const char *daemon, const char *library)
{
    static const char begin[] = "\n```bpftrace\n";
    char *text = read_file(PROBES_FILE);
    char *from = strstr(text, begin);
    char *end = from == NULL ? NULL : strstr(from + strlen(begin), "```");
    char *with_daemon;
    char *ret;

    assert_non_null(end);
    *end = '\0';
    with_daemon = replace(from + strlen(begin), DOC_DAEMON ":", daemon);
    ret = replace(with_daemon, DOC_LIBRARY ":", library);
    free(with_daemon);
    free(text);
    return ret;
}

static void each_probe_of_the_table_has_a_line(void **state)
{
    static probes table;
    char *lines = documented_lines(DOC_DAEMON ":", DOC_LIBRARY ":");
    size_t nlines = 0;

    (void)state;
    read_table(&table);
    for (size_t i = 0; i < table.n; i++) {
        char word[NAME_BYTES + 2];

        (void)snprintf(word, sizeof(word), ":%s ", table.all[i].name);
        if (strstr(lines, word) == NULL)
            fail_msg("there is no line for %s", table.all[i].name);
    }
    for (const char *at = lines; (at = strstr(at, "usdt:")) != NULL; at++)
        nlines++;
    assert_int_equal(nlines, table.n);
    free(lines);
}

/* Each table, and the first word of each text, of the lines is in what bpftrace has printed. */
static void check_lines_have_printed(const char *lines, const char *printed)
{
    char word[NAME_BYTES];

    for (const char *at = lines; (at = strpbrk(at, "@\"")) != NULL; at++) {
        if (sscanf(at, "\"%63[a-z ]:", word) != 1 && sscanf(at, "%63[@a-z_]", word) != 1)
            continue;
        if (strlen(word) < 2 || strcmp(word, "@began") == 0 || strcmp(word, "@begun") == 0)
            continue;
        if (strstr(printed, word) == NULL)
            fail_msg("'%s' of the lines was not printed, but: %s", word, printed);
    }
}

/* Each line says at once, too, that its probe was passed: "seen usdt:PATH:NAME.". They have no braces but their own. */
static void write_program(const char *path, const char *lines)
{
    char *program = replace(lines, "{", "{ printf(\"seen %s.\\n\", probe);");
    FILE *file = fopen(path, "we");

    assert_non_null(file);
    (void)fputs(program, file);
    assert_int_equal(fclose(file), 0);
    free(program);
}

/* A copy of the file in the fixture's directory: nobody else runs it. */
static void copy_file(const fixture *f, const char *from, const char *name, char ret[128])
{
    char command[LINE_BYTES];

    (void)snprintf(ret, 128, "%s/%s", f->dir, name);
    (void)snprintf(command, sizeof(command), "cp '%s' '%s'", from, ret);
    assert_int_equal(system(command), 0);
}

/*
 * A probe is watched in a file, in all processes that run it: other tests run the daemon and the library of this build
 * at the same time, and what they do is theirs. So these are copies.
 */
static void bpftrace_sees_each_probe_and_each_line_prints(void **state)
{
    static probes table;
    fixture *f = *state;
    char daemon[128];
    char library[128];
    char path[128];
    char *printed;
    char *lines;
    tracer t;

    if (!has_probes() || !can_run("bpftrace", "bpftrace -e 'BEGIN { exit(); }'"))
        skip();
    read_table(&table);
    copy_file(f, GOALLOCD_PATH, "goallocd", daemon);
    copy_file(f, GOALLOC_LIBRARY_PATH, "libgoalloc.so.1", library);
    f->program = daemon;
    fixture_kill(f);
    fixture_restart(f, NULL);
    (void)strcat(strcpy(path, daemon), ":");
    lines = documented_lines(path, strcat(library, ":"));
    (void)snprintf(path, sizeof(path), "%s/lines.bt", f->dir);
    write_program(path, lines);
    trace_start(&t, f, (char *[]){ "bpftrace", "-B", "line", path, NULL });
    make_traffic_until_seen(f, &t, &table, f->dir);
    (void)kill(t.pid, SIGINT);
    trace_end(&t);
    printed = read_file(t.out);
    check_lines_have_printed(lines, printed);
    free(printed);
    free(lines);
    f->program = NULL; /* it lies on the stack */
}

/* The table's of the daemon that gdb finds in one process's life: no takeover. */
static void keep_those_of_one_daemon(probes *list)
{
    size_t n = 0;

    for (size_t i = 0; i < list->n; i++) {
        const char *name = list->all[i].name;

        if (strncmp(name, "goallocd:", strlen("goallocd:")) == 0 && strcmp(name, "goallocd:takeover") != 0)
            list->all[n++] = list->all[i];
    }
    list->n = n;
}

static void write_gdb_script(const char *path, const probes *list)
{
    FILE *file = fopen(path, "we");

    assert_non_null(file);
    (void)fprintf(file, "set pagination off\nhandle all nostop noprint pass\n");
    for (size_t i = 0; i < list->n; i++)
        (void)fprintf(file,
                      "break -probe-stap %s\ncommands\nsilent\nprintf \"seen :%s.\\n\"\n"
                      "printf \"arg0 %%lu\\n\", (unsigned long)$_probe_arg0\ncontinue\nend\n",
                      list->all[i].name, list->all[i].name);
    (void)fprintf(file, "continue\n");
    assert_int_equal(fclose(file), 0);
}

/* Where the kernel has no BPF, or gives no right to it, a debugger may still be let in. */
static void gdb_stops_at_each_probe_of_the_daemon(void **state)
{
    static probes list;
    fixture *f = *state;
    char command[256];
    char path[128];
    char pid[16];
    tracer t;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    print_message("skipped: a sanitizer's look at the end does not work under gdb\n");
    skip();
#endif
    (void)snprintf(pid, sizeof(pid), "%d", (int)f->daemon);
    (void)snprintf(command, sizeof(command), "gdb -batch -nx -iex 'set debuginfod enabled off' -p %s", pid);
    if (!has_probes() || !can_run("gdb", command))
        skip();
    read_table(&list);
    keep_those_of_one_daemon(&list);
    (void)snprintf(path, sizeof(path), "%s/stops.gdb", f->dir);
    write_gdb_script(path, &list);
    trace_start(&t, f, (char *[]){ "gdb", "-batch", "-nx", "-iex", "set debuginfod enabled off", "-p", pid, "-x", path,
                                   NULL });
    make_traffic_until_seen(f, &t, &list, NULL);
    assert_true(fixture_is_whole(f) && fixture_stop(f));
    f->daemon = 0;
    trace_end(&t); /* with the daemon */
}

static int setup(void **state)
{
    static const char *const options[] = { "--memory-limit", "32M", NULL };

    *state = (void *)(uintptr_t)options;
    return fixture_setup_kept(state);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(daemon_has_the_probes_of_the_table),
        cmocka_unit_test(library_has_the_probes_of_the_table),
        cmocka_unit_test(module_with_the_static_library_has_them_too),
        FIXTURE_TEST(stripped_daemon_has_them_too),
        cmocka_unit_test(table_has_no_more_arguments_than_tracers_read),
        cmocka_unit_test(each_probe_of_the_table_has_a_line),
        cmocka_unit_test_setup_teardown(bpftrace_sees_each_probe_and_each_line_prints, setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(gdb_stops_at_each_probe_of_the_daemon, setup, fixture_teardown),
    };

    if (argc == 3 && strcmp(argv[1], "work") == 0)
        return work_alone(argv[2]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
