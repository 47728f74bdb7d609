/*
 * Fdstore: FDSTORE=1 with FDNAME, and LISTEN_FDS with LISTEN_FDNAMES (sd_notify(3), sd_listen_fds(3)).
 *
 * Called by main. systemd holds what is put there while the unit restarts, however the daemon ended; the unit's
 * FileDescriptorStorePreserve= says whether it also does while the unit is stopped. It hands the descriptors to the
 * next process from number 3 on, with their names in the environment, in no particular order. FDPOLL=0: none of
 * them hangs up.
 *
 * All go in one message, so that a daemon which dies meanwhile leaves all or none. They share one name in the store;
 * their names as memfds tell them apart, and the ends of the shelf themselves.
 */
#include "daemon/fdstore.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

/* The number of descriptors that systemd has passed to this very process, each of which has a name. */
static int passed_fds(const char *names)
{
    const char *pid = getenv("LISTEN_PID");
    const char *n = getenv("LISTEN_FDS");
    long nnames = 1;
    long nfds;

    if (pid == NULL || n == NULL || names == NULL || strtoul(pid, NULL, 10) != (unsigned long)getpid())
        return 0;
    nfds = strtol(n, NULL, 10);
    for (; *names != '\0' && nnames < FDS_MAX; names++)
        nnames += *names == ':';
    return (int)(nfds < nnames ? nfds : nnames);
}

int fdstore_take(int ret_fds[HEAPFILE_NFDS])
{
    const char *name = getenv("LISTEN_FDNAMES");
    int nfds = passed_fds(name);
    int fds[HEAPFILE_NFDS] = { -1, -1, -1, -1, -1, -1 };
    int nfound = 0;
    bool broken = false;

    for (int i = 0; i < nfds; i++) {
        size_t len = strcspn(name, ":");
        bool ours = len == strlen(STORE_NAME) && memcmp(name, STORE_NAME, len) == 0;
        int fd = FIRST_FD + i;
        int at = ours ? index_of(fd) : -1;

        (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
        if (at >= 0 && fds[at] < 0) {
            fds[at] = fd;
            nfound++;
        } else if (ours) {
            broken = true;
            (void)close(fd);
        }
        name += len + (name[len] == ':');
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

void fdstore_put(const heapfile *file)
{
    notify_systemd_fds("FDSTORE=1\nFDNAME=" STORE_NAME "\nFDPOLL=0", file->fds, HEAPFILE_NFDS);
}

void fdstore_remove(void)
{
    notify_systemd("FDSTOREREMOVE=1\nFDNAME=" STORE_NAME);
}
