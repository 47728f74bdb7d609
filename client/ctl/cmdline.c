/*
 * Cmdline: argp parses, the tables of command.h say what there is.
 *
 * Called by main(). Options may stand before and behind the command, as they always could. --help is not argp's, since
 * it depends on the command. A wrong command line ends with status 2, a sentence on stderr and, with --json, the error
 * as an object on stdout: also where argp itself complains. Its words are heard, and said when the program exits.
 */
#include "client/ctl/cmdline.h"

#include <argp.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "client/ctl/ctl.h"
#include "client/ctl/help.h"
#include "image/imagewriter.h"
#include "proto/argtime.h"
#include "shm/limits.h"

#define OPTIONS_MAX 40u
#define ROWS_MAX    1000000u
#define MAX_PAUSE_MS 600000u

typedef struct parse {
    arguments *args;
    const char *command;
    bool help;
    bool group_is_next; /* --group was the last word, without a NAME */
    bool given[OPTIONS_MAX]; /* by row */
} parse;

/* --- wrong ones --- */

/* What argp says on stderr, to be said as every other error is. glibc's stderr is a variable. */
static struct {
    FILE *terminal; /* stderr itself; NULL: nothing is heard */
    char *text;
    size_t len;
    const char *program; /* argp's words begin with it, and ": " */
} heard;

static void hear(const char *program)
{
    FILE *stream = open_memstream(&heard.text, &heard.len);

    if (stream == NULL)
        return;
    heard.program = program;
    heard.terminal = stderr;
    stderr = stream;
}

static void hear_no_more(void)
{
    if (heard.terminal == NULL)
        return;
    (void)fclose(stderr);
    stderr = heard.terminal;
    heard.terminal = NULL;
}

static void say_wrong(const char *text)
{
    (void)ctl_fail(CTL_E_USAGE, 0, "%s", text);
    (void)fputs("Try 'goallocctl --help' or 'goallocctl help COMMAND'.\n", stderr);
}

__attribute__((noreturn, format(printf, 1, 2))) static void wrong(const char *format, ...)
{
    char text[1024];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    hear_no_more();
    say_wrong(text);
    exit(CTL_USAGE);
}

/* argp has found an error by itself. Its first line is what is wrong. */
static void on_end(int status, void *data)
{
    const char *text = "";

    (void)data;
    hear_no_more();
    if (status == CTL_USAGE && !ctl_has_failed()) {
        if (heard.text != NULL) {
            heard.text[strcspn(heard.text, "\n")] = '\0';
            text = heard.text;
        }
        if (heard.program != NULL && strncmp(text, heard.program, strlen(heard.program)) == 0)
            text += strlen(heard.program) + strspn(text + strlen(heard.program), ": ");
        say_wrong(text[0] == '\0' ? "the command line is wrong" : text);
    }
    free(heard.text);
    heard.text = NULL;
}

/* --- values --- */

/* False: it is no time that can be waited for. */
static bool parse_time(const char *arg, int *ret_ms)
{
    double ms;

    if (!argtime_parse(arg, ARGTIME_BARE, 1, &ms) || !(ms >= 1 && ms <= INT_MAX / 2))
        return false;
    *ret_ms = (int)ms;
    return true;
}

static void set_time(const char *option, const char *arg, int *ret_ms)
{
    if (!parse_time(arg, ret_ms))
        wrong("--%s: '%s' is no time: a number and ms, s or min, such as 500ms, from 1ms to 17000min", option, arg);
}

static void set_number(const char *option, const char *arg, uint32_t most, uint32_t *ret)
{
    if (!ctl_number(arg, strlen(arg), ret) || *ret == 0 || *ret > most)
        wrong("--%s: '%s' is no number from 1 to %u", option, arg, most);
}

static void set_size(const char *option, const char *arg, uint64_t most, uint64_t *ret)
{
    static const char units[] = "KMGT";
    char *end;
    uint64_t value = arg[0] >= '0' && arg[0] <= '9' ? strtoull(arg, &end, 10) : 0;
    const char *unit = value > 0 && *end != '\0' ? strchr(units, *end) : NULL;
    unsigned shift = unit != NULL ? 10 * (unsigned)(unit - units + 1) : 0;

    if (value == 0 || (unit == NULL ? *end != '\0' : end[1] != '\0') || value > most >> shift)
        wrong("--%s: '%s' is no size: a number of bytes up to 512G, with K, M or G behind it if wanted", option, arg);
    *ret = value << shift;
}

static void set_sort(arguments *args, const char *arg)
{
    args->sort_name = arg;
    args->sort = roster_key_named(arg);
    if (args->sort == NULL)
        wrong("--sort: there is no key '%s'; there are: %s", arg, roster_key_names());
}

/* --- parsing --- */

static void set_option(parse *p, int key, char *arg)
{
    arguments *args = p->args;
    uint32_t columns;

    switch (key) {
    case 's':
        args->who.socket_path = arg;
        break;
    case 'j':
        args->json = true;
        ctl_errors_as_json();
        break;
    case 't':
        set_time("timeout", arg, &args->who.timeout_ms);
        args->timeout_given = true;
        break;
    case 'w':
        set_number("width", arg, 1000, &columns);
        ctl_set_width(columns);
        break;
    case 'y':
        args->yes = true;
        break;
    case 'd':
        args->state_dir = arg;
        break;
    case OPTION_END:
        args->end = true;
        break;
    case OPTION_SAVE:
        args->save = true;
        break;
    case OPTION_LEVEL:
        if (!ctl_number(arg, strlen(arg), &args->level) || args->level > IMAGE_LEVEL_MAX)
            wrong("--level: '%s' is no number from 0 to %u", arg, IMAGE_LEVEL_MAX);
        args->level_given = true;
        break;
    case OPTION_CLASSES:
        args->classes = true;
        break;
    case 'l':
        args->live = true;
        break;
    case 'g':
        args->by_group |= arg == NULL;
        args->group = arg;
        break;
    case 'S':
        set_sort(args, arg);
        break;
    case 'r':
        args->reverse = true;
        break;
    case 'n':
        set_number("rows", arg, ROWS_MAX, &args->nrows);
        break;
    case OPTION_SPANS:
        args->spans = true;
        break;
    case 'i':
        set_time("interval", arg, &args->interval_ms);
        break;
    case '1':
        args->once = true;
        break;
    case 'c':
        set_number("count", arg, UINT32_MAX - 1, &args->count);
        break;
    case OPTION_CHANGES:
        args->changes = true;
        break;
    case OPTION_CSV:
        args->csv = true;
        break;
    case OPTION_SESSIONS:
        args->sessions = true;
        break;
    case OPTION_SVG:
        args->svg = arg;
        break;
    case OPTION_SESSION:
        set_number("session", arg, SHM_SESSIONS_MAX - 1, &args->session);
        break;
    case OPTION_LABEL:
        args->label = arg;
        break;
    case OPTION_ALL:
        args->all = true;
        break;
    case OPTION_RATE:
        set_size("rate", arg, 512 * GIB, &args->rate);
        break;
    case OPTION_TYPE:
        args->type = arg;
        break;
    case OPTION_TOP:
        args->top = true;
        break;
    case OPTION_FREE:
        args->free_them = true;
        break;
    case OPTION_WHY:
        args->why = arg;
        break;
    case OPTION_MAX_PAUSE:
        set_number("max-pause", arg, MAX_PAUSE_MS, &args->max_pause_ms);
        break;
    case OPTION_OFFSETS:
        args->offsets = true;
        break;
    case OPTION_TRUST_KERNEL:
        args->trust_kernel = true;
        break;
    case 'h':
        p->help = true;
        break;
    case OPTION_USAGE:
        help_usage();
        exit(CTL_OK);
    default: /* 'V' */
        (void)printf("goallocctl %s\n", GOALLOC_VERSION);
        exit(CTL_OK);
    }
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    parse *p = state->input;

    if (key == ARGP_KEY_ARG) {
        const command *c = p->command != NULL ? command_named(p->command) : NULL;

        if (p->command == NULL) {
            p->command = arg;
        } else if (p->group_is_next && c != NULL && c->named_group) {
            p->args->group = arg;
            p->args->by_group = false;
        } else if (p->args->nwords < COMMAND_WORDS_MAX) {
            p->args->words[p->args->nwords++] = arg;
        } else {
            wrong("'%s': too many arguments", arg);
        }
        p->group_is_next = false;
        return 0;
    }
    p->group_is_next = key == 'g' && arg == NULL;
    if (key == '?')
        key = 'h';
    for (size_t i = 0; option_rows[i].name != NULL; i++) {
        if (option_rows[i].key != key)
            continue;
        p->given[i] = true;
        set_option(p, key, arg);
        return 0;
    }
    return ARGP_ERR_UNKNOWN;
}

static void fill_options(struct argp_option ret[OPTIONS_MAX + 2])
{
    size_t n = 0;

    for (const option_row *row = option_rows; row->name != NULL && n < OPTIONS_MAX; row++, n++)
        ret[n] = (struct argp_option){ .name = row->name,
                                       .key = row->key,
                                       .arg = row->value,
                                       .flags = row->optional ? OPTION_ARG_OPTIONAL : 0 };
    ret[n++] = (struct argp_option){ .key = '?' };
    ret[n] = (struct argp_option){ 0 };
}

/* What the command can't take. */
static void check(const parse *p, const command *c)
{
    arguments *args = p->args;

    for (size_t i = 0; option_rows[i].name != NULL; i++) {
        if (p->given[i] && !command_has(c, &option_rows[i]))
            wrong("%s has no option --%s (it is for: %s)", c->name, option_rows[i].name, option_rows[i].commands);
    }
    if (args->by_group && args->group == NULL && args->nwords == 1 && c->words_max == 0) { /* --group NAME */
        args->group = args->words[--args->nwords];
        args->by_group = false;
    }
    if (args->nwords > c->words_max)
        wrong("'%s': %s takes %s", args->words[c->words_max], c->name,
              c->words_max == 0 ? "no argument: one command is enough" : "no more arguments");
    if (args->nwords < c->words_min || (c->set != NULL && !c->set(args)))
        wrong("%s", c->wanted);
}

const command *cmdline_parse(int argc, char **argv, arguments *ret)
{
    struct argp_option options[OPTIONS_MAX + 2];
    const struct argp argp = { .options = options, .parser = parse_option };
    parse p = { .args = ret };
    const command *c;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0 || strcmp(argv[i], "-j") == 0)
            ctl_errors_as_json(); /* also for what is wrong before it */
    }
    *ret = (arguments){ .who = { .socket_path = getenv("GOALLOC_SOCKET"), .timeout_ms = CMDLINE_TIMEOUT_MS },
                        .interval_ms = 1000 };
    if (ret->who.socket_path == NULL)
        ret->who.socket_path = SHM_SOCKET_PATH;
    (void)on_exit(on_end, NULL);
    argp_err_exit_status = CTL_USAGE;
    fill_options(options);
    hear(argv[0]);
    (void)argp_parse(&argp, argc, argv, ARGP_NO_HELP | ARGP_IN_ORDER, NULL, &p);
    hear_no_more();
    c = p.command == NULL ? NULL : command_named(p.command);
    if (p.help && (p.command == NULL || c != NULL)) {
        help_show(c, ret->json);
        exit(CTL_OK);
    }
    if (p.command == NULL)
        wrong("no command given");
    if (c == NULL)
        wrong("unknown command '%s'", p.command);
    check(&p, c);
    ret->who.until = deadline_in(ret->who.timeout_ms);
    return c;
}
