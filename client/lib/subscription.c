/*
 * subscription: a connection of its own, by which the daemon tells what happens.
 *
 * Called by life.c (open, next) and attach.c (a detach, a fork). Calls comeback for what identifies the session, and
 * channel. Data: private; who has the turn may touch it. Descriptors come and go under the forklock, so the child of a
 * fork knows them all.
 *
 * The program's descriptor is an epoll instance, because it has to stay the same while connections come and go:
 *
 *   epoll ---- socket   readable: events, or the end of the connection
 *        '---- timer    runs out when it is time to look for a daemon again; always registered
 *
 *        CLOSED -- open --> ASKED -- the daemon agrees --> SUBSCRIBED
 *                             ^                                |  the connection ends
 *                             '---- a daemon accepts ------- AWAY   (the timer runs)
 *        any -- the heap is dropped, or the daemon has not this session --> OVER   (nothing is readable)
 *
 * Nothing here waits but the first open: in state ASKED the reply is read when it comes. The connection's end alone
 * does not say that the heap is gone: that the header says, which is looked at when nothing is left to be read; or the
 * next daemon, by its reply. Each time that a connection has been lost events may have been, too: LOST.
 *
 * A program may close these descriptors, and use their numbers. The socket is known by device and inode (channel.c).
 * Epoll instances and timers have no inodes of their own; but only this library's instance has this timer registered by
 * this number, so a change of that registration to what it is succeeds with these two alone. What is not the library's
 * is left alone.
 */
#include "client/lib/subscription.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "client/lib/comeback.h"
#include "client/lib/forklock.h"
#include "proto/events.h"
#include "proto/wire.h"

#define LOOK_EVERY_MS   100
#define CONNECT_MS      2
#define SUBSCRIBE_ID    1
#define UNPACKED_BYTES  4096 /* of an event, or an answer */

_Static_assert(GOALLOC_EVENT_SESSION_END == PROTO_EVENT_SESSION_END && GOALLOC_EVENT_ROOT_SET == PROTO_EVENT_ROOT_SET &&
                   GOALLOC_EVENT_ROOT_REMOVED == PROTO_EVENT_ROOT_REMOVED &&
                   GOALLOC_EVENT_HEAP_GONE == PROTO_EVENT_HEAP_GONE &&
                   GOALLOC_EVENT_MEMORY_SHORT == PROTO_EVENT_MEMORY_SHORT && GOALLOC_EVENT_LOST == PROTO_EVENT_LOST &&
                   GOALLOC_EVENT_STOPPING == PROTO_EVENT_STOPPING,
               "public names of what the daemon tells");

enum state { CLOSED, ASKED, SUBSCRIBED, AWAY, OVER };

static turn sub_turn = TURN_INIT;
static enum state state;
static int epoll_fd = -1;
static int timer_fd = -1;
static channel ch = { .fd = -1 };
static comeback_ticket ticket; /* of the session that has subscribed */
static bool lost;              /* a connection was lost since the last event */
static bool has_rest;          /* frames are there that have been read: the timer has run out to say so */
static int refusal;            /* the error (negative) by which the daemon has refused; 0: it has not */

/* --- descriptors --- */

/* True if both descriptors are still the library's. */
static bool is_own(void)
{
    struct epoll_event ev = { .events = EPOLLIN };

    return epoll_fd >= 0 && epoll_ctl(epoll_fd, EPOLL_CTL_MOD, timer_fd, &ev) == 0;
}

/* Move a new descriptor to a high number, if one is free. */
static int moved_up(int fd)
{
    int high = fd < 0 ? -errno : fcntl(fd, F_DUPFD_CLOEXEC, link_lowest_fd());

    if (fd < 0 || high < 0)
        return fd < 0 ? high : fd;
    (void)close(fd);
    return high;
}

/* With the forklock. 0, -errno: there is none. */
static int make_descriptors(void)
{
    struct epoll_event ev = { .events = EPOLLIN };
    int r;

    epoll_fd = moved_up(epoll_create1(EPOLL_CLOEXEC));
    timer_fd = moved_up(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
    r = epoll_fd < 0 ? epoll_fd : timer_fd;
    if (r >= 0)
        r = epoll_ctl(epoll_fd, EPOLL_CTL_ADD, timer_fd, &ev) < 0 ? -errno : 0;
    if (r == 0)
        return 0;
    if (epoll_fd >= 0)
        (void)close(epoll_fd);
    if (timer_fd >= 0)
        (void)close(timer_fd);
    epoll_fd = timer_fd = -1;
    return r;
}

/* With the forklock, or in a child. */
static void close_descriptors(void)
{
    channel_close(&ch);
    if (is_own()) {
        (void)close(epoll_fd);
        (void)close(timer_fd);
    }
    epoll_fd = timer_fd = -1;
    state = CLOSED;
}

/* When it is readable: at once (1 ns), later, or never (0). */
static void set_timer(long ns)
{
    struct itimerspec at = { .it_value.tv_nsec = ns };

    (void)timerfd_settime(timer_fd, 0, &at, NULL);
    has_rest = false;
}

/*
 * What has been read of the socket does not make it readable any more: if there are whole frames of it the timer does,
 * so that who takes one event at a time finds the next one.
 */
static void note_rest(void)
{
    const uint8_t *payload;
    size_t len;
    bool rest = state == SUBSCRIBED && channel_take_frame(&ch, &payload, &len) != -EAGAIN;

    if (state == SUBSCRIBED && rest != has_rest) {
        set_timer(rest ? 1 : 0);
        has_rest = rest;
    }
}

/* --- connecting --- */

static void leave(enum state next)
{
    forklock_take();
    channel_close(&ch); /* the epoll instance forgets it */
    forklock_give();
    state = next;
    set_timer(next == AWAY ? LOOK_EVERY_MS * 1000000L : 0);
}

/* Connect, and ask for events; nothing waits. 0: ASKED, else AWAY and -errno. */
static int ask(void)
{
    Goallocd__Subscribe body = GOALLOCD__SUBSCRIBE__INIT;
    Goallocd__Request request = WIRE_REQUEST(SUBSCRIBE, subscribe, &body);
    struct epoll_event ev = { .events = EPOLLIN | EPOLLRDHUP };
    uint8_t out[256];
    int r;

    body.session = ticket.session.n;
    body.epoch = ticket.epoch;
    body.generation = ticket.generation;
    body.token = (ProtobufCBinaryData){ .len = ticket.token_bytes, .data = ticket.token };
    request.id = SUBSCRIBE_ID;
    forklock_take();
    channel_close(&ch);
    r = channel_try_connect(&ch, ticket.socket_path, link_lowest_fd(), 0);
    if (r == 0 && (r = link_check_server(ch.fd, ticket.socket_path)) < 0)
        channel_close(&ch);
    forklock_give();
    if (r == 0)
        r = channel_try_send(&ch, out, wire_pack_request(&request, out, sizeof(out)));
    if (r == 0)
        r = epoll_ctl(epoll_fd, EPOLL_CTL_ADD, ch.fd, &ev) < 0 ? -errno : 0;
    if (r < 0) {
        leave(AWAY);
        return r;
    }
    state = ASKED;
    set_timer(0);
    return 0;
}

/* --- what comes in --- */

static void copy_text(char *to, size_t cap, const char *from)
{
    (void)strncpy(to, from, cap - 1); /* *to is zeroed */
}

static void fill(const Goallocd__EventNotice *notice, goalloc_event *ret)
{
    size_t root = notice->root.len < sizeof(ret->root) ? notice->root.len : sizeof(ret->root) - 1;

    ret->kind = notice->kind;
    ret->session = notice->session;
    ret->pid = (int32_t)notice->pid;
    ret->cause = notice->kind == PROTO_EVENT_SESSION_END
                     ? notice->cause == SHM_SESSION_DETACHED ? GOALLOC_CAUSE_DETACHED : GOALLOC_CAUSE_DIED
                     : 0;
    copy_text(ret->label, sizeof(ret->label), notice->label);
    copy_text(ret->group, sizeof(ret->group), notice->group);
    if (root > 0)
        memcpy(ret->root, notice->root.data, root);
}

/* The daemon has answered the request for events. */
static void take_answer(int error)
{
    if (error == 0) {
        state = SUBSCRIBED;
        return;
    }
    refusal = -error;
    if (error == ESTALE)
        process_note_stale();
    leave(error == ESTALE ? OVER : AWAY); /* else another daemon, or this one later, may do it */
}

/*
 * Take the frames that have been read, and read more, up to the first event or the answer to the request for events. 1:
 * *ret is filled; 0: no event; -errno: the connection is lost.
 */
static int read_event(goalloc_event *ret)
{
    static uint8_t memory[UNPACKED_BYTES];

    for (;;) {
        const Goallocd__Reply *reply;
        const uint8_t *payload;
        frame_bump bump;
        size_t len;
        int r = channel_take_frame(&ch, &payload, &len);

        if (r == -EAGAIN) {
            r = channel_read(&ch);
            channel_close_fds(&ch);
            if (r == 0)
                continue;
            return r == -EAGAIN ? 0 : r;
        }
        if (r < 0)
            return r;
        frame_bump_init(&bump, memory, sizeof(memory));
        reply = wire_unpack_reply(&bump, payload, len);
        channel_drop_frame(&ch);
        if (reply == NULL)
            return -EPROTO;
        if (state == ASKED && reply->id == SUBSCRIBE_ID) {
            take_answer(reply->error);
            return 0;
        } else if (reply->id == 0 && reply->result_case == GOALLOCD__REPLY__RESULT_EVENT) {
            fill(reply->event, ret);
            return 1;
        }
    }
}

/* --- the functions of subscription.h --- */

/* Ask, and wait for the answer. With the turn. Some errors mean that no daemon is there, or that it has gone. */
static int ask_and_wait(deadline until)
{
    goalloc_event none;
    int r = ask();

    refusal = 0;
    while (r == 0 && state == ASKED) {
        r = channel_wait(&ch, until);
        if (r == 0)
            r = read_event(&none); /* none comes before the answer */
    }
    return refusal != 0 ? refusal : r;
}

static bool is_worth_waiting(int r)
{
    return r == -EAGAIN || r == -ENOENT || r == -ECONNREFUSED || r == -ECONNRESET || r == -EPIPE;
}

/* The first time. With the turn. */
static int open_now(deadline until)
{
    int r;

    while (is_worth_waiting(r = ask_and_wait(until))) {
        if (deadline_left_ms(until) == 0)
            return -ETIMEDOUT;
        (void)poll(NULL, 0, CONNECT_MS); /* the daemon is just being replaced */
    }
    return r;
}

int subscription_open(deadline until)
{
    int r = turn_take(&sub_turn, until);

    if (r < 0)
        return r;
    if (state != CLOSED && is_own())
        goto out;
    forklock_take();
    close_descriptors();
    forklock_give();
    r = comeback_take_ticket(&ticket, until);
    if (r == 0) {
        forklock_take();
        r = make_descriptors();
        forklock_give();
    }
    if (r < 0)
        goto out;
    lost = false;
    r = open_now(until);
    note_rest();
    if (r < 0) {
        forklock_take();
        close_descriptors();
        forklock_give();
    }
out:
    r = r < 0 ? r : epoll_fd;
    turn_give(&sub_turn);
    return r;
}

static int heap_is_gone(goalloc_event *ret)
{
    ret->kind = GOALLOC_EVENT_HEAP_GONE;
    leave(OVER);
    return 1;
}

/* The connection is lost, or the daemon has refused: look for another one, at once or later. */
static int come_back(bool at_once)
{
    int r;

    lost = true;
    if (state != AWAY)
        leave(AWAY);
    r = at_once ? ask() : -ETIMEDOUT;
    return r == 0 || r == -EMFILE || r == -ENFILE ? r : -ETIMEDOUT;
}

/* With the turn, and the descriptors. */
static int next(goalloc_event *ret)
{
    enum state before = state;
    uint64_t nticks;
    int r = 0;

    if (state == OVER)
        return -ESTALE;
    if (state != AWAY)
        r = read_event(ret);
    if (r > 0)
        return r;
    if (state == OVER || u32_load_acquire(&process.map.header->dropped) != 0)
        return heap_is_gone(ret);
    if (r < 0) /* once at once; a daemon that hangs up before it answers is looked for as one that is not there */
        return come_back(before == SUBSCRIBED);
    if (state == AWAY)
        return come_back(before == AWAY && read(timer_fd, &nticks, sizeof(nticks)) > 0);
    if (state == SUBSCRIBED && lost) {
        lost = false;
        ret->kind = GOALLOC_EVENT_LOST;
        return 1;
    }
    return 0;
}

int subscription_next(goalloc_event *ret)
{
    int r = turn_take(&sub_turn, deadline_in((int)u32_load_relaxed(&process.timeout_ms)));

    if (r < 0)
        return r;
    if (state == CLOSED) {
        r = -EBADF;
    } else if (!is_own()) {
        forklock_take();
        close_descriptors();
        forklock_give();
        r = -EBADF;
    } else {
        r = next(ret);
        note_rest();
    }
    turn_give(&sub_turn);
    return r;
}

void subscription_close(void)
{
    if (turn_take(&sub_turn, deadline_in(0)) < 0)
        return; /* another thread uses it, against the rules of goalloc_detach() */
    forklock_take();
    close_descriptors();
    forklock_give();
    turn_give(&sub_turn);
}

void subscription_reset(void)
{
    close_descriptors();
    turn_reset(&sub_turn);
}
