/*
 * Service: what handlers work on. Here is what concerns all clients at once.
 *
 * Called by the handlers, deaths, leasing and rounds. Calls peer, operation and session. A connection and a session are
 * two things: a client may have no session (goallocctl), and a session may outlive its connection (the process has
 * closed the socket and lives). Who has a session is found by its number (clients), not among all connections.
 */
#include "daemon/serve/service.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "shm/probe.h"

#define TURNS_SLICE  64u /* requests that are handled again in one turn of the loop */
#define ASK_SLICE    64u /* sessions that are asked in one */
#define ASK_PAUSE_NS UINT64_C(10000000)

void service_wake(service *srv)
{
    if (!srv->stopping)
        (void)uv_idle_start(&srv->idle, srv->on_idle); /* if it runs already, nothing happens */
}

/* --- those who wait --- */

queue_facts service_facts(const service *srv)
{
    const mheap *heap = srv->heap;
    uint64_t aside = mheap_aside_pages(heap);
    uint64_t stays = heap->naside_pages[ASIDE_GROWTH] + heap->naside_pages[ASIDE_MAPPING] +
                     heap->naside_pages[ASIDE_FENCED];

    if (helper_is_stuck(&srv->helper)) /* nobody knows how long */
        stays += mheap_releasing_pages(heap) + heap->naside_pages[ASIDE_UNUSED] + heap->naside_pages[ASIDE_EXCESS];
    return (queue_facts){ .memory = operation_pool_has(&srv->operations),
                          .pages_come = aside > stays,
                          .rests = uv_is_active((const uv_handle_t *)&srv->rest),
                          .free_pages = mheap_free_pages(heap) };
}

static void on_turns(uv_idle_t *idle);

/* One after the other; a slice of them, since each handles a request. */
void service_give_turns(service *srv)
{
    queue_facts facts = service_facts(srv);
    waiter *w = queue_next(&srv->queue, &facts);

    for (unsigned i = 0; i < TURNS_SLICE && w != NULL; i++) {
        operation_take_turn(operation_of(w));
        facts = service_facts(srv);
        w = queue_next(&srv->queue, &facts);
    }
    if (w == NULL)
        (void)uv_idle_stop(&srv->turns);
    else
        (void)uv_idle_start(&srv->turns, on_turns);
}

static void on_turns(uv_idle_t *idle)
{
    service_give_turns(idle->data);
}

static void on_queue(void *data)
{
    service *srv = data;

    if (!srv->stopping)
        (void)uv_idle_start(&srv->turns, on_turns);
}

void service_queue_start(service *srv)
{
    (void)uv_idle_init(&srv->loop, &srv->turns);
    (void)uv_timer_init(&srv->loop, &srv->rest);
    srv->turns.data = srv->rest.data = srv;
    srv->queue.wake = on_queue;
    srv->queue.data = srv;
}

answer service_wait(client *c, const Goallocd__Request *request, enum round round, void (*after)(operation *op))
{
    c->op.round = round;
    c->op.after_round = after;
    operation_begin(&c->op, &c->peer, request, OPERATION_WAITING);
    service_wake(client_service(c));
    return ANSWER_GIVEN;
}

answer service_find_session(const service *srv, const session_claim *claim, session **ret)
{
    session *s = claim->no < SHM_SESSIONS_MAX
                     ? session_find(&srv->sessions, (session_no){ (uint16_t)claim->no }, claim->epoch)
                     : NULL;

    if (claim->generation != srv->heap->map->header->generation)
        return (answer){ ESTALE, "the heap of that session is gone: this is another one" };
    if (s == NULL || s->state == SHM_SESSION_ENDING)
        return (answer){ ESTALE, "that session has ended" };
    if (!session_has_token(&srv->sessions, s, claim->token.data, claim->token.len))
        return (answer){ EACCES, "wrong token for that session" };
    if (s->barred)
        return (answer){ ESTALE, "that session was disconnected (goallocctl disconnect)" };
    *ret = s;
    return ANSWER_DONE;
}

void service_note_session(client *c, const session *s)
{
    c->session = s->lessee.no;
    c->epoch = s->lessee.epoch;
    client_service(c)->clients[c->session.n] = c;
}

void service_end_hold(service *srv)
{
    srv->holder = NULL;
    (void)uv_timer_stop(&srv->hold);
    service_wake(srv); /* sessions that are ending go on */
    queue_note_session(&srv->queue, 0); /* who waits for it waits as for the commit of a session that there is not */
}

void service_forget_client(const client *c)
{
    service *srv = client_service(c);

    if (srv->clients[c->session.n] == c)
        srv->clients[c->session.n] = NULL;
    if (srv->holder == c)
        service_end_hold(srv);
}

void service_drop_client(service *srv, const session *s)
{
    client *c = srv->clients[s->lessee.no.n];

    if (c != NULL && c->epoch == s->lessee.epoch)
        peer_close(&c->peer);
}

bool service_may_control(const peer *p)
{
    const service *srv = p->host->data;

    return p->uid == 0 || p->uid == geteuid() || (access_of(srv->access, peer_fd(p)) & ACCESS_CONTROL) != 0;
}

void service_disconnect(service *srv, session *s)
{
    const subscriber *events = srv->events.of_session[s->lessee.no.n];

    s->barred = true;
    if (events != NULL && events->epoch == s->lessee.epoch)
        peer_close(events->peer);
    service_drop_client(srv, s);
}

answer service_refuse(client *c, enum limit which, uint64_t used, uint64_t maximum)
{
    service *srv = client_service(c);
    const log_subject subject = client_subject(c);

    users_refused(&srv->users, c->peer.user, which, &subject, (users_use){ used, maximum }, uv_now(&srv->loop));
    return (answer){ limit_row_of(which)->error, limit_row_of(which)->message };
}

answer service_reply_with_fds(client *c, const Goallocd__Reply *reply, const int *fds, int nfds)
{
    switch (peer_reply_with_fds(&c->peer, reply, fds, nfds)) {
    case 0:
        return ANSWER_GIVEN;
    case -EBUSY:
        return (answer){ EBUSY, "this connection has not received the descriptors of an earlier reply" };
    case -EDQUOT:
        return service_refuse(c, LIMIT_UID_UNREAD, 0, 0);
    default:
        return (answer){ EUSERS, "the daemon's user has too many descriptors on their way in sockets" };
    }
}

const int service_memory_errors[MEMORY_ERRORS] = { [MEMORY_ENOSPC] = ENOSPC,
                                                   [MEMORY_EDQUOT] = EDQUOT,
                                                   [MEMORY_ENOMEM] = ENOMEM,
                                                   [MEMORY_EAGAIN] = EAGAIN };

void service_count_refusal(service *srv, int error)
{
    for (size_t i = 0; i < MEMORY_ERRORS; i++)
        srv->nrefusals[i] += error == service_memory_errors[i];
}

/* --- giving back what is idle --- */

void service_ask_session(service *srv, session_no no)
{
    Goallocd__TrimNotice body = GOALLOCD__TRIM_NOTICE__INIT;
    shm_u32 *seq = &srv->heap->map->sessions[no.n].trim_seq;
    client *c = srv->clients[no.n];

    if (session_at(&srv->sessions, no.n) == NULL)
        return;
    u32_store_release(seq, u32_load_relaxed(seq) + 1);
    PROBE(goallocd, trim_ask, no.n, u32_load_relaxed(seq));
    if (c != NULL && client_session(c) != NULL && !c->notified) {
        c->notified = true;
        (void)reply_body(&c->peer, 0, GOALLOCD__REPLY__RESULT_TRIM_NOTICE, &body);
    }
}

bool service_ask_some(service *srv)
{
    uint32_t end = service_nentries(srv);

    for (unsigned n = 0; n < ASK_SLICE && srv->ask_at != 0; n++) {
        if (srv->ask_at < end)
            service_ask_session(srv, (session_no){ (uint16_t)srv->ask_at });
        srv->ask_at = srv->ask_at + 1 < end ? srv->ask_at + 1 : 0;
    }
    return srv->ask_at == 0;
}

void service_ask_trim(service *srv, bool forced)
{
    uint64_t now = uv_hrtime();

    if (!forced && now < srv->next_ask_ns)
        return;
    srv->next_ask_ns = now + ASK_PAUSE_NS;
    srv->ask_at = 1;
    if (!service_ask_some(srv))
        service_wake(srv);
}
