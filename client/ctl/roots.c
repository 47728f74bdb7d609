/*
 * roots: the named objects: goallocctl roots.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/ctl/ctl.h"
#include "shm/layout.h"

/* Names are UTF-8, checked by the daemon; control characters are not for a terminal. */
static void print_root(const Goallocd__Root *root)
{
    char name[SHM_ROOT_NAME_BYTES] = "";
    char plain[SHM_ROOT_NAME_BYTES];

    memcpy(name, root->name.data, root->name.len < sizeof(name) ? root->name.len : sizeof(name) - 1);
    (void)printf("0x%012" PRIx64 "  %s\n", root->offset, ctl_plain_text(name, plain, sizeof(plain)));
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

/* Ask for the roots from *start on, and add or print them. *start is where to go on, 0: that was all. */
static bool list_some(const arguments *args, json_t *list, uint32_t *start)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__RootList body = GOALLOCD__ROOT_LIST__INIT;
    Goallocd__Reply *reply;
    bool whole = true;

    body.start = *start;
    request.op_case = GOALLOCD__REQUEST__OP_ROOT_LIST;
    request.root_list = &body;
    reply = ctl_ask(args, &request, GOALLOCD__REPLY__RESULT_ROOT_LIST);
    if (reply == NULL)
        return false;
    for (size_t i = 0; i < reply->root_list->n_roots && whole; i++) {
        if (args->json)
            whole = add_root(list, reply->root_list->roots[i]);
        else
            print_root(reply->root_list->roots[i]);
    }
    *start = reply->root_list->next;
    goallocd__reply__free_unpacked(reply, NULL);
    if (!whole)
        (void)fprintf(stderr, "goallocctl: out of memory\n");
    return whole;
}

int command_roots(const arguments *args)
{
    json_t *list = json_array();
    uint32_t start = 0;

    if (!args->json)
        (void)printf("%-14s  name\n", "offset");
    do {
        if (!list_some(args, list, &start)) {
            json_decref(list);
            return EXIT_FAILURE;
        }
    } while (start != 0);
    if (args->json)
        return ctl_print_json(json_pack("{s:o}", "roots", list));
    json_decref(list);
    return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
