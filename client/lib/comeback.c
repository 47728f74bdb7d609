/*
 * Comeback: what happens when a daemon dies, is replaced, or does not answer.
 *
 * Called by connection.c, attach.c (the end of an attach, fork), subscription.c (what identifies the session), idle.c
 * and root.c (comeback_is_up); calls rpc, link, outbox, held, largecache and process. Data: private; the holder of the
 * turn writes it. A request's time begins before it waits for the turn.
 *
 * The socket is closed after any error. Spans that are held stay usable: neither the daemon nor the one that takes its
 * place takes a lease from a process that lives. The next request that wants a reply comes back:
 *   1. It connects, again and again until its timeout has passed, because the daemon may be on its way up. It also
 *      waits for a socket that is missing, since a clean restart removes it. If the directory is missing as well (after
 *      a chroot), no daemon will come here: -ENOENT at once.
 *   2. It sends Attach with the session's token. If the heap or the session is gone, all requests answer -ESTALE from
 *      then on. If the heap's header says that it was dropped, they do so without looking for a daemon.
 *   3. It asks what the session leases (LeaseList). What this process does not know (held.c, largecache.c) was on its
 *      way when the connection was lost, in a reply or in a return: it is given back. Large objects have a list of
 *      their own for that, because another process may have freed one after the daemon made its list: the daemon
 *      passes over those that the session does not lease any more.
 *   4. It sends what waits in the outbox, then the request again. So a request may be carried out twice. That does no
 *      harm: what the first one has leased was given back in step 3, and the other requests set a state.
 *
 * Whether the daemon can be reached at all:
 *
 *        UP --- a request has waited for its timeout ---> DOWN --- one look finds a daemon that answers ---> UP
 *
 * An attach may come before the first daemon (COMEBACK_STARTS): it connects in the same way, also while the directory
 * is missing. Nothing tells when a listener is there but a connect() that succeeds, and a directory that is not there
 * can't be watched; so it tries, after 1 ms, then 2, up to every 10 ms, some 50 us each time.
 *
 * While DOWN nobody waits: a request fails at once with the error of the first one, except that one thread every 100 ms
 * looks. If there is a connection (the daemon sleeps, or is slow), it looks for the reply that is owed. Else it
 * connects once, and gives a daemon that accepts the connection 100 ms to answer the Attach. What follows has the whole
 * timeout again.
 */
#include "client/lib/comeback.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "client/lib/forklock.h"
#include "client/lib/held.h"
#include "client/lib/largecache.h"
#include "client/lib/mapping.h"
#include "client/lib/offer.h"
#include "client/lib/outbox.h"
#include "client/lib/shadow.h"
#include "proto/layout.h"
#include "proto/wire.h"
#include "shm/probe.h"

#define RETRY_MS_MAX  10
#define LOOK_EVERY_MS 100
#define LOOK_MS       100

/* The session to come back to; `process` has its numbers. */
static const char *socket_path;
static bool has_session;
static uint8_t token[SESSION_TOKEN_BYTES];
static size_t token_bytes;
static uint32_t group; /* the number of its group; 0: it has none. Forked children keep it, and the token */
static uint8_t group_token[SESSION_TOKEN_BYTES];
static bool stale; /* no daemon has the heap that is mapped, or this session, any more */

static comeback_failure failure; /* of the last comeback_open() */

static shm_u32 down; /* 0: up; else the error (positive) that requests are answered with */
static shm_u64 next_look_ms; /* on the clock of deadlines; while down */

static deadline whole_timeout(void)
{
    return deadline_in((int)u32_load_relaxed(&process.timeout_ms));
}

bool comeback_is_up(void)
{
    return link_is_open() && u32_load_relaxed(&down) == 0;
}

/* --- whether anybody is there --- */

static void set_next_look(void)
{
    u64_store_relaxed(&next_look_ms, (uint64_t)deadline_in(LOOK_EVERY_MS).at_ms);
}

/* A request has waited for its timeout. */
static void set_down(int error)
{
    set_next_look();
    u32_store_relaxed(&down, (uint32_t)-error);
}

/* 0 if the daemon is up, or if it is time to look for it; else the error that requests are answered with. */
static int may_look(void)
{
    uint32_t error = u32_load_relaxed(&down);

    if (error != 0 && deadline_left_ms((deadline){ (int64_t)u64_load_relaxed(&next_look_ms) }) > 0)
        return -(int)error;
    return 0;
}

/* True if the directory of the socket is missing: then no daemon is on its way up there. */
static bool place_is_missing(void)
{
    const char *slash = strrchr(socket_path, '/');
    char dir[PATH_MAX];
    struct stat st;

    if (slash == NULL || slash == socket_path || (size_t)(slash - socket_path) >= sizeof(dir))
        return false;
    memcpy(dir, socket_path, (size_t)(slash - socket_path));
    dir[slash - socket_path] = '\0';
    return stat(dir, &st) < 0 && errno == ENOENT;
}

/* True if an error of connect() may go away by itself. */
static bool is_worth_waiting(int r, enum comeback_patience patience)
{
    return r == -ECONNREFUSED || r == -EACCES || r == -EAGAIN ||
           (r == -ENOENT && (patience == COMEBACK_STARTS || !place_is_missing()));
}

/* Connect to the daemon that serves the socket, or will soon. */
static int connect_patiently(enum comeback_patience patience, deadline until)
{
    for (int wait_ms = 1;; wait_ms = wait_ms * 2 < RETRY_MS_MAX ? wait_ms * 2 : RETRY_MS_MAX) {
        int r = link_connect(socket_path);

        failure.connect_error = r;
        if (r == 0 || !is_worth_waiting(r, patience))
            return r;
        if (deadline_left_ms(until) == 0)
            return r == -EACCES ? r : -ETIMEDOUT;
        if (r != -EAGAIN) /* then it has waited */
            (void)poll(NULL, 0, wait_ms);
    }
}

/*
 * True if no daemon will have the session any more: one has said so, or the heap was dropped. (What a daemon of another
 * build has said is not for good, so it is not asked for here.)
 */
static bool is_over(void)
{
    if (has_session && process.map.header != NULL && u32_load_acquire(&process.map.header->dropped) != 0)
        stale = true;
    return stale;
}

/* --- coming back --- */

/*
 * What another daemon has sent: a new memfd of offers. If there is no room the old one stays, in which nobody reads
 * what is offered.
 */
static void take_offers(void)
{
    int fds[FDPASS_MAX];

    forklock_take();
    if (link_fds(fds) > 0)
        (void)(mapping_replace_offers(fds[0]) < 0);
    link_close_fds();
    forklock_give();
}

static int reattach(deadline until)
{
    Goallocd__Attach body = GOALLOCD__ATTACH__INIT;
    Goallocd__Request request = WIRE_REQUEST(ATTACH, attach, &body);
    Goallocd__Layout layout;
    Goallocd__Reply *reply;
    int r;

    body.protocol = GOALLOC_PROTOCOL;
    body.layout = layout_tell(&layout, version_own());
    body.token = (ProtobufCBinaryData){ .len = token_bytes, .data = token };
    body.session = process.session.n;
    body.epoch = process.epoch;
    body.generation = process.generation;
    body.own = process.own_id;
    r = rpc_call(&request, &reply, until);
    PROBE(goalloc, comeback, process.session.n, r);
    if (r == 0) {
        u32_store_relaxed(&process.committed, reply->attach->committed != 0);
        process_note_served();
        take_offers();
    }
    if (r != -ESTALE && r != -ENOEXEC && r != -EPROTONOSUPPORT)
        return r;
    /* This daemon does not have the session. Nor will another one, unless this one is of another build. */
    stale = r == -ESTALE;
    process_note_stale();
    shadow_session_lost();
    link_close();
    return -ESTALE;
}

/* Spans that the session leases and this process does not know. */
typedef struct unknown {
    size_t nspans;
    size_t nlarge;
    uint32_t spans[PROTO_SPANS_MAX];
    uint32_t large[PROTO_SPANS_MAX]; /* those of large objects */
} unknown;

/*
 * The lease of a large object may have ended since the list was made, and its pages be another session's: so what is
 * read of the span counts if this session leases it before and after. All other leases end only when this process ends
 * them; those that it has offered the daemon is about to end.
 */
static void add_unknown(unknown *u, uint32_t first)
{
    const shm_span *span = shm_span_at(&process.map, page_at(first));
    bool ours = process_leases(span);
    bool is_large = span_class_size(span->spc).n == 0 && !span->lessee_folds;

    fence_seq_cst(); /* the description is read between the two looks at the lease */
    if (!ours || !process_leases(span) || offer_is_taken(page_at(first)))
        return;
    if (is_large)
        u->large[u->nlarge++] = first;
    else
        u->spans[u->nspans++] = first;
}

static int send_unknown(unknown *u, deadline until)
{
    Goallocd__ReturnSpans body = GOALLOCD__RETURN_SPANS__INIT;
    Goallocd__Request request = WIRE_REQUEST(RETURN_SPANS, return_spans, &body);

    if (u->nspans + u->nlarge == 0)
        return 0;
    body.n_spans = u->nspans;
    body.spans = u->spans;
    body.n_large = u->nlarge;
    body.large = u->large;
    return link_send(&request, &until);
}

/* Go through a part of the list of leases: what is unknown goes to *u. *after moves on; *ret_more: more is to come. */
static int sort_leases(const Goallocd__LeaseListReply *list, uint32_t *after, unknown *u, bool *ret_more)
{
    *ret_more = list->more;
    u->nspans = u->nlarge = 0;
    for (size_t i = 0; i < list->n_spans; i++) {
        uint32_t span = list->spans[i];

        if (span == 0 || span >= process.map.npages)
            return -EPROTO;
        if (largecache_knows(&large_cache, page_at(span))) {
            *after = span;
        } else if (u->nspans + u->nlarge < PROTO_SPANS_MAX) {
            add_unknown(u, span);
        } else { /* the rest of this part is asked for again */
            *ret_more = true;
            break;
        }
    }
    return 0;
}

/* Give back what the session leases and this process does not know. */
static int reconcile(deadline until)
{
    static unknown u;
    uint32_t after = 0;
    bool more = true;

    while (more) {
        Goallocd__LeaseList body = GOALLOCD__LEASE_LIST__INIT;
        Goallocd__Request request = WIRE_REQUEST(LEASE_LIST, lease_list, &body);
        Goallocd__Reply *reply;
        int r;

        body.after = after;
        r = rpc_call(&request, &reply, until);
        if (r == -EROFS)
            return 0; /* a read-only session leases nothing */
        if (r == -EINVAL && after != 0) { /* the lease of that span has ended meanwhile: begin again */
            after = 0;
            continue;
        }
        if (r == 0)
            r = sort_leases(reply->lease_list, &after, &u, &more);
        if (r == 0)
            r = send_unknown(&u, until);
        if (r < 0)
            return r;
    }
    return 0;
}

/* If there may be spans that the session leases and this process does not know, give them back. */
static int find_unknown(deadline until)
{
    bool overflow = outbox_take_overflow();
    bool forgotten = offer_take_unknown();
    int r = overflow || forgotten ? reconcile(until) : 0;

    if (r < 0)
        outbox_put_overflow();
    return r;
}

/* While down: connect once. An error that may go away is answered as requests are answered while down. */
static int connect_quickly(void)
{
    int r = link_connect(socket_path);

    failure.connect_error = r;
    return r < 0 && is_worth_waiting(r, COMEBACK_RESTARTS) ? -(int)u32_load_relaxed(&down) : r;
}

/* The same, and come back to the session. */
static int come_back_quickly(void)
{
    int r = connect_quickly();

    if (r == 0)
        r = reattach(deadline_in(LOOK_MS));
    if (r == 0)
        r = reconcile(whole_timeout());
    if (r < 0)
        link_close();
    return r;
}

/* Make sure that there is a connection. */
static int come_back(deadline until)
{
    while (!link_is_open()) {
        int r;

        if (is_over())
            return -ESTALE;
        if (!has_session)
            return -ENOTCONN;
        r = connect_patiently(COMEBACK_RESTARTS, until);
        if (r == 0)
            r = reattach(until);
        if (r == 0)
            r = reconcile(until);
        if (r == 0)
            return 0;
        link_close();
        if (r != -ENOTCONN && r != -EUSERS) /* EUSERS: the daemon is short of descriptors */
            return r;
        if (deadline_left_ms(until) == 0)
            return r == -ENOTCONN ? -ETIMEDOUT : r;
        (void)poll(NULL, 0, r == -ENOTCONN ? 1 : RETRY_MS_MAX);
    }
    return stale ? -ESTALE : 0;
}

/* --- requests --- */

/* The last request found nobody: look whether anybody is there now. With the turn. */
static int look(void)
{
    int r = -ENOTCONN;

    set_next_look();
    if (link_is_open())
        r = rpc_look_for_late_reply();
    if (r == -ENOTCONN && has_session && !is_over())
        r = come_back_quickly();
    if (r == 0 || stale)
        u32_store_relaxed(&down, 0);
    return stale ? -ESTALE : r == -ENOTCONN ? -ETIMEDOUT : r;
}

/* Take the turn; while down, only if it is time to look and nobody else does. */
static int begin(deadline until)
{
    int r = may_look();

    if (r < 0)
        return r;
    if (u32_load_relaxed(&down) != 0)
        return turn_try(&link_turn) ? 0 : -ETIMEDOUT;
    r = turn_take(&link_turn, until);
    if (r < 0)
        return r;
    r = may_look(); /* another thread may have set it down meanwhile */
    if (r < 0)
        comeback_end();
    return r;
}

int comeback_begin_within(int timeout_ms, deadline *ret_until)
{
    int r;

    *ret_until = deadline_in(timeout_ms);
    r = begin(*ret_until);
    if (r < 0 || u32_load_relaxed(&down) == 0)
        return r;
    r = look();
    *ret_until = deadline_in(timeout_ms);
    if (r < 0)
        comeback_end();
    return r;
}

int comeback_begin(deadline *ret_until)
{
    return comeback_begin_within((int)u32_load_relaxed(&process.timeout_ms), ret_until);
}

void comeback_end(void)
{
    outbox_give_turn();
}

int comeback_call(Goallocd__Request *request, Goallocd__Reply **ret, deadline until)
{
    int left_ms = deadline_left_ms(until);
    int r;

    do {
        r = come_back(until);
        if (r == 0)
            r = find_unknown(until);
        if (r == 0)
            r = outbox_flush(&until);
        if (r == 0)
            r = rpc_call(request, ret, until);
    } while (r == -ENOTCONN && !link_is_open() && has_session);
    /* If other threads' requests have taken most of the time, a timeout says nothing of the daemon. */
    if ((r == -ETIMEDOUT || (r == -EACCES && !link_is_open())) &&
        left_ms >= (int)(u32_load_relaxed(&process.timeout_ms) / 2))
        set_down(r);
    return r;
}

/* --- a session of our own --- */

static int open_patiently(enum comeback_patience patience, Goallocd__Request *attach, Goallocd__Reply **ret,
                          deadline until)
{
    for (;;) {
        int r;

        if (patience != COMEBACK_SERVES)
            r = connect_patiently(patience, until);
        else
            r = failure.connect_error = link_connect(socket_path);
        if (r == 0) {
            r = rpc_call(attach, ret, until);
            if (r != -ENOTCONN || link_is_open())
                return r;
        } else if (r != -EAGAIN) { /* -EAGAIN: a daemon listens, and its queue is full */
            return r;
        }
        if (deadline_left_ms(until) == 0)
            return -ETIMEDOUT;
        if (patience == COMEBACK_SERVES) /* a daemon was there: if it has died, another one may be on its way up */
            patience = COMEBACK_RESTARTS;
        if (r != -EAGAIN) /* then it has waited for room */
            (void)poll(NULL, 0, 1);
    }
}

static int open_quickly(Goallocd__Request *attach, Goallocd__Reply **ret)
{
    int r = connect_quickly();

    if (r == 0)
        r = rpc_call(attach, ret, deadline_in(LOOK_MS));
    return r == -ENOTCONN ? -ETIMEDOUT : r;
}

/* There is no session, and nothing is left of one. With the turn. */
static void clear_session(void)
{
    has_session = false;
    stale = false;
    outbox_clear();
    (void)offer_take_unknown();
    u64_store_relaxed(&link_nrpcs, 0);
}

/* The daemon has answered the Attach with an error: note what it says. */
static void note_said(int r, const Goallocd__Reply *reply)
{
    if (r < 0 && reply != NULL && reply->error == -r)
        (void)snprintf(failure.said, sizeof(failure.said), "%s", reply->message);
}

void comeback_note_why(const char *why)
{
    (void)snprintf(failure.said, sizeof(failure.said), "%s", why);
}

const comeback_failure *comeback_last_failure(void)
{
    return &failure;
}

int comeback_open(const char *path, enum comeback_patience patience, bool gated, deadline until,
                  Goallocd__Request *attach, Goallocd__Reply **ret)
{
    bool quick;
    int r;

    failure = (comeback_failure){ .connect_error = 0 };
    *ret = NULL;
    if (!gated)
        u32_store_relaxed(&down, 0);
    r = begin(until);
    if (r < 0)
        return r;
    quick = u32_load_relaxed(&down) != 0;
    set_next_look();
    socket_path = path;
    clear_session();
    r = quick ? open_quickly(attach, ret) : open_patiently(patience, attach, ret, until);
    note_said(r, *ret);
    if (r == 0)
        u32_store_relaxed(&down, 0);
    else if (r == -ETIMEDOUT || (r == -EACCES && patience != COMEBACK_SERVES))
        set_down(r);
    if (r < 0) {
        link_close();
        turn_give(&link_turn);
    }
    return r;
}

void comeback_name_parent(Goallocd__Attach *ret)
{
    if (group == 0)
        return;
    ret->parent_group = group;
    ret->group_token = (ProtobufCBinaryData){ .len = sizeof(group_token), .data = group_token };
}

void comeback_set_session(const Goallocd__AttachReply *reply)
{
    group = reply->group_token.len == sizeof(group_token) ? reply->group : 0;
    if (group != 0)
        memcpy(group_token, reply->group_token.data, sizeof(group_token));
    has_session = true;
    token_bytes = reply->token.len < SESSION_TOKEN_BYTES ? reply->token.len : SESSION_TOKEN_BYTES;
    memcpy(token, reply->token.data, token_bytes);
}

int comeback_take_ticket(comeback_ticket *ret, deadline until)
{
    int r = turn_take(&link_turn, until);

    if (r < 0)
        return r;
    r = has_session ? 0 : -ENOTCONN;
    *ret = (comeback_ticket){ .socket_path = socket_path,
                              .session = process.session,
                              .epoch = process.epoch,
                              .generation = process.generation,
                              .token_bytes = token_bytes };
    memcpy(ret->token, token, token_bytes);
    comeback_end();
    return r;
}

void comeback_forget(void)
{
    group = 0;
    link_close();
    clear_session();
    u32_store_relaxed(&down, 0);
}

void comeback_reset(void)
{
    link_reset();
    outbox_reset();
    held_reset();
    has_session = false;
    stale = false;
    u64_store_relaxed(&next_look_ms, 0);
}
