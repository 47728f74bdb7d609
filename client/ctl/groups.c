/*
 * groups: what groups of sessions own, as a part of goallocctl stats.
 */
#include <stdio.h>

#include "client/ctl/commands.h"
#include "client/ctl/ctl.h"
#include "shm/layout.h"

static const char *state_name(const Goallocd__GroupStats *g)
{
    if (g->state != SHM_GROUP_OPEN)
        return "ending";
    return g->sessions == 0 ? "waiting" : "open"; /* waiting: for a forked child, which has not attached yet */
}

void groups_text(const Goallocd__Reply *stats)
{
    const Goallocd__StatsReply *s = stats->stats;
    char name[SHM_GROUP_NAME_BYTES];

    ctl_print_row("%5s %5s %-7s %-4s %8s %10s %9s  %s", "group", "uid", "state", "", "sessions", "objects", "live",
                  "name");
    for (size_t i = 0; i < s->n_groups; i++) {
        const Goallocd__GroupStats *g = s->groups[i];

        ctl_print_row("%5u %5u %-7s %-4s %8u %10s %9s  %s", g->group, g->uid, state_name(g),
                      g->flags & SESSION_RECLAIM ? "recl" : "", g->sessions, ctl_count(g->live_objects),
                      ctl_size(g->live_bytes), ctl_plain_text(g->name, name, sizeof(name)));
    }
    if (s->n_groups < s->ngroups)
        (void)printf("and %zu more, which own less\n", s->ngroups - s->n_groups);
}

static json_t *group_json(const Goallocd__Reply *reply, size_t i)
{
    const Goallocd__GroupStats *g = reply->stats->groups[i];
    char name[SHM_GROUP_NAME_BYTES];

    return json_pack("{s:I, s:s, s:I, s:s, s:b, s:I, s:I, s:I}", "group", (json_int_t)g->group, "name",
                     ctl_plain_text(g->name, name, sizeof(name)), "uid", (json_int_t)g->uid, "state", state_name(g),
                     "reclaim", (g->flags & SESSION_RECLAIM) != 0, "sessions", (json_int_t)g->sessions, "live_objects",
                     (json_int_t)g->live_objects, "live_bytes", (json_int_t)g->live_bytes);
}

bool groups_json(json_t *object, const Goallocd__Reply *stats)
{
    return ctl_json_append(object, "groups", stats, stats->stats->n_groups, group_json);
}
