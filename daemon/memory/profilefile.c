/*
 * Profilefile: the region of profiles as a file: made, kept for the next daemon, closed.
 *
 * Called by heapfile (find, close) and serve/profiling (make, shelve, tidy). Calls memfd, shelf. Data: the region's
 * header, which is written once, before anybody has the descriptor. After that this daemon neither maps nor reads the
 * region: its writers are all processes that sample, so what stands in it is worth nothing to who has to be right.
 *
 * All of it gets memory when it is made, by fallocate: a process that samples never meets SIGBUS. Nobody else has the
 * file then, so no client can hold its lock; from the moment at which the first one has it, nothing is called that
 * takes the lock. Its size is sealed and its mode 0600, as those of the heap's files.
 *
 * It outlives the daemon on the shelf (shelf.c), as a sign of number 0, which is no session's and no group's, with its
 * seq for an epoch. So a daemon that does not know regions finds there what nobody claims, and closes it; and keeper
 * and systemd need not know of it. The last one of that number counts, so a reset puts the new region there before any
 * word names it: profilefile_find() takes both, the one that the header names and the one that was to follow.
 */
#include "daemon/memory/profilefile.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/memory/memfd.h"

#define SHELF_NUMBER 0u
#define SEQ_MAX      0xffffffu

uint32_t profilefile_next_seq(uint32_t seq)
{
    return seq >= SEQ_MAX ? 1 : seq + 1;
}

/*
 * The call itself and not libc's function: the thread sanitizer, which watches that, does not know memfd_create(), and
 * takes the descriptor for the connection that had its number before, of another thread.
 */
static int fill(int fd, uint64_t generation)
{
    profile_header header = { .magic = PROFILE_MAGIC, .heap = generation, .bytes = PROFILEFILE_BYTES };
    long nwritten;
    int r;

    do
        r = fallocate(fd, 0, 0, (off_t)PROFILEFILE_BYTES);
    while (r < 0 && errno == EINTR);
    if (r < 0)
        return -errno;
    nwritten = syscall(SYS_pwrite64, fd, &header, sizeof(header), (off_t)0);
    return nwritten == sizeof(header) ? 0 : nwritten < 0 ? -errno : -EIO;
}

int profilefile_make(profilefile *ret, uint64_t generation, uint32_t seq)
{
    profilefile file = { .seq = seq, .ro_fd = -1 };
    int r = file.fd = memfd_sealed("goalloc-profile", PROFILEFILE_BYTES);

    if (r >= 0)
        r = fill(file.fd, generation);
    if (r == 0)
        r = file.ro_fd = memfd_reopen(file.fd, O_RDONLY);
    if (r < 0) {
        profilefile_close(&file);
        return r;
    }
    *ret = file;
    return 0;
}

int profilefile_shelve(const profilefile *file, shelf *s)
{
    return shelf_put(s, SHELF_NUMBER, file->seq, file->fd);
}

void profilefile_unshelve(const profilefile *file, shelf *s)
{
    shelf_remove(s, SHELF_NUMBER, file->seq);
}

bool profilefile_is_tidy(shelf *s)
{
    return !shelf_has_left(s, SHELF_NUMBER) || shelf_clean(s);
}

profilefile profilefile_find(shelf *s, uint32_t seq)
{
    uint64_t bytes = 0;
    profilefile file = { .fd = shelf_take(s, SHELF_NUMBER, seq), .ro_fd = -1, .seq = seq };

    if (file.fd < 0) {
        file.seq = profilefile_next_seq(seq);
        file.fd = shelf_take(s, SHELF_NUMBER, file.seq);
    }
    if (file.fd < 0)
        return PROFILEFILE_NONE;
    if (memfd_is_sealed(file.fd, &bytes) && bytes == PROFILEFILE_BYTES)
        file.ro_fd = memfd_reopen(file.fd, O_RDONLY);
    if (file.ro_fd >= 0)
        return file;
    profilefile_unshelve(&file, s);
    profilefile_close(&file);
    return PROFILEFILE_NONE;
}

void profilefile_close(profilefile *file)
{
    if (file->fd >= 0)
        (void)close(file->fd);
    if (file->ro_fd >= 0)
        (void)close(file->ro_fd);
    *file = PROFILEFILE_NONE;
}

uint64_t profilefile_bytes(const profilefile *file)
{
    struct stat st;

    return file->fd < 0 || fstat(file->fd, &st) < 0 ? 0 : (uint64_t)st.st_blocks * 512;
}
