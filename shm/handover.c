/*
 * Handover: the lock by which a heap has one daemon, and the word that says that it will have none any more.
 *
 * Called by the daemon (heapfile.c, main.c), for a heap that it serves, takes over or begins anew, and by goallocctl,
 * which ends a keeper that is left over. Both get descriptors from somebody else, so a file is looked at only if it
 * can't shrink meanwhile (it is sealed) and begins as a heap does. Data: the header's word dropped.
 *
 * The lock is an OFD lock on the first byte of the private memfd, by a description of its own: no successor shares it,
 * and the kernel drops it with its holder. A child that the daemon has just forked shares it until it has closed what
 * it must not hold (memory/helper.c), so who finds it taken looks again for TRIES * TRY_EVERY_MS. Who marks a heap as
 * dropped that it does not serve takes the lock first.
 *
 * The word is stored by one atomic store and never cleared. If who drops the heap dies before the store, the heap is
 * there for the next daemon, as if nobody had dropped it. If it dies after the store, everybody who has the heap mapped
 * knows that it is over, while a keeper, or systemd, may still hold its descriptors: the next daemon sees the word,
 * lets them go and begins with a new heap.
 */
#include "shm/handover.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "shm/layout.h"

#define TRIES        40
#define TRY_EVERY_MS 5

static struct flock whole_heap(void)
{
    return (struct flock){ .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1 };
}

int handover_lock(int private_fd)
{
    struct flock lock = whole_heap();
    char path[64];
    int fd;
    int r;

    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", private_fd);
    fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    for (int i = 0; i < TRIES; i++) {
        if (i > 0)
            (void)nanosleep(&(struct timespec){ 0, TRY_EVERY_MS * 1000000L }, NULL);
        if (fcntl(fd, F_OFD_SETLK, &lock) == 0)
            return fd;
        if (errno != EAGAIN)
            break;
    }
    r = errno == EAGAIN ? -EADDRINUSE : -errno;
    (void)close(fd);
    return r;
}

int handover_is_locked(int private_fd)
{
    struct flock lock = whole_heap();

    return fcntl(private_fd, F_OFD_GETLK, &lock) < 0 ? -errno : lock.l_type != F_UNLCK;
}

/* True if the file begins as the spans of a heap do, and can't become shorter. */
static bool is_heap(int spans_fd)
{
    struct stat st;
    uint64_t magic;
    int seals = fcntl(spans_fd, F_GET_SEALS);

    return seals >= 0 && (seals & F_SEAL_SHRINK) != 0 && fstat(spans_fd, &st) == 0 &&
           st.st_size >= (off_t)sizeof(shm_header) && pread(spans_fd, &magic, sizeof(magic), 0) == sizeof(magic) &&
           magic == SHM_MAGIC;
}

int handover_is_dropped(int spans_fd)
{
    uint32_t word;

    if (!is_heap(spans_fd) ||
        pread(spans_fd, &word, sizeof(word), offsetof(shm_header, dropped)) != (ssize_t)sizeof(word))
        return -EPROTO;
    return word == SHM_DROPPED;
}

int handover_mark_dropped(int spans_fd)
{
    shm_header *header;

    if (!is_heap(spans_fd))
        return -EPROTO;
    header = mmap(NULL, sizeof(*header), PROT_READ | PROT_WRITE, MAP_SHARED, spans_fd, 0);
    if (header == MAP_FAILED)
        return -errno;
    u32_store_release(&header->dropped, SHM_DROPPED);
    (void)munmap(header, sizeof(*header));
    return 0;
}
