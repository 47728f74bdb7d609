/*
 * Ctl: numbers and foreign text, as a table or as JSON shows them, and errors.
 *
 * Called by the commands. Its state is the buffers of numbers, and what the command line has said once: the width, and
 * that errors are JSON.
 *
 * Labels, names of groups and roots, and the daemon's sentences are foreign: a client chooses them, and the daemon that
 * answers may be any program. Whatever is in them reaches the terminal through ctl_plain_text(), or as JSON through
 * ctl_json_print(), which leaves nothing in it that moves a cursor, changes a colour or turns the direction of a line.
 */
#include "client/ctl/ctl.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unictype.h>
#include <unistd.h>
#include <unistr.h>
#include <uniwidth.h>

#define LINE_BYTES 1024u

/* --- failing --- */

static const struct {
    const char *code;
    enum ctl_status status;
} errors[CTL_ERRORS] = {
    [CTL_E_USAGE] = { "usage", CTL_USAGE },
    [CTL_E_NO_DAEMON] = { "no-daemon", CTL_NO_DAEMON },
    [CTL_E_TIMEOUT] = { "timeout", CTL_FAILED },
    [CTL_E_CONNECTION] = { "connection", CTL_FAILED },
    [CTL_E_REFUSED] = { "refused", CTL_FAILED },
    [CTL_E_NOT_UNDERSTOOD] = { "not-understood", CTL_FAILED },
    [CTL_E_NOT_CONFIRMED] = { "not-confirmed", CTL_FAILED },
    [CTL_E_KEEPER] = { "keeper", CTL_FAILED },
    [CTL_E_IMAGE] = { "image", CTL_FAILED },
    [CTL_E_MEMORY] = { "out-of-memory", CTL_FAILED },
    [CTL_E_OUTPUT] = { "output", CTL_FAILED },
};

static bool errors_are_json;
static bool has_failed;

const char *ctl_status_text(int status)
{
    static const char *const texts[] = {
        [CTL_OK] = "it is done",
        [CTL_FAILED] = "the daemon refused, did not answer in time or found its tables to differ, or nobody agreed",
        [CTL_USAGE] = "the command line is wrong",
        [CTL_NO_DAEMON] = "no daemon serves the socket",
    };

    return status >= 0 && (size_t)status < sizeof(texts) / sizeof(texts[0]) ? texts[status] : NULL;
}

void ctl_errors_as_json(void)
{
    errors_are_json = true;
}

bool ctl_has_failed(void)
{
    return has_failed;
}

int ctl_fail(enum ctl_error why, int number, const char *format, ...)
{
    char text[LINE_BYTES];
    char plain[LINE_BYTES];
    va_list args;
    json_t *object;

    has_failed = true;
    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    (void)fputs("goallocctl: ", stderr);
    ctl_print_lines(text, stderr);
    if (!errors_are_json)
        return (int)errors[why].status;
    object = json_pack("{s:{s:s, s:s, s:i}}", "error", "code", errors[why].code, "message",
                       ctl_plain_text(text, plain, sizeof(plain)), "status", (int)errors[why].status);
    if (object != NULL && number != 0)
        (void)ctl_json_set(json_object_get(object, "error"), "errno", (uint64_t)number);
    if (object != NULL)
        (void)ctl_json_print(object);
    json_decref(object);
    (void)fflush(stdout);
    return (int)errors[why].status;
}

/* --- numbers --- */

static char *next_buffer(size_t *ret_size)
{
    static char texts[8][32];
    static unsigned turn;

    *ret_size = sizeof(texts[0]);
    return texts[turn++ % 8];
}

/* value in the largest unit that it has one of. */
static const char *in_units(uint64_t value, double base, const char *const *units, size_t nunits)
{
    size_t size;
    char *text = next_buffer(&size);
    double shown = (double)value;
    size_t u = 0;

    while (shown >= base && u + 1 < nunits) {
        shown /= base;
        u++;
    }
    (void)snprintf(text, size, "%.*f%s", u == 0 ? 0 : 1, shown, units[u]);
    return text;
}

const char *ctl_bytes(uint64_t bytes)
{
    static const char *const units[] = { " B", " KiB", " MiB", " GiB", " TiB" };

    return in_units(bytes, 1024, units, 5);
}

const char *ctl_size(uint64_t bytes)
{
    static const char *const units[] = { "", "K", "M", "G", "T", "P", "E" };

    return in_units(bytes, 1024, units, 7);
}

/* All its digits if it is below that. */
static const char *digits_or_units(uint64_t n, uint64_t below)
{
    static const char *const units[] = { "", "k", "M", "G", "T", "P", "E" };
    size_t size;
    char *text;

    if (n >= below)
        return in_units(n, 1000, units, 7);
    text = next_buffer(&size);
    (void)snprintf(text, size, "%" PRIu64, n);
    return text;
}

const char *ctl_count(uint64_t n)
{
    return digits_or_units(n, UINT64_C(10000000000));
}

const char *ctl_short(uint64_t n)
{
    return digits_or_units(n, 1000000);
}

const char *ctl_age(uint64_t ms)
{
    size_t size;
    char *text = next_buffer(&size);
    uint64_t s = ms / 1000;

    if (s < 60)
        (void)snprintf(text, size, "%" PRIu64 "s", s);
    else if (s < 3600)
        (void)snprintf(text, size, "%" PRIu64 "m%02" PRIu64 "s", s / 60, s % 60);
    else if (s < 86400)
        (void)snprintf(text, size, "%" PRIu64 "h%02" PRIu64 "m", s / 3600, s / 60 % 60);
    else if (s < UINT64_C(86400) * 100)
        (void)snprintf(text, size, "%" PRIu64 "d%02" PRIu64 "h", s / 86400, s / 3600 % 24);
    else
        (void)snprintf(text, size, "%" PRIu64 "d", s / 86400);
    return text;
}

bool ctl_number(const char *text, size_t len, uint32_t *ret)
{
    uint64_t value = 0;

    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9' || value > UINT32_MAX)
            return false;
        value = value * 10 + (uint64_t)(text[i] - '0');
    }
    *ret = (uint32_t)value;
    return len > 0 && value <= UINT32_MAX;
}

/* --- foreign text --- */

/* Controls, formats (which turn the direction of what follows), and what no font can be expected to show. */
static bool has_no_shape(ucs4_t c)
{
    return uc_is_general_category_withtable(c, UC_CATEGORY_MASK_C | UC_CATEGORY_MASK_Zl | UC_CATEGORY_MASK_Zp);
}

const char *ctl_plain_text(const char *text, char *ret, size_t cap)
{
    const uint8_t *at = (const uint8_t *)text;
    size_t left = strlen(text);
    size_t used = 0;

    while (left > 0) {
        ucs4_t c;
        int n = u8_mbtoucr(&c, at, left);
        size_t nbytes = n > 0 ? (size_t)n : 1;
        bool plain = n > 0 && !has_no_shape(c);

        if (used + (plain ? nbytes : 1) + 1 > cap)
            break;
        if (plain)
            memcpy(ret + used, at, nbytes);
        else
            ret[used] = '?';
        used += plain ? nbytes : 1;
        at += nbytes;
        left -= nbytes;
    }
    ret[used] = '\0';
    return ret;
}

/* Bytes of text that take at most that many columns. *ret_columns: how many they take. */
static size_t fitting(const char *text, size_t columns, size_t *ret_columns)
{
    const uint8_t *start = (const uint8_t *)text;
    const uint8_t *at = start;
    const uint8_t *next;
    size_t used = 0;
    ucs4_t c;

    while ((next = u8_next(&c, at)) != NULL) {
        int width = uc_width(c, "UTF-8");
        size_t taken = width > 0 ? (size_t)width : 0;

        if (used + taken > columns)
            break;
        used += taken;
        at = next;
    }
    *ret_columns = used;
    return (size_t)(at - start);
}

char *ctl_fit(char *text, size_t columns)
{
    size_t used;
    size_t len = fitting(text, columns, &used);

    if (text[len] == '\0' || columns == 0) {
        text[len] = '\0';
        return text;
    }
    len = fitting(text, columns - 1, &used);
    text[len] = '+'; /* in the place of what did not fit, which has a byte at least */
    text[len + 1] = '\0';
    return text;
}

char *ctl_pad(char *text, size_t cap, size_t columns)
{
    size_t used;
    size_t len;

    (void)ctl_fit(text, columns);
    len = fitting(text, columns, &used);
    for (; used < columns && len + 1 < cap; used++)
        text[len++] = ' ';
    text[len] = '\0';
    return text;
}

static size_t width_given;

void ctl_set_width(size_t columns)
{
    width_given = columns;
}

size_t ctl_width(void)
{
    const char *columns = getenv("COLUMNS");
    struct winsize size;
    uint32_t n;

    if (width_given != 0)
        return width_given;
    if (isatty(STDOUT_FILENO) && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
        return size.ws_col;
    if (columns != NULL && ctl_number(columns, strlen(columns), &n) && n > 0)
        return n;
    return isatty(STDOUT_FILENO) ? 80 : LINE_BYTES;
}

void ctl_print_row(const char *format, ...)
{
    char line[LINE_BYTES];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    (void)puts(ctl_fit(line, ctl_width()));
}

void ctl_print_lines(const char *text, FILE *out)
{
    char line[512];
    char plain[512];

    while (*text != '\0') {
        size_t len = strcspn(text, "\n");
        size_t part = len < sizeof(line) ? len : sizeof(line) - 1;

        memcpy(line, text, part);
        line[part] = '\0';
        (void)fprintf(out, "%s\n", ctl_plain_text(line, plain, sizeof(plain)));
        text += len + (text[len] == '\n');
    }
}

bool ctl_confirm(const char *question, bool yes)
{
    char answer[16];

    if (yes)
        return true;
    if (!isatty(STDIN_FILENO)) {
        (void)ctl_fail(CTL_E_NOT_CONFIRMED, 0, "nobody can be asked here; say --yes");
        return false;
    }
    (void)fprintf(stderr, "%s [y/N] ", question);
    if (fgets(answer, sizeof(answer), stdin) != NULL && (answer[0] == 'y' || answer[0] == 'Y'))
        return true;
    (void)ctl_fail(CTL_E_NOT_CONFIRMED, 0, "nothing has been done");
    return false;
}

/* --- JSON --- */

/* A character of a JSON text, which is UTF-8; escaped if it has no shape. In such a text only blanks control. */
static bool print_json_character(const uint8_t *at, size_t len, ucs4_t c)
{
    if (c < 0x7f || !has_no_shape(c))
        return fwrite(at, 1, len, stdout) == len;
    if (c < 0x10000)
        return printf("\\u%04x", (unsigned)c) > 0;
    c -= 0x10000;
    return printf("\\u%04x\\u%04x", 0xd800u + (unsigned)(c >> 10), 0xdc00u + (unsigned)(c & 0x3ff)) > 0;
}

static bool print_json(const json_t *object, size_t flags)
{
    char *text = json_dumps(object, flags | JSON_PRESERVE_ORDER);
    const uint8_t *at = (const uint8_t *)text;
    const uint8_t *next;
    bool whole = text != NULL;
    ucs4_t c;

    for (; whole && (next = u8_next(&c, at)) != NULL; at = next)
        whole = print_json_character(at, (size_t)(next - at), c);
    free(text);
    return whole && putchar('\n') != EOF;
}

bool ctl_json_print(const json_t *object)
{
    return print_json(object, JSON_INDENT(2));
}

bool ctl_json_print_line(const json_t *object)
{
    return print_json(object, JSON_COMPACT);
}

bool ctl_json_set(json_t *object, const char *name, uint64_t value)
{
    return json_object_set_new(object, name, json_integer((json_int_t)value)) == 0;
}

bool ctl_json_set_text(json_t *object, const char *name, const char *text)
{
    return json_object_set_new(object, name, json_string(text)) == 0;
}

bool ctl_json_set_foreign(json_t *object, const char *name, const char *text)
{
    char plain[4096];

    return ctl_json_set_text(object, name, text) ||
           ctl_json_set_text(object, name, ctl_plain_text(text, plain, sizeof(plain)));
}

bool ctl_json_append(json_t *object, const char *name, const Goallocd__Reply *reply, size_t n, ctl_json_item *item)
{
    json_t *list = json_object_get(object, name);
    bool whole = list != NULL || json_object_set_new(object, name, list = json_array()) == 0;

    for (size_t i = 0; whole && i < n; i++)
        whole = json_array_append_new(list, item(reply, i)) == 0;
    return whole;
}
