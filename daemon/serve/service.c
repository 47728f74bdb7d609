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

void service_wake(service *srv)
{
    if (!srv->stopping)
        (void)uv_idle_start(&srv->idle, srv->on_idle); /* if it runs already, nothing happens */
}

answer service_wait(client *c, const Goallocd__Request *request, enum round round, void (*after)(operation *op))
{
    c->op.round = round;
    c->op.after_round = after;
    operation_begin(&c->op, &c->peer, request, OPERATION_WAITING);
    service_wake(client_service(c));
    return ANSWER_GIVEN;
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

int service_validate(const service *srv, FILE *err)
{
    static uint32_t ncommitting[SHM_SESSIONS_MAX];

    if (mheap_validate(srv->heap, err) < 0 || session_table_validate(&srv->sessions, err) < 0 ||
        roots_validate(srv->roots, err) < 0)
        return -EUCLEAN;
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
    roots_dump(srv->roots, out);
    adopt_dump(srv->heap->adopted, out);
}
