/*
 * Csv: as RFC 4180 has it, with a newline at the end of a line.
 *
 * Members come in the order in which they were set. Text is quoted if it has to be. A label that begins as a formula
 * gets an apostrophe before it: spreadsheets would compute it, and any client chooses its own.
 */
#include "client/ctl/csv.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static void print_text(const char *text)
{
    const char *formula = text[0] != '\0' && strchr("=+-@", text[0]) != NULL ? "'" : "";

    if (strpbrk(text, ",\"\r\n") == NULL) {
        (void)printf("%s%s", formula, text);
        return;
    }
    (void)printf("\"%s", formula);
    for (; *text != '\0'; text++) {
        if (*text == '"')
            (void)putchar('"');
        (void)putchar(*text);
    }
    (void)putchar('"');
}

static void print_value(const json_t *value)
{
    if (json_is_string(value))
        print_text(json_string_value(value));
    else if (json_is_boolean(value))
        (void)fputs(json_is_true(value) ? "true" : "false", stdout);
    else
        (void)printf("%" PRIu64, (uint64_t)json_integer_value(value));
}

void csv_print_names(json_t *object)
{
    const char *name;
    json_t *value;

    (void)fputs("time", stdout);
    json_object_foreach(object, name, value)
    {
        (void)printf(",%s", name);
    }
    (void)putchar('\n');
}

void csv_print_values(const char *time, json_t *object)
{
    const char *name;
    json_t *value;

    (void)fputs(time, stdout);
    json_object_foreach(object, name, value)
    {
        (void)putchar(',');
        print_value(value);
    }
    (void)putchar('\n');
}

const char *csv_now(char ret[32])
{
    struct timespec now;
    struct tm utc;
    size_t n;

    (void)clock_gettime(CLOCK_REALTIME, &now);
    n = strftime(ret, 32, "%Y-%m-%dT%H:%M:%S", gmtime_r(&now.tv_sec, &utc));
    (void)snprintf(ret + n, 32 - n, ".%03uZ", (unsigned)(now.tv_nsec / 1000000) % 1000);
    return ret;
}
