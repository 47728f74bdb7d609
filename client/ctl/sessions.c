/*
 * sessions: who uses the heap, and who has used it: goallocctl sessions and disconnect.
 *
 * All rows are gathered before any is shown, since they may be wanted in another order, or together by group.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/ctl/commands.h"
#include "client/ctl/ctl.h"

Goallocd__SessionList sessions_first = GOALLOCD__SESSION_LIST__INIT;

static roster all;
static const arguments *wanted;
static size_t group_columns;

bool sessions_set(const arguments *args)
{
    wanted = args;
    sessions_first.live = args->live;
    return true;
}

bool sessions_next(Goallocd__Request *request, const Goallocd__Reply *reply)
{
    if (!roster_add(&all, reply->session_list))
        exit(ctl_fail(CTL_E_MEMORY, 0, "out of memory, or more sessions than there can be"));
    request->session_list->start = reply->session_list->next;
    if (reply->session_list->next != 0)
        return true;
    roster_filter(&all, wanted->group, wanted->live);
    if (wanted->by_group)
        roster_group(&all);
    roster_sort(&all, wanted->sort, wanted->reverse);
    group_columns = roster_group_columns(&all);
    return false;
}

static size_t nshown(void)
{
    return wanted->nrows != 0 && wanted->nrows < all.n ? wanted->nrows : all.n;
}

static void print_session(const roster_row *s)
{
    char group[2 * SHM_GROUP_NAME_BYTES];

    (void)snprintf(group, sizeof(group), "%s", s->group[0] == '\0' ? "-" : s->group);
    ctl_print_row("%4u %7u %5u %-8s %-2s %7s %6" PRIu64 " %6s %7s %s %s", s->session, s->pid, s->uid,
                  roster_state_name(s->state),
                  s->flags & SESSION_RECLAIM    ? "re"
                  : s->flags & SESSION_READONLY ? "ro"
                                                : "",
                  ctl_size(s->held_bytes), s->leased_spans, ctl_short(s->rpcs), ctl_size(s->left_bytes),
                  ctl_pad(group, sizeof(group), group_columns), s->label);
}

static void print_group(const roster_row *g)
{
    ctl_print_row("%8u %5u %-2s %7s %7s %7s %6" PRIu64 " %6s %7s %6s %s", g->nsessions, g->uid,
                  g->flags & SESSION_RECLAIM ? "re" : "", ctl_size(g->held_bytes), ctl_size(g->live_bytes),
                  ctl_size(g->idle_bytes), g->leased_spans, ctl_short(g->rpcs), ctl_size(g->left_bytes),
                  ctl_age(g->age_ms), g->group[0] == '\0' ? "-" : g->group);
}

void sessions_text(const Goallocd__Reply *last)
{
    size_t n = nshown();

    (void)last;
    if (wanted->by_group)
        ctl_print_row("%8s %5s %-2s %7s %7s %7s %6s %6s %7s %6s %s", "sessions", "uid", "", "held", "live", "idle",
                      "spans", "reqs", "left", "age", "group");
    else
        ctl_print_row("%4s %7s %5s %-8s %-2s %7s %6s %6s %7s %-*s %s", "sess", "pid", "uid", "state", "", "held",
                      "spans", "reqs", "left", (int)group_columns, "group", "label");
    for (size_t i = 0; i < n; i++) {
        if (wanted->by_group)
            print_group(&all.rows[i]);
        else
            print_session(&all.rows[i]);
    }
    if (n < all.n)
        (void)printf("and %zu more\n", all.n - n);
}

bool sessions_json(json_t *object, const Goallocd__Reply *last)
{
    json_t *list = json_array();
    size_t n = nshown();

    (void)last;
    if (json_object_set_new(object, wanted->by_group ? "groups" : "sessions", list) != 0)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (json_array_append_new(list, wanted->by_group ? roster_group_json(&all.rows[i])
                                                         : roster_session_json(&all.rows[i])) != 0)
            return false;
    }
    return true;
}

/* --- one of them --- */

Goallocd__Disconnect disconnect_first = GOALLOCD__DISCONNECT__INIT;
Goallocd__Trim trim_first = GOALLOCD__TRIM__INIT;

static bool set_number(const char *text, uint32_t *ret)
{
    return ctl_number(text, strlen(text), ret) && *ret > 0 && *ret < SHM_SESSIONS_MAX;
}

Goallocd__Drop drop_first = GOALLOCD__DROP__INIT;

bool drop_set(const arguments *args)
{
    drop_first.save = args->save;
    return true;
}

bool disconnect_set(const arguments *args)
{
    return set_number(args->words[0], &disconnect_first.session);
}

bool trim_set(const arguments *args)
{
    return args->nwords == 0 || set_number(args->words[0], &trim_first.session);
}
