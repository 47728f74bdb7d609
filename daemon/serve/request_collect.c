/*
 * Requests of collectors: one at a time may collect what nobody can reach.
 *
 * Called by requests.c. Calls session (whose the right is), making (objects that are about to be roots), deaths. Data:
 * the word collecting of the session's entry in spans, by session_set_collecting(), and origins of spans
 * (shm/origin.h), by this thread alone.
 *
 * Two collectors that free from two lists are not safe: one frees an object, its place is used again, the other one
 * frees it again. So a session asks for the right before it looks at the heap (BEGIN), and frees until it gives it back
 * (END), or ends. The word outlives this daemon. If the daemon dies before it is written, the collector asks the next
 * one; after it, that finds the word, and the collector's request, sent again, is granted once more. If the collector
 * dies, its session ends and the right with it.
 *
 * It is granted only while the daemon itself is not about to free objects of dead processes, as it does when it ends a
 * session, settles what that was linking, or reclaims what ended sessions have left: EAGAIN, and the collector asks
 * again; and while a session has the right nothing is reclaimed. What sessions that live let the daemon free later is
 * theirs, so they reach it; objects that they have announced as roots in the making come with the reply.
 *
 * CONFIRM says of which spans the collector has found that the heap itself holds each object, or has freed it: not of
 * those with objects that a process holds, which may die next. It counts for a span that nobody leases and nobody has
 * leased since BEGIN, as the count of leases says; so it is true, or of a collector that lies, which makes cycles after
 * deaths miss garbage, and could free any object by itself.
 */
#include "daemon/serve/request_collect.h"

#include <errno.h>

#include "daemon/serve/deaths.h"
#include "shm/crash.h"
#include "shm/origin.h"

#define BUSY "another session is collecting"
#define LOST_MAX 256u /* sessions that are lost: to look whether their processes live takes a system call for each */

/* True if this session is of another user than who asks, and lives. */
static bool is_of_other(const session *s, const session *other)
{
    return other != NULL && other->uid != s->uid;
}

bool collect_is_under_way(const service *srv)
{
    for (uint32_t no = 1; no < service_nentries(srv); no++) {
        const session *s = session_at(&srv->sessions, no);

        if (s != NULL && s->collecting)
            return true;
    }
    return false;
}

/* True if the daemon frees what ended sessions have left, for an administrator, or is asked to. */
static bool is_reclaiming(const service *srv)
{
    return srv->reclaiming || operations_first(&srv->peers, OPERATION_WAITING, ROUND_RECLAIM) != NULL;
}

/* What keeps a collection from beginning; 0: nothing. */
static answer check_sessions(const client *c, const session *s)
{
    const service *srv = client_service(c);
    bool controls = service_may_control(&c->peer);

    if (srv->sessions.nending > 0)
        return (answer){ EAGAIN, "a session is ending: ask again" };
    if (is_reclaiming(srv))
        return (answer){ EAGAIN, "what ended sessions have left is being freed: ask again" };
    if (srv->sessions.nlost > LOST_MAX)
        return (answer){ EAGAIN, "many sessions have lost their connection: ask again" };
    for (uint32_t no = 1; no < service_nentries(srv); no++) {
        const session *other = session_at(&srv->sessions, no);

        if (other == NULL || other == s)
            continue;
        if (other->collecting)
            return (answer){ EBUSY, BUSY };
        if (!controls && is_of_other(s, other))
            return (answer){ EPERM, "only root, the daemon's user and the control group may collect while sessions of "
                                    "others are attached" };
        if (other->state == SHM_SESSION_LOST && !deaths_process_lives(srv->deaths, other))
            return (answer){ EAGAIN, "the process of a session has died: ask again" };
    }
    return ANSWER_DONE;
}

static answer begin(client *c, session *s, Goallocd__CollectReply *body)
{
    service *srv = client_service(c);
    answer a = check_sessions(c, s);

    if (a.error != 0)
        return a;
    CRASH_POINT(collect_before_word);
    session_set_collecting(&srv->sessions, s, true);
    CRASH_POINT(collect_after_word);
    body->nleases = u64_load_relaxed(&srv->heap->map->header->nleases);
    body->n_announced = making_objects(&srv->making, body->announced, MAKING_MAX);
    return ANSWER_DONE;
}

/* What has not been leased since the collection began, and is nobody's. */
static bool may_confirm(const service *srv, const session *s, page_no first)
{
    const shm_span *span = shm_span_at(srv->heap->map, first);

    return u32_load_relaxed(&srv->heap->map->page_map[first.n]) == first.n &&
           lease_unpack(u64_load_relaxed(&span->lease)).state == SPAN_CENTRAL && u32_load_relaxed(&span->owner) == 0 &&
           u64_load_relaxed(&span->nleases) <= s->collect_nleases;
}

static answer confirm(client *c, const session *s, const Goallocd__Collect *ask)
{
    const service *srv = client_service(c);

    if (ask->n_spans > PROTO_SPANS_MAX)
        return (answer){ EINVAL, "more spans than one request may name" };
    for (size_t i = 0; i < ask->n_spans; i++) {
        if (ask->spans[i] == 0 || ask->spans[i] >= srv->heap->map->npages)
            return (answer){ EINVAL, "no span has that number" };
    }
    for (size_t i = 0; i < ask->n_spans; i++) {
        shm_span *span = shm_span_at(srv->heap->map, page_at(ask->spans[i]));
        origin_word origin;

        if (!may_confirm(srv, s, page_at(ask->spans[i])))
            continue;
        origin = origin_unpack(u64_load_relaxed(&span->origin));
        origin.confirmed = true;
        u64_store_release(&span->origin, origin_pack(origin));
        CRASH_POINT(collect_after_confirm);
    }
    return ANSWER_DONE;
}

static answer carry_out(client *c, session *s, const Goallocd__Collect *ask, Goallocd__CollectReply *body)
{
    if (ask->op == GOALLOCD__COLLECT__OP__BEGIN)
        return begin(c, s, body);
    if (ask->op != GOALLOCD__COLLECT__OP__END && ask->op != GOALLOCD__COLLECT__OP__CONFIRM)
        return (answer){ EINVAL, "a collector begins, ends or confirms" };
    if (!s->collecting)
        return (answer){ ENOENT, "this session is not collecting" };
    if (ask->op == GOALLOCD__COLLECT__OP__CONFIRM)
        return confirm(c, s, ask);
    session_set_collecting(&client_service(c)->sessions, s, false);
    CRASH_POINT(collect_after_end);
    return ANSWER_DONE;
}

answer handle_collect(client *c, session *s, const Goallocd__Request *request)
{
    static uint64_t announced[MAKING_MAX]; /* until the reply is packed */
    Goallocd__CollectReply body = GOALLOCD__COLLECT_REPLY__INIT;
    answer a;

    body.announced = announced;
    a = carry_out(c, s, request->collect, &body);
    return a.error != 0 ? a : reply_body(&c->peer, request->id, GOALLOCD__REPLY__RESULT_COLLECT, &body);
}
