/*
 * Ctl: numbers and foreign text, as a table or as JSON shows them. Called by the commands; no state but the buffers of
 * ctl_bytes().
 */
#include "client/ctl/ctl.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *ctl_bytes(uint64_t bytes)
{
    static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
    static char texts[4][32];
    static unsigned turn;
    char *text = texts[turn++ % 4];
    double value = (double)bytes;
    size_t u = 0;

    while (value >= 1024 && u + 1 < sizeof(units) / sizeof(units[0])) {
        value /= 1024;
        u++;
    }
    (void)snprintf(text, sizeof(texts[0]), "%.*f %s", u == 0 ? 0 : 1, value, units[u]);
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

bool ctl_confirm(const char *question, bool yes)
{
    char answer[16];

    if (yes)
        return true;
    if (!isatty(STDIN_FILENO)) {
        (void)fprintf(stderr, "goallocctl: nobody can be asked here; say --yes\n");
        return false;
    }
    (void)fprintf(stderr, "%s [y/N] ", question);
    if (fgets(answer, sizeof(answer), stdin) != NULL && (answer[0] == 'y' || answer[0] == 'Y'))
        return true;
    (void)fprintf(stderr, "goallocctl: nothing has been done\n");
    return false;
}

/* True if there is a control character above ASCII at c: C2 80 to C2 9F. */
static bool is_high_control(const unsigned char *c)
{
    return c[0] == 0xc2 && c[1] >= 0x80 && c[1] <= 0x9f;
}

bool ctl_json_print(const json_t *object)
{
    char *text = json_dumps(object, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
    bool whole = text != NULL;

    for (const unsigned char *c = (const unsigned char *)text; whole && *c != '\0'; c++) {
        if (is_high_control(c))
            whole = printf("\\u00%02x", *++c) > 0;
        else if (*c == 0x7f)
            whole = printf("\\u007f") > 0;
        else
            whole = putchar(*c) != EOF;
    }
    free(text);
    return whole && putchar('\n') != EOF;
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

bool ctl_json_set(json_t *object, const char *name, uint64_t value)
{
    return json_object_set_new(object, name, json_integer((json_int_t)value)) == 0;
}

bool ctl_json_set_text(json_t *object, const char *name, const char *text)
{
    return json_object_set_new(object, name, json_string(text)) == 0;
}

bool ctl_json_append(json_t *object, const char *name, const Goallocd__Reply *reply, size_t n, ctl_json_item *item)
{
    json_t *list = json_object_get(object, name);
    bool whole = list != NULL || json_object_set_new(object, name, list = json_array()) == 0;

    for (size_t i = 0; whole && i < n; i++)
        whole = json_array_append_new(list, item(reply, i)) == 0;
    return whole;
}

const char *ctl_plain_text(const char *text, char *ret, size_t cap)
{
    json_t *string = json_string(text); /* NULL: no UTF-8, or no memory; then no JSON is printed either */
    bool utf8 = string != NULL;
    size_t used = 0;

    json_decref(string);
    for (const unsigned char *c = (const unsigned char *)text; *c != '\0' && used + 1 < cap; c++) {
        if (is_high_control(c)) { /* CSI, and more */
            ret[used++] = '?';
            c++;
        } else if (*c < ' ' || *c == 0x7f || (!utf8 && *c >= 0x80)) {
            ret[used++] = '?';
        } else {
            ret[used++] = (char)*c;
        }
    }
    ret[used] = '\0';
    return ret;
}
