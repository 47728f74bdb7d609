/*
 * goallocctl: asks a running goallocd. It speaks the protocol without attaching, so it is no session and maps nothing.
 *
 * One command, answered as a table or with --json as one object. Exit status 0, 1 if the daemon could not be asked or
 * refused, 2 for a wrong command line. The commands are in the other files.
 */
#include <argp.h>
#include <errno.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/ctl/ctl.h"
#include "proto/channel.h"

#define DEFAULT_SOCKET "/run/goallocd/goallocd.sock"
#define TIMEOUT_MS     60000 /* releasing a large heap takes its time */

static channel ch = { .fd = -1 };

Goallocd__Reply *ctl_ask(const arguments *args, Goallocd__Request *request, Goallocd__Reply__ResultCase kind)
{
    static uint8_t out[FRAME_BYTES_MAX];
    deadline until = deadline_in(TIMEOUT_MS);
    Goallocd__Reply *reply;
    const uint8_t *payload;
    size_t len;
    int r = ch.fd >= 0 ? 0 : channel_connect(&ch, args->socket_path, until);

    request->id = 1;
    if (r == 0)
        r = channel_send(&ch, out, frame_pack(&request->base, out, sizeof(out)), until);
    if (r == 0)
        r = channel_recv(&ch, &payload, &len, until);
    if (r < 0) {
        (void)fprintf(stderr, "goallocctl: %s: %s\n", args->socket_path,
                      r == -ECONNREFUSED ? "no daemon serves this socket" : strerror(-r));
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

int ctl_print_json(json_t *object)
{
    int r = object == NULL ? -1 : json_dumpf(object, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER);

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
    { "socket", 's', "PATH", 0, "The daemon's socket (default: $GOALLOC_SOCKET, else " DEFAULT_SOCKET ")", 0 },
    { "json", 'j', NULL, 0, "Print JSON", 0 },
    { 0 },
};

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
               "  sessions  attached processes, and those that have ended, with the objects that they left behind\n"
               "  roots     named objects\n"
               "  classes   the same by size class: objects, allocs and frees, unused memory\n"
               "  heap-map  a picture of the arena: what is in use, free, released\n"
               "  scavenge  sweep, and give all free pages back to the system\n"
               "  trim      ask all sessions to give back the spans that they hold idle\n"
               "  check     have the daemon check its tables; nobody is served meanwhile\n"
               "  ping      is the daemon there, and which version",
    };
    arguments args = { .socket_path = getenv("GOALLOC_SOCKET") };

    (void)setlocale(LC_CTYPE, "");
    if (args.socket_path == NULL)
        args.socket_path = DEFAULT_SOCKET;
    argp_err_exit_status = 2;
    (void)argp_parse(&argp, argc, argv, 0, NULL, &args);
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        if (strcmp(args.command, commands[i].name) == 0)
            return commands[i].run(&args);
    }
    (void)fprintf(stderr, "goallocctl: unknown command '%s'; see goallocctl --help\n", args.command);
    return 2;
}
