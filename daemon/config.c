/*
 * Config: reads the files, and puts defaults, files and command line together; prints all as a file.
 *
 * Called by commandline.c at the start, and by serve/reload.c in a thread of its own. Calls options (what a key is, and
 * what its values are). Data: the path of the file that is read if none is named.
 *
 *   1. the file, then those of its directory .d whose names end with .conf, in the order of their bytes
 *   2. of each: opened without waiting (a FIFO has no file behind it, and would be waited for), looked at (a regular
 *      file of FILE_BYTES_MAX at most), read as a whole
 *   3. libinih takes it apart, from lines that next_line() hands it: it says which line is which, and refuses what
 *      libinih would cut or take for something else
 *   4. each key sets its row; a later file's value takes the place of an earlier one's; last the command line's
 *
 * Files are found by their paths each time, and nothing is kept open: so a file that an editor has replaced by another
 * one, and a directory that was made since, are what is read. A confined daemon may still do that, since Landlock keeps
 * it from writing and not from reading (privileges.c); it does it as who it is by then, without root's capabilities.
 *
 * What is wrong does not end the reading: all mistakes of all files are found at once, and with any of them there are
 * no options at all. Within a file a key stands once, but for lists, which add up; twice is more often an accident than
 * meant.
 */
#include "daemon/config.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ini.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "proto/keeper.h"
#include "shm/units.h"

#define FILE_BYTES_MAX (MIB)
#define FILES_MAX      256 /* in a directory */
#define LIST_COLUMNS   96u /* of a line with a list; libinih takes lines of some 200 bytes */
#define KEY_COLUMNS    190u /* of a key and its value */
#define HELP_COLUMNS   96u

/* A file that is being read, and what came of it. */
typedef struct reader {
    const char *path;
    const char *at; /* the next line */
    const char *end;
    unsigned line;         /* the number of the one before */
    enum option_section section;
    bool in_section;       /* of a line [section], known or not: its keys are looked at if it is known */
    bool expects_value;    /* the line before is to be KEY = VALUE, and libinih has not said that it is */
    unsigned lines[OPTIONS_MAX]; /* where a key stood; 0: not yet */
    options *o;
    config_mistakes *mistakes;
} reader;

/* --- where the file is --- */

const char *config_own_path(void)
{
    static const char program[] = "/bin/goallocd";
    static char path[PATH_MAX + sizeof(GOALLOC_CONFIG_BELOW_PREFIX)];
    char exe[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe));
    size_t prefix_len;

    if (path[0] != '\0')
        return path;
    if (GOALLOC_CONFIG_BELOW_PREFIX[0] == '/' || n <= (ssize_t)strlen(program) || n == (ssize_t)sizeof(exe) ||
        memcmp(exe + n - strlen(program), program, strlen(program)) != 0)
        return GOALLOC_CONFIG_PATH; /* it is not installed, or that file has its place wherever the program is */
    prefix_len = (size_t)n - strlen(program);
    if (prefix_len == strlen("/usr") && memcmp(exe, "/usr", prefix_len) == 0)
        prefix_len = 0;
    (void)snprintf(path, sizeof(path), "%.*s/%s", (int)prefix_len, exe, GOALLOC_CONFIG_BELOW_PREFIX);
    return path;
}

/* --- mistakes --- */

__attribute__((format(printf, 4, 5))) static void add_mistake(config_mistakes *m, const char *path, unsigned line,
                                                              const char *format, ...)
{
    char *text;
    size_t len;
    va_list args;

    if (m->n == CONFIG_MISTAKES_MAX) {
        m->nmore++;
        return;
    }
    text = m->texts[m->n++];
    len = (size_t)snprintf(text, CONFIG_MISTAKE_BYTES / 2, line > 0 ? "%s:%u: " : "%s: ", path, line);
    if (len >= CONFIG_MISTAKE_BYTES / 2)
        len = CONFIG_MISTAKE_BYTES / 2 - 1;
    va_start(args, format);
    (void)vsnprintf(text + len, CONFIG_MISTAKE_BYTES - len, format, args);
    va_end(args);
}

static void add_no_memory(config_mistakes *m)
{
    m->no_memory = true;
    add_mistake(m, "configuration", 0, "%s", option_no_memory);
}

/* What option_set() has said of the value of a key. */
static void add_wrong_value(config_mistakes *m, const char *path, unsigned line, const char *key, const char *why)
{
    if (strcmp(why, option_no_memory) == 0)
        add_no_memory(m);
    else
        add_mistake(m, path, line, "%s: %s", key, why);
}

#define mistake(r, ...) add_mistake((r)->mistakes, (r)->path, (r)->line, __VA_ARGS__)

void config_print_mistakes(const config_mistakes *mistakes, const char *before, FILE *out)
{
    for (size_t i = 0; i < mistakes->n; i++)
        (void)fprintf(out, "%s%s\n", before, mistakes->texts[i]);
    if (mistakes->nmore > 0)
        (void)fprintf(out, "%s%zu more mistakes\n", before, mistakes->nmore);
}

/* --- lines --- */

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

/* Control characters, of which NUL would end the line for libinih, and others a terminal takes for commands. */
static bool has_control(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (((unsigned char)text[i] < ' ' && text[i] != '\t') || text[i] == '\x7f')
            return true;
    }
    return false;
}

static const char *sections_text(char ret[128])
{
    size_t len = 0;

    for (unsigned i = 0; i < SECTIONS && len < 128; i++)
        len += (size_t)snprintf(ret + len, 128 - len, " [%s]", option_section_name((enum option_section)i));
    return ret;
}

/* A line that begins with a bracket. */
static void enter_section(reader *r, const char *text, size_t len)
{
    const char *close = memchr(text, ']', len);
    const char *rest = close == NULL ? text + len : close + 1;
    char name[32] = "";
    char names[128];

    r->in_section = true;
    r->section = SECTION_NONE;
    while (rest < text + len && is_blank(*rest))
        rest++;
    if (close == NULL || (rest < text + len && *rest != ';' && *rest != '#')) {
        mistake(r, "a section is [NAME], and nothing behind it");
        return;
    }
    if ((size_t)(close - text) - 1 < sizeof(name))
        memcpy(name, text + 1, (size_t)(close - text) - 1);
    for (unsigned i = 0; i < SECTIONS; i++) {
        if (strcmp(name, option_section_name((enum option_section)i)) == 0)
            r->section = (enum option_section)i;
    }
    if (r->section == SECTION_NONE)
        mistake(r, "there is no section [%.*s]; there are%s", (int)(close - text - 1 < 64 ? close - text - 1 : 64),
                text + 1, sections_text(names));
}

/* The line before was no KEY = VALUE: libinih has passed it over. */
static void end_line(reader *r)
{
    if (r->expects_value)
        mistake(r, "neither KEY = VALUE, nor [SECTION], nor a comment, which begins with #");
    r->expects_value = false;
}

/* Without a comment that begins with # behind a blank; libinih knows those with ; itself. */
static size_t without_comment(const char *text, size_t len)
{
    for (size_t i = 1; i < len; i++) {
        if (text[i] == '#' && is_blank(text[i - 1]))
            return i;
    }
    return len;
}

/*
 * libinih's reader, which gets one line each time, without what it need not see: blanks before it (which would make it
 * go on with the line before), a CR or a comment behind it, lines that are wrong.
 */
static char *next_line(char *to, int size, void *data)
{
    reader *r = data;

    end_line(r);
    while (r->at < r->end) {
        const char *newline = memchr(r->at, '\n', (size_t)(r->end - r->at));
        const char *text = r->at;
        size_t len = (size_t)((newline == NULL ? r->end : newline) - text);

        r->at = newline == NULL ? r->end : newline + 1;
        r->line++;
        for (; len > 0 && is_blank(*text); text++)
            len--;
        if (len > 0 && text[len - 1] == '\r')
            len--;
        if (len == 0 || *text == '#' || *text == ';')
            continue;
        len = without_comment(text, len);
        if (has_control(text, len)) {
            mistake(r, "a NUL byte or another control character: this is no line of text");
            continue;
        }
        if (len > (size_t)size - 2) {
            mistake(r, "the line has %zu bytes, and may have %d (a list may go on in another line of the same key)",
                    len, size - 2);
            continue;
        }
        if (*text == '[')
            enter_section(r, text, len);
        else
            r->expects_value = true;
        memcpy(to, text, len);
        memcpy(to + len, "\n", 2);
        return to;
    }
    return NULL;
}

/* --- keys --- */

/* Says why the key is none that may stand here. */
static bool may_stand(reader *r, const char *key, unsigned which)
{
    const option_row *row = which < OPTIONS_MAX ? option_row_at(which) : NULL;

    if (row != NULL && row->section == SECTION_NONE)
        mistake(r, "'%s' is for the command line alone", row->name);
    else if (row == NULL)
        mistake(r, "there is no key '%.64s'", key);
    else if (!r->in_section)
        mistake(r, "'%s' stands before the first [SECTION]; it belongs into [%s]", row->name,
                option_section_name(row->section));
    else if (row->section != r->section)
        mistake(r, "'%s' belongs into the section [%s]", row->name, option_section_name(row->section));
    else if (r->lines[which] != 0 && !row->adds)
        mistake(r, "'%s' stands in line %u already", row->name, r->lines[which]);
    else
        return true;
    return false;
}

/* libinih's handler. In a section that is unknown, which was said, values are looked at and keys are not. */
static int on_value(void *data, const char *section, const char *key, const char *value)
{
    reader *r = data;
    unsigned which = option_find(key);
    char origin[CONFIG_MISTAKE_BYTES];
    char why[OPTION_WHY_BYTES];
    bool add;

    (void)section; /* as libinih may have cut it */
    r->expects_value = false;
    if (r->in_section && r->section == SECTION_NONE) {
        if (which == OPTIONS_MAX || option_row_at(which)->section == SECTION_NONE)
            return 1;
    } else if (!may_stand(r, key, which)) {
        return 1;
    }
    add = r->lines[which] != 0;
    r->lines[which] = r->line;
    (void)snprintf(origin, sizeof(origin), "%s:%u", r->path, r->line);
    if (!option_set(r->o, which, value, origin, add, why))
        add_wrong_value(r->mistakes, r->path, r->line, key, why);
    return 1;
}

/* --- files --- */

/* What a reader takes. 0, -EISDIR, -EMEDIUMTYPE: no regular file; -E2BIG; -errno. */
static int check_kind(int fd)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return -errno;
    if (S_ISDIR(st.st_mode))
        return -EISDIR;
    if (!S_ISREG(st.st_mode))
        return -EMEDIUMTYPE;
    return st.st_size > (off_t)FILE_BYTES_MAX ? -E2BIG : 0;
}

/* All bytes of a file; it may grow meanwhile. 0, or as above; the caller frees *ret. */
static int read_whole(int fd, char **ret, size_t *ret_len)
{
    char *bytes;
    size_t len = 0;
    int r = check_kind(fd);

    if (r < 0)
        return r;
    bytes = malloc(FILE_BYTES_MAX + 1);
    if (bytes == NULL)
        return -ENOMEM;
    while (r == 0 && len <= FILE_BYTES_MAX) {
        ssize_t n = read(fd, bytes + len, FILE_BYTES_MAX + 1 - len);

        if (n == 0)
            break;
        if (n > 0)
            len += (size_t)n;
        else if (errno != EINTR)
            r = -errno;
    }
    if (r == 0 && len > FILE_BYTES_MAX)
        r = -E2BIG;
    if (r < 0) {
        free(bytes);
        return r;
    }
    *ret = bytes;
    *ret_len = len;
    return 0;
}

static void parse(reader *r, const char *bytes, size_t len)
{
    static const char bom[] = "\xef\xbb\xbf";

    r->at = bytes;
    r->end = bytes + len;
    if (len >= 3 && memcmp(bytes, bom, 3) == 0)
        r->at += 3;
    if (ini_parse_stream(next_line, r, on_value, r) == -2)
        add_no_memory(r->mistakes);
    end_line(r);
}

static void read_file(options *o, const char *path, bool is_optional, config_mistakes *mistakes)
{
    reader r = { .path = path, .section = SECTION_NONE, .o = o, .mistakes = mistakes };
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    size_t len = 0;
    char *bytes = NULL;
    int e = fd < 0 ? -errno : read_whole(fd, &bytes, &len);

    if (fd >= 0)
        (void)close(fd);
    if (e == -ENOENT && is_optional)
        return;
    if (e == -EMEDIUMTYPE || e == -ENXIO)
        mistake(&r, "it is not a regular file");
    else if (e == -E2BIG)
        mistake(&r, "it is larger than 1 MiB");
    else if (e == -ENOMEM)
        add_no_memory(mistakes);
    else if (e < 0)
        mistake(&r, "it can't be read: %s", strerror(-e));
    if (e < 0)
        return;
    parse(&r, bytes, len);
    free(bytes);
}

static int is_wanted(const struct dirent *entry)
{
    size_t len = strlen(entry->d_name);

    return entry->d_name[0] != '.' && len > 5 && strcmp(entry->d_name + len - 5, ".conf") == 0;
}

/* Names as bytes, whatever the locale is. */
static int compare_names(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static void read_directory(options *o, const char *dir, config_mistakes *mistakes)
{
    struct dirent **entries = NULL;
    int n = scandir(dir, &entries, is_wanted, compare_names);

    if (n < 0 && errno == ENOMEM)
        add_no_memory(mistakes);
    else if (n < 0 && errno != ENOENT)
        add_mistake(mistakes, dir, 0, "the directory can't be read: %s", strerror(errno));
    if (n > FILES_MAX)
        add_mistake(mistakes, dir, 0, "there are more than %d files in it", FILES_MAX);
    for (int i = 0; i < n; i++) {
        char *path;

        if (i < FILES_MAX && asprintf(&path, "%s/%s", dir, entries[i]->d_name) >= 0) {
            read_file(o, path, false, mistakes);
            free(path);
        } else if (i < FILES_MAX) {
            add_no_memory(mistakes);
        }
        free(entries[i]);
    }
    free(entries);
}

static void read_files(const config_source *source, options *o, config_mistakes *mistakes)
{
    char *dir;

    if (source->path[0] == '\0')
        return;
    read_file(o, source->path, source->is_optional, mistakes);
    if (asprintf(&dir, "%s.d", source->path) < 0) {
        add_no_memory(mistakes);
        return;
    }
    read_directory(o, dir, mistakes);
    free(dir);
}

/* What the command line says is right by itself: it was looked at when it was read. */
static void add_commandline(const options *from, options *o, config_mistakes *mistakes)
{
    char why[OPTION_WHY_BYTES];

    for (unsigned i = 0; i < options_count(); i++) {
        const option_value *value = &from->values[i];

        if (value->origin != NULL && !option_set(o, i, value->text, value->origin, false, why))
            add_wrong_value(mistakes, value->origin, 0, option_row_at(i)->name, why);
    }
    o->cold_start = from->cold_start;
    o->load_path = from->load_path;
    o->check_takeover = from->check_takeover;
    o->filter = from->filter;
}

/* A path of which a Unix socket is made, with that name in it: the kernel has room for so many bytes. */
static void check_socket_path(const options *o, const char *key, const char *name, config_mistakes *mistakes)
{
    const option_value *value = &o->values[option_find(key)];
    size_t most = sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1 - strlen(name);

    if (value->text != NULL && strlen(value->text) > most)
        add_mistake(mistakes, value->origin != NULL ? value->origin : "default", 0,
                    "%s: the path has %zu bytes, and for a Unix socket it may have %zu", key, strlen(value->text),
                    most);
}

bool config_load(const config_source *source, options *ret, config_mistakes *ret_mistakes)
{
    char why[OPTION_WHY_BYTES];
    options o;

    ret_mistakes->n = ret_mistakes->nmore = 0;
    ret_mistakes->no_memory = false;
    if (!options_init(&o)) {
        add_no_memory(ret_mistakes);
        return false;
    }
    read_files(source, &o, ret_mistakes);
    add_commandline(&source->commandline, &o, ret_mistakes);
    check_socket_path(&o, "socket", "", ret_mistakes);
    check_socket_path(&o, "state-dir", "/" KEEPER_SOCKET, ret_mistakes);
    if (ret_mistakes->n == 0 && !options_look_up(&o, why))
        add_wrong_value(ret_mistakes, "configuration", 0, "default", why);
    if (ret_mistakes->n == 0 && !options_agree(&o, why))
        add_mistake(ret_mistakes, source->path[0] != '\0' ? source->path : "command line", 0, "%s", why);
    if (ret_mistakes->n == 0)
        *ret = o;
    else
        options_end(&o);
    return ret_mistakes->n == 0;
}

/* --- printing --- */

static void print_help(const char *text, FILE *out)
{
    while (*text != '\0') {
        size_t len = strlen(text);

        if (len > HELP_COLUMNS) {
            for (len = HELP_COLUMNS; len > 0 && text[len] != ' ';)
                len--;
        }
        (void)fprintf(out, "# %.*s\n", (int)len, text);
        for (text += len; *text == ' ';)
            text++;
    }
}

/* A list may take several lines, each with some of its members. */
static void print_value(const option_row *row, const char *text, const char *before, FILE *out)
{
    while (row->adds && strlen(text) > LIST_COLUMNS) {
        const char *comma = memrchr(text, ',', LIST_COLUMNS);

        if (comma == NULL)
            break;
        (void)fprintf(out, "%s%s = %.*s\n", before, row->name, (int)(comma - text), text);
        text = comma + 1;
    }
    (void)fprintf(out, "%s%s =%s%s\n", before, row->name, text[0] != '\0' ? " " : "", text);
}

/* False: a file can't say it, since it is too long, or libinih would read another value. */
static bool can_be_written(const option_row *row, const char *text)
{
    size_t len = strlen(text);

    return (row->adds || strlen(row->name) + len < KEY_COLUMNS) && !has_control(text, len) &&
           (len == 0 || (!is_blank(text[0]) && !is_blank(text[len - 1]) && text[0] != ';' && text[0] != '#')) &&
           strstr(text, " ;") == NULL && strstr(text, "\t;") == NULL && strstr(text, " #") == NULL &&
           strstr(text, "\t#") == NULL;
}

static void print_row(const options *o, unsigned which, bool sample, FILE *out)
{
    const option_row *row = option_row_at(which);
    const option_value *value = &o->values[which];

    (void)fputc('\n', out);
    print_help(row->help, out);
    (void)fprintf(out, "# (%s; a %s changes it)\n", row->arg, row->reloads ? "reload" : "restart");
    if (!sample && value->text != NULL)
        (void)fprintf(out, "# from: %s\n", value->origin != NULL ? value->origin : "default");
    if (value->text == NULL)
        (void)fprintf(out, "#%s =\n", row->name);
    else if (!sample && !can_be_written(row, value->text))
        (void)fprintf(out, "# what it is can't be said in a file\n");
    else
        print_value(row, value->text, sample && value->origin == NULL ? "#" : "", out);
}

void config_print(const options *o, bool sample, FILE *out)
{
    char files[PATH_MAX + 256];

    print_help("Configuration of goallocd: see goallocd.conf(5).", out);
    (void)snprintf(files, sizeof(files),
                   "Files in %s.d that end with .conf come after this one, and the last value wins; the command line "
                   "wins over all. 'goallocd --check-config' says what is wrong, and 'goallocctl reload' has a running "
                   "goallocd take what it can.", config_own_path());
    print_help(files, out);
    print_help("SIZE: a number, and K, M, G or T for powers of 1024 (512M, 64G). TIME: a number and us, ms, s or min "
               "(250us, 100ms, 5s). A comment begins with # or ;, first in the line or behind a blank.", out);
    for (unsigned section = 0; section < SECTIONS; section++) {
        (void)fprintf(out, "\n[%s]\n", option_section_name((enum option_section)section));
        for (unsigned i = 0; i < options_count(); i++) {
            if (option_row_at(i)->section == section)
                print_row(o, i, sample, out);
        }
    }
}
