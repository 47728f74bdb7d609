/*
 * Fds: closes what a child has inherited and must not hold.
 *
 * Called by keeper and memory/helper, in the child, which may have been forked by a process with threads: so by system
 * calls alone. Data: none. The daemon's children live longer than it does. With its other descriptors they would hold
 * the heap's lock and the socket's place, and no successor could start.
 */
#include "daemon/fds.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FDS_MAX 65536 /* that are closed one by one */

void fds_keep_only(int fds[], int nfds)
{
    for (int i = 0; i < nfds; i++) { /* out of the way first */
        fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, nfds);
        if (fds[i] < 0)
            _exit(EXIT_FAILURE);
    }
    for (int i = 0; i < nfds; i++) {
        if (dup2(fds[i], i) < 0)
            _exit(EXIT_FAILURE);
        fds[i] = i;
    }
    if (syscall(SYS_close_range, nfds, ~0U, 0) == 0)
        return;
    for (int fd = nfds; fd < FDS_MAX; fd++) /* a kernel before 5.9 */
        (void)close(fd);
}
