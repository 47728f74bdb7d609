/*
 * Events: tells subscribers what has happened, without ever waiting for one.
 *
 * Called by who makes something happen (requests, rounds, leasing), by request_life.c (a connection subscribes) and by
 * server.c (a connection closes, or has room again). Calls peer. Data: private; what has happened last lies in a ring
 * that all subscribers share, and each of them has the number of the event that it gets next.
 *
 *   event n --> kept[n % EVENTS_KEPT]
 *                 ^ at of a subscriber that is behind         ^ nevents
 *                 '-- one message at a time, while its socket takes it
 *
 * 1. Something happens: the event goes into the ring, over the oldest one. Nobody is told yet, so it costs the request
 *    that has caused it the same whether there are no subscribers or thousands.
 * 2. The loop's idle handle goes round the subscribers, and sends each that is behind its next event: at most
 *    SLICE_SENDS messages, and SLICE_LOOKS looks, between two turns of the loop, so that no client waits for that.
 * 3. A subscriber that does not read fills its socket, whose buffer in the kernel is small (SEND_BYTES), then has one
 *    message queued in the daemon; from then on it is passed over until that is written. So what one that never reads
 *    costs is some KiB, and nothing for each event.
 * 4. A subscriber that the ring has overtaken gets LOST, and goes on with the oldest event that is kept. LOST does not
 *    say that one of those which are missing was for it.
 *
 * A stop that waits for sessions is no event of the ring: a word says so, and each subscriber is told once, before what
 * the ring has for it, also if the ring has overtaken it, and if it subscribes when the stop has begun.
 *
 * Who is told of a session's end: its user, its group, and who may control the daemon; of roots, memory and the stop,
 * all, since everybody can ask for these, or is asked to leave.
 *
 * The daemon dies: events that were not sent are gone. Whoever subscribes again knows that it may have missed some.
 */
#include "daemon/serve/events.h"

#include <string.h>
#include <sys/socket.h>

#include <utlist.h>

#include "daemon/serve/reply.h"

#define SLICE_SENDS 32u
#define SLICE_LOOKS 512u
#define SEND_BYTES  8192 /* the kernel doubles it: some twenty messages */
#define SHORT_MS    1000u

/* --- sending --- */

static bool may_see(const subscriber *s, const event *ev)
{
    return ev->kind != PROTO_EVENT_SESSION_END || s->controls || s->peer->uid == ev->uid ||
           (ev->group[0] != '\0' && s->group_uid == ev->group_uid && strcmp(s->group, ev->group) == 0);
}

static void send_event(peer *p, const event *ev)
{
    Goallocd__EventNotice body = GOALLOCD__EVENT_NOTICE__INIT;

    body.kind = ev->kind;
    body.session = ev->session;
    body.pid = ev->pid;
    body.cause = ev->cause;
    body.label = (char *)(uintptr_t)ev->label;
    body.group = (char *)(uintptr_t)ev->group;
    body.root = (ProtobufCBinaryData){ .len = ev->root_bytes, .data = (uint8_t *)(uintptr_t)ev->root };
    (void)reply_body(p, 0, GOALLOCD__REPLY__RESULT_EVENT, &body);
}

/* True if there may be something to send to s. */
static bool is_behind(const event_ring *e, const subscriber *s)
{
    return s->at < e->nevents || (e->stopping && !s->told);
}

/* Send s the next event that is for it. Each that is looked at counts. False: there is none, or no room for it. */
static bool send_next(const event_ring *e, subscriber *s, unsigned *nlooks)
{
    static const event stopping = { .kind = PROTO_EVENT_STOPPING };
    static const event lost = { .kind = PROTO_EVENT_LOST };

    (*nlooks)++;
    if (s->peer->queued_bytes > 0 || s->peer->closing)
        return false;
    if (e->stopping && !s->told) {
        s->told = true;
        send_event(s->peer, &stopping);
        return true;
    }
    if (e->nevents - s->at > EVENTS_KEPT) {
        s->at = e->nevents - EVENTS_KEPT;
        send_event(s->peer, &lost);
        return true;
    }
    for (; s->at < e->nevents; (*nlooks)++) {
        const event *ev = &e->kept[s->at++ % EVENTS_KEPT];

        if (may_see(s, ev)) {
            send_event(s->peer, ev);
            return true;
        }
    }
    return false;
}

static void on_idle(uv_idle_t *idle)
{
    event_ring *e = idle->data;
    unsigned nlooks = 0;
    unsigned nsent = 0;

    while (nlooks < SLICE_LOOKS && nsent < SLICE_SENDS) {
        subscriber *s = e->turn != NULL ? e->turn : e->subscribers;

        if (s == NULL || e->nidle >= e->nsubscribers) {
            (void)uv_idle_stop(idle);
            return;
        }
        e->turn = s->next; /* first: to send may close the connection */
        if (send_next(e, s, &nlooks)) {
            nsent++;
            e->nidle = 0;
        } else {
            e->nidle++;
        }
    }
}

static void wake(event_ring *e)
{
    e->nidle = 0;
    if (e->subscribers != NULL && !uv_is_closing((const uv_handle_t *)&e->idle))
        (void)uv_idle_start(&e->idle, on_idle);
}

void events_go_on(event_ring *e, const subscriber *s)
{
    if (s->peer != NULL && is_behind(e, s))
        wake(e);
}

/* --- subscribers --- */

void events_start(event_ring *e, uv_loop_t *loop)
{
    (void)uv_idle_init(loop, &e->idle);
    e->idle.data = e;
}

void events_subscribe(event_ring *e, subscriber *s, peer *p, const session *of, bool controls)
{
    subscriber *before = e->of_session[of->lessee.no.n];

    if (before != NULL)
        peer_close(before->peer);
    *s = (subscriber){ .peer = p, .session = of->lessee.no, .epoch = of->lessee.epoch, .controls = controls };
    s->at = e->nevents;
    s->group_uid = of->group_uid;
    memcpy(s->group, of->group_name, sizeof(s->group));
    (void)setsockopt(peer_fd(p), SOL_SOCKET, SO_SNDBUF, &(int){ SEND_BYTES }, sizeof(int));
    e->of_session[s->session.n] = s;
    DL_APPEND(e->subscribers, s);
    e->nsubscribers++;
    if (e->stopping)
        wake(e);
}

void events_unsubscribe(event_ring *e, subscriber *s)
{
    if (s->peer == NULL)
        return;
    if (e->turn == s)
        e->turn = s->next;
    e->of_session[s->session.n] = NULL;
    DL_DELETE(e->subscribers, s);
    e->nsubscribers--;
    e->nidle = 0; /* s may be one of those that were counted: the round begins anew, or it would end too soon */
    s->peer = NULL;
}

/* --- what has happened --- */

static void happen(event_ring *e, const event *ev)
{
    if (e->subscribers == NULL)
        return; /* who subscribes later begins with what comes then */
    e->kept[e->nevents++ % EVENTS_KEPT] = *ev;
    wake(e);
}

void events_session_end(event_ring *e, const session *s)
{
    subscriber *own = e->of_session[s->lessee.no.n];
    event ev = { .kind = PROTO_EVENT_SESSION_END, .session = s->lessee.no.n, .pid = s->pid, .uid = s->uid };

    if (own != NULL && own->epoch == s->lessee.epoch)
        peer_close(own->peer);
    ev.cause = (uint32_t)s->state;
    memcpy(ev.label, s->label, sizeof(ev.label));
    ev.group_uid = s->group_uid;
    memcpy(ev.group, s->group_name, sizeof(ev.group));
    happen(e, &ev);
}

void events_root(event_ring *e, enum proto_event kind, const uint8_t *name, size_t name_bytes)
{
    event ev = { .kind = kind };

    ev.root_bytes = (uint32_t)(name_bytes < sizeof(ev.root) ? name_bytes : sizeof(ev.root));
    memcpy(ev.root, name, ev.root_bytes);
    happen(e, &ev);
}

void events_stopping(event_ring *e)
{
    e->stopping = true;
    wake(e);
}

void events_memory_short(event_ring *e)
{
    uint64_t now_ms = uv_hrtime() / 1000000;

    if (now_ms < e->next_short_ms)
        return;
    e->next_short_ms = now_ms + SHORT_MS;
    happen(e, &(event){ .kind = PROTO_EVENT_MEMORY_SHORT });
}

const char *events_validate(const event_ring *e)
{
    unsigned n = 0;

    for (const subscriber *s = e->subscribers; s != NULL; s = s->next, n++) {
        if (s->peer == NULL || s->peer->closing || e->of_session[s->session.n] != s || s->at > e->nevents)
            return "a subscriber is not one, or is ahead of the events";
        if (s->peer->queued_bytes == 0 && is_behind(e, s) && !uv_is_active((const uv_handle_t *)&e->idle))
            return "a subscriber waits for an event that is there";
    }
    return n != e->nsubscribers ? "the subscribers are counted wrongly" : NULL;
}
