/*
 * Rootcall: requests about roots. Called by root.c; calls connection. Data: the last ticket, private.
 *
 * Requests that change a root have a ticket, because one that was under way when the connection was lost is sent again
 * (comeback.c): the daemon sees by the ticket that it has carried it out. A session has one request under way, and a
 * child of a fork a session of its own, so a plain counter is enough.
 */
#include "client/lib/rootcall.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "client/lib/connection.h"
#include "proto/wire.h"

uint32_t rootcall_ticket(void)
{
    static atomic_uint last;
    uint32_t ticket;

    do
        ticket = atomic_fetch_add_explicit(&last, 1, memory_order_relaxed) + 1;
    while (ticket == 0);
    return ticket;
}

static ProtobufCBinaryData name_data(const char *name)
{
    /* Of a name that is too long one byte too many is sent, so that the daemon refuses it. */
    return (ProtobufCBinaryData){ .len = strnlen(name, SHM_ROOT_NAME_BYTES), .data = (uint8_t *)(uintptr_t)name };
}

int rootcall_set(const char *name, uint64_t offset)
{
    Goallocd__RootSet body = GOALLOCD__ROOT_SET__INIT;
    Goallocd__Request request = WIRE_REQUEST(ROOT_SET, root_set, &body);

    body.name = name_data(name);
    body.offset = offset;
    body.ticket = rootcall_ticket();
    return connection_call(&request, NULL, NULL);
}

int rootcall_compare_and_set(const char *name, uint64_t expected, uint64_t offset)
{
    Goallocd__RootCompareAndSet body = GOALLOCD__ROOT_COMPARE_AND_SET__INIT;
    Goallocd__Request request = WIRE_REQUEST(ROOT_COMPARE_AND_SET, root_compare_and_set, &body);

    body.name = name_data(name);
    body.expected = expected;
    body.offset = offset;
    body.ticket = rootcall_ticket();
    return connection_call(&request, NULL, NULL);
}

static int read_offset(const Goallocd__Reply *reply, void *ret)
{
    uint64_t *offset = ret;

    *offset = reply->root_get->offset;
    return 0;
}

int rootcall_get(const char *name, uint64_t *ret_offset)
{
    Goallocd__RootGet body = GOALLOCD__ROOT_GET__INIT;
    Goallocd__Request request = WIRE_REQUEST(ROOT_GET, root_get, &body);

    body.name = name_data(name);
    return connection_call(&request, read_offset, ret_offset);
}

/* --- making one --- */

typedef struct reserve_result {
    enum root_state state;
    uint64_t offset;
} reserve_result;

static int read_reserve(const Goallocd__Reply *reply, void *ret)
{
    reserve_result *result = ret;

    switch (reply->root_reserve->state) {
    case GOALLOCD__ROOT_STATE__ROOT_THERE:
        result->state = ROOT_THERE;
        break;
    case GOALLOCD__ROOT_STATE__ROOT_MAKING:
        result->state = ROOT_MAKING;
        break;
    case GOALLOCD__ROOT_STATE__ROOT_YOURS:
        result->state = ROOT_YOURS;
        break;
    default:
        return -EPROTO;
    }
    result->offset = reply->root_reserve->offset;
    return 0;
}

int rootcall_reserve(const root_claim *claim, enum root_state *ret, uint64_t *ret_offset)
{
    Goallocd__RootReserve body = GOALLOCD__ROOT_RESERVE__INIT;
    Goallocd__Request request = WIRE_REQUEST(ROOT_RESERVE, root_reserve, &body);
    reserve_result result;
    int r;

    body.name = name_data(claim->name);
    body.size = claim->size;
    body.type_tag = claim->type_tag;
    body.ticket = claim->ticket;
    r = connection_call(&request, read_reserve, &result);
    if (r < 0)
        return r;
    *ret = result.state;
    *ret_offset = result.offset;
    return 0;
}

static Goallocd__RootObject object_data(const root_claim *claim, uint64_t offset)
{
    Goallocd__RootObject body = GOALLOCD__ROOT_OBJECT__INIT;

    body.name = name_data(claim->name);
    body.ticket = claim->ticket;
    body.offset = offset;
    return body;
}

int rootcall_announce(const root_claim *claim, uint64_t offset)
{
    Goallocd__RootObject body = object_data(claim, offset);
    Goallocd__Request request = WIRE_REQUEST(ROOT_ANNOUNCE, root_announce, &body);

    return connection_call(&request, NULL, NULL);
}

int rootcall_finish(const root_claim *claim, uint64_t offset)
{
    Goallocd__RootObject body = object_data(claim, offset);
    Goallocd__Request request = WIRE_REQUEST(ROOT_FINISH, root_finish, &body);

    return connection_call(&request, NULL, NULL);
}

int rootcall_give_back(const root_claim *claim)
{
    Goallocd__RootGiveBack body = GOALLOCD__ROOT_GIVE_BACK__INIT;
    Goallocd__Request request = WIRE_REQUEST(ROOT_GIVE_BACK, root_give_back, &body);

    body.name = name_data(claim->name);
    body.ticket = claim->ticket;
    return connection_call(&request, NULL, NULL);
}

/* --- the list --- */

typedef struct list_result {
    root_line *lines;
    uint32_t next;
} list_result;

static int read_list(const Goallocd__Reply *reply, void *ret)
{
    list_result *result = ret;
    size_t n = reply->root_list->n_roots;

    if (n > ROOTCALL_PAGE)
        return -EPROTO;
    for (size_t i = 0; i < n; i++) {
        const Goallocd__Root *root = reply->root_list->roots[i];
        root_line *line = &result->lines[i];

        if (root->name.len > SHM_ROOT_NAME_MAX)
            return -EPROTO;
        memcpy(line->name, root->name.data, root->name.len);
        line->name[root->name.len] = '\0';
        line->offset = root->offset;
        line->size = root->size;
        line->type_tag = root->type_tag;
        line->session = root->session != 0 && root->open ? root->session : 0;
    }
    result->next = reply->root_list->next;
    return (int)n;
}

int rootcall_list(const char *prefix, uint32_t *start, root_line ret[ROOTCALL_PAGE])
{
    Goallocd__RootList body = GOALLOCD__ROOT_LIST__INIT;
    Goallocd__Request request = WIRE_REQUEST(ROOT_LIST, root_list, &body);
    list_result result = { .lines = ret };
    int r;

    body.start = *start;
    body.prefix = name_data(prefix);
    body.most = ROOTCALL_PAGE;
    body.drop_dead = true;
    r = connection_call(&request, read_list, &result);
    if (r >= 0)
        *start = result.next;
    return r;
}
