/*
 * command: finding a row of the tables. Help, completion and the command line look into them, and the tables name
 * these: so they are goallocctl.c's, and known here by where they are.
 */
#include "client/ctl/command.h"

#include <string.h>

command *commands;
const option_row *option_rows;

const command *command_named(const char *name)
{
    for (const command *c = commands; c->name != NULL; c++) {
        if (strcmp(name, c->name) == 0)
            return c;
    }
    return NULL;
}

bool command_has(const command *c, const option_row *option)
{
    size_t len = strlen(c->name);

    if (option->commands == NULL)
        return true;
    for (const char *at = option->commands; *at != '\0'; at += strspn(at, " ")) {
        size_t word = strcspn(at, " ");

        if (word == len && memcmp(at, c->name, len) == 0)
            return true;
        at += word;
    }
    return false;
}
