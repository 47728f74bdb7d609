/*
 * sessions: who uses the heap, and who has: goallocctl sessions.
 */
#include <stdio.h>
#include <stdlib.h>

#include "client/ctl/ctl.h"
#include "shm/layout.h"

static const char *state_name(uint32_t state)
{
    static const char *const names[] = {
        [SHM_SESSION_FREE] = "free",     [SHM_SESSION_OPEN] = "open",         [SHM_SESSION_LOST] = "lost",
        [SHM_SESSION_ENDING] = "ending", [SHM_SESSION_DETACHED] = "detached", [SHM_SESSION_DIED] = "died",
    };

    return state < sizeof(names) / sizeof(names[0]) ? names[state] : "?";
}

/* The daemon makes labels UTF-8, but an older one may not. */
#define LABEL_BYTES 256u

/* NULL: no memory. */
static json_t *session_json(const Goallocd__SessionInfo *s)
{
    char buf[LABEL_BYTES];
    const char *label = ctl_plain_text(s->label, buf, sizeof(buf));

    return json_pack(
        "{s:I, s:I, s:I, s:s, s:s, s:b, s:b, s:I, s:I, s:I, s:I, s:I, s:I}", "session", (json_int_t)s->session, "pid",
        (json_int_t)s->pid, "uid", (json_int_t)s->uid, "label", label, "state", state_name(s->state), "reclaim",
        (s->flags & SESSION_RECLAIM) != 0, "readonly", (s->flags & SESSION_READONLY) != 0, "held_bytes",
        (json_int_t)s->held_bytes, "leased_spans", (json_int_t)s->leased_spans, "limit_bytes",
        (json_int_t)s->limit_bytes, "rpcs", (json_int_t)s->rpcs, "left_objects", (json_int_t)s->left_objects,
        "left_bytes", (json_int_t)s->left_bytes);
}

static void print_session(const Goallocd__SessionInfo *s)
{
    char label[LABEL_BYTES];

    (void)printf("%7u %8u %6u %-8s %-4s %11s %8" PRIu64 " %10" PRIu64 " %10" PRIu64 " %11s  %s\n", s->session, s->pid,
                 s->uid, state_name(s->state),
                 s->flags & SESSION_RECLAIM    ? "recl"
                 : s->flags & SESSION_READONLY ? "ro"
                                               : "",
                 ctl_bytes(s->held_bytes), s->leased_spans, s->rpcs, s->left_objects, ctl_bytes(s->left_bytes),
                 ctl_plain_text(s->label, label, sizeof(label)));
}

/* Ask for the sessions from *start on, and add or print them. *start is where to go on, 0: that was all. */
static bool list_some(const arguments *args, json_t *list, uint32_t *start)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__SessionList body = GOALLOCD__SESSION_LIST__INIT;
    Goallocd__Reply *reply;
    bool whole = true;

    body.start = *start;
    request.op_case = GOALLOCD__REQUEST__OP_SESSION_LIST;
    request.session_list = &body;
    reply = ctl_ask(args, &request, GOALLOCD__REPLY__RESULT_SESSION_LIST);
    if (reply == NULL)
        return false;
    for (size_t i = 0; i < reply->session_list->n_sessions && whole; i++) {
        if (args->json)
            whole = json_array_append_new(list, session_json(reply->session_list->sessions[i])) == 0;
        else
            print_session(reply->session_list->sessions[i]);
    }
    *start = reply->session_list->next;
    goallocd__reply__free_unpacked(reply, NULL);
    if (!whole)
        (void)fprintf(stderr, "goallocctl: out of memory\n");
    return whole;
}

int command_sessions(const arguments *args)
{
    json_t *list = json_array();
    uint32_t start = 0;

    if (!args->json)
        (void)printf("%7s %8s %6s %-8s %-4s %11s %8s %10s %10s %11s  %s\n", "session", "pid", "uid", "state", "",
                     "held", "spans", "requests", "left", "", "label");
    do {
        if (!list_some(args, list, &start)) {
            json_decref(list);
            return EXIT_FAILURE;
        }
    } while (start != 0);
    if (args->json)
        return ctl_print_json(json_pack("{s:o}", "sessions", list));
    json_decref(list);
    return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
