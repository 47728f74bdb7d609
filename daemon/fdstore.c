/*
 * Fdstore: FDSTORE=1 with FDNAME, and LISTEN_FDS with LISTEN_FDNAMES (sd_notify(3), sd_listen_fds(3)).
 *
 * Called by main. What systemd hands over comes in one row: the sockets of socket units first, then what the store has.
 * Nothing relies on that order. The name tells whose a descriptor is: STORE_NAME is the heap's, and any other name, or
 * none, may be the socket's, since a socket unit's FileDescriptorName= is the administrator's; then its kind decides.
 *
 * systemd holds what is put there while the unit restarts, however the daemon ended; the unit's
 * FileDescriptorStorePreserve= says whether it also does while the unit is stopped. It hands the descriptors to the
 * next process from number 3 on, with their names in the environment, in no particular order. FDPOLL=0: none of
 * them hangs up.
 *
 * All go in one message, so that a daemon which dies meanwhile leaves all or none. They share one name in the store;
 * their names as memfds tell them apart, and the ends of the shelf themselves.
 */
#include "daemon/fdstore.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/log.h"
#include "daemon/notify.h"

#define FIRST_FD   3
#define FDS_MAX    65536
#define STORE_NAME "goalloc-heap"

/* The index of the descriptor among the heap's; -1: it is none of them. */
static int index_of(int fd)
{
    int end = shelf_end_of(fd);
    char path[64];
    char link[128];
    ssize_t n;

    if (end >= 0)
        return HEAPFILE_SHELF_IN + end;
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    n = readlink(path, link, sizeof(link) - 1);
    link[n > 0 ? n : 0] = '\0';
    for (int i = 0; i < HEAPFILE_NMEMFDS; i++) {
        char want[128];

        (void)snprintf(want, sizeof(want), "/memfd:%s (deleted)", heapfile_names[i]);
        if (strcmp(link, want) == 0)
            return i;
    }
    return -1;
}

/* The descriptors that systemd has passed to this very process, one by one. */
typedef struct passed {
    int fd;            /* this one */
    int end;           /* the first one that is none of them */
    const char *name;  /* its name, and those of the others behind it */
    size_t name_bytes;
} passed;

static passed passed_begin(void)
{
    const char *pid = getenv("LISTEN_PID");
    const char *n = getenv("LISTEN_FDS");
    const char *names = getenv("LISTEN_FDNAMES");
    long nfds = 0;

    if (pid != NULL && n != NULL && strtoul(pid, NULL, 10) == (unsigned long)getpid())
        nfds = strtol(n, NULL, 10);
    return (passed){
        .fd = FIRST_FD - 1,
        .end = FIRST_FD + (int)(nfds < 0 ? 0 : nfds < FDS_MAX ? nfds : FDS_MAX),
        .name = names != NULL ? names : "",
    };
}

/* On to the next one. False: there is none. Those behind the last name have none. */
static bool passed_next(passed *p)
{
    if (++p->fd >= p->end)
        return false;
    p->name += p->name_bytes;
    p->name += p->fd > FIRST_FD && *p->name == ':';
    p->name_bytes = strcspn(p->name, ":");
    return true;
}

static bool is_named_heap(const passed *p)
{
    return p->name_bytes == strlen(STORE_NAME) && memcmp(p->name, STORE_NAME, p->name_bytes) == 0;
}

int fdstore_take(int ret_fds[HEAPFILE_NFDS])
{
    int fds[HEAPFILE_NFDS] = { -1, -1, -1, -1, -1, -1 };
    int nfound = 0;
    bool broken = false;

    for (passed p = passed_begin(); passed_next(&p);) {
        int at = is_named_heap(&p) ? index_of(p.fd) : -1;

        if (!is_named_heap(&p))
            continue;
        (void)fcntl(p.fd, F_SETFD, FD_CLOEXEC);
        if (at >= 0 && fds[at] < 0) {
            fds[at] = p.fd;
            nfound++;
        } else {
            broken = true;
            (void)close(p.fd);
        }
    }
    if (nfound == HEAPFILE_NFDS && !broken) {
        memcpy(ret_fds, fds, sizeof(fds));
        return 0;
    }
    if (nfound == 0 && !broken)
        return FDSTORE_E_NONE;
    log_error("systemd has handed over %d of %d descriptors of a heap%s", nfound, HEAPFILE_NFDS,
              broken ? ", and others by their name" : "");
    heapfile_close_fds(fds);
    return FDSTORE_E_BROKEN;
}

/* The value of a socket's option, -1: it is no socket. */
static int option_of(int fd, int option)
{
    int value = -1;
    socklen_t len = sizeof(value);

    return getsockopt(fd, SOL_SOCKET, option, &value, &len) < 0 ? -1 : value;
}

static bool is_listener(int fd)
{
    return option_of(fd, SO_DOMAIN) == AF_UNIX && option_of(fd, SO_TYPE) == SOCK_STREAM &&
           option_of(fd, SO_ACCEPTCONN) == 1;
}

int fdstore_take_socket(int *ret_fd)
{
    int found = -1;
    int r = FDSTORE_E_NONE;

    for (passed p = passed_begin(); passed_next(&p);) {
        if (is_named_heap(&p) || fcntl(p.fd, F_SETFD, FD_CLOEXEC) < 0)
            continue;
        if (found < 0 && is_listener(p.fd)) {
            found = p.fd;
            continue;
        }
        if (option_of(p.fd, SO_TYPE) < 0) {
            log_warn("systemd has handed over '%.*s', which is no socket: closed", (int)p.name_bytes, p.name);
        } else {
            r = is_listener(p.fd) ? -E2BIG : -EPROTOTYPE;
            log_error("systemd has handed over the socket '%.*s': %s", (int)p.name_bytes, p.name,
                      r == -E2BIG ? "a goallocd serves one, and this is the second one"
                                  : "a goallocd serves a Unix socket of streams (ListenStream=, Accept=no)");
        }
        (void)close(p.fd);
    }
    if (found >= 0 && r < 0)
        (void)close(found);
    if (r < 0 || found < 0)
        return r;
    *ret_fd = found;
    return 0;
}

void fdstore_put(const heapfile *file)
{
    notify_systemd_fds("FDSTORE=1\nFDNAME=" STORE_NAME "\nFDPOLL=0", file->fds, HEAPFILE_NFDS);
}

void fdstore_remove(void)
{
    notify_systemd("FDSTOREREMOVE=1\nFDNAME=" STORE_NAME);
}
