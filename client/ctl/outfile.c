/*
 * Outfile: writes beside the file, and renames.
 *
 * Called by commands that write files, when all that is to be written is there. Who reads the file at any moment reads
 * the old one or the new one. A process that is killed in between leaves a file of another name: the same with a dot
 * and six characters behind it. A file that is replaced hands its mode on, and its owner if the system lets; a link to
 * it stays one.
 */
#include "client/ctl/outfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int write_all(int fd, const void *bytes, size_t len)
{
    const uint8_t *at = bytes;

    while (len > 0) {
        ssize_t n = write(fd, at, len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        at += n;
        len -= (size_t)n;
    }
    return 0;
}

/* The file has its bytes, and is closed: some systems say only then that there was no room. */
static int fill_and_close(int fd, const void *bytes, size_t len)
{
    int r = write_all(fd, bytes, len);

    if (close(fd) < 0 && r == 0)
        r = -errno;
    return r;
}

/* What a new file's mode is, as open() would make it. */
static mode_t new_mode(void)
{
    mode_t mask = umask(0);

    (void)umask(mask);
    return 0666 & ~mask;
}

/* temporary: a template of mkostemp(). old: the file that is there; NULL: none. */
static int write_beside(const char *path, char *temporary, const struct stat *old, const void *bytes, size_t len)
{
    int fd = mkostemp(temporary, O_CLOEXEC);
    int r;

    if (fd < 0)
        return -errno;
    if (old != NULL && fchown(fd, old->st_uid, old->st_gid) < 0)
        errno = 0; /* who replaces it has it then */
    (void)fchmod(fd, old != NULL ? old->st_mode & 0777 : new_mode());
    r = fill_and_close(fd, bytes, len);
    if (r == 0 && rename(temporary, path) < 0)
        r = -errno;
    if (r < 0)
        (void)unlink(temporary);
    return r;
}

/* What is there, if anything is, is a regular file. */
static int write_file(const char *path, const struct stat *old, const void *bytes, size_t len)
{
    char *real = NULL;
    char *temporary = NULL;
    int r = 0;

    if (old != NULL && access(path, W_OK) < 0)
        return -errno;
    real = old != NULL ? realpath(path, NULL) : strdup(path);
    if (real == NULL)
        return -errno;
    if (asprintf(&temporary, "%s.XXXXXX", real) < 0) {
        free(real);
        return -ENOMEM;
    }
    r = write_beside(real, temporary, old, bytes, len);
    free(real);
    free(temporary);
    return r;
}

int outfile_write(const char *path, const void *bytes, size_t len)
{
    struct stat old;
    bool is_there;
    int fd;

    if (strcmp(path, "-") == 0)
        return fflush(stdout) == 0 ? write_all(STDOUT_FILENO, bytes, len) : -errno;
    is_there = stat(path, &old) == 0;
    if (!is_there || S_ISREG(old.st_mode))
        return write_file(path, is_there ? &old : NULL, bytes, len);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    return fd < 0 ? -errno : fill_and_close(fd, bytes, len);
}
