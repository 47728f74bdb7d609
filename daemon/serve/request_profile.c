/*
 * Requests for sampled profiles.
 *
 * Called by requests.c, which has looked whether the client may. Calls profiling. A request that needs a region which
 * is being made is AWAITING, and is handled again from its beginning when there is one, or there can't be one.
 *
 * Descriptors: all sessions have the same description of the region, all readers another one; spans and bitmap are the
 * read-only ones that sessions have. So the loop opens and closes none for a client.
 */
#include "daemon/serve/request_profile.h"

#include <errno.h>
#include <string.h>

static const answer no_region = { ENOMEM, "there is no memory for the region of profiles" };

static answer wait_or_refuse(client *c, const Goallocd__Request *request, int e)
{
    if (e != PROFILING_E_WAIT)
        return no_region;
    operation_begin(&c->op, &c->peer, request, OPERATION_AWAITING);
    return ANSWER_GIVEN;
}

static void go_on(operation *op, void *data)
{
    (void)data;
    operation_take_turn(op);
}

void request_profile_go_on(void *data)
{
    service *srv = data;

    operations_each(&srv->peers, OPERATION_AWAITING, go_on, NULL);
}

answer handle_profile_open(client *c, session *s, const Goallocd__Request *request)
{
    service *srv = client_service(c);
    const profilefile *file = &srv->heap->file->profile;
    Goallocd__ProfileOpenReply body = GOALLOCD__PROFILE_OPEN_REPLY__INIT;
    Goallocd__Reply reply = reply_init(request->id);
    int e;

    if (profile_word_unpack(s->profile).rate == 0)
        return (answer){ ENOENT, "the session does not sample" };
    e = profiling_need(&srv->profiling);
    if (e != 0)
        return wait_or_refuse(c, request, e);
    body.seq = file->seq;
    body.bytes = PROFILEFILE_BYTES;
    reply.result_case = GOALLOCD__REPLY__RESULT_PROFILE_OPEN;
    reply.profile_open = &body;
    return service_reply_with_fds(c, &reply, &file->fd, 1);
}

answer handle_profile_read(client *c, const Goallocd__Request *request)
{
    const service *srv = client_service(c);
    const heapfile *file = srv->heap->file;
    const int fds[3] = { file->spans_ro_fd, file->bitmap_ro_fd, file->profile.ro_fd };
    Goallocd__ProfileReadReply body = GOALLOCD__PROFILE_READ_REPLY__INIT;
    Goallocd__Reply reply = reply_init(request->id);

    if (file->profile.fd < 0)
        return (answer){ ENOENT, "nobody has sampled anything (goallocctl profile on)" };
    body.seq = file->profile.seq;
    body.spans_bytes = file->map.spans_bytes;
    body.bitmap_bytes = file->map.bitmap_bytes;
    body.profile_bytes = PROFILEFILE_BYTES;
    body.rate_bytes = profiling_rate(&srv->profiling);
    reply.result_case = GOALLOCD__REPLY__RESULT_PROFILE_READ;
    reply.profile_read = &body;
    return service_reply_with_fds(c, &reply, fds, 3);
}

/* --- who samples --- */

uint32_t request_profile_session(const Goallocd__ProfileSet *ask)
{
    return ask->group.len == 0 && !ask->all && !ask->reset ? ask->session : 0;
}

static bool is_named(const group_table *groups, const group *g, ProtobufCBinaryData name)
{
    const char *own = group_name(groups, g);

    return strlen(own) == name.len && memcmp(own, name.data, name.len) == 0;
}

/* The groups of that name, each user's; every one is told that rate (NULL: none). Returns how many there are. */
static uint32_t each_group(service *srv, ProtobufCBinaryData name, const uint64_t *rate, uint32_t *nsessions)
{
    const group_table *groups = srv->heap->groups;
    uint32_t n = 0;

    for (uint32_t i = 0; i < SHM_GROUPS_MAX; i++) {
        group *g = groups->groups[i];

        if (g == NULL || !is_named(groups, g, name))
            continue;
        n++;
        if (rate != NULL)
            *nsessions += profiling_set_group(&srv->profiling, g, *rate);
    }
    return n;
}

/* What it is about is there, and is one thing. */
static answer check_scope(client *c, const Goallocd__ProfileSet *ask)
{
    service *srv = client_service(c);
    const session *s = session_named(&srv->sessions, ask->session, ask->epoch);
    int nscopes = (ask->session != 0) + (ask->group.len != 0) + (ask->all != 0);

    if (nscopes > 1 || (nscopes == 0 && !ask->reset))
        return (answer){ EINVAL, "a session, a group or all" };
    if (ask->rate_bytes > PROFILE_RATE_MAX)
        return (answer){ EINVAL, "no more than 1 TiB a sample" };
    if (ask->session != 0 && (s == NULL || s->state == SHM_SESSION_ENDING))
        return (answer){ ENOENT, "there is no session of that number" };
    if (ask->session != 0 && (s->flags & SESSION_READONLY) != 0)
        return (answer){ EINVAL, "the session is read-only: it allocates nothing" };
    if (ask->group.len != 0 && each_group(srv, ask->group, NULL, NULL) == 0)
        return (answer){ ENOENT, "there is no group of that name" };
    return ANSWER_DONE;
}

/* Returns how many sessions sample, or don't, from now on. */
static uint32_t set_rate(client *c, const Goallocd__ProfileSet *ask)
{
    service *srv = client_service(c);
    uint32_t n = 0;

    if (ask->all)
        return profiling_set_all(&srv->profiling, ask->rate_bytes);
    if (ask->session != 0)
        return profiling_set_session(&srv->profiling, session_named(&srv->sessions, ask->session, ask->epoch),
                                     ask->rate_bytes);
    if (ask->group.len != 0)
        (void)each_group(srv, ask->group, &ask->rate_bytes, &n);
    return n;
}

/* The region that it needs; for a reset another one, or none if nobody samples. As profiling_need(). */
static int settle_region(client *c, const Goallocd__ProfileSet *ask)
{
    profiling *p = &client_service(c)->profiling;

    if (!ask->reset)
        return ask->rate_bytes == 0 ? 0 : profiling_need(p);
    if (ask->rate_bytes == 0 && !profiling_is_on(p))
        return profiling_remove(p);
    if (c->op.ndone == 0)
        c->op.ndone = p->nmade + 1; /* the one that is asked for; the operation remembers it while it waits */
    return p->nmade >= c->op.ndone ? 0 : profiling_renew(p);
}

static void log_set(const client *c, const Goallocd__ProfileSet *ask, uint32_t n)
{
    const log_subject subject = client_subject(c);

    log_client_line(LOG_LEVEL_INFO, &subject, "has %u sessions sampled, an object for %llu bytes%s", n,
                    (unsigned long long)ask->rate_bytes, ask->reset ? ", and what was recorded forgotten" : "");
}

/* What is turned off is so at once; what is turned on, when there is a region. */
answer handle_profile_set(client *c, const Goallocd__Request *request)
{
    const Goallocd__ProfileSet *ask = request->profile_set;
    Goallocd__ProfileSetReply body = GOALLOCD__PROFILE_SET_REPLY__INIT;
    answer a = check_scope(c, ask);
    int e;

    if (a.error != 0)
        return a;
    if (ask->rate_bytes == 0)
        body.nsessions = set_rate(c, ask);
    e = settle_region(c, ask);
    if (e != 0)
        return wait_or_refuse(c, request, e);
    if (ask->rate_bytes != 0)
        body.nsessions = set_rate(c, ask);
    log_set(c, ask, body.nsessions);
    return reply_body(&c->peer, request->id, GOALLOCD__REPLY__RESULT_PROFILE_SET, &body);
}
