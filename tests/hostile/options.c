/*
 * Options: the command line, by argp. Called by main before anything else.
 */
#include "tests/hostile/options.h"

#include <argp.h>
#include <errno.h>
#include <stdlib.h>

enum { OPTION_ALL = 256, OPTION_BRIEF, OPTION_JSON, OPTION_LIST, OPTION_RUNS };

static const struct argp_option option_table[] = {
    { "list", OPTION_LIST, NULL, 0, "Name the attacks", 0 },
    { "attack", 'a', "NAME", 0, "Run this one", 0 },
    { "all", OPTION_ALL, NULL, 0, "Run all of them (the default)", 0 },
    { "seconds", 's', "N", 0, "How long each phase lasts: calm, attack, burn (default 5)", 0 },
    { "runs", OPTION_RUNS, "N", 0, "Run each so often; figures are medians (default 1)", 0 },
    { "attackers", 'n', "N", 0, "Processes that attack (default 2)", 0 },
    { "uid", 'u', "UID", 0, "Their user, if this program is root's (default 65534)", 0 },
    { "brief", OPTION_BRIEF, NULL, 0,
      "The attack alone, without figures: fails unless the daemon is whole afterwards and no honest client was hurt",
      0 },
    { "json", OPTION_JSON, NULL, 0, "Print one JSON object a run instead of a table", 0 },
    { 0 },
};

static unsigned parse_number(struct argp_state *state, const char *name, const char *text, unsigned long most)
{
    char *end;
    unsigned long value;

    errno = 0;
    value = strtoul(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || value < 1 || value > most)
        argp_error(state, "--%s takes a number from 1 to %lu, not '%s'", name, most, text);
    return (unsigned)value;
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    hostile_options *o = state->input;

    switch (key) {
    case OPTION_LIST:
        o->list = true;
        return 0;
    case 'a':
        o->attack = arg;
        return 0;
    case OPTION_ALL:
        o->attack = NULL;
        return 0;
    case 's':
        o->seconds = parse_number(state, "seconds", arg, 100000);
        return 0;
    case OPTION_RUNS:
        o->runs = parse_number(state, "runs", arg, 15);
        return 0;
    case 'n':
        o->nattackers = parse_number(state, "attackers", arg, ATTACKERS_MAX);
        return 0;
    case 'u':
        o->uid = parse_number(state, "uid", arg, UINT32_MAX - 1);
        return 0;
    case OPTION_BRIEF:
        o->brief = true;
        return 0;
    case OPTION_JSON:
        o->json = true;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

void options_parse(int argc, char **argv, hostile_options *ret)
{
    static const struct argp argp = {
        .options = option_table,
        .parser = parse_option,
        .doc = "Attacks a daemon of its own from processes of another user, while honest clients use it, check their "
               "data and measure.\vExits with 0 if no honest client was hurt and the daemon is as before.",
    };

    *ret = (hostile_options){ .seconds = 5, .runs = 1, .nattackers = 2, .uid = 65534 };
    (void)argp_parse(&argp, argc, argv, 0, NULL, ret);
}
