/*
 * roots: the named objects: goallocctl roots.
 */
#include <stdio.h>
#include <stdlib.h>

#include "client/ctl/ctl.h"

/* Names are UTF-8, checked by the daemon; control characters are not for a terminal. */
static void print_root(const Goallocd__Root *root)
{
    (void)printf("0x%012" PRIx64 "  ", root->offset);
    for (size_t i = 0; i < root->name.len; i++)
        (void)putchar(root->name.data[i] < ' ' || root->name.data[i] == 0x7f ? '?' : root->name.data[i]);
    (void)putchar('\n');
}

static bool add_root(json_t *list, const Goallocd__Root *root)
{
    json_t *object = json_object();

    if (object == NULL || !ctl_json_set(object, "offset", root->offset) ||
        json_object_set_new(object, "name", json_stringn((const char *)root->name.data, root->name.len)) != 0) {
        json_decref(object);
        return false;
    }
    return json_array_append_new(list, object) == 0;
}

int command_roots(const arguments *args)
{
    json_t *list = json_array();
    uint32_t start = 0;

    if (!args->json)
        (void)printf("%-14s  name\n", "offset");
    do {
        Goallocd__Request request = GOALLOCD__REQUEST__INIT;
        Goallocd__RootList body = GOALLOCD__ROOT_LIST__INIT;
        Goallocd__Reply *reply;

        body.start = start;
        request.op_case = GOALLOCD__REQUEST__OP_ROOT_LIST;
        request.root_list = &body;
        reply = ctl_ask(args, &request, GOALLOCD__REPLY__RESULT_ROOT_LIST);
        if (reply == NULL) {
            json_decref(list);
            return EXIT_FAILURE;
        }
        for (size_t i = 0; i < reply->root_list->n_roots; i++) {
            if (!args->json)
                print_root(reply->root_list->roots[i]);
            else if (!add_root(list, reply->root_list->roots[i]))
                (void)fprintf(stderr, "goallocctl: out of memory\n");
        }
        start = reply->root_list->next;
        goallocd__reply__free_unpacked(reply, NULL);
    } while (start != 0);
    if (args->json)
        return ctl_print_json(json_pack("{s:o}", "roots", list));
    json_decref(list);
    return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
