/*
 * roots: the named objects: goallocctl roots.
 */
#include <stdio.h>
#include <string.h>

#include "client/ctl/commands.h"
#include "client/ctl/ctl.h"
#include "shm/layout.h"

const char roots_heading[] = "offset          name\n";

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

        memcpy(name, root->name.data, root->name.len < sizeof(name) ? root->name.len : sizeof(name) - 1);
        (void)printf("0x%012" PRIx64 "  %s\n", root->offset, ctl_plain_text(name, plain, sizeof(plain)));
    }
}

static json_t *root_json(const Goallocd__Reply *reply, size_t i)
{
    const Goallocd__Root *root = reply->root_list->roots[i];

    return json_pack("{s:I, s:s%}", "offset", (json_int_t)root->offset, "name", (const char *)root->name.data,
                     root->name.len);
}

bool roots_json(json_t *object, const Goallocd__Reply *reply)
{
    return ctl_json_append(object, "roots", reply, reply->root_list->n_roots, root_json);
}
