/*
 * Fdstore: FDSTORE=1 with FDNAME, and LISTEN_FDS with LISTEN_FDNAMES (sd_notify(3), sd_listen_fds(3)).
 *
 * Called by main. systemd keeps what is put there while the unit restarts, however it ended; whether also while it is
 * stopped is the unit's FileDescriptorStorePreserve=. It hands the descriptors to the next process from number 3 on,
 * with their names in the environment, in no particular order. FDPOLL=0: memfds never hang up.
 */
#include "daemon/fdstore.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/log.h"
#include "daemon/notify.h"

#define FIRST_FD 3

/* Which of the heap's names it is, up to len bytes; -1: none. */
static int name_index(const char *name, size_t len)
{
    for (int i = 0; i < HEAPFILE_NFDS; i++) {
        if (strlen(heapfile_names[i]) == len && memcmp(heapfile_names[i], name, len) == 0)
            return i;
    }
    return -1;
}

/* How many descriptors systemd has passed to this very process. */
static int passed_fds(void)
{
    const char *pid = getenv("LISTEN_PID");
    const char *n = getenv("LISTEN_FDS");

    if (pid == NULL || n == NULL || strtoul(pid, NULL, 10) != (unsigned long)getpid())
        return 0;
    return atoi(n);
}

int fdstore_take(int ret_fds[HEAPFILE_NFDS])
{
    const char *name = getenv("LISTEN_FDNAMES");
    int nfds = passed_fds();
    int fds[HEAPFILE_NFDS];
    int nfound = 0;
    bool broken = false;

    for (int i = 0; i < HEAPFILE_NFDS; i++)
        fds[i] = -1;
    for (int i = 0; i < nfds && name != NULL; i++) {
        size_t len = strcspn(name, ":");
        int at = name_index(name, len);

        (void)fcntl(FIRST_FD + i, F_SETFD, FD_CLOEXEC);
        if (at >= 0 && fds[at] >= 0) {
            broken = true;
            (void)close(FIRST_FD + i);
        } else if (at >= 0) {
            fds[at] = FIRST_FD + i;
            nfound++;
        }
        name += len + (name[len] == ':');
    }
    if (nfound == HEAPFILE_NFDS && !broken) {
        memcpy(ret_fds, fds, sizeof(fds));
        return 0;
    }
    if (nfound == 0)
        return FDSTORE_E_NONE;
    log_error("systemd has handed over %d of %d descriptors of a heap%s", nfound, HEAPFILE_NFDS,
              broken ? ", some twice" : "");
    for (int i = 0; i < HEAPFILE_NFDS; i++) {
        if (fds[i] >= 0)
            (void)close(fds[i]);
    }
    return FDSTORE_E_BROKEN;
}

bool fdstore_put(const heapfile *file)
{
    bool all = true;

    for (int i = 0; i < HEAPFILE_NFDS; i++) {
        char state[96];

        (void)snprintf(state, sizeof(state), "FDSTORE=1\nFDNAME=%s\nFDPOLL=0", heapfile_names[i]);
        all = notify_systemd_fd(state, file->fds[i]) && all;
    }
    return all;
}

void fdstore_remove(void)
{
    for (int i = 0; i < HEAPFILE_NFDS; i++) {
        char state[96];

        (void)snprintf(state, sizeof(state), "FDSTOREREMOVE=1\nFDNAME=%s", heapfile_names[i]);
        notify_systemd(state);
    }
}
