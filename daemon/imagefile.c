/*
 * Imagefile: decides whether the heap comes out of an image, loads it, and marks it.
 *
 * Called by main, when there is no heap to take over, before the daemon serves and gives up its privileges. Calls the
 * image's reader, heap/load.c and mheap_recover(). Data: the mark of the file (image/image.h).
 *
 * An image is refused if it is damaged, of another layout or base, larger than the arena, than --max-memory or than
 * what the system can spare, or, with --image, older than a heap that was lost. Nothing of it is used then, the file is
 * as it was, and the daemon does not start: an empty heap in its place is for somebody to decide (--cold-start).
 *
 * --image is marked as loaded when the heap is there, whoever keeps it has it, and the daemon can serve; the first
 * client comes after that. If the daemon dies before the mark, the image is loaded again, and nobody has written in
 * between.
 */
#include "daemon/imagefile.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "daemon/heap/load.h"
#include "daemon/heap/roots.h"
#include "daemon/log.h"
#include "daemon/memory/sysmem.h"
#include "image/imagewriter.h"
#include "shm/crash.h"

static uint64_t now_ms(clockid_t id)
{
    struct timespec ts = { 0, 0 };

    (void)clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

__attribute__((format(printf, 3, 4))) static int refuse(const char *path, int r, const char *format, ...)
{
    char text[480];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    log_event(LOG_EVENT_IMAGE_REFUSED, NULL,
              "the image %s is not loaded: %s; --cold-start begins with an empty heap", path, text);
    return r;
}

/*
 * Whether the system, and the limits, have room for what is in it. Pages that never had memory take none when they are
 * loaded, unless all is committed: a sparse heap may be larger than the machine. 0, -errno: logged.
 */
static int check_room(const options *o, const char *path, const image *im)
{
    uint64_t bytes = load_bytes(im);
    uint64_t touched = o->eager_commit ? bytes : im->header.npages * PAGE_BYTES / 20 * 21;
    sysmem mem = { 0 };
    bool has_room;

    if (o->max_memory_bytes != 0 && bytes > o->max_memory_bytes)
        return refuse(path, -ENOMEM, "its heap takes up to %" PRIu64 " MiB, and --max-memory is %" PRIu64 " MiB",
                      bytes / MIB, o->max_memory_bytes / MIB);
    sysmem_start(&mem, "");
    has_room = sysmem_has(&mem, touched, 0, now_ms(CLOCK_MONOTONIC));
    sysmem_end(&mem);
    return has_room ? 0
                    : refuse(path, -ENOMEM, "its heap takes %" PRIu64 " MiB, which the system can't spare",
                             touched / MIB);
}

/* Whether this daemon may go on with it. 0, -errno: logged. */
static int check(const options *o, const char *path, const image *im, bool is_own)
{
    if (is_own && im->mark != IMAGE_CLEAN && !o->image_stale)
        return refuse(path, -ESTALE,
                      "it is older than a heap that is lost: %s; start with --image-stale ok to load it all the same",
                      im->mark == IMAGE_COPY ? "it was saved while that was in use"
                                             : "that was served since, and ended without a save");
    if (im->header.base != o->base)
        return refuse(path, -EADDRNOTAVAIL,
                      "its objects are at 0x%" PRIx64 ", and the arena would be at 0x%" PRIx64
                      ": start with --base 0x%" PRIx64,
                      im->header.base, o->base, im->header.base);
    return check_room(o, path, im);
}

/* Load what was opened. 0, -errno: logged. */
static int load(const options *o, const char *path, const image *im, antechamber *progress, heapfile *ret_file,
                mheap *ret_heap)
{
    uint64_t began_ms = now_ms(CLOCK_MONOTONIC);
    uint64_t saved_s = im->header.saved_ms / 1000;
    uint64_t now_s = now_ms(CLOCK_REALTIME) / 1000;
    const char *what = "the spans in it are no heap's";
    roots *named;
    image_error why = { "" };
    int r;

    u64_store_relaxed(&progress->total, image_npage_blocks(im));
    r = load_image(im, o->reserve_bytes, o->eager_commit, &progress->done, ret_file, &why);
    if (r < 0)
        return refuse(path, r, "%s", why.text);
    r = mheap_recover(ret_heap, ret_file, o->memory_limit_bytes, &what);
    if (r < 0) {
        heapfile_close(ret_file);
        return refuse(path, r, "%s", r == -ENOMEM ? strerror(ENOMEM) : what);
    }
    r = roots_new(&ret_file->map, &named); /* as the server will: before somebody keeps this heap */
    if (r < 0) {
        mheap_end(ret_heap);
        heapfile_close(ret_file);
        return refuse(path, r, "%s", r == -ENOMEM ? strerror(ENOMEM) : "its named roots are none that a heap can have");
    }
    (void)roots_free(named);
    log_event(LOG_EVENT_IMAGE_LOADED, &(log_subject){ .heap = ret_file->map.header->generation },
              "the heap comes out of the image %s, saved %" PRIu64 " s ago%s: %" PRIu64 " objects with %" PRIu64
              " KiB, %" PRIu64 " roots, of heap %016" PRIx64 "; in %" PRIu64 " ms",
              path, now_s > saved_s ? now_s - saved_s : 0, im->mark == IMAGE_CLEAN ? "" : " (and older than its heap)",
              im->header.live_objects, im->header.live_bytes / KIB, im->header.nroots, im->header.generation,
              now_ms(CLOCK_MONOTONIC) - began_ms);
    return 0;
}

int imagefile_load(const options *o, antechamber *progress, heapfile *ret_file, mheap *ret_heap)
{
    bool is_own = o->load_path == NULL;
    const char *path = is_own ? o->image_path : o->load_path;
    image_error why = { "" };
    image im;
    int r;

    if (path == NULL)
        return 1;
    r = image_open(&im, path, false, &why);
    if (r == -ENOENT && is_own)
        return 1;
    if (r < 0)
        return refuse(path, r, "%s", why.text);
    r = check(o, path, &im, is_own);
    if (r == 0)
        r = load(o, path, &im, progress, ret_file, ret_heap);
    image_close(&im);
    return r;
}

int imagefile_open_mark(const options *o, int *ret_fd)
{
    image_error why = { "" };
    image im;
    int r;

    *ret_fd = -1;
    if (o->image_path == NULL)
        return 0;
    r = image_open(&im, o->image_path, true, &why);
    if (r == -ENOENT || r == -EUCLEAN)
        return 0; /* nobody loads it. One of another layout its own build would, as if nothing had been served since */
    if (r < 0) {
        log_error("the image %s can't be marked as loaded, and must not be there unmarked beside a heap that is served: "
                  "%s; move it away, or start with another --image",
                  o->image_path, why.text);
        return r;
    }
    *ret_fd = im.mark == IMAGE_CLEAN ? fcntl(im.fd, F_DUPFD_CLOEXEC, 3) : -1;
    r = im.mark == IMAGE_CLEAN && *ret_fd < 0 ? -errno : 0;
    image_close(&im);
    return r;
}

int imagefile_mark(int fd)
{
    int r = fd < 0 ? 0 : image_set_mark(fd, IMAGE_LOADED);

    if (fd >= 0)
        (void)close(fd);
    CRASH_POINT(load_after_mark);
    if (r < 0)
        log_error("the image can't be marked as loaded: %s", strerror(-r));
    return r;
}
