/*
 * Logjournal: sends datagrams to the journal's socket.
 *
 * Called by log.c: opened by main's thread, used by the writer alone from then on. Data: private, a socket and an
 * address.
 *
 * Whether the journal listens: systemd gives a service whose stderr goes there JOURNAL_STREAM, device and inode of that
 * descriptor. A process that such a service has started has the variable as well, and perhaps a file or a terminal as
 * stderr; so the two are compared, as sd-daemon's users are told to.
 *
 * The socket is not connected: each datagram names the path. A connected one would stay with a socket that has been
 * replaced, and the daemon can't tell; so a journal that is started anew is found by the next datagram. It is made
 * before the daemon gives up its privileges, and sendto() to a path stays allowed after that: the filter knows the
 * call, and Landlock restricts what makes, removes or writes files, which a socket that is sent to is not
 * (privileges.c).
 * Nothing is received on it, and it has no name to which somebody could send.
 *
 * The path is systemd's, and its directory root's. GOALLOC_JOURNAL_SOCKET names another one, for tests; like
 * NOTIFY_SOCKET and LD_PRELOAD it is in the hands of who starts the daemon, and not heeded by a program that has got
 * privileges by being started (secure_getenv). The address is fixed before the first client connects. It is an absolute
 * path: who starts the daemon from a directory that others write to has not chosen what is there.
 */
#include "daemon/logjournal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define JOURNAL_SOCKET "/run/systemd/journal/socket"

static struct {
    int fd;
    struct sockaddr_un addr;
} journal = { .fd = -1 };

bool logjournal_has_stderr(void)
{
    const char *stream = secure_getenv("JOURNAL_STREAM");
    char mine[64];
    struct stat st;

    if (stream == NULL || fstat(STDERR_FILENO, &st) < 0)
        return false;
    (void)snprintf(mine, sizeof(mine), "%llu:%llu", (unsigned long long)st.st_dev, (unsigned long long)st.st_ino);
    return strcmp(stream, mine) == 0;
}

bool logjournal_open(void)
{
    const char *path = secure_getenv("GOALLOC_JOURNAL_SOCKET");
    struct stat st;

    if (path == NULL)
        path = JOURNAL_SOCKET;
    if (path[0] != '/' || strlen(path) >= sizeof(journal.addr.sun_path) || stat(path, &st) < 0 || !S_ISSOCK(st.st_mode))
        return false;
    journal.addr.sun_family = AF_UNIX;
    (void)strcpy(journal.addr.sun_path, path);
    journal.fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    return journal.fd >= 0;
}

/* A journal that is full, has died, or is just being started is there again soon; all else would fail again. */
static bool is_passing(int error)
{
    return error == EAGAIN || error == EINTR || error == ENOBUFS || error == ENOMEM || error == ECONNREFUSED ||
           error == ENOENT || error == ECONNRESET || error == ENOTCONN || error == EPIPE;
}

int logjournal_send(const char *bytes, size_t len_bytes)
{
    if (sendto(journal.fd, bytes, len_bytes, MSG_DONTWAIT | MSG_NOSIGNAL, (const struct sockaddr *)&journal.addr,
               sizeof(journal.addr)) >= 0)
        return 0;
    return is_passing(errno) ? LOGJOURNAL_E_LATER : -errno;
}
