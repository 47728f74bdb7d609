/*
 * Connection: each request to the daemon as a function.
 *
 * Called by attach.c (the session), refill.c, large.c and marked.c (spans), recorder.c (the region of profiles), heap.c
 * (statistics), owner.c and linking.c (objects), and rootcall.c, for requests that it makes itself. What they share
 * lies below: comeback.c (the turn, and what to do if the daemon is gone), rpc.c, outbox.c, link.c. Data: marks in
 * process.mspan_of (held.c). They are set while the turn is held, so a process that comes back knows what it leases.
 *
 * Each request that wants a reply takes one way:
 *   1. comeback_begin(): its time begins, and the turn is taken;
 *   2. comeback_call(): the request goes, and the reply comes, of the kind that belongs to the request (rpc.c);
 *   3. what the caller wants is read from the reply, while the turn holds it;
 *   4. comeback_end().
 * A refill is five short system calls (proto/channel.c), one of which waits.
 */
#include "client/lib/connection.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>

#include "client/lib/forklock.h"
#include "client/lib/held.h"
#include "client/lib/mapping.h"
#include "proto/layout.h"
#include "proto/wire.h"
#include "shm/probe.h"

#define PAUSE_MS_MAX 16
#define SAMPLES_MS    250 /* what samples need is waited for */
#define SAMPLES_SHARE 4   /* but no longer than this share of what a request may take */

/* The steps 2 to 4. read NULL: the reply says nothing but how it went. */
static int finish_call(Goallocd__Request *request, connection_read *read, void *ret, deadline until)
{
    Goallocd__Reply *reply;
    int r = comeback_call(request, &reply, until);

    if (r == 0 && read != NULL)
        r = read(reply, ret);
    comeback_end();
    return r;
}

int connection_call(Goallocd__Request *request, connection_read *read, void *ret)
{
    deadline until;
    int r = comeback_begin(&until);

    return r < 0 ? r : finish_call(request, read, ret, until);
}

/*
 * A request for memory. While the session is at its limit, the daemon searches for what it offers, some of it in each
 * request, and says -EINPROGRESS until it has looked at all: so it is asked again, with a pause in which others are
 * served, and the turn is theirs, for as long as a request may take.
 */
static int call_for_memory(Goallocd__Request *request, connection_read *read, void *ret)
{
    deadline until = deadline_in((int)u32_load_relaxed(&process.timeout_ms));
    int cancel_state;
    int r;

    (void)pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel_state);
    for (int pause_ms = 1; (r = connection_call(request, read, ret)) == -EINPROGRESS;
         pause_ms = pause_ms < PAUSE_MS_MAX ? pause_ms * 2 : PAUSE_MS_MAX) {
        if (deadline_left_ms(until) == 0) {
            r = -EDQUOT;
            break;
        }
        (void)poll(NULL, 0, pause_ms);
    }
    (void)pthread_setcancelstate(cancel_state, NULL);
    return r;
}

/* --- the session --- */

static int check_attach_reply(const Goallocd__Reply *reply, bool readonly, attach_result *ret)
{
    const Goallocd__AttachReply *body = reply->attach;
    int nfds = ATTACH_FD_OWN + !readonly + (body->group != 0);
    shm_version heap = layout_heard(body->layout);
    enum version_use use = readonly ? VERSION_READS : VERSION_WRITES;
    char why[VERSION_TEXT_BYTES];
    int fds[FDPASS_MAX];

    if (body->protocol != GOALLOC_PROTOCOL)
        return -EPROTONOSUPPORT;
    if (version_check(&heap, version_own(), use) != 0) {
        comeback_note_why(version_explain(why, sizeof(why), &heap, version_own(), use, "this libgoalloc"));
        return -ENOEXEC;
    }
    if (link_fds(fds) != nfds || body->session == 0 || body->session >= SHM_SESSIONS_MAX)
        return -EPROTO;
    *ret = (attach_result){
        .session = { (uint16_t)body->session },
        .epoch = body->epoch,
        .generation = body->generation,
        .base = body->arena_base,
        .arena_bytes = body->arena_bytes,
        .spans_bytes = body->spans_bytes,
        .bitmap_bytes = body->bitmap_bytes,
        .committed = body->committed,
        .arena_fd = fds[ATTACH_FD_ARENA],
        .spans_fd = fds[ATTACH_FD_SPANS],
        .bitmap_fd = fds[ATTACH_FD_BITMAP],
        .sign_fd = fds[ATTACH_FD_SIGN],
        .own_fd = readonly ? -1 : fds[ATTACH_FD_OWN],
        .group_fd = body->group == 0 ? -1 : fds[nfds - 1],
    };
    return 0;
}

int connection_attach(const attach_request *ask, attach_result *ret)
{
    Goallocd__Attach body = GOALLOCD__ATTACH__INIT;
    Goallocd__Request request = WIRE_REQUEST(ATTACH, attach, &body);
    Goallocd__Layout layout;
    Goallocd__Reply *reply;
    int r;

    body.protocol = GOALLOC_PROTOCOL;
    body.layout = layout_tell(&layout, version_own());
    body.flags = ask->flags;
    body.label = (char *)(uintptr_t)ask->label;
    body.limit_bytes = ask->limit_bytes;
    body.profile_bytes = ask->profile_bytes;
    body.group = (ProtobufCBinaryData){ .len = strlen(ask->group), .data = (uint8_t *)(uintptr_t)ask->group };
    if (ask->of_parent)
        comeback_name_parent(&body);
    r = comeback_open(ask->socket_path, ask->patience, ask->gated, ask->until, &request, &reply);
    if (r < 0)
        return r;
    r = check_attach_reply(reply, ask->flags & SESSION_READONLY, ret);
    if (r == 0) {
        comeback_set_session(reply->attach);
        return 0;
    }
    comeback_forget();
    comeback_end();
    return r;
}

int connection_set_label(const char *label)
{
    Goallocd__SetLabel body = GOALLOCD__SET_LABEL__INIT;
    Goallocd__Request request = WIRE_REQUEST(SET_LABEL, set_label, &body);

    body.label = (char *)(uintptr_t)label;
    return connection_call(&request, NULL, NULL);
}

/* A daemon that is gone need not be told: the next one sees that this process has unmapped the heap. */
static int tell_of_detach(deadline until)
{
    Goallocd__Detach body = GOALLOCD__DETACH__INIT;
    Goallocd__Request request = WIRE_REQUEST(DETACH, detach, &body);
    Goallocd__Reply *reply;

    return link_is_open() ? rpc_call(&request, &reply, until) : -ENOTCONN;
}

void connection_detach(void)
{
    deadline until;

    if (comeback_begin(&until) == 0)
        (void)tell_of_detach(until);
    else if (turn_take(&link_turn, deadline_in(0)) < 0)
        return; /* another thread uses the connection, against the rules of goalloc_detach() */
    comeback_forget();
    comeback_end();
}

/* --- spans --- */

typedef struct refill_result {
    uint32_t nspans; /* asked for */
    uint32_t *spans;
} refill_result;

static int read_refill(const Goallocd__Reply *reply, void *ret)
{
    const refill_result *refill = ret;
    size_t nspans = reply->refill->n_spans;

    if (nspans == 0 || nspans > refill->nspans)
        return -EPROTO;
    memcpy(refill->spans, reply->refill->spans, sizeof(*refill->spans) * nspans);
    held_set(refill->spans, nspans);
    return (int)nspans;
}

int connection_refill(span_class spc, uint32_t npages, uint32_t nspans, bool insist, uint32_t *ret_spans)
{
    Goallocd__Refill body = GOALLOCD__REFILL__INIT;
    Goallocd__Request request = WIRE_REQUEST(REFILL, refill, &body);
    int r;

    body.span_class = spc.n;
    body.nspans = nspans;
    body.npages = npages;
    body.insist = insist;
    PROBE(goalloc, refill_begin, process.session.n, spc.n, nspans, npages, insist);
    r = call_for_memory(&request, read_refill, &(refill_result){ nspans, ret_spans });
    PROBE(goalloc, refill_end, process.session.n, spc.n, r);
    return r;
}

int connection_samples_ms(void)
{
    int share_ms = (int)(u32_load_relaxed(&process.timeout_ms) / SAMPLES_SHARE);

    return share_ms < SAMPLES_MS ? share_ms : SAMPLES_MS;
}

int connection_refill_marked(span_class spc, uint32_t npages, uint32_t nspans, uint32_t *ret_spans)
{
    Goallocd__Refill body = GOALLOCD__REFILL__INIT;
    Goallocd__Request request = WIRE_REQUEST(REFILL, refill, &body);
    const bool insist = false; /* as the probe knows it */
    deadline until;
    int r = comeback_begin_within(connection_samples_ms(), &until);

    body.span_class = spc.n;
    body.nspans = nspans;
    body.npages = npages;
    body.insist = insist;
    body.marked = true;
    PROBE(goalloc, refill_begin, process.session.n, spc.n, nspans, npages, insist);
    if (r == 0)
        r = finish_call(&request, read_refill, &(refill_result){ nspans, ret_spans }, until);
    PROBE(goalloc, refill_end, process.session.n, spc.n, r);
    return r;
}

int connection_sync(void)
{
    Goallocd__ReturnSpans body = GOALLOCD__RETURN_SPANS__INIT; /* of none */
    Goallocd__Request request = WIRE_REQUEST(RETURN_SPANS, return_spans, &body);

    /* Requests are answered in order, and what waits in the outbox is sent before this one. */
    return connection_call(&request, NULL, NULL);
}

static int read_large(const Goallocd__Reply *reply, void *ret)
{
    page_no *span = ret;

    *span = page_at(reply->alloc_large->span);
    held_set(&span->n, 1);
    return 0;
}

int connection_alloc_large(const connection_large *what, bool insist, page_no *ret)
{
    Goallocd__AllocLarge body = GOALLOCD__ALLOC_LARGE__INIT;
    Goallocd__Request request = WIRE_REQUEST(ALLOC_LARGE, alloc_large, &body);
    int r;

    body.npages = what->npages;
    body.align_pages = what->align_pages;
    body.noscan = what->noscan;
    body.marked = what->marked;
    body.insist = insist;
    PROBE(goalloc, large_begin, process.session.n, what->npages, insist);
    r = call_for_memory(&request, read_large, ret);
    PROBE(goalloc, large_end, process.session.n, r == 0 ? ret->n : 0, r);
    return r;
}

int connection_resize_large(page_no span, uint64_t npages, bool *ret_sent)
{
    Goallocd__ResizeLarge body = GOALLOCD__RESIZE_LARGE__INIT;
    Goallocd__Request request = WIRE_REQUEST(RESIZE_LARGE, resize_large, &body);
    deadline until;
    int r = comeback_begin(&until);

    *ret_sent = r == 0;
    if (r < 0)
        return r;
    body.span = span.n;
    body.npages = npages;
    held_expect(span); /* if nobody leases the object, the daemon leases it to this process: it must be known here */
    return finish_call(&request, NULL, NULL, until);
}

/* --- objects --- */

int connection_adopt(uint64_t offset)
{
    Goallocd__Adopt body = GOALLOCD__ADOPT__INIT;
    Goallocd__Request request = WIRE_REQUEST(ADOPT, adopt, &body);

    body.offset = offset;
    return connection_call(&request, NULL, NULL);
}

int connection_publish(uint64_t offset)
{
    Goallocd__Publish body = GOALLOCD__PUBLISH__INIT;
    Goallocd__Request request = WIRE_REQUEST(PUBLISH, publish, &body);

    body.offset = offset;
    return connection_call(&request, NULL, NULL);
}

int connection_settle(session_no session)
{
    Goallocd__Settle body = GOALLOCD__SETTLE__INIT;
    Goallocd__Request request = WIRE_REQUEST(SETTLE, settle, &body);

    body.session = session.n;
    return connection_call(&request, NULL, NULL);
}

/* --- profiles --- */

typedef struct opened_profile {
    profile_region **region;
    uint32_t *ret_seq;
} opened_profile;

static int read_profile(const Goallocd__Reply *reply, void *ret)
{
    const opened_profile *opened = ret;
    int fds[FDPASS_MAX];
    int r = -EPROTO;

    forklock_take();
    if (link_fds(fds) == 1 && reply->profile_open->bytes == sizeof(profile_region))
        r = mapping_profile(fds[0], opened->region);
    link_close_fds();
    forklock_give();
    *opened->ret_seq = reply->profile_open->seq;
    return r;
}

int connection_profile_open(profile_region **region, uint32_t *ret_seq)
{
    Goallocd__ProfileOpen body = GOALLOCD__PROFILE_OPEN__INIT;
    Goallocd__Request request = WIRE_REQUEST(PROFILE_OPEN, profile_open, &body);
    deadline until;
    int r = comeback_begin_within(connection_samples_ms(), &until);

    return r < 0 ? r : finish_call(&request, read_profile, &(opened_profile){ region, ret_seq }, until);
}

/* --- statistics --- */

static int read_stats(const Goallocd__Reply *reply, void *ret)
{
    const Goallocd__StatsReply *stats = reply->stats;
    goalloc_stats_t *to = ret;

    to->live_objects = stats->live_objects;
    to->live_bytes = stats->live_bytes;
    to->committed_bytes = stats->committed_bytes;
    to->released_bytes = stats->released_bytes;
    to->metadata_bytes = stats->metadata_bytes;
    to->sessions = stats->sessions;
    to->leased_spans = stats->leased_spans;
    to->roots = stats->roots;
    to->session_held_bytes = stats->session_held_bytes;
    to->free_bytes = stats->free_bytes;
    to->arena_bytes = stats->reserved_bytes;
    to->memory_limit_bytes = stats->limit_bytes;
    to->max_memory_bytes = stats->max_memory_bytes;
    to->peak_committed_bytes = stats->peak_committed_bytes;
    to->group_live_objects = stats->group_live_objects;
    to->group_live_bytes = stats->group_live_bytes;
    return 0;
}

int connection_stats(goalloc_stats_t *ret)
{
    Goallocd__Stats body = GOALLOCD__STATS__INIT;
    Goallocd__Request request = WIRE_REQUEST(STATS, stats, &body);

    return connection_call(&request, read_stats, ret);
}
