/*
 * Heapfile: makes the memfds that are the heap, or takes over those that another daemon has left.
 *
 * Called by main (create, open, close), by helper and backing (the files), and by serve/ (descriptors for clients).
 * Data: the header of spans, which is written here once, before the first client can see it. With the memfds goes the
 * shelf (shelf.c), on which the next daemon finds the signs of life of sessions and groups.
 *
 * Each memfd gets its full sparse size and is then sealed against any change of size, so no client can truncate it
 * under the others (memfd.c). No client ever gets the private memfd: it holds the tokens of sessions and
 * groups, says which processes they are and whose the adopted objects are, which must outlive the daemon too.
 *
 * Any client that may write to a file can hold its inode lock as long as it likes. So once clients have the
 * descriptors, no thread of the daemon makes a call that takes it: fallocate, write, ftruncate, fchmod, F_ADD_SEALS.
 * (The helper does: helper.c.) fstat, fcntl, open and pread take none.
 *
 * Clients have the same descriptions of arena, spans and bitmap as the daemon, or the same read-only ones. So the loop
 * opens and closes none of them for a client: a close goes through all locks that clients have set on the file.
 *
 * If the daemon dies while it makes a heap, nobody has its descriptors yet: the kernel frees it.
 *
 * A heap that is taken over may be of another minor (shm/version.h). One of another major, or with features that this
 * build does not know and would have to, is refused before anything of it is changed. Else these stores come before any
 * other one of this daemon, and each may be repeated:
 *   1. optional: the features that this build does not know go. From here on nobody maintains what they stand for, and
 *      no daemon that knows them will believe it;
 *   2. minor: this build's. Nothing depends on it.
 * If the daemon dies before 1, the heap is as its last daemon has left it. After 1, the next one, of any minor, finds
 * as much as is true: an optional bit that stands has been known to every daemon that has written since it was set.
 */
#include "daemon/memory/heapfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/memory/memfd.h"
#include "shm/crash.h"
#include "shm/handover.h"

#define PRIVATE_MAGIC UINT64_C(0x32504f4c4c414f47) /* "GOALLOP2" */

const char *const heapfile_names[HEAPFILE_NMEMFDS] = { "goalloc-arena", "goalloc-spans", "goalloc-bitmap",
                                                       "goalloc-private" };

static const heapfile heapfile_none = {
    .fds = { -1, -1, -1, -1, -1, -1 }, .arena_ro_fd = -1, .spans_ro_fd = -1, .bitmap_ro_fd = -1, .lock_fd = -1,
    .profile = { .fd = -1, .ro_fd = -1 },
};

/* Map the file at a multiple of 2 MiB, so that its huge pages are huge pages of the mapping. NULL: no room. */
static void *map_shared(int fd, uint64_t len_bytes)
{
    uint64_t room_bytes = len_bytes + HUGE_BYTES;
    char *room = mmap(NULL, room_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    uint64_t before;
    uint64_t mapped_bytes = (len_bytes + SYSTEM_PAGE_BYTES - 1) & ~(SYSTEM_PAGE_BYTES - 1);
    void *p;

    if (room == MAP_FAILED)
        return NULL;
    before = (HUGE_BYTES - (uintptr_t)room % HUGE_BYTES) % HUGE_BYTES;
    p = mmap(room + before, len_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, fd, 0);
    if (p == MAP_FAILED) {
        (void)munmap(room, room_bytes);
        return NULL;
    }
    (void)madvise(p, len_bytes, MADV_DONTDUMP); /* else a core dump would give memory to every hole of the file */
    (void)madvise(p, len_bytes, MADV_DONTFORK); /* a keeper is a child of this process */
    if (before > 0)
        (void)munmap(room, before);
    if (before + mapped_bytes < room_bytes)
        (void)munmap(room + before + mapped_bytes, room_bytes - before - mapped_bytes);
    return p;
}

/*
 * Lock and map the four memfds, of the sizes that are set, and reopen them for clients. Nothing is on the shelf yet.
 * The lock (shm/handover.c) makes this the only daemon of the heap. 0; -EADDRINUSE (another daemon has the lock),
 * -errno: part of it may be done.
 */
static int heapfile_map(heapfile *file)
{
    int r = file->lock_fd = handover_lock(file->fds[HEAPFILE_PRIVATE]);

    if (r < 0)
        return r;
    for (int i = 0; i < HEAPFILE_NMEMFDS; i++) {
        file->maps[i] = map_shared(file->fds[i], file->sizes[i]);
        if (file->maps[i] == NULL)
            return -ENOMEM;
    }
    file->private = file->maps[HEAPFILE_PRIVATE];
    file->zeroing = zeroing_new();
    file->shelf = shelf_new(&file->fds[HEAPFILE_SHELF_IN]);
    if (file->zeroing == NULL || file->shelf == NULL)
        return -ENOMEM;
    if ((r = file->arena_ro_fd = memfd_reopen(file->fds[HEAPFILE_ARENA], O_RDONLY)) < 0 ||
        (r = file->spans_ro_fd = memfd_reopen(file->fds[HEAPFILE_SPANS], O_RDONLY)) < 0 ||
        (r = file->bitmap_ro_fd = memfd_reopen(file->fds[HEAPFILE_BITMAP], O_RDONLY)) < 0)
        return r;
    return 0;
}

int heapfile_create(heapfile *ret, uint64_t base, uint64_t arena_bytes)
{
    heapfile file = heapfile_none;
    shm_header layout;
    int r;

    shm_header_init(&layout, base, arena_bytes);
    do {
        if (getrandom(&layout.generation, sizeof(layout.generation), 0) != (ssize_t)sizeof(layout.generation))
            return -errno;
    } while (layout.generation == 0);
    layout.created_ms = shm_clock_ms();
    file.sizes[HEAPFILE_ARENA] = layout.arena_bytes;
    file.sizes[HEAPFILE_SPANS] = layout.spans_bytes;
    file.sizes[HEAPFILE_BITMAP] = layout.bitmap_bytes;
    file.sizes[HEAPFILE_PRIVATE] = sizeof(heap_private);
    for (int i = 0; i < HEAPFILE_NMEMFDS; i++) {
        r = file.fds[i] = memfd_sealed(heapfile_names[i], file.sizes[i]);
        if (r < 0)
            goto fail;
    }
    r = shelf_make(&file.fds[HEAPFILE_SHELF_IN]);
    if (r == 0)
        r = heapfile_map(&file);
    if (r < 0)
        goto fail;
    *(shm_header *)file.maps[HEAPFILE_SPANS] = layout;
    file.private->major = layout.major;
    file.private->generation = layout.generation;
    file.private->magic = PRIVATE_MAGIC;
    shm_map_init(&file.map, file.maps[HEAPFILE_SPANS], file.maps[HEAPFILE_BITMAP], file.maps[HEAPFILE_ARENA]);
    *ret = file;
    return 0;

fail:
    heapfile_close(&file);
    return r;
}

/* --- versions --- */

shm_version heapfile_version(const heapfile *file)
{
    shm_version version = shm_header_version(file->map.header);

    version.daemon = u32_load_relaxed(&file->private->features);
    return version;
}

/* As heapfile_look(), and the sizes. */
static int look(const int fds[HEAPFILE_NFDS], uint64_t sizes[HEAPFILE_NMEMFDS], shm_version *ret, const char **ret_why)
{
    shm_header header;
    uint64_t private[3];

    for (int i = 0; i < HEAPFILE_NMEMFDS; i++) {
        if (!memfd_is_sealed(fds[i], &sizes[i])) {
            *ret_why = "a descriptor is not a sealed memfd";
            return -EPROTO;
        }
    }
    if (pread(fds[HEAPFILE_SPANS], &header, sizeof(header), 0) != (ssize_t)sizeof(header) ||
        header.magic != SHM_MAGIC) {
        *ret_why = "the spans region has no header";
        return -EPROTO;
    }
    *ret = shm_header_version(&header);
    if (ret->major != version_own()->major)
        return 0; /* what lies behind magic and major is its own business */
    if (pread(fds[HEAPFILE_PRIVATE], private, sizeof(private), 0) != (ssize_t)sizeof(private) ||
        private[0] != PRIVATE_MAGIC || (uint32_t)private[1] != header.major || private[2] != header.generation) {
        *ret_why = "its regions do not belong together";
        return -EPROTO;
    }
    ret->daemon = (uint32_t)(private[1] >> 32); /* features, behind major */
    return 0;
}

int heapfile_look(const int fds[HEAPFILE_NFDS], shm_version *ret, const char **ret_why)
{
    uint64_t sizes[HEAPFILE_NMEMFDS];

    return look(fds, sizes, ret, ret_why);
}

/*
 * The heap is this daemon's, which may be of another minor: see the essay. Each store may be repeated.
 */
static void take_over_version(heapfile *file)
{
    shm_header *header = file->map.header;

    u32_store_release(&header->optional, u32_load_relaxed(&header->optional) & version_own()->optional);
    CRASH_POINT(version_after_optional);
    u32_store_release(&header->minor, version_own()->minor);
    CRASH_POINT(version_after_minor);
}

/* --- taking over --- */

/*
 * The region of profiles, of which the header has the number. If it says that the heap has none, a daemon that does not
 * know regions was in between: marks and records mean nothing, and what may still be on the shelf is nobody's.
 */
static void take_over_profile(heapfile *file)
{
    const shm_header *header = file->map.header;

    if ((u32_load_relaxed(&header->optional) & SHM_OPTIONAL_PROFILE) != 0)
        file->profile = profilefile_find(file->shelf, profile_word_unpack(u64_load_relaxed(&header->profile)).seq);
}

/* Check that the descriptors are one heap, which this build may serve. 0, and their sizes; -errno with *ret_why. */
static int check_fds(const int fds[HEAPFILE_NFDS], uint64_t sizes[HEAPFILE_NMEMFDS], const char **ret_why)
{
    static char text[VERSION_TEXT_BYTES];
    shm_version version;
    shm_header layout;
    int r = look(fds, sizes, &version, ret_why);

    if (r < 0)
        return r;
    if (version_check(&version, version_own(), VERSION_SERVES) != 0) {
        *ret_why = version_explain(text, sizeof(text), &version, version_own(), VERSION_SERVES, "this goallocd");
        return -ENOEXEC;
    }
    if (shelf_end_of(fds[HEAPFILE_SHELF_IN]) != SHELF_IN || shelf_end_of(fds[HEAPFILE_SHELF_OUT]) != SHELF_OUT) {
        *ret_why = "a descriptor is not an end of a shelf";
        return -EPROTO;
    }
    if (pread(fds[HEAPFILE_SPANS], &layout, sizeof(layout), 0) != (ssize_t)sizeof(layout) ||
        shm_header_check(&layout, VERSION_SERVES, sizes[HEAPFILE_SPANS], sizes[HEAPFILE_BITMAP]) < 0 ||
        u32_load_relaxed(&layout.dropped) != 0) { /* if it was dropped nobody asks for it */
        *ret_why = "its header is damaged";
        return -EPROTO;
    }
    if (sizes[HEAPFILE_ARENA] != layout.arena_bytes || sizes[HEAPFILE_PRIVATE] < sizeof(heap_private)) {
        *ret_why = "a region has the wrong size";
        return -EPROTO;
    }
    return 0;
}

int heapfile_open(heapfile *ret, const int fds[HEAPFILE_NFDS], const char **ret_why)
{
    heapfile file = heapfile_none;
    int r = check_fds(fds, file.sizes, ret_why);

    if (r < 0)
        return r;
    memcpy(file.fds, fds, sizeof(file.fds));
    r = heapfile_map(&file);
    if (r < 0)
        *ret_why = r == -EADDRINUSE ? "another goallocd serves it" : "it can't be mapped";
    else if ((r = shelf_read(file.shelf)) < 0)
        *ret_why = r == -EPROTO ? "what is on its shelf are no signs of life" : "its shelf can't be read";
    if (r < 0) {
        memcpy(file.fds, heapfile_none.fds, sizeof(file.fds));
        heapfile_close(&file);
        return r;
    }
    shm_map_init(&file.map, file.maps[HEAPFILE_SPANS], file.maps[HEAPFILE_BITMAP], file.maps[HEAPFILE_ARENA]);
    take_over_version(&file);
    take_over_profile(&file);
    *ret = file;
    return 0;
}

void heapfile_close_fds(const int fds[HEAPFILE_NFDS])
{
    for (int i = 0; i < HEAPFILE_NFDS; i++) {
        if (fds[i] >= 0)
            (void)close(fds[i]);
    }
}

void heapfile_close(heapfile *file)
{
    for (int i = 0; i < HEAPFILE_NMEMFDS; i++) {
        if (file->maps[i] != NULL)
            (void)munmap(file->maps[i], file->sizes[i]);
    }
    heapfile_close_fds(file->fds);
    heapfile_close_fds((const int[HEAPFILE_NFDS]){ file->arena_ro_fd, file->spans_ro_fd, file->bitmap_ro_fd,
                                                   file->lock_fd, -1, -1 });
    profilefile_close(&file->profile);
    file->zeroing = zeroing_free(file->zeroing);
    file->shelf = shelf_free(file->shelf);
    *file = heapfile_none;
}

/* --- the private memfd --- */

bool heapfile_token_is(const uint8_t want[SESSION_TOKEN_BYTES], const uint8_t *token, size_t len_bytes)
{
    uint8_t differs = 0;

    if (len_bytes != SESSION_TOKEN_BYTES)
        return false;
    for (size_t i = 0; i < SESSION_TOKEN_BYTES; i++)
        differs |= want[i] ^ token[i];
    return differs == 0;
}

/* --- memory --- */

holes heapfile_holes(const heapfile *file)
{
    return (holes){ .arena_fd = file->fds[HEAPFILE_ARENA],
                    .spans_fd = file->fds[HEAPFILE_SPANS],
                    .bitmap_fd = file->fds[HEAPFILE_BITMAP],
                    .npages = file->map.npages,
                    .page_map_off = file->map.header->page_map_off,
                    .span_table_off = file->map.header->span_table_off };
}

static uint64_t file_bytes(const heapfile *file, int which)
{
    struct stat st;

    return fstat(file->fds[which], &st) < 0 ? 0 : (uint64_t)st.st_blocks * 512;
}

uint64_t heapfile_arena_bytes(const heapfile *file)
{
    return file_bytes(file, HEAPFILE_ARENA);
}

uint64_t heapfile_metadata_bytes(const heapfile *file)
{
    return file_bytes(file, HEAPFILE_SPANS) + file_bytes(file, HEAPFILE_BITMAP) + profilefile_bytes(&file->profile);
}
