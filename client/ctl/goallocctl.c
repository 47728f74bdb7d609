/*
 * goallocctl: asks a running goallocd. It speaks the protocol without attaching, so it is no session and maps nothing.
 *
 * One command, answered as a table or with --json as one object. Exit status 0; 1 if the daemon could not be asked,
 * refused, did not answer in time, or found that its tables differ, or if nobody wanted what was asked before it is
 * done; 2 for a wrong command line. A command is a row of the table below (but for keeper, which asks no daemon:
 * keeper.c): what it asks for, and what shows the reply (commands.h). One driver, run(), asks and shows, until there is
 * nothing more to ask for. Replies are unpacked into one buffer, where each takes the place of the one before.
 */
#include <argp.h>
#include <errno.h>
#include <limits.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/ctl/commands.h"
#include "client/ctl/ctl.h"
#include "proto/channel.h"
#include "proto/wire.h"
#include "shm/limits.h"

/* What the daemon has without --timeout; and to release what is free, once it has shown that it answers. */
#define TIMEOUT_MS          5000
#define SCAVENGE_TIMEOUT_MS 60000

/* Unpacked, a list of roots with short names is 14 times as long as its frame. */
#define REPLY_BYTES_MAX (32u * FRAME_PAYLOAD_MAX)

typedef struct arguments {
    const char *socket_path;
    bool json;
    bool yes; /* do it without asking */
    bool end; /* keeper: end it */
    const char *state_dir;
    const char *command;
    const char *whose; /* of reclaim and disconnect; else NULL */
    int timeout_ms;
    bool timeout_given; /* by --timeout: it holds whatever the command does */
    deadline until;     /* by when the daemon must have answered all that the command asks */
} arguments;

typedef struct command {
    const char *name;
    Goallocd__Request request; /* the first one */
    Goallocd__Reply__ResultCase kind;
    const char *heading; /* of the table, printed before the daemon is asked; NULL: none */
    bool (*next)(Goallocd__Request *request, const Goallocd__Reply *reply); /* NULL: there is one reply */
    void (*text)(const Goallocd__Reply *reply);                             /* NULL: it prints nothing */
    bool (*json)(json_t *object, const Goallocd__Reply *reply);             /* NULL: the object stays empty */
    bool gathers; /* next() has gathered what is shown when the last reply is there */
    bool asks;    /* next() may ask the user, who takes time */
    const char *question; /* asked before it is done; NULL: it takes nothing away */
    bool patient; /* the daemon may take its time, once it has shown that it answers */
} command;

/* --- asking --- */

static void print_failure(const arguments *args, int r)
{
    if (r == -ETIMEDOUT)
        (void)fprintf(stderr, "goallocctl: %s: the daemon did not answer within %g s\n", args->socket_path,
                      args->timeout_ms / 1000.0);
    else
        (void)fprintf(stderr, "goallocctl: %s: %s\n", args->socket_path,
                      r == -ECONNREFUSED ? "no daemon serves this socket" : strerror(-r));
}

/*
 * Send a request and wait for its reply, which must be of that kind, until args->until. It is valid until the next one.
 * NULL: a message has been printed.
 */
static const Goallocd__Reply *ask(const arguments *args, Goallocd__Request *request, Goallocd__Reply__ResultCase kind)
{
    static channel ch = { .fd = -1 };
    static uint8_t out[FRAME_BYTES_MAX];
    static _Alignas(16) uint8_t memory[REPLY_BYTES_MAX];
    const uint8_t *payload;
    const Goallocd__Reply *reply;
    frame_bump bump;
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
    frame_bump_init(&bump, memory, sizeof(memory));
    reply = wire_unpack_reply(&bump, payload, len);
    channel_drop_frame(&ch);
    if (reply != NULL && reply->error == 0 && reply->result_case == kind)
        return reply;
    (void)fprintf(stderr, "goallocctl: %s: ", args->socket_path);
    ctl_print_lines(reply == NULL || reply->error == 0 ? "the answer was not understood" : reply->message, stderr);
    return NULL;
}

/* --- commands --- */

/* What a row asks, by a message with that body or an empty one, and the kind of reply. */
#define ASKS_BY(OP, op, body, KIND) .request = WIRE_REQUEST(OP, op, body), .kind = GOALLOCD__REPLY__RESULT_##KIND
#define ASKS(OP, op, Type, KIND)    ASKS_BY(OP, op, (&(Goallocd__##Type)GOALLOCD__##OP##__INIT), KIND)

static command commands[] = {
    { .name = "stats", ASKS(STATS, stats, Stats, STATS), .text = stats_text, .json = stats_json },
    { .name = "classes", ASKS(STATS, stats, Stats, STATS), .text = classes_text, .json = classes_json },
    { .name = "heap-map", ASKS_BY(HEAP_MAP, heap_map, &heap_map_first, HEAP_MAP), .next = heap_map_next,
      .text = heap_map_text, .json = heap_map_json, .gathers = true },
    { .name = "scavenge", ASKS(SCAVENGE, scavenge, Scavenge, SCAVENGE), .text = scavenge_text, .json = scavenge_json,
      .patient = true },
    { .name = "trim", ASKS(TRIM, trim, Trim, _NOT_SET) },
    { .name = "reclaim", ASKS_BY(RECLAIM, reclaim, &reclaim_first, RECLAIM), .next = reclaim_next, .text = reclaim_text,
      .json = reclaim_json, .gathers = true, .asks = true },
    { .name = "disconnect", ASKS_BY(DISCONNECT, disconnect, &disconnect_first, _NOT_SET),
      .question = "Disconnect the session? Its process can't come back to it." },
    { .name = "drop", ASKS(DROP, drop, Drop, _NOT_SET),
      .question = "Drop the heap? All its objects are gone for all processes, and its daemon ends." },
    { .name = "ping", ASKS(PING, ping, Ping, PING), .text = ping_text, .json = ping_json },
    { .name = "check", ASKS(CHECK, check, Check, CHECK), .text = check_text, .json = check_json },
    { .name = "sessions", ASKS(SESSION_LIST, session_list, SessionList, SESSION_LIST), .heading = sessions_heading,
      .next = sessions_next, .text = sessions_text, .json = sessions_json },
    { .name = "limits", ASKS(LIMITS, limits, Limits, LIMITS), .heading = limits_heading, .next = limits_next,
      .text = limits_text, .json = limits_json },
    { .name = "reload", ASKS(RELOAD, reload, Reload, RELOAD), .text = reload_text, .json = reload_json,
      .patient = true },
    { .name = "roots", ASKS(ROOT_LIST, root_list, RootList, ROOT_LIST), .heading = roots_heading, .next = roots_next,
      .text = roots_text, .json = roots_json },
};

/*
 * To release a large heap takes its time, which is no reason to wait long for a daemon that does not answer at all: so
 * it is pinged first. False: it does not answer.
 */
static bool allow_more_time(arguments *args)
{
    Goallocd__Ping body = GOALLOCD__PING__INIT;
    Goallocd__Request request = WIRE_REQUEST(PING, ping, &body);

    if (args->timeout_given)
        return true;
    if (ask(args, &request, GOALLOCD__REPLY__RESULT_PING) == NULL)
        return false;
    args->timeout_ms = SCAVENGE_TIMEOUT_MS;
    args->until = deadline_in(args->timeout_ms);
    return true;
}

/* Show a reply, or add it to object. False: no memory. */
static bool show(const command *c, json_t *object, const Goallocd__Reply *reply)
{
    if (object != NULL)
        return c->json == NULL || c->json(object, reply);
    if (c->text != NULL)
        c->text(reply);
    return true;
}

/* The exit status. */
static int run(command *c, arguments *args)
{
    json_t *object = args->json ? json_object() : NULL;
    bool whole = args->json == (object != NULL);
    int status = EXIT_SUCCESS;

    if (c->question != NULL && !ctl_confirm(c->question, args->yes))
        return EXIT_FAILURE;
    if (c->question != NULL)
        args->until = deadline_in(args->timeout_ms); /* the answer took its time */
    if (c->patient && !allow_more_time(args))
        return EXIT_FAILURE;
    if (!args->json && c->heading != NULL)
        (void)fputs(c->heading, stdout);
    for (bool more = true; whole && more;) {
        const Goallocd__Reply *reply = ask(args, &c->request, c->kind);

        if (reply == NULL)
            return EXIT_FAILURE;
        more = c->next != NULL && c->next(&c->request, reply);
        if (c->asks)
            args->until = deadline_in(args->timeout_ms);
        if (!more || !c->gathers)
            whole = show(c, object, reply);
        if (reply->result_case == GOALLOCD__REPLY__RESULT_CHECK && !reply->check->whole)
            status = EXIT_FAILURE;
        if (reply->result_case == GOALLOCD__REPLY__RESULT_RELOAD && reload_failed(reply))
            status = EXIT_FAILURE;
    }
    if (!whole) {
        (void)fprintf(stderr, "goallocctl: out of memory\n");
        return EXIT_FAILURE;
    }
    if (object != NULL && !ctl_json_print(object))
        status = EXIT_FAILURE;
    json_decref(object);
    return fflush(stdout) == 0 ? status : EXIT_FAILURE;
}

/* --- the command line --- */

__attribute__((visibility("default"))) const char *argp_program_version = "goallocctl " GOALLOC_VERSION;

enum { OPTION_END = 256 };

static const struct argp_option option_table[] = {
    { "socket", 's', "PATH", 0, "The daemon's socket (default: $GOALLOC_SOCKET, else " SHM_SOCKET_PATH ")", 0 },
    { "json", 'j', NULL, 0, "Print JSON", 0 },
    { "timeout", 't', "TIME", 0,
      "How long the daemon may take to answer: a number and ms, s or min; seconds without a unit (default: 5s; "
      "scavenge: 60s if the daemon answers a ping within 5s)",
      0 },
    { "yes", 'y', NULL, 0, "drop, disconnect, reclaim, keeper --end: do it without asking", 0 },
    { "state-dir", 'd', "DIR", 0, "keeper: the directory that goallocd was given by --state-dir", 0 },
    { "end", OPTION_END, NULL, 0, "keeper: end it, and so drop the heap, if no daemon serves it", 0 },
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

/* True if the command takes an argument. */
static bool is_about_sessions(const char *name)
{
    return strcmp(name, "reclaim") == 0 || strcmp(name, "disconnect") == 0;
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
    case 'y':
        args->yes = true;
        return 0;
    case 'd':
        args->state_dir = arg;
        return 0;
    case OPTION_END:
        args->end = true;
        return 0;
    case ARGP_KEY_ARG:
        if (args->command != NULL && args->whose == NULL && is_about_sessions(args->command)) {
            args->whose = arg;
            return 0;
        }
        if (args->command != NULL)
            argp_error(state, "'%s': one command is enough", arg);
        args->command = arg;
        return 0;
    case ARGP_KEY_END:
        if (args->command == NULL)
            argp_error(state, "no command given");
        if (strcmp(args->command, "reclaim") == 0 && (args->whose == NULL || !reclaim_set(args->whose, args->yes)))
            argp_error(state, "reclaim what? The number of a session, the name of a group, or UID:NAME");
        if (strcmp(args->command, "disconnect") == 0 && (args->whose == NULL || !disconnect_set(args->whose)))
            argp_error(state, "disconnect whom? The number of a session");
        if (strcmp(args->command, "keeper") != 0 ? args->end || args->state_dir != NULL : args->state_dir == NULL)
            argp_error(state, "--state-dir and --end are the keeper's, which needs the former");
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
        .args_doc = "COMMAND [ARGUMENT]",
        .doc = "Asks a running goallocd.\vCommands:\n"
               "  stats     objects, memory, sessions and leases of the heap, and what groups own\n"
               "  sessions  attached processes, and those that have ended, with the objects that they left behind and\n"
               "            that still live\n"
               "  limits    what clients may take at most, by user and session, and what they have taken\n"
               "  roots     named objects: size, type tag, who has set them, and whether they live\n"
               "  classes   the same by size class: objects, allocs and frees, unused memory\n"
               "  heap-map  a picture of the arena: what is in use, free, released\n"
               "  scavenge  sweep, and give all free pages back to the system\n"
               "  trim      ask all sessions to give back the spans that they hold idle\n"
               "  check     have the daemon check its tables\n"
               "  reclaim SESSION|GROUP\n"
               "            free what an ended session, or all ended sessions of a group, have left; asks first\n"
               "  disconnect SESSION\n"
               "            close a session's connection for good: its process keeps what it holds until it\n"
               "            detaches or ends, and gets no more; asks first\n"
               "  reload    have the daemon read its configuration again, and say what has changed: fails if\n"
               "            something takes a restart, or is wrong, when nothing changes\n"
               "  drop      drop the heap of a running daemon, which then ends; asks first\n"
               "  keeper    the keeper in a --state-dir, and its heap; --end ends one that is left over, asking first\n"
               "  ping      is the daemon there, and which version",
    };
    arguments args = { .socket_path = getenv("GOALLOC_SOCKET"), .timeout_ms = TIMEOUT_MS };

    (void)setlocale(LC_CTYPE, "");
    if (args.socket_path == NULL)
        args.socket_path = SHM_SOCKET_PATH;
    argp_err_exit_status = 2;
    (void)argp_parse(&argp, argc, argv, 0, NULL, &args);
    args.until = deadline_in(args.timeout_ms);
    if (strcmp(args.command, "keeper") == 0)
        return keeper_show(&(keeper_options){ args.state_dir, args.timeout_ms, args.json, args.end, args.yes },
                           args.until);
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        if (strcmp(args.command, commands[i].name) == 0)
            return run(&commands[i], &args);
    }
    (void)fprintf(stderr, "goallocctl: unknown command '%s'; see goallocctl --help\n", args.command);
    return 2;
}
