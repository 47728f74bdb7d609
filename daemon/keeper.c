/*
 * Keeper: a process with the heap's memfds, its shelf and a socket.
 *
 * Called by main, and by the server when a keeper has died. Files on a tmpfs would outlive the daemon too, but can't be
 * sealed: a client could truncate them under all others. Memfds live as long as some process has them. The keeper is
 * that process: it never maps them (what the daemon that forks it has mapped is not inherited: MADV_DONTFORK), runs
 * forty lines of code, and stays when the daemon dies, however that happens.
 *
 * The conversation, over a SOCK_SEQPACKET socket DIR/keeper.sock, mode 0600:
 *   daemon connects           -> keeper sends "heap" with the descriptors
 *   daemon sends "bye"        -> keeper removes the socket and ends: the heap was dropped
 *   connection ends otherwise -> the daemon has died: the keeper waits for the next one, as long as its socket is there
 * It serves every daemon that connects, and goallocctl keeper, which looks or says "bye" (client/ctl/keeper.c). That
 * only one does is the work of the lock on the socket's path (listen.c).
 *
 * The keeper gives up its privileges (privileges.c): its filter has the calls of that conversation and no more.
 *
 * The keeper serves only its own user and root (SO_PEERCRED), and the daemon takes descriptors only from its own user.
 * It checks what they hold all the same, as it does with systemd's: heapfile_open(), mheap_recover().
 */
#include "daemon/keeper.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/fds.h"
#include "daemon/log.h"
#include "daemon/privileges.h"
#include "proto/fdpass.h"
#include "proto/keeper.h"

#define BACKLOG         4
#define PEERS_MAX       8
#define ANSWER_MS       5000
#define DISMISS_MS      1000
#define LOOK_MS         10000
#define GOING_MS        1000

_Static_assert(HEAPFILE_NFDS <= FDPASS_MAX, "the descriptors fit into one message");
_Static_assert((int)HEAPFILE_ARENA == KEEPER_FD_ARENA && (int)HEAPFILE_SPANS == KEEPER_FD_SPANS &&
                   (int)HEAPFILE_BITMAP == KEEPER_FD_BITMAP && (int)HEAPFILE_PRIVATE == KEEPER_FD_PRIVATE &&
                   (int)HEAPFILE_SHELF_IN == KEEPER_FD_SHELF_IN && (int)HEAPFILE_SHELF_OUT == KEEPER_FD_SHELF_OUT &&
                   (int)HEAPFILE_NFDS == KEEPER_NFDS,
               "the order of the descriptors");

static bool is_same_user(int fd, bool or_root)
{
    struct ucred cred = { 0 };
    socklen_t len = sizeof(cred);

    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0 &&
           (cred.uid == geteuid() || (or_root && cred.uid == 0));
}

/* --- the keeper's side --- */

/* A daemon says something, or is gone. True if it says "bye". */
static bool says_bye(int fd)
{
    char said[8];

    return recv(fd, said, sizeof(said), MSG_DONTWAIT) == 3 && memcmp(said, KEEPER_BYE, 3) == 0;
}

/* True if the file at path is still this one. */
static bool is_at(const char *path, const struct stat *file)
{
    struct stat st;

    return stat(path, &st) == 0 && st.st_ino == file->st_ino && st.st_dev == file->st_dev;
}

/* A daemon connects: give it the heap's descriptors. Returns the connection; -1: none. */
static int accept_daemon(int listener, bool has_room, const int fds[HEAPFILE_NFDS])
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

    if (fd >= 0 && (!has_room || !is_same_user(fd, true) || fdpass_send(fd, KEEPER_HEAP, 4, fds, HEAPFILE_NFDS) != 4)) {
        (void)close(fd);
        return -1;
    }
    return fd;
}

/* It removes its socket at the end. A keeper with privileges is better than none. */
static void confine(const char *path)
{
    struct sockaddr_un dir;
    const char *slash = strrchr(path, '/');
    size_t len = slash == NULL || slash == path ? 1 : (size_t)(slash - path);

    memcpy(dir.sun_path, slash == NULL ? "." : path, len);
    dir.sun_path[len] = '\0';
    (void)(privileges_confine(PRIVILEGES_KEEPER, (const char *const[]){ dir.sun_path, NULL }) < 0);
}

__attribute__((noreturn)) static void keep(const char *path, int fds[HEAPFILE_NFDS + 1])
{
    struct pollfd polls[1 + PEERS_MAX] = { { .events = POLLIN } };
    struct stat mine;
    nfds_t n = 1;

    if (stat(path, &mine) < 0)
        _exit(EXIT_FAILURE);
    confine(path);
    polls[0].fd = fds[HEAPFILE_NFDS];
    for (;;) {
        int ready = poll(polls, n, LOOK_MS);
        int fd;

        /* No daemon has the heap, and none can ask for it any more. */
        if (ready == 0 && n == 1 && !is_at(path, &mine))
            _exit(EXIT_SUCCESS);
        if (ready <= 0)
            continue;
        for (nfds_t i = n; i-- > 1;) {
            if (polls[i].revents == 0)
                continue;
            if (says_bye(polls[i].fd)) {
                if (is_at(path, &mine))
                    (void)unlink(path);
                _exit(EXIT_SUCCESS);
            }
            (void)close(polls[i].fd);
            polls[i] = polls[--n];
        }
        if (polls[0].revents != 0 && (fd = accept_daemon(polls[0].fd, n <= PEERS_MAX, fds)) >= 0)
            polls[n++] = (struct pollfd){ .fd = fd, .events = POLLIN };
    }
}

/* --- the daemon's side --- */

static int make_dir(const char *dir)
{
    struct stat st;

    if (mkdir(dir, 0700) < 0 && errno != EEXIST)
        return -errno;
    if (stat(dir, &st) < 0)
        return -errno;
    if (!S_ISDIR(st.st_mode))
        return -ENOTDIR;
    /* Whoever may write there can put something else in the keeper's place. */
    return st.st_uid != geteuid() || (st.st_mode & 022) != 0 ? -EPERM : 0;
}

/* The keeper's first message. 0, -ECONNRESET: it has hung up; -errno. of_any: for root, also that of another user. */
static int receive(int fd, bool of_any, int ret_fds[HEAPFILE_NFDS])
{
    struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
    int fds[FDPASS_MAX];
    int nfds = 0;
    char said[8];
    ssize_t n;

    if (!is_same_user(fd, false) && !(of_any && geteuid() == 0))
        return -EPERM;
    if (poll(&poll_fd, 1, ANSWER_MS) != 1)
        return -ETIMEDOUT;
    n = fdpass_recv(fd, said, sizeof(said), fds, &nfds);
    if (n == 0)
        return -ECONNRESET;
    if (n != 4 || nfds != HEAPFILE_NFDS) {
        for (int i = 0; i < nfds; i++)
            (void)close(fds[i]);
        return n == -ECONNRESET ? -ECONNRESET : -EPROTO;
    }
    memcpy(ret_fds, fds, sizeof(int) * HEAPFILE_NFDS);
    return 0;
}

/* Connect to the keeper at k->addr, whose queue may be full if it is stopped. 0, -errno: k->fd is -1. */
static int connect_to(keeper *k, bool of_any, int ret_fds[HEAPFILE_NFDS])
{
    static const struct timeval wait = { ANSWER_MS / 1000, 0 };
    int r;

    k->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (k->fd < 0)
        return -errno;
    (void)setsockopt(k->fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
    if (connect(k->fd, (const struct sockaddr *)&k->addr, sizeof(k->addr)) < 0)
        r = errno == EAGAIN ? -ETIMEDOUT : -errno;
    else
        r = receive(k->fd, of_any, ret_fds);
    if (r < 0)
        keeper_leave(k);
    return r;
}

/* The keeper of directory dir, to which there is no connection. False: the path is too long for a socket. */
static bool keeper_of(const char *dir, keeper *ret)
{
    *ret = (keeper){ .fd = -1, .addr = { .sun_family = AF_UNIX } };
    return snprintf(ret->addr.sun_path, sizeof(ret->addr.sun_path), "%s/" KEEPER_SOCKET, dir) <
           (int)sizeof(ret->addr.sun_path);
}

int keeper_look(const char *dir, int ret_fds[HEAPFILE_NFDS])
{
    keeper k;
    int r = keeper_of(dir, &k) ? connect_to(&k, true, ret_fds) : -ENAMETOOLONG;

    keeper_leave(&k);
    return r == -ENOENT || r == -ECONNREFUSED ? KEEPER_E_NONE : r;
}

int keeper_connect(keeper *ret, const char *dir, int ret_fds[HEAPFILE_NFDS])
{
    const char *path = ret->addr.sun_path;
    int r;

    if (!keeper_of(dir, ret)) {
        log_error("--state-dir %s: the path is too long for a socket in it", dir);
        return -ENAMETOOLONG;
    }
    r = make_dir(dir);
    if (r < 0) {
        log_error("--state-dir %s: %s", dir,
                  r == -EPERM ? "it is another user's, or others may write to it" : strerror(-r));
        return r;
    }
    /* A keeper to which another daemon has said "bye", and that is about to end, hangs up; then it is gone. */
    for (int ms = 0; (r = connect_to(ret, false, ret_fds)) == -ECONNRESET && ms < GOING_MS; ms += GOING_MS / 100)
        (void)poll(NULL, 0, GOING_MS / 100);
    if (r == 0)
        return 0;
    if (r == -ENOENT || r == -ECONNREFUSED)
        return KEEPER_E_NONE;
    log_error("%s: %s", path, r == -EPROTO || r == -ECONNRESET ? "what answers is no keeper of a heap" : strerror(-r));
    return r;
}

static int make_listener(const struct sockaddr_un *addr)
{
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    mode_t mask;
    int r;

    if (fd < 0)
        return -errno;
    (void)unlink(addr->sun_path); /* nobody answers there */
    mask = umask(0177);
    r = bind(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0 || listen(fd, BACKLOG) < 0 ? -errno : fd;
    (void)umask(mask);
    if (r < 0)
        (void)close(fd);
    return r;
}

int keeper_start(keeper *k, const heapfile *file)
{
    int listener = make_listener(&k->addr);
    int fds[HEAPFILE_NFDS + 1];
    int copies[HEAPFILE_NFDS];
    pid_t pid;
    int r;

    if (listener < 0) {
        log_error("%s: %s", k->addr.sun_path, strerror(-listener));
        return listener;
    }
    memcpy(fds, file->fds, sizeof(file->fds));
    fds[HEAPFILE_NFDS] = listener;
    pid = fork();
    if (pid == 0) {
        (void)setsid();
        (void)prctl(PR_SET_NAME, "goallocd-keeper");
        for (int sig = 1; sig < NSIG; sig++)
            (void)signal(sig, sig == SIGCHLD ? SIG_DFL : SIG_IGN);
        /* Before there is a keeper that answers: then only the daemon has its socket and locks. */
        fds_keep_only(fds, HEAPFILE_NFDS + 1);
        if (fork() != 0) /* init inherits the keeper: the daemon does not wait for its end */
            _exit(EXIT_SUCCESS);
        keep(k->addr.sun_path, fds);
    }
    r = pid < 0 ? -errno : 0;
    (void)close(listener);
    while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
    if (r == 0)
        r = connect_to(k, false, copies);
    if (r < 0) {
        log_error("%s: the keeper does not start: %s", k->addr.sun_path, strerror(-r));
        (void)unlink(k->addr.sun_path); /* if there is one all the same, it ends without its socket */
        return KEEPER_E_LATER;
    }
    heapfile_close_fds(copies);
    return 0;
}

void keeper_dismiss(keeper *k)
{
    struct pollfd poll_fd = { .fd = k->fd, .events = POLLIN };

    if (k->fd < 0)
        return;
    if (send(k->fd, KEEPER_BYE, 3, MSG_NOSIGNAL) == 3)
        (void)poll(&poll_fd, 1, DISMISS_MS);
    keeper_leave(k);
}

void keeper_leave(keeper *k)
{
    if (k->fd >= 0)
        (void)close(k->fd);
    k->fd = -1;
}
