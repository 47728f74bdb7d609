/*
 * shared: shared mappings of files that are not the heap's. See shared.h.
 *
 * Called by ranges.c and world.c. Data: descriptors and parts, of a cycle.
 *
 * What counts is the data of the file, whoever has written it and whether this process has touched it: pages that the
 * process's page table does not name may hold pointers of others. So the file itself is read, and its holes stay holes.
 * It is opened by the first of these that leads to the same file:
 *   1. /proc/PID/map_files, which takes CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE;
 *   2. a descriptor of the process that has it open;
 *   3. its path.
 * Otherwise (anonymous shared memory, for who has CAP_SYS_PTRACE alone) nobody can see all of it: the process is
 * opaque. Trust in the kernel does not help: what lies there are the process's own words.
 *
 * A file system that a process serves, or another machine, may keep a reader waiting for ever, perhaps for one that is
 * stopped: files of those make the process opaque too. Already to open such a file, or to ask of which kind it is, may
 * wait. So files are opened before the pause only: a file that was mapped since then ends the cycle, and the next one
 * opens it. Nothing but regular files is opened. What lies on top of such a file system without a word of it, as an
 * overlay may, keeps a reader of world.c waiting: readers alone open, read and close files.
 */
#include "client/collector/shared.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "client/collector/grow.h"

#define FUSE_MAGIC 0x65735546
#define CIFS_MAGIC 0xff534d42
#define CEPH_MAGIC 0x00c36400

void shared_init(shared *s)
{
    *s = (shared){ .lock = PTHREAD_MUTEX_INITIALIZER };
}

void shared_free(shared *s)
{
    for (uint32_t i = 0; i < s->nfiles; i++) {
        if (s->files[i].fd >= 0)
            (void)close(s->files[i].fd);
    }
    free(s->files);
    free(s->parts);
    shared_init(s);
}

void shared_clear(shared *s)
{
    s->nparts = 0;
    s->closed = true;
}

/* True if a read of it may wait for somebody. To ask that may, too, but no longer than before the pause. */
static bool may_wait(int fd)
{
    struct statfs fs;

    if (fstatfs(fd, &fs) < 0)
        return true;
    switch ((uint32_t)fs.f_type) {
    case FUSE_MAGIC:
    case CIFS_MAGIC:
    case CEPH_MAGIC:
    case NFS_SUPER_MAGIC:
    case SMB_SUPER_MAGIC:
    case AFS_SUPER_MAGIC:
    case V9FS_MAGIC:
        return true;
    default:
        return false;
    }
}

/* What is known here of a file (path "": of the descriptor's): who serves the file system is not asked. */
static bool look_up(int fd, const char *path, struct statx *ret)
{
    int how = AT_STATX_DONT_SYNC | (path[0] == '\0' ? AT_EMPTY_PATH : 0);

    return statx(fd, path, how, STATX_TYPE | STATX_INO, ret) == 0;
}

/* True if the file that is open is the one. Some file systems show other devices in maps than stat() does. */
static bool is_file(int fd, maps_file file)
{
    struct statfs fs;
    struct statx st;

    if (!look_up(fd, "", &st) || st.stx_ino != file.inode || !S_ISREG(st.stx_mode))
        return false;
    if (((uint64_t)st.stx_dev_major << 32 | st.stx_dev_minor) == file.device)
        return true;
    return fstatfs(fd, &fs) == 0 && (fs.f_type == BTRFS_SUPER_MAGIC || fs.f_type == OVERLAYFS_SUPER_MAGIC);
}

/* Open it without effect first, then to read if it is the file, and one whose reader does not wait. -1: not. */
static int open_if_same(const char *path, const maps_file *file)
{
    char again[64];
    struct statx st;
    int fd = open(path, O_PATH | O_CLOEXEC), ret = -1;

    if (fd < 0)
        return -1;
    if ((file == NULL ? look_up(fd, "", &st) && S_ISREG(st.stx_mode) : is_file(fd, *file)) && !may_wait(fd)) {
        (void)snprintf(again, sizeof(again), "/proc/self/fd/%d", fd);
        ret = open(again, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    }
    (void)close(fd);
    return ret;
}

/* A descriptor of the process that has it open. */
static int open_by_descriptor(pid_t tid, maps_file file)
{
    proc_list list = { 0 };
    int fd = -1;

    if (proc_list_read(&list, tid, "fd") == 0) {
        for (size_t i = 0; i < list.n && fd < 0; i++) {
            char path[64];
            struct statx st;

            (void)snprintf(path, sizeof(path), "/proc/%d/fd/%d", tid, list.at[i]);
            if (look_up(AT_FDCWD, path, &st) && st.stx_ino == file.inode)
                fd = open_if_same(path, &file);
        }
    }
    proc_list_free(&list);
    return fd;
}

static int open_file(pid_t tid, const maps_entry *entry)
{
    char path[96];
    int fd;

    (void)snprintf(path, sizeof(path), "/proc/%d/map_files/%" PRIx64 "-%" PRIx64, tid, entry->start, entry->end);
    fd = open_if_same(path, NULL);
    if (fd < 0)
        fd = open_by_descriptor(tid, entry->file);
    if (fd < 0 && entry->name[0] == '/')
        fd = open_if_same(entry->name, &entry->file);
    return fd;
}

/* NULL: it was not opened yet. */
static const shared_file *known_file(const shared *s, maps_file file)
{
    for (uint32_t i = 0; i < s->nfiles; i++) {
        if (maps_same_file(s->files[i].file, file))
            return &s->files[i];
    }
    return NULL;
}

/* NULL: no memory. */
static const shared_file *open_new(shared *s, pid_t tid, const maps_entry *entry)
{
    shared_file *more = grow(s->files, &s->files_room, s->nfiles + 1, 16, sizeof(*more));

    if (more == NULL)
        return NULL;
    s->files = more;
    more = &s->files[s->nfiles++];
    *more = (shared_file){ .file = entry->file, .fd = open_file(tid, entry) };
    return more;
}

static int add(shared *s, pid_t pid, pid_t tid, const maps_entry *entry, world_trouble *ret)
{
    const shared_file *file;
    shared_part *parts;

    for (uint32_t i = 0; i < s->nparts; i++) {
        const shared_part *part = &s->parts[i];

        if (maps_same_file(part->file, entry->file) && part->offset <= entry->offset &&
            part->offset + part->bytes >= entry->offset + (entry->end - entry->start))
            return 0;
    }
    file = known_file(s, entry->file);
    if (file == NULL && s->closed)
        return trouble_is(ret, -EAGAIN, pid, "process %d has just mapped another file", pid);
    if (file == NULL)
        file = open_new(s, tid, entry);
    if (file == NULL)
        return trouble_is(ret, -ENOMEM, 0, "no memory");
    if (file->fd < 0)
        return trouble_is(ret, -EOPNOTSUPP, pid,
                          "process %d has shared memory that can't be opened (%.100s): that takes root or "
                          "CAP_CHECKPOINT_RESTORE",
                          pid, entry->name);
    parts = grow(s->parts, &s->parts_room, s->nparts + 1, 64, sizeof(*parts));
    if (parts == NULL)
        return trouble_is(ret, -ENOMEM, 0, "no memory");
    s->parts = parts;
    s->parts[s->nparts++] = (shared_part){ .file = entry->file,
                                           .offset = entry->offset,
                                           .bytes = entry->end - entry->start,
                                           .address = entry->start,
                                           .pid = pid };
    (void)snprintf(s->parts[s->nparts - 1].name, SHARED_NAME_BYTES, "%s", entry->name);
    return 0;
}

int shared_add(shared *s, pid_t pid, pid_t tid, const maps_entry *entry, world_trouble *ret)
{
    int r;

    (void)pthread_mutex_lock(&s->lock);
    r = add(s, pid, tid, entry, ret);
    (void)pthread_mutex_unlock(&s->lock);
    return r;
}

static int fd_of(const shared *s, const shared_part *part)
{
    const shared_file *file = known_file(s, part->file);

    return file != NULL ? file->fd : -1;
}

void shared_measure(shared *s)
{
    s->bytes = 0;
    for (uint32_t i = 0; i < s->nparts; i++) {
        struct stat st;
        uint64_t bytes = 0;

        if (fstat(fd_of(s, &s->parts[i]), &st) == 0)
            bytes = (uint64_t)st.st_blocks * 512;
        s->bytes += bytes < s->parts[i].bytes ? bytes : s->parts[i].bytes;
    }
}

int shared_look(shared *s, pages *p, words_found *w, _Atomic pid_t *ret_at)
{
    int r = 0;

    for (uint32_t i = 0; i < s->nparts && r == 0; i++) {
        const shared_part *part = &s->parts[i];
        words_range what = { .address = part->address, .pid = part->pid, .kind = WORDS_SHARED, .mapping = part->name };

        atomic_store(ret_at, part->pid);
        r = pages_look_at_file(p, w, &what, fd_of(s, part), part->offset, part->bytes);
    }
    return r;
}
