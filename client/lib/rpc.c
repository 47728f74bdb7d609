/*
 * Rpc: replies are matched to requests by id.
 *
 * Called by comeback.c, and by connection.c for a detach. Calls link and, for what late replies bring, outbox. Data:
 * the last id, and that of a ProfileOpen that has timed out, private; the holder of the turn writes them.
 *
 * A reply that comes after its request has timed out may bring spans that nobody waits for any more: they are given
 * back at once. One to a ProfileOpen brings a descriptor, which the daemon sends to a connection a few times only: so
 * the next ProfileOpen of the same connection is not sent before that reply has come, however often it is tried.
 * Notices (id 0) need no action: the daemon also raises trim_seq in the session's entry, which the slow paths read, and
 * closes the socket when it shuts down.
 */
#include "client/lib/rpc.h"

#include <errno.h>
#include <sched.h>
#include <time.h>

#include "client/lib/outbox.h"

static uint64_t last_id;
static uint64_t late_profile_id; /* of a ProfileOpen that may be answered still; 0: there is none */

/* What the reply to each request brings if it went well; nothing for those that are not here. */
static const Goallocd__Reply__ResultCase result_of[] = {
    [GOALLOCD__REQUEST__OP_ATTACH] = GOALLOCD__REPLY__RESULT_ATTACH,
    [GOALLOCD__REQUEST__OP_REFILL] = GOALLOCD__REPLY__RESULT_REFILL,
    [GOALLOCD__REQUEST__OP_ALLOC_LARGE] = GOALLOCD__REPLY__RESULT_ALLOC_LARGE,
    [GOALLOCD__REQUEST__OP_ROOT_GET] = GOALLOCD__REPLY__RESULT_ROOT_GET,
    [GOALLOCD__REQUEST__OP_STATS] = GOALLOCD__REPLY__RESULT_STATS,
    [GOALLOCD__REQUEST__OP_LEASE_LIST] = GOALLOCD__REPLY__RESULT_LEASE_LIST,
    [GOALLOCD__REQUEST__OP_ROOT_LIST] = GOALLOCD__REPLY__RESULT_ROOT_LIST,
    [GOALLOCD__REQUEST__OP_ROOT_RESERVE] = GOALLOCD__REPLY__RESULT_ROOT_RESERVE,
    [GOALLOCD__REQUEST__OP_PROFILE_OPEN] = GOALLOCD__REPLY__RESULT_PROFILE_OPEN,
    [GOALLOCD__REQUEST__OP_COLLECT] = GOALLOCD__REPLY__RESULT_COLLECT,
};

static Goallocd__Reply__ResultCase result_wanted(const Goallocd__Request *request)
{
    size_t op = request->op_case;

    return op < sizeof(result_of) / sizeof(result_of[0]) ? result_of[op] : GOALLOCD__REPLY__RESULT__NOT_SET;
}

/* A reply that nobody waits for: give back what it brings. */
static void drop_late_reply(const Goallocd__Reply *reply)
{
    if (reply->error != 0)
        return;
    if (reply->result_case == GOALLOCD__REPLY__RESULT_REFILL)
        outbox_return(reply->refill->spans, reply->refill->n_spans);
    else if (reply->result_case == GOALLOCD__REPLY__RESULT_ALLOC_LARGE)
        outbox_return(&reply->alloc_large->span, 1);
    else if (reply->result_case == GOALLOCD__REPLY__RESULT_PROFILE_OPEN)
        link_close_fds();
}

/* Wait for the reply to request id. */
static int await_reply(uint64_t id, Goallocd__Reply **ret, deadline until)
{
    for (;;) {
        Goallocd__Reply *reply;
        int r = link_recv(&reply, until);

        if (r < 0)
            return r;
        if (reply->id == late_profile_id)
            late_profile_id = 0;
        if (reply->id == id) {
            *ret = reply;
            return 0;
        }
        if (reply->id != 0)
            drop_late_reply(reply);
    }
}

/* The daemon may come to the CPU of a client that waits, and hears when it is late by that. */
static void set_hints(Goallocd__Request *request)
{
    struct timespec ts = { 0, 0 };

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    request->cpu = (uint32_t)(sched_getcpu() + 1); /* -1: not known */
    request->sent_us = (uint32_t)((uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000);
}

/* An Attach is the first request of a connection: what was asked on the one before it is not answered any more. */
static int await_late_profile(const Goallocd__Request *request, deadline until)
{
    Goallocd__Reply *reply;
    int r = 0;

    if (request->op_case == GOALLOCD__REQUEST__OP_ATTACH)
        late_profile_id = 0;
    if (request->op_case == GOALLOCD__REQUEST__OP_PROFILE_OPEN && late_profile_id != 0) {
        r = await_reply(late_profile_id, &reply, until);
        if (r == 0)
            drop_late_reply(reply);
    }
    return r;
}

int rpc_call(Goallocd__Request *request, Goallocd__Reply **ret, deadline until)
{
    int r = await_late_profile(request, until);

    if (r < 0)
        return r;
    request->id = ++last_id;
    set_hints(request);
    r = link_send(request, &until);
    if (r == 0)
        r = await_reply(request->id, ret, until);
    if (r == -ETIMEDOUT && request->op_case == GOALLOCD__REQUEST__OP_PROFILE_OPEN)
        late_profile_id = request->id;
    if (r < 0)
        return r;
    if ((*ret)->error > 0)
        return -(*ret)->error;
    return (*ret)->error < 0 || (*ret)->result_case != result_wanted(request) ? -EPROTO : 0;
}

int rpc_look_for_late_reply(void)
{
    Goallocd__Reply *reply;
    int r = await_reply(last_id, &reply, deadline_in(0));

    if (r == 0)
        drop_late_reply(reply);
    return r == -EPROTO ? -ENOTCONN : r;
}
