/*
 * Requests of goallocctl save: what it maps, and an instant in which nobody writes the heap.
 *
 * Called by requests.c. Calls saving.c, which knows who can write. Data: service.holder, the client that copies, and the
 * timer of the hold.
 *
 *   LOOK   the read-only descriptors of arena, spans and bitmap
 *   HOLD   from the answer on no session can write, because there is none, and none is opened: an Attach waits
 *   END    the hold is over, and did last until here; ETIMEDOUT: it did not, and what was copied is not of one instant
 *
 * The daemon itself goes on with what it does between requests; none of it changes a live object (imageplan.c). The
 * hold ends with the connection, and after HOLD_MS, so nobody waits longer for a saver that is stopped.
 */
#include "daemon/serve/request_save.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "daemon/serve/saving.h"

#define HOLD_MS   10000u
#define SAVE_NFDS 3

static void on_hold_over(uv_timer_t *timer)
{
    service_end_hold(timer->data);
}

bool request_save_holds(const service *srv, uint32_t session_flags)
{
    return srv->holder != NULL && (session_flags & SESSION_READONLY) == 0;
}

static answer look(client *c, const Goallocd__Request *request)
{
    const heapfile *file = client_service(c)->heap->file;
    const int fds[SAVE_NFDS] = { file->arena_ro_fd, file->spans_ro_fd, file->bitmap_ro_fd };
    Goallocd__SaveReply body = GOALLOCD__SAVE_REPLY__INIT;
    Goallocd__Reply reply = reply_init(request->id);

    body.arena_bytes = file->map.arena_bytes;
    body.spans_bytes = file->map.spans_bytes;
    body.bitmap_bytes = file->map.bitmap_bytes;
    reply.result_case = GOALLOCD__REPLY__RESULT_SAVE;
    reply.save = &body;
    peer_reply_with_fds(&c->peer, &reply, fds, SAVE_NFDS);
    return ANSWER_GIVEN;
}

static answer begin_hold(client *c)
{
    static char why[480]; /* until the answer is packed */
    service *srv = client_service(c);
    char names[320];

    if (srv->ending)
        return (answer){ ESHUTDOWN, "this goallocd is stopping" };
    if (srv->holder != NULL)
        return (answer){ EALREADY, "another one is copying the heap at this moment" };
    if (saving_writers(srv, names, sizeof(names))) {
        (void)snprintf(why, sizeof(why), "the heap is not saved while somebody can write it: %s", names);
        return (answer){ EBUSY, why };
    }
    if (!srv->hold_is_made) {
        (void)uv_timer_init(&srv->loop, &srv->hold);
        srv->hold.data = srv;
        srv->hold_is_made = true;
    }
    srv->holder = c;
    (void)uv_timer_start(&srv->hold, on_hold_over, HOLD_MS, 0);
    return ANSWER_DONE;
}

answer handle_save(client *c, const Goallocd__Request *request)
{
    service *srv = client_service(c);

    if (c->peer.uid != 0 && c->peer.uid != geteuid())
        return (answer){ EPERM, "only root and the daemon's user may save the heap" };
    switch (request->save->step) {
    case GOALLOCD__SAVE__STEP__LOOK:
        return look(c, request);
    case GOALLOCD__SAVE__STEP__HOLD:
        return begin_hold(c);
    case GOALLOCD__SAVE__STEP__END:
        if (srv->holder != c)
            return (answer){ ETIMEDOUT, "it took too long to copy the heap: others were let in meanwhile" };
        service_end_hold(srv);
        return ANSWER_DONE;
    default:
        return (answer){ EINVAL, "an unknown step" };
    }
}
