/*
 * Requests about limits: what is used of each, by whom, and what they have refused.
 *
 * Called by requests.c. Calls users, holdings, session and group. The list has four parts, which `start` numbers one
 * after the other: limits of all and of connections; the accounts of users, a bucket at a time; sessions and groups,
 * one at a time. It needs no session. Who may not control the daemon sees the first part, and what is its own user's of
 * the others. Who asks for the nearest gets one row a limit instead, which says of nobody whose it is.
 */
#include "daemon/serve/request_limits.h"

#include "daemon/serve/holdings.h"

#define LIST_MAX    128u
#define BUCKET_MAX  64u /* rows that a bucket, with several users in it at worst, may need; more are left out */
#define START_USERS 1u
#define START_SESSIONS (START_USERS + USERS_BUCKETS)
#define START_GROUPS   (START_SESSIONS + SHM_SESSIONS_MAX)

typedef struct limit_list {
    const service *srv;
    const peer *p;
    bool all; /* it may see those of all users */
    size_t n;
    Goallocd__LimitUse uses[LIST_MAX];
    Goallocd__LimitUse *pointers[LIST_MAX];
} limit_list;

/* A row for which there is room. */
static Goallocd__LimitUse *list_add(limit_list *list, enum limit which, uint64_t used, uint64_t refused)
{
    const limit_row *row = limit_row_of(which);
    Goallocd__LimitUse *use = &list->uses[list->n];

    goallocd__limit_use__init(use);
    use->name = (char *)(uintptr_t)row->name;
    use->bytes = row->unit == LIMIT_BYTES;
    use->scope = (uint32_t)row->scope;
    use->maximum = list->srv->users.limits->max[which];
    use->used = used;
    use->refused = refused;
    list->pointers[list->n++] = use;
    return use;
}

/* Of an account that is newer than the count nobody knows what its uid has from before. */
static uint64_t used_of(const user *who, enum limit which)
{
    if (which == LIMIT_UID_BYTES)
        return who->quota.nheld_pages * PAGE_BYTES;
    if (which == LIMIT_UID_LEFT)
        return who->left.nheld_pages * PAGE_BYTES;
    if (which == LIMIT_UID_ROOTS || which == LIMIT_UID_ADOPTIONS)
        return who->bound[which] == UINT64_MAX ? 0 : who->bound[which];
    return who->used[which];
}

static void list_user(const user *who, void *data)
{
    limit_list *list = data;

    if (!list->all && who->uid != list->p->uid)
        return;
    for (int which = 0; which < LIMITS && list->n < LIST_MAX; which++) {
        uint64_t used = used_of(who, (enum limit)which);
        Goallocd__LimitUse *use;

        if (limit_row_of((enum limit)which)->scope != LIMIT_OF_UID || (used == 0 && who->refused[which] == 0))
            continue;
        use = list_add(list, (enum limit)which, used, who->refused[which]);
        use->uid = who->uid;
        if (who->privileged)
            use->maximum = 0;
    }
}

static void list_session(limit_list *list, const session *s)
{
    Goallocd__LimitUse *use;

    if (s == NULL || (!list->all && s->uid != list->p->uid) || s->lessee.limit_pages == 0)
        return;
    use = list_add(list, LIMIT_SESSION_BYTES, s->lessee.nheld_pages * PAGE_BYTES, 0);
    use->maximum = s->lessee.limit_pages * PAGE_BYTES;
    use->uid = s->uid;
    use->session = s->lessee.no.n;
    use->pid = s->pid;
    use->label = (char *)(uintptr_t)s->label;
}

static void list_group(limit_list *list, const group *g)
{
    Goallocd__LimitUse *use;

    if (g == NULL || (!list->all && g->uid != list->p->uid) || g->quota.limit_pages == 0)
        return;
    use = list_add(list, LIMIT_GROUP_BYTES, g->quota.nheld_pages * PAGE_BYTES, 0);
    use->uid = g->uid;
    use->group = (char *)(uintptr_t)group_name(list->srv->heap->groups, g);
}

static void list_all(limit_list *list)
{
    const users *u = &list->srv->users;

    for (int which = 0; which < LIMITS; which++) {
        if (limit_row_of((enum limit)which)->scope != LIMIT_OF_UID)
            (void)list_add(list, (enum limit)which, u->used[which], u->refused[which]);
    }
}

/* --- the nearest --- */

/* Of a limit so much is used, of so much. The row keeps what is nearer to its limit. */
static void note_use(Goallocd__LimitUse *row, uint64_t used, uint64_t maximum)
{
    bool nearer = row->maximum == 0 || (double)used * (double)row->maximum > (double)row->used * (double)maximum;

    if (maximum != 0 && nearer) {
        row->used = used;
        row->maximum = maximum;
    }
}

static void note_user(const user *who, void *data)
{
    limit_list *list = data;

    for (int which = 0; which < LIMITS && !who->privileged; which++) {
        if (limit_row_of((enum limit)which)->scope == LIMIT_OF_UID)
            note_use(&list->uses[which], used_of(who, (enum limit)which),
                     list->srv->users.limits->max[which]);
    }
}

/*
 * A row a limit, in the order of the table. What is counted on nobody's account now has 0 used, of the maximum that is
 * set. Linear in users, sessions and groups, all of which are bounded, with a few loads each.
 */
static void list_nearest(limit_list *list)
{
    const service *srv = list->srv;
    uint32_t end = service_nentries(srv);
    uint32_t at = 0;

    for (int which = 0; which < LIMITS; which++)
        (void)list_add(list, (enum limit)which, srv->users.used[which], srv->users.refused[which]);
    do
        at = users_visit_bucket(&srv->users, at, note_user, list);
    while (at != 0);
    for (uint32_t no = 1; no < end; no++) {
        const session *s = session_at(&srv->sessions, no);

        if (s != NULL)
            note_use(&list->uses[LIMIT_SESSION_BYTES], s->lessee.nheld_pages * PAGE_BYTES,
                     s->lessee.limit_pages * PAGE_BYTES);
    }
    for (uint32_t i = 0; i < SHM_GROUPS_MAX; i++) {
        const group *g = srv->heap->groups->groups[i];

        if (g != NULL)
            note_use(&list->uses[LIMIT_GROUP_BYTES], g->quota.nheld_pages * PAGE_BYTES,
                     g->quota.limit_pages * PAGE_BYTES);
    }
}

static answer reply_list(client *c, uint64_t id, limit_list *list, uint32_t next)
{
    Goallocd__LimitsReply body = GOALLOCD__LIMITS_REPLY__INIT;

    body.uses = list->pointers;
    body.n_uses = list->n;
    body.next = next;
    return reply_body(&c->peer, id, GOALLOCD__REPLY__RESULT_LIMITS, &body);
}

answer handle_limits(client *c, const Goallocd__Request *request)
{
    service *srv = client_service(c);
    limit_list list = { .srv = srv, .p = &c->peer, .all = service_may_control(&c->peer) };
    uint32_t at = request->limits->start;
    uint32_t sessions_end = START_SESSIONS + service_nentries(srv);
    uint32_t end = START_GROUPS + SHM_GROUPS_MAX;

    if (at == 0 || request->limits->nearest)
        holdings_recount(srv);
    if (request->limits->nearest) {
        list_nearest(&list);
        return reply_list(c, request->id, &list, 0);
    }
    if (at == 0) {
        list_all(&list);
        at = START_USERS;
    }
    while (at < START_SESSIONS && list.n + BUCKET_MAX <= LIST_MAX) {
        uint32_t next = users_visit_bucket(&srv->users, at - START_USERS, list_user, &list);

        at = next == 0 ? START_SESSIONS : START_USERS + next;
    }
    for (; at >= START_SESSIONS && at < sessions_end && list.n < LIST_MAX; at++)
        list_session(&list, session_at(&srv->sessions, at - START_SESSIONS));
    if (at >= sessions_end && at < START_GROUPS)
        at = START_GROUPS;
    for (; at >= START_GROUPS && at < end && list.n < LIST_MAX; at++)
        list_group(&list, srv->heap->groups->groups[at - START_GROUPS]);
    return reply_list(c, request->id, &list, at < end ? at : 0);
}

answer limits_refuse_memory(client *c, const session *s)
{
    const lease_quota own = { .nheld_pages = s->lessee.nheld_pages, .limit_pages = s->lessee.limit_pages };
    const lease_quota *quotas[] = { &s->user->left, &own, &s->user->quota,
                                    s->group == NULL ? NULL : &s->group->quota };
    static const enum limit names[] = { LIMIT_UID_LEFT, LIMIT_SESSION_BYTES, LIMIT_UID_BYTES, LIMIT_GROUP_BYTES };
    uint64_t least = UINT64_MAX;
    size_t which = 0;

    for (size_t i = 0; i < sizeof(quotas) / sizeof(quotas[0]); i++) {
        uint64_t room;

        if (quotas[i] == NULL || quotas[i]->limit_pages == 0)
            continue;
        room = quotas[i]->nheld_pages < quotas[i]->limit_pages ? quotas[i]->limit_pages - quotas[i]->nheld_pages : 0;
        if (room > 0 && quotas[i] == &s->user->left)
            continue; /* a session may hold more than its user may leave */
        if (room < least) {
            least = room;
            which = i;
        }
    }
    return service_refuse(c, names[which], quotas[which]->nheld_pages * PAGE_BYTES,
                          quotas[which]->limit_pages * PAGE_BYTES);
}
