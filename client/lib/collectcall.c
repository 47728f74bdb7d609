/*
 * Collectcall: requests of collectors. Called by the collector (client/collector/), which links the library's static
 * twin; by nothing of the library itself. Calls connection. Data: none. A request that is sent again, because the
 * connection was lost on the way, does no harm: who has the right is granted it once more.
 */
#include "client/lib/collectcall.h"

#include <errno.h>
#include <string.h>

#include "client/lib/connection.h"
#include "proto/wire.h"

typedef struct begun {
    uint64_t *nleases;
    uint64_t *announced;
} begun;

static int read_begun(const Goallocd__Reply *reply, void *ret)
{
    const Goallocd__CollectReply *body = reply->collect;
    const begun *b = ret;

    if (body->n_announced > COLLECTCALL_OBJECTS_MAX)
        return -EPROTO;
    if (b->nleases != NULL)
        *b->nleases = body->nleases;
    if (b->announced != NULL && body->n_announced > 0)
        memcpy(b->announced, body->announced, body->n_announced * sizeof(*b->announced));
    return (int)body->n_announced;
}

int collectcall_begin(uint64_t *ret_nleases, uint64_t ret_announced[COLLECTCALL_OBJECTS_MAX])
{
    Goallocd__Collect body = GOALLOCD__COLLECT__INIT;
    Goallocd__Request request = WIRE_REQUEST(COLLECT, collect, &body);
    begun b = { .nleases = ret_nleases, .announced = ret_announced };

    body.op = GOALLOCD__COLLECT__OP__BEGIN;
    return connection_call(&request, read_begun, &b);
}

int collectcall_end(void)
{
    Goallocd__Collect body = GOALLOCD__COLLECT__INIT;
    Goallocd__Request request = WIRE_REQUEST(COLLECT, collect, &body);

    body.op = GOALLOCD__COLLECT__OP__END;
    return connection_call(&request, NULL, NULL);
}

int collectcall_confirm(const uint32_t *spans, size_t nspans)
{
    Goallocd__Collect body = GOALLOCD__COLLECT__INIT;
    Goallocd__Request request = WIRE_REQUEST(COLLECT, collect, &body);

    if (nspans > COLLECTCALL_SPANS_MAX)
        return -EINVAL;
    body.op = GOALLOCD__COLLECT__OP__CONFIRM;
    body.spans = (uint32_t *)(uintptr_t)spans;
    body.n_spans = nspans;
    return connection_call(&request, NULL, NULL);
}
