/*
 * Holes: the calls of fallocate that the helper makes, and that tests make without one.
 *
 * Called by the helper (helper.c), in a process of its own. Data: the files of the heap; their mapping is not touched,
 * since the helper has none.
 *
 * fallocate takes the inode lock of the file, for a hole as for memory, and every client that may write to the file can
 * hold that lock as long as it likes: by a fallocate of gigabytes, or by a write whose source page never comes
 * (userfaultfd, FUSE). Who waits for it can't be killed. helper.c says what follows from that.
 */
#include "daemon/memory/holes.h"

#include <errno.h>
#include <fcntl.h>

#include "shm/crash.h"

#define PUNCH          (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)
#define FILL_CALL_PAGES (2 * MIB / PAGE_BYTES)

static int fd_fallocate(int fd, int mode, uint64_t from_bytes, uint64_t len_bytes)
{
    int r;

    do
        r = fallocate(fd, mode, (off_t)from_bytes, (off_t)len_bytes);
    while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : 0;
}

static int punch_metadata(const holes *h, page_range range)
{
    uint64_t first = range.first.n;
    uint64_t n = range.npages;
    int r;

    /* The planes of the bitmap: alloc and remote, kept, mark. The page map of a chunk is half a page: it stays. */
    if ((r = fd_fallocate(h->bitmap_fd, PUNCH, first * 256, n * 256)) < 0 ||
        (r = fd_fallocate(h->bitmap_fd, PUNCH, h->npages * 256 + first * 128, n * 128)) < 0 ||
        (r = fd_fallocate(h->bitmap_fd, PUNCH, h->npages * 384 + first * 128, n * 128)) < 0)
        return r;
    CRASH_POINT(holes_after_bits);
    return fd_fallocate(h->spans_fd, PUNCH, h->span_table_off + first * sizeof(shm_span), n * sizeof(shm_span));
}

int holes_punch(const holes *h, enum holes_kind kind, page_range range)
{
    int r = 0;

    if (kind == HOLES_METADATA || kind == HOLES_ALL)
        r = punch_metadata(h, range);
    if (r == 0 && kind == HOLES_ALL)
        r = fd_fallocate(h->spans_fd, PUNCH, h->page_map_off + range.first.n * sizeof(shm_u32),
                         range.npages * sizeof(shm_u32));
    CRASH_POINT(holes_before_pages);
    if (r == 0 && (kind == HOLES_PAGES || kind == HOLES_ALL))
        r = fd_fallocate(h->arena_fd, PUNCH, page_offset(range.first), range.npages * PAGE_BYTES);
    return r;
}

int holes_fill(const holes *h, page_range range)
{
    uint64_t at = range.first.n;
    uint64_t end = at + range.npages;
    int r = 0;

    /* A piece at a time: clients' calls wait for the same lock. */
    for (; at < end && r == 0; at += FILL_CALL_PAGES) {
        r = fd_fallocate(h->arena_fd, 0, page_offset(page_at(at)),
                         (end - at < FILL_CALL_PAGES ? end - at : FILL_CALL_PAGES) * PAGE_BYTES);
        CRASH_POINT(holes_half_fill);
    }
    return r;
}
