/*
 * roots: the named objects: goallocctl roots.
 */
#include <stdio.h>
#include <string.h>

#include "client/ctl/commands.h"
#include "client/ctl/ctl.h"
#include "shm/layout.h"

const char roots_heading[] =
    "offset               size  type tag          lives  session      label                 name\n";

bool roots_next(Goallocd__Request *request, const Goallocd__Reply *reply)
{
    request->root_list->start = reply->root_list->next;
    return reply->root_list->next != 0;
}

/* Names are UTF-8, checked by the daemon; control characters are not for a terminal. */
void roots_text(const Goallocd__Reply *reply)
{
    for (size_t i = 0; i < reply->root_list->n_roots; i++) {
        const Goallocd__Root *root = reply->root_list->roots[i];
        char name[SHM_ROOT_NAME_BYTES] = "";
        char plain[SHM_ROOT_NAME_BYTES];
        char label[SHM_LABEL_BYTES];
        char session[24] = "-";

        memcpy(name, root->name.data, root->name.len < sizeof(name) ? root->name.len : sizeof(name) - 1);
        if (root->session != 0)
            (void)snprintf(session, sizeof(session), "%" PRIu32 "%s", root->session, root->open ? "" : " ended");
        (void)printf("0x%012" PRIx64 " %10s  %016" PRIx64 "  %-5s  %-11s  %-20s  %s\n", root->offset,
                     ctl_bytes(root->size), root->type_tag, root->lives ? "yes" : "no", session,
                     ctl_plain_text(root->label, label, sizeof(label)), ctl_plain_text(name, plain, sizeof(plain)));
    }
}

/* The session is null if nobody knows it; its label is empty if it has ended too long ago. */
static json_t *root_json(const Goallocd__Reply *reply, size_t i)
{
    const Goallocd__Root *root = reply->root_list->roots[i];
    char label[SHM_LABEL_BYTES];

    return json_pack("{s:I, s:I, s:I, s:b, s:o, s:b, s:s, s:s%}", "offset", (json_int_t)root->offset, "size",
                     (json_int_t)root->size, "type_tag", (json_int_t)root->type_tag, "lives", root->lives != 0,
                     "session", root->session != 0 ? json_integer(root->session) : json_null(), "session_open",
                     root->open != 0, "label", ctl_plain_text(root->label, label, sizeof(label)), "name",
                     (const char *)root->name.data, root->name.len);
}

bool roots_json(json_t *object, const Goallocd__Reply *reply)
{
    return ctl_json_append(object, "roots", reply, reply->root_list->n_roots, root_json);
}
