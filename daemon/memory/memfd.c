/*
 * Memfd: makes memfds as heaps and sessions have them.
 *
 * Called by heapfile and helper (the heap's), lifesign and heap/offers (a session's and a group's own). Data: none.
 *
 * A memfd is born with mode 0777, and a client that holds a read-only descriptor could reopen it for writing through
 * /proc/self/fd. With 0600 that takes the daemon's own uid (or root), which could do anything to the daemon anyway.
 */
#include "daemon/memory/memfd.h"

#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

int memfd_sealed(const char *name, uint64_t bytes)
{
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    int r;

    if (fd < 0 && errno == EINVAL) /* a kernel before 6.3 */
        fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    if (ftruncate(fd, (off_t)bytes) < 0 || fchmod(fd, 0600) < 0 || fcntl(fd, F_ADD_SEALS, MEMFD_SEALS) < 0) {
        r = -errno;
        (void)close(fd);
        return r;
    }
    return fd;
}

bool memfd_is_sealed(int fd, uint64_t *ret_bytes)
{
    struct stat st;
    int seals = fcntl(fd, F_GET_SEALS);

    if (seals < 0 || (seals & MEMFD_SEALS) != MEMFD_SEALS || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
        return false;
    *ret_bytes = (uint64_t)st.st_size;
    return true;
}

int memfd_reopen(int fd, int flags)
{
    char path[64];
    int r;

    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    r = open(path, flags | O_CLOEXEC);
    return r < 0 ? -errno : r;
}

int memfd_reopen_locked(int fd, int flags, off_t at)
{
    struct flock lock = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = 1 };
    int own = memfd_reopen(fd, flags);
    int r;

    if (own < 0 || fcntl(own, F_OFD_SETLK, &lock) == 0)
        return own;
    r = -errno;
    (void)close(own);
    return r;
}

bool memfd_is_locked(int fd, off_t at, off_t len)
{
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = len };

    return fcntl(fd, F_OFD_GETLK, &lock) < 0 || lock.l_type != F_UNLCK;
}
