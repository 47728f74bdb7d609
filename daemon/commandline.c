/*
 * Commandline: argp's options, made of the table of options.c, and what is done for those that are no values.
 *
 * Called by main before anything else. Calls options and config. What is given here is kept by itself (a
 * config_source), so that a reload can read the files anew and the command line still wins.
 */
#include "daemon/commandline.h"

#include <argp.h>
#include <stdlib.h>
#include <string.h>

#include "shm/layout.h"

#define KEY_FIRST   0x1000 /* of the first row that has no short option */
#define PART_LIMITS 3

__attribute__((visibility("default"))) const char *argp_program_version = "goallocd " GOALLOC_VERSION;

typedef struct commandline {
    config_source *source;
    bool checks;
    bool prints;
    bool prints_sample;
} commandline;

/* --- the options --- */

static int key_of(unsigned which)
{
    const option_row *row = option_row_at(which);

    return row->key != 0 ? row->key : KEY_FIRST + (int)which;
}

static void do_act(commandline *c, enum option_act act, const char *arg, struct argp_state *state)
{
    options *o = &c->source->commandline;

    switch (act) {
    case ACT_CONFIG:
        c->source->path = arg;
        c->source->is_optional = false;
        return;
    case ACT_CHECK_CONFIG:
        c->checks = true;
        return;
    case ACT_PRINT_CONFIG:
        c->prints = true;
        c->prints_sample = arg != NULL;
        if (arg != NULL && strcmp(arg, "sample") != 0)
            argp_error(state, "--print-config: '%s' is not sample", arg);
        return;
    case ACT_LOAD:
        if (arg[0] == '\0')
            argp_error(state, "--load: a path is missing");
        o->load_path = arg;
        return;
    case ACT_COLD_START:
        o->cold_start = true;
        return;
    case ACT_CHECK_TAKEOVER:
        o->check_takeover = true;
        return;
    case ACT_NO_SECCOMP:
        o->filter = PRIVILEGES_NO_FILTER;
        return;
    case ACT_SECCOMP_KILL:
        o->filter = PRIVILEGES_FILTER_KILL;
        return;
    }
}

__attribute__((noreturn)) static void end_without_memory(void)
{
    (void)fprintf(stderr, "goallocd: %s\n", option_no_memory);
    exit(EXIT_FAILURE);
}

static void refuse(const struct argp_state *state, const option_row *row, const char *why)
{
    if (strcmp(why, option_no_memory) == 0)
        end_without_memory();
    argp_error(state, "--%s: %s", row->name, why);
}

static bool is_switch(const option_row *row)
{
    return row->arg != NULL && strcmp(row->arg, "yes|no") == 0;
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    static const char origin[] = "command line";
    commandline *c = state->input;
    options *o = &c->source->commandline;
    char why[OPTION_WHY_BYTES];

    if (key == ARGP_KEY_ARG)
        argp_error(state, "'%s': no arguments are expected", arg);
    for (unsigned i = 0; i < options_count(); i++) {
        const option_row *row = option_row_at(i);
        bool again = o->values[i].origin != NULL;

        if (key != key_of(i))
            continue;
        if (row->act != 0)
            do_act(c, row->act, arg, state);
        else if (!option_set(o, i, arg != NULL ? arg : "yes", origin, again, why))
            refuse(state, row, why);
        return 0;
    }
    return ARGP_ERR_UNKNOWN;
}

/* A text for --help: what it is, and the default. */
static const char *help_of(const option_row *row)
{
    char *text = NULL;

    if (row->preset == NULL || row->preset[0] == '\0' || is_switch(row) ||
        asprintf(&text, "%s (default: %s)", row->help, row->preset) < 0)
        return row->help;
    return text; /* for as long as the process lives */
}

/* Where it stands in --help. */
static int part_of(const option_row *row)
{
    static const int parts[SECTIONS + 1] = { [SECTION_GOALLOCD] = 1, [SECTION_MEMORY] = 1, [SECTION_LOG] = 1,
                                             [SECTION_ACCESS] = 2, [SECTION_LIMITS] = PART_LIMITS, [SECTION_NONE] = 4 };

    return parts[row->section];
}

static const struct argp_option *make_options(void)
{
    static struct argp_option made[OPTIONS_MAX + 2];
    size_t n = 0;

    for (unsigned i = 0; i < options_count(); i++) {
        const option_row *row = option_row_at(i);

        made[n++] = (struct argp_option){ .name = row->name,
                                          .key = key_of(i),
                                          .arg = row->arg,
                                          .flags = is_switch(row) || row->act == ACT_PRINT_CONFIG ? OPTION_ARG_OPTIONAL
                                                                                                  : 0,
                                          .doc = help_of(row),
                                          .group = part_of(row) };
    }
    made[n] = (struct argp_option){ .group = PART_LIMITS,
                                    .doc = "Limits of clients (goallocctl limits shows them with their use). Those of "
                                           "a user don't hold for root and the daemon's user:" };
    return made;
}

/* --- what comes of them --- */

__attribute__((noreturn)) static void end_by_mistakes(const config_mistakes *mistakes)
{
    config_print_mistakes(mistakes, "goallocd: ", stderr);
    exit(mistakes->no_memory ? EXIT_FAILURE : 2);
}

void commandline_parse(config_source *ret_source, options *ret, int argc, char **argv)
{
    static config_mistakes mistakes;
    const struct argp argp = {
        .options = make_options(),
        .parser = parse_option,
        .doc = "Owns one shared-memory heap and serves it to the processes that link libgoalloc."
               "\vOptions with a value can stand in the files, too, as keys of the same name. SIZE takes K, M, G or T, "
               "powers of 1024, TIME takes us, ms, s or min. The daemon stays in the foreground. SIGTERM and SIGINT "
               "end it; --on-stop says what becomes of the heap. SIGUSR1 ends it and leaves the heap to the next one. "
               "SIGHUP and 'goallocctl reload' have it read the files again. 'goallocctl drop' drops the heap and ends "
               "the daemon.",
    };
    commandline c = { .source = ret_source };

    *ret_source = (config_source){ .path = config_own_path(), .is_optional = true };
    argp_err_exit_status = 2;
    if (!options_init(&ret_source->commandline))
        end_without_memory();
    (void)argp_parse(&argp, argc, argv, 0, NULL, &c);
    if (!config_load(ret_source, ret, &mistakes))
        end_by_mistakes(&mistakes);
    if (c.prints)
        config_print(ret, c.prints_sample, stdout);
    if (c.checks || c.prints)
        exit(fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE);
}
