/*
 * reclaim: frees what ended sessions have left: goallocctl reclaim.
 *
 * It asks twice. The first reply says how much would be freed, the second one how much was; in between somebody at the
 * terminal is asked, unless --yes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/ctl/commands.h"
#include "client/ctl/ctl.h"
#include "shm/limits.h"

Goallocd__Reclaim reclaim_first = GOALLOCD__RECLAIM__INIT;

static bool reclaims_without_asking;

bool reclaim_set(const arguments *args)
{
    const char *whose = args->words[0];
    const char *colon = strchr(whose, ':');
    const char *name = whose;

    reclaims_without_asking = args->yes;
    reclaim_first.count_only = !args->yes;
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
