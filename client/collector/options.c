/*
 * Options: the command line, by argp. Called by main before anything else. Checks every value, so that nobody else has
 * to.
 */
#include "client/collector/options.h"

#include <errno.h>
#include <stdlib.h>

#include "client/collector/collect.h"
#include "proto/argtime.h"
#include "proto/serviceargs.h"

#define PAUSE_NS UINT64_C(5000000) /* after deaths: workers are at work */
#define DELAY_NS UINT64_C(2000000000)
#define INTERVAL_NS UINT64_C(10000000000)
#define FULL_NS UINT64_C(600000000000)
#define TIME_NS_MOST UINT64_C(86400000000000) /* a day */
#define TIME_FORM "a number and us, ms, s or min"

__attribute__((visibility("default"))) const char *argp_program_version = "goallocd-collector " GOALLOC_VERSION;

enum {
    OPTION_ONCE = 256,
    OPTION_PAUSE,
    OPTION_DELAY,
    OPTION_INTERVAL,
    OPTION_FULL,
    OPTION_REPORT,
    OPTION_ALL,
    OPTION_SUSPECTS,
    OPTION_OFFSETS,
    OPTION_PAST_END,
    OPTION_TRUST_KERNEL,
    OPTION_ANSWER,
    OPTION_HEAP,
};

static const struct argp_option option_table[] = {
    SERVICEARGS_SOCKET,
    { "max-pause", OPTION_PAUSE, "TIME", 0,
      "The longest that processes may be stopped: " TIME_FORM " (default 5ms; with --once 100ms). What does not fit "
      "is not begun",
      0 },
    { "delay", OPTION_DELAY, "TIME", 0, "How long after a death a cycle begins (default 2s)", 0 },
    { "interval", OPTION_INTERVAL, "TIME", 0, "The least between two cycles (default 10s)", 0 },
    { "full-interval", OPTION_FULL, "TIME", 0,
      "At most so often a cycle looks at the whole heap, and not only at what the dead had a part in; if that does not "
      "fit into --max-pause, it does not (default 10min)",
      0 },
    { "once", OPTION_ONCE, NULL, 0, "Run one cycle over the whole heap, print what came of it, and end", 0 },
    { "suspects", OPTION_SUSPECTS, NULL, 0, "With --once: look only for what dead sessions may have left", 0 },
    { "report", OPTION_REPORT, NULL, 0, "Free nothing: only say what could be freed", 0 },
    { "all", OPTION_ALL, NULL, 0, "Free as well what lies in spans that sessions hold on lease", 0 },
    { "offsets", OPTION_OFFSETS, NULL, 0, "Words that are goalloc_offset() of an object count as pointers", 0 },
    { "past-end", OPTION_PAST_END, NULL, 0, "A pointer right behind an object's end holds it, too", 0 },
    { "trust-kernel", OPTION_TRUST_KERNEL, NULL, 0,
      "What the kernel holds for a process and does not show (io_uring, AIO contexts) is no pointer", 0 },
    { "answer", OPTION_ANSWER, "THREAD", OPTION_HIDDEN, "For goalloc_collect()", 0 },
    { "heap", OPTION_HEAP, "ID", OPTION_HIDDEN, "For goalloc_collect()", 0 },
    { 0 },
};

static uint64_t parse_time_ns(struct argp_state *state, const char *name, const char *arg)
{
    double ns;

    if (argtime_parse(arg, ARGTIME_US, 1e6, &ns) && ns >= 1000 && ns <= (double)TIME_NS_MOST)
        return (uint64_t)ns;
    argp_error(state, "--%s: '%s' is no time from 1us to a day: " TIME_FORM, name, arg);
    return 0;
}

static int64_t parse_time_ms(struct argp_state *state, const char *name, const char *arg)
{
    return (int64_t)(parse_time_ns(state, name, arg) / 1000000);
}

static uint64_t parse_number(struct argp_state *state, const char *name, const char *arg, uint64_t most)
{
    char *end;
    unsigned long long number;

    errno = 0;
    number = strtoull(arg, &end, 10);
    if (arg[0] < '0' || arg[0] > '9' || *end != '\0' || errno != 0 || number > most)
        argp_error(state, "--%s: '%s' is no such number", name, arg);
    return number;
}

/* Of an option that only sets one. 0: it is none. */
static unsigned flag_of(int key)
{
    static const struct {
        int key;
        unsigned flag;
    } flags[] = { { OPTION_ALL, COLLECT_ALL },
                  { OPTION_SUSPECTS, COLLECT_SUSPECTS },
                  { OPTION_OFFSETS, COLLECT_OFFSETS },
                  { OPTION_PAST_END, COLLECT_PAST_END },
                  { OPTION_TRUST_KERNEL, COLLECT_TRUST_KERNEL } };

    for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
        if (flags[i].key == key)
            return flags[i].flag;
    }
    return 0;
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    options *o = state->input;

    switch (key) {
    case 's':
        o->socket_path = arg;
        return 0;
    case OPTION_PAUSE:
        o->max_pause_ns = parse_time_ns(state, "max-pause", arg);
        return 0;
    case OPTION_DELAY:
        o->delay_ms = parse_time_ms(state, "delay", arg);
        return 0;
    case OPTION_INTERVAL:
        o->interval_ms = parse_time_ms(state, "interval", arg);
        return 0;
    case OPTION_FULL:
        o->full_ms = parse_time_ms(state, "full-interval", arg);
        return 0;
    case OPTION_ONCE:
        o->once = true;
        return 0;
    case OPTION_REPORT:
        o->flags &= ~(unsigned)COLLECT_FREE;
        return 0;
    case OPTION_ANSWER:
        o->answers = true;
        o->waiter = (pid_t)parse_number(state, "answer", arg, INT32_MAX);
        return 0;
    case OPTION_HEAP:
        o->heap_id = parse_number(state, "heap", arg, UINT64_MAX);
        return 0;
    case ARGP_KEY_END:
        if (!(o->flags & COLLECT_FREE))
            o->flags &= ~(unsigned)COLLECT_ALL; /* a report of all is a report */
        if (!o->once && (o->answers || o->heap_id != 0))
            argp_error(state, "--answer and --heap are for --once");
        if (o->max_pause_ns == 0)
            o->max_pause_ns = o->once ? COLLECT_MAX_PAUSE_NS : PAUSE_NS;
        return 0;
    default:
        o->flags |= flag_of(key);
        return flag_of(key) != 0 ? 0 : serviceargs_other(key, arg, state);
    }
}

void options_parse(options *o, int argc, char **argv)
{
    static const struct argp argp = {
        .options = option_table,
        .parser = parse_option,
        .doc = "Frees what nobody can reach in the heap of a running goallocd: some seconds after each death of a "
               "process, what that has left; or once, all of it",
    };

    *o = (options){ .flags = COLLECT_FREE,
                    .delay_ms = DELAY_NS / 1000000,
                    .interval_ms = INTERVAL_NS / 1000000,
                    .full_ms = FULL_NS / 1000000 };
    serviceargs_parse(&argp, argc, argv, o);
}
