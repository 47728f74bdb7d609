/*
 * Help: goallocctl help, goallocctl COMMAND --help, from the tables of command.h.
 *
 * As JSON it has all that the tables have, so that what is written elsewhere (the manual, completion) can be compared
 * with it. Texts are wrapped at 79 columns, whatever the terminal has: it is read, and pasted.
 */
#include "client/ctl/help.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/ctl/commands.h"
#include "client/ctl/ctl.h"

#define COLUMNS 79u

/* Print text from column `at` on, with further lines indented like that. */
static void print_wrapped(const char *text, size_t at)
{
    size_t column = at;

    while (*text != '\0') {
        size_t len = strcspn(text, " \n");

        if (column > at && column + 1 + len > COLUMNS) {
            (void)printf("\n%*s", (int)at, "");
            column = at;
        } else if (column > at) {
            (void)putchar(' ');
            column++;
        }
        (void)printf("%.*s", (int)len, text);
        column += len;
        text += len;
        if (*text == '\n') {
            (void)printf("\n%*s", (int)at, "");
            column = at;
        }
        text += *text != '\0';
    }
    (void)putchar('\n');
}

void help_usage(void)
{
    (void)puts("Usage: goallocctl [OPTION...] COMMAND [ARGUMENT...]");
}

static void print_option(const option_row *row)
{
    char text[80];

    (void)snprintf(text, sizeof(text), "  %c%c%c --%s%s%s%s", row->key < OPTION_NO_LETTER ? '-' : ' ',
                   row->key < OPTION_NO_LETTER ? row->key : ' ', row->key < OPTION_NO_LETTER ? ',' : ' ', row->name,
                   row->value == NULL ? "" : row->optional ? "[=" : "=", row->value == NULL ? "" : row->value,
                   row->value != NULL && row->optional ? "]" : "");
    (void)printf("%-26s", text);
    if (strlen(text) >= 26)
        (void)printf("\n%26s", "");
    print_wrapped(row->help, 26);
}

static void show_all(void)
{
    help_usage();
    (void)puts("\nAsks a running goallocd, and shows what it answers.\n\nCommands:");
    for (const command *c = commands; c->name != NULL; c++) {
        char text[64];

        (void)snprintf(text, sizeof(text), "  %s%s%s", c->name, c->words != NULL ? " " : "",
                       c->words != NULL ? c->words : "");
        (void)printf("%-26s", text);
        if (strlen(text) >= 26)
            (void)printf("\n%26s", "");
        print_wrapped(c->summary, 26);
    }
    (void)puts("\nOptions for all commands:");
    for (const option_row *row = option_rows; row->name != NULL; row++) {
        if (row->commands == NULL)
            print_option(row);
    }
    (void)puts("\nExit status:");
    for (int status = 0; ctl_status_text(status) != NULL; status++) {
        (void)printf("  %d  ", status);
        print_wrapped(ctl_status_text(status), 5);
    }
    (void)puts("\nMore about a command: goallocctl help COMMAND");
}

static void show_one(const command *c)
{
    bool any = false;

    (void)printf("Usage: goallocctl [OPTION...] %s%s%s\n\n", c->name, c->words != NULL ? " " : "",
                 c->words != NULL ? c->words : "");
    print_wrapped(c->summary, 0);
    if (c->help != NULL) {
        (void)putchar('\n');
        print_wrapped(c->help, 0);
    }
    for (const option_row *row = option_rows; row->name != NULL; row++) {
        if (row->commands == NULL || !command_has(c, row))
            continue;
        if (!any)
            (void)puts("\nOptions:");
        any = true;
        print_option(row);
    }
    (void)puts("\nOptions for all commands: goallocctl --help");
}

/* --- as JSON --- */

/* The words of a text with blanks between them, as a list. */
static json_t *word_list(const char *text)
{
    json_t *list = json_array();

    for (; text != NULL && *text != '\0'; text += strspn(text, " ")) {
        size_t len = strcspn(text, " ");

        (void)json_array_append_new(list, json_stringn(text, len));
        text += len;
    }
    return list;
}

static json_t *option_json(const option_row *row)
{
    char letter[2] = { (char)(row->key < OPTION_NO_LETTER ? row->key : '\0'), '\0' };

    return json_pack("{s:s, s:s?, s:s?, s:b, s:o, s:s}", "name", row->name, "letter",
                     letter[0] == '\0' ? NULL : letter, "value", row->value, "value_is_optional", (int)row->optional,
                     "commands", row->commands == NULL ? json_null() : word_list(row->commands), "help", row->help);
}

static json_t *command_json(const command *c)
{
    return json_pack("{s:s, s:s?, s:o, s:s, s:s?}", "name", c->name, "arguments", c->words, "values",
                     word_list(c->values), "summary", c->summary, "help", c->help);
}

static bool show_json(const command *only)
{
    json_t *object = json_pack("{s:[], s:[], s:[]}", "commands", "options", "exit_status");
    bool whole = object != NULL;

    for (const command *c = commands; whole && c->name != NULL; c++) {
        if (only == NULL || only == c)
            whole = json_array_append_new(json_object_get(object, "commands"), command_json(c)) == 0;
    }
    for (const option_row *row = option_rows; whole && row->name != NULL; row++) {
        if (only == NULL || command_has(only, row))
            whole = json_array_append_new(json_object_get(object, "options"), option_json(row)) == 0;
    }
    for (int i = 0; whole && ctl_status_text(i) != NULL; i++)
        whole = json_array_append_new(json_object_get(object, "exit_status"),
                                      json_pack("{s:i, s:s}", "status", i, "meaning", ctl_status_text(i))) == 0;
    whole = whole && ctl_json_print(object);
    json_decref(object);
    return whole;
}

void help_show(const command *c, bool json)
{
    if (json) {
        if (!show_json(c))
            exit(ctl_fail(CTL_E_MEMORY, 0, "out of memory, or stdout can't be written"));
    } else if (c == NULL) {
        show_all();
    } else {
        show_one(c);
    }
    if (fflush(stdout) != 0)
        exit(ctl_fail(CTL_E_OUTPUT, 0, "stdout: %s", strerror(errno)));
}

int help_run(const arguments *args)
{
    const command *c = args->nwords == 0 ? NULL : command_named(args->words[0]);

    if (args->nwords > 0 && c == NULL)
        return ctl_fail(CTL_E_USAGE, 0, "there is no command '%s'", args->words[0]);
    help_show(c, args->json);
    return CTL_OK;
}
