/*
 * groups: what groups of sessions own, as a part of goallocctl stats; and goallocctl reclaim, which frees what ended
 * sessions have left.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/ctl/commands.h"
#include "client/ctl/ctl.h"
#include "shm/layout.h"

/* --- what they own --- */

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

    (void)printf("%7s %6s %-8s %-4s %9s %12s %11s  %s\n", "group", "uid", "state", "", "sessions", "objects", "live",
                 "name");
    for (size_t i = 0; i < s->n_groups; i++) {
        const Goallocd__GroupStats *g = s->groups[i];

        (void)printf("%7u %6u %-8s %-4s %9u %12" PRIu64 " %11s  %s\n", g->group, g->uid, state_name(g),
                     g->flags & SESSION_RECLAIM ? "recl" : "", g->sessions, g->live_objects, ctl_bytes(g->live_bytes),
                     ctl_plain_text(g->name, name, sizeof(name)));
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

/* --- reclaim --- */

Goallocd__Reclaim reclaim_first = GOALLOCD__RECLAIM__INIT;

static bool reclaims_without_asking;

bool reclaim_set(const char *whose, bool yes)
{
    const char *colon = strchr(whose, ':');
    const char *name = whose;

    reclaims_without_asking = yes;
    reclaim_first.count_only = !yes;
    if (ctl_number(whose, strlen(whose), &reclaim_first.session))
        return true;
    reclaim_first.any_uid = colon == NULL || !ctl_number(whose, (size_t)(colon - whose), &reclaim_first.uid);
    if (!reclaim_first.any_uid)
        name = colon + 1;
    reclaim_first.group = (ProtobufCBinaryData){ .len = strlen(name), .data = (uint8_t *)(uintptr_t)name };
    return reclaim_first.group.len >= 1 && reclaim_first.group.len <= SHM_GROUP_NAME_MAX;
}

bool reclaim_next(Goallocd__Request *request, const Goallocd__Reply *reply)
{
    const Goallocd__ReclaimReply *got = reply->reclaim;
    char question[256];

    if (!request->reclaim->count_only)
        return false;
    (void)snprintf(question, sizeof(question),
                   "Free %" PRIu64 " objects, %s, of %u ended sessions? Who still uses one of them finds it gone.",
                   got->objects, ctl_bytes(got->bytes), got->sessions);
    if (!ctl_confirm(question, reclaims_without_asking))
        exit(EXIT_FAILURE);
    request->reclaim->count_only = false;
    return true;
}

void reclaim_text(const Goallocd__Reply *last)
{
    const Goallocd__ReclaimReply *got = last->reclaim;

    (void)printf("%" PRIu64 " objects freed, %s\n", got->objects, ctl_bytes(got->bytes));
    if (got->unsure_objects != 0)
        (void)printf("not freed: at most %" PRIu64 " objects, %s, which may be of other sessions\n",
                     got->unsure_objects, ctl_bytes(got->unsure_bytes));
}

bool reclaim_json(json_t *object, const Goallocd__Reply *last)
{
    const Goallocd__ReclaimReply *got = last->reclaim;

    return ctl_json_set(object, "objects", got->objects) && ctl_json_set(object, "bytes", got->bytes) &&
           ctl_json_set(object, "unsure_objects", got->unsure_objects) &&
           ctl_json_set(object, "unsure_bytes", got->unsure_bytes) && ctl_json_set(object, "sessions", got->sessions);
}
