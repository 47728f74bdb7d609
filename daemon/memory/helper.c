/*
 * Helper: what the daemon asks of its helper, and what the helper does: all calls of fallocate on the heap's files.
 *
 * Called by backing and commit (memory, in the thread pool) and by serve/ (holes, in the loop). Data: the words
 * daemon_epoch and punching of the private memfd, below; the rest is private.
 *
 * Why a process: fallocate takes the inode lock of the file (holes.c), which a client can hold as long as it likes, and
 * a thread that waits for it can't be killed. Neither can its process: it would keep the heap's lock and the socket's
 * place, and no other daemon could start. A helper has nothing but the three files (and the read-only descriptions of
 * them that clients get), two sockets and its place. While it is stuck the daemon goes on without it:
 *   - memory comes by MADV_POPULATE_WRITE on the daemon's mapping instead (backing.c), which takes no inode lock
 *   - nothing is released: pages that were to be punched stay aside, and who needs them gone is refused (serve/)
 *
 * Two sockets, so that neither kind of request waits behind the other in the daemon:
 *   calls    memory, one request at a time, with a deadline. The helper does not begin one after its deadline, so who
 *            has given it up knows: it has begun, or never will. After a miss there are no calls for a second, then 2,
 *            up to 64.
 *   punches  holes, up to PUNCHES_MAX requests, answered in order, without a deadline: until the answer the pages may
 *            lose their memory at any moment, so they stay aside.
 * The helper looks at the calls before each hole. So a fill that was sent before a punch was sent happens before it,
 * and none of pages that are about to be punched comes later (zeroing.c relies on it).
 *
 * Death of the daemon. The helper gets SIGKILL (PDEATHSIG), or finds the end of its sockets. If it is stuck it dies
 * only after its call, which may be a punch, long after the next daemon has handed out the same pages. So:
 *   helper: 1. punching[place] = the hole    2. fence    3. look at daemon_epoch; not its own: clear the word, exit
 *           4. fallocate                     5. punching[place] = 0
 *   daemon: 1. daemon_epoch + 1              2. fence    3. look at punching of each place that is locked
 * Either the helper sees the new epoch and does not punch, or the daemon sees the hole, and keeps those pages aside
 * until the lock of the place is free, which the kernel frees with the helper. A fill under way is given up by the
 * kernel at the SIGKILL, before it has given a page memory. The place is an OFD lock on a byte of the private memfd.
 *
 * If the helper alone dies, what was asked of it has happened or not, and nothing is under way any more. A fill that
 * was under way is the daemon's to do otherwise, as one that is late. Holes are asked for again, of another helper,
 * which is started a second later: to punch twice is to punch once, so the answer is as exact as without that death,
 * and the pages are aside until it comes. While there is no helper that has lasted for more than 2 s, it is as if one
 * were stuck. The word of a place may have been left standing: who takes the place clears it, or the next daemon would
 * keep pages aside, or refuse the heap because they are in use, while the helper that has the place is idle.
 *
 * A helper that is stopped (SIGSTOP) is stuck; one that is killed again and again is started once a second. Nobody
 * waits for either, but for the first word of a new one, a second at most. There are PUNCHES_MAX requests at most;
 * those that don't fit into the socket are sent when others have been answered. Answers fit: no more of them are on
 * their way than requests.
 *
 * Once a second the helper drops the locks that clients have set on the descriptions which the daemon has given them:
 * no library sets any, but they would stay for as long as the heap does, and each close of a descriptor goes through
 * all. While it is stuck it drops none.
 *
 * Known limit: before Linux 5.14 there is no MADV_POPULATE_WRITE. Memory that the helper does not bring in time comes
 * by touching it (backing.c), and if the system has none, that is a SIGBUS.
 */
#include "daemon/memory/helper.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <utlist.h>

#include "daemon/fds.h"
#include "daemon/log.h"
#include "daemon/memory/memfd.h"
#include "daemon/privileges.h"
#include "shm/crash.h"

#define PUNCHES_MAX    16u
#define LATE_NS        UINT64_C(2000000000)
#define LOOK_MS        50u
#define CHILD_MS       1000
#define UNLOCK_MS      1000
#define OLD_MS         500u
#if defined(GOALLOC_CRASH_POINTS)
#define RESTART_NS     UINT64_C(50000000) /* tests kill many */
#else
#define RESTART_NS     UINT64_C(1000000000)
#endif
#define CALL_NS        UINT64_C(20000000)
#define PAUSE_NS_MIN   UINT64_C(1000000000)
#define PAUSE_NS_MAX   UINT64_C(64000000000)
#define PLACE_BYTE     1 /* of the private memfd: byte 0 is the daemon's (shm/handover.c) */

typedef struct request {
    uint64_t id;
    uint64_t not_after_ns; /* of calls */
    uint64_t nholes;       /* that follow */
    page_range fill;       /* of calls */
} request;

typedef struct reply {
    uint64_t id;
    uint64_t ndone;
    uint64_t cpu_ns;
    int64_t result; /* of calls: 0, -errno */
} reply;

static uint64_t clock_ns(clockid_t id)
{
    struct timespec ts = { 0, 0 };

    (void)clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* The word punching: first page 32 | pages 30 | kind 2. */
static uint64_t hole_pack(const helper_hole *hole)
{
    return hole->range.first.n | (hole->range.npages & 0x3fffffff) << 32 | (uint64_t)hole->kind << 62;
}

static helper_hole hole_unpack(uint64_t word)
{
    return (helper_hole){ .kind = (enum holes_kind)(word >> 62),
                          .range = { page_at(word & UINT32_MAX), word >> 32 & 0x3fffffff } };
}

/* --- the helper's side: nothing but system calls, since the daemon that forks it may have threads --- */

enum { CALLS, PUNCHES, ARENA, SPANS, BITMAP, PLACE, ARENA_RO, SPANS_RO, BITMAP_RO, CHILD_NFDS };

typedef struct child {
    holes holes;
    heap_private *private;
    unsigned place;
    uint64_t epoch;
    struct {
        request head;
        helper_hole holes[HELPER_HOLES_MAX];
    } in;
} child;

static void answer(int fd, const reply *r)
{
    if (send(fd, r, sizeof(*r), MSG_NOSIGNAL) != (ssize_t)sizeof(*r))
        _exit(EXIT_SUCCESS);
}

/* A request, into c->in. False: there is none now. */
static bool receive(child *c, int fd)
{
    ssize_t n = recv(fd, &c->in, sizeof(c->in), MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (n < (ssize_t)sizeof(c->in.head))
        _exit(EXIT_SUCCESS); /* the daemon is gone */
    return true;
}

static void serve_calls(child *c)
{
    request head;

    /* The holes of a request for them lie behind the head, so a call may come in between. */
    for (;;) {
        reply r = { .result = HELPER_E_BUSY };
        ssize_t n = recv(CALLS, &head, sizeof(head), MSG_DONTWAIT);

        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n != (ssize_t)sizeof(head))
            _exit(EXIT_SUCCESS);
        r.id = head.id;
        CRASH_POINT(helper_before_fill);
        if (clock_ns(CLOCK_MONOTONIC) < head.not_after_ns)
            r.result = holes_fill(&c->holes, head.fill);
        CRASH_POINT(helper_after_fill);
        answer(CALLS, &r);
    }
}

/* Punch one hole, unless the heap is another daemon's by now. The opening essay has the order. */
static bool punch_one(child *c, const helper_hole *hole)
{
    shm_u64 *word = &c->private->punching[c->place];
    int r;

    u64_store_release(word, hole_pack(hole));
    CRASH_POINT(helper_after_word);
    fence_seq_cst();
    if (u64_load_relaxed(&c->private->daemon_epoch) != c->epoch) {
        u64_store_release(word, 0);
        _exit(EXIT_SUCCESS);
    }
    r = holes_punch(&c->holes, hole->kind, hole->range);
    CRASH_POINT(helper_after_punch);
    u64_store_release(word, 0);
    CRASH_POINT(helper_after_clear);
    return r == 0;
}

static void serve_punches(child *c)
{
    reply r = { 0 };
    uint64_t start;

    if (!receive(c, PUNCHES))
        return;
    start = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    r.id = c->in.head.id;
    while (r.ndone < c->in.head.nholes && r.ndone < HELPER_HOLES_MAX) {
        serve_calls(c);
        if (!punch_one(c, &c->in.holes[r.ndone]))
            break;
        r.ndone++;
    }
    r.cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID) - start;
    CRASH_POINT(helper_before_answer);
    answer(PUNCHES, &r);
    CRASH_POINT(helper_after_answer);
}

/* Drop the locks on what clients have. The daemon has none there: its own are on the private memfd. */
static void drop_locks(uint64_t *next_ns)
{
    static const int fds[] = { ARENA, BITMAP, ARENA_RO, SPANS_RO, BITMAP_RO };
    uint64_t now = clock_ns(CLOCK_MONOTONIC);

    if (now < *next_ns)
        return;
    for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
        (void)fcntl(fds[i], F_OFD_SETLK, &(struct flock){ .l_type = F_UNLCK, .l_whence = SEEK_SET });
    *next_ns = now + UNLOCK_MS * UINT64_C(1000000);
}

__attribute__((noreturn)) static void child_run(child *c, int fds[CHILD_NFDS], pid_t parent)
{
    struct pollfd polls[2] = { { .fd = CALLS, .events = POLLIN }, { .fd = PUNCHES, .events = POLLIN } };
    uint64_t unlock_ns = 0;
    sigset_t all;

    (void)sigfillset(&all);
    (void)sigprocmask(SIG_SETMASK, &all, NULL);
    fds_keep_only(fds, CHILD_NFDS);
    (void)prctl(PR_SET_NAME, "goallocd-helper");
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(EXIT_SUCCESS);
    c->holes.arena_fd = ARENA;
    c->holes.spans_fd = SPANS;
    c->holes.bitmap_fd = BITMAP;
    c->private = mmap(NULL, SYSTEM_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, PLACE, 0);
    if (c->private == MAP_FAILED)
        _exit(EXIT_FAILURE);
    /* It works with privileges, too. */
    (void)(privileges_confine(PRIVILEGES_HELPER, (const char *const[]){ NULL }) < 0);
    CRASH_POINT(helper_before_ready);
    answer(PUNCHES, &(reply){ .id = 0 }); /* it has closed what it must not hold */
    for (;;) {
        if (poll(polls, 2, UNLOCK_MS) < 0 && errno != EINTR)
            _exit(EXIT_FAILURE);
        drop_locks(&unlock_ns);
        serve_calls(c);
        serve_punches(c);
    }
}

/* --- the daemon's side: start --- */

/* Lock a place that no helper has; whoever had it punches nothing. Returns a descriptor that holds the lock; -errno. */
static int take_place(helper *h, unsigned *ret_place)
{
    int fd = memfd_reopen(h->file->fds[HEAPFILE_PRIVATE], O_RDWR);

    if (fd < 0)
        return fd;
    for (unsigned i = 0; i < HELPERS_MAX; i++) {
        struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = PLACE_BYTE + i, .l_len = 1 };

        if (!h->has_old[i] && fcntl(fd, F_OFD_SETLK, &lock) == 0) {
            u64_store_release(&h->file->private->punching[i], 0);
            *ret_place = i;
            return fd;
        }
    }
    (void)close(fd);
    return -EUSERS;
}

/* True if a helper has that place. */
static bool is_place_taken(const helper *h, unsigned place)
{
    return memfd_is_locked(h->file->fds[HEAPFILE_PRIVATE], PLACE_BYTE + (off_t)place, 1);
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
    *fd = -1;
}

static int make_sockets(int calls[2], int punches[2])
{
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, calls) < 0)
        return -errno;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, punches) == 0)
        return 0;
    (void)close(calls[0]);
    (void)close(calls[1]);
    return -errno;
}

/* Fork the process, with these ends of the sockets. Returns its pid or -errno. */
static pid_t fork_child(helper *h, int calls, int punches, int place_fd, unsigned place)
{
    static child c; /* the fork has a copy of it */
    const heapfile *file = h->file;
    int fds[CHILD_NFDS] = { calls, punches, file->fds[HEAPFILE_ARENA], file->fds[HEAPFILE_SPANS],
                            file->fds[HEAPFILE_BITMAP], place_fd, file->arena_ro_fd, file->spans_ro_fd,
                            file->bitmap_ro_fd };
    pid_t parent = getpid();
    pid_t pid;

    c.holes = heapfile_holes(h->file);
    c.place = place;
    c.epoch = h->epoch;
    pid = fork();
    if (pid == 0)
        child_run(&c, fds, parent);
    return pid < 0 ? -errno : pid;
}

/*
 * Wait for its first word. Until then it may hold what a successor of this daemon needs: the heap's lock, and the
 * socket's place.
 */
static void await_child(int fd)
{
    struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
    reply r;

    while (poll(&poll_fd, 1, CHILD_MS) < 0 && errno == EINTR)
        ;
    (void)recv(fd, &r, sizeof(r), MSG_DONTWAIT); /* if it comes later it says nothing: no request has its number */
}

static void on_readable(uv_poll_t *poll, int status, int events);
static void send_unsent(helper *h);

/* 0; -errno: there is no helper. */
static int start_process(helper *h)
{
    int calls[2];
    int punches[2];
    unsigned place;
    int place_fd = take_place(h, &place);
    pid_t pid;
    int r = place_fd < 0 ? place_fd : make_sockets(calls, punches);

    if (r < 0) {
        close_fd(&place_fd);
        return r;
    }
    pid = fork_child(h, calls[1], punches[1], place_fd, place);
    (void)close(calls[1]);
    (void)close(punches[1]);
    (void)close(place_fd); /* the helper has it: the lock goes with it */
    if (pid > 0)
        await_child(punches[0]);
    if (pid < 0 || uv_poll_init(h->loop, &h->poll, punches[0]) < 0) {
        (void)close(calls[0]);
        (void)close(punches[0]);
        return pid < 0 ? (int)pid : -ENOMEM;
    }
    h->poll.data = h;
    (void)uv_poll_start(&h->poll, UV_READABLE | UV_DISCONNECT, on_readable);
    h->pid = pid;
    h->punch_fd = punches[0];
    (void)pthread_mutex_lock(&h->call_lock);
    h->call_fd = calls[0];
    (void)pthread_mutex_unlock(&h->call_lock);
    send_unsent(h);
    return 0;
}

static void on_look(uv_timer_t *timer);

static void look_again(helper *h)
{
    uint64_t ms = h->npunches > 0 ? LOOK_MS : OLD_MS;
    bool has_old = false;

    for (unsigned i = 0; i < HELPERS_MAX; i++)
        has_old |= h->has_old[i];
    if (!h->stopping && (h->npunches > 0 || has_old || h->pid == 0))
        (void)uv_timer_start(&h->timer, on_look, ms, 0);
}

/* The heap is this daemon's from here on: helpers of others begin nothing more. What they may be at is noted. */
static void begin_epoch(helper *h)
{
    heap_private *private = h->file->private;

    h->epoch = u64_load_relaxed(&private->daemon_epoch) + 1;
    u64_store_release(&private->daemon_epoch, h->epoch);
    CRASH_POINT(helper_after_epoch);
    fence_seq_cst();
    for (unsigned i = 0; i < HELPERS_MAX; i++) {
        uint64_t word;

        if (!is_place_taken(h, i))
            continue;
        word = u64_load_acquire(&private->punching[i]);
        h->has_old[i] = true;
        h->old[i] = hole_unpack(word);
        if (word != 0)
            log_warn("the helper of a goallocd that is gone still waits to release %llu MiB: they stay aside until "
                     "it ends", (unsigned long long)(h->old[i].range.npages * PAGE_BYTES / MIB));
    }
}

void helper_start(helper *h, uv_loop_t *loop, heapfile *file, const helper_watch *watch)
{
    int r;

    *h = (helper){ .file = file, .loop = loop, .watch = *watch, .punch_fd = -1, .call_fd = -1 };
    (void)pthread_mutex_init(&h->call_lock, NULL);
    (void)uv_timer_init(loop, &h->timer);
    h->timer.data = h;
    begin_epoch(h);
    r = start_process(h);
    if (r < 0)
        log_warn("no helper can be started: %s; nothing is given back to the system until one can", strerror(-r));
    file->helper = h;
    h->restart_ns = clock_ns(CLOCK_MONOTONIC) + RESTART_NS;
    look_again(h);
}

const helper_hole *helper_old_hole(const helper *h, unsigned place)
{
    return h->has_old[place] && h->old[place].range.npages > 0 ? &h->old[place] : NULL;
}

/* --- holes --- */

bool helper_is_stuck(const helper *h)
{
    return h->stuck;
}

static void end_punch(helper *h, const reply *r)
{
    helper_punch *p = h->punches;

    DL_DELETE(h->punches, p);
    h->npunches--;
    p->ndone = r->ndone < p->nholes ? r->ndone : p->nholes;
    p->cpu_ns = r->cpu_ns;
    p->done(p);
}

/* The first request is late, or it is not. */
static void note_stuck(helper *h, uint64_t now)
{
    bool stuck = h->punches != NULL && now - h->punches->sent_ns >= LATE_NS;

    if (h->stuck == stuck)
        return;
    h->stuck = stuck;
    h->watch.on_stuck(h->watch.data, stuck);
    if (stuck) {
        log_event(LOG_EVENT_RELEASE_STUCK, NULL, "%s",
                  h->pid != 0 ? "a client holds a lock of the heap's files: nothing is given back to the system until "
                                "it lets go"
                              : "there is no helper: nothing is given back to the system until one can be started");
        h->stuck_ns = h->punches->sent_ns;
    } else {
        log_event(LOG_EVENT_RELEASE_AGAIN, NULL, "memory is given back to the system again, after %llu s",
                  (unsigned long long)((now - h->stuck_ns) / 1000000000));
    }
}

/* The helper is gone, and with it what it was doing. The next one is asked for it again. */
static void lose(helper *h)
{
    (void)waitpid(h->pid, NULL, 0); /* it has closed its files, so it is at its end */
    h->pid = 0;
    (void)pthread_mutex_lock(&h->call_lock);
    close_fd(&h->call_fd);
    (void)pthread_mutex_unlock(&h->call_lock);
    for (helper_punch *p = h->punches; p != NULL; p = p->next)
        p->sent = false;
    h->restart_ns = clock_ns(CLOCK_MONOTONIC) + RESTART_NS;
    look_again(h);
}

static void on_poll_closed(uv_handle_t *handle)
{
    helper *h = handle->data;

    close_fd(&h->punch_fd);
    if (!h->stopping)
        lose(h);
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
    helper *h = poll->data;
    reply r;
    ssize_t n;

    (void)status;
    (void)events;
    while ((n = recv(h->punch_fd, &r, sizeof(r), MSG_DONTWAIT)) == (ssize_t)sizeof(r)) {
        if (h->punches != NULL && r.id == h->punches->id)
            end_punch(h, &r);
        note_stuck(h, clock_ns(CLOCK_MONOTONIC));
    }
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        send_unsent(h);
        return;
    }
    log_event(LOG_EVENT_HELPER_LOST, NULL, "the helper has died; starting another one");
    uv_close((uv_handle_t *)poll, on_poll_closed);
}

static void look_at_old(helper *h)
{
    for (unsigned i = 0; i < HELPERS_MAX; i++) {
        if (!h->has_old[i] || is_place_taken(h, i))
            continue;
        h->has_old[i] = false;
        if (h->old[i].range.npages > 0)
            h->watch.on_old_gone(h->watch.data, i);
    }
}

static void on_look(uv_timer_t *timer)
{
    helper *h = timer->data;
    uint64_t now = clock_ns(CLOCK_MONOTONIC);
    helper_punch *next;

    look_at_old(h);
    if (h->pid == 0 && now >= h->restart_ns && !uv_is_active((uv_handle_t *)&h->poll)) {
        (void)start_process(h);
        h->restart_ns = now + RESTART_NS;
    }
    note_stuck(h, now);
    for (helper_punch *p = h->punches; p != NULL; p = next) {
        next = p->next;
        if (p->is_late || now - p->sent_ns < LATE_NS)
            continue;
        p->is_late = true;
        if (p->late != NULL)
            p->late(p);
    }
    look_again(h);
}

/* False: there is no room for it now, or there is no helper. */
static bool send_punch(const helper *h, const helper_punch *p)
{
    request head = { .id = p->id, .nholes = p->nholes };
    struct iovec parts[2] = { { &head, sizeof(head) },
                              { (void *)(uintptr_t)p->holes, p->nholes * sizeof(p->holes[0]) } };
    struct msghdr message = { .msg_iov = parts, .msg_iovlen = 2 };

    return h->pid != 0 && sendmsg(h->punch_fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0;
}

/* In order. */
static void send_unsent(helper *h)
{
    for (helper_punch *p = h->punches; p != NULL; p = p->next) {
        if (!p->sent && !(p->sent = send_punch(h, p)))
            return;
    }
}

bool helper_punch_start(helper *h, helper_punch *p)
{
    bool behind = h->punches != NULL && !h->punches->prev->sent; /* the last one is not */

    if (h->stopping || behind || h->npunches == PUNCHES_MAX || p->nholes > HELPER_HOLES_MAX)
        return false;
    for (size_t i = 0; i < p->nholes; i++)
        zeroing_forget(h->file->zeroing, p->holes[i].range);
    p->id = h->last_id + 1;
    p->sent = send_punch(h, p);
    if (!p->sent)
        return false;
    h->last_id = p->id;
    p->sent_ns = clock_ns(CLOCK_MONOTONIC);
    p->is_late = false;
    p->ndone = 0;
    p->cpu_ns = 0;
    DL_APPEND(h->punches, p);
    if (h->npunches++ == 0)
        look_again(h);
    return true;
}

/* --- memory --- */

bool helper_fills(const helper *h)
{
    return h != NULL && clock_ns(CLOCK_MONOTONIC) >= u64_load_relaxed(&h->not_before_ns);
}

bool helper_fill_begin(helper *h)
{
    if (!helper_fills(h))
        return false;
    (void)pthread_mutex_lock(&h->call_lock);
    if (h->call_fd >= 0 && helper_fills(h)) {
        h->call_ns = 0;
        return true;
    }
    (void)pthread_mutex_unlock(&h->call_lock);
    return false;
}

void helper_fill_send(helper *h, page_range range)
{
    request head = { .id = ++h->call_id, .fill = range };

    h->call_ns = clock_ns(CLOCK_MONOTONIC);
    head.not_after_ns = h->call_ns + CALL_NS;
    if (send(h->call_fd, &head, sizeof(head), MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)sizeof(head))
        h->call_ns = 0;
}

/* Wait for the answer to the last request; those to the ones before were given up. */
static int wait_for_answer(helper *h)
{
    uint64_t end = h->call_ns + CALL_NS;

    for (;;) {
        uint64_t now = clock_ns(CLOCK_MONOTONIC);
        struct pollfd poll_fd = { .fd = h->call_fd, .events = POLLIN };
        struct timespec left = { 0, now < end ? (long)(end - now) : 0 };
        reply r;
        int ready = ppoll(&poll_fd, 1, &left, NULL);

        if (ready < 0 && errno == EINTR)
            continue;
        if (ready <= 0 || recv(h->call_fd, &r, sizeof(r), MSG_DONTWAIT) != (ssize_t)sizeof(r))
            return HELPER_E_BUSY;
        if (r.id == h->call_id)
            return (int)r.result;
    }
}

int helper_fill_end(helper *h)
{
    uint64_t pause = u64_load_relaxed(&h->pause_ns);
    int r = HELPER_E_BUSY;

    if (h->call_ns != 0) {
        r = wait_for_answer(h);
        if (r == HELPER_E_BUSY) {
            pause = pause * 2 < PAUSE_NS_MIN ? PAUSE_NS_MIN : pause * 2 > PAUSE_NS_MAX ? PAUSE_NS_MAX : pause * 2;
            u64_store_relaxed(&h->not_before_ns, clock_ns(CLOCK_MONOTONIC) + pause);
            u64_store_relaxed(&h->pause_ns, pause);
        } else if (pause != 0 && clock_ns(CLOCK_MONOTONIC) - u64_load_relaxed(&h->not_before_ns) > pause) {
            u64_store_relaxed(&h->pause_ns, pause / 2); /* it went well for as long as the last pause was */
            u64_store_relaxed(&h->not_before_ns, clock_ns(CLOCK_MONOTONIC));
        }
    }
    (void)pthread_mutex_unlock(&h->call_lock);
    return r;
}

int helper_fill(helper *h, page_range range)
{
    if (!helper_fill_begin(h))
        return HELPER_E_BUSY;
    helper_fill_send(h, range);
    return helper_fill_end(h);
}

/* --- end --- */

void helper_stop(helper *h)
{
    static const reply none = { 0 };

    if (h->stopping)
        return;
    h->stopping = true;
    while (h->punches != NULL)
        end_punch(h, &none);
    uv_close((uv_handle_t *)&h->timer, NULL);
    if (h->pid != 0 && !uv_is_closing((uv_handle_t *)&h->poll))
        uv_close((uv_handle_t *)&h->poll, on_poll_closed);
}

void helper_end(helper *h)
{
    h->file->helper = NULL;
    close_fd(&h->call_fd);
    if (h->pid != 0)
        (void)waitpid(h->pid, NULL, WNOHANG); /* who is stuck is left to init */
    (void)pthread_mutex_destroy(&h->call_lock);
}
