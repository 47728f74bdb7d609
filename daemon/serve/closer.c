/*
 * Closer: where the kernel lets clients send descriptors to the daemon (before Linux 6.16), what they sent is closed
 * here, and not in the loop.
 *
 * Called by door and peer before they close a socket. Calls nobody. Data: a queue of descriptors under a lock.
 *
 * A descriptor in a message that nobody has received is closed with the socket, by the thread that closes that; and to
 * close a file can take as long as its owner likes: a TCP socket that lingers waits for its peer, a file of a FUSE for
 * its server. So the socket is shut for input first: from then on nothing can come any more, and an empty queue stays
 * empty. If there is something in it, there is a duplicate, which a thread closes after the loop has closed the socket:
 * so the loop's close is not the last one.
 *
 * A close that takes longer than KICK_NS is interrupted by a signal, which ends the lingering of a TCP socket. One that
 * takes GIVE_UP_NS is given up: its user gets no connection any more, the log says so, and the next one is closed by
 * another thread. When all CLOSER_THREADS are stuck, or the queue is full, sockets are left open: of users who are
 * refused, and bounded by the connections that there may be.
 *
 * The daemon ends: what is left goes with the process, for which TCP sockets don't linger. A close that hangs in the
 * kernel keeps the process; only a newer kernel helps.
 */
#include "daemon/serve/closer.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/log.h"

#define LOOK_MS    50u
#define KICK_NS    UINT64_C(100000000)
#define GIVE_UP_NS UINT64_C(2000000000)

static void on_kick(int signum)
{
    (void)signum;
}

static void thread_main(void *arg)
{
    closer_thread *t = arg;
    closer *c = t->closer;
    sigset_t kick;

    (void)sigemptyset(&kick);
    (void)sigaddset(&kick, SIGURG);
    (void)pthread_sigmask(SIG_UNBLOCK, &kick, NULL);
    uv_mutex_lock(&c->lock);
    for (;;) {
        int fd;

        while (c->n == 0)
            uv_cond_wait(&c->wanted, &c->lock);
        fd = t->fd = c->queue[c->from].fd;
        t->uid = c->queue[c->from].uid;
        c->from = (c->from + 1) % CLOSER_QUEUE;
        c->n--;
        t->since_ns = uv_hrtime();
        uv_mutex_unlock(&c->lock);
        (void)close(fd);
        uv_mutex_lock(&c->lock);
        t->fd = -1;
        t->stuck = false;
    }
}

/* There is a thread that is not stuck, and may take what is in the queue. */
static void need_thread(closer *c)
{
    for (closer_thread *t = c->threads; t < c->threads + CLOSER_THREADS; t++) {
        if (t->begun && !t->stuck)
            return;
        if (t->begun)
            continue;
        t->closer = c;
        t->fd = -1;
        t->begun = uv_thread_create(&t->thread, thread_main, t) == 0;
        return;
    }
}

/* Look at those who close something. True: there is more to look at. */
static bool look_at_threads(closer *c)
{
    uint64_t now_ns = uv_hrtime();
    bool more = c->n > 0;

    for (closer_thread *t = c->threads; t < c->threads + CLOSER_THREADS; t++) {
        user *who;

        if (!t->begun || t->fd < 0)
            continue;
        more = more || !t->stuck;
        if (now_ns - t->since_ns > KICK_NS && !t->stuck)
            (void)pthread_kill(t->thread, SIGURG);
        if (now_ns - t->since_ns <= GIVE_UP_NS || t->stuck)
            continue;
        t->stuck = true;
        c->nstuck++;
        who = users_find(c->users, t->uid);
        if (who != NULL && !who->privileged)
            who->refuses = true;
        log_event(LOG_EVENT_CLIENT_REFUSED, &(log_subject){ .has_uid = true, .uid = t->uid },
                  "a descriptor that it has sent can't be closed: its connections are refused; %u hang so far",
                  c->nstuck);
    }
    return more;
}

static void on_look(uv_timer_t *timer)
{
    closer *c = timer->data;
    bool more;

    uv_mutex_lock(&c->lock);
    more = look_at_threads(c);
    if (c->n > 0)
        need_thread(c);
    uv_mutex_unlock(&c->lock);
    if (!more)
        (void)uv_timer_stop(timer);
}

int closer_keep(int fd)
{
    int nbytes = 0;
    int copy;

    (void)shutdown(fd, SHUT_RD);
    if (ioctl(fd, FIONREAD, &nbytes) == 0 && nbytes == 0)
        return -1;
    copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0)
        log_error("a socket in which descriptors may be is closed here: %s", strerror(errno));
    return copy;
}

void closer_take(closer *c, int copy, const user *who)
{
    if (copy < 0)
        return;
    uv_mutex_lock(&c->lock);
    if (c->n < CLOSER_QUEUE) {
        unsigned at = (c->from + c->n++) % CLOSER_QUEUE;

        c->queue[at].fd = copy;
        c->queue[at].uid = who == NULL ? UINT32_MAX : who->uid;
        need_thread(c);
        uv_cond_signal(&c->wanted);
    }
    uv_mutex_unlock(&c->lock);
    if (!uv_is_active((const uv_handle_t *)&c->look) && !uv_is_closing((const uv_handle_t *)&c->look))
        (void)uv_timer_start(&c->look, on_look, LOOK_MS, LOOK_MS);
}

void closer_start(closer *c, uv_loop_t *loop, users *accounts)
{
    struct sigaction action = { .sa_handler = on_kick }; /* no SA_RESTART: it is there to interrupt */

    c->users = accounts;
    (void)sigaction(SIGURG, &action, NULL);
    (void)uv_mutex_init(&c->lock);
    (void)uv_cond_init(&c->wanted);
    (void)uv_timer_init(loop, &c->look);
    c->look.data = c;
}
