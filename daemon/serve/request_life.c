/*
 * Requests about the life of the heap and its sessions: drop it, disconnect one, be told what happens.
 *
 * Called by requests.c, which has looked whether the client may. Calls events and session, and the server by the
 * function that the service has for it. None needs a session on its connection: goallocctl drops the heap and
 * disconnects sessions, and a subscription has a connection of its own, so that notices never get between a request and
 * its reply. Whose it is says the token of a session.
 */
#include "daemon/serve/request_life.h"

#include <errno.h>

/* The server marks the heap at once, so the reply is true even if the daemon is killed next, and ends a turn later. */
answer handle_drop(client *c, const Goallocd__Request *request)
{
    const log_subject subject = peer_subject(&c->peer);
    service *srv = client_service(c);

    if (srv->ending)
        return (answer){ EALREADY, "this goallocd is stopping already, and saves the heap" };
    if (request->drop->save)
        log_client_event(LOG_EVENT_STOPPING, &subject, "asks for a stop");
    else
        log_event(LOG_EVENT_HEAP_DROPPED, &subject, "drops the heap");
    srv->on_drop(srv->on_drop_data, request->drop->save);
    return ANSWER_DONE;
}

/*
 * Its process goes on with the spans that it holds, gets nothing more, and finds out when it next asks (ESTALE). Its
 * leases end when it detaches or dies: only the process knows what it is about to write. The next daemon lets it in.
 */
answer handle_disconnect(client *c, const Goallocd__Request *request)
{
    service *srv = client_service(c);
    uint32_t no = request->disconnect->session;
    log_subject subject;
    session *s = session_named(&srv->sessions, no, request->disconnect->epoch);

    if (s == NULL)
        return (answer){ ENOENT, "there is no session of that number" };
    subject = session_subject(s);
    log_event(LOG_EVENT_SESSION_DISCONNECTED, &subject, "disconnected by pid %u, uid %u", c->peer.pid, c->peer.uid);
    service_disconnect(srv, s);
    return ANSWER_DONE;
}

answer handle_subscribe(client *c, const Goallocd__Request *request)
{
    const Goallocd__Subscribe *ask = request->subscribe;
    service *srv = client_service(c);
    session *s;
    answer a = service_find_session(srv, &(session_claim){ ask->session, ask->epoch, ask->generation, ask->token }, &s);

    if (a.error != 0)
        return a;
    if (c->session.n != 0 || c->subscriber.peer != NULL)
        return (answer){ EALREADY, "this connection is attached, or subscribed, already" };
    if (c->peer.late) {
        reply_answer(&c->peer, request->id, (answer){ EUSERS, "the daemon has no descriptors left for events" });
        peer_close(&c->peer);
        return ANSWER_GIVEN;
    }
    events_subscribe(&srv->events, &c->subscriber, &c->peer, s, service_may_control(&c->peer));
    return ANSWER_DONE;
}
