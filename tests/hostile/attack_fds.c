/*
 * Attacks by descriptors: those that a client passes to the daemon, and what it does to those that it was given.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "tests/hostile/enemy.h"

#define LINGER_S 12
#define INODE_BYTES (1 * GIB)
#define PEERS_MAX 4096u
#define LOCKS_EACH 300u
#define LOCKS_END 1000000
#define BEHIND_BYTES (64 * MIB)

/* Offset in the arena, far above what honest clients use, of the attacker's own. */
static off_t far_up(const attacker *a, const rawheap *heap)
{
    return (off_t)(heap->map.arena_bytes - (a->number + 1) * INODE_BYTES);
}

/* --- a close that takes long --- */

/* A TCP socket whose close() blocks for LINGER_S: its peer is *ret_peer, and never reads. -1: none could be made. */
static int make_lingering(int *ret_peer)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof(address);
    const struct linger linger = { .l_onoff = 1, .l_linger = LINGER_S };
    static const char data[65536];
    const int few = 4096;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool good = setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &few, sizeof(few)) == 0 &&
                setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &few, sizeof(few)) == 0 &&
                bind(listener, (const struct sockaddr *)&address, len) == 0 && listen(listener, 1) == 0 &&
                getsockname(listener, (struct sockaddr *)&address, &len) == 0 &&
                connect(fd, (const struct sockaddr *)&address, len) == 0;

    *ret_peer = good ? accept4(listener, NULL, NULL, SOCK_CLOEXEC) : -1;
    good = good && *ret_peer >= 0 && setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)) == 0;
    while (good && send(fd, data, sizeof(data), MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
        continue;
    (void)close(listener);
    if (!good) {
        (void)close(fd);
        fd = -1;
    }
    return fd;
}

/*
 * Sends the daemon such a socket, with one byte, on a connection without a session, and closes its own copy: the last
 * one is the daemon's, and whoever closes it blocks.
 */
void attack_linger(attacker *a)
{
    const struct linger none = { .l_onoff = 1, .l_linger = 0 };
    static int peers[PEERS_MAX]; /* while one is open, its socket has something to wait for */

    memset(peers, -1, sizeof(peers));
    for (unsigned n = 0;; n++) {
        int *peer = &peers[n % PEERS_MAX];
        int connection = enemy_must_connect(a);
        int fd;

        if (*peer >= 0)
            (void)close(*peer);
        fd = make_lingering(peer);
        if (fd >= 0 && fdpass_send(connection, "", 1, &fd, 1) == 1) {
            (void)close(fd);
            enemy_deed(a, 1);
            board_sleep_us(20000);
        } else { /* it is still the attacker's, which does not wait itself */
            if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof(none)) == 0)
                (void)close(fd);
            enemy_refused(a);
        }
        (void)close(connection);
    }
}

/* --- locks --- */

/*
 * Thousands of read locks on spans, arena and bitmap, by the descriptions that all clients share, again and again; and
 * sessions come and go, so that there are deaths to be noticed, and descriptors to be closed.
 */
void attack_locks(attacker *a)
{
    static const int which[] = { ATTACH_FD_ARENA, ATTACH_FD_SPANS, ATTACH_FD_BITMAP };
    rawheap holder;
    off_t at = 0;

    enemy_must_attach(a, &holder, 8192, 0, true);
    for (;;) {
        rawheap heap;
        uint32_t span;

        for (unsigned n = 0; n < LOCKS_EACH; n++, at += 2) {
            struct flock one = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = at % LOCKS_END, .l_len = 1 };

            if (fcntl(holder.fds[which[n % 3]], F_OFD_SETLK, &one) < 0)
                enemy_refused(a);
        }
        enemy_must_attach(a, &heap, 8192, 0, false);
        (void)rawheap_refill(&heap, 10, 0, 1, &span);
        enemy_close(&heap);
        enemy_deed(a, 1);
        board_sleep_us(10000);
    }
}

/* --- the lock of the arena's inode --- */

/* Takes memory for a GiB of the arena, and gives it back: both hold the lock of the inode for long. */
void attack_inode(attacker *a)
{
    rawheap heap;
    off_t at;

    enemy_must_attach(a, &heap, 8192, 0, true);
    at = far_up(a, &heap);
    for (;;) {
        if (fallocate(heap.fds[ATTACH_FD_ARENA], 0, at, (off_t)INODE_BYTES) < 0)
            enemy_refused(a);
        (void)fallocate(heap.fds[ATTACH_FD_ARENA], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, (off_t)INODE_BYTES);
        enemy_deed(a, 1);
    }
}

/*
 * A write to the arena whose source page never comes: the lock of the inode is held until the writer dies. Of such
 * pages userfaultfd makes some; a FUSE file system of the attacker's own would do as well.
 */
void attack_stalled_page(attacker *a)
{
    struct uffdio_api api = { .api = UFFD_API };
    struct uffdio_register region = { .mode = UFFDIO_REGISTER_MODE_MISSING };
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    rawheap heap;

    enemy_must_attach(a, &heap, 8192, 0, true);
    region.range.start = (uint64_t)(uintptr_t)page;
    region.range.len = 4096;
    if (page == MAP_FAILED || a->uffd < 0 || ioctl(a->uffd, UFFDIO_API, &api) < 0 ||
        ioctl(a->uffd, UFFDIO_REGISTER, &region) < 0)
        return;
    enemy_deed(a, 1);
    (void)!pwrite(heap.fds[ATTACH_FD_ARENA], page, 4096, far_up(a, &heap));
}

/* --- memory that the books don't know --- */

/* Puts memory behind pages of arena and bitmap that nobody has leased, and ends its session. */
void attack_behind_books(attacker *a)
{
    for (uint64_t n = 0;; n++) {
        rawheap heap;
        off_t at;

        enemy_must_attach(a, &heap, 8192, 0, true);
        at = far_up(a, &heap) + (off_t)(n % 8 * BEHIND_BYTES);
        if (fallocate(heap.fds[ATTACH_FD_ARENA], 0, at, (off_t)BEHIND_BYTES) < 0 ||
            fallocate(heap.fds[ATTACH_FD_BITMAP], 0, at / (off_t)(PAGE_BYTES / 256),
                      (off_t)(BEHIND_BYTES / (PAGE_BYTES / 256))) < 0)
            enemy_refused(a);
        enemy_close(&heap);
        enemy_deed(a, 1);
        board_sleep_us(100000);
    }
}

/* --- holes in the bitmap --- */

/* True if this session leases the page, as its span's first one or another one. */
static bool is_own(const rawheap *heap, uint64_t page)
{
    page_no first = page_at(u32_load_relaxed(&heap->map.page_map[page]));

    return first.n != 0 && rawheap_leases(heap, first);
}

/*
 * Leases many small spans and punches the bits of those whose neighbours are its own too, so that no bit of anybody
 * else is touched: whoever looks at them takes a page fault each.
 */
void attack_punch(attacker *a)
{
    static uint32_t spans[16384];
    rawheap heap;
    size_t n = 0;
    size_t got;

    enemy_must_attach(a, &heap, 0, 0, true);
    while (n + PROTO_SPANS_MAX <= sizeof(spans) / sizeof(spans[0]) &&
           (got = rawheap_refill(&heap, 2, 0, PROTO_SPANS_MAX, spans + n)) > 0)
        n += got;
    for (;;) {
        for (size_t i = 0; i < n; i++) {
            uint64_t first = spans[i] / 16 * 16; /* pages whose bits lie in one page of the system */
            unsigned own = 0;

            while (own < 16 && is_own(&heap, first + own))
                own++;
            if (own == 16 && fallocate(heap.fds[ATTACH_FD_BITMAP], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                       (off_t)(first * 256), 4096) == 0)
                enemy_deed(a, 1);
        }
        if (n == 0)
            enemy_refused(a);
    }
}
