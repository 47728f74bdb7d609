/*
 * Holdings: how many roots and adopted objects each user has.
 *
 * Called by the handlers of Adopt and of what sets a root, and by request_limits.c. Calls users, and reads the tables
 * of roots and adoptions. Data: the bounds in the accounts of users.
 *
 * A root goes when its object is freed, an adoption with its owner, and either in several other places, of which none
 * knows a user. So nobody counts down: an account has an upper bound, which each new one raises by one. Only when the
 * bound reaches the limit all are counted, in one pass for all users, and not more often than every RECOUNT_MS: a user
 * at his limit costs a pass of some 50 us in so long, and others nothing. An account that is new does not know what its
 * uid has from before, and begins with a count. Who asks for the limits is shown what there is, so each such request
 * costs a pass, in its user's time.
 *
 * Whose: a root is its maker's; the adoptions of a session's are its user's, those of a group the user's who founded
 * it.
 */
#include "daemon/serve/holdings.h"

#define RECOUNT_MS 100u

static void begin_at_zero(const user *who, void *data)
{
    user *mine = users_look_up(data, who->uid);

    mine->bound[LIMIT_UID_ROOTS] = mine->bound[LIMIT_UID_ADOPTIONS] = 0;
}

static void add(users *u, uint32_t uid, enum limit which, uint64_t n)
{
    user *who = n == 0 ? NULL : users_look_up(u, uid);

    if (who != NULL)
        who->bound[which] += n;
}

void holdings_recount(service *srv)
{
    const adopt_table *adopted = srv->heap->adopted;
    users *u = &srv->users;

    for (uint32_t at = 0; (at = users_visit_bucket(u, at, begin_at_zero, u)) != 0;)
        ;
    for (uint32_t at = roots_next(srv->roots, 0); at < SHM_ROOTS_MAX; at = roots_next(srv->roots, at + 1)) {
        root_value value = roots_value_at(srv->roots, at);

        if (value.owner != 0)
            add(u, value.owner - 1, LIMIT_UID_ROOTS, 1);
    }
    for (uint32_t no = 1, end = service_nentries(srv); no < end; no++) {
        const session *s = session_at(&srv->sessions, no);

        if (s != NULL)
            add(u, s->uid, LIMIT_UID_ADOPTIONS, adopt_count_owner(adopted, (owner_no){ (uint16_t)no }));
    }
    for (uint32_t i = 0; i < SHM_GROUPS_MAX; i++) {
        const group *g = srv->heap->groups->groups[i];

        if (g != NULL)
            add(u, g->uid, LIMIT_UID_ADOPTIONS, adopt_count_owner(adopted, g->no));
    }
    u->recounted_ms = uv_now(&srv->loop);
}

user *holdings_adopter(service *srv, const session *s)
{
    return s->group == NULL ? s->user : users_find(&srv->users, s->group->uid);
}

bool holdings_allow(service *srv, user *who, enum limit which)
{
    uint64_t most = srv->users.limits->max[which];

    if (who->privileged)
        return true;
    if (who->bound[which] >= most &&
        (who->bound[which] == UINT64_MAX || uv_now(&srv->loop) - srv->users.recounted_ms >= RECOUNT_MS))
        holdings_recount(srv);
    if (who->bound[which] >= most)
        return false;
    who->bound[which]++;
    return true;
}
