/*
 * Connection: each request to the daemon as a function.
 *
 * Called by attach, mcache (refill, return), large, roots, owner and stats. What they share lies below: comeback.c
 * (whose turn it is, and what if the daemon is gone), rpc.c, outbox.c, link.c. Data: marks in process.mspan_of
 * (held.c), which are made while the turn is held: so a process that comes back knows what it has.
 *
 * A refill is five short system calls (proto/channel.c), one of which waits.
 */
#include "client/lib/connection.h"

#include <errno.h>
#include <string.h>

#include "client/lib/comeback.h"
#include "client/lib/held.h"
#include "client/lib/outbox.h"

/* Send a request and wait for the reply. 0: the caller ends it with comeback_end() when it has read *ret. */
static int call(Goallocd__Request *request, Goallocd__Reply **ret)
{
    deadline until;
    int r = comeback_begin(&until);

    if (r < 0)
        return r;
    r = comeback_call(request, ret, until);
    if (r < 0)
        comeback_end();
    return r;
}

/* A request whose reply says nothing but how it went. */
static int call_plain(Goallocd__Request *request)
{
    Goallocd__Reply *reply;
    int r = call(request, &reply);

    if (r == 0)
        comeback_end();
    return r;
}

/* --- the session --- */

static int check_attach_reply(const Goallocd__Reply *reply, attach_result *ret)
{
    const Goallocd__AttachReply *body = reply->attach;
    int fds[FDPASS_MAX];

    if (reply->result_case != GOALLOCD__REPLY__RESULT_ATTACH)
        return -EPROTO;
    if (body->protocol != GOALLOC_PROTOCOL)
        return -EPROTONOSUPPORT;
    if (body->abi_hash != shm_abi_hash())
        return -ENOEXEC;
    if (link_fds(fds) != ATTACH_NFDS || body->session == 0 || body->session >= SHM_SESSIONS_MAX)
        return -EPROTO;
    *ret = (attach_result){
        .session = { (uint16_t)body->session },
        .epoch = body->epoch,
        .generation = body->generation,
        .base = body->arena_base,
        .arena_bytes = body->arena_bytes,
        .spans_bytes = body->spans_bytes,
        .bitmap_bytes = body->bitmap_bytes,
        .arena_fd = fds[ATTACH_FD_ARENA],
        .spans_fd = fds[ATTACH_FD_SPANS],
        .bitmap_fd = fds[ATTACH_FD_BITMAP],
        .life_fd = fds[ATTACH_FD_LIFE],
    };
    return 0;
}

int connection_attach(const attach_request *ask, attach_result *ret)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Attach body = GOALLOCD__ATTACH__INIT;
    Goallocd__Reply *reply;
    int r;

    body.protocol = GOALLOC_PROTOCOL;
    body.abi_hash = shm_abi_hash();
    body.flags = ask->flags;
    body.label = (char *)(uintptr_t)ask->label;
    body.limit_bytes = ask->limit_bytes;
    request.op_case = GOALLOCD__REQUEST__OP_ATTACH;
    request.attach = &body;
    comeback_set_timeout(ask->timeout_ms);
    r = comeback_open(ask->socket_path, ask->wait, ask->gated, ask->until, &request, &reply);
    if (r < 0)
        return r;
    r = check_attach_reply(reply, ret);
    if (r == 0) {
        comeback_set_session(reply->attach);
        return 0;
    }
    comeback_forget();
    comeback_end();
    return r;
}

void connection_close_fds(void)
{
    link_close_fds();
}

void connection_end_attach(void)
{
    comeback_end();
}

void connection_detach(void)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Detach body = GOALLOCD__DETACH__INIT;
    Goallocd__Reply *reply;
    deadline until;
    bool begun;

    request.op_case = GOALLOCD__REQUEST__OP_DETACH;
    request.detach = &body;
    begun = comeback_begin(&until) == 0;
    /* A daemon that is gone has nothing to be told: it sees by itself that the heap is unmapped here. */
    if (begun && link_is_open() && rpc_call(&request, &reply, until) < 0)
        link_close();
    if (!begun && link_take_turn(deadline_in(0)) < 0)
        return; /* another thread is within the library, against the rules, and has the connection */
    comeback_forget();
    comeback_end();
}

void connection_reset(void)
{
    comeback_reset();
    held_reset();
}

bool connection_is_up(void)
{
    return comeback_is_up();
}

uint64_t connection_nrpcs(void)
{
    return link_nrpcs();
}

/* --- spans --- */

int connection_refill(span_class spc, uint32_t npages, uint32_t nspans, bool insist, uint32_t *ret_spans)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Refill body = GOALLOCD__REFILL__INIT;
    Goallocd__Reply *reply;
    int r;

    body.span_class = spc.n;
    body.nspans = nspans;
    body.npages = span_class_size(spc).n == 0 ? npages : 0;
    body.insist = insist;
    request.op_case = GOALLOCD__REQUEST__OP_REFILL;
    request.refill = &body;
    r = call(&request, &reply);
    if (r < 0)
        return r;
    if (reply->result_case == GOALLOCD__REPLY__RESULT_REFILL && reply->refill->n_spans > 0 &&
        reply->refill->n_spans <= nspans) {
        r = (int)reply->refill->n_spans;
        memcpy(ret_spans, reply->refill->spans, sizeof(*ret_spans) * reply->refill->n_spans);
        held_set(ret_spans, reply->refill->n_spans);
    } else {
        r = -EPROTO;
    }
    comeback_end();
    return r;
}

void connection_return(const uint32_t *spans, uint32_t nspans)
{
    if (nspans > 0)
        outbox_return(spans, nspans);
}

int connection_sync(void)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__ReturnSpans body = GOALLOCD__RETURN_SPANS__INIT;

    /* Of nothing: requests are answered in order, and what waits in the outbox is sent before it. */
    request.op_case = GOALLOCD__REQUEST__OP_RETURN_SPANS;
    request.return_spans = &body;
    return call_plain(&request);
}

int connection_alloc_large(uint64_t npages, uint64_t align_pages, bool noscan, bool insist, page_no *ret)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__AllocLarge body = GOALLOCD__ALLOC_LARGE__INIT;
    Goallocd__Reply *reply;
    int r;

    body.npages = npages;
    body.align_pages = align_pages;
    body.noscan = noscan;
    body.insist = insist;
    request.op_case = GOALLOCD__REQUEST__OP_ALLOC_LARGE;
    request.alloc_large = &body;
    r = call(&request, &reply);
    if (r < 0)
        return r;
    if (reply->result_case == GOALLOCD__REPLY__RESULT_ALLOC_LARGE) {
        *ret = page_at(reply->alloc_large->span);
        held_set(&ret->n, 1);
    } else {
        r = -EPROTO;
    }
    comeback_end();
    return r;
}

int connection_resize_large(page_no span, uint64_t npages, bool *ret_sent)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__ResizeLarge body = GOALLOCD__RESIZE_LARGE__INIT;
    Goallocd__Reply *reply;
    deadline until;
    int r;

    body.span = span.n;
    body.npages = npages;
    request.op_case = GOALLOCD__REQUEST__OP_RESIZE_LARGE;
    request.resize_large = &body;
    r = comeback_begin(&until);
    *ret_sent = r == 0;
    if (r < 0)
        return r;
    held_expect(span); /* the daemon may lease it to us, if nobody else does: then it is known here */
    r = comeback_call(&request, &reply, until);
    comeback_end();
    return r;
}

void connection_free_large(page_no span)
{
    outbox_free_large(span);
}

/* --- roots and objects --- */

static ProtobufCBinaryData name_data(const char *name)
{
    /* One byte more than is allowed is enough for the daemon to say so. */
    return (ProtobufCBinaryData){ .len = strnlen(name, SHM_ROOT_NAME_BYTES), .data = (uint8_t *)(uintptr_t)name };
}

int connection_root_set(const char *name, uint64_t offset)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__RootSet body = GOALLOCD__ROOT_SET__INIT;

    body.name = name_data(name);
    body.offset = offset;
    request.op_case = GOALLOCD__REQUEST__OP_ROOT_SET;
    request.root_set = &body;
    return call_plain(&request);
}

int connection_root_get(const char *name, uint64_t *ret_offset)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__RootGet body = GOALLOCD__ROOT_GET__INIT;
    Goallocd__Reply *reply;
    int r;

    body.name = name_data(name);
    request.op_case = GOALLOCD__REQUEST__OP_ROOT_GET;
    request.root_get = &body;
    r = call(&request, &reply);
    if (r < 0)
        return r;
    if (reply->result_case == GOALLOCD__REPLY__RESULT_ROOT_GET)
        *ret_offset = reply->root_get->offset;
    else
        r = -EPROTO;
    comeback_end();
    return r;
}

int connection_adopt(uint64_t offset)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Adopt body = GOALLOCD__ADOPT__INIT;

    body.offset = offset;
    request.op_case = GOALLOCD__REQUEST__OP_ADOPT;
    request.adopt = &body;
    return call_plain(&request);
}

int connection_publish(uint64_t offset)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Publish body = GOALLOCD__PUBLISH__INIT;

    body.offset = offset;
    request.op_case = GOALLOCD__REQUEST__OP_PUBLISH;
    request.publish = &body;
    return call_plain(&request);
}

/* --- statistics --- */

static void fill_stats(const Goallocd__StatsReply *stats, goalloc_stats_t *ret)
{
    ret->live_objects = stats->live_objects;
    ret->live_bytes = stats->live_bytes;
    ret->committed_bytes = stats->committed_bytes;
    ret->released_bytes = stats->released_bytes;
    ret->metadata_bytes = stats->metadata_bytes;
    ret->sessions = stats->sessions;
    ret->leased_spans = stats->leased_spans;
    ret->roots = stats->roots;
    ret->session_held_bytes = stats->session_held_bytes;
}

int connection_stats(goalloc_stats_t *ret)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Stats body = GOALLOCD__STATS__INIT;
    Goallocd__Reply *reply;
    int r;

    request.op_case = GOALLOCD__REQUEST__OP_STATS;
    request.stats = &body;
    r = call(&request, &reply);
    if (r < 0)
        return r;
    if (reply->result_case == GOALLOCD__REPLY__RESULT_STATS)
        fill_stats(reply->stats, ret);
    else
        r = -EPROTO;
    comeback_end();
    return r;
}
