/*
 * limits: what clients may take at most, and what they have taken: goallocctl limits.
 */
#include <stdio.h>

#include "client/ctl/commands.h"
#include "client/ctl/ctl.h"
#include "shm/limits.h"

const char limits_heading[] = "limit                   used    maximum    refused  of\n";

/* As the daemon numbers them (daemon/limits.h). */
#define SCOPE_UID 1u
static const char *const scopes[] = { "all", "uid", "session", "connection", "group" };

static const char *scope_of(const Goallocd__LimitUse *use)
{
    return use->scope < sizeof(scopes) / sizeof(scopes[0]) ? scopes[use->scope] : "?";
}

bool limits_next(Goallocd__Request *request, const Goallocd__Reply *reply)
{
    request->limits->start = reply->limits->next;
    return reply->limits->next != 0;
}

static const char *amount(const Goallocd__LimitUse *use, uint64_t n)
{
    return use->bytes ? ctl_bytes(n) : ctl_count(n);
}

/* Whose limit it is. */
static void name_owner(const Goallocd__LimitUse *use, char *ret, size_t cap)
{
    char label[SHM_LABEL_MAX + 1];
    char group[SHM_GROUP_NAME_MAX + 1];

    if (use->session != 0)
        (void)snprintf(ret, cap, " %u, pid %u, uid %u, %s", use->session, use->pid, use->uid,
                       ctl_plain_text(use->label, label, sizeof(label)));
    else if (use->scope == SCOPE_UID)
        (void)snprintf(ret, cap, " %u", use->uid);
    else if (use->group[0] != '\0')
        (void)snprintf(ret, cap, " %s, uid %u", ctl_plain_text(use->group, group, sizeof(group)), use->uid);
    else
        ret[0] = '\0';
}

void limits_text(const Goallocd__Reply *reply)
{
    for (size_t i = 0; i < reply->limits->n_uses; i++) {
        const Goallocd__LimitUse *use = reply->limits->uses[i];
        char name[32];
        char owner[256];

        name_owner(use, owner, sizeof(owner));
        ctl_print_row("%-18s %10s %10s %10s  %s%s", ctl_plain_text(use->name, name, sizeof(name)),
                      amount(use, use->used), use->maximum == 0 ? "none" : amount(use, use->maximum),
                      ctl_count(use->refused), scope_of(use), owner);
    }
}

static json_t *limit_json(const Goallocd__Reply *reply, size_t i)
{
    const Goallocd__LimitUse *use = reply->limits->uses[i];
    char name[32];
    char label[SHM_LABEL_MAX + 1];
    char group[SHM_GROUP_NAME_MAX + 1];
    json_t *object = json_pack("{s:s, s:s, s:I, s:I, s:I}", "limit", ctl_plain_text(use->name, name, sizeof(name)),
                               "of", scope_of(use), "used", (json_int_t)use->used, "maximum", (json_int_t)use->maximum,
                               "refused", (json_int_t)use->refused);
    bool whole = object != NULL;

    if (whole && (use->scope == SCOPE_UID || use->session != 0 || use->group[0] != '\0'))
        whole = ctl_json_set(object, "uid", use->uid);
    if (whole && use->group[0] != '\0')
        whole = ctl_json_set_text(object, "group", ctl_plain_text(use->group, group, sizeof(group)));
    if (whole && use->session != 0)
        whole = ctl_json_set(object, "session", use->session) && ctl_json_set(object, "pid", use->pid) &&
                ctl_json_set_text(object, "label", ctl_plain_text(use->label, label, sizeof(label)));
    if (whole)
        return object;
    json_decref(object);
    return NULL;
}

bool limits_json(json_t *object, const Goallocd__Reply *reply)
{
    return ctl_json_append(object, "limits", reply, reply->limits->n_uses, limit_json);
}
