/*
 * Requests by group: its statistics, and freeing what ended sessions have left.
 *
 * Called by requests.c and stats.c. Calls session (which sessions have ended), left (what they have left) and
 * service. What a Reclaim frees is freed by remote bits, as any process frees: whoever holds one of these objects finds
 * it gone, which is why it is for who may control.
 *
 * A Reclaim, numbered:
 *   1. The sessions that it names among the last that have ended become wanted in left.c. One Reclaim at a time, and none
 *      while a session collects, which may have found the same objects: EBUSY.
 *   2. A round goes over the claims, some spans a slice, and frees or counts (rounds.c). If the peer closes meanwhile,
 *      it goes on to its end. If the daemon dies, what is freed is freed; the next daemon has no claims.
 *   3. The reply says how much it was.
 */
#include "daemon/serve/request_group.h"

#include <errno.h>
#include <string.h>

#include "daemon/serve/request_collect.h"

#define STATS_GROUPS_MAX 32u /* in one reply, which has other things to say */

/* --- statistics --- */

static uint64_t bytes_of(const census *count, const group *g)
{
    return count->owned[g->no.n].bytes;
}

/* Put g among the n that own most, most first. Returns how many there are then. */
static size_t insert_group(const census *count, const group *most[STATS_GROUPS_MAX], size_t n, const group *g)
{
    size_t at = n < STATS_GROUPS_MAX ? n : n - 1;

    if (n == STATS_GROUPS_MAX && bytes_of(count, most[at]) >= bytes_of(count, g))
        return n;
    for (; at > 0 && bytes_of(count, most[at - 1]) < bytes_of(count, g); at--)
        most[at] = most[at - 1];
    most[at] = g;
    return n < STATS_GROUPS_MAX ? n + 1 : n;
}

void groups_fill_stats(const service *srv, const census *count, Goallocd__StatsReply *body)
{
    static Goallocd__GroupStats stats[STATS_GROUPS_MAX];
    static Goallocd__GroupStats *pointers[STATS_GROUPS_MAX];
    const group *most[STATS_GROUPS_MAX];
    const group_table *table = srv->heap->groups;
    size_t n = 0;

    for (uint32_t i = 0; i < SHM_GROUPS_MAX; i++) {
        const group *g = table->groups[i];

        if (g == NULL)
            continue;
        n = insert_group(count, most, n, g);
        body->groups_sessions += g->nliving;
        body->groups_live_objects += count->owned[g->no.n].objects;
        body->groups_live_bytes += bytes_of(count, g);
    }
    for (size_t i = 0; i < n; i++) {
        goallocd__group_stats__init(&stats[i]);
        stats[i].group = most[i]->no.n;
        stats[i].name = (char *)(uintptr_t)group_name(table, most[i]);
        stats[i].uid = most[i]->uid;
        stats[i].flags = most[i]->reclaims ? SESSION_RECLAIM : 0;
        stats[i].state = (uint32_t)most[i]->state;
        stats[i].sessions = most[i]->nliving;
        stats[i].live_objects = count->owned[most[i]->no.n].objects;
        stats[i].live_bytes = count->owned[most[i]->no.n].bytes;
        pointers[i] = &stats[i];
    }
    body->groups = pointers;
    body->n_groups = n;
    body->ngroups = table->ngroups;
}

/* --- reclaim --- */

static bool is_of_group(const session *s, const Goallocd__Reclaim *ask)
{
    return strlen(s->group_name) == ask->group.len && memcmp(s->group_name, ask->group.data, ask->group.len) == 0 &&
           (ask->any_uid || s->group_uid == ask->uid);
}

static bool is_asked_for(const session *s, const Goallocd__Reclaim *ask)
{
    return ask->group.len > 0 ? is_of_group(s, ask) : s->lessee.no.n == ask->session;
}

/* What the sessions that the request names have left is wanted. How many these are; -1: groups of several users. */
static int want_sessions(service *srv, const Goallocd__Reclaim *ask)
{
    const session_table *table = &srv->sessions;
    const session *first = NULL;
    int n = 0;

    left_free_begin(srv->heap->left, !ask->count_only);
    for (uint64_t i = 0; i < SESSIONS_ENDED_MAX && i < table->nended; i++) {
        const session *s = &table->ended[i];

        if (!is_asked_for(s, ask))
            continue;
        if (first != NULL && ask->group.len > 0 && s->group_uid != first->group_uid)
            return -1;
        first = s;
        left_free_want(srv->heap->left, s->lessee.left);
        n++;
    }
    return n;
}

static void reclaimed(operation *op)
{
    const service *srv = op->peer->host->data;
    left_freed result = left_free_result(srv->heap->left);
    Goallocd__ReclaimReply body = GOALLOCD__RECLAIM_REPLY__INIT;

    body.objects = result.freed.objects;
    body.bytes = result.freed.bytes;
    body.unsure_objects = result.unsure.objects;
    body.unsure_bytes = result.unsure.bytes;
    body.sessions = op->start;
    (void)reply_body(op->peer, op->id, GOALLOCD__REPLY__RESULT_RECLAIM, &body);
}

answer handle_reclaim(client *c, const Goallocd__Request *request)
{
    const log_subject subject = peer_subject(&c->peer);
    service *srv = client_service(c);
    int n;

    if (srv->ending)
        return (answer){ ESHUTDOWN, "this goallocd is stopping" };
    if (srv->reclaiming || operations_first(&srv->peers, OPERATION_WAITING, ROUND_RECLAIM) != NULL)
        return (answer){ EBUSY, "another reclaim is under way" };
    if (collect_is_under_way(srv))
        return (answer){ EBUSY, "a session is collecting what nobody can reach: two may not free one object" };
    n = want_sessions(srv, request->reclaim);
    if (n < 0)
        return (answer){ EEXIST, "several users have had a group of that name: say whose, as UID:NAME" };
    if (n == 0)
        return (answer){ ENOENT, "no session of that number or group is among the last that have ended" };
    log_client_line(LOG_LEVEL_INFO, &subject, "%s what %d ended sessions have left",
                    request->reclaim->count_only ? "counts" : "reclaims", n);
    c->op.start = (uint32_t)n;
    return service_wait(c, request, ROUND_RECLAIM, reclaimed);
}
