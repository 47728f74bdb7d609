/*
 * Files of the configuration, the table of options, and what they come to together.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/config.h"
#include "shm/units.h"
#include "tests/support/guard.h"

/* A file, its directory, and what was read of both. */
typedef struct place {
    char path[128];
    char dir[160];
    config_source source;
    options o;
    config_mistakes mistakes;
} place;

static place *place_new(void **state)
{
    place *p = calloc(1, sizeof(*p));

    assert_non_null(p);
    (void)snprintf(p->path, sizeof(p->path), "%s/XXXXXX", guard_dir());
    assert_non_null(mkdtemp(p->path));
    strcat(p->path, "/c");
    (void)snprintf(p->dir, sizeof(p->dir), "%s.d", p->path);
    p->source.path = p->path;
    assert_true(options_init(&p->source.commandline));
    *state = p;
    return p;
}

static int place_setup(void **state)
{
    (void)place_new(state);
    return 0;
}

static int place_teardown(void **state)
{
    place *p = *state;

    options_end(&p->source.commandline);
    options_end(&p->o);
    free(p);
    return 0;
}

static void write_bytes(const char *path, const char *bytes, size_t len)
{
    FILE *file = fopen(path, "we");

    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, len, file), len);
    assert_int_equal(fclose(file), 0);
}

static void write_file(const place *p, const char *text)
{
    write_bytes(p->path, text, strlen(text));
}

static void write_part(const place *p, const char *name, const char *text)
{
    char path[256];

    (void)mkdir(p->dir, 0755);
    (void)snprintf(path, sizeof(path), "%s/%s", p->dir, name);
    write_bytes(path, text, strlen(text));
}

static bool load(place *p)
{
    options_end(&p->o);
    return config_load(&p->source, &p->o, &p->mistakes);
}

static void must_load(place *p)
{
    bool is_whole = load(p);

    config_print_mistakes(&p->mistakes, "", stderr);
    assert_true(is_whole);
}

/* The files are wrong, and the only mistake is one with that text. */
static void assert_mistake(place *p, const char *text)
{
    options before = p->o;

    assert_false(config_load(&p->source, &p->o, &p->mistakes));
    assert_memory_equal(&before, &p->o, sizeof(before));
    if (p->mistakes.n != 1 || strstr(p->mistakes.texts[0], text) == NULL) {
        config_print_mistakes(&p->mistakes, "", stderr);
        fail_msg("expected: %s", text);
    }
}

static const char *text_of(const place *p, const char *name)
{
    return p->o.values[option_find(name)].text;
}

/* --- what is read --- */

static void load_without_a_file_has_the_defaults(void **state)
{
    place *p = *state;

    p->source.is_optional = true;
    must_load(p);
    assert_true(p->o.reserve_bytes == 64 * GIB && p->o.base == 0xc000000000 && p->o.eager_commit && p->o.huge_pages);
    assert_true(p->o.state_dir == NULL && p->o.on_stop == ON_STOP_AUTO && p->o.log_level == LOG_LEVEL_INFO);
    assert_string_equal(p->o.socket_path, "/run/goallocd/goallocd.sock");
    p->source.is_optional = false;
    assert_mistake(p, "/c: it can't be read: No such file or directory");
}

static void load_of_forms_of_text_reads_the_same(void **state)
{
    static const char *const texts[] = {
        "[memory]\nmemory-limit = 512M\nmax-memory = 1G\n",
        "\xef\xbb\xbf[memory]\r\nmemory-limit=512M\r\nmax-memory : 1 GiB", /* BOM, CRLF, no newline at the end */
        "# no\n; no\n\n  [memory] # yes\n\tmemory-limit\t= 536870912 ; bytes\n      max-memory = 1024MB  \n",
        "[memory]\nmax-memory = 1G\n[log]\n[memory]\nmemory-limit = 0512M\n",
        "[memory]\nmax-memory = 1G      # K, M, G, T\nmemory-limit = 512M\t# ; # [x]\n",
    };
    place *p = *state;

    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        write_file(p, texts[i]);
        must_load(p);
        assert_true(p->o.memory_limit_bytes == 512 * MIB && p->o.max_memory_bytes == GIB);
        assert_string_equal(text_of(p, "memory-limit"), "512M");
        assert_string_equal(text_of(p, "max-memory"), "1G");
    }
}

static void load_of_a_directory_takes_the_last_of_names_in_order(void **state)
{
    place *p = *state;

    write_file(p, "[memory]\nmemory-limit = 1G\nmax-memory = 1G\n[log]\nlog-level = warn\n[access]\nallow-uid = 1\n"
                  "allow-uid = 2,3\n");
    write_part(p, "9.conf", "[memory]\nmemory-limit = 9G\n[access]\nallow-uid = 4\n");
    write_part(p, "10.conf", "[memory]\nmemory-limit = 10G\nmax-memory = 10G\n");
    write_part(p, ".8.conf", "[memory]\nmax-memory = 8G\n");
    write_part(p, "A.conf~", "nonsense");
    write_part(p, "README", "nonsense");
    must_load(p);
    assert_true(p->o.memory_limit_bytes == 9 * GIB && p->o.max_memory_bytes == 10 * GIB);
    assert_true(p->o.log_level == LOG_LEVEL_WARN && p->o.access.uids.nids == 1 && p->o.access.uids.ids[0] == 4);
    assert_non_null(strstr(p->o.values[option_find("memory-limit")].origin, "/c.d/9.conf:2"));
    write_part(p, "9.conf", "");
    must_load(p);
    assert_true(p->o.memory_limit_bytes == 10 * GIB && p->o.access.uids.nids == 3);
    assert_string_equal(text_of(p, "allow-uid"), "1,2,3");
}

static void load_of_a_list_passes_over_blanks_around_its_names(void **state)
{
    place *p = *state;

    write_file(p, "[access]\nallow-uid = root, 7 ,\t8\n");
    must_load(p);
    assert_int_equal(p->o.access.uids.nids, 3);
    assert_true(p->o.access.uids.ids[0] == 0 && p->o.access.uids.ids[1] == 7 && p->o.access.uids.ids[2] == 8);
}

static void load_of_a_path_too_long_for_a_socket_names_its_line(void **state)
{
    place *p = *state;
    char text[256];
    char why[OPTION_WHY_BYTES];

    (void)snprintf(text, sizeof(text), "[goallocd]\nsocket = /%0106d\nstate-dir = /%094d\n", 1, 1);
    write_file(p, text);
    must_load(p);
    (void)snprintf(text, sizeof(text), "[goallocd]\nsocket = /%0107d\n", 1);
    write_file(p, text);
    assert_mistake(p, "/c:2: socket: the path has 108 bytes, and for a Unix socket it may have 107");
    assert_true(option_set(&p->source.commandline, option_find("socket"), "/run/s", "command line", false, why));
    must_load(p);
    (void)snprintf(text, sizeof(text), "[goallocd]\nstate-dir = /%095d\n", 1);
    write_file(p, text);
    assert_mistake(p, "/c:2: state-dir: the path has 96 bytes, and for a Unix socket it may have 95");
}

static void load_lets_the_command_line_win(void **state)
{
    char why[OPTION_WHY_BYTES];
    place *p = *state;

    write_file(p, "[memory]\nmemory-limit = 1G\nmax-memory = 1G\n[goallocd]\nsocket = /a\n");
    assert_true(option_set(&p->source.commandline, option_find("memory-limit"), "3G", "command line", false, why));
    assert_true(option_set(&p->source.commandline, option_find("socket"), "/b", "command line", false, why));
    for (int i = 0; i < 2; i++) {
        must_load(p);
        assert_true(p->o.memory_limit_bytes == 3 * GIB && p->o.max_memory_bytes == GIB);
        assert_string_equal(p->o.socket_path, "/b");
        assert_string_equal(p->o.values[option_find("socket")].origin, "command line");
    }
}

static void load_of_values_that_contradict_says_so(void **state)
{
    place *p = *state;

    write_file(p, "[memory]\nbase = 0x7ffffc000000\nreserve = 16T\n");
    assert_mistake(p, "base and reserve");
}

/* --- what is wrong --- */

static void load_of_a_wrong_line_says_which_and_why(void **state)
{
    static const struct {
        const char *text;
        const char *mistake;
    } wrong[] = {
        { "[memory]\nmemory-limits = 1G\n", "/c:2: there is no key 'memory-limits'" },
        { "[memory]\nallow-uid = 1\n", "/c:2: 'allow-uid' belongs into the section [access]" },
        { "memory-limit = 1G\n", "/c:1: 'memory-limit' stands before the first [SECTION]; it belongs into [memory]" },
        { "\n[memry]\nmemory-limit = 1G\n", "/c:2: there is no section [memry]; there are [goallocd] [memory]" },
        { "[]\n", "/c:1: there is no section []" },
        { "[memory\n", "/c:1: a section is [NAME]" },
        { "[memory] memory-limit = 1G\n", "/c:1: a section is [NAME]" },
        { "[memory]\nmemory-limit = 1G\n\nmemory-limit = 1G\n", "/c:4: 'memory-limit' stands in line 2 already" },
        { "[memory]\nmemory-limit\n", "/c:2: neither KEY = VALUE" },
        { "[memory]\nmemory-limit = 1G\n  3G\n", "/c:3: neither KEY = VALUE" },
        { "[memory]\nmemory-limit =\n", "/c:2: memory-limit: '' is not a size" },
        { "[memory]\nmemory-limit = 1X\n", "/c:2: memory-limit: '1X' is not a size" },
        { "[memory]\nmemory-limit = -1\n", "/c:2: memory-limit: '-1' is not a size" },
        { "[memory]\nmemory-limit = 5s\n", "/c:2: memory-limit: '5s' is not a size" },
        { "[memory]\nmemory-limit = 1.5G\n", "/c:2: memory-limit: '1.5G' is not a size" },
        { "[memory]\nmemory-limit = 99999999T\n", "/c:2: memory-limit: '99999999T' is not a size" },
        { "[memory]\nmemory-limit = 99999999999999999999\n", "/c:2: memory-limit" },
        { "[memory]\nreserve = 65M\n", "/c:2: reserve: '65M' is not a multiple of 64M" },
        { "[memory]\nreserve = 17T\n", "/c:2: reserve: '17T' is not a multiple" },
        { "[memory]\nbase = 1\n", "/c:2: base: 0x1 is not a multiple" },
        { "[memory]\nbase = here\n", "/c:2: base: 'here' is not a hexadecimal address" },
        { "[memory]\ncommit = Eager\n", "/c:2: commit: 'Eager' is not lazy or eager" },
        { "[goallocd]\non-stop = 1\n", "/c:2: on-stop: '1' is not auto, keep or drop" },
        { "[goallocd]\nsocket =\n", "/c:2: socket: a path is missing" },
        { "[goallocd]\ncold-start = yes\n", "/c:2: 'cold-start' is for the command line alone" },
        { "[goallocd]\nno-seccomp = yes\n", "/c:2: 'no-seccomp' is for the command line alone" },
        { "[limits]\nuid-sessions = 0\n", "/c:2: uid-sessions: '0' is not a number without a unit, from 1 on" },
        { "[limits]\nuid-sessions = 1K\n", "/c:2: uid-sessions: '1K' is not a number" },
        { "[limits]\nuid-turn-us = 5h\n", "/c:2: uid-turn-us: '5h' is not a time, such as 250us, 100ms or 5s" },
        { "[limits]\nbuffer = 1K\n",
          "/c:2: buffer: '1K' is not a size, such as 512M or 64G (powers of 1024), from 128K on" },
        { "[access]\nallow-uid = root,no-such-user\n", "/c:2: allow-uid: 'no-such-user' is no user" },
        { "[access]\nallow-uid =\n", "/c:2: allow-uid: '' is no user" },
        { "[access]\nallow-gid = 1,,2\n", "/c:2: allow-gid: '' is no group" },
        { "[access]\nallow-gid = 1, ,2\n", "/c:2: allow-gid: '' is no group" },
        { "[access]\nallow-uid = root, no-such-user \n", "/c:2: allow-uid: 'no-such-user' is no user" },
        { "[access]\nallow-uid = 1 2\n", "/c:2: allow-uid: '1 2' is no user" },
        { "[access]\ncontrol-group = no-such-group\n", "/c:2: control-group: 'no-such-group' is no group" },
        { "[access]\nroot-owner = true\n", "/c:2: root-owner: 'true' is not no or yes" },
        { "[log]\nlog-level = INFO\n", "/c:2: log-level: 'INFO' is not error, warn, info or debug" },
        { "[log]\nlog-level = in\x1b[1mfo\n", "/c:2: a NUL byte or another control character" },
    };
    place *p = *state;

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        write_file(p, wrong[i].text);
        assert_mistake(p, wrong[i].mistake);
    }
}

static void load_of_a_nul_byte_refuses_its_line(void **state)
{
    static const char text[] = "[memory]\nmemory-limit = 1\0G\nmax-memory = 1G\n";
    static const char wide[] = "\xff\xfe[\0m\0]\0\n\0"; /* UTF-16 */
    place *p = *state;

    write_bytes(p->path, text, sizeof(text) - 1);
    assert_mistake(p, "/c:2: a NUL byte");
    write_bytes(p->path, wide, sizeof(wide) - 1);
    assert_false(load(p));
    assert_non_null(strstr(p->mistakes.texts[0], "/c:1: a NUL byte"));
}

static void load_of_a_long_line_refuses_it(void **state)
{
    char text[65536];
    place *p = *state;

    for (size_t len = 100; len < sizeof(text) - 20; len = len < 300 ? len + 1 : len * 2) {
        size_t n = (size_t)snprintf(text, sizeof(text), "[access]\nallow-uid = ");
        size_t first = n;

        memset(text + n, '0', len - 12);
        n += len - 12;
        (void)snprintf(text + n, sizeof(text) - n, "\n[memory]\nmemory-limit = 1G\n");
        write_file(p, text);
        if (len > 198) {
            assert_mistake(p, "/c:2: the line has ");
            continue;
        }
        must_load(p);
        assert_int_equal(strlen(text_of(p, "allow-uid")), len - 12);
        assert_memory_equal(text_of(p, "allow-uid"), text + first, len - 12);
        assert_true(p->o.memory_limit_bytes == GIB);
    }
}

static void load_says_all_mistakes_at_once(void **state)
{
    char text[16384] = "[memory]\n";
    place *p = *state;

    write_file(p, "[nowhere]\nmemory-limit = 1X\nwhatever = 1\n[memory]\nreserve = 1\n");
    write_part(p, "1.conf", "nonsense\n[log]\nlog-level = loud\n");
    write_part(p, "2.conf", "[log]\nlog-level = warn\n");
    assert_false(load(p));
    assert_int_equal(p->mistakes.n, 5);
    assert_non_null(strstr(p->mistakes.texts[1], "/c:2: memory-limit: '1X'"));
    assert_non_null(strstr(p->mistakes.texts[2], "/c:5: reserve"));
    assert_non_null(strstr(p->mistakes.texts[3], "/c.d/1.conf:1: neither"));
    assert_non_null(strstr(p->mistakes.texts[4], "/c.d/1.conf:3: log-level"));
    for (size_t i = 0, n = strlen(text); i < 1000; i++)
        n += (size_t)snprintf(text + n, sizeof(text) - n, "wrong%zu=1\n", i);
    write_file(p, text);
    assert_false(load(p));
    assert_int_equal(p->mistakes.n, CONFIG_MISTAKES_MAX);
    assert_int_equal(p->mistakes.n + p->mistakes.nmore, 1002);
}

/* --- files of all kinds --- */

static int load_as_nobody(place *p)
{
    pid_t pid = fork();
    int status = -1;

    if (pid == 0) {
        if (setresuid(65534, 65534, 65534) < 0)
            _exit(2);
        _exit(load(p) || p->mistakes.n != 1 || strstr(p->mistakes.texts[0], "can't be read: Permission") == NULL);
    }
    assert_true(pid > 0 && waitpid(pid, &status, 0) == pid);
    return status;
}

static void load_of_what_is_no_file_says_so(void **state)
{
    char path[256];
    place *p = *state;

    assert_int_equal(mkdir(p->path, 0755), 0);
    assert_mistake(p, "/c: it can't be read: Is a directory");
    assert_int_equal(rmdir(p->path), 0);
    assert_int_equal(mkfifo(p->path, 0644), 0);
    assert_mistake(p, "/c: it is not a regular file");
    assert_int_equal(unlink(p->path), 0);
    assert_int_equal(symlink("/dev/zero", p->path), 0);
    assert_mistake(p, "/c: it is not a regular file");
    assert_int_equal(unlink(p->path), 0);
    write_file(p, "[memory]\n");
    write_part(p, "1.conf", "[memory]\n");
    (void)snprintf(path, sizeof(path), "%s/2.conf", p->dir);
    assert_int_equal(symlink("nowhere", path), 0);
    assert_mistake(p, "/c.d/2.conf: it can't be read: No such file");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0755), 0);
    assert_mistake(p, "/c.d/2.conf: it can't be read: Is a directory");
}

static void load_of_a_file_in_place_of_the_directory_says_so(void **state)
{
    place *p = *state;

    write_file(p, "");
    write_bytes(p->dir, "", 0);
    assert_mistake(p, "/c.d: the directory can't be read: Not a directory");
}

static void load_of_a_large_file_refuses_it(void **state)
{
    static char text[1024 * 1024 + 2];
    place *p = *state;

    memset(text, '\n', sizeof(text));
    write_bytes(p->path, text, 1024 * 1024);
    must_load(p);
    write_bytes(p->path, text, 1024 * 1024 + 1);
    assert_mistake(p, "/c: it is larger than 1 MiB");
    assert_int_equal(truncate(p->path, 10 * 1024 * 1024), 0);
    assert_mistake(p, "/c: it is larger than 1 MiB");
}

static void load_of_many_files_takes_so_many(void **state)
{
    char name[32];
    place *p = *state;

    write_file(p, "");
    for (int i = 0; i < 256; i++) {
        (void)snprintf(name, sizeof(name), "%03d.conf", i);
        write_part(p, name, "[memory]\nmemory-limit = 1G\n");
    }
    must_load(p);
    write_part(p, "256.conf", "");
    assert_mistake(p, "/c.d: there are more than 256 files in it");
}

static void load_of_an_unreadable_file_says_so(void **state)
{
    char dir[128];
    place *p = *state;

    if (geteuid() != 0)
        skip();
    write_file(p, "");
    assert_int_equal(chmod(p->path, 0600), 0);
    (void)snprintf(dir, sizeof(dir), "%.*s", (int)strlen(p->path) - 2, p->path);
    assert_true(chmod(guard_dir(), 0755) == 0 && chmod(dir, 0755) == 0);
    assert_int_equal(load_as_nobody(p), 0);
}

/* --- the table --- */

static void rows_have_all_that_people_see(void **state)
{
    (void)state;
    for (unsigned i = 0; i < options_count(); i++) {
        const option_row *row = option_row_at(i);

        assert_int_equal(option_find(row->name), i); /* there is one of that name */
        assert_true(row->help != NULL && strlen(row->help) > 10 && row->section <= SECTION_NONE);
        assert_true((row->act != 0) == (row->section == SECTION_NONE) && (row->act != 0 || row->arg != NULL));
        assert_true(strlen(row->name) < 32);
    }
    for (int i = 0; i < LIMITS; i++)
        assert_true(option_row_at(option_find(limit_row_of((enum limit)i)->name))->section == SECTION_LIMITS);
}

static char *print(const options *o, bool sample)
{
    char *text;
    size_t len;
    FILE *out = open_memstream(&text, &len);

    assert_non_null(out);
    config_print(o, sample, out);
    assert_int_equal(fclose(out), 0);
    return text;
}

/* Other values than the defaults, in the shortest form. */
static const char *const others[][2] = {
    { "socket", "/tmp/other" }, { "state-dir", "/tmp/state" }, { "on-stop", "keep" }, { "reserve", "128M" },
    { "base", "0x200000000000" }, { "memory-limit", "3G" }, { "max-memory", "5000" }, { "commit", "lazy" },
    { "huge-pages", "never" }, { "allow-uid", "1,2" }, { "allow-gid", "3" }, { "allow-read-uid", "4" },
    { "allow-read-gid", "5" }, { "control-group", "6" }, { "root-owner", "yes" }, { "log-level", "debug" },
    { "scavtrace", "yes" }, { "image", "/tmp/image" }, { "image-wait", "7s" }, { "image-stale", "ok" }, { "uid-turn-us", "7us" },
};

static const char *other_of(const option_row *row)
{
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        if (strcmp(others[i][0], row->name) == 0)
            return others[i][1];
    }
    assert_int_equal(row->section, SECTION_LIMITS); /* a new key needs a line above */
    return row->arg[0] == 'S' ? "77M" : "77";
}

static void print_of_all_values_loads_to_the_same(void **state)
{
    char why[OPTION_WHY_BYTES];
    place *p = *state;
    options saved;
    char *text;

    write_file(p, "");
    for (unsigned i = 0; i < options_count(); i++) {
        if (option_row_at(i)->act == 0)
            assert_true(option_set(&p->source.commandline, i, other_of(option_row_at(i)), "command line", false, why));
    }
    for (int i = 10; i < 70; i++) { /* a list that needs several lines */
        char number[16];

        (void)snprintf(number, sizeof(number), "41000%d", i);
        assert_true(option_set(&p->source.commandline, option_find("allow-uid"), number, "command line", true, why));
    }
    must_load(p);
    text = print(&p->o, false);
    saved = p->o;
    memset(&p->o, 0, sizeof(p->o));
    options_end(&p->source.commandline);
    assert_true(options_init(&p->source.commandline));
    write_file(p, text);
    free(text);
    must_load(p);
    for (unsigned i = 0; i < options_count(); i++) {
        if (option_row_at(i)->act == 0)
            assert_string_equal(p->o.values[i].text, saved.values[i].text);
    }
    assert_memory_equal(&p->o.access, &saved.access, sizeof(saved.access));
    assert_memory_equal(&p->o.limits, &saved.limits, sizeof(saved.limits));
    options_end(&saved);
}

static void print_of_what_no_file_can_say_says_so(void **state)
{
    static const char *const paths[] = { "/tmp/a ;b", " /tmp/a", "/tmp/\n", ";", "#", "/tmp/a #b" };
    char why[OPTION_WHY_BYTES];
    char longest[400];
    place *p = *state;

    memset(longest, 'x', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    for (size_t i = 0; i <= sizeof(paths) / sizeof(paths[0]); i++) {
        const char *path = i < sizeof(paths) / sizeof(paths[0]) ? paths[i] : longest;
        char *text;

        assert_true(option_set(&p->source.commandline, option_find("socket"), path, "command line", false,
                               why));
        text = print(&p->source.commandline, false);
        assert_non_null(strstr(text, "# what it is can't be said in a file\n"));
        assert_null(strstr(text, "\nsocket ="));
        free(text);
    }
}

static void print_of_the_sample_is_the_file_that_is_installed(void **state)
{
    static char installed[65536];
    FILE *file = fopen(GOALLOCD_CONF_PATH, "re");
    place *p = *state;
    char *text;
    size_t len;

    assert_non_null(file);
    len = fread(installed, 1, sizeof(installed) - 1, file);
    installed[len] = '\0';
    assert_int_equal(fclose(file), 0);
    text = print(&p->source.commandline, true);
    assert_string_equal(installed, text);
    free(text);
    write_file(p, installed);
    must_load(p);
    for (unsigned i = 0; i < options_count(); i++)
        assert_true(option_is_same(&p->o, &p->source.commandline, i) && p->o.values[i].origin == NULL);
}

static void exchange_of_a_row_takes_the_value_along(void **state)
{
    char why[OPTION_WHY_BYTES];
    place *p = *state;
    unsigned nreloads = 0;

    p->source.is_optional = true;
    for (unsigned i = 0; i < options_count(); i++) {
        const option_row *row = option_row_at(i);
        options fresh;

        must_load(p);
        if (!row->reloads)
            continue;
        nreloads++;
        assert_true(options_init(&fresh));
        assert_true(option_set(&fresh, i, other_of(row), "file:1", false, why));
        assert_false(option_is_same(&p->o, &fresh, i));
        assert_memory_not_equal((char *)&p->o + row->at, (char *)&fresh + row->at, row->bytes);
        option_exchange(&p->o, &fresh, i);
        assert_string_equal(p->o.values[i].text, other_of(row));
        options_end(&fresh);
        assert_true(options_init(&fresh));
        assert_true(option_set(&fresh, i, other_of(row), "file:1", false, why));
        assert_memory_equal((char *)&p->o + row->at, (char *)&fresh + row->at, row->bytes);
        options_end(&fresh);
    }
    assert_true(nreloads > LIMITS + 10);
}

static void parse_of_times_knows_units(void **state)
{
    static const struct {
        const char *text;
        uint64_t us; /* 0: it is none */
    } times[] = { { "5", 5000 }, { "5us", 5 }, { "100ms", 100000 }, { "5s", 5000000 }, { "2 min", 120000000 },
                  { "", 0 }, { "s", 0 }, { "-1s", 0 }, { "1h", 0 }, { "1 s ", 0 }, { "1.5s", 0 }, { "1S", 0 },
                  { "400000000000000min", 0 } };

    (void)state;
    for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
        uint64_t us = 0;

        assert_int_equal(limits_parse_time(times[i].text, 1000, &us), times[i].us != 0);
        assert_true(us == times[i].us);
    }
}

#define PLACE_TEST(name) cmocka_unit_test_setup_teardown(name, place_setup, place_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        PLACE_TEST(load_without_a_file_has_the_defaults),
        PLACE_TEST(load_of_forms_of_text_reads_the_same),
        PLACE_TEST(load_of_a_directory_takes_the_last_of_names_in_order),
        PLACE_TEST(load_of_a_list_passes_over_blanks_around_its_names),
        PLACE_TEST(load_of_a_path_too_long_for_a_socket_names_its_line),
        PLACE_TEST(load_lets_the_command_line_win),
        PLACE_TEST(load_of_values_that_contradict_says_so),
        PLACE_TEST(load_of_a_wrong_line_says_which_and_why),
        PLACE_TEST(load_of_a_nul_byte_refuses_its_line),
        PLACE_TEST(load_of_a_long_line_refuses_it),
        PLACE_TEST(load_says_all_mistakes_at_once),
        PLACE_TEST(load_of_what_is_no_file_says_so),
        PLACE_TEST(load_of_a_file_in_place_of_the_directory_says_so),
        PLACE_TEST(load_of_a_large_file_refuses_it),
        PLACE_TEST(load_of_many_files_takes_so_many),
        PLACE_TEST(load_of_an_unreadable_file_says_so),
        cmocka_unit_test(rows_have_all_that_people_see),
        PLACE_TEST(print_of_all_values_loads_to_the_same),
        PLACE_TEST(print_of_what_no_file_can_say_says_so),
        PLACE_TEST(print_of_the_sample_is_the_file_that_is_installed),
        PLACE_TEST(exchange_of_a_row_takes_the_value_along),
        cmocka_unit_test(parse_of_times_knows_units),
    };

    (void)guard_dir();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
