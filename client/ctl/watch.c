/*
 * watch: what the heap holds, again and again: goallocctl watch.
 *
 * Numbers of stats as a table or as JSON, an object a line; or as CSV for other programs, with the time in the first
 * column, and then also a row for each session or group. Each look is written out before the next pause.
 *
 * A daemon that goes away is waited for, and what happens is said on stderr, so that the lines on stdout stay a table.
 * A table of CSV goes on with the next daemon if that serves the same heap: counts that begin anew with a daemon are
 * those whose uptime_ms does, too. With another heap it ends: its numbers would be another table. Without a daemon at
 * the beginning it fails as every command does.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/ctl/commands.h"
#include "client/ctl/csv.h"
#include "client/ctl/ctl.h"
#include "client/ctl/look.h"

#define HEADING_EVERY 20u /* lines */

/* Columns of CSV if none are named: what grows, who makes it grow, and what tells one daemon from the next. */
static const char *const csv_keys[] = {
    "live_objects",   "live_bytes",      "unused_bytes",    "free_bytes",   "released_bytes", "metadata_bytes",
    "total_bytes",    "committed_bytes", "inuse_bytes",     "excess_bytes", "inuse_spans",    "leased_spans",
    "sessions",       "groups_total",    "roots",           "rpcs",         "refills",        "refusals",
    "ended_sessions", "died_sessions",   "scavenged_bytes", "uptime_ms",
};
#define CSV_KEYS (sizeof(csv_keys) / sizeof(csv_keys[0]))
_Static_assert(CSV_KEYS <= COMMAND_WORDS_MAX, "as many as can be named");

static struct {
    const arguments *args;
    size_t figures[COMMAND_WORDS_MAX];
    size_t n;
    bool rows; /* of sessions or groups, rather than figures */
    look_state state;
    roster sessions;
    uint64_t values[COMMAND_WORDS_MAX];
    uint64_t before[COMMAND_WORDS_MAX]; /* as last printed */
    uint64_t nlines;
} watching;

/* --- what is watched --- */

/* The names of all figures, with blanks between them. */
static const char *figure_names(void)
{
    static char names[2048];
    size_t used = 0;

    for (size_t i = 0; i < stats_figures(); i++)
        used += (size_t)snprintf(names + used, sizeof(names) - used, "%s%s", i == 0 ? "" : " ", stats_figure_name(i));
    return names;
}

__attribute__((noreturn, format(printf, 1, 2))) static void wrong(const char *format, ...)
{
    char text[4096];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    (void)ctl_fail(CTL_E_USAGE, 0, "watch: %s", text);
    _exit(CTL_USAGE);
}

static void add_key(const char *name)
{
    size_t i = 0;

    while (i < stats_figures() && strcmp(stats_figure_name(i), name) != 0)
        i++;
    if (i == stats_figures())
        wrong("there is no key '%s'; there are: %s", name, figure_names());
    watching.figures[watching.n++] = i;
}

/* What goes with what. */
static void check(const arguments *args)
{
    if (args->csv && args->json)
        wrong("--csv and --json are two formats: one of them");
    if (watching.rows && !args->csv)
        wrong("--sessions and --group go with --csv");
    if (args->sessions && args->by_group)
        wrong("rows of sessions (--sessions, --group=NAME) or of groups (--group), not both");
    if (watching.rows && args->nwords > 0)
        wrong("'%s': rows of sessions and groups have all their columns (and a group's name goes with --group=NAME)",
              args->words[0]);
    if (watching.rows && args->changes)
        wrong("--changes goes with numbers of stats");
}

bool watch_set(const arguments *args)
{
    watching.args = args;
    watching.rows = args->sessions || args->by_group || args->group != NULL;
    check(args);
    for (size_t k = 0; k < args->nwords; k++)
        add_key(args->words[k]);
    for (size_t k = 0; k < CSV_KEYS && args->csv && args->nwords == 0; k++)
        add_key(csv_keys[k]);
    return watching.n > 0;
}

/* --- figures --- */

static const char *key(size_t k)
{
    return stats_figure_name(watching.figures[k]);
}

static int column_width(size_t k)
{
    size_t len = strlen(key(k));

    return (int)(len > 12 ? len : 12);
}

static void print_heading(void)
{
    for (size_t k = 0; k < watching.n; k++)
        (void)printf("%s%*s", k == 0 ? "" : " ", column_width(k), key(k));
    (void)putchar('\n');
}

static void print_line(void)
{
    if (watching.nlines % HEADING_EVERY == 0)
        print_heading();
    for (size_t k = 0; k < watching.n; k++)
        (void)printf("%s%*" PRIu64, k == 0 ? "" : " ", column_width(k), watching.values[k]);
    (void)putchar('\n');
}

/* Print it as CSV, under the names of its members if it is the first one. Ends it. False: it is NULL. */
static bool print_csv(const char *time, json_t *object)
{
    if (object != NULL && watching.nlines++ == 0)
        csv_print_names(object);
    if (object != NULL)
        csv_print_values(time, object);
    json_decref(object);
    return object != NULL;
}

static json_t *figures_json(void)
{
    json_t *object = json_object();

    for (size_t k = 0; k < watching.n; k++) {
        if (object != NULL && !ctl_json_set(object, key(k), watching.values[k])) {
            json_decref(object);
            object = NULL;
        }
    }
    return object;
}

static bool print_figures(const char *time)
{
    json_t *object = NULL;
    bool whole;

    if (watching.args->changes && watching.nlines > 0 &&
        memcmp(watching.values, watching.before, sizeof(watching.values)) == 0)
        return true;
    memcpy(watching.before, watching.values, sizeof(watching.before));
    if (watching.args->csv)
        return print_csv(time, figures_json());
    if (!watching.args->json) {
        print_line();
        watching.nlines++;
        return true;
    }
    object = figures_json();
    whole = object != NULL && ctl_json_print_line(object);
    watching.nlines++;
    json_decref(object);
    return whole;
}

/* --- rows --- */

static json_t *row_json(const roster_row *row)
{
    return watching.args->by_group ? roster_group_json(row) : roster_session_json(row);
}

static bool print_rows(const char *time)
{
    roster *r = &watching.sessions;
    bool whole = true;

    roster_filter(r, watching.args->group, true);
    if (watching.args->by_group)
        roster_group(r);
    roster_sort(r, roster_key_named(watching.args->by_group ? "group" : "session"), false);
    if (r->n == 0 && watching.nlines == 0) { /* the names stand there from the beginning */
        json_t *none = row_json(&(roster_row){ 0 });

        if (none == NULL)
            return false;
        csv_print_names(none);
        watching.nlines++;
        json_decref(none);
    }
    for (size_t i = 0; whole && i < r->n; i++)
        whole = print_csv(time, row_json(&r->rows[i]));
    return whole;
}

/* --- looking --- */

/* What the daemon has answered belongs to another table. */
static bool is_over(void)
{
    return watching.args->csv && watching.state.news == LOOK_OTHER_HEAP;
}

/* False: the daemon does not answer. */
static bool look(void)
{
    const Goallocd__StatsReply *s = look_stats(&watching.state, &watching.args->who);

    if (s == NULL)
        return false;
    for (size_t k = 0; k < watching.n; k++)
        watching.values[k] = stats_figure(s, watching.figures[k]);
    return !watching.rows || is_over() || look_sessions(&watching.state, &watching.args->who, &watching.sessions);
}

/* CTL_OK: the next look may come. */
static int look_and_print(uint32_t *nlooks)
{
    const arguments *args = watching.args;
    bool answered = look();
    char time[32];

    if (!answered && !look_waits(&watching.state))
        return ask_failed(&args->who);
    look_tell(&watching.state, &args->who);
    if (!answered)
        return CTL_OK;
    if (is_over())
        return ctl_fail(CTL_E_CONNECTION, 0, "watch: this table is of the heap before, and ends here");
    ++*nlooks;
    (void)csv_now(time);
    if (!(watching.rows ? print_rows(time) : print_figures(time)))
        return ctl_fail(CTL_E_MEMORY, 0, "out of memory, or stdout can't be written");
    return fflush(stdout) == 0 ? CTL_OK : ctl_fail(CTL_E_OUTPUT, 0, "stdout: %s", strerror(errno));
}

int watch_run(const arguments *args)
{
    uint32_t wanted = args->once ? 1 : args->count;
    uint32_t nlooks = 0;
    int status = CTL_OK;

    while (status == CTL_OK && (wanted == 0 || nlooks < wanted)) {
        status = look_and_print(&nlooks);
        if (status == CTL_OK && (wanted == 0 || nlooks < wanted))
            look_pause(args->interval_ms);
    }
    roster_free(&watching.sessions);
    return status;
}
