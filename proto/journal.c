/*
 * Journal: sends datagrams to the journal's socket.
 *
 * Called by the daemon's log, which opens it in main's thread and uses it in the writer alone from then on, and by the
 * other services' (servicelog.c). Data: private, a socket and an address.
 *
 * A datagram is the journal's native protocol: of each field NAME=value and a newline; or, if the value has newlines,
 * NAME, a newline, the length in 8 bytes, the value, a newline. It is stable and documented by systemd ("Native Journal
 * Protocol").
 *
 * Whether the journal listens: systemd gives a service whose stderr goes there JOURNAL_STREAM, device and inode of that
 * descriptor. A process that such a service has started has the variable as well, and perhaps a file or a terminal as
 * stderr; so the two are compared, as sd-daemon's users are told to.
 *
 * The socket is not connected: each datagram names the path. A connected one would stay with a socket that has been
 * replaced, and nobody here can tell; so a journal that is started anew is found by the next datagram. It is made
 * before the daemon gives up its privileges, and sendto() to a path stays allowed after that: the filter knows the
 * call, and Landlock restricts what makes, removes or writes files, which a socket that is sent to is not
 * (daemon/privileges.c, exporter/confine.c).
 * Nothing is received on it, and it has no name to which somebody could send.
 *
 * The path is systemd's, and its directory root's. GOALLOC_JOURNAL_SOCKET names another one, for tests; like
 * NOTIFY_SOCKET and LD_PRELOAD it is in the hands of who starts the daemon, and not heeded by a program that has got
 * privileges by being started (secure_getenv). The address is fixed before the first client connects. It is an absolute
 * path: who starts the daemon from a directory that others write to has not chosen what is there.
 */
#include "proto/journal.h"

#include <endian.h>
#include <errno.h>
#include <stdint.h>
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

bool journal_has_stderr(void)
{
    const char *stream = secure_getenv("JOURNAL_STREAM");
    char mine[64];
    struct stat st;

    if (stream == NULL || fstat(STDERR_FILENO, &st) < 0)
        return false;
    (void)snprintf(mine, sizeof(mine), "%llu:%llu", (unsigned long long)st.st_dev, (unsigned long long)st.st_ino);
    return strcmp(stream, mine) == 0;
}

bool journal_open(void)
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

int journal_send(const char *bytes, size_t len_bytes)
{
    if (sendto(journal.fd, bytes, len_bytes, MSG_DONTWAIT | MSG_NOSIGNAL, (const struct sockaddr *)&journal.addr,
               sizeof(journal.addr)) >= 0)
        return 0;
    return is_passing(errno) ? JOURNAL_E_LATER : -errno;
}

size_t journal_add_field(char *bytes, size_t size, size_t used, const char *name, const char *value, size_t len_bytes)
{
    size_t name_bytes = strlen(name);
    uint64_t len_le = htole64(len_bytes);
    char *at;

    if (used + name_bytes + 2 + sizeof(len_le) + len_bytes > size)
        return used;
    at = stpcpy(bytes + used, name);
    if (memchr(value, '\n', len_bytes) == NULL) {
        *at++ = '=';
    } else {
        *at++ = '\n';
        memcpy(at, &len_le, sizeof(len_le));
        at += sizeof(len_le);
    }
    memcpy(at, value, len_bytes);
    at[len_bytes] = '\n';
    return (size_t)(at + len_bytes + 1 - bytes);
}
