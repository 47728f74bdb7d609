/*
 * Connection: one request at a time over one socket, and coming back when it was lost.
 *
 * Called by attach, mcache (refill, return), large, roots, owner and stats. Data: private, under one lock that is held
 * for the length of a request. A request's time begins before it waits for the lock. No malloc: messages are packed
 * into and unpacked from buffers of the connection. A refill is two system calls: send, and a recvmsg that waits.
 *
 * Replies are matched by id. A reply that comes after its request has timed out may bring spans that nobody waits for
 * any more: they go straight back. Notices (id 0) need no action: what the daemon wants back stands in trim_seq of
 * the session's slot, which the slow path looks at; a daemon that shuts down closes the socket.
 *
 * Lost: after any error of the socket it is closed. Spans that are held stay usable: the daemon takes no lease from a
 * process that lives, nor does the daemon that takes its place. The next request that wants a reply comes back:
 *   1. connect, again and again until its timeout has passed: the daemon may be on its way up;
 *   2. Attach with the session's token. If the heap or the session is gone, everything answers -ESTALE from then on;
 *   3. ask what the session leases (LeaseList). What this process does not know was on its way when the connection was
 *      lost, in a reply or in a return: it goes back. "Knows" means an entry in mspan_of, which is made under the lock
 *      of the connection when spans come, and cleared before they go.
 *   4. send the request again. All of them may be carried out twice: what the first one has leased was found in 3, and
 *      the others say how things shall be.
 * A request that is only sent does not wait for a connection, nor for a thread that does: returns are kept until there
 * is one again, and the daemon's sweep finds large objects that nobody told it of.
 */
#include "client/connection.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "client/mcache.h"
#include "proto/wire.h"
#include "shm/atomics.h"

#define TOKEN_BYTES      16u
#define RETRY_MS_MAX     10
#define PENDING_MAX      4096u

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static channel ch = { .fd = -1 };
static uint64_t last_id;
static int timeout_ms;
static shm_u64 nrpcs;

/* The session, to come back to. */
static const char *socket_path;
static session_no session; /* 0: there is none */
static uint32_t epoch;
static uint64_t generation;
static uint8_t token[TOKEN_BYTES];
static size_t token_bytes;
static bool stale; /* the heap that is mapped is nobody's any more */
static shm_u32 up; /* there is a connection: what the senders below look at before they take the lock */

/* What could not be returned because there was no connection: it still counts as held. Under a lock of its own. */
static pthread_mutex_t pending_lock = PTHREAD_MUTEX_INITIALIZER;
static uint32_t pending[PENDING_MAX];
static uint32_t npending;
static frame_bump bump;
static uint8_t out[FRAME_BYTES_MAX];
static uint8_t bump_buf[4 * FRAME_PAYLOAD_MAX];

static void connection_lock(void)
{
    (void)pthread_mutex_lock(&lock);
}

static void connection_unlock(void)
{
    (void)pthread_mutex_unlock(&lock);
}

/* Begin a request: its time begins, and then the lock is taken, or the time is over. */
static int begin(deadline *ret_until)
{
    struct timespec ts;

    *ret_until = deadline_in(timeout_ms);
    if (pthread_mutex_trylock(&lock) == 0)
        return 0;
    (void)clock_gettime(CLOCK_REALTIME, &ts);
    ts.tv_sec += timeout_ms / 1000;
    ts.tv_nsec += timeout_ms % 1000 * 1000000L;
    ts.tv_sec += ts.tv_nsec / 1000000000;
    ts.tv_nsec %= 1000000000;
    return pthread_mutex_timedlock(&lock, &ts) == 0 ? 0 : -ETIMEDOUT;
}

void connection_fork_lock(void)
{
    connection_lock();
    (void)pthread_mutex_lock(&pending_lock);
}

void connection_fork_unlock(void)
{
    (void)pthread_mutex_unlock(&pending_lock);
    connection_unlock();
}

uint64_t connection_nrpcs(void)
{
    return u64_load_relaxed(&nrpcs);
}

static int lose(int error)
{
    u32_store_relaxed(&up, 0);
    channel_close(&ch);
    return error == -ETIMEDOUT ? error : -ENOTCONN;
}

static int send_request(Goallocd__Request *request, deadline until)
{
    size_t len = wire_pack_request(request, out, sizeof(out));
    int r;

    if (len == 0)
        return -EMSGSIZE;
    if (ch.fd < 0)
        return -ENOTCONN;
    u64_store_relaxed(&nrpcs, u64_load_relaxed(&nrpcs) + 1);
    r = channel_send(&ch, out, len, until);
    return r < 0 ? lose(r) : 0; /* after half a frame nothing can follow */
}

/* A reply that nobody waits for: give back what it brings. */
static void drop_late_reply(const Goallocd__Reply *reply, deadline until)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__ReturnSpans body = GOALLOCD__RETURN_SPANS__INIT;

    if (reply->error == 0 && reply->result_case == GOALLOCD__REPLY__RESULT_REFILL) {
        body.n_spans = reply->refill->n_spans;
        body.spans = reply->refill->spans;
    } else if (reply->error == 0 && reply->result_case == GOALLOCD__REPLY__RESULT_ALLOC_LARGE) {
        body.n_spans = 1;
        body.spans = &reply->alloc_large->span;
    } else {
        return;
    }
    request.op_case = GOALLOCD__REQUEST__OP_RETURN_SPANS;
    request.return_spans = &body;
    (void)send_request(&request, until);
}

/* Wait for the reply to request id. *ret is valid until the next request. */
static int await_reply(uint64_t id, Goallocd__Reply **ret, deadline until)
{
    for (;;) {
        const uint8_t *payload;
        size_t len;
        Goallocd__Reply *reply;
        int r = ch.fd < 0 ? -ENOTCONN : channel_recv(&ch, &payload, &len, until);

        if (r == -ETIMEDOUT || r == -ENOTCONN)
            return r;
        if (r < 0)
            return lose(r);
        reply = wire_unpack_reply(&bump, payload, len);
        channel_drop_frame(&ch);
        if (reply == NULL) {
            (void)lose(-EPROTO);
            return -EPROTO;
        }
        if (reply->id == id) {
            *ret = reply;
            return reply->error > 0 ? -reply->error : reply->error < 0 ? -EPROTO : 0;
        }
        if (reply->id != 0)
            drop_late_reply(reply, until);
    }
}

static int call_once(Goallocd__Request *request, Goallocd__Reply **ret, deadline until)
{
    int r;

    request->id = ++last_id;
    r = send_request(request, until);
    return r < 0 ? r : await_reply(request->id, ret, until);
}

/* --- coming back --- */

/* Connect to whoever serves the socket; nobody may do so yet. */
static int reconnect(deadline until)
{
    for (int wait_ms = 1;; wait_ms = wait_ms * 2 < RETRY_MS_MAX ? wait_ms * 2 : RETRY_MS_MAX) {
        int r = channel_connect(&ch, socket_path, until);

        if (r != -ENOENT && r != -ECONNREFUSED && r != -EACCES)
            return r;
        if (deadline_left_ms(until) == 0)
            return -ETIMEDOUT;
        (void)poll(NULL, 0, wait_ms);
    }
}

static int reattach(deadline until)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Attach body = GOALLOCD__ATTACH__INIT;
    Goallocd__Reply *reply;
    int r;

    body.protocol = GOALLOC_PROTOCOL;
    body.abi_hash = shm_abi_hash();
    body.token = (ProtobufCBinaryData){ .len = token_bytes, .data = token };
    body.session = session.n;
    body.epoch = epoch;
    body.generation = generation;
    request.op_case = GOALLOCD__REQUEST__OP_ATTACH;
    request.attach = &body;
    r = call_once(&request, &reply, until);
    if (r == 0 && reply->result_case != GOALLOCD__REPLY__RESULT_ATTACH)
        r = -EPROTO;
    if (r != -ESTALE && r != -ENOEXEC && r != -EPROTONOSUPPORT)
        return r;
    /* This daemon does not have our session, and no other will. */
    stale = true;
    (void)lose(r);
    return -ESTALE;
}

static int send_return(const uint32_t *spans, uint32_t nspans, deadline until)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__ReturnSpans body = GOALLOCD__RETURN_SPANS__INIT;

    body.n_spans = nspans;
    body.spans = (uint32_t *)(uintptr_t)spans;
    request.op_case = GOALLOCD__REQUEST__OP_RETURN_SPANS;
    request.return_spans = &body;
    return send_request(&request, until);
}

/* Does anybody in this process hold the span that the daemon says it leases? */
static bool is_known(uint32_t first)
{
    const mspan *s = atomic_load_explicit(&process.mspan_of[first], memory_order_acquire);

    if (s != &mspan_large && s != &mspan_doubt)
        return s != NULL;
    /* The mark of a large object that another process has freed stays; the place may be another one's since. */
    return span_class_size(shm_span_at(&process.map, page_at(first))->spc).n == 0 &&
           (u64_load_acquire(shm_alloc_bits(&process.map, page_at(first))) & 1) != 0;
}

/* Step 3: give back what the daemon believes to be ours and nobody here knows. */
static int reconcile(deadline until)
{
    static uint32_t unknown[PROTO_SPANS_MAX];
    uint32_t after = 0;
    bool more = true;

    while (more) {
        Goallocd__Request request = GOALLOCD__REQUEST__INIT;
        Goallocd__LeaseList body = GOALLOCD__LEASE_LIST__INIT;
        Goallocd__Reply *reply;
        uint32_t n = 0;
        int r;

        body.after = after;
        request.op_case = GOALLOCD__REQUEST__OP_LEASE_LIST;
        request.lease_list = &body;
        r = call_once(&request, &reply, until);
        if (r == 0 && reply->result_case != GOALLOCD__REPLY__RESULT_LEASE_LIST)
            r = -EPROTO;
        if (r == -EROFS)
            return 0; /* a read-only session leases nothing */
        if (r == -EINVAL && after != 0) { /* that span's lease has ended meanwhile */
            after = 0;
            more = true;
            continue;
        }
        if (r < 0)
            return r;
        more = reply->lease_list->more;
        for (size_t i = 0; i < reply->lease_list->n_spans; i++) {
            uint32_t span = reply->lease_list->spans[i];

            if (span == 0 || span >= process.map.npages)
                return -EPROTO;
            if (is_known(span)) {
                after = span;
            } else {
                unknown[n++] = span;
                if (n == PROTO_SPANS_MAX) { /* the rest of this page is asked for again */
                    more = true;
                    break;
                }
            }
        }
        if (n > 0 && (r = send_return(unknown, n, until)) < 0)
            return r;
    }
    return 0;
}

/* From now on the process holds these spans; or no longer. The lock is held. */
static void mark_held(const uint32_t *spans, size_t nspans, mspan *mark)
{
    for (size_t i = 0; i < nspans; i++) {
        if (spans[i] < process.map.npages)
            atomic_store_explicit(&process.mspan_of[spans[i]], mark, memory_order_release);
    }
}

/* There is a connection again: return what has waited for it. */
static void return_pending(deadline until)
{
    uint32_t n;

    u32_store_relaxed(&up, 1);
    (void)pthread_mutex_lock(&pending_lock);
    n = npending;
    npending = 0;
    for (uint32_t at = 0; at < n; at += PROTO_SPANS_MAX) {
        uint32_t some = n - at < PROTO_SPANS_MAX ? n - at : PROTO_SPANS_MAX;

        mark_held(pending + at, some, NULL);
        (void)send_return(pending + at, some, until);
    }
    (void)pthread_mutex_unlock(&pending_lock);
}

/* No connection: keep them for later. False: there is one, or no room. */
static bool keep_pending(const uint32_t *spans, uint32_t nspans)
{
    bool kept = false;

    if (u32_load_relaxed(&up) != 0)
        return false;
    (void)pthread_mutex_lock(&pending_lock);
    if (u32_load_relaxed(&up) == 0 && nspans <= PENDING_MAX - npending) {
        memcpy(pending + npending, spans, nspans * sizeof(*spans));
        npending += nspans;
        kept = true;
    }
    (void)pthread_mutex_unlock(&pending_lock);
    return kept;
}

/* Make sure that there is a connection. The lock is held. */
static int come_back(deadline until)
{
    int r = 0;

    if (stale)
        return -ESTALE;
    while (ch.fd < 0) {
        if (session.n == 0)
            return -ENOTCONN;
        r = reconnect(until);
        if (r == 0)
            r = reattach(until);
        if (r == 0)
            r = reconcile(until);
        if (r != 0) {
            channel_close(&ch);
            (void)poll(NULL, 0, 1); /* whoever serves is in trouble */
        }
        if (r < 0 && (r != -ENOTCONN || deadline_left_ms(until) == 0))
            return r == -ENOTCONN ? -ETIMEDOUT : r;
        if (r == 0)
            return_pending(until);
    }
    return 0;
}

/* Send and wait, as often as it takes. The lock is held. */
static int call(Goallocd__Request *request, Goallocd__Reply **ret, deadline until)
{
    for (;;) {
        int r = come_back(until);

        if (r < 0)
            return r;
        r = call_once(request, ret, until);
        if (r != -ENOTCONN || ch.fd >= 0)
            return r;
    }
}

/* A request whose reply says nothing but how it went. */
static int call_plain(Goallocd__Request *request)
{
    deadline until;
    Goallocd__Reply *reply;
    int r;

    r = begin(&until);
    if (r < 0)
        return r;
    r = call(request, &reply, until);
    connection_unlock();
    return r;
}

static int check_attach_reply(const Goallocd__Reply *reply, attach_result *ret)
{
    const Goallocd__AttachReply *body = reply->attach;

    if (reply->result_case != GOALLOCD__REPLY__RESULT_ATTACH)
        return -EPROTO;
    if (body->protocol != GOALLOC_PROTOCOL)
        return -EPROTONOSUPPORT;
    if (body->abi_hash != shm_abi_hash())
        return -ENOEXEC;
    if (ch.nfds != 4 || body->session == 0 || body->session >= SHM_SESSIONS_MAX || body->token.len > TOKEN_BYTES)
        return -EPROTO;
    session = (session_no){ (uint16_t)body->session };
    epoch = body->epoch;
    generation = body->generation;
    token_bytes = body->token.len;
    memcpy(token, body->token.data, token_bytes);
    *ret = (attach_result){
        .session = { (uint16_t)body->session },
        .epoch = body->epoch,
        .generation = body->generation,
        .base = body->arena_base,
        .arena_bytes = body->arena_bytes,
        .spans_bytes = body->spans_bytes,
        .bitmap_bytes = body->bitmap_bytes,
        .arena_fd = ch.fds[0],
        .spans_fd = ch.fds[1],
        .bitmap_fd = ch.fds[2],
        .life_fd = ch.fds[3],
    };
    ch.nfds = 0;
    return 0;
}

int connection_attach(const attach_request *ask, attach_result *ret)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Attach body = GOALLOCD__ATTACH__INIT;
    Goallocd__Reply *reply;
    int r;

    connection_lock();
    timeout_ms = ask->timeout_ms;
    u64_store_relaxed(&nrpcs, 0);
    frame_bump_init(&bump, bump_buf, sizeof(bump_buf));

    body.protocol = GOALLOC_PROTOCOL;
    body.abi_hash = shm_abi_hash();
    body.flags = ask->flags;
    body.label = (char *)(uintptr_t)ask->label;
    body.limit_bytes = ask->limit_bytes;
    request.op_case = GOALLOCD__REQUEST__OP_ATTACH;
    request.attach = &body;

    socket_path = ask->socket_path;
    session = (session_no){ 0 };
    stale = false;
    r = ask->wait ? reconnect(deadline_in(timeout_ms)) : channel_connect(&ch, socket_path, deadline_in(timeout_ms));
    if (r == 0)
        r = call_once(&request, &reply, deadline_in(timeout_ms));
    if (r == 0)
        r = check_attach_reply(reply, ret);
    u32_store_relaxed(&up, r == 0);
    npending = 0;
    if (r < 0)
        channel_close(&ch);
    connection_unlock();
    return r;
}

void connection_close(void)
{
    channel_close(&ch);
    session = (session_no){ 0 };
    stale = false;
    u32_store_relaxed(&up, 0);
    npending = 0;
    u64_store_relaxed(&nrpcs, 0);
}

void connection_detach(void)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Detach body = GOALLOCD__DETACH__INIT;

    Goallocd__Reply *reply;

    request.op_case = GOALLOCD__REQUEST__OP_DETACH;
    request.detach = &body;
    connection_lock();
    if (ch.fd >= 0) /* a daemon that is gone has nothing to be told: it sees by itself that the heap is unmapped here */
        (void)call_once(&request, &reply, deadline_in(timeout_ms));
    connection_close();
    connection_unlock();
}

int connection_refill(span_class spc, uint32_t npages, uint32_t nspans, bool insist, uint32_t *ret_spans)
{
    deadline until;
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
    r = begin(&until);
    if (r < 0)
        return r;
    r = call(&request, &reply, until);
    if (r == 0) {
        bool valid = reply->result_case == GOALLOCD__REPLY__RESULT_REFILL && reply->refill->n_spans > 0 &&
                     reply->refill->n_spans <= nspans;

        r = valid ? (int)reply->refill->n_spans : -EPROTO;
        if (valid)
            memcpy(ret_spans, reply->refill->spans, sizeof(*ret_spans) * reply->refill->n_spans);
        if (valid)
            mark_held(ret_spans, reply->refill->n_spans, &mspan_held);
    }
    connection_unlock();
    return r;
}

int connection_return(const uint32_t *spans, uint32_t nspans, bool wait)
{
    deadline until;
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__ReturnSpans body = GOALLOCD__RETURN_SPANS__INIT;
    Goallocd__Reply *reply;
    int r = 0;

    if (!wait && keep_pending(spans, nspans))
        return 0;
    if (!wait)
        connection_lock(); /* nothing to wait for but who is before us: it has to be told */
    else if ((r = begin(&until)) < 0)
        return r;
    mark_held(spans, nspans, NULL);
    CRASH_POINT(return_before_send);
    if (wait) {
        request.op_case = GOALLOCD__REQUEST__OP_RETURN_SPANS;
        request.return_spans = &body;
        if (ch.fd >= 0 && nspans > 0)
            r = send_return(spans, nspans, deadline_in(timeout_ms));
        r = call(&request, &reply, until); /* of nothing: answered when the spans before it have been taken */
    } else if (ch.fd >= 0) {
        r = send_return(spans, nspans, deadline_in(timeout_ms));
    }
    CRASH_POINT(return_after_send);
    connection_unlock();
    return r;
}

bool connection_is_up(void)
{
    return u32_load_relaxed(&up) != 0;
}

int connection_alloc_large(uint64_t npages, uint64_t align_pages, bool noscan, bool insist, page_no *ret)
{
    deadline until;
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
    r = begin(&until);
    if (r < 0)
        return r;
    r = call(&request, &reply, until);
    if (r == 0 && reply->result_case != GOALLOCD__REPLY__RESULT_ALLOC_LARGE)
        r = -EPROTO;
    if (r == 0) {
        *ret = page_at(reply->alloc_large->span);
        mark_held(&ret->n, 1, &mspan_held);
    }
    connection_unlock();
    return r;
}

int connection_resize_large(page_no span, uint64_t npages)
{
    deadline until;
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__ResizeLarge body = GOALLOCD__RESIZE_LARGE__INIT;
    Goallocd__Reply *reply;
    mspan *none = NULL;
    int r;

    body.span = span.n;
    body.npages = npages;
    request.op_case = GOALLOCD__REQUEST__OP_RESIZE_LARGE;
    request.resize_large = &body;
    r = begin(&until);
    if (r < 0)
        return r;
    /* The daemon may lease it to us, if nobody else does: then it is known here. */
    (void)atomic_compare_exchange_strong_explicit(&process.mspan_of[span.n], &none, &mspan_large, memory_order_acq_rel,
                                                  memory_order_relaxed);
    r = call(&request, &reply, until);
    connection_unlock();
    return r;
}

int connection_free_large(page_no span)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__FreeLarge body = GOALLOCD__FREE_LARGE__INIT;
    int r;

    body.span = span.n;
    request.op_case = GOALLOCD__REQUEST__OP_FREE_LARGE;
    request.free_large = &body;
    if (!connection_is_up())
        return 0; /* the daemon's sweep finds it */
    connection_lock();
    r = ch.fd < 0 ? 0 : send_request(&request, deadline_in(timeout_ms));
    connection_unlock();
    return r;
}

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
    deadline until;
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__RootGet body = GOALLOCD__ROOT_GET__INIT;
    Goallocd__Reply *reply;
    int r;

    body.name = name_data(name);
    request.op_case = GOALLOCD__REQUEST__OP_ROOT_GET;
    request.root_get = &body;
    r = begin(&until);
    if (r < 0)
        return r;
    r = call(&request, &reply, until);
    if (r == 0 && reply->result_case != GOALLOCD__REPLY__RESULT_ROOT_GET)
        r = -EPROTO;
    if (r == 0)
        *ret_offset = reply->root_get->offset;
    connection_unlock();
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

int connection_stats(goalloc_stats_t *ret)
{
    deadline until;
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Stats body = GOALLOCD__STATS__INIT;
    Goallocd__Reply *reply;
    int r;

    request.op_case = GOALLOCD__REQUEST__OP_STATS;
    request.stats = &body;
    r = begin(&until);
    if (r < 0)
        return r;
    r = call(&request, &reply, until);
    if (r == 0 && reply->result_case != GOALLOCD__REPLY__RESULT_STATS)
        r = -EPROTO;
    if (r == 0) {
        const Goallocd__StatsReply *stats = reply->stats;

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
    connection_unlock();
    return r;
}
