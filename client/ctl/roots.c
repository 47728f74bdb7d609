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
static void print_root(const Goallocd__Root *root)
{
    char name[SHM_ROOT_NAME_BYTES] = "";
    char plain[SHM_ROOT_NAME_BYTES];

    memcpy(name, root->name.data, root->name.len < sizeof(name) ? root->name.len : sizeof(name) - 1);
    (void)printf("0x%012" PRIx64 "  %s\n", root->offset, ctl_plain_text(name, plain, sizeof(plain)));
}

void roots_text(const Goallocd__Reply *reply)
{
    for (size_t i = 0; i < reply->root_list->n_roots; i++)
        print_root(reply->root_list->roots[i]);
}

bool roots_json(json_t *object, const Goallocd__Reply *reply)
{
    json_t *list = ctl_json_list(object, "roots");
    bool whole = list != NULL;

    for (size_t i = 0; whole && i < reply->root_list->n_roots; i++) {
        const Goallocd__Root *root = reply->root_list->roots[i];

        whole = json_array_append_new(list, json_pack("{s:I, s:s%}", "offset", (json_int_t)root->offset, "name",
                                                      (const char *)root->name.data, root->name.len)) == 0;
    }
    return whole;
}
