/*
 * Imagewriter: writes an image by the plan of imageplan.c, in several threads.
 *
 * Called by the daemon's saver and by goallocctl save. Data: the file, whose only writer this is: NAME.part is locked
 * (flock) for as long as it is written, so two that save into one place don't mix. image.h has the format.
 *
 *   1. NAME.part: opened as by its owner, locked, looked at once more (who had the lock before may have renamed it),
 *      emptied; given to its owner if it was somebody else's
 *   2. roots and spans, in the caller's thread; then pages, a block at a time in each thread: read, cleared,
 *      compressed, summed, written to the place that was next free when its length was known
 *   3. index; then header and mark, by one write. Until then zeroes stand there, which are no image
 *   4. fsync; a copy looks whether NAME is what its heap was at its end; rename to NAME; fsync of the directory
 *
 * Who has asked may give it up until the rename (stop), a signal's handler too: then NAME.part goes away, as after any
 * failure. If the process dies before the rename, NAME is as it was and NAME.part is there, which the next one
 * empties; after it NAME is the new image, whole, since all of it was on the disk. If the system goes down between the
 * rename and the directory's fsync, NAME is either of the two.
 *
 * image_set_mark() writes into a file that is there: the mark alone, one aligned word, which is synced. It takes no
 * lock: who saves there at that time renames another file into the place, and that one has a mark of its own.
 */
#include "image/imagewriter.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>
#include <zstd.h>

#include "image/imageio.h"
#include "shm/crash.h"

#define THREADS_MAX IMAGE_THREADS_MAX
#define TABLE_BYTES (UINT32_C(1) << 20) /* of roots or spans in a block */

typedef struct owner {
    uid_t uid;
    gid_t gid;
} owner;

typedef struct writer {
    const image_plan *plan;
    const image_source *heap;
    const image_writing *how;
    int fd;
    image_entry *entries;
    uint32_t ntables; /* entries before those of pages */
    pthread_mutex_t lock;
    uint64_t next_off; /* under it: the file's end so far, */
    uint32_t next;     /* the block of pages that nobody has begun, */
    int failed;        /* and a -errno; others end then, too */
} writer;

static uint64_t now_ns(clockid_t id)
{
    struct timespec ts = { 0, 0 };

    (void)clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* --- blocks --- */

/* What a thread works with. */
typedef struct bench {
    char *raw;
    char *packed;
    size_t packed_bytes;
    ZSTD_CCtx *zstd;
} bench;

static void bench_free(bench *b)
{
    free(b->raw);
    free(b->packed);
    (void)ZSTD_freeCCtx(b->zstd);
}

static int bench_make(bench *b, const image_writing *how)
{
    *b = (bench){ .packed_bytes = ZSTD_compressBound(IMAGE_RAW_MAX) };
    b->raw = malloc(IMAGE_RAW_MAX);
    if (how->level > 0) {
        b->packed = malloc(b->packed_bytes);
        b->zstd = ZSTD_createCCtx();
    }
    if (b->raw != NULL && (how->level == 0 || (b->packed != NULL && b->zstd != NULL)))
        return 0;
    bench_free(b);
    return -ENOMEM;
}

static bool is_given_up(const image_writing *how)
{
    return how->stop != NULL && u32_load_acquire(how->stop) != 0;
}

/* Store a block, and say in *entry where. 0, -errno. */
static int put_block(writer *w, bench *b, enum image_kind kind, const char *raw, uint32_t raw_bytes, image_entry *entry)
{
    const char *stored = raw;
    uint32_t n = raw_bytes;

    if (is_given_up(w->how))
        return -ECANCELED;
    if (w->how->level > 0) {
        size_t packed = ZSTD_compressCCtx(b->zstd, b->packed, b->packed_bytes, raw, raw_bytes, w->how->level);

        if (ZSTD_isError(packed) == 0 && packed < raw_bytes) {
            stored = b->packed;
            n = (uint32_t)packed;
        }
    }
    *entry = (image_entry){ .checksum = XXH3_64bits(stored, n), .stored_bytes = n,
                            .raw_bytes = raw_bytes, .kind = kind };
    (void)pthread_mutex_lock(&w->lock);
    entry->off = w->next_off;
    w->next_off += n;
    (void)pthread_mutex_unlock(&w->lock);
    return image_write_all(w->fd, stored, n, entry->off);
}

/* The extents of block i and the content of their pages. */
static int put_pages(writer *w, bench *b, uint32_t i)
{
    const image_block *block = &w->plan->blocks[i];
    uint32_t n = block->to - block->from;
    uint32_t content = image_content_off(n);
    image_extents *head = (image_extents *)(void *)b->raw;
    int r;

    memset(b->raw, 0, content);
    head->n = n;
    head->ncontent = block->ncontent;
    memcpy(head->extents, &w->plan->extents[block->from], n * sizeof(image_extent));
    r = image_plan_read(w->plan, w->heap, i, b->raw + content);
    if (r < 0)
        return r;
    image_plan_clear(w->plan, i, b->raw + content);
    return put_block(w, b, IMAGE_PAGES, b->raw, content + block->ncontent * (uint32_t)PAGE_BYTES,
                     &w->entries[w->ntables + i]);
}

/* The next block of pages. False: there is none, or somebody has failed (r too). */
static bool take_block(writer *w, int r, uint32_t *ret)
{
    (void)pthread_mutex_lock(&w->lock);
    if (r < 0)
        w->failed = r;
    *ret = w->failed < 0 ? w->plan->nblocks : w->next++;
    (void)pthread_mutex_unlock(&w->lock);
    return *ret < w->plan->nblocks;
}

static void *write_pages(void *data)
{
    writer *w = data;
    bench b;
    int r = bench_make(&b, w->how);
    bool made = r == 0;
    uint32_t i;

    while (take_block(w, r, &i)) {
        r = put_pages(w, &b, i);
        CRASH_POINT(image_after_block);
        if (w->how->ndone != NULL)
            u64_add_relaxed(w->how->ndone, 1);
    }
    if (made)
        bench_free(&b);
    return NULL;
}

/* All pages, by the calling thread and others. */
static int put_all_pages(writer *w)
{
    pthread_t threads[THREADS_MAX];
    unsigned n = image_threads(w->how->nthreads, w->plan->nblocks);
    unsigned started = 0;

    while (started + 1 < n && pthread_create(&threads[started], NULL, write_pages, w) == 0)
        started++;
    (void)write_pages(w);
    for (unsigned i = 0; i < started; i++)
        (void)pthread_join(threads[i], NULL);
    return w->failed;
}

/* Blocks of roots: whole ones. 0, -errno. */
static int put_roots(writer *w, bench *b)
{
    const image_plan *plan = w->plan;
    int r = 0;

    for (size_t at = 0, end; at < plan->roots_bytes && r == 0; at = end) {
        for (end = at; end < plan->roots_bytes;) {
            image_root root;
            size_t n;

            memcpy(&root, plan->roots + end, sizeof(root));
            n = sizeof(root) + image_name_room(root.name_bytes);
            if (end + n - at > TABLE_BYTES)
                break;
            end += n;
        }
        r = put_block(w, b, IMAGE_ROOTS, plan->roots + at, (uint32_t)(end - at), &w->entries[w->ntables++]);
    }
    return r;
}

static int put_spans(writer *w, bench *b)
{
    const image_spans *s = &w->plan->spans;
    int r = 0;

    for (uint32_t i = 0; i < s->n && r == 0;) {
        uint32_t n = 0;

        while (i < s->n && n + sizeof(image_span) + IMAGE_SPAN_WORDS * 8 <= TABLE_BYTES) {
            uint32_t bits = (s->word_at[i + 1] - s->word_at[i]) * 8;

            memcpy(b->raw + n, &s->spans[i], sizeof(image_span));
            memcpy(b->raw + n + sizeof(image_span), image_span_bits(s, i), bits);
            n += (uint32_t)sizeof(image_span) + bits;
            i++;
        }
        r = put_block(w, b, IMAGE_SPANS, b->raw, n, &w->entries[w->ntables++]);
    }
    return r;
}

static int put_tables(writer *w)
{
    bench b;
    int r = bench_make(&b, w->how);

    if (r < 0)
        return r;
    r = put_roots(w, &b);
    if (r == 0)
        r = put_spans(w, &b);
    bench_free(&b);
    return r;
}

/* --- the file --- */

static uint64_t entries_max(const image_plan *plan)
{
    uint64_t tables = plan->roots_bytes / (TABLE_BYTES / 2) + 1 +
                      (plan->spans.n * sizeof(image_span) + plan->spans.nwords * UINT64_C(8)) / (TABLE_BYTES / 2) + 1;

    return tables + plan->nblocks;
}

/* Index, header and mark: what makes a file of blocks an image. */
static int put_header(writer *w, image_written *ret)
{
    image_header h = w->plan->header;
    uint64_t index_bytes;
    char page[IMAGE_BLOCKS_OFF] = { 0 };
    int r;

    h.nblocks = w->ntables + w->plan->nblocks;
    index_bytes = h.nblocks * sizeof(image_entry);
    h.saved_ms = now_ns(CLOCK_REALTIME) / 1000000;
    h.index_off = w->next_off;
    h.file_bytes = ret->file_bytes = w->next_off + index_bytes;
    h.index_checksum = XXH3_64bits(w->entries, index_bytes);
    (void)snprintf(h.version, sizeof(h.version), "%s", GOALLOC_VERSION);
    h.checksum = XXH3_64bits(&h, offsetof(image_header, checksum));
    r = image_write_all(w->fd, w->entries, index_bytes, h.index_off);
    if (r < 0)
        return r;
    memcpy(page, &h, sizeof(h));
    memcpy(page + IMAGE_MARK_OFF, &w->how->mark, sizeof(w->how->mark));
    return image_write_all(w->fd, page, sizeof(page), 0);
}

static int fill_file(writer *w, image_written *ret)
{
    int r = put_tables(w);

    if (r == 0)
        r = put_all_pages(w);
    CRASH_POINT(image_before_header);
    return r == 0 ? put_header(w, ret) : r;
}

static const char *type_text(mode_t mode)
{
    return S_ISDIR(mode)    ? "a directory"
           : S_ISLNK(mode)  ? "a symbolic link; give the path of what it points to"
           : S_ISFIFO(mode) ? "a fifo"
           : S_ISSOCK(mode) ? "a socket"
                            : "a device";
}

/* Whether what has that name may be replaced, or is not there. */
static int check_name(int dir_fd, const char *name, image_error *why)
{
    const char *slash = strrchr(name, '/');
    struct stat st;

    if (*(slash != NULL ? slash + 1 : name) == '\0')
        return image_fail(why, -EINVAL, "it is no name of a file");
    if (strlen(name) + sizeof(".part") > IMAGE_PATH_BYTES)
        return image_fail(why, -ENAMETOOLONG, "the path is too long");
    if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && !S_ISREG(st.st_mode))
        return image_fail(why, S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL, "it is %s", type_text(st.st_mode));
    return 0;
}

/* Whether files can be made in it. 0, -errno. */
static int check_dir(int dir_fd, const char *dir)
{
    struct stat st;

    if (fstatat(dir_fd, dir, &st, 0) < 0)
        return -errno;
    if (!S_ISDIR(st.st_mode))
        return -ENOTDIR;
    return faccessat(dir_fd, dir, W_OK | X_OK, AT_EACCESS) < 0 ? -errno : 0;
}

int image_check_place(int dir_fd, const char *name, image_error *why)
{
    char dir[IMAGE_PATH_BYTES];
    int r = check_name(dir_fd, name, why);

    if (r < 0)
        return r;
    image_dir_of(name, dir);
    r = check_dir(dir_fd, dir);
    return r < 0 ? image_fail(why, r, "directory %s: %s", dir, strerror(-r)) : 0;
}

/*
 * Whose a file of that name is to be. What root saves into a daemon's directory is the daemon's, which loads it and
 * saves there itself: the owner of both directory and NAME, or of a directory that nobody else may look into.
 */
static owner owner_of(int dir_fd, const char *name, const image_writing *how)
{
    const owner own = { geteuid(), (gid_t)-1 };
    char dir[IMAGE_PATH_BYTES];
    struct stat d;
    struct stat was;

    image_dir_of(name, dir);
    if (how->mark != IMAGE_COPY || own.uid != 0 || fstatat(dir_fd, dir, &d, 0) < 0)
        return own;
    if (fstatat(dir_fd, name, &was, AT_SYMLINK_NOFOLLOW) == 0)
        return S_ISREG(was.st_mode) && was.st_uid == d.st_uid ? (owner){ was.st_uid, was.st_gid } : own;
    return (d.st_mode & 077) == 0 ? (owner){ d.st_uid, d.st_gid } : own;
}

/* Lock and empty it. 0; 1: it has been renamed since it was opened, and is an image now; -EBUSY, -errno. */
static int take_part(int dir_fd, const char *part, int fd, const owner *whose, const image_writing *how)
{
    struct stat mine;
    struct stat there;

    if (fstat(fd, &mine) < 0 || (S_ISREG(mine.st_mode) && flock(fd, LOCK_EX | (how->waits ? 0 : LOCK_NB)) < 0))
        return errno == EWOULDBLOCK ? -EBUSY : -errno;
    if (!S_ISREG(mine.st_mode))
        return -EINVAL;
    if (fstatat(dir_fd, part, &there, AT_SYMLINK_NOFOLLOW) < 0 || there.st_ino != mine.st_ino ||
        there.st_dev != mine.st_dev)
        return 1;
    /* Another user may have it open, or by another name. */
    if ((mine.st_uid != geteuid() && mine.st_uid != whose->uid) || mine.st_nlink != 1)
        return -EPERM;
    if (ftruncate(fd, 0) < 0 || fchmod(fd, 0600) < 0)
        return -errno;
    return whose->uid != mine.st_uid && fchown(fd, whose->uid, whose->gid) < 0 ? -errno : 0;
}

/*
 * NAME.part, opened as by its owner. Who makes it and dies right after that leaves one that its owner can open. One
 * that the owner can't open is opened as by the caller, to be handed over or refused.
 */
static int open_as_owner(int dir_fd, const char *part, const owner *whose)
{
    const int flags = O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK;
    bool is_other = whose->uid != geteuid();
    int fd;
    int r;

    if (is_other) {
        (void)setfsgid(whose->gid);
        (void)setfsuid(whose->uid);
    }
    fd = openat(dir_fd, part, flags, 0600);
    r = fd < 0 ? -errno : fd;
    if (is_other) { /* of this thread alone */
        (void)setfsuid(geteuid());
        (void)setfsgid(getegid());
    }
    if (r == -EACCES && is_other) {
        fd = openat(dir_fd, part, flags, 0600);
        r = fd < 0 ? -errno : fd;
    }
    return r;
}

/* NAME.part, locked, empty, and of its owner. A descriptor; -EBUSY: somebody else saves there; -errno. */
static int open_part(int dir_fd, const char *part, const owner *whose, const image_writing *how)
{
    for (int i = 0; i < 100; i++) {
        int fd = open_as_owner(dir_fd, part, whose);
        int r;

        if (fd < 0)
            return fd;
        CRASH_POINT(image_after_part);
        r = take_part(dir_fd, part, fd, whose, how);
        if (r == 0)
            return fd;
        (void)close(fd);
        if (r < 0)
            return r;
    }
    return -EBUSY;
}

/*
 * True if the heap of that generation has ended, and NAME is what it was then: a copy that was taken before, and is
 * written late, must not take its place. Who has the lock of NAME.part finds it so until its own rename. A heap that
 * was saved at a stop and goes on all the same, since its daemon was killed before it ended it, counts as ended: its
 * copies have to go to another place until the next stop.
 */
static bool has_ended_with(int dir_fd, const char *name, uint64_t generation)
{
    int fd = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    image_header h;
    uint64_t mark;
    bool ended = fd >= 0 && pread(fd, &h, sizeof(h), 0) == (ssize_t)sizeof(h) &&
                 pread(fd, &mark, sizeof(mark), IMAGE_MARK_OFF) == (ssize_t)sizeof(mark) &&
                 memcmp(h.magic, IMAGE_MAGIC, sizeof(h.magic)) == 0 && h.generation == generation &&
                 (mark == IMAGE_CLEAN || mark == IMAGE_LOADED);

    if (fd >= 0)
        (void)close(fd);
    return ended;
}

/* The directory that the name lies in, synced, so that the rename outlasts the system. */
static int sync_dir(int dir_fd, const char *name)
{
    char dir[IMAGE_PATH_BYTES];
    int fd;
    int r;

    image_dir_of(name, dir);
    fd = openat(dir_fd, dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    r = fsync(fd) < 0 && errno != EINVAL && errno != EROFS ? -errno : 0;
    (void)close(fd);
    return r;
}

int image_save(int dir_fd, const char *name, const image_plan *plan, const image_source *heap,
               const image_writing *how, image_written *ret, image_error *why)
{
    writer w = { .plan = plan, .heap = heap, .how = how, .next_off = IMAGE_BLOCKS_OFF,
                 .lock = PTHREAD_MUTEX_INITIALIZER };
    uint64_t began_ns = now_ns(CLOCK_MONOTONIC);
    const owner whose = owner_of(dir_fd, name, how);
    char part[IMAGE_PATH_BYTES];
    const char *what = "written";
    bool late = false;
    int r;

    r = check_name(dir_fd, name, why);
    if (r < 0)
        return r;
    (void)snprintf(part, sizeof(part), "%s.part", name);
    w.fd = open_part(dir_fd, part, &whose, how);
    if (w.fd < 0)
        return image_fail(why, w.fd, "%s can't be written: %s", part,
                          w.fd == -EBUSY   ? "another process is saving there"
                          : w.fd == -EPERM ? "it is another user's, or has another name"
                                           : strerror(-w.fd));
    w.entries = calloc(entries_max(plan), sizeof(image_entry));
    r = w.entries == NULL ? -ENOMEM : fill_file(&w, ret);
    CRASH_POINT(image_before_sync);
    if (r == 0 && fsync(w.fd) < 0)
        r = -errno;
    if (r == 0 && is_given_up(how)) /* the sync may have taken long */
        r = -ECANCELED;
    CRASH_POINT(image_before_rename);
    late = r == 0 && how->mark == IMAGE_COPY && has_ended_with(dir_fd, name, plan->header.generation);
    if (late)
        r = -ESTALE;
    if (r == 0) {
        r = renameat(dir_fd, part, dir_fd, name) < 0 ? -errno : 0;
        what = "renamed";
    }
    ret->in_place = r == 0;
    if (r < 0)
        (void)unlinkat(dir_fd, part, 0);
    CRASH_POINT(image_after_rename);
    if (r == 0)
        r = sync_dir(dir_fd, name);
    (void)close(w.fd);
    free(w.entries);
    ret->took_ns = now_ns(CLOCK_MONOTONIC) - began_ns;
    if (late)
        return image_fail(why, r, "the heap has ended, and was saved into %s then: this copy is older", name);
    if (r < 0 && ret->in_place)
        return image_fail(why, r,
                          "it is in place there, but its directory can't be synced (%s): after a power cut what was "
                          "there before may be back", strerror(-r));
    return r < 0 ? image_fail(why, r, "%s can't be %s: %s", part, what, strerror(-r)) : 0;
}

int image_set_mark(int fd, uint64_t mark)
{
    int r = image_write_all(fd, &mark, sizeof(mark), IMAGE_MARK_OFF);

    if (r == 0 && fdatasync(fd) < 0)
        r = -errno;
    return r;
}
