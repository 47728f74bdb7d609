/*
 * Requests of goallocctl save: what it maps, and an instant in which nobody writes the heap.
 *
 * Called by requests.c. Calls saving.c, which knows who can write. Data: service.holder, the client that copies, and the
 * timer of the hold.
 *
 *   LOOK   the read-only descriptors of arena, spans and bitmap
 *   HOLD   from the answer on nobody writes the heap: no session that could is there, or all are stopped by who asks
 *          (paused). Requests of all others wait, but for a ping; no session ends
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

bool request_save_defers(const client *c, const Goallocd__Request *request)
{
    const client *holder = client_service(c)->holder;

    return holder != NULL && holder != c && request->op_case != GOALLOCD__REQUEST__OP_PING;
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
    return service_reply_with_fds(c, &reply, fds, SAVE_NFDS);
}

/* Sessions whose processes are stopped may be there, but none that is ending, and no reclaim: these free objects. */
static bool is_ending(const service *srv)
{
    const group_table *groups = srv->heap->groups;

    if (srv->sessions.nending > 0 || saving_reclaims(srv))
        return true;
    for (uint32_t i = 0; i < SHM_GROUPS_MAX && groups->ngroups > 0; i++) {
        if (groups->groups[i] != NULL && groups->groups[i]->state == SHM_GROUP_ENDING)
            return true;
    }
    return false;
}

static answer begin_hold(client *c, bool paused)
{
    static char why[SAVING_NAMES_BYTES + 64]; /* until the answer is packed */
    service *srv = client_service(c);
    char names[SAVING_NAMES_BYTES];

    if (srv->ending)
        return (answer){ ESHUTDOWN, "this goallocd is stopping" };
    if (srv->holder != NULL)
        return (answer){ EALREADY, "another one is copying the heap at this moment" };
    if (is_ending(srv))
        return (answer){ EBUSY, "a session or a group is ending, or a reclaim is under way" };
    if (!paused && saving_writers(srv, names, sizeof(names))) {
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
        return begin_hold(c, request->save->paused);
    case GOALLOCD__SAVE__STEP__END:
        if (srv->holder != c)
            return (answer){ ETIMEDOUT, "it took too long to copy the heap: others were let in meanwhile" };
        service_end_hold(srv);
        return ANSWER_DONE;
    default:
        return (answer){ EINVAL, "an unknown step" };
    }
}
