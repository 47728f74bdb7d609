/*
 * Shelf: a queue of descriptors that no process has to be awake for.
 *
 * Called by heapfile (make, read), lifesign (take), session and heap/group (put, remove), and profilefile, whose region
 * is a sign of number 0 here. Data: the queue of a pair of sockets in the kernel, which the daemon alone writes and
 * reads; and private: where in the queue each sign is.
 *
 * The next daemon needs the descriptors of the signs of life (lifesign.c) that this one has made: nobody else has one
 * without a lock. To give each of them to systemd or to the keeper would be a message to another process for each
 * attach and each end. Instead both ends of one socketpair (AF_UNIX, SOCK_SEQPACKET) are handed on with the heap's
 * memfds, once. A message that is sent and not received stays in the queue as long as anybody has the ends, whatever
 * becomes of its sender, and holds the descriptors that are attached to it (SCM_RIGHTS). So to put a sign there is one
 * system call, and wakes nobody.
 *
 *   put, batches --> [n+4] [n+3: 200 signs] [n+2] [n+1] [n] --> taken out, never before what lives has been sent again
 *        tail                                         head
 *
 * A message is some pairs of number and epoch, with as many descriptors. The queue is the truth:
 *
 *   For each session or group that counts in spans, the last message with its number has its epoch and its sign.
 *
 *   attach     1. the sign is made    2. and put    3. the state in spans: OPEN
 *   end        1. the state in spans: FREE    2. shelf_remove(): in private memory alone
 *   takeover   the queue is read without a message being taken out (MSG_PEEK, at an offset that goes on by itself:
 *              SO_PEEK_OFF). Each look gives new descriptors of the same files. Later messages replace earlier ones
 *              of the same number, and what no session or group claims is closed.
 *
 * If the daemon dies between 1 and 3 of an attach, there is a sign without a session, which the next daemon closes. If
 * it dies while it takes over, nothing has changed.
 *
 * Signs of what has ended stay in the queue until their messages are taken out. A message without a living sign is,
 * when it has come to the head: a recv() without room for descriptors closes them. If one that lives is before it, and
 * there are more than SHELF_LOOSE_MAX messages besides the batches that are needed, the SHELF_BATCH oldest living signs
 * are sent once more, in one message (gather). Then the messages that they were in have none. If the daemon dies before
 * they are taken out, they are there twice: the same files, of which the last counts. So the queue has at most
 * SHELF_LOOSE_MAX and some messages, and 2 for each SHELF_BATCH living signs. One gathering, of 200 signs, comes with
 * one put: there is no long pause, and a put costs a constant, on average a few descriptors that are sent again.
 *
 * Nobody but the daemon, the keeper and systemd ever has the ends. No client can fill the queue: what is in it is
 * bounded by sessions, groups, and the above. When the kernel refuses a message, the sign is not there, and the
 * session is refused. Nothing blocks. What the next daemon reads it checks all the same (lifesign_find).
 *
 * The kernel counts descriptors in queues by user, and lets none of its processes send any while there are more than
 * the sender's RLIMIT_NOFILE (ETOOMANYREFS; the superuser may). The daemon's limit is the system's highest, and it
 * takes more descriptors itself than it puts there. But while a heap has more than 1024 sessions and groups, other
 * processes of the daemon's user that have the usual limit can't send descriptors. A user of the daemon's own is best.
 *
 * The ends are told apart by SO_PEEK_OFF: -1 is the one where messages go in.
 */
#include "daemon/memory/shelf.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "shm/crash.h"
#include "shm/limits.h"

#define BUFFER_BYTES (1 << 20) /* of the queue; the kernel may allow less: half of its usual bound is enough */
#define POPS_EACH    8u        /* messages that one put or remove takes out at most */
#define POPS_FULL    64u       /* and if the queue is full */

typedef struct shelf_item {
    uint32_t number;
    uint32_t epoch;
} shelf_item;

/* Where the sign of a number is. fd -1: there is none. */
typedef struct place {
    int fd;
    uint32_t epoch;
    uint32_t at; /* the message, counted from the first one ever */
    bool owned;  /* read, and not taken yet: the shelf closes it */
    bool left;   /* its number had another sign, which may still be in the queue */
} place;

struct shelf {
    int in_fd;
    int out_fd;
    uint32_t head; /* messages are numbered from head to tail - 1 */
    uint32_t tail;
    uint32_t nliving_all;
    uint16_t nliving[SHELF_MESSAGES_MAX]; /* signs that live, by message % SHELF_MESSAGES_MAX */
    place places[SHM_OWNERS_MAX];
};

_Static_assert(SHELF_BATCH <= 253, "the kernel lets a message have so many descriptors (SCM_MAX_FD)");
_Static_assert(2 * (SHM_OWNERS_MAX / SHELF_BATCH + 1) + 2 * SHELF_LOOSE_MAX < SHELF_MESSAGES_MAX,
               "all messages have a count");

int shelf_make(int ret_fds[SHELF_NFDS])
{
    static const int bytes = BUFFER_BYTES;
    int fds[2];
    int r;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0)
        return -errno;
    if (setsockopt(fds[0], SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes)) < 0)
        (void)setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
    if (setsockopt(fds[1], SOL_SOCKET, SO_PEEK_OFF, &(int){ 0 }, sizeof(int)) < 0) {
        r = -errno;
        (void)close(fds[0]);
        (void)close(fds[1]);
        return r;
    }
    ret_fds[SHELF_IN] = fds[0];
    ret_fds[SHELF_OUT] = fds[1];
    return 0;
}

static int option_of(int fd, int name)
{
    int value = 0;
    socklen_t len = sizeof(value);

    return getsockopt(fd, SOL_SOCKET, name, &value, &len) < 0 ? -errno : value;
}

int shelf_end_of(int fd)
{
    int offset = 0;
    socklen_t len = sizeof(offset);

    if (option_of(fd, SO_DOMAIN) != AF_UNIX || option_of(fd, SO_TYPE) != SOCK_SEQPACKET ||
        getsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &offset, &len) < 0)
        return -1;
    return offset < 0 ? SHELF_IN : SHELF_OUT;
}

shelf *shelf_new(const int fds[SHELF_NFDS])
{
    shelf *s = calloc(1, sizeof(*s));

    if (s == NULL)
        return NULL;
    s->in_fd = fds[SHELF_IN];
    s->out_fd = fds[SHELF_OUT];
    for (size_t i = 0; i < SHM_OWNERS_MAX; i++)
        s->places[i].fd = -1;
    return s;
}

shelf *shelf_free(shelf *s)
{
    for (size_t i = 0; s != NULL && i < SHM_OWNERS_MAX; i++) {
        if (s->places[i].owned)
            (void)close(s->places[i].fd);
    }
    free(s);
    return NULL;
}

uint32_t shelf_nmessages(const shelf *s)
{
    return s->tail - s->head;
}

/* --- where signs are --- */

static uint16_t *nliving_in(shelf *s, uint32_t message)
{
    return &s->nliving[message % SHELF_MESSAGES_MAX];
}

/* The number has no sign any more. */
static void place_clear(shelf *s, place *p)
{
    if (p->fd < 0)
        return;
    if (p->owned)
        (void)close(p->fd);
    --*nliving_in(s, p->at);
    s->nliving_all--;
    *p = (place){ .fd = -1, .left = true };
}

/* Its sign is in that message. */
static void place_set(shelf *s, place *p, const place *now)
{
    bool left;

    place_clear(s, p);
    left = p->left;
    *p = *now;
    p->left = left;
    ++*nliving_in(s, p->at);
    s->nliving_all++;
}

/* --- messages --- */

/* Send n signs in a message, which is then the last one, with none that counts. 0, -errno. */
static int message_send(shelf *s, const shelf_item *items, const int *fds, uint32_t n)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(SHELF_BATCH * sizeof(int))];
    } control;
    struct iovec data = { (void *)(uintptr_t)items, n * sizeof(*items) };
    struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = control.bytes,
                              .msg_controllen = CMSG_SPACE(n * sizeof(int)) };
    struct cmsghdr *head;

    if (shelf_nmessages(s) == SHELF_MESSAGES_MAX)
        return -EAGAIN;
    memset(control.bytes, 0, message.msg_controllen);
    head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(n * sizeof(int));
    memcpy(CMSG_DATA(head), fds, n * sizeof(int));
    if (sendmsg(s->in_fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
        return -errno;
    *nliving_in(s, s->tail++) = 0;
    return 0;
}

/* Take messages out that have no sign that counts, up to budget. Their descriptors are closed by that. */
static void take_out(shelf *s, uint32_t budget)
{
    shelf_item items[SHELF_BATCH];

    for (; budget > 0 && s->head != s->tail && *nliving_in(s, s->head) == 0; budget--) {
        if (recv(s->out_fd, items, sizeof(items), MSG_DONTWAIT) < 0)
            return;
        s->head++;
    }
}

/* Send the oldest signs that count once more, in one message. */
static void gather(shelf *s)
{
    shelf_item items[SHELF_BATCH];
    int fds[SHELF_BATCH];
    uint32_t end = s->head; /* of the messages that they are in; */
    uint32_t left = 0;      /* signs of the last of these that stay there */
    uint32_t n = 0;

    for (uint32_t sum = 0; end != s->tail && sum < SHELF_BATCH; end++) {
        sum += *nliving_in(s, end);
        left = sum > SHELF_BATCH ? sum - SHELF_BATCH : 0;
    }
    for (uint32_t i = 0; i < SHM_OWNERS_MAX; i++) {
        const place *p = &s->places[i];

        if (p->fd < 0 || p->at - s->head >= end - s->head || (p->at == end - 1 && left > 0 && left-- > 0))
            continue;
        items[n] = (shelf_item){ i, p->epoch };
        fds[n++] = p->fd;
    }
    if (n == 0 || message_send(s, items, fds, n) < 0)
        return;
    CRASH_POINT(shelf_after_gather);
    for (uint32_t i = 0; i < n; i++) {
        place *p = &s->places[items[i].number];

        --*nliving_in(s, p->at);
        p->at = s->tail - 1;
        ++*nliving_in(s, p->at);
    }
}

/* A constant part of what is to be done so that the queue stays short. */
static void tidy(shelf *s, uint32_t budget)
{
    take_out(s, budget);
    if (shelf_nmessages(s) <= SHELF_LOOSE_MAX + 2 * (s->nliving_all / SHELF_BATCH + 1))
        return;
    gather(s);
    take_out(s, budget);
    CRASH_POINT(shelf_after_take_out);
}

int shelf_put(shelf *s, uint32_t number, uint32_t epoch, int fd)
{
    const shelf_item item = { number, epoch };
    int r;

    tidy(s, POPS_EACH);
    r = message_send(s, &item, &fd, 1);
    if (r == -EAGAIN || r == -ETOOMANYREFS) {
        tidy(s, POPS_FULL);
        r = message_send(s, &item, &fd, 1);
    }
    if (r < 0)
        return r;
    place_set(s, &s->places[number], &(place){ .fd = fd, .epoch = epoch, .at = s->tail - 1 });
    return 0;
}

void shelf_remove(shelf *s, uint32_t number, uint32_t epoch)
{
    place *p = &s->places[number];

    if (p->fd < 0 || p->epoch != epoch)
        return;
    place_clear(s, p);
    take_out(s, POPS_EACH);
}

bool shelf_has_left(const shelf *s, uint32_t number)
{
    return s->places[number].left;
}

/* Each round takes the messages out that a gathering has emptied: the first one, at least. */
bool shelf_clean(shelf *s)
{
    uint32_t end = s->tail;

    for (;;) {
        take_out(s, end - s->head);
        if (s->head == end)
            return true;
        if (*nliving_in(s, s->head) == 0)
            return false; /* it could not be received */
        gather(s);
        if (*nliving_in(s, s->head) != 0)
            return false; /* it could not be sent */
    }
}

/* --- after another daemon --- */

/* The descriptors of a message. Returns how many. */
static uint32_t descriptors_of(struct msghdr *message, int fds[SHELF_BATCH])
{
    uint32_t n = 0;

    for (struct cmsghdr *head = CMSG_FIRSTHDR(message); head != NULL; head = CMSG_NXTHDR(message, head)) {
        size_t count = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);

        if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS)
            continue;
        memcpy(fds, CMSG_DATA(head), count * sizeof(int)); /* one such header has all that there was room for */
        n = (uint32_t)count;
    }
    return n;
}

/* Look at the next message. 1: there was one, 0: there is none, -errno. */
static int look_at_next(shelf *s)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(SHELF_BATCH * sizeof(int))];
    } control;
    shelf_item items[SHELF_BATCH];
    int fds[SHELF_BATCH];
    struct iovec data = { items, sizeof(items) };
    struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = control.bytes,
                              .msg_controllen = sizeof(control.bytes) };
    ssize_t len = recvmsg(s->out_fd, &message, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    uint32_t n;
    bool whole;

    if (len < 0)
        return errno == EAGAIN ? 0 : -errno;
    n = descriptors_of(&message, fds);
    whole = (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0 && n > 0 && (size_t)len == n * sizeof(items[0]) &&
            shelf_nmessages(s) < SHELF_MESSAGES_MAX;
    *nliving_in(s, s->tail++) = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (whole && items[i].number < SHM_OWNERS_MAX)
            place_set(s, &s->places[items[i].number],
                      &(place){ .fd = fds[i], .epoch = items[i].epoch, .at = s->tail - 1, .owned = true });
        else
            (void)close(fds[i]);
    }
    return whole ? 1 : (message.msg_flags & MSG_CTRUNC) != 0 ? -EMFILE : -EPROTO;
}

int shelf_read(shelf *s)
{
    int r;

    if (setsockopt(s->out_fd, SOL_SOCKET, SO_PEEK_OFF, &(int){ 0 }, sizeof(int)) < 0)
        return -errno;
    while ((r = look_at_next(s)) > 0)
        CRASH_POINT(shelf_half_read);
    return r;
}

int shelf_take(shelf *s, uint32_t number, uint32_t epoch)
{
    place *p = &s->places[number];

    if (!p->owned || p->epoch != epoch)
        return -1;
    p->owned = false;
    return p->fd;
}

void shelf_forget_rest(shelf *s)
{
    for (size_t i = 0; i < SHM_OWNERS_MAX; i++) {
        if (s->places[i].owned)
            place_clear(s, &s->places[i]);
    }
}

/* --- looking --- */

int shelf_validate(const shelf *s, FILE *err)
{
    uint16_t nliving[SHELF_MESSAGES_MAX] = { 0 };
    uint32_t n = 0;

    for (size_t i = 0; i < SHM_OWNERS_MAX; i++) {
        const place *p = &s->places[i];

        if (p->fd < 0)
            continue;
        if (p->at - s->head >= shelf_nmessages(s)) {
            (void)fprintf(err, "shelf: %zu is in message %u, of %u to %u\n", i, p->at, s->head, s->tail);
            return -EUCLEAN;
        }
        nliving[p->at % SHELF_MESSAGES_MAX]++;
        n++;
    }
    for (uint32_t m = s->head; m != s->tail; m++) {
        if (nliving[m % SHELF_MESSAGES_MAX] != s->nliving[m % SHELF_MESSAGES_MAX]) {
            (void)fprintf(err, "shelf: message %u has %u signs, noted %u\n", m, nliving[m % SHELF_MESSAGES_MAX],
                          s->nliving[m % SHELF_MESSAGES_MAX]);
            return -EUCLEAN;
        }
    }
    if (n == s->nliving_all)
        return 0;
    (void)fprintf(err, "shelf: %u signs, noted %u\n", n, s->nliving_all);
    return -EUCLEAN;
}
