/*
 * Options: the command line, by argp. Called by main before anything else. Checks every value, so that nobody else has
 * to; the address of --listen is looked at when it is listened on (web.c).
 */
#include "exporter/options.h"

#include <limits.h>
#include <stdlib.h>

#include "proto/argtime.h"
#include "proto/serviceargs.h"

/* In none of Prometheus's lists of ports (9100 to 9999 are all taken), and not in /etc/services. */
#define DEFAULT_LISTEN "127.0.0.1:19846"

#define GROUPS_DEFAULT     20
#define GROUPS_MOST        32 /* the daemon names no more of them */
#define CONNECTIONS        64
#define CONNECTIONS_MOST   1024
#define CACHE_MS           1000
#define TIMEOUT_MS         5000
#define CONNECTION_TIME_MS 15000

__attribute__((visibility("default"))) const char *argp_program_version = "goallocd-exporter " GOALLOC_VERSION;

enum { OPTION_CACHE = 256, OPTION_TIMEOUT, OPTION_CONNECTION_TIMEOUT, OPTION_CONNECTIONS, OPTION_GROUPS };

static const struct argp_option option_table[] = {
    SERVICEARGS_SOCKET,
    { "listen", 'l', "ADDRESS:PORT", 0,
      "Where to serve HTTP: a numeric address, of IPv6 in brackets; port 0: any that is free (default " DEFAULT_LISTEN
      "). Who can connect can read all figures",
      0 },
    { "cache", OPTION_CACHE, "TIME", 0,
      "The daemon is asked at most once in that time, however many scrape: a number and ms, s or min; seconds without "
      "a unit (default 1s)",
      0 },
    { "timeout", OPTION_TIMEOUT, "TIME", 0, "How long a scrape waits for the daemon (default 5s)", 0 },
    { "connection-timeout", OPTION_CONNECTION_TIMEOUT, "TIME", 0,
      "How long a connection may take to send a request, or to read the answer (default 15s)", 0 },
    { "connections", OPTION_CONNECTIONS, "N", 0,
      "Connections at a time; the one that has waited longest goes when another one comes (default "
      SHM_TEXT(CONNECTIONS) ")",
      0 },
    { "groups-max", OPTION_GROUPS, "N", 0,
      "Groups with figures of their own, those with the most live bytes; the others are summed up (default "
      SHM_TEXT(GROUPS_DEFAULT) ", at most " SHM_TEXT(GROUPS_MOST) ")",
      0 },
    { 0 },
};

static int parse_time(struct argp_state *state, const char *name, const char *arg, int least_ms)
{
    double ms;

    if (argtime_parse(arg, ARGTIME_BARE, 1, &ms) && ms >= least_ms && ms <= INT_MAX / 2)
        return (int)ms;
    argp_error(state, "--%s: '%s' is no time from %d ms on: a number and ms, s or min", name, arg, least_ms);
    return 0;
}

static unsigned parse_count(struct argp_state *state, const char *name, const char *arg, unsigned least, unsigned most)
{
    char *end;
    unsigned long n = strtoul(arg, &end, 10);

    if (arg[0] < '0' || arg[0] > '9' || *end != '\0' || n < least || n > most)
        argp_error(state, "--%s: '%s' is no number from %u to %u", name, arg, least, most);
    return (unsigned)n;
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    options *o = state->input;

    switch (key) {
    case 's':
        o->socket_path = arg;
        return 0;
    case 'l':
        o->listen = arg;
        return 0;
    case OPTION_CACHE:
        o->cache_ms = parse_time(state, "cache", arg, 0);
        return 0;
    case OPTION_TIMEOUT:
        o->timeout_ms = parse_time(state, "timeout", arg, 1);
        return 0;
    case OPTION_CONNECTION_TIMEOUT:
        o->connection_timeout_ms = parse_time(state, "connection-timeout", arg, 1);
        return 0;
    case OPTION_CONNECTIONS:
        o->connections = parse_count(state, "connections", arg, 1, CONNECTIONS_MOST);
        return 0;
    case OPTION_GROUPS:
        o->groups_max = parse_count(state, "groups-max", arg, 0, GROUPS_MOST);
        return 0;
    default:
        return serviceargs_other(key, arg, state);
    }
}

void options_parse(options *o, int argc, char **argv)
{
    static const struct argp argp = {
        .options = option_table,
        .parser = parse_option,
        .doc = "Serves the figures of a running goallocd to Prometheus: http://" DEFAULT_LISTEN "/metrics",
    };

    *o = (options){ .socket_path = getenv("GOALLOC_SOCKET"),
                    .listen = DEFAULT_LISTEN,
                    .cache_ms = CACHE_MS,
                    .timeout_ms = TIMEOUT_MS,
                    .connection_timeout_ms = CONNECTION_TIME_MS,
                    .connections = CONNECTIONS,
                    .groups_max = GROUPS_DEFAULT };
    if (o->socket_path == NULL || o->socket_path[0] == '\0')
        o->socket_path = SHM_SOCKET_PATH;
    serviceargs_parse(&argp, argc, argv, o);
}
