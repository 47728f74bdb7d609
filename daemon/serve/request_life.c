/*
 * Requests about the heap's life: drop it, and be told what happens to it.
 *
 * Called by requests.c. Calls events and session, and the server by the function that the service has for it. Neither
 * needs a session on its connection: goallocctl drops the heap, and a subscription has a connection of its own, so that
 * notices never get between a request and its reply. Whose it is says the token of a session.
 */
#include "daemon/serve/request_life.h"

#include <errno.h>

/* The server marks the heap at once, so the reply is true even if the daemon is killed next, and ends a turn later. */
answer handle_drop(client *c, const Goallocd__Request *request)
{
    service *srv = client_service(c);

    (void)request;
    if (!service_may_control(&c->peer))
        return (answer){ EPERM, "only root and the daemon's user may drop the heap" };
    log_info("pid %u, uid %u, drops the heap", c->peer.pid, c->peer.uid);
    srv->on_drop(srv->on_drop_data);
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
