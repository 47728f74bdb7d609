/*
 * watch: numbers of stats, again and again: goallocctl watch.
 *
 * A daemon that goes away is waited for, and what happens is said on stderr, so that the lines on stdout stay a table;
 * or, as JSON, one object a line. Without a daemon at the beginning it fails as every command does.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "client/ctl/commands.h"
#include "client/ctl/ctl.h"
#include "client/ctl/look.h"

#define HEADING_EVERY 20u /* lines */

static struct {
    size_t figures[COMMAND_WORDS_MAX];
    size_t n;
} keys;

/* The names of all figures, with blanks between them. */
static const char *figure_names(void)
{
    static char names[2048];
    size_t used = 0;

    for (size_t i = 0; i < stats_figures(); i++)
        used += (size_t)snprintf(names + used, sizeof(names) - used, "%s%s", i == 0 ? "" : " ", stats_figure_name(i));
    return names;
}

bool watch_set(const arguments *args)
{
    keys.n = 0;
    for (size_t k = 0; k < args->nwords; k++) {
        size_t i = 0;

        while (i < stats_figures() && strcmp(stats_figure_name(i), args->words[k]) != 0)
            i++;
        if (i == stats_figures()) {
            (void)ctl_fail(CTL_E_USAGE, 0, "watch: there is no key '%s'; there are: %s", args->words[k],
                           figure_names());
            _exit(CTL_USAGE);
        }
        keys.figures[keys.n++] = i;
    }
    return keys.n > 0;
}

static int column_width(size_t k)
{
    size_t len = strlen(stats_figure_name(keys.figures[k]));

    return (int)(len > 12 ? len : 12);
}

static void print_heading(void)
{
    for (size_t k = 0; k < keys.n; k++)
        (void)printf("%s%*s", k == 0 ? "" : " ", column_width(k), stats_figure_name(keys.figures[k]));
    (void)putchar('\n');
}

static bool print_values(const arguments *args, const uint64_t *values)
{
    json_t *object = args->json ? json_object() : NULL;
    bool whole = !args->json || object != NULL;

    for (size_t k = 0; k < keys.n && whole; k++) {
        if (args->json)
            whole = ctl_json_set(object, stats_figure_name(keys.figures[k]), values[k]);
        else
            (void)printf("%s%*" PRIu64, k == 0 ? "" : " ", column_width(k), values[k]);
    }
    if (args->json)
        whole = whole && ctl_json_print_line(object);
    else
        (void)putchar('\n');
    json_decref(object);
    return whole && fflush(stdout) == 0;
}

int watch_run(const arguments *args)
{
    uint32_t nlooks = args->once ? 1 : args->count;
    uint64_t before[COMMAND_WORDS_MAX] = { 0 };
    uint64_t nlines = 0;
    look_state state = { 0 };

    for (uint32_t n = 0; nlooks == 0 || n < nlooks;) {
        uint64_t values[COMMAND_WORDS_MAX] = { 0 };
        const Goallocd__StatsReply *s = look_stats(&state, &args->who);

        if (s == NULL && !look_waits(&state))
            return ask_failed(&args->who);
        look_tell(&state, &args->who);
        for (size_t k = 0; s != NULL && k < keys.n; k++)
            values[k] = stats_figure(s, keys.figures[k]);
        if (s != NULL && (!args->changes || nlines == 0 || memcmp(values, before, sizeof(values)) != 0)) {
            if (!args->json && nlines++ % HEADING_EVERY == 0)
                print_heading();
            nlines += args->json;
            if (!print_values(args, values))
                return ctl_fail(CTL_E_OUTPUT, 0, "stdout: %s", strerror(errno));
            memcpy(before, values, sizeof(before));
        }
        n += s != NULL;
        if (nlooks == 0 || n < nlooks)
            look_pause(args->interval_ms);
    }
    return CTL_OK;
}
