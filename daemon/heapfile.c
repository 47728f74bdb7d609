/*
 * Heapfile: makes the memfds that are the heap.
 *
 * Called by main (create, close), mheap (punch), commit (commit, in the thread pool) and stats. Each memfd gets its
 * full sparse size and is then sealed against any change of size, so no client can truncate it under the others. Its
 * mode becomes 0600: a memfd is born with 0777, and a client that holds a read-only descriptor could reopen it for
 * writing through /proc/self/fd. With 0600 that takes the daemon's own uid (or root), which could do anything to the
 * daemon anyway.
 *
 * The header of spans is written here, once, before the first client can see it.
 */
#include "daemon/heapfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

/* A sealed memfd of len_bytes. Returns the descriptor or -errno. */
static int memfd_sealed(const char *name, uint64_t len_bytes)
{
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    int r;

    if (fd < 0 && errno == EINVAL) /* a kernel before 6.3 */
        fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    if (ftruncate(fd, (off_t)len_bytes) < 0 || fchmod(fd, 0600) < 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
        r = -errno;
        (void)close(fd);
        return r;
    }
    return fd;
}

static int reopen_readonly(int fd)
{
    char path[64];
    int ro;

    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    ro = open(path, O_RDONLY | O_CLOEXEC);
    return ro < 0 ? -errno : ro;
}

static void *map_shared(int fd, uint64_t len_bytes)
{
    void *p = mmap(NULL, len_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);

    return p == MAP_FAILED ? NULL : p;
}

int heapfile_create(heapfile *ret, uint64_t base, uint64_t arena_bytes)
{
    heapfile file = { -1, -1, -1, -1, -1, -1, { 0 } };
    shm_header layout;
    shm_header *header = NULL;
    void *bitmap = NULL;
    void *arena = NULL;
    int r;

    shm_header_init(&layout, base, arena_bytes);
    do {
        if (getrandom(&layout.generation, sizeof(layout.generation), 0) != (ssize_t)sizeof(layout.generation))
            return -errno;
    } while (layout.generation == 0);

    if ((r = file.arena_fd = memfd_sealed("goalloc-arena", arena_bytes)) < 0 ||
        (r = file.spans_fd = memfd_sealed("goalloc-spans", layout.spans_bytes)) < 0 ||
        (r = file.bitmap_fd = memfd_sealed("goalloc-bitmap", layout.bitmap_bytes)) < 0 ||
        (r = file.arena_ro_fd = reopen_readonly(file.arena_fd)) < 0 ||
        (r = file.spans_ro_fd = reopen_readonly(file.spans_fd)) < 0 ||
        (r = file.bitmap_ro_fd = reopen_readonly(file.bitmap_fd)) < 0)
        goto fail;

    header = map_shared(file.spans_fd, layout.spans_bytes);
    bitmap = map_shared(file.bitmap_fd, layout.bitmap_bytes);
    arena = map_shared(file.arena_fd, arena_bytes);
    if (header == NULL || bitmap == NULL || arena == NULL) {
        r = -ENOMEM;
        goto fail;
    }
    *header = layout;
    shm_map_init(&file.map, header, bitmap, arena);
    *ret = file;
    return 0;

fail:
    file.map.header = header;
    file.map.spans_bytes = layout.spans_bytes;
    file.map.bitmap = bitmap;
    file.map.bitmap_bytes = layout.bitmap_bytes;
    file.map.arena = arena;
    file.map.arena_bytes = arena_bytes;
    heapfile_close(&file);
    return r;
}

void heapfile_close(heapfile *file)
{
    int *fds[] = { &file->arena_fd,    &file->spans_fd,    &file->bitmap_fd,
                   &file->arena_ro_fd, &file->spans_ro_fd, &file->bitmap_ro_fd };

    if (file->map.header != NULL)
        (void)munmap(file->map.header, file->map.spans_bytes);
    if (file->map.bitmap != NULL)
        (void)munmap(file->map.bitmap, file->map.bitmap_bytes);
    if (file->map.arena != NULL)
        (void)munmap(file->map.arena, file->map.arena_bytes);
    memset(&file->map, 0, sizeof(file->map));
    for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
        if (*fds[i] >= 0)
            (void)close(*fds[i]);
        *fds[i] = -1;
    }
}

#define PUNCH (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)

static int fd_fallocate(int fd, int mode, uint64_t from_bytes, uint64_t len_bytes)
{
    int r;

    do
        r = fallocate(fd, mode, (off_t)from_bytes, (off_t)len_bytes);
    while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : 0;
}

int heapfile_commit(const heapfile *file, page_no first, uint64_t npages)
{
    return fd_fallocate(file->arena_fd, 0, page_offset(first), npages * PAGE_BYTES);
}

int heapfile_punch(const heapfile *file, page_no first, uint64_t npages)
{
    return fd_fallocate(file->arena_fd, PUNCH, page_offset(first), npages * PAGE_BYTES);
}

int heapfile_punch_metadata(const heapfile *file, page_no first, uint64_t npages)
{
    uint64_t table_off = file->map.header->span_table_off;
    uint64_t all = file->map.npages;
    int r;

    /* The planes of the bitmap: alloc and remote, kept, mark. The page map of a chunk is half a page: it stays. */
    if ((r = fd_fallocate(file->bitmap_fd, PUNCH, first.n * UINT64_C(256), npages * 256)) < 0 ||
        (r = fd_fallocate(file->bitmap_fd, PUNCH, all * 256 + first.n * UINT64_C(128), npages * 128)) < 0 ||
        (r = fd_fallocate(file->bitmap_fd, PUNCH, all * 384 + first.n * UINT64_C(128), npages * 128)) < 0)
        return r;
    return fd_fallocate(file->spans_fd, PUNCH, table_off + first.n * sizeof(shm_span), npages * sizeof(shm_span));
}

static uint64_t fd_bytes(int fd)
{
    struct stat st;

    return fstat(fd, &st) < 0 ? 0 : (uint64_t)st.st_blocks * 512;
}

uint64_t heapfile_metadata_bytes(const heapfile *file)
{
    return fd_bytes(file->spans_fd) + fd_bytes(file->bitmap_fd);
}

uint64_t heapfile_arena_bytes(const heapfile *file)
{
    return fd_bytes(file->arena_fd);
}
