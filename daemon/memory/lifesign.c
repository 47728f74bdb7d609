/*
 * Lifesign: an OFD lock on a file that nobody else has.
 *
 * Called by heap/offers and serve/session (a session's), heap/group (a group's). Calls memfd. Data: the file's first
 * word, an id, written once.
 *
 * The daemon makes a memfd, opens it a second time, puts a shared lock on that second description, sends it to the
 * client, and closes its own copy. From then on the description belongs to the client alone. It leaves a page of the
 * file mapped, and the mapping holds the description: so the lock survives when a program closes all descriptors, and
 * the kernel drops it with the last reference, at the end of the process, at exec, at detach. The daemon retains the
 * first description, which has no lock, and asks the kernel whether anybody has one (F_OFD_GETLK): no message, no help
 * of the client's.
 *
 * Nobody can forge it: the file has mode 0600 and no name, and only this session's process (or this group's members
 * and their children) is sent a description. What other clients lock on other files does not count, nor does it make
 * the question slower: the question is about the whole file, so the first lock that is there answers it. A client can
 * pass its own description on. Then its own session looks alive, until its pidfd says that the process is dead
 * (serve/deaths.c), which counts more.
 *
 * It ends with the daemon. The next one has none of its predecessor's, and goes by what serve/deaths.c says until the
 * process comes back and gets a new one.
 */
#include "daemon/memory/lifesign.h"

#include <errno.h>
#include <sys/random.h>
#include <unistd.h>

#include "daemon/memory/memfd.h"

int lifesign_new(lifesign *ret, uint64_t bytes)
{
    lifesign sign = { .id = 0 };
    int r;

    do {
        if (getrandom(&sign.id, sizeof(sign.id), 0) != (ssize_t)sizeof(sign.id))
            return -EIO;
    } while (sign.id == 0);
    sign.fd = memfd_sealed("goalloc-own", bytes);
    if (sign.fd < 0)
        return sign.fd;
    if (pwrite(sign.fd, &sign.id, sizeof(sign.id), 0) != (ssize_t)sizeof(sign.id)) {
        r = errno != 0 ? -errno : -EIO;
        (void)close(sign.fd);
        return r;
    }
    *ret = sign;
    return 0;
}

void lifesign_end(lifesign *sign)
{
    if (sign->fd >= 0)
        (void)close(sign->fd);
    *sign = LIFESIGN_NONE;
}

int lifesign_fd(const lifesign *sign, bool writable)
{
    return memfd_reopen_locked(sign->fd, writable ? O_RDWR : O_RDONLY, 0);
}

bool lifesign_is_held(const lifesign *sign)
{
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

    return fcntl(sign->fd, F_OFD_GETLK, &lock) < 0 || lock.l_type != F_UNLCK;
}
