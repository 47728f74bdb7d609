/*
 * Options: the command line, by argp. Called by main before anything else.
 */
#include "tests/storm/options.h"

#include <argp.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static const char *const death_names[DEATH_COUNT] = { "worker",  "exit", "daemon",  "cut",  "fork",
                                                      "threads", "trim", "reclaim", "stop", "detach" };

static const char *const fault_names[FAULT_COUNT] = { "none", "byte", "leak", "twice", "hang", "private" };

static const struct argp_option option_table[] = {
    { "seconds", 's', "N", 0, "How long the storm lasts (default 10)", 0 },
    { "round", 'r', "SECONDS", 0,
      "How long a round lasts at most (default 60): each has a daemon of its own and ends with the audit", 0 },
    { "processes", 'p', "N", 0, "Workers (default 4)", 0 },
    { "threads", 't', "N", 0, "Threads of each (default 3)", 0 },
    { "deaths", 'd', "LIST", 0,
      "What happens to them: worker, exit, daemon, cut, fork, threads, trim, reclaim, stop, detach, separated by "
      "commas; all (the default); none. A minus before a kind takes it out: all,-detach",
      0 },
    { "interval", 'i', "MS", 0, "A worker is killed every so often; a daemon ten times more seldom (default 40)", 0 },
    { "often", 'o', "N", 0,
      "What workers do to themselves (exit, cut, fork, threads, trim, detach) happens N times as often (default 1)",
      0 },
    { "seed", 'S', "N", 0, "Of all random decisions (default: $GOALLOC_TEST_SEED, else random)", 0 },
    { "entries", 'n', "N", 0, "Objects in the table at most (default 8192)", 0 },
    { "max-mib", 'm', "MIB", 0, "Bytes in the table at most (default 256)", 0 },
    { "fault", 'f', "KIND", 0,
      "A worker does something wrong, to show that the storm notices: byte, leak, twice, hang, private (with reclaim)",
      0 },
    { "debug", 'D', NULL, 0,
      "Two workers of four run in debug mode (GOALLOC_DEBUG=1); for the debug variant of the library", 0 },
    { "base", 'b', "ADDRESS", 0, "Where goallocd puts the arena", 0 },
    { "reserve", 'R', "SIZE", 0, "The size of its arena", 0 },
    { "verbose", 'v', NULL, 0, "Say what happens", 0 },
    { 0 },
};

static unsigned parse_number(struct argp_state *state, const char *name, const char *text, unsigned least,
                             unsigned most)
{
    char *end;
    unsigned long value;

    errno = 0;
    value = strtoul(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || value < least || value > most)
        argp_error(state, "--%s takes a number from %u to %u, not '%s'", name, least, most, text);
    return (unsigned)value;
}

static unsigned kind_mask(struct argp_state *state, const char *name)
{
    if (strcmp(name, "all") == 0)
        return (1u << DEATH_COUNT) - 1;
    for (unsigned i = 0; i < DEATH_COUNT; i++) {
        if (strcmp(name, death_names[i]) == 0)
            return 1u << i;
    }
    argp_error(state, "--deaths: '%s' is none of them", name);
    return 0;
}

static unsigned parse_deaths(struct argp_state *state, const char *text)
{
    char list[256] = "";
    unsigned mask = 0;
    char *next = NULL;

    (void)strncat(list, text, sizeof(list) - 1);
    for (char *word = strtok_r(list, ",", &next); word != NULL; word = strtok_r(NULL, ",", &next)) {
        if (strcmp(word, "none") == 0)
            mask = 0;
        else if (word[0] == '-')
            mask &= ~kind_mask(state, word + 1);
        else
            mask |= kind_mask(state, word);
    }
    return mask;
}

static enum fault parse_fault(struct argp_state *state, const char *text)
{
    for (unsigned i = 0; i < FAULT_COUNT; i++) {
        if (strcmp(text, fault_names[i]) == 0)
            return (enum fault)i;
    }
    argp_error(state, "--fault: '%s' is none of them", text);
    return FAULT_NONE;
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    storm_options *o = state->input;

    switch (key) {
    case 's':
        o->seconds = parse_number(state, "seconds", arg, 1, 1000000);
        return 0;
    case 'r':
        o->round_seconds = parse_number(state, "round", arg, 1, 600);
        return 0;
    case 'p':
        o->nprocesses = parse_number(state, "processes", arg, 1, PROCESSES_MAX);
        return 0;
    case 't':
        o->nthreads = parse_number(state, "threads", arg, 1, THREADS_MAX);
        return 0;
    case 'd':
        o->deaths = parse_deaths(state, arg);
        return 0;
    case 'i':
        o->interval_ms = parse_number(state, "interval", arg, 1, 1000000);
        return 0;
    case 'o':
        o->often = parse_number(state, "often", arg, 1, 1000);
        return 0;
    case 'S':
        o->seed = strtoull(arg, NULL, 0);
        return 0;
    case 'n':
        o->nentries = parse_number(state, "entries", arg, 16, 10000000);
        return 0;
    case 'm':
        o->max_mib = parse_number(state, "max-mib", arg, 16, 65536);
        return 0;
    case 'f':
        o->fault = parse_fault(state, arg);
        return 0;
    case 'D':
        o->debug = true;
        return 0;
    case 'b':
        o->base = arg;
        return 0;
    case 'R':
        o->reserve = arg;
        return 0;
    case 'v':
        o->verbose = true;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static uint64_t default_seed(void)
{
    const char *given = getenv("GOALLOC_TEST_SEED");
    uint64_t seed = 0;

    if (given != NULL)
        return strtoull(given, NULL, 0);
    return getrandom(&seed, sizeof(seed), 0) == (ssize_t)sizeof(seed) ? seed : 1;
}

void options_parse(int argc, char **argv, storm_options *ret)
{
    static const struct argp argp = {
        .options = option_table,
        .parser = parse_option,
        .doc = "Workers allocate, check and free objects in one shared heap, while they, their threads, connections "
               "and the "
               "daemon come and go. At the end every object is accounted for.\vExits with 0 if everything held.",
    };

    *ret = (storm_options){ .seconds = 10,
                            .round_seconds = 60,
                            .nprocesses = 4,
                            .nthreads = 3,
                            .deaths = (1u << DEATH_COUNT) - 1,
                            .interval_ms = 40,
                            .often = 1,
                            .nentries = 8192,
                            .max_mib = 256,
                            .seed = default_seed() };
    (void)argp_parse(&argp, argc, argv, 0, NULL, ret);
}

void options_name_deaths(unsigned deaths, char *ret, unsigned size)
{
    ret[0] = '\0';
    for (unsigned i = 0; i < DEATH_COUNT; i++) {
        if ((deaths >> i & 1) != 0) {
            (void)strncat(ret, ret[0] != '\0' ? "," : "", size - strlen(ret) - 1);
            (void)strncat(ret, death_names[i], size - strlen(ret) - 1);
        }
    }
    if (ret[0] == '\0')
        (void)strncat(ret, "none", size - 1);
}
