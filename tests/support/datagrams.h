/*
 * Datagrams: a journal for tests: a socket of its own, and what comes there taken apart as systemd's journal does.
 */
#ifndef GOALLOC_TESTS_DATAGRAMS_H
#define GOALLOC_TESTS_DATAGRAMS_H

#include <endian.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define DATAGRAM_FIELDS_MAX 32u

typedef struct datagram_field {
    char name[64];
    char value[2048]; /* with a 0 behind it */
    size_t len_bytes;
} datagram_field;

typedef struct datagram {
    size_t n;
    datagram_field fields[DATAGRAM_FIELDS_MAX];
} datagram;

/* Take the bytes apart. False: they are not what the native protocol says. */
static inline bool datagram_parse(const char *bytes, size_t len_bytes, datagram *ret)
{
    const char *end = bytes + len_bytes;

    for (ret->n = 0; bytes < end; ret->n++) {
        datagram_field *f = &ret->fields[ret->n];
        const char *line_end = memchr(bytes, '\n', (size_t)(end - bytes));
        const char *equals = line_end == NULL ? NULL : memchr(bytes, '=', (size_t)(line_end - bytes));
        size_t name_bytes = (size_t)((equals != NULL ? equals : line_end) - bytes);
        const char *value;

        if (line_end == NULL || ret->n == DATAGRAM_FIELDS_MAX || name_bytes == 0 || name_bytes >= sizeof(f->name))
            return false;
        memcpy(f->name, bytes, name_bytes);
        f->name[name_bytes] = '\0';
        if (strspn(f->name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_") != name_bytes || f->name[0] == '_')
            return false;
        if (equals != NULL) {
            value = equals + 1;
            f->len_bytes = (size_t)(line_end - value);
        } else {
            uint64_t len_le;

            if ((size_t)(end - line_end) < 1 + sizeof(len_le))
                return false;
            memcpy(&len_le, line_end + 1, sizeof(len_le));
            value = line_end + 1 + sizeof(len_le);
            f->len_bytes = le64toh(len_le);
        }
        if (f->len_bytes >= sizeof(f->value) || f->len_bytes >= (size_t)(end - value) || value[f->len_bytes] != '\n')
            return false;
        memcpy(f->value, value, f->len_bytes);
        f->value[f->len_bytes] = '\0';
        bytes = value + f->len_bytes + 1;
    }
    return true;
}

/* The value of a field; NULL: it has none, or two. */
static inline const char *datagram_value(const datagram *d, const char *name)
{
    const char *found = NULL;

    for (size_t i = 0; i < d->n; i++) {
        if (strcmp(d->fields[i].name, name) != 0)
            continue;
        if (found != NULL)
            return NULL;
        found = d->fields[i].value;
    }
    return found;
}

/* True if the datagram has that field with that value, once. */
static inline bool datagram_has(const datagram *d, const char *name, const char *value)
{
    const char *found = datagram_value(d, name);

    return found != NULL && strcmp(found, value) == 0;
}

/* A socket at that path, in whose place nothing is; -1: there can't be one. */
static inline int journal_make(const char *path)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
    (void)unlink(path);
    if (fd >= 0 && bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) == 0)
        return fd;
    if (fd >= 0)
        (void)close(fd);
    return -1;
}

/* The next datagram, which must be one of the protocol. 1; 0: none comes within timeout_ms; -1: it is none. */
static inline int journal_next(int fd, int timeout_ms, datagram *ret)
{
    static char bytes[65536];
    struct pollfd p = { .fd = fd, .events = POLLIN };
    ssize_t n;

    if (poll(&p, 1, timeout_ms) <= 0)
        return 0;
    n = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT);
    return n > 0 && datagram_parse(bytes, (size_t)n, ret) ? 1 : -1;
}

#endif
