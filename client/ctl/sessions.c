/*
 * sessions: who uses the heap, and who has used it: goallocctl sessions and disconnect.
 */
#include <stdio.h>
#include <string.h>

#include "client/ctl/commands.h"
#include "client/ctl/ctl.h"
#include "shm/layout.h"

const char sessions_heading[] =
    "session      pid    uid state                held    spans   requests       left              "
    "group            label\n";

bool sessions_next(Goallocd__Request *request, const Goallocd__Reply *reply)
{
    request->session_list->start = reply->session_list->next;
    return reply->session_list->next != 0;
}

Goallocd__Disconnect disconnect_first = GOALLOCD__DISCONNECT__INIT;

bool disconnect_set(const char *session)
{
    return ctl_number(session, strlen(session), &disconnect_first.session) && disconnect_first.session > 0 &&
           disconnect_first.session < SHM_SESSIONS_MAX;
}

static const char *state_name(uint32_t state)
{
    static const char *const names[] = {
        [SHM_SESSION_FREE] = "free",     [SHM_SESSION_OPEN] = "open",         [SHM_SESSION_LOST] = "lost",
        [SHM_SESSION_ENDING] = "ending", [SHM_SESSION_DETACHED] = "detached", [SHM_SESSION_DIED] = "died",
    };

    return state < sizeof(names) / sizeof(names[0]) ? names[state] : "?";
}

static json_t *session_json(const Goallocd__Reply *reply, size_t i)
{
    const Goallocd__SessionInfo *s = reply->session_list->sessions[i];
    char buf[SHM_LABEL_BYTES];
    const char *label = ctl_plain_text(s->label, buf, sizeof(buf));
    char group_buf[SHM_GROUP_NAME_BYTES];
    const char *group = ctl_plain_text(s->group, group_buf, sizeof(group_buf));

    return json_pack("{s:I, s:I, s:I, s:s, s:s, s:s, s:I, s:b, s:b, s:I, s:I, s:I, s:I, s:I, s:I}", "session",
                     (json_int_t)s->session, "pid", (json_int_t)s->pid, "uid", (json_int_t)s->uid, "label", label,
                     "state", state_name(s->state), "group", group, "group_uid", (json_int_t)s->group_uid, "reclaim",
                     (s->flags & SESSION_RECLAIM) != 0, "readonly", (s->flags & SESSION_READONLY) != 0, "held_bytes",
                     (json_int_t)s->held_bytes, "leased_spans", (json_int_t)s->leased_spans, "limit_bytes",
                     (json_int_t)s->limit_bytes, "rpcs", (json_int_t)s->rpcs, "left_objects",
                     (json_int_t)s->left_objects, "left_bytes", (json_int_t)s->left_bytes);
}

static void print_session(const Goallocd__SessionInfo *s)
{
    char label[SHM_LABEL_BYTES];
    char group[SHM_GROUP_NAME_BYTES];

    (void)printf("%7u %8u %6u %-8s %-4s %11s %8" PRIu64 " %10" PRIu64 " %10" PRIu64 " %11s  %-16s %s\n", s->session,
                 s->pid, s->uid, state_name(s->state),
                 s->flags & SESSION_RECLAIM    ? "recl"
                 : s->flags & SESSION_READONLY ? "ro"
                                               : "",
                 ctl_bytes(s->held_bytes), s->leased_spans, s->rpcs, s->left_objects, ctl_bytes(s->left_bytes),
                 ctl_plain_text(s->group[0] == '\0' ? "-" : s->group, group, sizeof(group)),
                 ctl_plain_text(s->label, label, sizeof(label)));
}

void sessions_text(const Goallocd__Reply *reply)
{
    for (size_t i = 0; i < reply->session_list->n_sessions; i++)
        print_session(reply->session_list->sessions[i]);
}

bool sessions_json(json_t *object, const Goallocd__Reply *reply)
{
    return ctl_json_append(object, "sessions", reply, reply->session_list->n_sessions, session_json);
}
