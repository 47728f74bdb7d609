/*
 * top: sessions or groups, with what they hold, what of it lives, and how fast they ask for more: goallocctl top.
 *
 * One look: 1. Stats, for which the daemon counts the objects of each session's spans on the way; 2. the list of open
 * sessions, which has these counts. Refills a second are what has been added since the look before. So the first look
 * prints nothing, and --once takes two of them, an interval apart; on a terminal it is shown at once, without rates.
 *
 * On a terminal the table takes the whole of it (screen.c), and keys change what it shows at once, from the last look;
 * else it is printed, a table an interval, or as JSON an object a line. A daemon that goes away is waited for: the last
 * table stays, under a line that says so. The daemon's count costs it at most a tenth of a CPU, however often it is
 * asked (daemon/serve/rounds.c); so on a large heap looks come slower than the interval says.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client/ctl/commands.h"
#include "client/ctl/ctl.h"
#include "client/ctl/look.h"
#include "client/ctl/screen.h"
#include "shm/limits.h"

#define LINE_BYTES 512u

/* Of the heap, in one look. */
typedef struct figures {
    char version[32];
    uint64_t uptime_ms, sessions, live_objects, live_bytes, total_bytes, unused_bytes, free_bytes, metadata_bytes, rpcs;
    uint64_t at_ms;
} figures;

static struct {
    const arguments *args;
    look_state state;
    figures now, before;
    roster sessions, sessions_before, shown;
    double seconds;  /* between the two looks */
    uint32_t nlooks; /* that were answered */
    bool by_group;
    bool reverse;
    const roster_key *key;
    size_t group_columns;
    size_t first; /* row on the screen */
    char news[LINE_BYTES]; /* of the daemon; "": there are none */
} top;

bool top_set(const arguments *args)
{
    top.args = args;
    top.by_group = args->by_group;
    top.reverse = args->reverse;
    top.key = args->sort != NULL ? args->sort : roster_key_named("held");
    return true;
}

/* --- looking --- */

static uint64_t now_ms(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void take_figures(const Goallocd__StatsReply *s)
{
    top.before = top.now;
    top.now = (figures){ .uptime_ms = s->uptime_ms,
                         .sessions = s->sessions,
                         .live_objects = s->live_objects,
                         .live_bytes = s->live_bytes,
                         .total_bytes = s->total_bytes,
                         .unused_bytes = s->unused_bytes,
                         .free_bytes = s->free_bytes,
                         .metadata_bytes = s->metadata_bytes,
                         .rpcs = s->rpcs,
                         .at_ms = now_ms() };
    (void)ctl_plain_text(s->version, top.now.version, sizeof(top.now.version));
}

static void swap_sessions(void)
{
    roster before = top.sessions_before;

    top.sessions_before = top.sessions;
    top.sessions = before;
}

/* False: the daemon does not answer, and the list of before stays. */
static bool take_sessions(void)
{
    bool answered;

    swap_sessions();
    answered = look_sessions(&top.state, &top.args->who, &top.sessions);
    if (!answered)
        swap_sessions();
    return answered;
}

/* What is shown of the last look, as it is wanted now. */
static void arrange(void)
{
    if (!roster_copy(&top.shown, &top.sessions))
        exit(ctl_fail(CTL_E_MEMORY, 0, "out of memory"));
    roster_filter(&top.shown, top.args->group, true);
    if (top.by_group)
        roster_group(&top.shown);
    roster_sort(&top.shown, top.key, top.reverse);
    top.group_columns = roster_group_columns(&top.shown);
}

static void note_news(void)
{
    char plain[LINE_BYTES];

    if (top.state.news == LOOK_LOST)
        (void)snprintf(top.news, sizeof(top.news), "%s; waiting for a daemon, this is what was there before",
                       ctl_plain_text(ask_failure_text(&top.args->who), plain, sizeof(plain) / 2));
    else if (top.state.news == LOOK_BACK)
        (void)snprintf(top.news, sizeof(top.news), "a daemon is back");
    else if (top.state.news == LOOK_ANOTHER)
        (void)snprintf(top.news, sizeof(top.news), "the daemon was restarted");
    else if (top.state.news == LOOK_OTHER_HEAP)
        (void)snprintf(top.news, sizeof(top.news), "a daemon serves another heap");
    else if (!top.state.lost)
        top.news[0] = '\0';
}

/* One look. False: it was not answered. */
static bool look(void)
{
    const Goallocd__StatsReply *s = look_stats(&top.state, &top.args->who);
    bool answered = s != NULL;

    if (answered) {
        take_figures(s);
        answered = take_sessions();
    }
    note_news();
    if (!answered)
        return false;
    top.seconds = top.nlooks == 0 ? 0 : (double)(top.now.at_ms - top.before.at_ms) / 1000;
    roster_rate(&top.sessions, &top.sessions_before, top.seconds);
    top.nlooks++;
    arrange();
    return true;
}

/* --- as text --- */

typedef void emit(const char *line, enum screen_look look);

__attribute__((format(printf, 3, 4))) static void emit_line(emit *to, enum screen_look look, const char *format, ...)
{
    char line[LINE_BYTES];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    to(line, look);
}

static uint64_t requests_per_s(void)
{
    uint64_t since = top.now.rpcs >= top.before.rpcs ? top.now.rpcs - top.before.rpcs : top.now.rpcs;

    return top.seconds > 0 ? (uint64_t)((double)since / top.seconds + 0.5) : 0;
}

static void emit_head(emit *to)
{
    const figures *f = &top.now;

    emit_line(to, SCREEN_BOLD, "goallocd %s, up %s, %" PRIu64 " sessions, %s objects, %s requests/s", f->version,
              ctl_age(f->uptime_ms), f->sessions, ctl_count(f->live_objects), ctl_short(requests_per_s()));
    emit_line(to, SCREEN_PLAIN, "%s of memory: live %s, unused %s, free %s, metadata %s", ctl_size(f->total_bytes),
              ctl_size(f->live_bytes), ctl_size(f->unused_bytes), ctl_size(f->free_bytes),
              ctl_size(f->metadata_bytes));
    emit_line(to, SCREEN_PLAIN, "%s", top.news);
    if (top.by_group)
        emit_line(to, SCREEN_REVERSE, "%4s %5s %-2s %8s %8s %8s %10s %6s  %s", "SESS", "UID", "", "HELD", "LIVE",
                  "IDLE", "REFILLS/S", "AGE", "GROUP");
    else
        emit_line(to, SCREEN_REVERSE, "%4s %7s %5s %-4s %7s %7s %7s %6s %6s %-*s %s", "SESS", "PID", "UID", "STAT",
                  "HELD", "LIVE", "IDLE", "REF/S", "AGE", (int)top.group_columns, "GROUP", "LABEL");
}

static const char *rate(double per_s, char ret[24])
{
    (void)snprintf(ret, 24, per_s < 9999.5 ? "%.1f" : "%.0f", per_s);
    return per_s < 999999 ? ret : ctl_short((uint64_t)per_s);
}

static void emit_row(emit *to, const roster_row *row)
{
    char group[2 * SHM_GROUP_NAME_BYTES];
    char per_s[24];

    (void)snprintf(group, sizeof(group), "%s", row->group[0] == '\0' ? "-" : row->group);
    if (top.by_group)
        emit_line(to, SCREEN_PLAIN, "%4u %5u %-2s %8s %8s %8s %10s %6s  %s", row->nsessions, row->uid,
                  row->flags & SESSION_RECLAIM ? "re" : "", ctl_size(row->held_bytes), ctl_size(row->live_bytes),
                  ctl_size(row->idle_bytes), rate(row->refills_per_s, per_s), ctl_age(row->age_ms), group);
    else
        emit_line(to, SCREEN_PLAIN, "%4u %7u %5u %-4.4s %7s %7s %7s %6s %6s %s %s", row->session, row->pid, row->uid,
                  roster_state_name(row->state), ctl_size(row->held_bytes), ctl_size(row->live_bytes),
                  ctl_size(row->idle_bytes), rate(row->refills_per_s, per_s), ctl_age(row->age_ms),
                  ctl_pad(group, sizeof(group), top.group_columns), row->label);
}

/* --- printed --- */

static void print_line(const char *line, enum screen_look look_)
{
    (void)look_;
    ctl_print_row("%s", line);
}

static json_t *top_json(size_t n)
{
    const figures *f = &top.now;
    json_t *list = json_array();
    json_t *object =
        json_pack("{s:s, s:I, s:f, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "version", f->version, "uptime_ms",
                  (json_int_t)f->uptime_ms, "seconds", top.seconds, "sessions_total", (json_int_t)f->sessions,
                  "live_objects", (json_int_t)f->live_objects, "live_bytes", (json_int_t)f->live_bytes, "total_bytes",
                  (json_int_t)f->total_bytes, "unused_bytes", (json_int_t)f->unused_bytes, "free_bytes",
                  (json_int_t)f->free_bytes, "metadata_bytes", (json_int_t)f->metadata_bytes, "rpcs_per_s",
                  (json_int_t)requests_per_s(), top.by_group ? "groups" : "sessions", list);

    for (size_t i = 0; object != NULL && i < n; i++) {
        const roster_row *row = &top.shown.rows[i];
        json_t *item = top.by_group ? roster_group_json(row) : roster_session_json(row);

        if (item == NULL || json_object_set_new(item, "refills_per_s", json_real(row->refills_per_s)) != 0 ||
            json_array_append_new(list, item) != 0) {
            json_decref(object);
            return NULL;
        }
    }
    return object;
}

/* 0, or the exit status of a failure. */
static int print_table(bool several)
{
    const arguments *args = top.args;
    size_t n = args->nrows != 0 && args->nrows < top.shown.n ? args->nrows : top.shown.n;

    if (args->json) {
        json_t *object = top_json(n);
        bool whole = object != NULL && (several ? ctl_json_print_line(object) : ctl_json_print(object));

        json_decref(object);
        if (!whole)
            return ctl_fail(CTL_E_MEMORY, 0, "out of memory, or stdout can't be written");
    } else {
        emit_head(print_line);
        for (size_t i = 0; i < n; i++)
            emit_row(print_line, &top.shown.rows[i]);
        if (n < top.shown.n)
            (void)printf("and %zu more\n", top.shown.n - n);
        if (several)
            (void)putchar('\n');
    }
    return fflush(stdout) == 0 ? CTL_OK : ctl_fail(CTL_E_OUTPUT, 0, "stdout: %s", strerror(errno));
}

static int print_tables(void)
{
    const arguments *args = top.args;
    uint32_t wanted = args->once ? 1 : args->count;
    uint32_t nprinted = 0;

    while (wanted == 0 || nprinted < wanted) {
        bool answered = look();
        int r;

        if (!answered && !look_waits(&top.state))
            return ask_failed(&args->who);
        look_tell(&top.state, &args->who);
        if (answered && top.nlooks > 1) {
            r = print_table(wanted != 1);
            if (r != CTL_OK)
                return r;
            nprinted++;
        }
        if (wanted == 0 || nprinted < wanted)
            look_pause(args->interval_ms);
    }
    return CTL_OK;
}

/* --- full screen --- */

#define HEAD_LINES 4u

static int next_line;

static void draw_line(const char *line, enum screen_look look_)
{
    screen_draw(next_line++, line, look_);
}

static size_t rows_that_fit(void)
{
    int lines = screen_lines() - (int)HEAD_LINES - 1;

    return lines > 0 ? (size_t)lines : 0;
}

static void draw(void)
{
    size_t fit = rows_that_fit();

    if (top.first + fit > top.shown.n)
        top.first = top.shown.n > fit ? top.shown.n - fit : 0;
    screen_begin();
    next_line = 0;
    emit_head(draw_line);
    for (size_t i = top.first; i < top.shown.n && i < top.first + fit; i++)
        emit_row(draw_line, &top.shown.rows[i]);
    next_line = screen_lines() - 1;
    emit_line(draw_line, SCREEN_REVERSE,
              "q quit  g %s  h l i f a n < >: by %s%s  R reverse  arrows, pages: scroll",
              top.by_group ? "sessions" : "groups", roster_key_name(top.key), top.reverse ? " reversed" : "");
    screen_end();
}

/* The column that a key sorts by. NULL: none. */
static const roster_key *key_of(int c)
{
    static const struct {
        int c;
        const char *name;
    } table[] = { { 'h', "held" }, { 'l', "live" },    { 'i', "idle" },
                  { 'f', "refills" }, { 'a', "age" }, { 'n', "session" } };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        if (table[i].c == c)
            return roster_key_named(table[i].name);
    }
    return NULL;
}

static void scroll_by(int64_t rows)
{
    int64_t first = (int64_t)top.first + rows;

    top.first = first > 0 ? (size_t)first : 0; /* draw() bounds it above */
}

/* False: the user wants to leave, or has left. */
static bool obey(int c)
{
    switch (c) {
    case 'q':
    case SCREEN_GONE:
        return false;
    case 'g':
        top.by_group = !top.by_group;
        break;
    case 'R':
        top.reverse = !top.reverse;
        break;
    case '<':
    case '>':
        top.key = roster_key_next(top.key, c == '<' ? -1 : 1);
        break;
    case SCREEN_UP:
    case SCREEN_DOWN:
        scroll_by(c == SCREEN_UP ? -1 : 1);
        break;
    case SCREEN_PAGE_UP:
    case SCREEN_PAGE_DOWN:
        scroll_by(c == SCREEN_PAGE_UP ? -(int64_t)rows_that_fit() : (int64_t)rows_that_fit());
        break;
    default:
        if (key_of(c) != NULL)
            top.key = key_of(c);
    }
    arrange();
    draw();
    return true;
}

static int show_screen(void)
{
    uint64_t next_ms = now_ms() + (uint64_t)top.args->interval_ms;
    uint32_t n = 0;

    draw();
    while (top.args->count == 0 || n < top.args->count) {
        uint64_t now = now_ms();
        int c;

        if (now >= next_ms) {
            if (!look() && !look_waits(&top.state)) {
                screen_close();
                return ask_failed(&top.args->who);
            }
            n += top.nlooks > 1;
            draw();
            now = now_ms();
            next_ms = now + (uint64_t)top.args->interval_ms;
        }
        c = screen_key((int)(next_ms - now));
        if (c != SCREEN_NO_KEY && !obey(c))
            break;
    }
    screen_close();
    return CTL_OK;
}

int top_run(const arguments *args)
{
    bool plain = args->once || args->json;
    int status;

    /* A daemon that is not there is said so without a screen. */
    if (!plain && !look())
        return ask_failed(&args->who);
    status = !plain && screen_open() ? show_screen() : print_tables();
    roster_free(&top.sessions);
    roster_free(&top.sessions_before);
    roster_free(&top.shown);
    return status;
}
