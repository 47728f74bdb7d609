/*
 * Service: what handlers work on. Here is what concerns all clients at once.
 *
 * Called by the handlers, deaths, leasing and rounds. Calls peer, operation, session and the validators. A connection
 * and a session are two things: a client may have no session (goallocctl), and a session may outlive its connection
 * (the process has closed the socket and lives).
 */
#include "daemon/serve/service.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define TURNS_SLICE 64u /* requests that are handled again in one turn of the loop */

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

    return (queue_facts){ .memory = operation_pool_has(&srv->operations),
                          .pages_come = aside > heap->naside_pages[ASIDE_GROWTH],
                          .free_pages = heap->map->npages - 1 - heap->ninuse_pages - aside };
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
    srv->turns.data = srv;
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
    *ret = s;
    return ANSWER_DONE;
}

void service_drop_client(service *srv, const session *s)
{
    for (peer *p = srv->peers.peers, *next; p != NULL; p = next) {
        const client *c = client_of(p);

        next = p->next;
        if (c->session.n == s->lessee.no.n && c->epoch == s->lessee.epoch)
            peer_close(p);
    }
}

bool service_may_control(const peer *p)
{
    return p->uid == 0 || p->uid == geteuid();
}

answer service_refuse(client *c, enum limit which, uint64_t used, uint64_t maximum)
{
    service *srv = client_service(c);
    const session *s = client_any_session(c);
    user *who = users_find(&srv->users, c->peer.uid);

    if (who != NULL)
        users_refused(&srv->users, who, which,
                      &(users_subject){ .pid = c->peer.pid,
                                        .session = s == NULL ? 0 : s->lessee.no.n,
                                        .label = s == NULL ? "" : s->label,
                                        .used = used,
                                        .maximum = maximum },
                      uv_now(&srv->loop));
    return (answer){ limit_row_of(which)->error, limit_row_of(which)->message };
}

void service_ask_trim(service *srv)
{
    Goallocd__TrimNotice body = GOALLOCD__TRIM_NOTICE__INIT;

    for (uint32_t i = 1, end = service_nentries(srv); i < end; i++) {
        if (session_at(&srv->sessions, i) != NULL) {
            shm_u32 *seq = &srv->heap->map->sessions[i].trim_seq;

            u32_store_release(seq, u32_load_relaxed(seq) + 1);
        }
    }
    for (peer *p = srv->peers.peers, *next; p != NULL; p = next) {
        client *c = client_of(p);

        next = p->next;
        if (client_session(c) != NULL && !c->notified) {
            c->notified = true;
            (void)reply_body(p, 0, GOALLOCD__REPLY__RESULT_TRIM_NOTICE, &body);
        }
    }
}

/* Those who wait, and that nobody is forgotten who could go on. */
static int validate_queue(const service *srv, FILE *err)
{
    queue_facts facts = service_facts(srv);
    const char *what = queue_validate(&srv->queue);
    size_t ndeferred = 0;

    for (const peer *p = srv->peers.peers; p != NULL; p = p->next)
        ndeferred += p->op != NULL && p->op->state == OPERATION_DEFERRED;
    if (what == NULL && ndeferred != srv->queue.nwaiting)
        what = "is deferred and does not wait, or waits and is not deferred";
    if (what == NULL && queue_next(&srv->queue, &facts) != NULL && !uv_is_active((const uv_handle_t *)&srv->turns))
        what = "waits though it could go on";
    if (what != NULL)
        (void)fprintf(err, "queue: a request %s\n", what);
    return what != NULL ? -EUCLEAN : 0;
}

int service_validate(const service *srv, FILE *err)
{
    static uint32_t ncommitting[SHM_SESSIONS_MAX];
    const char *what_events;
    const char *what_users;

    if (mheap_validate(srv->heap, err) < 0 || session_table_validate(&srv->sessions, err) < 0 ||
        roots_validate(srv->roots, err) < 0 || making_validate(&srv->making, err) < 0)
        return -EUCLEAN;
    if (validate_queue(srv, err) < 0)
        return -EUCLEAN;
    what_users = users_validate(&srv->users);
    if (what_users != NULL) {
        (void)fprintf(err, "users: %s\n", what_users);
        return -EUCLEAN;
    }
    what_events = events_validate(&srv->events);
    if (what_events != NULL) {
        (void)fprintf(err, "events: %s\n", what_events);
        return -EUCLEAN;
    }
    memset(ncommitting, 0, sizeof(ncommitting));
    for (peer *p = srv->peers.peers; p != NULL; p = p->next) {
        const client *c = client_of(p);
        const char *what = operation_validate(&c->op, p);

        if (what != NULL) {
            (void)fprintf(err, "operation: that of pid %u %s\n", p->pid, what);
            return -EUCLEAN;
        }
        if (c->op.state == OPERATION_COMMITTING && client_any_session(c) != NULL)
            ncommitting[c->session.n]++;
    }
    for (uint32_t i = 1, end = service_nentries(srv); i < end; i++) {
        const session *s = session_at(&srv->sessions, i);

        if (s != NULL && s->lessee.nops != ncommitting[i]) {
            (void)fprintf(err, "operation: %u commit memory for session %u, which counts %u\n", ncommitting[i], i,
                          s->lessee.nops);
            return -EUCLEAN;
        }
    }
    return 0;
}

void service_dump(const service *srv, FILE *out)
{
    for (peer *p = srv->peers.peers; p != NULL; p = p->next) {
        const client *c = client_of(p);

        if (p->op != NULL || c->op.state != OPERATION_NONE)
            (void)fprintf(out, "operation of pid %u, session %u: kind %d, state %d, %u spans\n", p->pid, c->session.n,
                          (int)c->op.kind, (int)c->op.state, c->op.nspans);
    }
    session_table_dump(&srv->sessions, out);
    group_table_dump(srv->heap->groups, out);
    roots_dump(srv->roots, out);
    making_dump(&srv->making, out);
    adopt_dump(srv->heap->adopted, out);
}
