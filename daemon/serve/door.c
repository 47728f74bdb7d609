/*
 * Door: who comes in, and who is shown out before anything is spent on him.
 *
 * Called by server.c. Calls users (how many connections a uid may have, and how fast), peer (which has a connection
 * from then on), closer. Data: the listening socket, private.
 *
 * A connection comes in: accept, the uid that the kernel says, its account, and what is counted there. Who is over a
 * limit is told by one frame that needs no memory, once a millisecond, and closed at once. Only then a peer is made.
 *
 * Turns: ACCEPTS_A_TURN connections come in between two turns of the loop, which is less than a millisecond; then those
 * who are there already are served. The kernel's queue holds the others meanwhile.
 *
 * The door is never shut by a failure. No memory for a peer: the connection has been accepted, and is closed. No
 * descriptor: the spare one is given up, and taken again after the connection that it was for is closed; if somebody
 * else got it meanwhile, the door waits for AGAIN_MS, as for anything else that the kernel lacks.
 *
 * Silence: who has asked nothing after SILENCE_MS, one whole request, is closed. All have the same time, so those that
 * are silent are a list in the order in which they came, and a look at it costs nothing for those that are not due. A
 * peer whose bytes wait in the socket has not been silent: this process has (it was stopped, or has other work).
 *
 * Descriptors of the process: the last RESERVE_FDS are a reserve. A peer that comes when only these are left (late)
 * gets no session, and can ask all that needs none: so a daemon with too many clients can still be looked at. A
 * session's pidfd is never one of the reserve either (deaths.c). At most LATE_MAX connections are late, the oldest
 * makes room for the next; half of the reserve is root's and the daemon's user's.
 */
#include "daemon/serve/door.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/log.h"

#define ACCEPTS_A_TURN 16u
#define SILENCE_MS     5000u
#define AGAIN_MS       10u
#define WARNING_MS     10000u
#define RESERVE_FDS    32
#define LATE_MAX       8u
#define OTHER_WATCHES  64u /* the loop's own, the keeper, the helper */

static void on_listener(uv_poll_t *poll, int status, int events);

/* --- who does not come in --- */

/* Close a connection that is no peer's. */
static void discard(door *d, int fd, const user *who)
{
    int copy = d->host->closer == NULL ? -1 : closer_keep(fd);

    (void)close(fd);
    if (copy >= 0)
        closer_take(d->host->closer, copy, who);
}

/* One frame, which takes no memory, if the socket takes it. */
static void tell(int fd, enum limit why)
{
    Goallocd__Reply reply = GOALLOCD__REPLY__INIT;
    char text[128];
    uint8_t out[192];
    size_t len;

    (void)snprintf(text, sizeof(text), "there are as many connections as there may be (%s)", limit_row_of(why)->name);
    reply.error = EUSERS;
    reply.message = text;
    len = wire_pack_reply(&reply, out, sizeof(out));
    if (send(fd, out, len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
        return; /* it has gone already */
}

/* Close the connection of who is over a limit; tell him, but once a millisecond is enough for a flood. */
static void refuse(door *d, int fd, user *who, const struct ucred *cred, enum limit why)
{
    const log_subject subject = { .pid = (uint32_t)cred->pid, .has_uid = true, .uid = who->uid };
    uint64_t now_ms = uv_now(d->host->loop);

    if (who->told_ms != now_ms)
        tell(fd, why);
    who->told_ms = now_ms;
    users_refused(d->host->users, who, why, &subject, (users_use){ 0, 0 }, now_ms);
    discard(d, fd, who);
}

static void warn_rarely(door *d, const char *what)
{
    uint64_t now_ms = uv_now(d->host->loop);

    if (now_ms < d->next_warning_ms)
        return;
    d->next_warning_ms = now_ms + WARNING_MS;
    log_event(LOG_EVENT_CLIENT_REFUSED, NULL, "connections are closed at once: %s", what);
}

/* --- who does --- */

/* A peer of the reserve; if there are many that control nothing, the oldest makes room. */
static void note_late(door *d, peer *p)
{
    const log_subject subject = peer_subject(p);
    peer_host *host = d->host;

    peer_be_late(p);
    if (host->nlate == 1)
        log_client_event(LOG_EVENT_CLIENT_REFUSED, &subject, "few descriptors are left: no more sessions");
    if (host->nlate <= LATE_MAX)
        return;
    for (peer *old = host->late; old != NULL; old = old->late_next) {
        if (!old->user->privileged || p->user->privileged) {
            peer_close(old);
            return;
        }
    }
    peer_close(p);
}

static void on_silence(uv_timer_t *timer)
{
    door *d = timer->data;
    peer_host *host = d->host;
    uint64_t now_ms = uv_now(host->loop);

    while (host->silent != NULL && now_ms - host->silent->came_ms >= SILENCE_MS) {
        peer *p = host->silent;
        const log_subject subject = peer_subject(p);
        int nbytes = 0;

        if (p->ready || (ioctl(peer_fd(p), FIONREAD, &nbytes) == 0 && nbytes > 0)) {
            peer_still_silent(p);
        } else {
            log_client_debug(&subject, "disconnected: it asks nothing");
            peer_close(p);
        }
    }
    if (host->silent != NULL)
        (void)uv_timer_start(timer, on_silence, host->silent->came_ms + SILENCE_MS - now_ms, 0);
}

void door_let_in(door *d, int fd)
{
    peer_host *host = d->host;
    struct ucred cred = { 0 };
    socklen_t len = sizeof(cred);
    enum limit why = LIMIT_UID_CONNECTS;
    user *who = NULL;
    peer *p;

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0)
        who = users_find(host->users, cred.uid);
    if (who == NULL || who->refuses) {
        warn_rarely(d, who == NULL ? "there is no memory for an account" : "descriptors of their user can't be closed");
        discard(d, fd, who);
        return;
    }
    if (!users_takes_connect(host->users, who, uv_hrtime()) ||
        !users_count(host->users, who, LIMIT_UID_CONNECTIONS, 1, &why)) {
        refuse(d, fd, who, &cred, why);
        return;
    }
    p = peer_open(host, fd, who, &cred);
    if (p == NULL) {
        warn_rarely(d, "there is no memory for them");
        discard(d, fd, who);
        return;
    }
    if (!p->closing && fd >= host->late_fd)
        note_late(d, p);
    if (!uv_is_active((const uv_handle_t *)&d->silence))
        (void)uv_timer_start(&d->silence, on_silence, SILENCE_MS, 0);
}

/* --- the listening socket --- */

static void on_again(uv_timer_t *timer)
{
    door *d = timer->data;

    if (d->spare_fd < 0)
        d->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    (void)uv_poll_start(&d->listener, UV_READABLE, on_listener);
}

static void wait_a_while(door *d, int error)
{
    warn_rarely(d, strerror(error));
    (void)uv_poll_stop(&d->listener);
    (void)uv_timer_start(&d->again, on_again, AGAIN_MS, 0);
}

static int accept_one(const door *d)
{
    int fd = accept4(d->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    return fd < 0 ? -errno : fd;
}

/* There is no descriptor: close the connection that waits, with the help of the spare one. False: it is gone. */
static bool close_one(door *d)
{
    int fd;

    if (d->spare_fd < 0)
        return false;
    (void)close(d->spare_fd);
    fd = accept_one(d);
    if (fd >= 0)
        discard(d, fd, NULL);
    d->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    return d->spare_fd >= 0;
}

static void on_listener(uv_poll_t *poll, int status, int events)
{
    door *d = poll->data;

    (void)status;
    (void)events;
    for (unsigned i = 0; i < ACCEPTS_A_TURN; i++) {
        int fd = accept_one(d);

        if (fd >= 0) {
            door_let_in(d, fd);
        } else if (fd == -EAGAIN) {
            return;
        } else if (fd == -EMFILE || fd == -ENFILE) {
            warn_rarely(d, strerror(-fd));
            if (!close_one(d)) {
                wait_a_while(d, -fd);
                return;
            }
        } else if (fd != -EINTR && fd != -ECONNABORTED) {
            wait_a_while(d, -fd);
            return;
        }
    }
}

/*
 * A descriptor that can't be watched is libuv's end of the process, so there must not be more than the kernel allows
 * this user (fs.epoll.max_user_watches). What other processes of the same user watch is not known.
 */
static void fit_watches(const door *d)
{
    char text[32] = "";
    uint64_t n;
    int fd = open("/proc/sys/fs/epoll/max_user_watches", O_RDONLY | O_CLOEXEC);

    if (fd >= 0 && read(fd, text, sizeof(text) - 1) > 0) {
        n = strtoull(text, NULL, 10);
        users_fit_watches(d->host->users, n > OTHER_WATCHES ? n - OTHER_WATCHES : 0);
    }
    if (fd >= 0)
        (void)close(fd);
}

int door_open(door *d, peer_host *host, int listen_fd, bool refuses_fds)
{
    struct rlimit limit;
    int r;

    d->host = host;
    d->listen_fd = listen_fd;
    d->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    host->late_fd = INT_MAX;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur <= INT_MAX)
        host->late_fd = (int)limit.rlim_cur - RESERVE_FDS;
    if (host->late_fd > d->spare_fd)
        users_fit_descriptors(host->users, (uint64_t)(host->late_fd - d->spare_fd)); /* those below are in use */
    fit_watches(d);
    (void)uv_timer_init(host->loop, &d->silence);
    (void)uv_timer_init(host->loop, &d->again);
    d->silence.data = d->again.data = d->listener.data = d;
    if (!refuses_fds) {
        closer_start(&d->closer, host->loop, host->users);
        host->closer = &d->closer;
    }
    r = uv_poll_init(host->loop, &d->listener, listen_fd);
    return r < 0 ? r : uv_poll_start(&d->listener, UV_READABLE, on_listener);
}

void door_shut(door *d)
{
    uv_close((uv_handle_t *)&d->listener, NULL);
    (void)close(d->listen_fd);
    if (d->spare_fd >= 0)
        (void)close(d->spare_fd);
}
