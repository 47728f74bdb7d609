/*
 * goallocctl: asks a running goallocd. It speaks the protocol without attaching, so it is no session and maps nothing.
 *
 * One request, one answer, as a table or with --json as one object. Exit status 0, 1 if the daemon could not be asked
 * or refused, 2 for a wrong command line.
 */
#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "proto/channel.h"
#include "proto/goallocd.pb-c.h"

#define DEFAULT_SOCKET "/run/goallocd/goallocd.sock"
#define TIMEOUT_MS     10000

typedef struct arguments {
    const char *socket_path;
    bool json;
    const char *command;
} arguments;

static channel ch;

/* Send a request and wait for its reply, which the caller frees. NULL: a message has been printed. */
static Goallocd__Reply *ask(const arguments *args, Goallocd__Request *request)
{
    static uint8_t out[FRAME_BYTES_MAX];
    deadline until = deadline_in(TIMEOUT_MS);
    Goallocd__Reply *reply;
    const uint8_t *payload;
    size_t len;
    int r = channel_connect(&ch, args->socket_path, until);

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
    if (reply == NULL || reply->error != 0) {
        (void)fprintf(stderr, "goallocctl: %s\n", reply == NULL ? "the answer was not understood" : reply->message);
        if (reply != NULL)
            goallocd__reply__free_unpacked(reply, NULL);
        return NULL;
    }
    return reply;
}

static void print_bytes(const char *name, uint64_t bytes)
{
    static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
    double value = (double)bytes;
    size_t u = 0;

    while (value >= 1024 && u + 1 < sizeof(units) / sizeof(units[0])) {
        value /= 1024;
        u++;
    }
    (void)printf("%-18s %16" PRIu64 "  %.1f %s\n", name, bytes, value, units[u]);
}

static int print_stats_json(const Goallocd__StatsReply *s)
{
    json_t *object = json_object();
    const struct {
        const char *name;
        uint64_t value;
    } fields[] = {
        { "live_objects", s->live_objects },       { "live_bytes", s->live_bytes },
        { "committed_bytes", s->committed_bytes }, { "released_bytes", s->released_bytes },
        { "metadata_bytes", s->metadata_bytes },   { "sessions", s->sessions },
        { "leased_spans", s->leased_spans },       { "roots", s->roots },
        { "inuse_spans", s->inuse_spans },         { "inuse_bytes", s->inuse_bytes },
        { "reserved_bytes", s->reserved_bytes },   { "limit_bytes", s->limit_bytes },
        { "rpcs", s->rpcs },                       { "uptime_ms", s->uptime_ms },
    };
    int r = object == NULL ? -1 : 0;

    for (size_t i = 0; r == 0 && i < sizeof(fields) / sizeof(fields[0]); i++)
        r = json_object_set_new(object, fields[i].name, json_integer((json_int_t)fields[i].value));
    if (r == 0)
        r = json_object_set_new(object, "version", json_string(s->version));
    if (r == 0)
        r = json_dumpf(object, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
    (void)printf("\n");
    json_decref(object);
    return r;
}

static void print_stats(const Goallocd__StatsReply *s)
{
    (void)printf("goallocd %s, up %.1f s, %" PRIu64 " requests served\n\n", s->version, (double)s->uptime_ms / 1000,
                 s->rpcs);
    (void)printf("%-18s %16" PRIu64 "\n", "live objects", s->live_objects);
    print_bytes("live", s->live_bytes);
    print_bytes("in use (pages)", s->inuse_bytes);
    print_bytes("committed", s->committed_bytes);
    print_bytes("released", s->released_bytes);
    print_bytes("metadata", s->metadata_bytes);
    print_bytes("reserved", s->reserved_bytes);
    if (s->limit_bytes != 0)
        print_bytes("memory limit", s->limit_bytes);
    (void)printf("%-18s %16" PRIu64 "\n", "sessions", s->sessions);
    (void)printf("%-18s %16" PRIu64 "\n", "leased spans", s->leased_spans);
    (void)printf("%-18s %16" PRIu64 "\n", "spans", s->inuse_spans);
    (void)printf("%-18s %16" PRIu64 "\n", "roots", s->roots);
}

static int command_stats(const arguments *args)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Stats body = GOALLOCD__STATS__INIT;
    Goallocd__Reply *reply;
    int r = 0;

    request.op_case = GOALLOCD__REQUEST__OP_STATS;
    request.stats = &body;
    reply = ask(args, &request);
    if (reply == NULL)
        return EXIT_FAILURE;
    if (reply->result_case != GOALLOCD__REPLY__RESULT_STATS) {
        (void)fprintf(stderr, "goallocctl: the answer was not understood\n");
        r = -1;
    } else if (args->json) {
        r = print_stats_json(reply->stats);
    } else {
        print_stats(reply->stats);
    }
    goallocd__reply__free_unpacked(reply, NULL);
    if (r != 0 || fflush(stdout) != 0)
        return EXIT_FAILURE;
    return EXIT_SUCCESS;
}

static const struct {
    const char *name;
    int (*run)(const arguments *args);
} commands[] = {
    { "stats", command_stats },
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
        .doc = "Asks a running goallocd.\vCommands:\n  stats    objects, memory, sessions and leases of the heap",
    };
    arguments args = { .socket_path = getenv("GOALLOC_SOCKET") };

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
