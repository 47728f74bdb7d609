/*
 * goallocctl: asks a running goallocd. It speaks the protocol without attaching, so it is no session and maps nothing.
 *
 * One command, answered as a table or with --json as one object. Exit status 0, 1 if the daemon could not be asked,
 * refused, or did not answer in time, 2 for a wrong command line. The commands are in the other files.
 */
#include <argp.h>
#include <errno.h>
#include <limits.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/ctl/ctl.h"
#include "shm/limits.h"

static channel ch = { .fd = -1 };

static void print_failure(const arguments *args, int r)
{
    if (r == -ETIMEDOUT)
        (void)fprintf(stderr, "goallocctl: %s: the daemon did not answer within %g s\n", args->socket_path,
                      args->timeout_ms / 1000.0);
    else
        (void)fprintf(stderr, "goallocctl: %s: %s\n", args->socket_path,
                      r == -ECONNREFUSED ? "no daemon serves this socket" : strerror(-r));
}

Goallocd__Reply *ctl_ask(const arguments *args, Goallocd__Request *request, Goallocd__Reply__ResultCase kind)
{
    static uint8_t out[FRAME_BYTES_MAX];
    Goallocd__Reply *reply;
    const uint8_t *payload;
    size_t len;
    int r = ch.fd >= 0 ? 0 : channel_connect(&ch, args->socket_path, args->until);

    request->id = 1;
    if (r == 0)
        r = channel_send(&ch, out, frame_pack(&request->base, out, sizeof(out)), args->until);
    if (r == 0)
        r = channel_recv(&ch, &payload, &len, args->until);
    if (r < 0) {
        print_failure(args, r);
        return NULL;
    }
    reply = goallocd__reply__unpack(NULL, len, payload);
    channel_drop_frame(&ch);
    if (reply != NULL && reply->error == 0 && reply->result_case == kind)
        return reply;
    (void)fprintf(stderr, "goallocctl: %s\n",
                  reply == NULL || reply->error == 0 ? "the answer was not understood" : reply->message);
    if (reply != NULL)
        goallocd__reply__free_unpacked(reply, NULL);
    return NULL;
}

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

void ctl_print_bytes(const char *name, uint64_t bytes)
{
    (void)printf("%-22s %16" PRIu64 "  %s\n", name, bytes, ctl_bytes(bytes));
}

bool ctl_json_set(json_t *object, const char *name, uint64_t value)
{
    return json_object_set_new(object, name, json_integer((json_int_t)value)) == 0;
}

/* What jansson takes for a string. Without memory nothing is; then no JSON is printed either. */
static bool is_utf8(const char *text)
{
    json_t *string = json_string(text);
    bool yes = string != NULL;

    json_decref(string);
    return yes;
}

const char *ctl_plain_text(const char *text, char *ret, size_t cap)
{
    bool utf8 = is_utf8(text);
    size_t used = 0;

    for (const unsigned char *c = (const unsigned char *)text; *c != '\0' && used + 1 < cap; c++) {
        if (c[0] == 0xc2 && c[1] >= 0x80 && c[1] <= 0x9f) { /* a control character above ASCII: CSI, and more */
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

int ctl_print_json(json_t *object)
{
    int r = object == NULL ? -1 : json_dumpf(object, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER);

    if (object == NULL) {
        (void)fprintf(stderr, "goallocctl: out of memory\n");
        return EXIT_FAILURE;
    }
    (void)printf("\n");
    json_decref(object);
    return r == 0 && fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

static const struct {
    const char *name;
    int (*run)(const arguments *args);
} commands[] = {
    { "stats", command_stats },       { "classes", command_classes }, { "heap-map", command_heap_map },
    { "scavenge", command_scavenge }, { "trim", command_trim },       { "ping", command_ping },
    { "check", command_check },       { "sessions", command_sessions },
    { "roots", command_roots },
};

__attribute__((visibility("default"))) const char *argp_program_version = "goallocctl " GOALLOC_VERSION;

static const struct argp_option option_table[] = {
    { "socket", 's', "PATH", 0, "The daemon's socket (default: $GOALLOC_SOCKET, else " SHM_SOCKET_PATH ")", 0 },
    { "json", 'j', NULL, 0, "Print JSON", 0 },
    { "timeout", 't', "TIME", 0,
      "How long the daemon may take to answer: a number and ms, s or min; seconds without a unit (default: 5s; "
      "scavenge: 60s if the daemon answers a ping within 5s)",
      0 },
    { 0 },
};

/* False: it is no time that can be waited for. */
static bool parse_timeout(const char *arg, int *ret_ms)
{
    static const struct {
        const char *unit;
        double ms;
    } units[] = { { "", 1000 }, { "ms", 1 }, { "s", 1000 }, { "min", 60000 } };
    char *end;
    double value = arg[0] >= '0' && arg[0] <= '9' ? strtod(arg, &end) : -1;

    for (size_t i = 0; value >= 0 && i < sizeof(units) / sizeof(units[0]); i++) {
        double ms = value * units[i].ms;

        if (strcmp(end, units[i].unit) != 0)
            continue;
        if (!(ms >= 1 && ms <= INT_MAX / 2))
            return false;
        *ret_ms = (int)ms;
        return true;
    }
    return false;
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    arguments *args = state->input;

    switch (key) {
    case 's':
        args->socket_path = arg;
        return 0;
    case 'j':
        args->json = true;
        return 0;
    case 't':
        if (!parse_timeout(arg, &args->timeout_ms))
            argp_error(state,
                       "--timeout: '%s' is no time: a number and ms, s or min, such as 500ms, from 1ms to 17000min",
                       arg);
        args->timeout_given = true;
        return 0;
    case ARGP_KEY_ARG:
        if (args->command != NULL)
            argp_error(state, "'%s': one command is enough", arg);
        args->command = arg;
        return 0;
    case ARGP_KEY_END:
        if (args->command == NULL)
            argp_error(state, "no command given");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

int main(int argc, char **argv)
{
    static const struct argp argp = {
        .options = option_table,
        .parser = parse_option,
        .args_doc = "COMMAND",
        .doc = "Asks a running goallocd.\vCommands:\n"
               "  stats     objects, memory, sessions and leases of the heap\n"
               "  sessions  attached processes, and those that have ended, with the objects that they left behind and\n"
               "            that still live\n"
               "  roots     named objects\n"
               "  classes   the same by size class: objects, allocs and frees, unused memory\n"
               "  heap-map  a picture of the arena: what is in use, free, released\n"
               "  scavenge  sweep, and give all free pages back to the system\n"
               "  trim      ask all sessions to give back the spans that they hold idle\n"
               "  check     have the daemon check its tables; nobody is served meanwhile\n"
               "  ping      is the daemon there, and which version",
    };
    arguments args = { .socket_path = getenv("GOALLOC_SOCKET"), .timeout_ms = CTL_TIMEOUT_MS };

    (void)setlocale(LC_CTYPE, "");
    if (args.socket_path == NULL)
        args.socket_path = SHM_SOCKET_PATH;
    argp_err_exit_status = 2;
    (void)argp_parse(&argp, argc, argv, 0, NULL, &args);
    args.until = deadline_in(args.timeout_ms);
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        if (strcmp(args.command, commands[i].name) == 0)
            return commands[i].run(&args);
    }
    (void)fprintf(stderr, "goallocctl: unknown command '%s'; see goallocctl --help\n", args.command);
    return 2;
}
