/*
 * Lifesign: an OFD lock on a file that nobody else has.
 *
 * Called by serve/session (a session's) and heap/group (a group's). Calls memfd, shelf. Data: none; the file is empty.
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
 * The kernel goes through all locks of a file to set one, and at each close of a descriptor of it. So the descriptions
 * of one sign are bounded: each has a lock on another one of the first LIFESIGN_DOORS bytes, and when all of these are
 * held there is none to be had. A session needs one for all of its life; a group one for all that join it until it has
 * no session any more (heap/group.c).
 *
 * Who has a description can set any number of locks behind these bytes, and each question about one byte goes through
 * all of them: 64 questions take 8 ms beside 20,000 locks. No library sets any there. So whoever has done so gets no
 * further description of that sign: one question about all that lies behind the doors is answered by the first lock.
 * What can be locked within the doors is bounded by their number, for each process.
 *
 * It outlives the daemon: the next one finds the daemon's descriptor on the shelf (shelf.c, lifesign_find()).
 */
#include "daemon/memory/lifesign.h"

#include <errno.h>
#include <unistd.h>

#include "daemon/memory/memfd.h"

int lifesign_new(lifesign *ret)
{
    int fd = memfd_sealed("goalloc-sign", LIFESIGN_BYTES);

    if (fd < 0)
        return fd;
    *ret = (lifesign){ .fd = fd, .is_unused = true };
    return 0;
}

lifesign lifesign_adopt(int fd)
{
    uint64_t bytes;

    if (fd >= 0 && memfd_is_sealed(fd, &bytes) && bytes == LIFESIGN_BYTES)
        return (lifesign){ .fd = fd };
    if (fd >= 0)
        (void)close(fd);
    return LIFESIGN_NONE;
}

/* What is no sign is closed by now, so the shelf must not send its descriptor again. */
lifesign lifesign_find(shelf *s, uint32_t number, uint32_t epoch)
{
    lifesign sign = lifesign_adopt(shelf_take(s, number, epoch));

    if (sign.fd < 0)
        shelf_remove(s, number, epoch);
    return sign;
}

void lifesign_end(lifesign *sign)
{
    if (sign->fd >= 0)
        (void)close(sign->fd);
    *sign = LIFESIGN_NONE;
}

/* A byte that nobody has locked; LIFESIGN_DOORS: none. Nearly always it is the first one: nobody holds the sign. */
static off_t free_door(const lifesign *sign)
{
    off_t at = 0;

    if (memfd_is_locked(sign->fd, LIFESIGN_DOORS, 0))
        return LIFESIGN_DOORS;
    while (at < (off_t)LIFESIGN_DOORS && memfd_is_locked(sign->fd, at, 1))
        at++;
    return at;
}

int lifesign_fd(lifesign *sign)
{
    off_t at = sign->is_unused ? 0 : free_door(sign);

    sign->is_unused = false;
    return at == (off_t)LIFESIGN_DOORS ? -EUSERS : memfd_reopen_locked(sign->fd, O_RDONLY, at);
}

bool lifesign_is_held(const lifesign *sign)
{
    return memfd_is_locked(sign->fd, 0, 0);
}
