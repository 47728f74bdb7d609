/*
 * roots: the named objects: goallocctl roots.
 */
#include <stdio.h>
#include <string.h>

#include "client/ctl/commands.h"
#include "client/ctl/ctl.h"
#include "shm/layout.h"

bool roots_next(Goallocd__Request *request, const Goallocd__Reply *reply)
{
    request->root_list->start = reply->root_list->next;
    return reply->root_list->next != 0;
}

static bool heading_shown;

static const char *name_text(const Goallocd__Root *root, char ret[SHM_ROOT_NAME_BYTES])
{
    size_t len = root->name.len < SHM_ROOT_NAME_BYTES ? root->name.len : SHM_ROOT_NAME_BYTES - 1;

    if (len > 0)
        memcpy(ret, root->name.data, len);
    ret[len] = '\0';
    return ret;
}

/* Names are UTF-8, checked by the daemon; control characters are not for a terminal. */
void roots_text(const Goallocd__Reply *reply)
{
    if (!heading_shown)
        ctl_print_row("%-14s %7s %-16s %-5s %-10s %-8s %s", "offset", "size", "type tag", "lives", "session", "label",
                      "name");
    heading_shown = true;
    for (size_t i = 0; i < reply->root_list->n_roots; i++) {
        const Goallocd__Root *root = reply->root_list->roots[i];
        char name[SHM_ROOT_NAME_BYTES];
        char plain[SHM_ROOT_NAME_BYTES];
        char label[2 * SHM_LABEL_BYTES];
        char session[24] = "-";

        if (root->session != 0)
            (void)snprintf(session, sizeof(session), "%" PRIu32 "%s", root->session, root->open ? "" : " ended");
        (void)ctl_plain_text(root->label, label, SHM_LABEL_BYTES);
        ctl_print_row("0x%012" PRIx64 " %7s %016" PRIx64 " %-5s %-10s %s %s", root->offset, ctl_size(root->size),
                      root->type_tag, root->lives ? "yes" : "no", session, ctl_pad(label, sizeof(label), 8),
                      ctl_plain_text(name_text(root, name), plain, sizeof(plain)));
    }
}

/* The name as it is, if it is UTF-8; else what is shown of it. */
static json_t *name_json(const Goallocd__Root *root)
{
    json_t *whole = json_stringn((const char *)root->name.data, root->name.len);
    char name[SHM_ROOT_NAME_BYTES];
    char plain[SHM_ROOT_NAME_BYTES];

    return whole != NULL ? whole : json_string(ctl_plain_text(name_text(root, name), plain, sizeof(plain)));
}

/* The session is null if nobody knows it; its label is empty if it has ended too long ago. */
static json_t *root_json(const Goallocd__Reply *reply, size_t i)
{
    const Goallocd__Root *root = reply->root_list->roots[i];
    char label[SHM_LABEL_BYTES];

    return json_pack("{s:I, s:I, s:I, s:b, s:o, s:b, s:s, s:o}", "offset", (json_int_t)root->offset, "size",
                     (json_int_t)root->size, "type_tag", (json_int_t)root->type_tag, "lives", root->lives != 0,
                     "session", root->session != 0 ? json_integer(root->session) : json_null(), "session_open",
                     root->open != 0, "label", ctl_plain_text(root->label, label, sizeof(label)), "name",
                     name_json(root));
}

bool roots_json(json_t *object, const Goallocd__Reply *reply)
{
    return ctl_json_append(object, "roots", reply, reply->root_list->n_roots, root_json);
}
