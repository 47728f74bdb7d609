/*
 * goallocctl --json: every command prints what the schema says, errors too; completion knows what help knows.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/support/objects.h"

#define OUT_BYTES (1u << 20)

static bool is_installed(const char *command)
{
    char text[128];

    (void)snprintf(text, sizeof(text), "command -v %s >/dev/null", command);
    return system(text) == 0;
}

/* --- the schema --- */

static int hold_everything(const fixture *f, void *arg)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;

    options.socket_path = f->socket;
    options.label = "with \"quotes\" and \\ and \xc3\xbc";
    options.limit_bytes = 64 << 20;
    options.group = arg;
    options.flags = arg != NULL ? GOALLOC_ATTACH_RECLAIM : 0;
    CHECK(goalloc_attach(&options) == 0);
    for (int i = 0; i < 300; i++)
        CHECK(goalloc_malloc((size_t)i * 50) != NULL);
    CHECK(goalloc_root_set(arg != NULL ? arg : "alone", goalloc_malloc(100)) == 0);
    (void)raise(SIGSTOP);
    return 0;
}

/* Run the command, and write what it prints for check-json, a line for each object. */
static void write_answer(const fixture *f, const char *definition, const char *words, int status, bool lines, FILE *to)
{
    static char out[OUT_BYTES];
    int r = fixture_ctl(f, (const char *const[]){ "--json", words, "2>/dev/null", NULL }, out, sizeof(out));

    if (r != status)
        fail_msg("%s: status %d, not %d: %s", words, r, status, out);
    assert_true(strlen(out) > 0);
    (void)fprintf(to, "%s\t", definition);
    for (const char *c = out; *c != '\0'; c++) {
        if (*c != '\n')
            (void)putc(*c, to);
        else if (lines && c[1] != '\0')
            (void)fprintf(to, "\n%s\t", definition);
    }
    (void)putc('\n', to);
}

static const struct {
    const char *definition;
    const char *words;
    int status;
    bool lines;
} answers[] = {
    { "stats", "stats", 0, false },
    { "reload", "reload", 0, false },
    { "stats", "stats --classes", 0, false },
    { "top", "top --once -i 1ms", 0, false },
    { "top", "top --once -i 1ms --group", 0, false },
    { "top", "top --count 3 -i 1ms", 0, true },
    { "watch", "watch live_bytes tiny_allocs groups_total --count 3 -i 1ms", 0, true },
    { "sessions", "sessions", 0, false },
    { "sessions", "sessions --live --sort held --reverse --rows 1", 0, false },
    { "sessions", "sessions --group", 0, false },
    { "sessions", "sessions --group=pool", 0, false },
    { "sessions", "sessions --group pool", 0, false },
    { "error", "sessions --group pool more", 2, false },
    { "leases", "leases", 0, false },
    { "leases", "leases 1 --rows 3", 0, false },
    { "leases", "leases --spans", 0, false },
    { "limits", "limits", 0, false },
    { "roots", "roots", 0, false },
    { "classes", "classes", 0, false },
    { "heap-map", "heap-map", 0, false },
    { "error", "profile", 1, false },
    { "profile", "profile status", 0, false },
    { "profile", "profile on --rate 4K", 0, false },
    { "profile", "profile status", 0, false },
    { "profile", "profile", 0, false },
    { "profile", "profile off --group pool", 0, false },
    { "profile", "profile reset", 0, false },
    { "profile", "profile off", 0, false },
    { "error", "profile -", 2, false },
    { "error", "profile on --session 4000", 1, false },
    { "leaks", "leaks", 0, false },
    { "leaks", "leaks --why 0x1000", 0, false },
    { "leaks", "leaks --rows 2 --max-pause 3000 --offsets", 0, false },
    { "error", "leaks --why here", 2, false },
    { "error", "leaks --why 0x1000 --free", 2, false },
    { "error", "leaks --max-pause 0", 2, false },
    { "scavenge", "scavenge", 0, false },
    { "trim", "trim", 0, false },
    { "trim", "trim 1", 0, false },
    { "check", "check", 0, false },
    { "ping", "ping", 0, false },
    { "help", "help", 0, false },
    { "help", "help top", 0, false },
    { "help", "drop --help", 0, false },
    { "reclaim", "reclaim pool --yes", 0, false },
    { "error", "reclaim nobody --yes", 1, false },
    { "error", "trim 4000", 1, false },
    { "error", "disconnect 4000 --yes", 1, false },
    { "error", "drop < /dev/null", 1, false },
    { "error", "keeper --state-dir /nonexistent", 1, false },
    { "error", "watch nothing", 2, false },
    { "error", "watch --csv", 2, false },
    { "error", "heap-map --svg -", 2, false },
    { "error", "--bogus", 2, false },
    { "error", "--socket /nonexistent ping", 3, false },
    { "disconnect", "disconnect 1 --yes", 0, false },
};

static void all_commands_print_what_the_schema_says(void **state)
{
    const fixture *f = *state;
    char command[512];
    pid_t alone = child_start_stopped(f, hold_everything, NULL);
    pid_t dead = child_start_stopped(f, hold_everything, (void *)(uintptr_t)"pool");
    pid_t member = child_start_stopped(f, hold_everything, (void *)(uintptr_t)"pool");
    char keeper[160];
    FILE *to;

    (void)snprintf(command, sizeof(command), "%s/tests/support/check-json %s/client/ctl/goallocctl.schema.json >&2",
                   GOALLOC_SOURCE_DIR, GOALLOC_SOURCE_DIR);
    if (system("python3 -c 'import jsonschema' 2>/dev/null") != 0) {
        (void)fprintf(stderr, "python3-jsonschema is not installed\n");
        (void)kill(alone, SIGKILL);
        (void)kill(dead, SIGKILL);
        (void)kill(member, SIGKILL);
        skip();
    }
    to = popen(command, "we");
    assert_non_null(to);
    (void)kill(dead, SIGKILL);
    (void)child_wait(dead);
    (void)fixture_live_with(f, 2);
    for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++)
        write_answer(f, answers[i].definition, answers[i].words, answers[i].status, answers[i].lines, to);
    (void)snprintf(keeper, sizeof(keeper), "keeper --state-dir %s", f->state_dir);
    write_answer(f, "keeper", keeper, 0, false, to);
    (void)kill(alone, SIGKILL);
    (void)kill(member, SIGKILL);
    (void)child_wait(alone);
    (void)child_wait(member);
    assert_int_equal(pclose(to), 0);
}

/* --- completion --- */

/* What bash offers for these words, the last of which is being typed. */
static void complete(const char *words, char *ret, size_t size)
{
    char command[2048];
    FILE *out;
    size_t n;

    (void)snprintf(command, sizeof(command),
                   "bash --norc -c 'source <(%s completion bash); COMP_WORDS=(%s); "
                   "COMP_CWORD=$((${#COMP_WORDS[@]}-1)); _goallocctl; echo \" ${COMPREPLY[*]} \"'",
                   GOALLOCCTL_PATH, words);
    out = popen(command, "re");
    assert_non_null(out);
    n = fread(ret, 1, size - 1, out);
    ret[n] = '\0';
    assert_int_equal(pclose(out), 0);
}

static void bash_completes_commands_options_and_values(void **state)
{
    static const struct {
        const char *words; /* in bash's way: = is a word */
        const char *offered;
        const char *not_offered;
    } rows[] = {
        { "goallocctl \"\"", " stats ", " --json " },
        { "goallocctl to", " top ", " stats " },
        { "goallocctl --socket /x to", " top ", " stats " },
        { "goallocctl --socket = /x to", " top ", " stats " },
        { "goallocctl --", " --socket ", " --interval " },
        { "goallocctl top --", " --interval ", " --live " },
        { "goallocctl sessions --s", " --sort ", " --spans " },
        { "goallocctl top --sort \"\"", " held ", " stats " },
        { "goallocctl top --sort = he", " held ", " live " },
        { "goallocctl watch live", " live_bytes ", " rpcs " },
        { "goallocctl watch live_bytes rp", " rpcs ", " live_bytes " },
        { "goallocctl watch --", " --csv ", " --svg " },
        { "goallocctl heap-map --", " --svg ", " --csv " },
        { "goallocctl heap-map --svg /us", " /usr ", " stats " },
        { "goallocctl help dis", " disconnect ", " stats " },
        { "goallocctl completion \"\"", " zsh ", " stats " },
        { "goallocctl --state-dir /us", " /usr ", " stats " },
    };
    char out[16384];

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        complete(rows[i].words, out, sizeof(out));
        if (strstr(out, rows[i].offered) == NULL || strstr(out, rows[i].not_offered) != NULL)
            fail_msg("'%s' offers:%s", rows[i].words, out);
    }
}

static void both_scripts_know_every_command_and_option(void **state)
{
    static const char *const shells[] = { "bash", "zsh" };
    static char script[1 << 16];
    fixture nowhere;
    json_t *help;

    (void)state;
    fixture_make_place(&nowhere);
    help = json_by_ctl(&nowhere, "help");
    for (size_t i = 0; i < 2; i++) {
        json_t *row;
        size_t k;

        assert_int_equal(
            fixture_ctl(&nowhere, (const char *const[]){ "completion", shells[i], NULL }, script, sizeof(script)), 0);
        json_array_foreach(json_object_get(help, "commands"), k, row)
        {
            assert_non_null(strstr(script, json_string_value(json_object_get(row, "name"))));
        }
        json_array_foreach(json_object_get(help, "options"), k, row)
        {
            char option[64];

            (void)snprintf(option, sizeof(option), "--%s", json_string_value(json_object_get(row, "name")));
            assert_non_null(strstr(script, option));
        }
    }
    json_decref(help);
}

static void shells_accept_their_scripts(void **state)
{
    static const char *const shells[] = { "bash", "zsh" };

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        char command[512];

        if (!is_installed(shells[i])) {
            (void)fprintf(stderr, "%s is not installed\n", shells[i]);
            continue;
        }
        (void)snprintf(command, sizeof(command), "%s completion %s | %s -n", GOALLOCCTL_PATH, shells[i], shells[i]);
        assert_int_equal(system(command), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST_KEPT(all_commands_print_what_the_schema_says),
        cmocka_unit_test(bash_completes_commands_options_and_values),
        cmocka_unit_test(both_scripts_know_every_command_and_option),
        cmocka_unit_test(shells_accept_their_scripts),
    };

    return cmocka_run_group_tests_name("goallocctl --json", tests, NULL, NULL);
}
